"""What a run's state means: finished, failed, or to be looked at. Pure: the time is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from neva_pod.monitor.parser import HEADER, Kind
from neva_pod.monitor.run import Incident, Run


class Level(Enum):
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
class Limits:
    """When a sign becomes an alarm.

    Attributes:
        nan_in_a_row: steps with nothing but NaN or infinite losses; a single one can pass (a skipped
            fp16 step).
        random_share: a loss above this share of ln(vocabulary) is no better than guessing.
        random_step: from which step on that is judged.
        stall_steps: median step times without a new step.
        stall_lines: the same in lines of the log, where the bar is drawn every so many steps.
        stall_seconds: never call a stall before this.
        save_seconds: the same while a checkpoint is written, or twice the longest one so far.
        start_seconds: time before the first step, for loading and for DataLoader workers, which NeMo spawns
            and which import NeMo each: seen 190 s with 8 of them, 85 s with 2 (one H100, 16 cores).
        slow_share: share of the planned speed below which the run is slow.
        slow_steps: steps before speed is judged ...
        slow_seconds: ... or this much training, if that is sooner (slow steps).
        slow_lines: step times that make a median: one of them may be that of a warm-up.
        checkpoint_share: checkpoint intervals without any checkpoint.

    """

    nan_in_a_row: int = 3
    random_share: float = 0.9
    random_step: int = 50
    stall_steps: float = 10
    stall_lines: float = 3
    stall_seconds: float = 300
    save_seconds: float = 900
    start_seconds: float = 2700
    slow_share: float = 0.8
    slow_steps: int = 20
    slow_seconds: float = 600
    slow_lines: int = 3
    checkpoint_share: float = 1.5

    def stall_after(self, run: Run) -> float:
        """Seconds without a new step that make a stall."""
        speed = run.speed()
        if run.attempt_first_step is None or speed is None:
            return self.start_seconds
        line = speed.median * run.steps_a_line
        limit = max(self.stall_seconds, self.stall_steps * speed.median, self.stall_lines * line)
        return max(limit, self.save_seconds + line, 2 * run.longest_save) if run.is_saving else limit


DEFAULT_LIMITS = Limits()


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
    level: Level
    title: str
    evidence: str = ""
    cause: str = ""
    action: str = ""
    rank: int | None = None


@dataclass(frozen=True)
class _Advice:
    code: str
    title: str
    cause: str
    action: str
    fatal: bool = True


_AVOID = (
    "`kubectl get pods -o wide` shows the node of that rank's pod: add it to scheduling.avoidNodes and have its GPUs"
    " tested (`dmesg | grep Xid`, `dcgmi diag -r 3`)"
)

_ADVICE: dict[Kind, _Advice] = {
    Kind.GPU_FAULT: _Advice(
        "gpu-error",
        "a GPU, its link or its driver failed",
        "broken hardware: memory (ECC), NVLink, bus, or a driver that lost the GPU; no setting of the run causes it",
        f"{_AVOID}; start again: it resumes from the last checkpoint",
    ),
    Kind.DEVICE_ASSERT: _Advice(
        "gpu-error",
        "a check in a CUDA kernel failed (device-side assert)",
        "an index out of range, most often a token id beyond the vocabulary: tokenizer and LLM do not belong together",
        "compare the tokenizer's pieces with the LLM's vocabulary, run once with CUDA_LAUNCH_BLOCKING=1; if only one "
        "node ever shows it, scheduling.avoidNodes",
    ),
    Kind.CUDA_ERROR: _Advice(
        "gpu-error",
        "CUDA error",
        "a failing GPU, link or driver, or a kernel that touched memory that is not its own",
        f"{_AVOID} if that node shows it again; if it moves from node to node it is software: run once with "
        "CUDA_LAUNCH_BLOCKING=1 to see which call",
    ),
    Kind.NAN: _Advice(
        "nan",
        "FAILED(nan): a rank found NaN in its gradients",
        "learning rate too high for this global batch size, or a damaged sample or checkpoint",
        "restart from the last checkpoint with a lower training.learningRate or a longer warm-up; "
        "if one rank is always the first, test its GPU",
    ),
    Kind.GPU_OOM: _Advice(
        "gpu-oom",
        "a GPU ran out of memory",
        "micro batch too large for this tensor parallel size, or another process on the GPU",
        "halve training.microBatchSize (the global batch size stays) or raise"
        " training.tensorParallelSize; neva-values shows the memory of a plan",
    ),
    Kind.HOST_OOM: _Advice(
        "host-oom",
        "a process was killed or found no memory",
        "most often the container's memory limit, while weights are loaded or by DataLoader workers",
        "look for OOMKilled in `kubectl describe pod`; raise resources.memory or lower the number of workers",
    ),
    Kind.SHARED_MEMORY: _Advice(
        "shared-memory",
        "/dev/shm is too small",  # noqa: S108 (a message)
        "the pod has the 64 MiB default, or its memory-backed volume is full; a bus error may also be a mapped "
        "file that was cut",
        "mount an emptyDir with medium: Memory at /dev/shm (the chart does) and raise its size limit",
    ),
    Kind.DISK_FULL: _Advice(
        "disk-full",
        "no space left on a disk",
        "results volume or its quota is full of checkpoints, or /tmp is full of an unpacked .nemo file",
        "free space or raise the quota; keep fewer checkpoints (checkpoint.saveTopK); unpack the .nemo once beforehand",
    ),
    Kind.DUPLICATE_GPU: _Advice(
        "ranks",
        "two ranks use the same GPU",
        "the same node rank twice, or fewer GPUs visible than processes started",
        "let the operator set PET_NODE_RANK, and check that each pod has gpusPerNode GPUs",
    ),
    Kind.MISSING_RANKS: _Advice(
        "ranks",
        "ranks are missing: not all of them joined",
        "a pod that is not running, or the same node rank twice",
        "`kubectl get pods` must show every Worker Running; look at the log of the missing ones",
    ),
    Kind.NCCL_TIMEOUT: _Advice(
        "nccl-timeout",
        "NCCL timeout: a collective did not end",
        "one rank died, hangs or is far behind; the rank that times out is rarely the one to blame",
        "look for the first error in the other pods' logs and for a sick GPU or link on their nodes (dmesg: Xid)",
    ),
    Kind.NCCL_ERROR: _Advice(
        "nccl-error",
        "NCCL error",
        "network device or memory lock limit not usable in the pod, or a peer that died",
        "set NCCL_DEBUG=INFO and look at the first NCCL WARN line; check rdma, IPC_LOCK and NCCL_SOCKET_IFNAME",
    ),
    Kind.RENDEZVOUS: _Advice(
        "rendezvous",
        "ranks cannot reach the master",
        "its name does not resolve or its port is closed: master pod not running, network policy, wrong MASTER_ADDR",
        "check that the master pod runs and that its Service has an endpoint: `kubectl get endpoints`",
    ),
    Kind.RENDEZVOUS_RETRY: _Advice(
        "rendezvous",
        "still trying to reach the master",
        "the master pod is slower to start (image pull), or its name does not resolve",
        "wait a few minutes; then check that the master pod runs and that its Service has an endpoint",
        fatal=False,
    ),
    Kind.CRASH: _Advice(
        "crash",
        "the training process failed",
        "see the exception above this line in the log of the rank named",
        "read the log of that rank from its first Traceback on",
    ),
    Kind.SIGNAL: _Advice(
        "crash",
        "a process died of a signal",
        "a crash in native code, or an abort after an error that the lines before tell",
        "read the log of that rank before this line; if only one node ever shows it, scheduling.avoidNodes",
    ),
    Kind.TRACEBACK: _Advice(
        "crash",
        "a Python exception in the log",
        "see the log; an exception that is caught does no harm",
        "read the log from there on, if no steps follow",
        fatal=False,
    ),
    Kind.TERMINATED: _Advice(
        "terminated",
        "the job was told to stop (SIGTERM)",
        "preempted, deleted, or its node was drained",
        "see `kubectl get events`; it resumes from the last checkpoint when it is started again",
        fatal=False,
    ),
}
"""From the most to the least telling: one cause often leaves several of these lines."""

_UNCAUGHT = _Advice(
    "crash",
    "the training process failed",
    "an exception that nothing caught, shown as evidence",
    "read its traceback, just above that line in the log",
)

CODES = (
    "finished",
    "gpu-error",
    "nan",
    "gpu-oom",
    "host-oom",
    "shared-memory",
    "disk-full",
    "ranks",
    "nccl-timeout",
    "nccl-error",
    "rendezvous",
    "crash",
    "terminated",
    "ended-early",
    "stalled",
    "random-loss",
    "slow",
    "checkpoint",
    "lost-progress",
)
"""All codes of judgements, for scripts and metrics."""


def judge(run: Run, now: float, limits: Limits = DEFAULT_LIMITS) -> list[Judgement]:
    """Return what can be said of the run now, worst first, by the clock that fed the run."""
    found: list[Judgement] = []
    for check in _CHECKS:
        for judgement in check(run, now, limits):
            if all(j.code != judgement.code for j in found):
                found.append(judgement)
    severity = (Level.FAILED, Level.WARNING, Level.OK)
    return sorted(found, key=lambda j: severity.index(j.level))


def exit_code(judgements: list[Judgement]) -> int:
    """0 all is well, 1 something failed, 3 something is to be looked at."""
    levels = {j.level for j in judgements}
    worst = next((level for level in (Level.FAILED, Level.WARNING) if level in levels), Level.OK)
    return worst.value


def status(run: Run, judgements: list[Judgement]) -> Status:
    """Return the run's standing in one word."""
    codes = {j.code for j in judgements}
    if any(j.level is Level.FAILED for j in judgements):
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
        yield Judgement("finished", Level.OK, f"finished: {run.completed or 0} steps", run.finished, action=action)
        return
    steps = f"all {run.completed} steps" if run.completed else "all steps"
    yield Judgement(
        "finished",
        Level.WARNING if run.finished_before else Level.OK,
        f"finished before: {steps} were already done, this start made none",
        run.finished_before or run.finished,
        "the results folder of this run.id holds a checkpoint of the last step",
        f"for more steps raise training.maxSteps, for another run change run.id; {action}",
    )


