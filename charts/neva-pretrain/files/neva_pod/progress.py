"""Lines of progress: of what takes long, how much is done."""

import sys
import time
from typing import Any


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
