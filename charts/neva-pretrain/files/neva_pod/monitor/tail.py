"""Reads a growing log file, or the newest log of a directory, without missing a rotation."""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20
"""Bytes that one read returns at most."""

_SUFFIXES = (".log", ".out", ".txt")
_NOT_LOGS = ("cmd-args.log", "git-info.log", "nemo_error_log.txt", "lightning_logs.txt", "hparams.txt")


def newest_log(directory: Path) -> Path | None:
    """Return the log of a results directory: the newest with steps, else the newest.

    On a restart NeMo's exp_manager moves the files of its log directory into ``run_0/``, ``run_1/``
    ..., sometimes with those of the current run, so these are looked through as well, and
    ``logs/``, where the chart's launch script writes.
    """
    best: tuple[bool, float] = (False, 0.0)
    found: Path | None = None
    for folder in (directory, directory / "logs", *sorted(directory.glob("run_*"))):
        with contextlib.suppress(OSError):  # a file may be moved away meanwhile
            for path in sorted(folder.iterdir()):
                if path.suffix in _SUFFIXES and path.name not in _NOT_LOGS and path.is_file():
                    rank = (_shows_steps(path), path.stat().st_mtime)
                    if found is None or rank > best:
                        best, found = rank, path
    return found


def _shows_steps(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - CHUNK))
        return b"global_step" in file.read(CHUNK)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, not waiting for the writer of a pipe that has its name."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has none, nor such pipes


class Tail:
    """A file or directory of logs that may grow, be replaced, be cut, or not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._identity = (0, 0)
        self._at = 0
        self._failed = False

    @property
    def is_open(self) -> bool:
        """There is a log, and it was read last time."""
        return self._file is not None

    def read(self) -> tuple[bytes, float]:
        """Return what is new, maybe nothing, and when the file was written (s since the epoch).

        Raises:
            OSError: it is there but cannot be read now. The next call tries again, from where it was if it is
                the same file.

        """
        file = self._file or self._open()
        if file is None:
            return b"", 0.0
        try:
            state = os.fstat(file.fileno())
            if state.st_size < self._at:
                self._at = file.seek(0)
            data = file.read(CHUNK)
            self._at += len(data)
            replaced = not data and self._is_replaced(state)
        except OSError:
            self._failed = True
            self.close()
            raise
        if replaced:
            self.close()
        return data, state.st_mtime

    def close(self) -> None:
        """Close the file; the next read opens what is there then."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a handle that is stale
                self._file.close()
            self._file = None

    def _log(self) -> Path | None:
        return newest_log(self._path) if self._path.is_dir() else self._path

    def _open(self) -> BinaryIO | None:
        path = self._log()
        if path is None:
            return None
        try:
            file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (Path.open has no opener)
        except FileNotFoundError:
            return None
        try:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            identity = (state.st_dev, state.st_ino)
            self._at = file.seek(self._at if self._failed and identity == self._identity else 0)
        except OSError:
            file.close()
            raise
        self._failed = False
        self._identity = identity
        self._file = file
        return file

    def _is_replaced(self, state: os.stat_result) -> bool:
        path = self._log()
        try:
            return path is not None and not os.path.samestat(state, path.stat())
        except FileNotFoundError:
            return False
