"""The record of a run's attempts, and when another one is of no use."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from neva_pod.inputs.files import open_file, without_waiting

DONE = "done"
"""The reason of an attempt that came to the run's end."""


@dataclass(frozen=True)
class Attempt:
    """One start of torchrun on all nodes.

    Attributes:
        number: counts all attempts in the results folder, from 1.
        job: name of the job that made it.
        began: time, UTC.
        ended: time, UTC; empty while it runs.
        resumed: step of the checkpoint that it resumed from, 0 for none.
        step: the last step that its log showed.
        reason: why it ended.
        failures: failed attempts in a row without progress, this one too if it failed.

    """

    number: int
    job: str
    began: str
    ended: str = ""
    resumed: int = 0
    step: int = 0
    reason: str = ""
    failures: int = 0


def utc() -> str:
    """Return the time for a person to read."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Restarts:
    """The attempts in a results folder: ``restarts.jsonl``, a line for the end of each; ``attempt.json``, the last."""

    def __init__(self, path: str, job: str) -> None:
        """Read what earlier attempts left; damaged lines are passed over.

        Raises:
            OSError: a file is none, or cannot be read.
        """
        self._path, self._job = path, job
        self._newest = os.path.join(os.path.dirname(path), "attempt.json")
        self._attempts = [a for a in map(_attempt, _lines(path)) if a]
        newest = [a for a in map(_attempt, _lines(self._newest)) if a and a.job == job and a.number > self._last]
        self.cut: Attempt | None = newest[-1] if newest else None
        """The attempt whose end nobody wrote: the master was killed, which must count, or it may go on for ever."""

    @property
    def _mine(self) -> list[Attempt]:
        return [a for a in self._attempts if a.job == self._job]

    @property
    def _last(self) -> int:
        return max((a.number for a in self._attempts), default=0)

    @property
    def begun(self) -> bool:
        """Whether this job has made an attempt, by this master or one before it."""
        return bool(self._mine or self.cut)

    @property
    def done(self) -> Attempt | None:
        """The attempt with which this job came to its end; a pod that comes again after it has nothing left to do."""
        return next((a for a in reversed(self._mine) if a.reason == DONE), None)

    def begin(self, resumed: int, above: int = 0) -> Attempt:
        """Number the next attempt; nodes may know of one above those that were written down."""
        return Attempt(max(self._last, above) + 1, self._job, utc(), resumed=resumed, step=resumed)

    def end(self, attempt: Attempt, step: int | None, reason: str, failed: bool) -> Attempt:
        """Count an attempt that ended; return it with its count of failures.

        It has made progress if it came further than every one before it: then it is the first failure at its place.
        """
        before = self._mine
        ended = replace(attempt, ended=utc(), step=max(attempt.step, step or 0), reason=reason)
        last = before[-1].failures if before else 0
        if ended.step > max((a.step for a in before), default=-1):
            last = 0
        ended = replace(ended, failures=last + int(failed))
        self._attempts.append(ended)
        return ended

    def need_writable(self) -> None:
        """See that attempts can be written down, before one begins: another user may have made what is there.

        Raises:
            OSError: they cannot.
        """
        if os.path.lexists(self._path):
            with open(self._path, "a", opener=without_waiting):
                pass
        self._clear()

    def _clear(self) -> None:
        """Remove what a master that was killed left, whatever it is and whosever."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._newest}.new")

    def announce(self, attempt: Attempt) -> None:
        """Write down that an attempt begins.

        Raises:
            OSError: it cannot be written.
        """
        self._clear()
        with open(f"{self._newest}.new", "x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(attempt), sort_keys=True) + "\n")
        os.replace(f"{self._newest}.new", self._newest)

    def write(self, attempt: Attempt) -> None:
        """Append an attempt that ended to the file.

        Raises:
            OSError: it cannot be written.
        """
        with open(self._path, "a", encoding="utf-8", opener=without_waiting) as file:
            file.write(json.dumps(asdict(attempt), sort_keys=True) + "\n")


def _lines(path: str) -> list[Any]:
    if not os.path.exists(path):
        return []
    with open_file(path) as file:
        lines = file.read().splitlines()
    read = []
    for line in lines:
        try:
            read.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return read


def _attempt(fields: Any) -> Attempt | None:
    try:
        attempt = Attempt(**fields)
    except TypeError:
        return None
    numbers = (attempt.number, attempt.resumed, attempt.step, attempt.failures)
    return attempt if all(isinstance(n, int) and n >= 0 for n in numbers) else None
