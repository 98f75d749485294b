"""The state of a run: what counts as a step, what as a restart, and the rates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neva_pod.monitor.pace import LAG, RECENT_STEPS
from neva_pod.monitor.records import Point, RunSettings, Series
from neva_pod.monitor.run import Run
from tests.unit.monitor.nemo_logs import (
    HYDRA,
    REGISTERED,
    SAMPLES,
    SOURCE_DOCUMENT,
    TORCHRUN,
    bar,
    parse,
    ranks,
    run_of,
)

RESTORED = "Restoring states from the checkpoint path at /r/neva--step={}-last.ckpt\n"


@pytest.mark.parametrize(
    ("sample", "progress"),
    [
        ("S1", (795, 77225)),
        ("S2", (2, 128)),
        ("S3", (57, 128)),
        ("S4", (2000, 2000)),
        ("S5", (2000, 603000)),
        ("S6", (6024, 10000)),
        ("S7", (2, None)),
        ("S8", (200, 4000)),
        ("S9", (122, 150)),
    ],
)
def test_progress_of_samples(sample: str, progress: tuple[int, int | None]) -> None:
    """Steps completed and to do, never by the bar's own percentage (L01, L02, L05)."""
    run = run_of(SAMPLES[sample])
    assert (run.completed, run.max_steps) == progress


def test_source_document_is_finished() -> None:
    """The bar shows 2 %, but global_step 2169 of 2170 is the last one."""
    run = run_of(SOURCE_DOCUMENT, global_batch_size=1024)
    assert (run.completed, run.max_steps, run.is_finished) == (2170, 2170, True)
    assert run.consumed_samples == (2170 * 1024, False)


def test_l01_samples_are_exact_once_the_batch_is_known() -> None:
    """L01: three digits are approximate; (step + 1) x GBS is exact; capped at max_steps."""
    assert run_of(SAMPLES["S4"]).consumed_samples == (256000, True)
    assert run_of(SAMPLES["S4"], global_batch_size=128).consumed_samples == (256000, False)
    assert run_of(SAMPLES["S4"], max_steps=2000).completed == 2000


def test_l01_rounded_steps_are_made_exact_by_the_bar() -> None:
    """L01: 1995 to 2005 all print as 2e+3; the bar tells them apart, in a resumed epoch as well."""
    run = Run()
    for step in range(1900, 2100):
        run.update(parse(bar(step, n=step - 1800)), step)
        assert run.completed == step + 1
    assert run.restarts == 0


def test_l02_total_only_if_given() -> None:
    """L02: a bar without total."""
    run = run_of(SAMPLES["S7"], max_steps=500)
    assert (run.completed, run.max_steps) == (2, 500)
    assert run.seconds_left() == pytest.approx(498 * 3.37)


def test_l07_step_time_and_eta_past_99_hours() -> None:
    """L07: step time from s/it; the time left is ours, not the bar's."""
    run = run_of(SAMPLES["S1"])
    assert run.seconds_left() == pytest.approx((77225 - 795) * 41.36)


def test_l08_lag_and_duplicates_count_once() -> None:
    """L08: bar 57, 58, 59 with global_step 56, 56, 58."""
    run = run_of(bar(56, n=57) + bar(56, n=58) + bar(58, n=59))
    assert run.completed == 59
    assert [p.step for p in run.series.points()] == [57, 59]


def test_epochs_go_on_counting() -> None:
    """The bar begins anew in each epoch, global_step does not."""
    text = "".join(bar(n) for n in range(100))
    text += "".join(bar(n, n=n - 99, epoch=1) for n in range(100, 180))
    run = run_of(text)
    assert (run.completed, run.restarts) == (180, 0)


def test_restart_with_a_checkpoint() -> None:
    """A process that starts again and resumes: back to its step, counted once."""
    text = ranks(8) + REGISTERED.format(8) + "".join(bar(n) for n in range(300))
    text += ranks(8) + REGISTERED.format(8) + RESTORED.format(217) + bar(217, n=1)
    run = run_of(text)
    assert (run.completed, run.restarts, run.lost_steps) == (218, 1, 83)
    assert (run.duplicate_rank, run.world_size) == (None, 8)
    assert [p.attempt for p in run.series.points()][-2:] == [1, 2]


@pytest.mark.parametrize("resumed", [217, 0])
def test_restart_that_only_the_steps_show(resumed: int) -> None:
    """Without any message a restart is believed when two records agree."""
    run = run_of("".join(bar(n) for n in range(300)) + bar(resumed, n=1))
    assert (run.completed, run.restarts) == (300, 0)
    run.update(parse(bar(resumed + 1, n=2)), 1)
    assert (run.completed, run.restarts, run.lost_steps) == (resumed + 2, 1, 300 - resumed)


