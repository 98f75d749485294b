"""What can be wrong with a request, and how it is said.

One rule broken is one :class:`Violation`; its text is the sentence that the chart also prints, so that a user
meets the same words from ``neva-values`` and from ``helm install``.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Violation(NamedTuple):
    """A rule that a value breaks.

    Attributes:
        key: the value's path in the values file, or the command line option.
        got: the value as given.
        rule: what must hold, beginning with "must".
        fix: what to do, usually the nearest values that hold.
    """

    key: str
    got: str
    rule: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: got {self.got}; {self.rule}; {self.fix}"


class NevaError(Exception):
    """Base of everything that this package refuses on purpose; the command line turns it into ``ERROR: ...``."""

    def lines(self) -> list[str]:
        """Return one sentence for each problem."""
        return [str(self)]


class RefusedError(NevaError):
    """A plan or a values file that breaks rules. Carries all of them."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("\n".join(map(str, violations)))
        self.violations = tuple(violations)

    def lines(self) -> list[str]:
        """Return one sentence for each broken rule."""
        return [str(v) for v in self.violations]


class InputError(NevaError):
    """A file that cannot be read as what it should be.

    Attributes:
        reason: why, without the file's name.
    """

    def __init__(self, reason: str, file: object = None) -> None:
        super().__init__(reason if file is None else f"{file}: {reason}")
        self.reason = reason
