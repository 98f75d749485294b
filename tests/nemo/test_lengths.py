"""The tokens per sample that the planner reckons with are those of NeMo's batches."""

import random
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from neva_pretrain.model import catalog
from neva_pretrain.model.catalog import Model
from neva_pretrain.plan.candidate import PADDING
from tests.chart import helm
from tests.chart.test_hydra import preset
from tests.nemo import tiny
from tests.nemo.judge import ask

pytestmark = [pytest.mark.nemo, pytest.mark.helm]


def inputs(model: Model, folder: Path) -> dict[str, Any]:
    """Write a tiny tokenizer, image processor and image for a model of the catalog; return values that name them."""
    if model.tokenizer_library == "huggingface":
        tiny.write_llama_3(folder / "tokenizer")
    else:
        (folder / "tokenizer").write_bytes(tiny.sentencepieces())
    write_encoder(model, folder)
    (folder / "data" / "images").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(folder / "data" / "images" / "a.jpg")
    values = preset(model.name)
    values["model"] |= {
        "llmPath": str(folder),
        "tokenizer": str(folder / "tokenizer"),
        "visionEncoderPath": str(folder / "encoder"),
    }
    values["data"] = {"path": str(folder / "data"), "images": "images"}
    values["storage"] = {"models": {"mountPath": str(folder)}, "datasets": {"mountPath": str(folder / "data")}}
    return values


def rendered(values: dict[str, Any], folder: Path) -> str:
    """Render a configuration into a folder; return its path."""
    (folder / "neva_pretrain.yaml").write_text(helm.config_data(helm.render(values))["neva_pretrain.yaml"])
    return str(folder / "neva_pretrain.yaml")


def write_encoder(model: Model, folder: Path) -> dict[str, Any]:
    """Write the image processor of a model; return what of the configuration depends on it."""
    side, patch = model.vision.image_size, model.vision.patch_size
    path = folder / "encoder"
    write = tiny.write_clip if model.vision.name.startswith("clip") else tiny.write_siglip
    write(path, side)
    encoder = {"from_pretrained": str(path), "crop_size": [side, side], "patch_dim": patch}
    return {"mm_cfg": {"mm_mlp_adapter_type": model.projector, "vision_encoder": encoder}}


def captioned(caption: str) -> dict[str, Any]:
    """Return a sample."""
    turns = [("human", "Describe the image.\n<image>"), ("gpt", caption)]
    return {"image": "a.jpg", "conversations": [{"from": who, "value": said} for who, said in turns]}


def caption(words: int) -> str:
    """Return a caption of about so many tokens."""
    return " a" * words


@pytest.mark.parametrize("name", catalog.names())
def test_every_model_of_the_catalog(tmp_path: Path, name: str) -> None:
    """An image's tokens are exactly those of the catalog, and a usual caption is within its tokensPerSample."""
    model = catalog.get(name)
    config = rendered(inputs(model, tmp_path), tmp_path)
    batches = [[captioned(caption(words)) for _ in range(2)] for words in (0, 10)]
    short, usual = ask("batches", config=config, over={}, batches=batches, patches=model.image_tokens)
    assert short["seen"] == usual["seen"] == [model.image_tokens] * 2
    assert short["length"] <= usual["length"] <= model.tokens_per_sample
    assert short["length"] % PADDING == 0


def test_random_images_and_captions(tmp_path: Path) -> None:
    """The longest sample of a micro batch, in steps of 64: an image, the tokenizer's first space, the caption."""
    base, chance = catalog.get("llama2_7b_chat"), random.Random(0)  # noqa: S311 - not a secret
    config = rendered(inputs(base, tmp_path), tmp_path)
    for case in range(30):
        patch = chance.choice((14, 16, 32))
        vision = replace(
            base.vision, image_size=patch * chance.randint(2, 24) + chance.randrange(patch), patch_size=patch
        )
        model = replace(base, vision=vision, projector=chance.choice(("linear", "mlp2x_gelu", "mlp_downsample")))
        longest = 64 * chance.randint(ceil((model.image_tokens + 1) / 64), 16)
        over = {"encoder_seq_length": longest, **write_encoder(model, tmp_path / str(case))}
        words = [[chance.randrange(150) for _ in range(chance.choice((1, 4)))] for _ in range(5)]
        batches = [[captioned(caption(n)) for n in batch] for batch in words]
        made = ask("batches", config=config, over=over, batches=batches, patches=model.image_tokens)
        for batch, one in zip(words, made, strict=True):
            assert one["seen"] == [model.image_tokens] * len(batch), (model, batch)
            tokens = min(1 + model.image_tokens + max(batch), longest)
            assert one["length"] == ceil(tokens / PADDING) * PADDING, (model, batch)
