"""Reads what a NeVa run is given: settings, tar files, NeMo checkpoints, tokenizers; never weights.

Letters with numbers in comments (E02) are the failures, seen at other users,
that a line is there for.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickletools
import re
import stat
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")
SHOWN = 5
"""Items that a message lists of many."""
LONG = 1000
"""Characters that a message takes of foreign text."""
LONGEST = 300
"""Characters that a message shows of one item."""


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
    text = text if len(text) <= LONG else text[:LONG] + "..."
    return text if text.isprintable() else json.dumps(text)


def some(items: Sequence[str]) -> str:
    """Return the first items of a list, and how many more there are."""
    rest = len(items) - SHOWN
    shown = [show(item if len(item) <= LONGEST else f"{item[:LONGEST]}...") for item in items[:SHOWN]]
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


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


def shown(value: Any) -> str:
    """Return a value of the settings as Python writes it, unless it is long."""
    return f"{value!r}" if isinstance(value, str) and len(value) <= 80 else brief(value)


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
            raise UsageError(f"settings: {path}: got {shown(value)}; must be {kind.__name__}")
        return value

    def text(self, path: str, default: str | None = None) -> str:
        """Return a string that a path may be made of."""
        value = self._typed(path, str, default)
        try:
            possible = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            possible = False
        if not possible:
            raise UsageError(f"settings: {path}: got {shown(value)}; must be text without NUL and lone surrogates")
        return value

    def integer(self, path: str, default: int | None = None, least: int = 0) -> int:
        """Return a whole number, at most the largest that JSON's readers agree on."""
        value = self._typed(path, int, default)
        if not least <= value <= 2**53:
            raise UsageError(f"settings: {path}: got {shown(value)}; must be {least} to 2^53")
        return value

    def flag(self, path: str, default: bool = False) -> bool:
        """Return a boolean."""
        return self._typed(path, bool, default)

    def mapping(self, path: str) -> Mapping[str, Any]:
        """Return an object, empty where it is not given."""
        return self._typed(path, dict, {})

    def objects(self, path: str) -> Mapping[str, Mapping[str, Any]]:
        """Return an object of objects, empty where it is not given."""
        values = self.mapping(path)
        for key, value in values.items():
            if not isinstance(value, dict):
                raise UsageError(f"settings: {path}: {show(key)}: got {shown(value)}; must be dict")
        return values

    def texts(self, path: str) -> list[str]:
        """Return a list of strings, empty where it is not given."""
        values = self._typed(path, list, [])
        if not all(isinstance(v, str) for v in values):
            raise UsageError(f"settings: {path}: got {shown(values)}; must be a list of strings")
        return list(values)


def load_settings(path: str) -> Settings:
    """Read a settings file."""
    try:
        with open_file(path) as file:
            data = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"settings: {show(path)}: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"settings: {show(path)}: must be a JSON object")
    return Settings(data)


class Progress:
    """A line that renews itself on a terminal; in a pod's log, a line every 15 s."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self.moved = time.monotonic()
        """When the last step was made."""
        self._pause = 0.2 if self._terminal else 15.0
        self._next = time.monotonic() + self._pause

    def step(self, what: str, done: int, total: int) -> None:
        """Say how far a check is."""
        self.moved = time.monotonic()
        if self.moved < self._next:
            return
        self._next = self.moved + self._pause
        line = f"{what}: {done} of {total} ({100 * done // max(total, 1)} %)"
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away again."""
        if self._terminal:
            self._stream.write("\r\x1b[K")


# Files: access, tar, folders


class NotAFileError(OSError):
    """A pipe, socket or device in the place of a file: reading it may never end."""


