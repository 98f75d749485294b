"""The vision encoder."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from neva_pod.findings import Finding, ProblemError, brief, failed, note, show, skipped, some
from neva_pod.inputs.files import inside, is_lfs_pointer, lfs_pointer, read_object
from neva_pod.preflight.registry import Context, Level, check

VISION_DEFAULTS = {"clip": (224, 32, 768), "siglip": (224, 16, 768)}
"""transformers' CLIPVisionConfig and SiglipVisionConfig where config.json leaves a key out."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@check(
    Level.FULL,
    "model.visionEncoderPath",
    "vision",
    cost="reads config.json and the folder's names",
    prevents="a ValueError on all ranks after the language model was loaded; a wrong number of image tokens",
)
def check_vision(context: Context) -> Iterator[Finding]:
    """The folder holds the encoder that NeMo would build."""
    path = context.settings.text("model.visionEncoderPath")
    if not path.startswith("/"):
        yield skipped(f"{show(path)} is a hub id")
        return
    context.settings.texts("vision.architectures")
    yield from vision_problems(path, context.settings.mapping("vision"))


def vision_problems(path: str, wanted: Mapping[str, Any]) -> Iterator[Finding]:
    """Check a vision encoder's folder."""
    config = read_object(os.path.join(path, "config.json"))
    fix = "name the vision encoder of this model in model.visionEncoderPath"
    known = wanted.get("architectures") or []
    architectures = config.get("architectures") or [None]
    architecture = architectures[0] if isinstance(architectures, list) else architectures
    if known and architecture not in known:
        said = None if architecture is None else brief(architecture)
        yield failed(f"{show(path)}/config.json: architectures[0] is {said}; must be one of {', '.join(known)}", fix)
    tower = config.get("vision_config") or config
    if not isinstance(tower, dict):
        raise ProblemError(f"{show(path)}/config.json: vision_config is {brief(tower)}; must be an object", fix)
    family = "siglip" if "siglip" in brief(architecture).lower() else "clip"
    names = {"image_size": "imageSize", "patch_size": "patchSize", "hidden_size": "hiddenSize"}
    for (name, key), default in zip(names.items(), VISION_DEFAULTS[family], strict=True):
        found = tower.get(name, default)
        if key in wanted and found != wanted[key]:
            yield failed(f"{show(path)}/config.json: {name} is {brief(found)}; must be {wanted[key]}", fix)
    processor = os.path.join(path, "preprocessor_config.json")
    if os.path.exists(processor):
        read_object(processor)
    else:
        yield failed(f"{show(path)}: has no preprocessor_config.json", "copy it from the encoder's repository")
    yield from _vision_weights(path)


def _vision_weights(path: str) -> Iterator[Finding]:
    fix = "copy the weights again (prepare.vision)"
    present = [n for n in WEIGHTS if os.path.exists(os.path.join(path, n))]
    for index in (os.path.join(path, n + ".index.json") for n in WEIGHTS):
        if not present and os.path.exists(index):
            shards = read_object(index).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(n, str) and inside(n) for n in shards.values()):
                raise ProblemError(f"{show(index)}: weight_map does not name files of this folder", fix)
            present = sorted(set(shards.values()))
    if not present:
        yield failed(f"{show(path)}: has neither {' nor '.join(WEIGHTS)}", fix)
    for name in present:
        file = os.path.join(path, name)
        if not os.path.exists(file) or os.path.getsize(file) == 0:
            yield failed(f"{show(file)}: is missing or empty", fix)
        elif is_lfs_pointer(file):
            yield lfs_pointer(file, "run git lfs pull, or " + fix)
    yield note(f"weights: {some(present)}")
