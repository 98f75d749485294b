"""What NeMo's sampler takes: numbers of samples, consumed or in all, that are whole passes of all replicas."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from neva_pod.findings import Finding, NotPossibleError, ProblemError, failed, warning
from neva_pod.preflight.registry import Context
from neva_pod.settings import Settings


def sampler_takes(samples: int, consumed: int, pass_size: int) -> bool:
    """Whether NeMo's sampler begins at that many consumed samples, with MBS x data parallel size at a time.

    Source: NeMo r2.0.0rc1, MegatronVisionPretrainingRandomSampler.__iter__.
    """
    active = samples - samples % pass_size
    return active > 0 and consumed % active % pass_size == 0


@dataclass(frozen=True)
class Batches:
    """What NeMo's sampler goes by: how many samples all replicas take at a time."""

    nodes: int
    gpus_per_node: int
    tensor: int
    pipeline: int
    micro: int
    batch: int

    @property
    def replicas(self) -> int:
        """Data parallel size."""
        return max(1, self.nodes * self.gpus_per_node // (self.tensor * self.pipeline))

    @property
    def size(self) -> int:
        """Samples of a pass; with a pipeline the sampler gives a replica its whole share of a step at once."""
        return (self.micro if self.pipeline == 1 else self.batch // self.replicas) * self.replicas

    def __str__(self) -> str:
        if self.pipeline == 1:
            return f"{self.size} (MBS x data parallel size {self.replicas})"
        return f"{self.size} (global batch of {self.replicas} replicas with a pipeline)"

    def ways(self, takes: Callable[[int], bool]) -> list[str]:
        """Say with which sizes, each changed alone, a pass is one that is taken."""
        replica = self.tensor * self.pipeline
        changed = {
            "training.microBatchSize": (
                (m, replace(self, micro=m)) for m in range(self.batch // self.replicas, 0, -1) if self.pipeline == 1
            ),
            "training.nodes": (
                (n, replace(self, nodes=n))
                for n in range(2 * self.nodes, 0, -1)
                if n * self.gpus_per_node % replica == 0
            ),
            "training.globalBatchSize": (
                (b, replace(self, batch=b))
                for b in range(self.batch, 0, -self.micro * self.replicas)
                if self.pipeline > 1
            ),
        }
        found = {
            key: list(
                itertools.islice((n for n, b in sizes if b.batch % (b.micro * b.replicas) == 0 and takes(b.size)), 3)
            )
            for key, sizes in changed.items()
        }
        return [f"set {key}={' or '.join(map(str, sizes))}" for key, sizes in found.items() if sizes]


SIZES = ("nodes", "gpusPerNode", "tensorParallelSize", "pipelineParallelSize", "microBatchSize", "globalBatchSize")


def batches_of(settings: Settings) -> Batches | None:
    """Return the run's sizes, or None where they are not all given."""
    found = [settings.find(f"training.{key}") for key in SIZES]
    return Batches(*found) if all(type(n) is int and n > 0 for n in found) else None


def length_problems(settings: Settings, samples: int) -> Iterator[Finding]:
    """Of fewer samples than a pass nothing is ever drawn; NeMo's sampler divides by that nothing."""
    batches = batches_of(settings)
    if settings.text("samples.loader", "cyclic") == "single":
        yield from _once_through(settings, samples)
    elif batches and 0 <= samples < batches.size:
        yield failed(
            f"{samples} samples are fewer than one pass of all replicas takes, {batches}: NeMo's sampler cannot begin",
            "; or ".join(
                [*batches.ways(lambda size: samples >= size), f"use a dataset of {batches.size} samples or more"]
            ),
        )


def _once_through(settings: Settings, samples: int, consumed: int = 0) -> Iterator[Finding]:
    """With `single` there is no second epoch: NeMo ends at once, or in an error about a length."""
    batch, left = settings.integer("training.globalBatchSize", 0), samples - consumed
    if left < batch:
        yield failed(
            f"{max(0, left)} of {samples} samples are left, fewer than a global batch ({batch}): NeMo trains nothing",
            f"set config.model.data.dataloader_type=cyclic, or use a dataset of {consumed + batch} samples or more",
        )


def sampler_problems(context: Context, name: str, consumed: int) -> Iterator[Finding]:
    """The sampler asserts that what was consumed is whole passes of all replicas."""
    if context.settings.text("samples.loader", "cyclic") == "single":
        if context.settings.find("data.annotations") is not None:
            with contextlib.suppress(ProblemError, NotPossibleError):  # the check dataset says so
                yield from _once_through(context.settings, len(context.samples()), consumed)
        return
    batches = batches_of(context.settings)
    if batches is None:
        yield warning(
            f"{name} has seen {consumed} samples: whether NeMo's sampler accepts that depends on the run's nodes and "
            "batch sizes, which are unknown",
            "also give the run's values (-f)",
        )
        return
    if consumed % batches.size == 0:
        return  # whatever the dataset's length
    said = f"{name} has seen {consumed} samples, not a multiple of {batches}"
    open_question = f"{said}: whether NeMo's sampler accepts that depends on the dataset's length, which is unknown"
    if context.settings.find("data.annotations") is None:
        yield warning(open_question, "also give the dataset")
        return
    try:
        samples = len(context.samples())
    except (ProblemError, NotPossibleError):
        yield warning(open_question, "see the result of the check dataset")
        return
    if sampler_takes(samples, consumed, batches.size):
        return
    ways = batches.ways(lambda size: sampler_takes(samples, consumed, size))
    yield failed(
        f"{said}: NeMo's sampler stops with an AssertionError ({samples} samples are an epoch)",
        "; or ".join([*ways, "go back to the first run's global batch"]),
    )
