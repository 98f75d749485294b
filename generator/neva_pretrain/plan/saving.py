"""How often a run saves: seldom enough that saves cost little, often enough that a fault loses little."""

from collections.abc import Iterator
from math import ceil, floor
from typing import NamedTuple

from neva_pretrain.plan.setup import Setup
from neva_pretrain.plan.time import save_seconds, step_time

SAVES_PER_RUN = 10
"""Checkpoints of a run, within the bounds."""
MOST_SHARE = 0.01
"""Share of the time that saves may take."""
MOST_LOST_SECONDS = 900
"""Work that a fault may lose: that since the last save."""


class Bounds(NamedTuple):
    """Steps between two saves.

    Attributes:
        least: fewer spend more than ``MOST_SHARE`` of the time in saves.
        most: more may lose more than ``MOST_LOST_SECONDS``.
        step: seconds of a step without a save.
        save: seconds of a save.
    """

    least: int
    most: int
    step: float
    save: float


def bounds(setup: Setup) -> Bounds:
    """Return the bounds of a setup's save interval."""
    step, save = step_time(setup).working / 1000, save_seconds(setup)
    least, most = ceil(save / (MOST_SHARE * step)), floor(MOST_LOST_SECONDS / step)
    return Bounds(max(1, least), max(1, most), step, save)


def interval(setup: Setup, max_steps: int) -> int:
    """Return the steps between checkpoints: a tenth of the run, within the bounds.

    Where both cannot hold, a save takes more than 9 s. Then at most 15 minutes are lost: a save's time is an assumption
    about the file system, and 1 % is a price that every run pays knowingly; lost work strikes unasked.
    """
    found = bounds(setup)
    return min(max(tenth(max_steps), found.least), found.most, max_steps)


def tenth(max_steps: int) -> int:
    """Return a tenth of a run, at least one step."""
    return max(1, max_steps // SAVES_PER_RUN)


def why(setup: Setup, max_steps: int) -> str:
    """Say which of the three decides."""
    found, steps = bounds(setup), interval(setup, max_steps)
    if steps == max_steps < found.least:
        return "at the end, since the run has no more steps"
    if steps == found.most < max(tenth(max_steps), found.least):
        return f"at most {MOST_LOST_SECONDS // 60} minutes of work lost"
    if steps == found.least > tenth(max_steps):
        return f"at most {MOST_SHARE:.0%} of the time for saves"
    return "a tenth of the run"


def warnings(setup: Setup, max_steps: int) -> Iterator[str]:
    """Yield which bounds a hand-written interval breaks, with the one that would do."""
    steps = setup.checkpoint_interval
    if steps is None:
        return
    found, better = bounds(setup), interval(setup, max_steps)
    if steps > found.most and better < steps:
        lost = steps * found.step
        yield (
            f"checkpoint.everyNSteps: {steps} steps are {lost / 60:.0f} minutes, which a fault may lose; at most "
            f"{MOST_LOST_SECONDS // 60} would be lost with {better}"
        )
    if steps < found.least and better > steps:
        share = found.save / (steps * found.step)
        yield (
            f"checkpoint.everyNSteps: {steps} spends {share:.1%} of the time in saves; at most {MOST_SHARE:.0%} with "
            f"{better}"
        )
