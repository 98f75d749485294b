"""Reads what a NeVa run is given: settings, tar files, NeMo checkpoints, tokenizers; never weights.

Shared by preflight.py and prepare.py, which lie beside it. Python 3.10 and its standard library;
PyYAML where it is. Letters with numbers in comments (E02) are the failures, seen at other users,
that a line is there for.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import re
import stat
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")
SHOWN = 5
"""Items that a message lists of many."""


class Status(str, Enum):
    """Outcome of a check, and kind of a finding."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found: what, and for a problem what to do."""

    status: Status
    message: str
    fix: str = ""


class ProblemError(Exception):
    """Stops a check with one failed finding."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.finding = Finding(Status.FAILED, message, fix)


class NotPossibleError(Exception):
    """Skips a check, because what it needs was already reported by another one."""


class UsageError(Exception):
    """Wrong arguments or settings."""


def note(message: str) -> Finding:
    """Say what was found to be right."""
    return Finding(Status.OK, message)


def warning(message: str, fix: str) -> Finding:
    """Say what may be meant, but seldom is."""
    return Finding(Status.WARNING, message, fix)


def failed(message: str, fix: str) -> Finding:
    """Say what would stop or spoil the run."""
    return Finding(Status.FAILED, message, fix)


def show(text: str) -> str:
    """Return a path or other foreign text so that it stays on its line."""
    return text if text.isprintable() else json.dumps(text)


def some(items: Sequence[str]) -> str:
    """Return the first items of a list, and how many more there are."""
    rest = len(items) - SHOWN
    return ", ".join(map(show, items[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")


def brief(value: Any) -> str:
    """Return a foreign value as short JSON on one line; of a tree only its size."""
    if isinstance(value, bool | float) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return json.dumps(value[:80])[1:-1] + ("..." if len(value) > 80 else "")
    if not isinstance(value, list | tuple | dict):
        return type(value).__name__
    if isinstance(value, dict) or len(value) > 8 or any(isinstance(v, list | tuple | dict) for v in value):
        return f"a {type(value).__name__} of {len(value)}"
    return f"[{', '.join(map(brief, value))}]"


def gib(size: float) -> str:
    """Return bytes in GiB, small ones in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


# Settings


class Settings:
    """The settings file, read by dotted path; a value of the wrong type is a usage error."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def find(self, path: str) -> Any:
        """Return the value, or None where it is not given."""
        value: Any = self._data
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def _typed(self, path: str, kind: type[T], default: T | None) -> T:
        value = self.find(path)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UsageError(f"settings: {path}: got {value!r}; must be {kind.__name__}")
        return value

    def text(self, path: str, default: str | None = None) -> str:
        """Return a string."""
        return self._typed(path, str, default)

    def integer(self, path: str, default: int | None = None) -> int:
        """Return a whole number."""
        return self._typed(path, int, default)

    def flag(self, path: str, default: bool = False) -> bool:
        """Return a boolean."""
        return self._typed(path, bool, default)

    def mapping(self, path: str) -> Mapping[str, Any]:
        """Return an object, empty where it is not given."""
        return self._typed(path, dict, {})

    def texts(self, path: str) -> list[str]:
        """Return a list of strings, empty where it is not given."""
        values = self._typed(path, list, [])
        if not all(isinstance(v, str) for v in values):
            raise UsageError(f"settings: {path}: got {values!r}; must be a list of strings")
        return list(values)


def load_settings(path: str) -> Settings:
    """Read a settings file."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"settings: {show(path)}: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"settings: {show(path)}: must be a JSON object")
    return Settings(data)