def open_file(path: str) -> BinaryIO:
    """Open a regular file to read; all that is read from foreign folders is opened here (K06).

    Raises:
        OSError: it cannot be opened; NotAFileError, IsADirectoryError: it is something else.

    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (handed over)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotAFileError(errno.EINVAL, "is not a file", path)
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; of a pipe, do not wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def denied(path: str, error: OSError) -> Finding:
    """Explain a failed access: with uid, mode and the component that refuses (G01)."""
    fix = "check that the volume is mounted and the path is spelled as on the volume"
    if isinstance(error, NotAFileError):
        fix = "name the file itself; a pipe, a socket or a device is not read"
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
    with open_file(path) as file:
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
EXTRA = 2**20
"""No header with a long name or with pax records is longer (bytes)."""
PATH_MAX = 4096
"""linux/limits.h"""
MEMBERS = 2**22
"""No checkpoint has more files; a bound for what one read of a header each may cost."""
PACK_AGAIN = "pack it again: mkdir DIR; tar -xf FILE -C DIR; tar --format=gnu --hard-dereference -hcf NEW.nemo -C DIR ."


@dataclass(frozen=True)
class Member:
    """Where the bytes of a file lie in a tar."""

    offset: int
    size: int


def inside(name: str) -> bool:
    """Whether a name from an archive or a dataset stays below the folder it is put into."""
    return not (os.path.isabs(name) or os.path.normpath(name).split("/")[0] in ("..", ".") or "\0" in name)


def refused(what: str) -> ProblemError:
    """Return the problem of a tar that is not read, or not as everyone would."""
    return ProblemError(f"the tar {what}", PACK_AGAIN)


def tar_members(fd: int) -> dict[str, Member]:
    """List the files of an uncompressed tar by its headers alone, one read of 512 bytes for each.

    Knows what GNU tar and Python write of files, folders and hard links: ustar, GNU long names and sizes, pax paths
    and sizes. Every other kind of member (symbolic links, devices, sparse files, parts of volumes) is refused, as are
    names outside the folder: what is returned is all that unpacking would make. Of members of one name the last wins.

    Raises:
        ProblemError: not a tar, damaged, truncated, or with something that is not read.

    """
    total, position, count = os.fstat(fd).st_size, 0, 0
    members: dict[str, Member] = {}
    folders: set[str] = set()
    linked: set[str] = set()
    given: dict[str, str] = {}  # by L, K and x headers, for the member that follows
    while True:
        header = os.pread(fd, BLOCK, position)
        if len(header) < BLOCK:
            raise ProblemError(
                f"the tar ends after {total} bytes without its end mark: truncated",
                "copy or convert it again",
            )
        if header == bytes(BLOCK):
            break
        count += 1
        if count > MEMBERS:
            raise refused(f"has more than {MEMBERS} members")
        if not _checksum_holds(header):
            what = f"is damaged at byte {position}" if position else "is not a tar (a .nemo file is one)"
            raise ProblemError(f"the file {what}", "name a .nemo file, or the folder it was unpacked into")
        kind, size, data = header[156:157], _tar_number(header[124:136]), position + BLOCK
        extra = kind in b"xgLK"
        if not extra:
            size = int(given.get("size", size))
        if data + size > total:
            raise ProblemError(
                f"a member needs {data + size} bytes, the tar has {total}: truncated",
                "copy or convert it again",
            )
        position = data + -(-size // BLOCK) * BLOCK
        if extra:
            for key, value in _extra(kind, os.pread(fd, min(size, EXTRA + 1), data)).items():
                if given.setdefault(key, value) != value:
                    raise refused(f"gives a member two {key}s")
            continue
        raw = given.get("path") or _ustar_name(header)
        name = _member_name(raw)
        is_file = kind in b"0\x007" and not raw.endswith("/") and name != ""
        if name in linked or (kind == b"1" and name in members):
            raise refused(f"has {show(name)} twice, and a hard link to it: readers make different files of that")
        if is_file:
            members[name] = Member(data, size)
        elif size:
            raise refused(f"has content in {show(name)}, which is no file")
        elif kind == b"1":
            link = _member_name(given.get("linkpath") or _text(header[157:257]))
            if link not in members:
                raise refused(f"has a hard link {show(name)} to {show(link)}, which is not a file before it")
            members[name] = members[link]
            linked |= {name, link}
        elif kind == b"5" or (kind == b"\0" and raw.endswith("/")):
            folders.add(name)
        else:
            raise refused(f"has {TAR_KINDS.get(kind, f'a member of type {kind!r}')} {show(name)}, which is not read")
        given = {}
    if given:
        raise refused("ends with a header that describes no member")
    _tree(members, folders)
    return members


TAR_KINDS = {
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "a part of a file of another volume",
}


def _tree(members: Mapping[str, Member], folders: set[str]) -> None:
    """Refuse names that cannot all be there: a file that is a folder, too."""
    for name in [*members, *folders]:
        above = os.path.dirname(name)
        while above and above not in folders:
            folders.add(above)
            above = os.path.dirname(above)
    both = sorted(folders & members.keys())
    if both:
        raise refused(f"has {some(both)} both as a file and as a folder")


def _member_name(name: str) -> str:
    """Return a name as it would be in the folder, "" for the folder itself."""
    if len(name) > PATH_MAX:
        raise refused(f"has a name of more than {PATH_MAX} characters")
    plain = os.path.normpath(name) if name else "."
    if plain == "." and name:
        return ""
    if not inside(name) or ".." in name.split("/"):
        raise ProblemError(f"the tar has a member {show(name)}, which lies outside of it", "do not use this file")
    return plain


def _checksum_holds(header: bytes) -> bool:
    stored = header[148:156].strip(b" \0")
    return bool(re.fullmatch(rb"[0-7]{1,8}", stored)) and int(stored, 8) == sum(header) - sum(header[148:156]) + 256


def _tar_number(field: bytes) -> int:
    """Return a number of octal digits, or of GNU's base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise refused(f"has the size {field!r}, which is no number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _ustar_name(header: bytes) -> str:
    name = _text(header[:100])
    if not header[345]:
        return name
    if header[257:263] != b"ustar\0":
        raise refused(f"has a name {show(name)} that readers take for different ones")
    return f"{_text(header[345:500])}/{name}"


