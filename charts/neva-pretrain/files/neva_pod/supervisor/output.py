"""What torchrun prints: to the pod's log at once, to the node's log file as far as its file system follows."""

import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

from neva_pod.findings import show

CHUNK = 2**16
WAITING_CHUNKS = 2**10
"""Chunks that wait for a stalled file system (64 MiB at most); more are left out of the file."""
END_SECONDS = 10.0
"""Seconds that the last lines may take to reach the file."""


class LogFile:
    """A file that is written by a thread of its own: a full or stalled file system never holds training up."""

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self._path, self._say = path, say
        self._queue: queue.Queue[bytes | None] = queue.Queue(WAITING_CHUNKS)
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue text, or leave it out where too much waits."""
        try:
            self._queue.put_nowait(data)
        except queue.Full:
            self._tell("does not take the log; lines are left out of it, not of the pod's log")

    def close(self) -> None:
        """Wait for what was queued, within reason."""
        try:
            self._queue.put(None, timeout=END_SECONDS)
        except queue.Full:
            return
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        file: BinaryIO | None = None
        while (data := self._queue.get()) is not None:
            try:
                file = file or open(self._path, "ab", buffering=0)  # noqa: SIM115 - as long as the thread
                while data:
                    data = data[file.write(data) :]
            except OSError as error:
                self._tell(f"cannot be written ({error.strerror}); the pod's log has all lines")
                continue
            self._trouble = ""
        if file:
            file.close()

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._say(f"{show(self._path)}: {trouble}")


class Pump:
    """Copies a pipe until all writers have closed it."""

    def __init__(self, pipe: BinaryIO, log: LogFile | None, read: Callable[[bytes], None]) -> None:
        self._pipe, self._log, self._read = pipe, log, read
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        whole = True
        with self._pipe:
            while data := os.read(self._pipe.fileno(), CHUNK):
                # A progress bar ends in a carriage return, and the container runtime shows nothing before a line ends.
                text = data.replace(b"\r", b"\n")
                whole = text.endswith(b"\n")
                self._write(text)
                self._read(data)
        if not whole:
            self._write(b"\n")

    def _write(self, text: bytes) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        if self._log:
            self._log.write(text)

    def join(self, seconds: float) -> None:
        """Wait for the last lines, the ones that tell why; whoever else holds the pipe is not waited for."""
        self._thread.join(seconds)
