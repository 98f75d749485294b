"""Make what a run starts from, tiny, in the form of the hubs: a Llama, a CLIP, captioned images.

Run where NeMo is, with a folder: it gets `llama/`, `clip/` and `captions/`.
"""

import json
import random
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import sentencepiece
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

PIECES = 1024
"""Of the tokenizer before NeVa's are added."""
COLORS, THINGS = ("red", "green", "blue", "dark"), ("cat", "dog", "house", "tree", "car", "painting")
WORDS = ("a", "the", "of", "with", "on", "under", "large", "small", *COLORS, *THINGS)
SAMPLES = 200


def captions(chance: random.Random) -> list[str]:
    """Return captions of three to thirty words."""
    return [" ".join(chance.choices(WORDS, k=chance.randint(3, 30))) for _ in range(SAMPLES)]


def make_llama(folder: Path, texts: list[str]) -> None:
    """Two layers, grouped queries, a sentencepiece tokenizer that knows the captions and bytes."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=PIECES, **sizes, **heads, max_position_embeddings=4096, rms_norm_eps=1e-5)
    config.torch_dtype = torch.bfloat16
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    trainer = {"vocab_size": PIECES, "model_type": "bpe", "byte_fallback": True, "hard_vocab_limit": False}
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts + [f"word{i}ly{i * 7}" for i in range(4000)]), model_writer=file, **trainer
        )


def make_clip(folder: Path) -> None:
    """CLIP ViT-L/14-336's shape, with two layers."""
    sizes = {"hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=336, patch_size=14)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=336).save_pretrained(folder)


def make_captions(folder: Path, texts: list[str], chance: random.Random) -> None:
    """Annotations and an archive of JPEG files, as LLaVA-Pretrain has them."""
    folder.mkdir()
    samples = []
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number, text in enumerate(texts):
            name = f"{number % 4:05d}/{number:09d}.jpg"
            data = BytesIO()
            Image.new("RGB", (120, 90), tuple(chance.randrange(256) for _ in range(3))).save(data, "JPEG")
            archive.writestr(name, data.getvalue())
            said = [("human", "Describe the image.\n<image>"), ("gpt", text)]
            conversation = [{"from": who, "value": value} for who, value in said]
            samples.append({"id": f"{number:09d}", "image": name, "conversations": conversation})
    (folder / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(samples))


def main() -> None:
    """Make all three."""
    folder, chance = Path(sys.argv[1]), random.Random(0)  # noqa: S311 - not a secret
    torch.manual_seed(0)
    texts = captions(chance)
    make_llama(folder / "llama", texts)
    make_clip(folder / "clip")
    make_captions(folder / "captions", texts, chance)


if __name__ == "__main__":
    main()
