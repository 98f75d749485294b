"""What the monitor passes on: what a line says, what a run is meant to be, and what is told of it."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a line other than a step's says."""

    RANK = "a rank starts"
    REGISTERED = "all ranks of the job are there"
    FAILED_RANK = "torchrun names the rank that failed first"
    SAVED = "checkpoint saved"
    NOT_SAVED = "checkpoint not saved"
    RESTORED = "resumed from a checkpoint"
    FINISHED = "max_steps reached"
    FINISHED_BEFORE = "an earlier run reached max_steps"
    TIME_LIMIT = "stopped by the time limit"
    NAN = "NaN check failed"
    GPU_FAULT = "GPU, link or driver broken"
    DRIVER_MISMATCH = "driver does not match the image"
    WRONG_IMAGE = "image built for another GPU"
    TOO_FEW_GPUS = "more ranks than GPUs"
    DEVICE_ASSERT = "an index out of range on the GPU"
    CUDA_ERROR = "CUDA error"
    GPU_OOM = "GPU out of memory"
    HOST_OOM = "process killed"
    NETWORK_FAULT = "InfiniBand link broken"
    PORT_EVENT = "InfiniBand port went down"
    RDMA_REFUSED = "RDMA not usable in the pod"
    NCCL_TIMEOUT = "NCCL timeout"
    NCCL_ERROR = "NCCL error"
    DUPLICATE_GPU = "two ranks on one GPU"
    MISSING_RANKS = "ranks did not join"
    RENDEZVOUS_RETRY = "still trying to reach the master"
    RENDEZVOUS = "master not reached"
    SHARED_MEMORY = "shared memory too small"
    DISK_FULL = "disk full"
    TERMINATED = "SIGTERM"
    CRASH = "training process failed"
    SIGNAL = "process died from a signal"
    TRACEBACK = "Python traceback"


class StepRecord(NamedTuple):
    """One record of a step, as logged.

    Attributes:
        epoch: epoch, 0-based.
        n: optimizer steps that this process completed in this epoch.
        total: the bar's total (24.0x and 2.x: trainer.max_steps), if it has one.
        global_step: 0-based number of the last optimizer step whose metrics are shown.
        step_error: how far rounding may have moved ``global_step`` (0 = exact).
        loss: reduced_train_loss (may be NaN or infinite).
        seconds: train_step_timing, or the bar's s/it where there is none (1.x).
        consumed_samples: samples seen by all steps.
        samples_error: how far rounding may have moved ``consumed_samples`` (0 = exact).
        elapsed: the bar's clock (s).
        global_batch_size: samples a step, which only 2.x prints.

    """

    epoch: int
    n: int
    total: int | None
    global_step: float
    step_error: float
    loss: float | None
    seconds: float | None
    consumed_samples: float | None
    samples_error: float
    elapsed: float | None
    global_batch_size: int | None


class Notice(NamedTuple):
    """A line that says something about the run's health.

    Attributes:
        kind: what it says.
        line: the line, cleaned and shortened, as evidence.
        rank: the global rank that it comes from or names, where the line tells.
        value: the number that it carries: world size (RANK, REGISTERED, MISSING_RANKS), step
            (SAVED, RESTORED).
        raised: it is the exception that a traceback of its rank ends with.

    """

    kind: Kind
    line: str
    rank: int | None = None
    value: int | None = None
    raised: bool = False


Event = StepRecord | Notice


@dataclass(frozen=True)
class RunSettings:
    """What the run is meant to do, as far as it is known.

    Attributes:
        name: name to show.
        model: name in the catalog.
        max_steps: trainer.max_steps.
        global_batch_size: samples a step.
        gpus: GPUs of the whole job.
        tokens_per_sample: padded tokens of one sample.
        vocab_size: of the language model; sets the loss of random guessing, ln(vocab_size).
        planned_step_seconds: what the planner predicts for a step.
        flops_per_sample: model FLOPs that training on one sample needs.
        peak_flops: dense BF16 FLOP/s of one GPU (H100 SXM: 989.4e12, NVIDIA's data sheet).
        checkpoint_every: steps between checkpoints; 0 = checkpoints are off.

    """

    name: str = ""
    model: str = ""
    max_steps: int | None = None
    global_batch_size: int | None = None
    gpus: int | None = None
    tokens_per_sample: int | None = None
    vocab_size: int = 32000
    planned_step_seconds: float | None = None
    flops_per_sample: float | None = None
    peak_flops: float = 989.4e12
    checkpoint_every: int | None = None


class Point(NamedTuple):
    """One step for plots: ``attempt`` counts the starts of the training process from 1."""

    step: int
    loss: float | None
    seconds: float | None
    attempt: int


SERIES_POINTS = 2048
"""Points that a plot keeps; beyond that every second one is dropped."""


class Series:
    """The points of a run, thinned evenly so that memory does not grow; the newest always stays."""

    def __init__(self, limit: int = SERIES_POINTS) -> None:
        self._limit = limit
        self._stride = 1
        self._kept: list[Point] = []
        self._skipped = 0
        self._last: Point | None = None

    def append(self, point: Point) -> None:
        """Add the newest point."""
        self._last = point
        self._skipped += 1
        if self._skipped < self._stride:
            return
        self._skipped = 0
        self._kept.append(point)
        if len(self._kept) > self._limit:
            self._kept = self._kept[::2]
            self._stride *= 2

    def points(self) -> list[Point]:
        """Return the kept points, oldest first."""
        if self._last is None or (self._kept and self._kept[-1] == self._last):
            return list(self._kept)
        return [*self._kept, self._last]


@dataclass(frozen=True)
class Incident:
    """A bad sign in the log: the first line that showed it, and how often it came."""

    kind: Kind
    line: str
    rank: int | None
    count: int
    step: int | None


class Speed(NamedTuple):
    """Rates over the last steps; a field is None where its inputs are not known.

    Attributes:
        median: seconds of a step.
        p95: seconds of a step, 95th percentile.
        samples: samples/s of the job.
        samples_per_gpu: samples/s of one GPU.
        tokens: tokens/s of the job.
        mfu: model FLOP/s over the GPUs' peak, 0 to 1.
        of_plan: planned over measured step time; 1 = as planned, 0.5 = half as fast.

    """

    median: float
    p95: float
    samples: float | None
    samples_per_gpu: float | None
    tokens: float | None
    mfu: float | None
    of_plan: float | None