class Progress:
    """A line that renews itself on a terminal; in a pod's log, a line every 15 s."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._pause = 0.2 if self._terminal else 15.0
        self._next = time.monotonic() + self._pause

    def step(self, what: str, done: int, total: int) -> None:
        """Say how far a check is."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._pause
        line = f"{what}: {done} of {total} ({100 * done // max(total, 1)} %)"
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away again."""
        if self._terminal:
            self._stream.write("\r\x1b[K")


# Files: access, tar, folders


def denied(path: str, error: OSError) -> Finding:
    """Explain a failed access: with uid, mode and the component that refuses (G01)."""
    fix = "check that the volume is mounted and the path is spelled as on the volume"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return failed(f"{show(path)}: {error.strerror or error}", fix)
    place = _refusing(path)
    try:
        found = os.stat(place)
        owner = f"uid {found.st_uid}, gid {found.st_gid}"
        mode = f"{show(place)} is {stat.filemode(found.st_mode)} of {owner}"
    except OSError as inner:
        mode = f"{show(place)}: {inner.strerror}"
    return failed(
        f"{show(path)}: permission denied as uid {os.geteuid()}, gid {os.getegid()}; {mode}",
        "give that uid access, set podSecurityContext.runAsUser, or with SELinux podSecurityContext.seLinuxOptions",
    )


def _refusing(path: str) -> str:
    """Return the first component of a path that this process may not enter, else the path."""
    parts = os.path.abspath(path).split("/")
    for end in range(1, len(parts)):
        place = "/".join(parts[:end]) or "/"
        if not os.access(place, os.X_OK, effective_ids=True):
            return place
    return path


def ancestor(path: str) -> str:
    """Return the nearest part of a path that exists."""
    while not os.path.lexists(path) and path not in ("", "/"):
        path = os.path.dirname(path)
    return path or "/"


def is_lfs_pointer(path: str) -> bool:
    """Whether a file is only git LFS's pointer to it (F03)."""
    with open(path, "rb") as file:
        return file.read(23) == b"version https://git-lfs"


def writable(path: str) -> Finding | None:
    """Write and remove a file where the path is, or would be made; return the problem."""
    place = ancestor(path)
    try:
        with tempfile.NamedTemporaryFile(prefix=".neva-preflight-", dir=place) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        if error.errno == errno.EROFS:
            return failed(
                f"{show(path)}: {show(place)} is on a read-only file system",
                "name a path on a writable volume",
            )
        return denied(place, error)
    return None


BLOCK = 512


@dataclass(frozen=True)
class Member:
    """Where the bytes of a file lie in a tar."""

    offset: int
    size: int


