"""How a model and its batches divide over GPUs: the sizes that rules between values and the planner share."""

from collections.abc import Iterator, Sequence
from math import gcd, isqrt

from neva_pretrain import chart
from neva_pretrain.chart.access import text
from neva_pretrain.chart.secrecy import show
from neva_pretrain.errors import Violation
from neva_pretrain.model import catalog
from neva_pretrain.plan.plan import Plan, nearest_multiples, use


def divisors(limit: int, numbers: Sequence[int]) -> list[int]:
    """Return the numbers up to a limit that divide all the given ones, ascending.

    They come in pairs around the square root, which is at most 1024: the schema admits no number above 2**20 here.
    """
    common = gcd(*numbers)
    small = [d for d in range(1, min(isqrt(common), 1024) + 1) if common % d == 0]
    return sorted(d for d in {*small, *(common // d for d in small)} if d <= limit)


def nearest_divisors(value: int, limit: int, numbers: Sequence[int]) -> str:
    """Return the fix that names the closest smaller and the closest larger divisor."""
    found = divisors(limit, numbers)
    return use([d for d in found if d < value][-1:] + [d for d in found if d > value][:1])


def check_architecture(arch: catalog.Architecture, plan: Plan) -> Iterator[Violation]:
    """Heads, groups, MLP and layers divide over the GPUs. The padded vocabulary is a multiple of TP by construction."""
    heads, groups = arch.num_attention_heads, arch.num_query_groups
    if arch.hidden_size % heads:
        yield Violation(
            "model.architecture.numAttentionHeads",
            str(heads),
            f"must divide hiddenSize ({arch.hidden_size})",
            nearest_divisors(heads, arch.hidden_size, [arch.hidden_size]),
        )
    if heads % groups:
        yield Violation(
            "model.architecture.numQueryGroups",
            str(groups),
            f"must divide numAttentionHeads ({heads})",
            nearest_divisors(groups, heads, [heads]),
        )
    tensor, pipeline = plan.tensor_parallel_size, plan.pipeline_parallel_size
    parts = {
        "training.gpusPerNode": plan.gpus_per_node,
        "attention heads": heads,
        "query groups": groups,
        "ffn hidden size": arch.ffn_hidden_size,
    }
    broken = [f"{name} ({size})" for name, size in parts.items() if size % tensor]
    if broken:
        yield Violation(
            "training.tensorParallelSize",
            str(tensor),
            f"must divide {', '.join(broken)}",
            nearest_divisors(tensor, plan.gpus_per_node, list(parts.values())),
        )
    if arch.num_layers % pipeline:
        yield Violation(
            "training.pipelineParallelSize",
            str(pipeline),
            f"must divide the layers ({arch.num_layers})",
            nearest_divisors(pipeline, arch.num_layers, [arch.num_layers]),
        )


def check_batch(plan: Plan) -> Iterator[Violation]:
    """The global batch is whole micro batches of all replicas."""
    multiple = plan.micro_batch_size * plan.data_parallel_size
    if plan.global_batch_size % multiple:
        yield Violation(
            "training.globalBatchSize",
            str(plan.global_batch_size),
            "must be a multiple of microBatchSize x data parallel size "
            f"({plan.micro_batch_size} x {plan.data_parallel_size} = {multiple})",
            use(nearest_multiples(plan.global_batch_size, multiple)),
        )


_FP8_MULTIPLE = 16


def check_fp8(arch: catalog.Architecture, tensor: int, kernels: str) -> Iterator[Violation]:
    """TransformerEngine multiplies FP8 matrices whose sides are multiples of 16; FP8 experts were never run."""
    if kernels != "fp8":
        return
    sides = {
        "hidden size": arch.hidden_size,
        "key and value size": arch.key_value_size,
        "ffn hidden size": arch.ffn_hidden_size,
    }
    odd = [
        f"{name} / tensorParallelSize ({size // tensor})"
        for name, size in sides.items()
        if size // tensor % _FP8_MULTIPLE
    ]
    if arch.num_experts > 1:
        yield Violation("training.kernels", kernels, "must be reference or fused with experts", "use fused")
    elif odd:
        yield Violation(
            "training.kernels",
            kernels,
            f"must be reference or fused, since FP8 needs multiples of {_FP8_MULTIPLE}, not {', '.join(odd)}",
            "use fused",
        )


def check_activation(arch: catalog.Architecture, activation: object, kernels: str) -> Iterator[Violation]:
    """NeMo builds the gate by the activation's name; the plan and prepare go by gatedMlp."""
    known = chart.rules()["activations"]
    right, other = ("gated", "plain") if arch.gated_mlp else ("plain", "gated")
    if activation in known[other]:
        yield Violation(
            "model.architecture.gatedMlp",
            text(arch.gated_mlp),
            f"must be {text(not arch.gated_mlp)} with the activation {activation} of the config",
            f"use {text(not arch.gated_mlp)}, or set config.model.activation to one of {', '.join(known[right])}",
        )
    elif activation not in known[right]:
        yield Violation(
            "config.model.activation",
            show(activation),
            "must be an activation that NeMo knows",
            f"use one of {', '.join(known[right])}",
        )
    elif kernels != "reference" and activation not in known["fused"]:
        yield Violation(
            "training.kernels",
            kernels,
            f"must be reference with the activation {activation}, which Megatron Core does not fuse",
            "use reference",
        )
