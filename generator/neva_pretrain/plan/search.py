"""The planner: every way to run a model on a number of GPUs that fits, and which one is best.

A search is a pure function of its request. It looks at tensor parallel sizes that divide a node,
the model's own pipeline parallel size and micro batch sizes up to 64, so its cost does not grow
with the number of GPUs.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, log2

from neva_pretrain.errors import RefusedError, Violation
from neva_pretrain.model.catalog import Model
from neva_pretrain.model.hardware import H100, Gpu
from neva_pretrain.plan import split
from neva_pretrain.plan.candidate import PADDING, Candidate, Refusal, memory_violation
from neva_pretrain.plan.memory import memory
from neva_pretrain.plan.plan import (
    REFERENCE_BATCH,
    SAMPLES_PER_EPOCH,
    BatchPolicy,
    Plan,
    nearest_multiples,
    nodes_for,
    steps_for,
    use,
)
from neva_pretrain.plan.saving import interval
from neva_pretrain.plan.setup import Kernels, Recompute, Setup

MAX_MICRO_BATCH_SIZE = 64
"""Largest micro batch that was calibrated; throughput is flat long before."""

TIE = 0.02
"""Share of throughput that the time model cannot tell apart; its mean error is 1.5 %."""


@dataclass(frozen=True)
class SearchRequest:
    """What to plan for; ``None`` leaves a choice to the planner, or a fact to the catalog."""

    model: Model
    gpus: int
    gpu: Gpu = H100
    gpus_per_node: int = 8
    batch_policy: BatchPolicy = "per-node"
    fixed_global_batch_size: int | None = None
    samples: int = SAMPLES_PER_EPOCH
    kernels: Kernels = "reference"
    tokens: int | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    micro_batch_size: int | None = None
    sequence_parallel: bool | None = None
    recompute: Recompute | None = None
    checkpoint_interval: int | None = None
    saves: bool = False
    """Whether each candidate saves as often as the generator lets it."""

    @property
    def nodes(self) -> int:
        """Nodes of the job."""
        return nodes_for(self.gpus, self.gpus_per_node)

    @property
    def tokens_per_sample(self) -> int:
        """Padded length of the samples."""
        return self.tokens or self.model.tokens_per_sample

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step."""
        if self.fixed_global_batch_size is not None:
            return self.fixed_global_batch_size
        return REFERENCE_BATCH * (self.nodes if self.batch_policy == "per-node" else 1)

    @property
    def steps(self) -> int:
        """Optimizer steps that see all samples."""
        return steps_for(self.samples, self.global_batch_size)


@dataclass(frozen=True)
class Result:
    """What the search found: the best candidate first, then the others by throughput, those that are tight last."""

    request: SearchRequest
    candidates: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]

    @cached_property
    def preset(self) -> Candidate | None:
        """NVIDIA's parallelism, with its micro batch size or the nearest below that divides the batch, if it fits."""
        return _preset(self.request)

    @property
    def best(self) -> Candidate:
        """The candidate to run."""
        return self.candidates[0]

    @property
    def gain(self) -> float | None:
        """Throughput of the best over the preset's."""
        return None if self.preset is None else self.best.rate / self.preset.rate


def search(request: SearchRequest) -> Result:
    """Return all candidates, best first.

    Refuses (``RefusedError``) a request that breaks rules or that nothing fits, and then says how
    many GPUs would do.
    """
    _check_tokens(request)
    candidates, refused = enumerate_candidates(request)
    if not candidates:
        raise RefusedError(_nothing_fits(request, refused))
    best = _choose(candidates, request.model)
    rest = sorted((c for c in candidates if c is not best), key=lambda c: (c.is_tight, -c.rate))
    return Result(request, (best, *rest), tuple(refused))


def _check_tokens(request: SearchRequest) -> None:
    """Refuse a length that NeMo's collator cannot make of a sample with an image."""
    model, tokens = request.model, request.tokens_per_sample
    least = ceil(model.image_tokens / PADDING) * PADDING
    most = model.architecture.encoder_seq_length
    if tokens % PADDING or not least <= tokens <= most:
        fits = [n for n in nearest_multiples(tokens, PADDING) if least <= n <= most]
        rule = f"must be a multiple of {PADDING} from {least} (one image) to {most}"
        fix = use(fits or [min(max(tokens, least), most)])
        raise RefusedError([Violation("--tokens-per-sample", str(tokens), rule, fix)])