def tar_members(fd: int) -> dict[str, Member]:
    """List the files of an uncompressed tar by its headers alone, one read of 512 bytes for each.

    Knows ustar, GNU long names and sizes, and pax paths and sizes: what GNU tar and Python write.

    Raises:
        ProblemError: not a tar, damaged or truncated.

    """
    total, position = os.fstat(fd).st_size, 0
    members: dict[str, Member] = {}
    longer: dict[str, str] = {}
    while True:
        header = os.pread(fd, BLOCK, position)
        if header == bytes(BLOCK):
            return members
        if len(header) < BLOCK:
            raise ProblemError(
                f"the tar ends after {total} bytes without its end mark: truncated",
                "copy or convert it again",
            )
        if not _checksum_holds(header):
            what = f"is damaged at byte {position}" if position else "is not a tar (a .nemo file is one)"
            raise ProblemError(f"the file {what}", "name a .nemo file, or the folder it was unpacked into")
        kind, size, data = header[156:157], _tar_number(header[124:136]), position + BLOCK
        if kind not in b"xgLK":
            size = int(longer.get("size", size))
        if data + size > total:
            raise ProblemError(
                f"a member needs {data + size} bytes, the tar has {total}: truncated",
                "copy or convert it again",
            )
        if kind == b"L":
            longer["path"] = os.pread(fd, size, data).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == b"x":
            longer.update(_pax(os.pread(fd, size, data)))
        elif kind not in b"gK":
            name = longer.get("path") or _ustar_name(header)
            longer = {}
            if kind in (b"0", b"\0", b"7"):
                members[name[2:] if name.startswith("./") else name] = Member(data, size)
        position = data + -(-size // BLOCK) * BLOCK


def _checksum_holds(header: bytes) -> bool:
    with contextlib.suppress(ValueError):
        stored = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
        return stored == sum(header) - sum(header[148:156]) + 256
    return False


def _tar_number(digits: bytes) -> int:
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    return int(digits.split(b"\0")[0].strip() or b"0", 8)


def _ustar_name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _pax(records: bytes) -> dict[str, str]:
    found = {}
    while records:
        length = int(records.split(b" ", 1)[0])
        key, _, value = records[:length].split(b" ", 1)[1].removesuffix(b"\n").partition(b"=")
        found[key.decode()] = value.decode("utf-8", "surrogateescape")
        records = records[length:]
    return found


class Window(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, path: str, member: Member) -> None:
        self._file, self._member, self._at = open(path, "rb"), member, 0  # noqa: SIM115 (closed below)

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte of the part."""
        self._at = offset + (0, self._at, self._member.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the part."""
        wanted = max(0, min(len(buffer), self._member.size - self._at))
        data = os.pread(self._file.fileno(), wanted, self._member.offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class TarStore:
    """The files of an uncompressed tar."""

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise ProblemError(
                    f"{show(path)} is compressed with gzip: its content cannot be listed without "
                    "unpacking all of it, and each rank would unpack it again",
                    "unpack it once (mkdir DIR; tar -xzf FILE -C DIR) and set model.checkpoint to that folder",
                )
            self._members = tar_members(file.fileno())
        self.sizes = {name: m.size for name, m in self._members.items()}

    def open(self, name: str) -> BinaryIO:
        """Open one file."""
        return io.BufferedReader(Window(self._path, self._members[name]))


class FolderStore:
    """The files below a folder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        for place, _, names in os.walk(path, onerror=_raise):
            prefix = os.path.relpath(place, path) + "/"
            for name in names:
                relative = (prefix + name).removeprefix("./")
                self.sizes[relative] = os.stat(os.path.join(place, name)).st_size

    def open(self, name: str) -> BinaryIO:
        """Open one file."""
        return open(os.path.join(self._path, name), "rb")


def _raise(error: OSError) -> None:
    raise error


Store = TarStore | FolderStore


# The language model's checkpoint

CONFIG = "model_config.yaml"
SMALL = 16 * 2**20
"""No index or config that is read whole is larger (bytes)."""


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
    tensor_parallel: int
    pipeline_parallel: int
    first_rank: str

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
        ProblemError: something that NeVa could not load, with what is missing (E02).

    """
    store: Store
    try:
        is_file = not stat.S_ISDIR(os.stat(path).st_mode)
        if is_file and is_lfs_pointer(path):
            raise ProblemError(
                f"{show(path)} is a git LFS pointer, not the file",
                "run git lfs pull, or copy it again",
            )
        store = TarStore(path) if is_file else FolderStore(path)
    except OSError as error:
        found = denied(path, error)
        raise ProblemError(found.message, found.fix) from None
    backend, problems = _backend(store)
    tensor, pipeline, first = (0, 0, "") if backend else _ranks(store)
    if not backend and not first:
        problems.append("no weights: neither model_weights/ with metadata.json nor mp_rank_*/model_weights.ckpt")
    if CONFIG not in store.sizes:
        problems.insert(0, f"no {CONFIG}")
    if problems:
        raise ProblemError(f"{show(path)}: {'; '.join(problems)}", _instead(store))
    return Checkpoint(path, is_file, store, _config(store), backend, tensor, pipeline, first)


def _backend(store: Store) -> tuple[str, list[str]]:
    """Return the format of a distributed checkpoint ("" for none) and what is wrong with it."""
    if "model_weights/metadata.json" not in store.sizes:
        inside = any(n.startswith("model_weights/") for n in store.sizes)
        return "", ["model_weights/ has no metadata.json: it was not written to its end"] if inside else []
    with store.open("model_weights/metadata.json") as file:
        backend = str(json.load(file).get("sharded_backend", ""))
    names = [n for n in store.sizes if n.startswith("model_weights/")]
    complete = {
        "zarr": any(n.endswith("/.zarray") for n in names),
        "torch_dist": "model_weights/.metadata" in names and any(n.endswith(".distcp") for n in names),
    }
    if backend not in complete:
        return "", [f"model_weights/metadata.json names the format {backend!r}; NeMo 24.07 reads zarr and torch_dist"]
    if not complete[backend]:
        return backend, [f"model_weights/ has no tensors of its format {backend}"]
    return backend, []


def _ranks(store: Store) -> tuple[int, int, str]:
    """Return TP, PP and the first rank's file of a legacy checkpoint."""
    if "model_weights.ckpt" in store.sizes:
        return 1, 1, "model_weights.ckpt"
    ranks: dict[tuple[int, int], str] = {}
    for name in store.sizes:
        match = re.fullmatch(r"(?:mp_rank_(\d+)|tp_rank_(\d+)_pp_rank_(\d+))/model_weights\.ckpt", name)
        if match:
            ranks[int(match[1] or match[2] or 0), int(match[3] or 0)] = name
    if not ranks:
        return 0, 0, ""
    tensor, pipeline = (1 + max(r[i] for r in ranks) for i in (0, 1))
    missing = [f"TP rank {t} PP rank {p}" for t in range(tensor) for p in range(pipeline) if (t, p) not in ranks]
    if missing:
        raise ProblemError(f"weights of {some(missing)} are missing", "copy or convert the checkpoint again")
    return tensor, pipeline, ranks[0, 0]


def _instead(store: Store) -> str:
    """Say what a folder that is no NeMo checkpoint looks like."""
    names = store.sizes
    if "config.json" in names and any(n.endswith((".safetensors", ".bin")) for n in names):
        return "this is a Hugging Face checkpoint: convert it (prepare.llm)"
    if "metadata.json" in names and ("common.pt" in names or ".metadata" in names):
        return "this is the model_weights folder itself: name the folder above it"
    if any(n.startswith("context/") for n in names):
        return "this is a NeMo 2 checkpoint: convert again with the 24.07 container's scripts"
    return "convert it to its end (prepare.llm), or name the right folder in model.checkpoint"


def _config(store: Store) -> Mapping[str, Any] | None:
    try:
        import yaml
    except ImportError:
        return None
    with store.open(CONFIG) as file:
        parsed = yaml.safe_load(file.read(SMALL))
    if not isinstance(parsed, dict):
        raise ProblemError(f"{CONFIG} is not a YAML mapping", "convert the checkpoint again")
    return parsed


class Stub:
    """Stands for every class in a pickle that is only looked through."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take whatever the pickle gives."""

    def __setstate__(self, state: Any) -> None:
        """Keep attributes; other states do not matter."""
        if isinstance(state, dict):
            self.__dict__.update(state)


class ShapeUnpickler(pickle.Unpickler):
    """Reads names and shapes from torch's pickles, and runs nothing that they name."""

    def persistent_load(self, _: Any) -> None:
        """Leave the numbers where they are."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a stub for all but plain containers and tensors, which become their shape."""
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda _storage, _offset, size, *_rest: Shape(size)
        if name == "_rebuild_parameter":
            return lambda data, *_rest: data
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): Shape,
            ("builtins", "set"): set,
        }
        return known.get((module, name), Stub)


