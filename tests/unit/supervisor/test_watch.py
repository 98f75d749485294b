"""When a run counts as hung, by a clock of the test's own."""

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neva_pod.monitor.records import StepRecord
from neva_pod.supervisor.watch import NOT_FINITE_STEPS, Limits, StepWatch

LIMITS = Limits(start=1800, stall=120, save=900)


def record(
    step: int, loss: float | None = 1.0, *, seconds: float | None = None, shown: float | None = None
) -> StepRecord:
    """The bar after so many steps are done: its number counts from 0; ``shown``: what rounding makes of it."""
    number = step - 1 if shown is None else shown
    error = 0.0 if shown is None else 500.0
    return StepRecord(0, step, None, number, error, loss, seconds, None, 0.0, None, None)


def watched(seconds: Iterable[float], save_every: int = 0, max_steps: int = 10**6, patience: int = 1) -> StepWatch:
    """A run whose first step came at the first of these times."""
    watch = StepWatch(LIMITS, save_every, max_steps, 0.0, patience)
    for step, moment in enumerate(seconds, start=1):
        watch.read([record(step)], moment)
    return watch


def test_a_start_may_take_long() -> None:
    watch = StepWatch(LIMITS, 0, 100, 1000.0)
    assert watch.trouble(1000.0 + 1800) is None
    assert watch.trouble(1000.0 + 1801) == "no step and no output for 1801 s (restart.startSeconds 1800)"


def test_a_resumed_run_starts_anew() -> None:
    """R10: the first step after a resume is no step 1, and its start took as long."""
    watch = StepWatch(LIMITS, 0, 1000, 0.0)
    watch.read([record(218)], 700.0)
    assert watch.limit == 120
    assert watch.trouble(821.0) == "no new step for 121 s after step 218 (limit 120 s)"


@pytest.mark.parametrize(("seconds", "limit"), [(1.0, 120), (24.0, 120), (30.0, 150), (200.0, 1000)])
def test_five_times_the_median(seconds: float, limit: float) -> None:
    assert watched(seconds * n for n in range(1, 20)).limit == limit


@pytest.mark.parametrize(("seconds", "limit"), [(None, 120), (2.5, 120), (76.0, 380), (500.0, 2500), (math.inf, 120)])
def test_the_second_step_may_take_as_long_as_the_first_one_says(seconds: float | None, limit: float) -> None:
    """Where GPUs are few, a step takes minutes: the bar tells so before there are two to compare."""
    watch = StepWatch(LIMITS, 0, 10**6, 0.0)
    watch.read([record(1, seconds=seconds)], 700.0)
    assert watch.limit == limit


def test_output_counts_until_the_first_step() -> None:
    """A log whose steps are written in a way that is not known: the run must not end for that."""
    watch = StepWatch(LIMITS, 0, 100, 0.0)
    for now in range(0, 86400, 1700):
        assert watch.trouble(now) is None
        assert watch.blind(now) == (now > 1800)
        watch.hear(b"[step 17] some other printer\n", now)
    assert watch.trouble(now + 1801.0)
    watch.read([record(5)], now)
    watch.hear(b"a warning\n", now + 100.0)
    assert not watch.blind(now)
    assert watch.trouble(now + 121.0)


@pytest.mark.parametrize(
    "bar", [b"\rValidation: 0it [00:00, ?it/s]", b"\rValidation DataLoader 0:  10%|#", b"Validation iteration 1/50 |"]
)
def test_validation_may_take_long(bar: bytes) -> None:
    """Its DataLoader workers import NeMo, too; each batch of it moves, and its time is no step's."""
    watch = watched([10, 12, 14])
    watch.hear(bar, 15.0)
    assert watch.trouble(1815.0) is None
    watch.hear(bar, 1800.0)
    assert watch.trouble(3600.0) is None
    assert watch.trouble(3601.0)
    watch.read([record(4)], 3600.0)
    assert watch.limit == 120
    assert watch.trouble(3721.0)


def test_steps_that_are_rounded_still_move() -> None:
    """From 100,000 on tqdm keeps three digits: 1,000 steps look the same."""
    watch = StepWatch(LIMITS, 0, 10**6, 0.0)
    for number in range(100):
        now = 60.0 * number
        watch.read([record(123_001 + number, shown=123_000.0)], now)
        watch.read([record(123_001 + number, shown=123_000.0)], now + 0.5)
        assert watch.trouble(now + 60.0) is None
    assert watch.step == 123_001
    assert watch.trouble(now + 301.0)
    saves = StepWatch(LIMITS, 217, 10**6, 0.0)
    saves.read([record(123_001, shown=123_000.0)], 0.0)
    assert saves.limit == 900


@given(st.lists(st.floats(0.01, 500), min_size=1, max_size=100), st.integers(0, 90))
def test_no_step_shorter_than_the_limit_is_a_hang(waits: list[float], save_every: int) -> None:
    """Whatever the pace: a wait within the limit of the moment before is none."""
    now, watch = 100.0, StepWatch(LIMITS, save_every, 10**6, 0.0)
    watch.read([record(1)], now)
    for step, wait in enumerate(waits, start=2):
        limit = watch.limit
        assert limit >= LIMITS.stall
        assert (watch.trouble(now + wait) is not None) == (now + wait - now > limit)
        now += wait
        watch.read([record(step)], now)


def test_the_same_bar_twice_is_one_step() -> None:
    """NeMo draws each step twice, first with the old numbers at the new position."""
    watch = watched([10, 20, 30])
    watch.read([record(3), record(2)], 145.0)
    assert watch.step == 3
    assert watch.trouble(151.0)


@pytest.mark.parametrize("step", [216, 217, 433, 434])
def test_a_save_may_take_long(step: int) -> None:
    watch = StepWatch(LIMITS, 217, 2170, 0.0)
    watch.read([record(step)], 10.0)
    assert watch.limit == 900


@pytest.mark.parametrize("step", [1, 100, 215, 218, 2168])
def test_other_steps_may_not(step: int) -> None:
    watch = StepWatch(LIMITS, 217, 2170, 0.0)
    watch.read([record(step)], 10.0)
    assert watch.limit == 120


def test_the_end_of_the_run_may_take_long() -> None:
    watch = StepWatch(LIMITS, 0, 50, 0.0)
    watch.read([record(50)], 10.0)
    assert watch.limit == 900


def test_patience_is_for_the_step_alone() -> None:
    assert watched([10], patience=4).limit == 480
    assert StepWatch(LIMITS, 0, 50, 0.0, 4).limit == 1800


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_stays_no_number(loss: float) -> None:
    watch = watched([1.0])
    for step in range(2, 2 + NOT_FINITE_STEPS):
        assert not watch.lost
        watch.read([record(step, loss)], float(step))
    assert watch.lost


def test_a_loss_that_comes_back() -> None:
    watch = watched([1.0])
    for step in range(2, 100):
        watch.read([record(step, math.nan if step % 5 else 1.0)], float(step))
        assert not watch.lost
    watch.read([record(100, None)], 100.0)
    assert not watch.lost