def _extra(kind: bytes, content: bytes) -> dict[str, str]:
    """Return path, linkpath and size that a header gives the member after it."""
    if len(content) > EXTRA:
        raise refused(f"has a header of more than {EXTRA} bytes")
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": _text(content)}
    found = _pax(content)
    strange = [k for k in found if re.search(r"sparse|realsize|holes|GNU\.volume\.(?!label)", k)]
    used = {k: v for k, v in found.items() if k in ("path", "linkpath", "size")}
    if strange or (used and kind == b"g"):
        raise refused(f"has the pax header {some(sorted(strange or used))}, which is not read")
    if not all(used.values()) or not re.fullmatch(r"[0-9]{1,20}", used.get("size", "0")):
        raise refused(f"has the pax header {brief(str(used))}, which is not read")
    return used


def _pax(records: bytes) -> dict[str, str]:
    """Return the records of a pax header, each of which ends with a newline: LENGTH KEY=VALUE."""
    found, at = {}, 0
    while at < len(records):
        match = re.compile(rb"([0-9]{1,7}) ([^=]+)=").match(records, at)
        end = at + int(match[1]) if match else 0
        if not match or end <= match.end() or records[end - 1 : end] != b"\n":
            raise refused(f"has a damaged pax header at its byte {at}")
        found[match[2].decode("utf-8", "surrogateescape")] = records[match.end() : end - 1].decode(
            "utf-8", "surrogateescape"
        )
        at = end
    return found


class Window(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, path: str, member: Member) -> None:
        self._file, self._member, self._at = open_file(path), member, 0

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
        with open_file(path) as file:
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
    """The files below a folder; links are followed, each folder once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        seen: set[tuple[int, int]] = set()
        for place, inner, names in os.walk(path, onerror=_raise, followlinks=True):
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


def _raise(error: OSError) -> None:
    raise error


Store = TarStore | FolderStore


# The language model's checkpoint

CONFIG = "model_config.yaml"
SMALL = 2**18
"""No configuration and no description of one tensor is larger (bytes); NeMo's have 6 KB."""
INDEX = 64 * 2**20
"""No index of all tensors is larger (bytes); that of Nemotron 340B has less than 5 MB."""
RANKS = 2**16
"""No checkpoint is split for more ranks."""


def read_whole(store: Store, name: str, limit: int) -> bytes:
    """Read a file of a checkpoint that should be small."""
    with store.open(name) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ProblemError(f"{show(name)} has more than {gib(limit)}: it is not what its name says", CONVERT)
    return content


def small_json(store: Store, name: str) -> Any:
    """Read a small JSON file of a checkpoint."""
    try:
        return json.loads(read_whole(store, name, SMALL))
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{show(name)} is not JSON: {brief(str(error))}", CONVERT) from None


CONVERT = "copy or convert the checkpoint again"


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
        mode = os.stat(path).st_mode
        is_file = not stat.S_ISDIR(mode)
        if is_file and not stat.S_ISREG(mode):
            raise ProblemError(f"{show(path)}: is neither a file nor a folder", "name a .nemo file or its folder")
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