def test_restart_before_the_first_step() -> None:
    """A first attempt that died while it loaded is a restart, and no duplicate rank."""
    run = run_of(ranks(8) + REGISTERED.format(8) + 2 * (ranks(8) + REGISTERED.format(8)) + bar(0))
    assert (run.restarts, run.completed, run.duplicate_rank) == (2, 1, None)


def test_first_resume_is_no_restart() -> None:
    """A job that begins from the checkpoint of an earlier job."""
    run = run_of(ranks(8) + REGISTERED.format(8) + RESTORED.format(868) + bar(868, n=1))
    assert (run.completed, run.restarts) == (869, 0)


def test_old_text_again_is_no_restart() -> None:
    """Lines that are shown again (a reconnected stream) do not move the step back."""
    text = "".join(bar(n) for n in range(100))
    run = run_of(text + "".join(bar(n) for n in range(60, 100)))
    assert (run.completed, run.restarts, len(run.series.points())) == (100, 0, 100)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("global_step=59.00", "global_step=99.00"),
        ("global_step=59.00", "global_step=5.00"),
        ("global_step=59.00", "global_step=9e+8"),
        (" 60/2170", " 6/2170"),
        (" 60/2170", " 600/2170"),
        ("Epoch 0", "Epoch 7"),
    ],
)
def test_a_damaged_record_does_not_move_the_step(good: str, bad: str) -> None:
    """One wrong number among right ones is not believed."""
    damaged = bar(59).replace(good, bad)
    assert damaged != bar(59)
    run = run_of("".join(bar(n) for n in range(59)) + damaged)
    assert run.completed in (59, 60)
    run.update(parse(bar(60) + bar(61)), 1)
    assert (run.completed, run.restarts) == (62, 0)


def test_a_damaged_first_record_gives_way() -> None:
    """The first record has nothing to be checked against; the second corrects it."""
    run = run_of(bar(0).replace("global_step=0.000", "global_step=900.0") + bar(1))
    assert (run.completed, run.restarts) == (2, 0)
    assert [p.step for p in run.series.points()] == [2]


def test_a_gap_in_the_log_is_crossed() -> None:
    """Records that are missing: the second one after the gap confirms the first."""
    text = "".join(bar(n, n=n - 40) for n in range(50, 60))
    run = run_of(text + bar(400, n=10, epoch=2) + bar(401, n=11, epoch=2))
    assert (run.completed, run.restarts) == (402, 0)


