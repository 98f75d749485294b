"""One setup as the planner sees it: what it costs, whether it fits, and what to say where it does not."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from neva_pretrain import chart
from neva_pretrain.errors import Violation
from neva_pretrain.model.hardware import GIB
from neva_pretrain.plan.memory import Memory, memory
from neva_pretrain.plan.plan import SAMPLES_PER_EPOCH, steps_for
from neva_pretrain.plan.setup import Setup
from neva_pretrain.plan.time import StepTime, start_seconds, step_time

PADDING = 64
"""Tokens by which a longer caption lengthens all samples of its micro batch."""
_SPARE = 4 * GIB


@dataclass(frozen=True)
class Candidate:
    """A setup that fits, and what it costs."""

    setup: Setup
    memory: Memory
    time: StepTime
    samples: int = SAMPLES_PER_EPOCH

    @classmethod
    def of(cls, setup: Setup, samples: int = SAMPLES_PER_EPOCH) -> Self:
        """Return a setup with what it costs, whether it fits or not."""
        return cls(setup, memory(setup), step_time(setup), samples)

    @property
    def headroom(self) -> int:
        """Bytes that stay free."""
        return self.memory.headroom(self.setup.gpu)

    @property
    def is_tight(self) -> bool:
        """Whether a longer caption, or 4 GiB that nobody accounts for, would not fit."""
        longer = replace(self.setup, tokens_per_sample=self.setup.tokens_per_sample + PADDING)
        return self.headroom < max(_SPARE, memory(longer).total - self.memory.total)

    @property
    def rate(self) -> float:
        """Samples a second and GPU."""
        return self.time.samples_per_second_per_gpu

    @property
    def steps(self) -> int:
        """Optimizer steps to see all samples."""
        return steps_for(self.samples, self.setup.global_batch_size)

    @property
    def seconds(self) -> float:
        """Seconds to the end, start and saves included, with the chart's DataLoader workers and a fast file system."""
        return start_seconds(chart.defaults()["data"]["workers"]) + self.steps * self.time.total / 1000

    @property
    def gpu_hours(self) -> float:
        """GPU-hours to the end."""
        return self.seconds * self.setup.world_size / 3600


class Refusal(NamedTuple):
    """A parallelism, or from some micro batch size on, that is not possible."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    micro_batch_size: int | None
    reason: Violation


def memory_sum(used: Memory) -> str:
    """Return the sum by part in GiB: ``weights 12.6 + vision 0.6 + ... = 58.0 GiB``."""
    names = {"projector_and_optimizer": "projector and optimizer", "context": "CUDA and NCCL"}
    parts = [
        f"{names.get(name, name)} {size / GIB:.1f}" for name, size in used.parts._asdict().items() if size >= 0.05 * GIB
    ]
    return f"{' + '.join(parts)} = {used.total / GIB:.1f} GiB"


def memory_violation(setup: Setup, nearest: Setup | None = None) -> Violation:
    """Return what is broken by a setup that does not fit: the sum by part, and what to change."""
    need = f"needs {memory_sum(memory(setup))}"
    fix = f"use {difference(setup, nearest)}" if nearest else "use a larger tensorParallelSize"
    return Violation(
        "training.microBatchSize",
        f"{setup.micro_batch_size} at tensorParallelSize {setup.tensor_parallel_size}",
        f"must fit in the {setup.gpu.memory_gib:.1f} GiB of an {setup.gpu.title}, but {need}",
        fix,
    )


def difference(setup: Setup, other: Setup) -> str:
    """Say in values what to change."""
    values = (
        ("tensorParallelSize", setup.tensor_parallel_size, other.tensor_parallel_size),
        ("microBatchSize", setup.micro_batch_size, other.micro_batch_size),
        ("sequenceParallel", setup.sequence_parallel, other.sequence_parallel),
        ("recompute", setup.recompute, other.recompute),
    )
    return ", ".join(f"{name} {str(new).lower()}" for name, old, new in values if old != new)