def _ranks(store: Store) -> tuple[int, int, str]:
    """Return TP, PP and the first rank's file of a legacy checkpoint."""
    if "model_weights.ckpt" in store.sizes:
        return 1, 1, "model_weights.ckpt"
    ranks: dict[tuple[int, int], str] = {}
    for name in store.sizes:
        match = re.fullmatch(r"(?:mp_rank_([0-9]+)|tp_rank_([0-9]+)_pp_rank_([0-9]+))/model_weights\.ckpt", name)
        if match:
            ranks[int((match[1] or match[2])[:9]), int((match[3] or "0")[:9])] = name
    if not ranks:
        return 0, 0, ""
    tensor, pipeline = (1 + max(r[i] for r in ranks) for i in (0, 1))
    if tensor * pipeline > RANKS:
        raise ProblemError(f"its folders name TP {brief(tensor)} PP {brief(pipeline)}", "name a whole checkpoint")
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
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError, RecursionError) as error:
        raise ProblemError(f"{CONFIG} is not YAML: {brief(' '.join(str(error).split()))}", CONVERT) from None
    if not isinstance(parsed, dict):
        raise ProblemError(f"{CONFIG} is not a YAML mapping", CONVERT)
    return parsed


class Shape(tuple):  # type: ignore[type-arg]  # as torch.Size
    """Sizes of a tensor."""

    __slots__ = ()


def shape(sizes: Any) -> Shape | None:
    """Return sizes as a shape if they can be one."""
    plain = isinstance(sizes, list | tuple) and len(sizes) <= 16
    return Shape(sizes) if plain and all(type(n) is int and 0 <= n < 2**48 for n in sizes) else None


class Stub:
    """Stands for an object of a pickle: its class by name, what it is made of, and its state."""

    def __init__(self, name: str, *parts: Any) -> None:
        """Keep them as they are."""
        self.name, self.parts, self.state = name, parts, None

    def get(self, key: str) -> Any:
        """Return an attribute."""
        return self.state.get(key) if isinstance(self.state, dict) else None


