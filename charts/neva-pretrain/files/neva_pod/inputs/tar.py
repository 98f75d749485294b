"""The files of a tar, by its headers alone: what NeMo packs, and nothing that two readers take for different things."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from neva_pod.findings import ProblemError, brief, show, some
from neva_pod.inputs.files import inside, open_file

BLOCK = 512
EXTRA = 2**20
"""No header with a long name or with pax records is longer (bytes)."""
PATH_MAX = 4096
"""linux/limits.h"""
MEMBERS = 2**22
"""No checkpoint has more files; a bound for what one read of a header each may cost."""
PACK_AGAIN = "pack it again: mkdir DIR; tar -xf FILE -C DIR; tar --format=gnu --hard-dereference -hcf NEW.nemo -C DIR ."
TAR_KINDS = {
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "part of a multi-volume file",
}


@dataclass(frozen=True)
class Member:
    """Where the bytes of a file lie in a tar."""

    offset: int
    size: int


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
                f"the tar ends after {total} bytes without its end mark: truncated", "copy or convert it again"
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
                f"a member needs {data + size} bytes, the tar has {total}: truncated", "copy or convert it again"
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
            raise refused(f"has {show(name)} twice, and a hard link to it: readers extract that differently")
        if is_file:
            members[name] = Member(data, size)
        elif size:
            raise refused(f"has content in {show(name)}, which is not a file")
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
        raise refused(f"has the size {field!r}, which is not a number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _ustar_name(header: bytes) -> str:
    name = _text(header[:100])
    if not header[345]:
        return name
    if header[257:263] != b"ustar\0":
        raise refused(f"has a name {show(name)} that readers interpret differently")
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
