"""What a run's state means: finished, failed, or needing attention. Pure: the time is an argument."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from neva_pod.monitor.advice import ADVICE, UNCAUGHT, Advice
from neva_pod.monitor.limits import DEFAULT_LIMITS, Limits
from neva_pod.monitor.patterns import HEADER
from neva_pod.monitor.records import Incident, Kind
from neva_pod.monitor.run import Run


class Severity(Enum):
    """How bad it is; the value is the exit code."""

    OK = 0
    FAILED = 1
    WARNING = 3


class Status(Enum):
    """Where the run stands, in one word."""

    STARTING = "starting"
    WAITING = "waiting"
    TRAINING = "training"
    STALLED = "stalled"
    ENDED = "ended early"
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True)
class Judgement:
    """One finding.

    Attributes:
        code: stable name, one of :data:`CODES`.
        level: how bad it is.
        title: what is the matter, in one line.
        evidence: the log line or the numbers that show it.
        cause: the likely cause.
        action: what to do next.
        rank: the global rank that shows it, if the log tells.

    """

    code: str
    level: Severity
    title: str
    evidence: str = ""
    cause: str = ""
    action: str = ""
    rank: int | None = None


_OF_NUMBERS = ("ended-early", "stalled", "random-loss", "slow", "checkpoint", "lost-progress")
CODES = tuple(dict.fromkeys(("finished", *(advice.code for advice in ADVICE.values()), *_OF_NUMBERS)))
"""All codes of findings, for scripts and metrics."""


def judge(run: Run, now: float, limits: Limits = DEFAULT_LIMITS) -> list[Judgement]:
    """Return what can be said of the run now, worst first, by the clock that fed the run."""
    found: list[Judgement] = []
    for check in _CHECKS:
        for judgement in check(run, now, limits):
            if all(j.code != judgement.code for j in found):
                found.append(judgement)
    severity = (Severity.FAILED, Severity.WARNING, Severity.OK)
    return sorted(found, key=lambda j: severity.index(j.level))


def exit_code(judgements: list[Judgement]) -> int:
    """0 all is well, 1 something failed, 3 something needs attention."""
    levels = {j.level for j in judgements}
    worst = next((level for level in (Severity.FAILED, Severity.WARNING) if level in levels), Severity.OK)
    return worst.value


def status(run: Run, judgements: list[Judgement]) -> Status:
    """Return the run's standing in one word."""
    codes = {j.code for j in judgements}
    if any(j.level is Severity.FAILED for j in judgements):
        return Status.STALLED if codes == {"stalled"} else Status.FAILED
    if "finished" in codes:
        return Status.FINISHED
    if "ended-early" in codes:
        return Status.ENDED
    if "stalled" in codes:
        return Status.STALLED
    return Status.STARTING if run.attempt_first_step is None else Status.TRAINING


