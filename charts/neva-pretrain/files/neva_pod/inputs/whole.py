"""Whether a checkpoint is whole: by its sizes and indexes, never by all of its data."""

import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any, BinaryIO, Protocol

from neva_pod.findings import brief, show
from neva_pod.inputs.checkpoint import Checkpoint, Store
from neva_pod.inputs.files import INDEX, NotAFileError, inside, open_file
from neva_pod.inputs.weights import Stub, unpickle

ZIP, ZIP_END = b"PK\3\4", b"PK\5\6"
ZIP_END_SIZE = 22
"""Bytes of the record that ends a zip without a comment: torch writes none."""
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotAFileError)
"""What a damaged checkpoint may raise; any other error is the file system's, and says nothing about the checkpoint."""


Judge = Callable[[BinaryIO, int], str]
"""Says what is wrong with an open file of a size, "" for nothing."""


def file_problems(path: str, judge: Judge | None = None) -> list[str]:
    """Say what is wrong with one file, by default one of torch."""
    if os.path.islink(path) and not os.path.exists(path):
        return ["is a link to nothing"]
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            words = (judge or _zip_problem)(file, size) if size else "has 0 bytes"
    except ABSENT as error:
        words = "is missing" if isinstance(error, FileNotFoundError) else "is no file"
    return [words] if words else []


class _Place(Protocol):
    """A folder, wherever it is."""

    def names(self, folder: str = "") -> Collection[str] | None:
        """Return what is in it, or in one of its folders; None where that is none."""

    def problems(self, name: str, judge: Judge | None = None) -> list[str]:
        """Say what is wrong with one of its files, by default one of torch."""


class _Folder:
    def __init__(self, path: str) -> None:
        self._path = path

    def names(self, folder: str = "") -> Collection[str] | None:
        place = os.path.join(self._path, folder)
        return os.listdir(place) if not folder or os.path.isdir(place) else None

    def problems(self, name: str, judge: Judge | None = None) -> list[str]:
        return file_problems(os.path.join(self._path, name), judge)


class _Stored:
    """A folder of a language model's checkpoint, which may be a .nemo file."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._names: dict[str, set[str]] = {}
        for name in store.sizes:
            if name.startswith(prefix):
                first, _, rest = name[len(prefix) :].partition("/")
                self._names.setdefault("", set()).add(first)
                if rest:
                    self._names.setdefault(first, set()).add(rest.partition("/")[0])

    def names(self, folder: str = "") -> Collection[str] | None:
        return self._names.get(folder)

    def problems(self, name: str, judge: Judge | None = None) -> list[str]:
        size = self._store.sizes.get(self._prefix + name)
        if not size:
            return ["is missing" if size is None else "has 0 bytes"]
        with self._store.open(self._prefix + name) as file:
            words = (judge or _zip_problem)(file, size)
        return [words] if words else []


def folder_problems(path: str) -> list[str]:
    """Say what a distributed checkpoint lacks, of torch_dist or zarr."""
    return _distributed_problems(_Folder(path))


def weights_problems(checkpoint: Checkpoint) -> list[str]:
    """Say what a language model's checkpoint lacks."""
    if checkpoint.distributed:
        return _distributed_problems(_Stored(checkpoint.store, "model_weights/"))
    files, place = sorted(checkpoint.ranks.values()), _Stored(checkpoint.store, "")
    return [f"{show(name)} {words}" for name in files for words in place.problems(name)]


def _distributed_problems(place: _Place) -> list[str]:
    names = place.names()
    if not names:
        return ["is an empty folder"]
    described: dict[str, Any] = {}
    found = [f"metadata.json {w}" for w in place.problems("metadata.json", _read_object(described))]
    found += [f"metadata.json {w}" for w in _described_problems(described) if not found]
    found += [f"common.pt {w}" for w in place.problems("common.pt")]
    inner = {name: files for name in sorted(names) if (files := place.names(name)) is not None}
    arrays, backend = any(".zarray" in files for files in inner.values()), described.get("sharded_backend")
    if backend == "zarr" and not arrays:
        return [*found, "metadata.json names the sharded_backend zarr, but there is no .zarray"]
    if arrays and backend != "torch_dist":
        for name, files in inner.items():
            found += [f"{show(name)}{words}" for words in _array_problems(place, name, files)]
        return found
    stored: dict[str, list[tuple[int, int]]] = {}

    def read_index(file: BinaryIO, size: int) -> str:
        try:
            stored.update(_stored(file.read(min(size, INDEX))))
        except ValueError as error:
            return f"is cut or damaged ({brief(str(error))})"
        return "" if stored else "names no tensor"

    found += [f".metadata {w}" for w in place.problems(".metadata", read_index)]
    for name, ranges in sorted(stored.items()):
        found += [f"{show(name)} {w}" for w in place.problems(name, _of_ranges(ranges))]
    return found


def _read_object(into: dict[str, Any]) -> Judge:
    """Read a JSON object in UTF-8, as NeMo and tensorstore do."""

    def judge(file: BinaryIO, size: int) -> str:
        try:
            found = json.loads(file.read(min(size, INDEX)).decode())
        except (ValueError, RecursionError):
            return "is cut or damaged"
        if not isinstance(found, dict):
            return "is no JSON object"
        into.update(found)
        return ""

    return judge


