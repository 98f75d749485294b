"""Make language models as the hub has them, each with the logits that transformers computes of a text in fp32.

Run where NeMo is, with a folder: it gets a model in each of `NAMES`, `clip/`, and the tokenizer in `llama/`.
"""

import random
import shutil
import sys
from pathlib import Path, PurePosixPath

import torch
from inputs import PIECES, captions, make_clip, make_llama
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, MixtralConfig

SIZES = {"vocab_size": PIECES, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
MISTRAL = {"rope_theta": 1e6, "sliding_window": None}
NEW = {
    "tied": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, **HEADS, **MISTRAL),
    "mixtral": MixtralConfig(**SIZES, **HEADS, **MISTRAL, num_local_experts=4, num_experts_per_tok=2),
}
LIKE_LLAMA = {"bin": {"safe_serialization": False}, "index": {"max_shard_size": "1MB"}}
"""The Llama in another form."""

ODD = {"code": {"where": PurePosixPath("/")}, "integers": {"model.norm.weight": torch.ones(256, dtype=torch.int32)}}
"""What is beside the tensors of .bin files, or in place of one."""


def main():
    """Make all."""
    folder, chance = Path(sys.argv[1]), random.Random(0)  # noqa: S311 - not a secret
    torch.manual_seed(0)
    make_llama(folder / "llama", captions(chance))
    make_clip(folder / "clip")
    llama = AutoModelForCausalLM.from_pretrained(folder / "llama", torch_dtype=torch.bfloat16)
    for name, options in LIKE_LLAMA.items():
        llama.save_pretrained(folder / name, **options)
    for name, config in NEW.items():
        AutoModelForCausalLM.from_config(config, torch_dtype=torch.bfloat16).save_pretrained(folder / name)
    for name, odd in ODD.items():
        shutil.copytree(folder / "bin", folder / name)
        torch.save({**llama.state_dict(), **odd}, folder / name / "pytorch_model.bin")
    tokens = torch.randint(0, PIECES, (2, 40))
    for name in ("llama", *NEW):
        model = AutoModelForCausalLM.from_pretrained(folder / name, torch_dtype=torch.float32)
        with torch.no_grad():
            torch.save({"tokens": tokens, "logits": model(tokens).logits}, folder / f"{name}.pt")


if __name__ == "__main__":
    main()
