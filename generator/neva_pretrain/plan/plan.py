"""From a request to independent facts: nodes, batch sizes, steps. Pure integer algebra.

A :class:`Plan` holds what a values file says; what follows from it is a property. The chart derives the same numbers
in ``templates/_facts.tpl``. Whether they are allowed is decided in one place, :mod:`neva_pretrain.check.rules`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from neva_pretrain.errors import RefusedError, Violation
from neva_pretrain.model import catalog

REFERENCE_STEPS, REFERENCE_WARMUP, REFERENCE_BATCH = 2170, 70, 256
"""NVIDIA's NeVa presets: one epoch, drop_last, at a global batch size of 256."""

SAMPLES_PER_EPOCH = REFERENCE_STEPS * REFERENCE_BATCH
"""Samples that one epoch of the presets consumes, of the 558,128 in blip_laion_cc_sbu_558k.json."""

BatchPolicy = Literal["per-node", "fixed"]


def nearest_multiples(value: int, multiple: int) -> list[int]:
    """Return the positive multiples on both sides of a value that is none itself."""
    below = value // multiple * multiple
    return [m for m in (below, below + multiple) if m > 0]


def use(choices: list[int]) -> str:
    """Return the fix of a violation: ``use 8 or 16``."""
    return f"use {' or '.join(map(str, choices))}"


@dataclass(frozen=True)
class Request:
    """What a user asks for; None is "as the preset and the policy say".

    Attributes:
        gpus: GPUs of the job.
        batch_policy: ``per-node`` is the source document's 256 samples a node and step, ``fixed`` NVIDIA's 256 in all.
        epochs: passes over the data; excludes max_steps.
        samples: what one pass sees.
    """

    gpus: int
    model: str = "llama2_7b_chat"
    gpus_per_node: int = 8
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    micro_batch: int | None = None
    global_batch: int | None = None
    max_steps: int | None = None
    epochs: int | None = None
    samples: int = SAMPLES_PER_EPOCH
    batch_policy: BatchPolicy = "per-node"


@dataclass(frozen=True)
class Plan:
    """Independent facts of a run, and as properties what follows from them (counts, no units)."""

    nodes: int
    gpus_per_node: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    micro_batch_size: int
    global_batch_size: int
    max_steps: int
    warmup_steps: int
    sequence_parallel: bool = False

    @property
    def gpus(self) -> int:
        """World size: one process each."""
        return self.nodes * self.gpus_per_node

    @property
    def workers(self) -> int:
        """Replicas of the job's Worker; the master is the other node."""
        return self.nodes - 1

    @property
    def data_parallel_size(self) -> int:
        """Replicas of the model: GPUs / (TP x PP)."""
        return max(1, self.gpus // (self.tensor_parallel_size * self.pipeline_parallel_size))

    @property
    def accumulation_steps(self) -> int:
        """Micro batches of one replica in one optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * self.data_parallel_size)

    @property
    def samples(self) -> int:
        """Samples that the run consumes."""
        return self.max_steps * self.global_batch_size

    def training_values(self) -> dict[str, Any]:
        """Return the plan as the ``training`` section of a values file."""
        return {
            "nodes": self.nodes,
            "gpusPerNode": self.gpus_per_node,
            "tensorParallelSize": self.tensor_parallel_size,
            "pipelineParallelSize": self.pipeline_parallel_size,
            "microBatchSize": self.micro_batch_size,
            "globalBatchSize": self.global_batch_size,
            "maxSteps": self.max_steps,
            "warmupSteps": self.warmup_steps,
            "sequenceParallel": self.sequence_parallel,
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Read the plan back from complete values."""
        t = values["training"]
        return cls(
            nodes=int(t["nodes"]),
            gpus_per_node=int(t["gpusPerNode"]),
            tensor_parallel_size=int(t["tensorParallelSize"]),
            pipeline_parallel_size=int(t["pipelineParallelSize"]),
            micro_batch_size=int(t["microBatchSize"]),
            global_batch_size=int(t["globalBatchSize"]),
            max_steps=int(t["maxSteps"]),
            warmup_steps=int(t["warmupSteps"]),
            sequence_parallel=bool(t.get("sequenceParallel", False)),
        )


def nodes_for(gpus: int, gpus_per_node: int) -> int:
    """Return the whole nodes that have these GPUs.

    Raises:
        RefusedError: not a whole number of nodes. Nothing is ever rounded: the source's launcher drops GPUs here.
    """
    if gpus % gpus_per_node == 0 and gpus > 0:
        return gpus // gpus_per_node
    fix = use(nearest_multiples(gpus, gpus_per_node))
    if 0 < gpus < gpus_per_node:
        fix += f", or --gpus-per-node {gpus}"
    rule = f"must be a whole number of nodes (gpusPerNode {gpus_per_node})"
    raise RefusedError([Violation("--gpus", str(gpus), rule, fix)])


def steps_for(samples: int, global_batch: int) -> int:
    """Return the optimizer steps that see at least so many samples."""
    return -(-samples // global_batch)


def warmup_for(max_steps: int) -> int:
    """Return warm-up in the presets' proportion (70 of 2170), rounded, and always shorter than the run."""
    return min((REFERENCE_WARMUP * max_steps + REFERENCE_STEPS // 2) // REFERENCE_STEPS, max_steps - 1)


def micro_batch_for(model: catalog.Model, global_batch: int, data_parallel: int) -> int:
    """Return the largest micro batch up to the preset's that divides a replica's share of the global batch.

    The preset's own is returned when the global batch cannot be shared out at all; the rules then say why.
    """
    preset = model.preset.micro_batch_size
    share, rest = divmod(global_batch, data_parallel)
    if rest:
        return preset
    return next(m for m in range(min(preset, share), 0, -1) if share % m == 0)


def make_plan(request: Request) -> Plan:
    """Complete a request. What is not said is the model's preset.

    Raises:
        RefusedError: the model is unknown, or the GPUs are not whole nodes. Other rules are not judged here.
    """
    model = catalog.get(request.model)
    nodes = nodes_for(request.gpus, request.gpus_per_node)
    tensor = request.tensor_parallel or model.preset.tensor_parallel_size
    pipeline = request.pipeline_parallel or model.preset.pipeline_parallel_size
    global_batch = request.global_batch or REFERENCE_BATCH * (nodes if request.batch_policy == "per-node" else 1)
    data_parallel = max(1, request.gpus // (tensor * pipeline))
    max_steps = request.max_steps or steps_for(request.samples * (request.epochs or 1), global_batch)
    return Plan(
        nodes=nodes,
        gpus_per_node=request.gpus_per_node,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        micro_batch_size=request.micro_batch or micro_batch_for(model, global_batch, data_parallel),
        global_batch_size=global_batch,
        max_steps=max_steps,
        warmup_steps=warmup_for(max_steps),
        sequence_parallel=model.preset.sequence_parallel and tensor > 1,
    )
