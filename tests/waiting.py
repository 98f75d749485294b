"""How long a test waits for what must come: long enough for a loaded machine, since only a failure waits it out."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = 300.0
"""Seconds; a third of pytest's own limit for a test."""


def until(
    condition: Callable[[], object], what: str | Callable[[], str], pause: float = 0.05, patience: float = PATIENCE
) -> None:
    """Poll until a condition holds.

    Args:
        condition: asked again and again until what it returns is true.
        what: says what did not come, in the failure's message.
        pause: seconds between two questions.
        patience: seconds in all, where the work itself takes minutes.

    Raises:
        AssertionError: it did not come within ``patience``.
    """
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not after {patience:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause)


@contextlib.contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Kill and reap a process at the end of a block, with its group if it leads one."""
    leads = os.getpgid(process.pid) == process.pid
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                if leads:  # also of what outlived it
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