def _nan(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if run.nan_in_a_row >= limits.nan_in_a_row:
        advice = _ADVICE[Kind.NAN]
        title = f"FAILED(nan): loss is not finite for {run.nan_in_a_row} steps"
        yield Judgement("nan", Level.FAILED, title, run.nan_line, advice.cause, advice.action)


def _incidents(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if run.is_finished:
        return
    crashed = Kind.CRASH in run.incidents or run.ended
    for kind, advice in _ADVICE.items():
        incident = run.incidents.get(kind)
        if incident is not None:
            level = Level.FAILED if advice.fatal or (crashed and kind is not Kind.TERMINATED) else Level.WARNING
            if kind is Kind.CRASH:
                incident, advice = _reason(run) or (incident, advice)
                incident = replace(incident, count=1)
            yield _from_incident(incident, advice, level)


def _reason(run: Run) -> tuple[Incident, _Advice] | None:
    """Return what ended the process that Hydra or torchrun only says has failed."""
    raised = run.incidents.get(Kind.TRACEBACK)
    if raised and HEADER not in raised.line:
        return raised, _UNCAUGHT
    signal = run.incidents.get(Kind.SIGNAL)
    return (signal, _ADVICE[Kind.SIGNAL]) if signal else None


def _from_incident(incident: Incident, advice: _Advice, level: Level) -> Judgement:
    times = f" ({incident.count} times)" if incident.count > 1 else ""
    return Judgement(
        advice.code,
        level,
        advice.title + times,
        incident.line,
        advice.cause,
        advice.action,
        incident.rank,
    )


def _ranks(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    advice = _ADVICE[Kind.MISSING_RANKS]
    twice = run.duplicate_rank
    if twice is not None:
        duplicate = _ADVICE[Kind.DUPLICATE_GPU]
        title = f"rank {twice.rank} started twice"
        yield Judgement("ranks", Level.FAILED, title, twice.line, duplicate.cause, duplicate.action, twice.rank)
    gpus, world = run.settings.gpus, run.world_size
    if gpus is not None and world is not None and world != gpus:
        title = f"the job runs with {world} ranks, not with one for each of its {gpus} GPUs"
        evidence = run.registered.line if run.registered else f"world size {world}"
        yield Judgement("ranks", Level.FAILED, title, evidence, advice.cause, advice.action)


def _ended_early(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    where = f"step {run.completed or 0} of {run.max_steps or 'an unknown number'}"
    if run.stopped and not run.is_finished:
        yield Judgement(
            "ended-early",
            Level.WARNING,
            f"stopped by the time limit at {where}",
            run.stopped,
            "max_time is shorter than the training",
            "start it again: it resumes from the last checkpoint",
        )
    elif run.ended and not run.is_finished:
        yield Judgement(
            "ended-early",
            Level.FAILED if run.failed else Level.WARNING,
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
            Level.FAILED,
            f"no new step for {quiet:.0f} s",
            f"last step {run.completed or 0}; limit {limit:.0f} s{usual}",
            "a rank hangs (NCCL, storage) or died without a word; or a checkpoint takes very long",
            "compare the logs of all pods; `py-spy dump` a rank; NCCL ends a hang after its own timeout",
        )


def _random_loss(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    loss, step = run.loss, run.step
    guess = limits.random_share * math.log(run.settings.vocab_size)
    if loss is not None and step is not None and step >= limits.random_step and guess < loss < math.inf:
        yield Judgement(
            "random-loss",
            Level.WARNING,
            f"loss {loss:.4g} at step {step}: no better than guessing",
            f"{limits.random_share:g} x ln({run.settings.vocab_size}) = {guess:.2f}",
            "LLM weights probably not loaded: their names do not match the model (load_llm_weights is not strict)",
            "stop the job; check that model_config.yaml of the .nemo has mcore_gpt: true and the preset's shape",
        )


def _slow(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    speed = run.speed()
    if speed is None or speed.of_plan is None or run.timed_lines < limits.slow_lines or run.is_finished:
        return
    if run.timed_steps < limits.slow_steps and run.timed_steps * speed.median < limits.slow_seconds:
        return
    if speed.of_plan < limits.slow_share:
        yield Judgement(
            "slow",
            Level.WARNING,
            f"{speed.of_plan:.0%} of plan",
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
        "monitor reduced_train_loss or step, set every_n_train_steps, and check that the results volume is writable"
    )
    if run.not_saved is not None and run.checkpoints == 0:
        yield Judgement(
            "checkpoint",
            Level.WARNING,
            "a checkpoint was not saved",
            run.not_saved.line,
            cause,
            action,
        )
    elif every and run.attempt_first_step is not None and run.step is not None:
        since = max(run.checkpoint_step or 0, run.attempt_first_step)
        if run.step - since > limits.checkpoint_share * every:
            seen = "none so far" if run.checkpoint_step is None else f"last at step {run.checkpoint_step}"
            title = f"no checkpoint for {run.step - since} steps"
            yield Judgement(
                "checkpoint",
                Level.WARNING,
                title,
                f"{seen}; expected every {every} steps",
                cause,
                action,
            )


def _lost_progress(run: Run, now: float, limits: Limits) -> Iterator[Judgement]:
    if run.restarts and run.lost_steps > 0 and run.step is not None and run.step < run.best_step:
        yield Judgement(
            "lost-progress",
            Level.WARNING,
            f"a restart went back by {run.lost_steps} steps",
            f"step {run.best_step} was reached before, now {run.step}; {run.restarts} restarts",
            "no checkpoint of the later steps, or it was not found",
            "checkpoint.everyNSteps sets what a restart may cost; check that runs share run.id and its results path",
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