def _described_problems(described: Mapping[str, Any]) -> Iterator[str]:
    """Judge what metadata.json says of the format.

    Source: megatron-core 0.8, dist_checkpointing.core.CheckpointingConfig and strategies.base.get_default_strategy.
    """
    for key, known in (("sharded_backend", ("torch_dist", "zarr")), ("common_backend", ("torch",))):
        name, version = described.get(key, "torch" if key == "common_backend" else None), f"{key}_version"
        if name not in known:
            yield f"has no {key}" if name is None else f"names the {key} {brief(name)}; must be {' or '.join(known)}"
        elif described.get(version, 1) != 1:
            yield f"names the {version} {brief(described[version])}; must be 1"


def _stored(data: bytes) -> dict[str, list[tuple[int, int]]]:
    """Return file -> (offset, length) of its tensors, as torch_dist's ``.metadata`` names them."""
    index = unpickle(data)
    entries = index.get("storage_data") if isinstance(index, Stub) else None
    if not isinstance(entries, dict):
        raise ValueError("no storage_data")
    stored: dict[str, list[tuple[int, int]]] = {}
    for entry in entries.values():
        if not isinstance(entry, Stub):
            raise ValueError("storage_data of another form")
        name, offset, length = (entry.get(key) for key in ("relative_path", "offset", "length"))
        if not isinstance(name, str) or not inside(name) or not _is_size(offset) or not _is_size(length):
            raise ValueError("storage_data of another form")
        stored.setdefault(name, []).append((offset, length))
    return stored


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _of_ranges(ranges: Sequence[tuple[int, int]]) -> Judge:
    """Judge a file of torch_dist: each tensor in it is a zip of torch."""

    def judge(file: BinaryIO, size: int) -> str:
        needed = max(offset + length for offset, length in ranges)
        if size < needed:
            return f"has {size} of {needed} bytes"
        return next((words for offset, length in ranges if (words := _hole(file, offset, length))), "")

    return judge


def _hole(file: BinaryIO, offset: int, length: int) -> str:
    """Say where zeros stand for what a machine that crashed never wrote: its file has the size, not the data."""
    file.seek(offset)
    head = file.read(min(length, len(ZIP)))
    if head == ZIP and length >= ZIP_END_SIZE:
        file.seek(offset + length - ZIP_END_SIZE)
        if file.read(len(ZIP_END)) != ZIP_END:
            return f"has no data before byte {offset + length}"
    elif len(head) == len(ZIP) and ZIP.startswith(head.rstrip(b"\0")):
        return f"has no data at byte {offset}"
    return ""


def _zip_problem(file: BinaryIO, size: int) -> str:
    """Judge what torch.save wrote: a zip, whose directory is at its end, with an index of what is in it."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            for member in members:
                file.seek(member.header_offset)
                if file.read(len(ZIP)) != ZIP:
                    return f"has no data at byte {member.header_offset}"
            return _pickle_problem(archive, members) if members else "holds nothing"
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OverflowError):
        return f"is cut or damaged ({size} bytes)"


def _pickle_problem(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> str:
    """Judge the pickle that torch loads, in the folder of the first member; it is read, never run."""
    wanted = members[0].filename.partition("/")[0] + "/data.pkl"
    found = next((member for member in members if member.filename == wanted), None)
    if not found:
        return "holds no data.pkl: torch did not write it"
    if found.file_size > INDEX:
        return ""
    try:
        with archive.open(found) as file:
            unpickle(file.read(INDEX))
    except ValueError as error:
        return f"has a damaged data.pkl ({brief(str(error))})"
    return ""


def _array_problems(place: _Place, name: str, files: Collection[str]) -> Iterator[str]:
    """Judge a folder of zarr, one for each tensor: mcore writes every chunk, uncompressed."""
    if ".zarray" not in files:
        if not files or not all(f.endswith(".pt") for f in files):
            yield " has no .zarray"
        for file in sorted(files):
            yield from (f"/{show(file)} {w}" for w in place.problems(f"{name}/{file}"))
        return
    array: dict[str, Any] = {}
    yield from (f"/.zarray {w}" for w in place.problems(f"{name}/.zarray", _read_object(array)))
    if array:
        yield from (f" {words}" for words in _chunk_problems(place, name, files, array))


def _chunk_problems(place: _Place, name: str, files: Collection[str], array: dict[str, Any]) -> Iterator[str]:
    sizes, chunks = array.get("shape"), array.get("chunks")
    if not (
        isinstance(sizes, list)
        and isinstance(chunks, list)
        and len(sizes) == len(chunks) <= 16
        and all(map(_is_size, sizes + chunks))
        and all(chunks)
    ):
        yield "has a .zarray of another form"
        return
    counts = [-(-size // chunk) for size, chunk in zip(sizes, chunks, strict=True)]
    held = sum(bool(re.fullmatch(r"[0-9]+([./][0-9]+)*", file)) for file in files)
    if prod(counts) != held and array.get("dimension_separator", ".") == ".":
        yield f"has {held} of {prod(counts)} chunks"
    item = re.fullmatch(r"[<>|][a-zA-Z]([0-9]{1,3})", str(array.get("dtype")))
    width = int(item[1]) if item else 2 if array.get("dtype") == "bfloat16" else 0
    plain = array.get("compressor") is None and not array.get("filters")
    needed = prod(chunks) * width if plain else 0
    for file in sorted(files):
        if re.fullmatch(r"[0-9]+([.][0-9]+)*", file):
            found = place.problems(f"{name}/{file}", lambda _, size: f"has {size} of {needed} bytes" * (size < needed))
            yield from (f"chunk {file} {words}" for words in found)
