"""The language model: checked, and converted or unpacked into what the run loads."""

import os
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from neva_pod.findings import ProblemError, show
from neva_pod.inputs.checkpoint import CONFIG, Checkpoint, FolderStore, read_checkpoint
from neva_pod.inputs.files import inside
from neva_pod.inputs.megatron import Model
from neva_pod.inputs.tar import TarStore
from neva_pod.inputs.whole import folder_problems
from neva_pod.preflight.checks.checkpoint import config_problems, layout_problems, llm_problems
from neva_pod.prepare.blocks import Chunk
from neva_pod.prepare.distributed import write_distributed
from neva_pod.prepare.errors import reading, say, stop_at, unwritten
from neva_pod.prepare.hub import fetched, model_files
from neva_pod.prepare.huggingface import chunks_of_folder, megatron_config, read_config
from neva_pod.prepare.legacy import chunks_of_ranks
from neva_pod.prepare.publish import (
    Meter,
    beside,
    chunks_of,
    copy_file,
    exists,
    fresh,
    make_parent,
    need_file,
    need_space,
    publish,
    remove,
    size_below,
    write,
)
from neva_pod.prepare.steps import Step, source_of
from neva_pod.settings import Settings

WEIGHTS = "model_weights"
"""The folder of a distributed checkpoint's tensors; a legacy one has files of ranks."""


def opened(path: str) -> Checkpoint:
    """Open a checkpoint."""
    with reading(path):
        return read_checkpoint(path)


def _check(settings: Settings) -> str:
    found = opened(settings.text("model.checkpointPath"))
    stop_at(layout_problems(settings, found))
    return f"{found.path}, {found}"


def _make(settings: Settings, work: str) -> str:
    """Make a distributed checkpoint, which loads at any TP and PP, of weights of any form."""
    final, source = settings.text("model.checkpointPath"), source_of(settings, "llm")
    partial = beside(final, "partial")
    remove(partial)
    if not os.path.isfile(source) and not exists(source, CONFIG):
        from_huggingface(settings, fetched(settings, "llm", work, model_files), partial)
    else:
        found = opened(source)
        if found.distributed:
            say("llm: distributed, loads at any TP and PP: not converted")
            return _keep(settings, found, final)
        from_legacy(settings, found, work, partial)
    problems = folder_problems(os.path.join(partial, WEIGHTS))
    if problems:
        raise ProblemError(f"{show(partial)}: {problems[0]}", "run prepare again; check the volume if it happens again")
    made = str(opened(partial))
    if not settings.flag("prepare.llm.unpack", True):
        packed = os.path.join(work, "packed.nemo")
        pack(partial, packed)
        remove(partial)
        partial = packed
    publish(partial, final)
    return f"made {final}: {made}"


LLM = Step(_check, lambda _: model_files, _make)


def from_huggingface(settings: Settings, source: str, target: str) -> None:
    """Convert a folder of the hub's form."""
    with reading(source):
        config = read_config(source)
        ours, where = megatron_config(config), os.path.join(source, "config.json")
        model = _model(settings, ours, f"{show(where)}, in NeMo's names")
        chunks = list(chunks_of_folder(source, config, model))
    import yaml

    text = yaml.safe_dump({k: v for k, v in ours.items() if v is not None}, sort_keys=False)
    os.makedirs(target)
    write(os.path.join(target, CONFIG), [text.encode()])
    _write(settings, target, chunks, model)


def from_legacy(settings: Settings, found: Checkpoint, work: str, target: str) -> None:
    """Join the ranks of a legacy checkpoint; what else it has is copied."""
    if found.config is None:
        raise ProblemError(f"PyYAML is not installed: {CONFIG} cannot be read", "use the NeMo image")
    model = _model(settings, found.config, f"{show(found.path)}: {CONFIG}")
    with fresh(os.path.join(work, "unpacked")) as folder:
        path = found.path
        if found.is_file:
            path = os.path.join(folder, "nemo")
            unpack(path=found.path, folder=path)
        with reading(path):
            chunks = list(chunks_of_ranks(path, found, model))
        unpack(path, target, without=frozenset(found.ranks.values()))
        _write(settings, target, chunks, model)


def _model(settings: Settings, config: Mapping[str, Any], where: str) -> Model:
    """Compare a source with the run, before it is converted; return what it is."""
    stop_at(llm_problems(config, settings, where))
    stop_at(config_problems(config, settings.mapping("architecture"), where))
    return Model.of(config, where, gated=settings.flag("architecture.gatedMlp", True))


def _write(settings: Settings, target: str, chunks: Sequence[Chunk], model: Model) -> None:
    precision = settings.text("prepare.llm.precision", "bf16")
    write_distributed(os.path.join(target, WEIGHTS), chunks, list(model.extra_states()), precision)


def _keep(settings: Settings, found: Checkpoint, final: str) -> str:
    """Give a distributed checkpoint its final name: unpacked, unless a file is wanted."""
    partial = beside(final, "partial")
    stop_at(layout_problems(settings, found))
    if not found.is_file or settings.flag("prepare.llm.unpack", True):
        unpack(found.path, partial)
    else:
        size = os.path.getsize(found.path)
        need_space(os.path.dirname(partial), size)
        copy_file(found.path, partial, Meter("llm: copy", size))
    publish(partial, final)
    return f"made {final}: {found}"


def unpack(path: str, folder: str, without: frozenset[str] = frozenset()) -> None:
    """Copy a checkpoint's files into a new folder; of a .nemo file what :class:`TarStore` takes, all or none."""
    store = TarStore(path) if os.path.isfile(path) else FolderStore(path)
    sizes = {n: size for n, size in store.sizes.items() if n not in without}
    os.makedirs(folder)
    need_space(folder, sum(sizes.values()))
    meter = Meter("llm: unpack", sum(sizes.values()))
    for name in sizes:
        if not inside(name):
            raise ProblemError(f"{show(path)}: member {show(name)} lies outside of it", "do not use this file")
        target = os.path.join(folder, name)
        make_parent(target)
        if isinstance(store, FolderStore):
            need_file(os.path.join(path, name))
        with reading(path), store.open(name) as source:
            write(target, chunks_of(source, f"{path}: {name}", meter))


def pack(folder: str, path: str) -> None:
    """Make a .nemo file of a folder: an uncompressed tar."""
    size = size_below(folder)
    need_space(os.path.dirname(path), size)
    meter = Meter("llm: pack", size)

    def counted(member: tarfile.TarInfo) -> tarfile.TarInfo:
        meter.add(member.size)
        return member

    try:
        with tarfile.open(path, "w:") as tar:
            tar.add(folder, arcname=".", filter=counted)
    except OSError as error:
        raise unwritten(path, error) from None
