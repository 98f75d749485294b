"""The operators that a sandbox can run, in the order in which they start."""

from __future__ import annotations

from collections.abc import Sequence

from tests.sandbox.operators.base import Operator
from tests.sandbox.operators.training import TrainingOperator


def chosen(components: Sequence[str]) -> list[Operator]:
    """Return the operators for these components; the training operator is always one."""
    return [TrainingOperator()]


__all__ = ["Operator", "chosen"]