def _finished(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if not run.is_finished:
        return
    action = "the checkpoint holds the projector only; keep the paths of its LLM and vision tower with it"
    if run.attempt_first_step is not None:
        yield Judgement("finished", Severity.OK, f"finished: {run.completed or 0} steps", run.finished, action=action)
        return
    steps = f"all {run.completed} steps" if run.completed else "all steps"
    yield Judgement(
        "finished",
        Severity.WARNING if run.finished_before else Severity.OK,
        f"finished before: {steps} were already done, this start ran none",
        run.finished_before or run.finished,
        "the results folder of this run.id holds a checkpoint of the last step",
        f"for more steps raise training.maxSteps, for another run change run.id; {action}",
    )


def _nan(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if run.nan_in_a_row >= limits.nan_in_a_row:
        advice = ADVICE[Kind.NAN]
        title = f"FAILED(nan): loss is not finite for {run.nan_in_a_row} steps"
        yield Judgement("nan", Severity.FAILED, title, run.nan_line, advice.cause, advice.action)


def _incidents(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if run.is_finished:
        return
    crashed = Kind.CRASH in run.incidents or run.ended
    for kind, advice in ADVICE.items():
        incident = run.incidents.get(kind)
        if incident is not None:
            level = Severity.FAILED if advice.fatal or (crashed and kind is not Kind.TERMINATED) else Severity.WARNING
            if kind is Kind.CRASH:
                incident, advice = _reason(run) or (incident, advice)
                incident = replace(incident, count=1)
            yield _from_incident(incident, advice, level)


def _reason(run: Run) -> tuple[Incident, Advice] | None:
    """Return what ended the process that Hydra or torchrun only says has failed."""
    raised = run.incidents.get(Kind.TRACEBACK)
    if raised and HEADER not in raised.line:
        return raised, UNCAUGHT
    signal = run.incidents.get(Kind.SIGNAL)
    return (signal, ADVICE[Kind.SIGNAL]) if signal else None


def _from_incident(incident: Incident, advice: Advice, level: Severity) -> Judgement:
    times = f" ({incident.count} times)" if incident.count > 1 else ""
    return Judgement(
        advice.code, level, advice.title + times, incident.line, advice.cause, advice.action, incident.rank
    )


def _ranks(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    advice = ADVICE[Kind.MISSING_RANKS]
    twice = run.duplicate_rank
    if twice is not None:
        duplicate = ADVICE[Kind.DUPLICATE_GPU]
        title = f"rank {twice.rank} started twice"
        yield Judgement("ranks", Severity.FAILED, title, twice.line, duplicate.cause, duplicate.action, twice.rank)
    gpus, world = run.settings.gpus, run.world_size
    if gpus is not None and world is not None and world != gpus:
        title = f"the job runs with {world} ranks, not one for each of its {gpus} GPUs"
        evidence = run.registered.line if run.registered else f"world size {world}"
        yield Judgement("ranks", Severity.FAILED, title, evidence, advice.cause, advice.action)


def _ended_early(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    where = f"step {run.completed or 0} of {run.max_steps or 'an unknown number'}"
    if run.stopped and not run.is_finished:
        yield Judgement(
            "ended-early",
            Severity.WARNING,
            f"stopped by the time limit at {where}",
            run.stopped,
            "max_time is shorter than the training",
            "start it again: it resumes from the last checkpoint",
        )
    elif run.ended and not run.is_finished:
        yield Judgement(
            "ended-early",
            Severity.FAILED if run.failed else Severity.WARNING,
            f"the log ends at {where}",
            run.ended,
            "the job was stopped, or only its log was cut off",
            "see `kubectl describe` of the job and its master pod",
        )


def _stalled(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if run.ended or run.is_finished or run.started_at is None:
        return
    since = run.last_step_at if run.last_step_at is not None else run.started_at
    if run.attempt_first_step is None and run.last_event_at is not None:
        since = max(since, run.last_event_at)
    limit, quiet = limits.stall_after(run), now - since
    if quiet > limit:
        speed = run.speed()
        usual = f", a step takes {speed.median:.3g} s" if speed else ""
        yield Judgement(
            "stalled",
            Severity.FAILED,
            f"no new step for {quiet:.0f} s",
            f"last step {run.completed or 0}; limit {limit:.0f} s{usual}",
            "a rank hangs (NCCL, storage) or died silently; or saving a checkpoint takes very long",
            "compare the logs of all pods; `py-spy dump` a rank; NCCL aborts a hang after its own timeout",
        )


def _random_loss(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    loss, step = run.loss, run.step
    guess = limits.random_share * math.log(run.settings.vocab_size)
    if loss is not None and step is not None and step >= limits.random_step and guess < loss < math.inf:
        yield Judgement(
            "random-loss",
            Severity.WARNING,
            f"loss {loss:.4g} at step {step}: no better than guessing",
            f"{limits.random_share:g} x ln({run.settings.vocab_size}) = {guess:.2f}",
            "LLM weights probably not loaded: their names do not match the model (load_llm_weights is not strict)",
            "stop the job; check that model_config.yaml of the .nemo has mcore_gpt: true and the preset's shape",
        )


def _slow(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    speed = run.speed()
    if speed is None or speed.of_plan is None or run.pace.lines < limits.slow_lines or run.is_finished:
        return
    if run.pace.steps < limits.slow_steps and run.pace.steps * speed.median < limits.slow_seconds:
        return
    if speed.of_plan < limits.slow_share:
        yield Judgement(
            "slow",
            Severity.WARNING,
            f"{speed.of_plan:.0%} of planned speed",
            f"median step {speed.median:.3g} s, planned {run.settings.planned_step_seconds:.3g} s",
            "NCCL over TCP instead of RDMA, slow data loading, a throttled GPU, or longer captions than planned",
            "look for `NET/Socket` with NCCL_DEBUG=INFO, at GPU clocks, and at the DataLoader's workers",
        )


def _checkpoint(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    every = run.settings.checkpoint_every
    if every == 0:
        return
    cause = "the monitored value is not logged (val_loss without validation), or the interval was never reached"
    action = (
        "set checkpoint.everyNSteps below the steps of the run, monitor `step` (the chart's default), and check that"
        " the results volume is writable"
    )
    if run.not_saved is not None and run.checkpoints == 0:
        yield Judgement("checkpoint", Severity.WARNING, "a checkpoint was not saved", run.not_saved.line, cause, action)
    elif every and run.attempt_first_step is not None and run.step is not None:
        since = max(run.checkpoint_step or 0, run.attempt_first_step)
        if run.step - since > limits.checkpoint_share * every:
            seen = "none so far" if run.checkpoint_step is None else f"last at step {run.checkpoint_step}"
            title = f"no checkpoint for {run.step - since} steps"
            yield Judgement(
                "checkpoint", Severity.WARNING, title, f"{seen}; expected every {every} steps", cause, action
            )


def _lost_progress(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if run.restarts and run.lost_steps > 0 and run.step is not None and run.step < run.best_step:
        yield Judgement(
            "lost-progress",
            Severity.WARNING,
            f"a restart lost {run.lost_steps} steps",
            f"step {run.best_step} was reached before, now {run.step}; {run.restarts} restarts",
            "no checkpoint of the later steps, or it was not found",
            "checkpoint.everyNSteps limits what a restart can lose; check that runs share run.id and its results path",
        )


_CHECKS: tuple[Callable[[Run, float, Limits], Iterator[Judgement]], ...] = (
    _finished,
    _nan,
    _incidents,
    _ranks,
    _ended_early,
    _stalled,
    _random_loss,
    _slow,
    _checkpoint,
    _lost_progress,
)
