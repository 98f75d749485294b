"""The operators that a sandbox can run, in the order in which they start."""

from collections.abc import Sequence

from tests.sandbox.operators.base import Operator
from tests.sandbox.operators.gang import Gang
from tests.sandbox.operators.kueue import Kueue
from tests.sandbox.operators.trainer import JobSet, Trainer
from tests.sandbox.operators.training import TrainingOperator


def chosen(components: Sequence[str]) -> list[Operator]:
    """Return the operators for these components; the training operator is always one.

    CRDs come before the programs that watch them: the gang's before the training operator, and
    every job kind before Kueue.
    """
    operators: list[Operator] = []
    if "gang" in components:
        operators.append(Gang())
    operators.append(TrainingOperator())
    if "trainer" in components:
        operators += [JobSet(), Trainer()]
    if "kueue" in components:
        operators.append(Kueue())
    return operators


__all__ = ["Operator", "chosen"]
