"""Reads a growing log file, or the newest log of a directory, without missing a rotation."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20
"""Bytes that one read returns at most."""

_SUFFIXES = (".log", ".out", ".txt")
_NOT_LOGS = (
    "cmd-args.log",
    "git-info.log",
    "nemo_error_log.txt",
    "lightning_logs.txt",
    "hparams.txt",
)


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


class Tail:
    """A file or directory of logs that may grow, be replaced, be cut, or not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def read(self) -> tuple[bytes, float]:
        """Return what is new, maybe nothing, and when the file was written (s since the epoch)."""
        if self._file is None and not self._open():
            return b"", 0.0
        assert self._file is not None  # noqa: S101 (for the type checker)
        state = os.fstat(self._file.fileno())
        if state.st_size < self._file.tell():
            self._file.seek(0)
        data = self._file.read(CHUNK)
        if not data and self._is_replaced(state):
            self.close()
        return data, state.st_mtime

    def close(self) -> None:
        """Close the file; the next read opens what is there then."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _log(self) -> Path | None:
        return newest_log(self._path) if self._path.is_dir() else self._path

    def _open(self) -> bool:
        path = self._log()
        if path is None:
            return False
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            return False
        return True

    def _is_replaced(self, state: os.stat_result) -> bool:
        path = self._log()
        try:
            return path is not None and not os.path.samestat(state, path.stat())
        except FileNotFoundError:
            return False
