"""What checks and steps say: findings, the errors that stop one, and how foreign text is shown on one line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

SHOWN = 5
"""Items that a message lists of many."""
LONG = 1000
"""Characters that a message takes of foreign text."""
LONGEST = 300
"""Characters that a message shows of one item."""


class Outcome(str, Enum):
    """Outcome of a check, and kind of a finding."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found: what, and for a problem what to do."""

    outcome: Outcome
    message: str
    fix: str = ""


def note(message: str) -> Finding:
    """Say what was found to be right."""
    return Finding(Outcome.OK, message)


def warning(message: str, fix: str) -> Finding:
    """Report what may be intended, but seldom is."""
    return Finding(Outcome.WARNING, message, fix)


def failed(message: str, fix: str) -> Finding:
    """Say what would stop or spoil the run."""
    return Finding(Outcome.FAILED, message, fix)


def skipped(message: str) -> Finding:
    """Say why a check looked at nothing."""
    return Finding(Outcome.SKIPPED, message)


class ProblemError(Exception):
    """Stops a check with one failed finding."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.finding = failed(message, fix)

    @classmethod
    def of(cls, finding: Finding) -> "ProblemError":
        """Make one of a finding."""
        return cls(finding.message, finding.fix)


class NotPossibleError(Exception):
    """Skips a check, because what it needs was already reported by another one."""


class UsageError(Exception):
    """Wrong arguments or settings."""


def show(text: str) -> str:
    """Return a path or other foreign text so that it stays on its line."""
    text = text if len(text) <= LONG else text[:LONG] + "..."
    return text if text.isprintable() else json.dumps(text)


def some(items: Sequence[str]) -> str:
    """Return the first items of a list, and how many more there are."""
    rest = len(items) - SHOWN
    shown = [show(item if len(item) <= LONGEST else f"{item[:LONGEST]}...") for item in items[:SHOWN]]
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def brief(value: Any) -> str:
    """Return a foreign value as short JSON on one line; of a tree only its size."""
    if isinstance(value, bool | float) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return json.dumps(value[:80])[1:-1] + ("..." if len(value) > 80 else "")
    if not isinstance(value, list | tuple | dict):
        return type(value).__name__
    if isinstance(value, dict) or len(value) > 8 or any(isinstance(v, list | tuple | dict) for v in value):
        return f"a {type(value).__name__} of {len(value)}"
    return f"[{', '.join(map(brief, value))}]"


def gib(size: float) -> str:
    """Return bytes in GiB, small ones in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
