"""A NeMo checkpoint: what is inside a .nemo file or a folder, without its weights."""

import itertools
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from neva_pod.findings import ProblemError, brief, gib, show, some
from neva_pod.inputs.files import denied, is_lfs_pointer, lfs_pointer, open_file, raised
from neva_pod.inputs.tar import TarStore

CONFIG = "model_config.yaml"
SMALL = 2**18
"""No configuration and no description of one tensor is larger (bytes); NeMo's have 6 KB."""
RANKS = 2**16
"""No checkpoint is split for more ranks."""
CONVERT = "copy or convert the checkpoint again"


class FolderStore:
    """The files below a folder; links are followed, each folder once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        seen: set[tuple[int, int]] = set()
        for place, inner, names in os.walk(path, onerror=raised, followlinks=True):
            found = os.stat(place)
            if (found.st_dev, found.st_ino) in seen:
                inner.clear()
                continue
            seen.add((found.st_dev, found.st_ino))
            prefix = os.path.relpath(place, path) + "/"
            for name in names:
                relative = (prefix + name).removeprefix("./")
                status = os.stat(os.path.join(place, name))
                if not stat.S_ISREG(status.st_mode):
                    raise ProblemError(f"{show(os.path.join(place, name))}: is not a file", "copy the checkpoint again")
                self.sizes[relative] = status.st_size

    def open(self, name: str) -> BinaryIO:
        """Open one file."""
        return open_file(os.path.join(self._path, name))


Store = TarStore | FolderStore


def read_whole(store: Store, name: str, limit: int) -> bytes:
    """Read a file of a checkpoint that should be small."""
    with store.open(name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ProblemError(f"{show(name)} has more than {gib(limit)}: it is not what its name says", CONVERT)
    return content


def small_json(store: Store, name: str) -> Any:
    """Read a small JSON file of a checkpoint, in UTF-8: json itself takes UTF-16 from bytes, NeMo does not."""
    try:
        return json.loads(read_whole(store, name, SMALL).decode())
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{show(name)} is not JSON: {brief(str(error))}", CONVERT) from None


@dataclass(frozen=True)
class Checkpoint:
    """A NeMo checkpoint, by what is inside it.

    ``model_weights/`` with metadata.json is distributed and loads at any TP and PP;
    ``mp_rank_00/``, ``tp_rank_00_pp_rank_000/`` or a single ``model_weights.ckpt`` are split for
    one TP and PP. Source: NeMo r2.0.0rc1, nlp_overrides.NLPSaveRestoreConnector and
    model_utils.inject_model_parallel_rank.
    """

    path: str
    is_file: bool
    store: Store
    config: Mapping[str, Any] | None
    backend: str
    ranks: Mapping[tuple[int, int], str]
    """Files of a legacy one, by TP and PP rank."""

    @property
    def tensor_parallel(self) -> int:
        """Return the TP that a legacy one is split for."""
        return 1 + max((t for t, _ in self.ranks), default=-1)

    @property
    def pipeline_parallel(self) -> int:
        """Return the PP that a legacy one is split for."""
        return 1 + max((p for _, p in self.ranks), default=-1)

    @property
    def distributed(self) -> bool:
        """Whether it loads at any parallelism."""
        return bool(self.backend)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.store.sizes.values())

    def __str__(self) -> str:
        kind = (
            f"distributed ({self.backend})"
            if self.distributed
            else f"legacy, TP {self.tensor_parallel} PP {self.pipeline_parallel}"
        )
        return f"{kind}, {len(self.store.sizes)} files, {gib(self.size)}"


def read_checkpoint(path: str) -> Checkpoint:
    """Open a .nemo file or folder and see what it is; reads headers and small files only.

    Raises:
        ProblemError: something that NeVa could not load, with what is missing.

    """
    store: Store
    try:
        mode = os.stat(path).st_mode
        is_file = not stat.S_ISDIR(mode)
        if is_file and not stat.S_ISREG(mode):
            raise ProblemError(f"{show(path)}: is neither a file nor a folder", "name a .nemo file or its folder")
        if is_file and is_lfs_pointer(path):
            raise ProblemError.of(lfs_pointer(path))
        store = TarStore(path) if is_file else FolderStore(path)
    except OSError as error:
        raise ProblemError.of(denied(path, error)) from None
    backend, problems = _backend(store)
    ranks = {} if backend else _ranks(store)
    if not backend and not ranks:
        problems.append("no weights: neither model_weights/ with metadata.json nor mp_rank_*/model_weights.ckpt")
    if CONFIG not in store.sizes:
        problems.insert(0, f"no {CONFIG}")
    if problems:
        raise ProblemError(f"{show(path)}: {'; '.join(problems)}", _instead(store))
    return Checkpoint(path, is_file, store, _config(store), backend, ranks)


def _backend(store: Store) -> tuple[str, list[str]]:
    """Return the format of a distributed checkpoint ("" for none) and what is wrong with it."""
    if "model_weights/metadata.json" not in store.sizes:
        inside = any(n.startswith("model_weights/") for n in store.sizes)
        return "", ["model_weights/ has no metadata.json: it is incomplete"] if inside else []
    metadata = small_json(store, "model_weights/metadata.json")
    backend = str(metadata.get("sharded_backend", "")) if isinstance(metadata, dict) else ""
    names = [n for n in store.sizes if n.startswith("model_weights/")]
    complete = {
        "zarr": any(n.endswith("/.zarray") for n in names),
        "torch_dist": "model_weights/.metadata" in names and any(n.endswith(".distcp") for n in names),
    }
    if backend not in complete:
        return "", [
            f"model_weights/metadata.json names the format '{brief(backend)}'; NeMo 24.07 reads zarr and torch_dist"
        ]
    if not complete[backend]:
        return backend, [f"model_weights/ has no tensors of its format {backend}"]
    return backend, []


def _ranks(store: Store) -> dict[tuple[int, int], str]:
    """Return the files of a legacy checkpoint, by TP and PP rank."""
    if "model_weights.ckpt" in store.sizes:
        return {(0, 0): "model_weights.ckpt"}
    ranks: dict[tuple[int, int], str] = {}
    for name in store.sizes:
        match = re.fullmatch(r"(?:mp_rank_([0-9]+)|tp_rank_([0-9]+)_pp_rank_([0-9]+))/model_weights\.ckpt", name)
        if match:
            ranks[int((match[1] or match[2])[:9]), int((match[3] or "0")[:9])] = name
    tensor, pipeline = (1 + max((r[i] for r in ranks), default=0) for i in (0, 1))
    if tensor * pipeline > RANKS:
        raise ProblemError(f"its folders name TP {brief(tensor)} PP {brief(pipeline)}", "name a whole checkpoint")
    missing = [f"TP rank {t} PP rank {p}" for t in range(tensor) for p in range(pipeline) if (t, p) not in ranks]
    if ranks and missing:
        raise ProblemError(f"weights of {some(missing)} are missing", "copy or convert the checkpoint again")
    return ranks


def rank_files(tensor: int, pipeline: int) -> dict[tuple[int, int], str]:
    """Return the files of a legacy checkpoint as NeMo names them at this TP and PP."""
    if tensor * pipeline == 1:
        return {(0, 0): "model_weights.ckpt"}
    if pipeline == 1:
        return {(t, 0): f"mp_rank_{t:02d}/model_weights.ckpt" for t in range(tensor)}
    ranks = itertools.product(range(tensor), range(pipeline))
    return {(t, p): f"tp_rank_{t:02d}_pp_rank_{p:03d}/model_weights.ckpt" for t, p in ranks}


def _instead(store: Store) -> str:
    """Say what a folder that is no NeMo checkpoint looks like."""
    names = store.sizes
    if "config.json" in names and any(n.endswith((".safetensors", ".bin")) for n in names):
        return "this is a Hugging Face checkpoint: convert it (prepare.llm)"
    if "metadata.json" in names and ("common.pt" in names or ".metadata" in names):
        return "this is the model_weights folder itself: name the folder above it"
    if any(n.startswith("context/") for n in names):
        return "this is a NeMo 2 checkpoint: convert again with the 24.07 container's scripts"
    return "complete its conversion (prepare.llm), or name the right folder in model.checkpoint"


def _config(store: Store) -> Mapping[str, Any] | None:
    try:
        import yaml
    except ImportError:
        return None

    class Loader(yaml.SafeLoader):
        """A loader that repeats no tree, as no configuration of NeMo's does: it could become one of any size."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                node = self.anchors.get(self.peek_event().anchor)  # type: ignore[no-untyped-call]
                if not isinstance(node, yaml.ScalarNode):
                    raise ValueError("a tree is repeated by an alias")
            return super().compose_node(parent, index)

    try:
        parsed = yaml.load(read_whole(store, CONFIG, SMALL), Loader=Loader)  # noqa: S506 (a safe loader)
    # PyYAML's constructors meet a tag's text unprepared: !!bool foo is a KeyError, !!float "" an IndexError.
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        raise ProblemError(f"{CONFIG} is not YAML: {brief(' '.join(str(error).split()))}", CONVERT) from None
    if not isinstance(parsed, dict):
        raise ProblemError(f"{CONFIG} is not a YAML mapping", CONVERT)
    return parsed
