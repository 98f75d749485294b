"""NeMo's own scripts: from Hugging Face to .nemo, and from one TP and PP to another."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence

from neva_pod.findings import ProblemError, show
from neva_pod.inputs.checkpoint import CONFIG, Checkpoint, FolderStore, read_checkpoint
from neva_pod.inputs.files import inside
from neva_pod.inputs.tar import TarStore
from neva_pod.preflight.checks.checkpoint import layout_problems
from neva_pod.prepare.errors import reading, say, stop_at, unwritten
from neva_pod.prepare.publish import (
    Meter,
    chunks_of,
    exists,
    fresh,
    make_parent,
    need_file,
    need_space,
    open_text,
    publish,
    remove,
    write,
)
from neva_pod.settings import Settings

CONVERTERS = {
    "llama_2": "convert_llama_hf_to_nemo.py",
    "llama_3": "convert_llama_hf_to_nemo.py",
    "mistral": "convert_mistral_7b_hf_to_nemo.py",
    "mixtral": "convert_mixtral_hf_to_nemo.py",
}
"""Scripts of NeMo r2.0.0rc1's scripts/checkpoint_converters, by model_type."""


def opened(path: str) -> Checkpoint:
    """Open a checkpoint."""
    with reading(path):
        return read_checkpoint(path)


def converter(settings: Settings) -> str:
    """Return the path of NeMo's script for this model."""
    kind = settings.text("model.modelType")
    if kind == "mistral" and settings.integer("architecture.numExperts", 1) > 1:
        kind = "mixtral"
    if kind not in CONVERTERS:
        raise ProblemError(
            f"prepare.llm: NeMo 24.07 has no converter for model type {kind}",
            "name a .nemo file or its unpacked folder in prepare.llm.source",
        )
    nemo = settings.text("prepare.nemoPath", "/opt/NeMo")
    return os.path.join(nemo, "scripts", "checkpoint_converters", CONVERTERS[kind])


def _taken_up(done: str) -> Checkpoint | None:
    """Return what a killed run has finished, if it can still be read."""
    if os.path.exists(done):
        try:
            return opened(done)
        except ProblemError as problem:
            say(f"llm: {problem.finding.message}; recreating it")
            remove(done)
    return None


def convert(settings: Settings, source: str, work: str) -> Checkpoint:
    """Convert to .nemo, in a folder of its own: a conversion that dies leaves files that stop the next one."""
    script, done = converter(settings), os.path.join(work, "converted.nemo")
    found = _taken_up(done)
    if found:
        return found
    with fresh(os.path.join(work, "convert")) as folder:
        temporary = os.path.join(folder, "converting.nemo")
        precision = settings.text("prepare.llm.precision", "bf16")
        options = ("--input_name_or_path", source, "--output_path", temporary, "--precision", precision)
        call([sys.executable, script, *options], folder)
        opened(temporary)
        publish(temporary, done)
    return opened(done)


def repartition(settings: Settings, found: Checkpoint, source: str, work: str) -> Checkpoint:
    """Split a legacy checkpoint for this TP and PP; a distributed one loads at any."""
    tensor = settings.integer("training.tensorParallelSize")
    pipeline = settings.integer("training.pipelineParallelSize", 1)
    if found.distributed:
        say("llm: distributed, loads at any TP and PP: not repartitioned")
        return found
    if (found.tensor_parallel, found.pipeline_parallel) == (tensor, pipeline):
        return found
    done = os.path.join(work, "repartitioned.nemo")
    split = _taken_up(done)
    if split:
        return split
    with fresh(os.path.join(work, "repartition")) as folder:
        temporary = os.path.join(folder, "repartitioning.nemo")
        script = ("examples", "nlp", "language_modeling", "megatron_change_num_partitions.py")
        options = {
            "model_file": _without_sequence_parallel(found, folder),
            "target_file": temporary,
            "tensor_model_parallel_size": found.tensor_parallel,
            "target_tensor_model_parallel_size": tensor,
            "pipeline_model_parallel_size": found.pipeline_parallel,
            "target_pipeline_model_parallel_size": pipeline,
            "precision": settings.text("prepare.llm.precision", "bf16"),
        }
        if exists(source, "tokenizer.model"):  # the model's own: a .nemo file has it inside
            options["tokenizer_model_path"] = os.path.join(source, "tokenizer.model")
        command = [sys.executable, os.path.join(settings.text("prepare.nemoPath", "/opt/NeMo"), *script)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        if found.pipeline_parallel == pipeline == 1:
            command.append("--tp_conversion_only")
        call(command, folder)
        stop_at(layout_problems(settings, opened(temporary)))
        publish(temporary, done)
    return opened(done)


def _without_sequence_parallel(found: Checkpoint, folder: str) -> str:
    """Return a .nemo file whose config has sequence_parallel false, or the script throws."""
    if found.is_file and not (found.config or {}).get("sequence_parallel"):
        return found.path
    extracted, packed = os.path.join(folder, "extracted"), os.path.join(folder, "serial.nemo")
    unpack(found.path, extracted)
    config = os.path.join(extracted, CONFIG)
    text = re.sub(r"(?m)^sequence_parallel:.*$", "sequence_parallel: false", open_text(config))
    write(config, [text.encode()])
    try:
        with tarfile.open(packed, "w:") as tar:
            tar.add(extracted, arcname=".")
    except OSError as error:
        raise unwritten(packed, error) from None
    return packed


def unpack(path: str, folder: str) -> None:
    """Copy a checkpoint's files into a new folder; of a .nemo file what :class:`TarStore` takes, all or none."""
    store = TarStore(path) if os.path.isfile(path) else FolderStore(path)
    size = sum(store.sizes.values())
    os.makedirs(folder)
    need_space(folder, size)
    meter = Meter("llm: unpack", size)
    for name in store.sizes:
        if not inside(name):
            raise ProblemError(f"{show(path)}: member {show(name)} lies outside of it", "do not use this file")
        target = os.path.join(folder, name)
        make_parent(target)
        if isinstance(store, FolderStore):
            need_file(os.path.join(path, name))
        with reading(path), store.open(name) as source:
            write(target, chunks_of(source, f"{path}: {name}", meter))


def call(command: Sequence[str], folder: str) -> None:
    """Run one of NeMo's scripts in a folder that it may write into; its words go to the log."""
    say("running " + " ".join(map(show, command[1:])))
    if not os.path.exists(command[1]):
        raise ProblemError(f"{show(command[1])}: does not exist", "use the NeMo 24.07 image, or set prepare.nemoPath")
    code = subprocess.run(command, cwd=folder, check=False, preexec_fn=_end_with_prepare).returncode
    if code:
        killed = " (killed: out of memory?)" if code == -9 else ""
        raise ProblemError(
            f"{os.path.basename(command[1])} exited with code {code}{killed}",
            "see its output above; raise the memory of the prepare Job if it was killed",
        )


def _end_with_prepare() -> None:
    """Ask the kernel to kill this child with its parent: an orphaned script would keep writing."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
