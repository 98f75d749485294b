"""Files of foreign folders: opened without waiting, with the reason where they cannot be."""

import errno
import json
import os
import stat
import tempfile
from typing import Any, BinaryIO

from neva_pod.findings import Finding, ProblemError, brief, failed, gib, show


class NotAFileError(OSError):
    """A pipe, socket or device in the place of a file: reading it may never end."""


def open_file(path: str) -> BinaryIO:
    """Open a regular file to read; all that is read from foreign folders is opened here.

    Raises:
        OSError: it cannot be opened; NotAFileError, IsADirectoryError: it is something else.

    """
    try:
        file = open(path, "rb", opener=without_waiting)  # noqa: SIM115 (handed over)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotAFileError(errno.EINVAL, "is not a file", path) from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotAFileError(errno.EINVAL, "is not a file", path)
    return file


def without_waiting(path: str, flags: int) -> int:
    """Open a file; of a pipe, do not wait for its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)  # Windows has none, nor such pipes


def denied(path: str, error: OSError) -> Finding:
    """Explain a failed access: with uid, mode and the component that refuses."""
    fix = "check that the volume is mounted and the path is spelled correctly"
    if isinstance(error, NotAFileError):
        fix = "name the file itself; pipes, sockets and devices are not read"
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


def need_folder(path: str, use: str) -> None:
    """Refuse what is no folder where one is, or will be made.

    Raises:
        ProblemError: a file, a pipe or a link to nothing is there, or on the way there.

    """
    place = ancestor(path)
    try:
        if stat.S_ISDIR(os.stat(place).st_mode):
            return
        found = "is no folder"
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise ProblemError.of(denied(place, error)) from None
        found = "is a link to nothing"
    raise ProblemError(f"{show(place)}: {found}; must be a folder, {use}", "move it away, or remove it")


def raised(error: OSError) -> None:
    """Let os.walk raise what it would pass over: its ``onerror``."""
    raise error


def inside(name: str) -> bool:
    """Whether a name from an archive or a dataset stays below the folder it is put into."""
    return not (os.path.isabs(name) or os.path.normpath(name).split("/")[0] in ("..", ".") or "\0" in name)


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
                f"{show(path)}: {show(place)} is on a read-only file system", "name a path on a writable volume"
            )
        return denied(place, error)
    return None


LFS = b"version https://git-lfs"


def is_lfs_pointer(path: str) -> bool:
    """Whether a file is only git LFS's pointer to it."""
    with open_file(path) as file:
        return file.read(len(LFS)) == LFS


def lfs_pointer(path: str, fix: str = "run git lfs pull, or copy it again") -> Finding:
    """Say that it is."""
    return failed(f"{show(path)} is a git LFS pointer, not the file", fix)


INDEX = 64 * 2**20
"""No index of all tensors is larger (bytes); that of Nemotron 340B has less than 5 MB."""


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
        raise ProblemError.of(denied(path, error)) from None
    if content.startswith(LFS):
        raise ProblemError.of(lfs_pointer(path))
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
