"""A line now and then while something long runs, and all that it said when it fails."""

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

INTERVAL = 20.0
"""Seconds between two lines."""


def say(text: str) -> None:
    """Print a line to stderr at once."""
    print(f"tools: {text}", file=sys.stderr, flush=True)


class Heartbeat:
    """Says every ``INTERVAL`` seconds what is going on, until the block ends.

    Attributes:
        doing: what is going on now; whoever does it keeps it up to date.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self._started = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(INTERVAL):
            say(f"{self.doing}, {time.monotonic() - self._started:.0f} s")


def go_build(name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> bool:
    """Run ``go build -v``, which names each module that it fetches and each package that it compiles.

    Returns:
        whether it succeeded; if not, what the compiler said has been printed.
    """
    said, packages, modules = [], 0, 0
    with (
        subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        Heartbeat(f"{name}: starting") as heart,
    ):
        for line in process.stdout or ():
            if line.startswith("go: downloading "):
                modules += 1
                heart.doing = f"{name}: {modules} modules fetched, now {' '.join(line.split()[2:])}"
            elif len(line.split()) == 1:
                packages += 1
                heart.doing = f"{name}: {packages} packages compiled, now {line.strip()}"
            else:
                said.append(line)
    if process.returncode != 0:
        sys.stderr.writelines(said)
    return process.returncode == 0
