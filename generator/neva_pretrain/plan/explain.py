"""What the planner says about its candidates: why one loses, what limits it, what it needs."""

from collections.abc import Iterator
from dataclasses import replace

from neva_pretrain.plan.candidate import Candidate
from neva_pretrain.plan.plan import REFERENCE_BATCH, steps_for
from neva_pretrain.plan.search import TIE, SearchRequest, change
from neva_pretrain.plan.setup import Setup
from neva_pretrain.plan.time import step_time

_COSTS = {
    "gemm": "padded or recomputed matrix products",
    "attention": "attention",
    "elementwise": "norms and residuals, which every tensor parallel rank computes in full",
    "vision": "the vision tower, which every tensor parallel rank runs in full",
    "tp_communication": "all-reduces between tensor parallel ranks",
    "idle": "the GPU waits for kernel launches: the micro batch is too small",
    "pp_bubble": "filling and draining the pipeline",
    "dp_allreduce": "the all-reduce of gradients",
    "checkpoint": "saving checkpoints",
}


def slowdown(candidate: Candidate, best: Candidate) -> float:
    """Return how many times longer a sample takes than with the best."""
    return best.rate / candidate.rate


def why_it_loses(candidate: Candidate, best: Candidate) -> str:
    """Say why a candidate is not the best: too tight, a tie, or where most of the time goes."""
    model = best.setup.model
    if candidate.is_tight and not best.is_tight:
        return "little memory to spare: a longer caption can run out of it"
    if slowdown(candidate, best) <= 1 / (1 - TIE):
        if change(candidate.setup, model) > change(best.setup, model):
            return "as fast, but farther from the preset"
        return "as fast, with less memory to spare"
    if candidate.setup.recompute == "full" != best.setup.recompute:
        return "recompute runs the forward pass twice"
    ours, theirs = _per_sample(candidate), _per_sample(best)
    most = max(ours, key=lambda name: ours[name] - theirs[name])
    if most == "vision" and candidate.setup.tensor_parallel_size == best.setup.tensor_parallel_size:
        most = "idle"
    return _COSTS[most]


def _per_sample(candidate: Candidate) -> dict[str, float]:
    """Return GPU-milliseconds of one sample by part."""
    share = candidate.setup.world_size / candidate.setup.global_batch_size
    return {name: ms * share for name, ms in candidate.time.parts._asdict().items()}


def what_limits(candidate: Candidate) -> str:
    """Say where time goes beyond the matrix products, and what would help."""
    setup, total = candidate.setup, candidate.time.total
    shares = {name: ms / total for name, ms in candidate.time.parts._asdict().items()}
    gemm = shares.pop("gemm")
    most = max(shares, key=lambda name: shares[name])
    if shares[most] < 0.1:
        return f"matrix products take {gemm:.0%} of the step: little is left to gain"
    said = f"{_COSTS[most]} ({shares[most]:.0%} of the step)"
    if most == "elementwise":
        said = f"elementwise kernels take {shares[most]:.0%} of the step"
        if setup.kernels == "reference":
            fused = replace(setup, kernels="fused")
            rate = step_time(fused).samples_per_second_per_gpu
            said += f"; --kernels fused would give about {rate:#.3g} samples/s/GPU, {rate / candidate.rate:.2f}x"
        return said
    advice = {
        "idle": "use fewer GPUs or a larger global batch",
        "pp_bubble": "a larger global batch fills the pipeline better",
        "tp_communication": "less tensor parallelism needs more memory per GPU",
    }
    return f"{said}; {advice[most]}" if most in advice else said


def requirements(setup: Setup) -> tuple[str, ...]:
    """Return what a setup other than the preset's needs, or changes, one sentence each."""
    return tuple(sentence for _, sentence in changes(setup))


def changes(setup: Setup) -> Iterator[tuple[str, str]]:
    """Yield the same with the key of ``training`` that each is about."""
    model, preset = setup.model, setup.model.preset
    llm, tensor = model.architecture, setup.tensor_parallel_size
    if tensor != preset.tensor_parallel_size:
        yield (
            "tensorParallelSize",
            f"TP {tensor} instead of {preset.tensor_parallel_size} needs a distributed checkpoint "
            "(model.checkpointFormat: distributed); one split for the preset does not load",
        )
        ours = llm.padded_vocab_size(tensor)
        theirs = llm.padded_vocab_size(preset.tensor_parallel_size)
        if ours != theirs:
            yield (
                "tensorParallelSize",
                f"the vocabulary is padded to {ours} at TP {tensor}, to {theirs} at TP "
                f"{preset.tensor_parallel_size}: that of a legacy checkpoint must match, "
                "a distributed one is resized as it loads",
            )
    if setup.micro_batch_size != preset.micro_batch_size:
        yield (
            "microBatchSize",
            f"MBS {setup.micro_batch_size} instead of {preset.micro_batch_size} changes the loss "
            "curve: the loss is a mean over the tokens of each micro batch (NeMo #8343)",
        )
    if setup.pipeline_parallel_size > 1:  # NVIDIA's preset of 340B has it, too
        size = setup.pipeline_parallel_size
        yield "pipelineParallelSize", f"PP {size} aborts or hangs in NeVa pretraining (NeMo #12205, #9146)"
    if setup.sequence_parallel and not preset.sequence_parallel:
        yield "sequenceParallel", "sequence parallel is not in the preset: training.sequenceParallel true"
    if setup.recompute != "none":
        yield "recompute", f"training.recompute {setup.recompute}"


def notes(request: SearchRequest) -> tuple[str, ...]:
    """Return what a user should know of a request whatever the planner picks."""
    said = []
    size = request.global_batch_size
    if size != REFERENCE_BATCH:
        said.append(
            f"a global batch of {size} sees the same {request.samples} samples in "
            f"{steps_for(request.samples, size)} steps; the learning rate 1e-3 was tuned at "
            f"{REFERENCE_BATCH}: check it"
        )
    if request.kernels == "fused":
        said.append(
            "fused kernels were measured with TransformerEngine 2.20; nemo:24.07 has 1.8, whose gain is inferred"
        )
    if request.kernels == "fp8":
        said.append(
            "FP8 was measured with TransformerEngine 2.11; nemo:24.07 has 1.8, whose gain is inferred: compare the "
            "loss of a short run with that of bf16 first"
        )
    return tuple(said)
