"""The language model: checked, converted, split and unpacked into what the run loads."""

import os
from collections.abc import Iterator

from neva_pod.findings import Finding, ProblemError, failed, show, some
from neva_pod.inputs.checkpoint import CONFIG, Checkpoint
from neva_pod.inputs.files import is_lfs_pointer, lfs_pointer, read_object
from neva_pod.preflight.checks.checkpoint import as_nemo, layout_problems, llm_problems, shape_problems
from neva_pod.prepare.convert import convert, converter, opened, repartition, unpack
from neva_pod.prepare.errors import reading, stop_at
from neva_pod.prepare.hub import fetched, model_files
from neva_pod.prepare.publish import Meter, beside, copy_file, exists, need_space, publish, remove
from neva_pod.prepare.steps import Step, source_of
from neva_pod.settings import Settings

HUGGINGFACE_NAMES = {
    "numLayers": "num_hidden_layers",
    "hiddenSize": "hidden_size",
    "ffnHiddenSize": "intermediate_size",
    "numAttentionHeads": "num_attention_heads",
    "numQueryGroups": "num_key_value_heads",
    "numExperts": "num_local_experts",
}


def _check(settings: Settings) -> str:
    found = opened(settings.text("model.checkpointPath"))
    stop_at(layout_problems(settings, found))
    return f"{found.path}, {found}"


def _make(settings: Settings, work: str) -> str:
    """Make the NeMo checkpoint for this job's TP and PP."""
    final, source = settings.text("model.checkpointPath"), source_of(settings, "llm")
    is_nemo = os.path.isfile(source) or exists(source, CONFIG)
    if not is_nemo:
        converter(settings)
        source = fetched(settings, "llm", work, model_files)
        with reading(source):
            stop_at(huggingface_problems(settings, source))
    checkpoint = opened(source) if is_nemo else convert(settings, source, work)
    checkpoint = repartition(settings, checkpoint, source, work)
    _finish(settings, checkpoint, final)
    return f"made {final}: {checkpoint}"


LLM = Step(_check, lambda _: model_files, _make)


def huggingface_problems(settings: Settings, source: str) -> Iterator[Finding]:
    """Check a Hugging Face folder before hours are spent on its conversion."""
    names = ["config.json"]
    if settings.text("model.tokenizerLibrary") == "sentencepiece":
        names.append("tokenizer.model")  # without it the converter takes another branch
    for name in names:
        path = os.path.join(source, name)
        if not os.path.exists(path):
            yield failed(
                f"{show(source)}: has no {name}; NeMo's converter needs it",
                "name a local folder with the model's whole repository",
            )
        elif is_lfs_pointer(path):
            yield lfs_pointer(path)
    yield from _huggingface_weights(source)
    config = read_object(os.path.join(source, "config.json"))
    where = f"{show(source)}/config.json"
    yield from llm_problems(as_nemo(config), settings, f"{where}, in NeMo's names")
    yield from shape_problems(where, config, HUGGINGFACE_NAMES, settings.mapping("architecture"), "source")


def _huggingface_weights(source: str) -> Iterator[Finding]:
    files = [n for n in model_files(os.listdir(source)) if n.endswith((".safetensors", ".bin"))]
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if exists(source, index) and (not files or files[0].endswith(index.split(".")[1])):
            weights = read_object(os.path.join(source, index)).get("weight_map")
            if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
                raise ProblemError(
                    f"{show(source)}/{index}: weight_map must name a file for each tensor", "copy the repository again"
                )
            files = sorted(set(weights.values()))
    missing = [n for n in files if not exists(source, n)]
    if missing or not files:
        yield failed(
            f"{show(source)}: weights are missing: {some(missing) or 'no *.safetensors, no *.bin'}",
            "copy the repository again",
        )
    for name in files:
        if name not in missing and is_lfs_pointer(os.path.join(source, name)):
            yield lfs_pointer(os.path.join(source, name))


def _finish(settings: Settings, checkpoint: Checkpoint, final: str) -> None:
    """Give the checkpoint its final name: unpacked, unless a file is wanted."""
    temporary = beside(final, "partial")
    remove(temporary)
    if not checkpoint.is_file or settings.flag("prepare.llm.unpack", True):
        unpack(checkpoint.path, temporary)
    elif os.path.dirname(checkpoint.path) == beside(final, "work"):
        temporary = checkpoint.path
    else:
        size = os.path.getsize(checkpoint.path)
        need_space(os.path.dirname(temporary), size)
        copy_file(checkpoint.path, temporary, Meter("llm: copy", size))
    publish(temporary, final)