class Shape(tuple):  # type: ignore[type-arg]  # pickles call it as torch.Size
    """Sizes of a tensor."""

    __slots__ = ()


def weight_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Return name and shape of all tensors; of a legacy checkpoint, of the first rank's.

    Reads the index only: ``.zarray`` files, torch_dist's ``.metadata``, or data.pkl in torch's zip.
    """
    store = checkpoint.store
    if checkpoint.backend == "zarr":
        shapes = {}
        for name in store.sizes:
            if name.startswith("model_weights/") and name.endswith("/.zarray"):
                with store.open(name) as file:
                    shapes[name[len("model_weights/") : -len("/.zarray")]] = Shape(json.load(file)["shape"])
        return shapes
    if checkpoint.backend:
        with store.open("model_weights/.metadata") as file:
            tensors = ShapeUnpickler(io.BytesIO(file.read(SMALL))).load().state_dict_metadata
        return {n: t.size for n, t in tensors.items() if isinstance(getattr(t, "size", None), Shape)}
    with store.open(checkpoint.first_rank) as file, zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        with archive.open(name) as pickled:
            tensors = ShapeUnpickler(io.BytesIO(pickled.read(SMALL))).load()
    return {str(n): t for n, t in tensors.items() if isinstance(t, Shape)}


# Tokenizers

USER_DEFINED = 4
"""sentencepiece_model.proto, SentencePiece.Type."""

LLAMA_3_TOKENS = tuple(f"<|reserved_special_token_{i}|>" for i in range(8))
"""NeVa's media tokens of model_type llama_3 are among these."""