def enumerate_candidates(request: SearchRequest) -> tuple[list[Candidate], list[Refusal]]:
    """Return every candidate, and why the others are none."""
    pipeline = request.pipeline_parallel_size or request.model.preset.pipeline_parallel_size
    tensor = split.divisors(request.gpus_per_node, [request.gpus_per_node])
    if request.tensor_parallel_size is not None:
        tensor = [request.tensor_parallel_size]
    candidates: list[Candidate] = []
    refused: list[Refusal] = []
    for size in tensor:
        reasons = list(_parallelism_violations(request, size, pipeline))
        if reasons:
            refused += [Refusal(size, pipeline, None, reason) for reason in reasons]
            continue
        for micro_batch_size in _micro_batch_sizes(request, size, pipeline):
            setups = list(_setups(request, size, pipeline, micro_batch_size))
            fitting = list(_until_comfortable(setups, request.samples))
            candidates += fitting
            if not fitting:
                smallest = min(setups, key=lambda setup: memory(setup).total)
                refused.append(Refusal(size, pipeline, micro_batch_size, memory_violation(smallest)))
                break
    return candidates, refused


def _parallelism_violations(request: SearchRequest, tensor: int, pipeline: int) -> Iterator[Violation]:
    """Yield the rules that this split of the model breaks."""
    plan = Plan(
        nodes=request.nodes,
        gpus_per_node=request.gpus_per_node,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        micro_batch_size=request.micro_batch_size or 1,
        global_batch_size=request.global_batch_size,
        max_steps=request.steps,
        warmup_steps=0,
    )
    if request.kernels == "fp8" and not request.gpu.fp8:
        rule = f"must be reference or fused on {request.gpu.title}, which has no FP8"
        yield Violation("--kernels", request.kernels, rule, "use fused")
    if broken := list(split.check_architecture(request.model.architecture, plan)):
        yield from broken
        return  # no number of GPUs would do
    yield from split.check_fp8(request.model.architecture, tensor, request.kernels)
    if plan.gpus % (tensor * pipeline):
        yield Violation(
            "--gpus",
            str(plan.gpus),
            f"must be a multiple of tensor x pipeline parallel size ({tensor} x {pipeline} = {tensor * pipeline})",
            use(nearest_multiples(plan.gpus, tensor * pipeline)),
        )
    else:
        yield from split.check_batch(plan)


def _micro_batch_sizes(request: SearchRequest, tensor: int, pipeline: int) -> list[int]:
    """Return divisors of a replica's samples, ascending, not only the powers of two."""
    if request.micro_batch_size is not None:
        return [request.micro_batch_size]
    samples = request.global_batch_size * tensor * pipeline // request.gpus
    return [n for n in range(1, MAX_MICRO_BATCH_SIZE + 1) if samples % n == 0]


def _setups(request: SearchRequest, tensor: int, pipeline: int, micro_batch_size: int) -> Iterator[Setup]:
    """Yield the ways to run one split, from the fastest to the smallest.

    Sequence parallel costs no time but is not what the presets have; full recompute costs 1.4 times
    the time.
    """
    spread = tensor > 1
    preset = request.model.preset.sequence_parallel and spread
    variants: list[tuple[bool, Recompute]] = [(preset, "none"), (spread, "none"), (spread, "full")]
    if request.sequence_parallel is not None:
        variants = [(request.sequence_parallel and spread, other) for _, other in variants]
    if request.recompute is not None:
        variants = [(other, request.recompute) for other, _ in variants]
    replicas = request.gpus // (tensor * pipeline)
    for sequence, recompute in dict.fromkeys(variants):
        setup = Setup(
            model=request.model,
            gpu=request.gpu,
            tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline,
            data_parallel_size=replicas,
            micro_batch_size=micro_batch_size,
            accumulation=request.global_batch_size // replicas // micro_batch_size,
            tokens_per_sample=request.tokens_per_sample,
            kernels=request.kernels,
            sequence_parallel=sequence,
            recompute=recompute,
            gpus_per_node=request.gpus_per_node,
            checkpoint_interval=request.checkpoint_interval,
        )
        yield replace(setup, checkpoint_interval=interval(setup, request.steps)) if request.saves else setup


