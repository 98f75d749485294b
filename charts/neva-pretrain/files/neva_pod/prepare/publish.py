"""Files and folders that have their final names only when they are whole."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from neva_pod.findings import ProblemError, gib, show
from neva_pod.prepare.errors import reading, unwritten
from neva_pod.progress import Progress

CHUNK = 2**20
"""Bytes that are read and written at once."""


def beside(final: str, role: str) -> str:
    """Return a hidden name beside the final one, on its file system; the same after a restart."""
    folder, name = os.path.split(os.path.normpath(final))
    return os.path.join(folder, f".{name}.{role}")


def publish(temporary: str, final: str) -> None:
    """Give something whole its final name, for good."""
    if os.path.isdir(temporary):
        os.sync()
    else:
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    os.rename(temporary, final)
    folder = os.open(os.path.dirname(final), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write(path: str, chunks: Iterable[bytes], durable: bool = True) -> None:
    """Recreate a file; an incomplete one is removed."""
    try:
        with open(path, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            if durable:  # a full quota or a lost server shows here, not at the write
                file.flush()
                os.fsync(file.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            raise unwritten(path, error) from None
        raise


def chunks_of(file: BinaryIO, name: str, meter: "Meter | None" = None) -> Iterator[bytes]:
    """Read a file piece by piece; an error is the source's, not the target's."""
    while True:
        with reading(name):
            chunk = file.read(CHUNK)
        if not chunk:
            return
        if meter:
            meter.add(len(chunk))
        yield chunk


class Meter:
    """Lines of progress for what is counted in bytes."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done, self._progress = f"prepare: {what}: MiB", total, 0, Progress()

    def add(self, count: int) -> None:
        """Count bytes that are done."""
        self.at(self._done + count)

    def at(self, done: int) -> None:
        """Say how many bytes are done in all."""
        self._done = done
        self._progress.step(self._what, done >> 20, self._total >> 20)


def copy_file(source: str, target: str, meter: Meter) -> None:
    """Copy a regular file."""
    need_file(source)
    with reading(source), open(source, "rb") as file:
        write(target, chunks_of(file, source, meter))


def need_file(path: str) -> None:
    """Refuse what is no regular file: reading a pipe would wait for ever."""
    with reading(path):
        mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ProblemError(f"{show(path)}: is not a file", "name the file itself")


def copy_files(name: str, origin: str, target: str, names: Sequence[str]) -> None:
    """Copy files into a fresh folder."""
    with reading(origin):
        size = sum(os.path.getsize(os.path.join(origin, n)) for n in names)
    remove(target)
    os.makedirs(target)
    need_space(target, size)
    meter = Meter(f"{name}: copy", size)
    for file in names:
        make_parent(os.path.join(target, file))
        copy_file(os.path.join(origin, file), os.path.join(target, file), meter)


def make_parent(path: str) -> None:
    """Make the folder that a path lies in."""
    os.makedirs(os.path.dirname(os.path.normpath(path)), exist_ok=True)


def remove(path: str) -> None:
    """Remove a temporary file or folder."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


@contextlib.contextmanager
def fresh(folder: str) -> Iterator[str]:
    """Make a folder for one try of something that may die; nothing of it outlives the try."""
    remove(folder)
    os.makedirs(folder)
    yield folder
    remove(folder)


def need_space(folder: str, needed: int) -> None:
    """Refuse what would fill the file system."""
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise ProblemError(f"{show(folder)} has {gib(free)} free, {gib(needed)} needed", "free some space first")


def write_record(path: str, text: str) -> None:
    """Write a small file atomically."""
    write(path + ".partial", [text.encode()])
    publish(path + ".partial", path)


def leavings(finals: Iterable[str]) -> list[str]:
    """Return what a killed run left beside these names."""
    paths = (beside(final, role) for final in finals for role in ("work", "partial", "lock"))
    return [p for p in paths if os.path.lexists(p)]


def open_text(path: str) -> str:
    """Return a text file's content."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def exists(folder: str, name: str) -> bool:
    """Whether a folder has something of that name."""
    return os.path.exists(os.path.join(folder, name))


def size_below(folder: str) -> int:
    """Return the bytes of all files below a folder."""
    return sum(os.path.getsize(f"{p}/{n}") for p, _, names in os.walk(folder) for n in names)