def test_metrics_of_every_tenth_step() -> None:
    """Metrics that are up to LAG steps behind the bar."""
    run = run_of("".join(bar(n // LAG * LAG, n=n + 1) for n in range(95)))
    assert run.completed == 91


def test_not_finite_losses() -> None:
    """L09: each is counted, in a row as well; a finite one ends the row."""
    run = run_of(bar(0) + bar(1, loss=math.nan) + bar(2, loss=math.inf) + bar(3))
    assert (run.nan_total, run.nan_in_a_row, run.loss) == (2, 0, 2.5)
    run.update(parse(bar(4, loss=math.nan)), 1)
    assert (run.nan_total, run.nan_in_a_row) == (3, 1)
    assert run.nan_line == "step 5: reduced_train_loss=nan"


def test_speed() -> None:
    """Rates over the last steps; what is not known stays unknown."""
    run = run_of(
        "".join(bar(n, seconds=2.0 if n % 20 else 9.0) for n in range(200)),
        global_batch_size=256,
        gpus=8,
        tokens_per_sample=640,
        planned_step_seconds=1.5,
        flops_per_sample=20e12,
        peak_flops=1e15,
    )
    speed = run.speed()
    assert speed is not None
    assert (speed.median, speed.p95, speed.samples, speed.samples_per_gpu) == (2, 2, 128, 16)
    assert (speed.tokens, speed.of_plan) == (81920, 0.75)
    assert speed.mfu == pytest.approx(0.32)
    assert run_of(bar(1)).speed()._replace(median=0, p95=0) == (0, 0, *[None] * 5)  # type: ignore[union-attr]
    assert Run().speed() is None


def test_time_left_counts_what_lies_between_steps() -> None:
    """The bar's clock includes saving and loading; step time alone would promise too much."""
    slow = [
        bar(n, seconds=2.0).replace("train_step_timing in s=2.000", "train_step_timing in s=1.0") for n in range(100)
    ]
    run = run_of("".join(slow), max_steps=200)
    assert run.seconds_left() == pytest.approx(200, rel=0.02)
    assert Run().seconds_left() is None


def test_checkpoints_are_kept_by_step_and_time() -> None:
    """The step comes from the message."""
    run = run_of(bar(216))
    saved = "Epoch 0, global step 217: 'step' reached 217.0 (best 217.0), saving model to '/r/x'\n"
    run.update(parse(saved), 1000.0)
    assert (run.checkpoints, run.checkpoint_step, run.checkpoint_at) == (1, 217, 1000.0)


def test_incidents_are_history_once_steps_follow() -> None:
    """A complaint before a later step did not stop the training."""
    run = run_of(bar(0) + "\nValueError: x\n" + "KeyError: y\n")
    (incident,) = run.incidents.values()
    assert (incident.line, incident.count, incident.step) == ("ValueError: x", 2, 1)
    run.update(parse(bar(1)), 1)
    assert (run.incidents, [i.line for i in run.past]) == ({}, ["ValueError: x"])


def test_torchrun_names_the_rank() -> None:
    """The rank in torchrun's summary goes to incidents that have none."""
    run = run_of("ChildFailedError:\n  rank      : 5 (local_rank: 5)\n")
    assert [i.rank for i in run.incidents.values()] == [5]


@given(st.integers(1, 5000), st.integers(2, 64))
def test_series_is_bounded_and_keeps_the_newest(count: int, limit: int) -> None:
    """Thinned evenly, in order, newest last."""
    series = Series(limit)
    for step in range(count):
        series.append(Point(step, None, None, 1))
    kept = [p.step for p in series.points()]
    assert len(kept) <= limit + 1
    assert kept == sorted(set(kept))
    assert kept[-1] == count - 1


@pytest.mark.slow
def test_state_does_not_grow() -> None:
    """Constant memory, however long the run."""
    run = Run(RunSettings())
    for step in range(20_000):
        run.update(parse(bar(step, total=10**6)), step)
    assert len(run.pace._seconds) == len(run.pace._clock) == RECENT_STEPS
    assert len(run.series.points()) <= 2049


def test_a_finished_run_that_is_resumed_is_no_longer_finished() -> None:
    """The launch script appends to the log of the run id: more steps, the same file."""
    done = ranks(8) + REGISTERED.format(8) + bar(0) + bar(1) + "\n`Trainer.fit` stopped: `max_steps=2` reached.\n"
    assert run_of(done).is_finished
    run = run_of(done + ranks(8) + RESTORED.format(2) + bar(2), max_steps=9)
    assert (run.completed, run.is_finished, run.restarts) == (3, False, 1)


def test_nan_of_the_last_process_is_not_this_ones() -> None:
    """A restart begins with finite weights again."""
    nan = "".join(bar(n, loss=math.nan) for n in range(3))
    assert run_of(ranks(8) + nan).nan_in_a_row == 3
    run = run_of(ranks(8) + nan + "\n" + ranks(8))
    assert (run.nan_in_a_row, run.nan_total) == (0, 3)


def test_r09_a_bar_that_goes_on_after_a_resume() -> None:
    """R09: with Lightning 2.4 the bar of the new process begins where the old one was, its clock anew."""
    text = ranks(8) + REGISTERED.format(8) + "".join(bar(n) for n in range(300))
    again = ranks(8) + REGISTERED.format(8)
    for restored in (RESTORED.format(217), ""):
        run = run_of(text + again + restored + "".join(bar(n) for n in range(217, 230)))
        assert (run.completed, run.restarts, run.lost_steps) == (230, 1, 83)


def test_r09_a_bar_that_goes_on_is_no_text_shown_again() -> None:
    """R09: without a message the clock tells them apart."""
    text = "".join(bar(n) for n in range(300))
    resumed = [bar(n).replace(bar(n)[bar(n).index("[") :].split("<")[0], f"[00:{n - 200:02}") for n in range(217, 230)]
    run = run_of(text + "".join(resumed))
    assert (run.completed, run.restarts, run.lost_steps) == (230, 1, 83)
    run = run_of(text + "".join(bar(n) for n in range(217, 230)))
    assert (run.completed, run.restarts) == (300, 0)


def test_r07_the_rank_is_that_of_the_root_cause() -> None:
    """R07: torchrun lists ranks that it saw fail later before the one that failed first."""
    summary = TORCHRUN.format(code=1, rank=3, signal="To enable traceback see: x")
    run = run_of(HYDRA.format("KeyError: 'x'") + summary)
    assert {i.rank for i in run.incidents.values()} == {3}


@pytest.mark.parametrize("every", [1, 10, 100])
def test_u09_speed_is_taken_over_steps_not_lines(every: int) -> None:
    """U09: the same run, however often the bar is drawn."""
    run = run_of("".join(bar(n, total=5000, seconds=2.0 if n > 3400 else 9.0) for n in range(0, 4500, every)))
    speed = run.speed()
    assert speed is not None
    assert speed.median == 2.0
    assert run.pace.steps_a_line == every


def test_u09_speed_by_the_clock_where_no_step_time_is_logged() -> None:
    """log_step_timing can be off; the bar still has its clock."""
    text = "".join(bar(n, seconds=2.0).replace(", train_step_timing in s=2.000", "") for n in range(0, 100, 5))
    speed = run_of(text).speed()
    assert speed is not None
    assert speed.median == pytest.approx(2.0, rel=0.05)