def extra_tokens(count: int) -> list[str]:
    """Return NeVa's media tokens for sentencepiece models."""
    return [f"<extra_id_{i}>" for i in range(count)]


def pieces(model: bytes) -> list[tuple[str, int]]:
    """Return text and type of a sentencepiece model's pieces; a piece's place is its id.

    Reads protobuf's wire format: field 1 of ModelProto is the pieces, of which 1 is the text and
    3 the type.

    Raises:
        ValueError: not a sentencepiece model.

    """
    found = []
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            text, kind = "", 1
            for inner, content in _fields(value):
                if inner == 1 and isinstance(content, bytes):
                    text = content.decode("utf-8")
                elif inner == 3 and isinstance(content, int):
                    kind = content
            found.append((text, kind))
    if not found:
        raise ValueError("no pieces")
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"ends within a field at byte {at}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value, at + 1
        at, shift = at + 1, shift + 7
    raise ValueError(f"bad number at byte {at}")


def read_pieces(path: str) -> list[tuple[str, int]]:
    """Read a sentencepiece model's pieces from its file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        found = denied(path, error)
        raise ProblemError(found.message, found.fix) from None
    if data.startswith(b"version https://git-lfs"):
        raise ProblemError(f"{show(path)} is a git LFS pointer, not the file", "run git lfs pull, or copy it again")
    try:
        return pieces(data)
    except ValueError as error:
        raise ProblemError(
            f"{show(path)} is not a sentencepiece model: {error}",
            "name the model's tokenizer.model",
        ) from None


def piece_problems(path: str, found: Sequence[tuple[str, int]], count: int) -> Iterator[Finding]:
    """Check that the last pieces are <extra_id_0..count-1>, in order and USER_DEFINED (E07)."""
    wanted = extra_tokens(count)
    last = found[len(found) - count :]
    by_text = dict(found)
    fix = "add them with prepare.tokenizer, or NeMo's script with --is_userdefined"
    missing = [t for t in wanted if t not in by_text]
    control = [t for t in wanted if t in by_text and by_text[t] != USER_DEFINED]
    if missing:
        yield failed(f"{show(path)}: has no pieces {some(missing)} of the {count} that NeVa needs", fix)
    if control:
        yield failed(
            f"{show(path)}: {some(control)} are not of type USER_DEFINED: text would never be cut into them",
            "start from the model's own tokenizer.model and " + fix,
        )
    if not missing and not control and [t for t, _ in last] != wanted:
        yield failed(
            f"{show(path)}: <extra_id_N> are not the last {count} pieces, so other tokens have moved to other ids",
            "start from the model's own tokenizer.model and " + fix,
        )


def huggingface_vocabulary(path: str) -> tuple[int, set[str]]:
    """Return size of a Hugging Face tokenizer's vocabulary and the names of its added tokens."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not os.path.exists(os.path.join(path, name)):
            raise ProblemError(
                f"{show(path)}: has no {name}",
                "copy the tokenizer's files from the model's repository",
            )
    data = read_json(os.path.join(path, "tokenizer.json"))
    added = data.get("added_tokens") or []
    ids = {*data.get("model", {}).get("vocab", {}).values(), *(t["id"] for t in added)}
    return max(ids, default=-1) + 1, {t["content"] for t in added}


def read_json(path: str) -> Any:
    """Read a JSON file; one that cannot be read is a problem."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        found = denied(path, error)
        raise ProblemError(found.message, found.fix) from None
    except ValueError as error:
        if is_lfs_pointer(path):
            raise ProblemError(
                f"{show(path)} is a git LFS pointer, not the file",
                "run git lfs pull, or copy it again",
            ) from None
        raise ProblemError(f"{show(path)} is not JSON: {error}", "copy it again") from None
