"""How a run divides over its GPUs, and what it saves and loads."""

from collections.abc import Iterator
from math import gcd

from neva_pretrain import chart
from neva_pretrain.errors import RefusedError, Violation
from neva_pretrain.facts import Facts
from neva_pretrain.model import hydra
from neva_pretrain.model.catalog import Model
from neva_pretrain.plan.plan import nearest_multiples, use
from neva_pretrain.plan.split import check_activation, check_architecture, check_batch, check_fp8


def check_training(facts: Facts) -> Iterator[Violation]:
    """Parallelism divides the machine and the model; batches divide into micro batches; the schedule fits the run."""
    values = facts.shaped
    t, plan = values["training"], facts.plan
    tensor, pipeline = plan.tensor_parallel_size, plan.pipeline_parallel_size
    broken: list[Violation] = []
    try:
        arch = facts.architecture
    except RefusedError as unknown:
        yield from unknown.violations
    else:
        broken = list(check_architecture(arch, plan))
        yield from broken
        yield from check_activation(arch, hydra.activation(values), t["kernels"])
        if not any(v.key == "training.tensorParallelSize" for v in broken):
            yield from check_fp8(arch, tensor, t["kernels"])
        yield from _check_length(arch.encoder_seq_length, facts.model)
    # Sizes inside a node are tensorParallelSize's to mend; only a size beyond it says something about nodes.
    unfit = any(v.key == "training.tensorParallelSize" for v in broken)
    if unfit and tensor <= plan.gpus_per_node:
        pass
    elif plan.gpus % (tensor * pipeline):
        step = tensor * pipeline // gcd(tensor * pipeline, plan.gpus_per_node)
        yield Violation(
            "training.nodes",
            f"{plan.nodes} ({plan.gpus} GPUs)",
            "must make nodes x gpusPerNode a multiple of tensor x pipeline parallel size "
            f"({tensor} x {pipeline} = {tensor * pipeline})",
            "use another tensorParallelSize first" if unfit else use(nearest_multiples(plan.nodes, step)),
        )
    else:
        yield from check_batch(plan)
    if plan.warmup_steps >= plan.max_steps:
        yield Violation(
            "training.warmupSteps",
            str(plan.warmup_steps),
            f"must be less than maxSteps ({plan.max_steps})",
            f"use {plan.max_steps - 1} or fewer",
        )


def _check_length(longest: int, model: Model) -> Iterator[Violation]:
    """NeMo cuts samples off at encoder_seq_length: an image without its last token is not seen, its caption is gone."""
    if longest <= model.image_tokens:
        yield Violation(
            "model.architecture.encoderSeqLength",
            str(longest),
            f"must be more than {model.image_tokens}, the tokens of one image",
            "leave it out to use the model's own",
        )


def check_checkpoint(facts: Facts) -> Iterator[Violation]:
    """The checkpoint to load exists at this parallelism."""
    values, plan = facts.shaped, facts.plan
    model = chart.models()["models"].get(values["model"]["name"].replace("-", "_"))
    if model and values["model"]["checkpointFormat"] == "legacy":
        preset = (model["preset"]["tensorParallelSize"], model["preset"]["pipelineParallelSize"])
        if preset != (plan.tensor_parallel_size, plan.pipeline_parallel_size):
            yield Violation(
                "model.checkpointFormat",
                "legacy",
                "must not be legacy at tensor x pipeline parallel size "
                f"{plan.tensor_parallel_size} x {plan.pipeline_parallel_size}, "
                f"since legacy files are split for {preset[0]} x {preset[1]}",
                "use distributed, or the preset's sizes",
            )
