"""Tokenizers and image processors with the behavior of the real ones, tiny."""

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

from neva_pod.inputs.tokenizer import LLAMA_3_TOKENS
from neva_pod.prepare.tokenizer import with_extra_tokens


@cache
def sentencepieces() -> bytes:
    """Return a tokenizer that does with white space what Llama 2's does, and NeVa's pieces."""
    made = io.BytesIO()
    text = [f"a photo of {i} red cats on the table near {i * 7} dogs" for i in range(300)]
    options: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=made,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return with_extra_tokens(made.getvalue(), 8)


def write_llama_3(folder: Path) -> None:
    """Write a tokenizer of bytes with Llama 3's special tokens."""
    folder.mkdir(parents=True)
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(n) for n in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    added = [
        {"id": 256 + i, "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, token in enumerate([*special, *LLAMA_3_TOKENS])
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []}
    tokenizer = {"version": "1.0", "added_tokens": added, "pre_tokenizer": level, "decoder": level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_clip(folder: Path, side: int) -> None:
    """Write what NeMo makes an image processor of, for images of that side."""
    sizes = {"crop_size": side, "size": {"shortest_edge": side}}
    _write_encoder(folder, "clip_vision_model", "CLIPVisionModel", image_processor_type="CLIPImageProcessor", **sizes)


def write_siglip(folder: Path, side: int) -> None:
    """As write_clip, of SigLIP."""
    sizes = {"size": {"height": side, "width": side}}
    kind = "SiglipImageProcessor"
    _write_encoder(folder, "siglip_vision_model", "SiglipVisionModel", image_processor_type=kind, **sizes)


def _write_encoder(folder: Path, model_type: str, name: str, **processor: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [name]}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