def _until_comfortable(setups: list[Setup], samples: int) -> Iterator[Candidate]:
    """Yield those that fit up to the first that is not tight: what follows is only slower."""
    for setup in setups:
        candidate = Candidate.of(setup, samples)
        if candidate.headroom < 0:
            continue
        yield candidate
        if not candidate.is_tight:
            return


def _choose(candidates: list[Candidate], model: Model) -> Candidate:
    """Return the best candidate.

    Tight ones only count when there is no other. Of those within 2 % of the fastest, which the time
    model cannot tell apart, the one that changes least wins: the preset's tensor parallel size
    (another needs a distributed checkpoint), then the micro batch size nearest to the preset's (the
    loss is averaged inside micro batches), then what has most memory to spare.
    """
    comfortable = [c for c in candidates if not c.is_tight] or candidates
    fastest = max(c.rate for c in comfortable)
    ties = [c for c in comfortable if c.rate >= fastest * (1 - TIE)]
    return min(ties, key=lambda c: (*change(c.setup, model), -c.headroom))


def change(setup: Setup, model: Model) -> tuple[float, float]:
    """Return how many doublings of TP and of micro batch size a setup is from the preset."""
    preset = model.preset
    return (
        abs(log2(setup.tensor_parallel_size / preset.tensor_parallel_size)),
        abs(log2(setup.micro_batch_size / preset.micro_batch_size)),
    )


def _preset(request: SearchRequest) -> Candidate | None:
    """Return the preset's parallelism with its micro batch size or the nearest below."""
    preset = request.model.preset
    same = replace(
        request,
        tensor_parallel_size=preset.tensor_parallel_size,
        pipeline_parallel_size=preset.pipeline_parallel_size,
        micro_batch_size=None,
        sequence_parallel=preset.sequence_parallel,
        recompute="none",
    )
    fitting = [
        candidate
        for candidate in enumerate_candidates(same)[0]
        if candidate.setup.micro_batch_size <= preset.micro_batch_size
    ]
    return max(fitting, key=lambda candidate: candidate.setup.micro_batch_size, default=None)


def over_micro_batch(candidate: Candidate) -> list[Candidate]:
    """Return the candidate with each micro batch size up to 64, whether it fits or not."""
    samples = candidate.setup.micro_batch_size * candidate.setup.accumulation
    setups = (
        replace(candidate.setup, micro_batch_size=size, accumulation=ceil(samples / size))
        for size in range(1, MAX_MICRO_BATCH_SIZE + 1)
    )
    return [Candidate.of(setup, candidate.samples) for setup in setups]


def over_gpus(request: SearchRequest) -> list[Result]:
    """Return the search for 1, 2, 4 ... nodes, up to the request's own or 16, where one fits."""
    results = []
    for doublings in range(max(16, request.nodes).bit_length()):
        gpus = 2**doublings * request.gpus_per_node
        with suppress(RefusedError):
            results.append(search(replace(request, gpus=gpus)))
    return results


def _nothing_fits(request: SearchRequest, refused: list[Refusal]) -> list[Violation]:
    """Return what refuses the split that is nearest to a fit, and the GPUs that would do."""
    out_of_memory = [refusal for refusal in refused if refusal.micro_batch_size is not None]
    last = (out_of_memory or refused)[-1]
    if not out_of_memory or request.tensor_parallel_size is not None:
        size = last.tensor_parallel_size
        return [r.reason for r in refused if r.tensor_parallel_size == size]
    fix = "use a GPU with more memory"
    for nodes in (2, 4, 8, 16):
        more = replace(request, gpus=nodes * request.gpus_per_node)
        if more.gpus > request.gpus and enumerate_candidates(more)[0]:
            fix = f"use {more.gpus} GPUs or more"
            break
    return [Violation("--gpus", str(request.gpus), last.reason.rule, fix)]