def unpickle(data: bytes) -> Any:
    """Read torch's pickles: what is in them, never what they would run.

    Every step costs what its opcode has in bytes, whatever the pickle says: nothing is called, copied, compared or
    hashed but text keys. Objects become a :class:`Stub`, tensors a :class:`Shape`.

    Raises:
        ValueError: not a pickle, or of a kind that torch does not write.

    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def store(target: Any, pairs: Sequence[Any]) -> None:
        if isinstance(target, dict):
            target.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=False) if isinstance(k, str))

    def extend(target: Any, items: Sequence[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)

    try:
        argument: Any
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return stack.pop()
            if name == "MARK":
                marks.append(len(stack))
            elif name == "POP":
                stack.pop()
            elif name == "POP_MARK":
                since_mark()
            elif name == "DUP":
                stack.append(stack[-1])
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in EMPTY:
                stack.append(EMPTY[name]())
            elif name in ("LIST", "TUPLE", "FROZENSET"):
                items = since_mark()
                stack.append(tuple(items) if name == "TUPLE" else items)
            elif name == "DICT":
                items = since_mark()
                stack.append({})
                store(stack[-1], items)
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif name in ("APPEND", "SETITEM"):
                count = 1 if name == "APPEND" else 2
                items = stack[-count:]
                del stack[-count:]
                (extend if name == "APPEND" else store)(stack[-1], items)
            elif name in ("APPENDS", "ADDITEMS", "SETITEMS"):
                items = since_mark()
                (store if name == "SETITEMS" else extend)(stack[-1], items)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "GLOBAL":
                stack.append(Stub(argument.split(" ")[-1]))
            elif name == "STACK_GLOBAL":
                stack[-2:] = [Stub(str(stack[-1])[:200])]
            elif name in ("REDUCE", "NEWOBJ"):
                called, arguments = stack[-2:]
                stack[-2:] = [_made(called, arguments)]
            elif name == "NEWOBJ_EX":
                stack[-3:] = [_made(stack[-3], ())]
            elif name == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Stub):
                    stack[-1].state = state
            elif name == "PERSID":
                stack.append(None)
            elif name == "BINPERSID":
                stack[-1] = None
            elif opcode.arg is not None and not opcode.stack_before and len(opcode.stack_after) == 1:
                stack.append(argument)  # a number or a text
            else:
                raise ValueError(f"opcode {name}")
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None
    raise ValueError("no end")


CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}


def _made(called: Any, arguments: Any) -> Any:
    """Return what stands for a call."""
    name = called.name if isinstance(called, Stub) else ""
    parts = arguments if isinstance(arguments, tuple) and len(arguments) <= 16 else ()
    if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return shape(parts[2]) if len(parts) > 2 else None
    if name == "_rebuild_parameter":
        return parts[0] if parts else None
    if name == "Size":
        return shape(parts[0]) if parts else None
    return {} if name == "OrderedDict" else Stub(name, *parts)


def weight_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Return name and shape of all tensors; of a legacy checkpoint, of the first rank's.

    Reads the index only: ``.zarray`` files, torch_dist's ``.metadata``, or data.pkl in torch's zip.

    Raises:
        ProblemError: the index cannot be read.

    """
    store = checkpoint.store
    if checkpoint.backend == "zarr":
        found: dict[str, Any] = {}
        for name in store.sizes:
            if name.startswith("model_weights/") and name.endswith("/.zarray"):
                array = small_json(store, name)
                found[name[len("model_weights/") : -len("/.zarray")]] = (
                    shape(array.get("shape")) if isinstance(array, dict) else None
                )
        return {n: t for n, t in found.items() if t is not None}
    place = "model_weights/.metadata" if checkpoint.backend else checkpoint.first_rank
    try:
        if checkpoint.backend:
            index = unpickle(read_whole(store, place, INDEX))
            tensors = index.get("state_dict_metadata") if isinstance(index, Stub) else None
            entries = tensors.items() if isinstance(tensors, dict) else ()
            found = {n: t.get("size") for n, t in entries if isinstance(t, Stub)}
        else:
            with store.open(place) as file, zipfile.ZipFile(file) as archive:
                name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "")
                with archive.open(name) as pickled:
                    content = pickled.read(INDEX + 1)
            if len(content) > INDEX:
                raise ValueError(f"its index has more than {gib(INDEX)}")
            index = unpickle(content)
            found = index if isinstance(index, dict) else {}
    except (ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ProblemError(f"{show(place)}: not as torch writes it: {brief(str(error))}", CONVERT) from None
    return {n: t for n, t in found.items() if isinstance(t, Shape)}


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
    data = read_file(path, 4 * INDEX)
    try:
        return pieces(data)
    except ValueError as error:
        raise ProblemError(
            f"{show(path)} is not a sentencepiece model: {error}",
            "name the model's tokenizer.model",
        ) from None


def piece_problems(path: str, found: Sequence[tuple[str, int]], count: int) -> Iterator[Finding]:
    """Check that the last pieces are <extra_id_0..count-1>, in order and USER_DEFINED (E07)."""
    wanted = extra_tokens(min(count, len(found) + 1))
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
    file = os.path.join(path, "tokenizer.json")
    data = read_json(file, 4 * INDEX)
    try:
        vocabulary, added = data["model"]["vocab"], data.get("added_tokens") or []
        own = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        ids = {*own, *(t["id"] for t in added)}
        if not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise ValueError("an id is no number")
        return max(ids, default=-1) + 1, {str(t["content"]) for t in added}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProblemError(
            f"{show(file)} is not a tokenizer of Hugging Face: {type(error).__name__} {brief(str(error))}",
            "copy the tokenizer's files from the model's repository",
        ) from None


def read_file(path: str, limit: int) -> bytes:
    """Read a file whole, to the size that it has now: some grow for ever, and those of /proc wait.

    Raises:
        ProblemError: a pipe, a folder, an LFS pointer or more than ``limit`` bytes.

    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise ProblemError(f"{show(path)} has more than {gib(limit)}", "name the right file")
            content = file.read(size)
    except OSError as error:
        found = denied(path, error)
        raise ProblemError(found.message, found.fix) from None
    if content.startswith(b"version https://git-lfs"):
        raise ProblemError(f"{show(path)} is a git LFS pointer, not the file", "run git lfs pull, or copy it again")
    return content


def read_json(path: str, limit: int = 2**34) -> Any:
    """Read a JSON file of at most so many bytes; one that cannot be read is a problem."""
    try:
        return json.loads(read_file(path, limit).decode())
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{show(path)} is not JSON: {brief(str(error))}", "copy it again") from None


def read_object(path: str) -> dict[str, Any]:
    """Read a small JSON file that holds an object."""
    found = read_json(path, INDEX)
    if not isinstance(found, dict):
        raise ProblemError(f"{show(path)} is {brief(found)}; must be a JSON object", "copy it again")
    return found
