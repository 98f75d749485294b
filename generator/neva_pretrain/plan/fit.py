"""Whether a configuration fits its GPU: for values written by hand or kept from a preset."""

from math import log2
from typing import NamedTuple

from neva_pretrain.errors import Violation
from neva_pretrain.model.hardware import GIB
from neva_pretrain.plan.candidate import Candidate, difference, memory_violation
from neva_pretrain.plan.memory import Memory
from neva_pretrain.plan.search import SearchRequest, enumerate_candidates
from neva_pretrain.plan.setup import Setup


class Fit(NamedTuple):
    """Whether a setup fits: violations refuse it, warnings do not; ``nearest`` is one that does."""

    memory: Memory
    violations: tuple[Violation, ...]
    warnings: tuple[str, ...]
    nearest: Setup | None


def check_fit(setup: Setup) -> Fit:
    """Return whether a setup fits; if not, or only just, with the nearest that does.

    The nearest has the same GPUs, global batch and pipeline.
    """
    candidate = Candidate.of(setup)
    used = candidate.memory
    if candidate.headroom >= 0 and not candidate.is_tight:
        return Fit(used, (), (), None)
    nearest = _nearest(setup)
    if candidate.headroom < 0:
        return Fit(used, (memory_violation(setup, nearest),), (), nearest)
    advice = f"; {difference(setup, nearest)} has more room" if nearest else ""
    warning = (
        f"training.microBatchSize: {setup.micro_batch_size} leaves "
        f"{candidate.headroom / GIB:.1f} of {setup.gpu.memory_gib:.1f} GiB free: "
        f"a longer caption can run out of memory{advice}"
    )
    return Fit(used, (), (warning,), nearest)


def _nearest(setup: Setup) -> Setup | None:
    """Return the setup with memory to spare that changes least: TP, recompute, micro batch size."""
    request = SearchRequest(
        model=setup.model,
        gpus=setup.world_size,
        gpu=setup.gpu,
        gpus_per_node=min(setup.gpus_per_node, setup.world_size),
        fixed_global_batch_size=setup.global_batch_size,
        kernels=setup.kernels,
        tokens=setup.tokens_per_sample,
        pipeline_parallel_size=setup.pipeline_parallel_size,
    )

    def distance(other: Setup) -> tuple[float, bool, float, bool]:
        return (
            abs(log2(other.tensor_parallel_size / setup.tensor_parallel_size)),
            other.recompute != setup.recompute,
            abs(log2(other.micro_batch_size / setup.micro_batch_size)),
            other.sequence_parallel != setup.sequence_parallel,
        )

    fitting = [c.setup for c in enumerate_candidates(request)[0] if not c.is_tight]
    plain = [s for s in fitting if s.recompute == "none"]
    return min(plain or fitting, key=distance, default=None)
