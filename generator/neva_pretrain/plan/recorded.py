"""A fact sheet read back, whole or in part: as values, a run's record or a job's annotations have it.

What another version of the chart wrote may lack keys; what it does not tell stays unknown, or is the catalog's.
"""

from dataclasses import replace
from typing import get_args

from neva_pretrain import chart
from neva_pretrain.chart.access import Values, mapping
from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import GPUS, H100, Gpu
from neva_pretrain.plan.setup import Kernels, Setup


def gpu(sheet: Values) -> Gpu:
    """Return the kind of GPU that a run was planned for."""
    return GPUS.get(str(mapping(sheet, "training").get("gpu")), H100)


def setup(sheet: Values) -> Setup | None:
    """Return what memory and time of a step depend on, or None where the sheet does not tell all of it.

    A run's record, which another version may have written, has the same keys or fewer.
    """
    found = model(sheet)
    training, derived = mapping(sheet, "training"), mapping(sheet, "derived")
    keys = ("tensorParallelSize", "pipelineParallelSize", "microBatchSize", "globalBatchSize")
    tensor, pipeline, micro, batch = (count(training.get(key)) for key in keys)
    gpus = count(derived.get("worldSize")) or gpus_of(training)
    if not (found and tensor and pipeline and micro and batch and gpus):
        return None
    data = gpus // (tensor * pipeline)
    if not data or not batch // (micro * data):
        return None
    checkpoint = mapping(sheet, "checkpoint")
    return Setup(
        found,
        gpu(sheet),
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        data_parallel_size=data,
        micro_batch_size=micro,
        accumulation=batch // (micro * data),
        tokens_per_sample=found.tokens_per_sample,
        kernels=next((k for k in get_args(Kernels) if k == training.get("kernels")), "reference"),
        sequence_parallel=training.get("sequenceParallel") is True,
        recompute=known if (known := training.get("recompute")) in ("full", "selective") else "none",
        gpus_per_node=count(training.get("gpusPerNode")) or 8,
        checkpoint_interval=count(checkpoint.get("everyNSteps")) if checkpoint.get("enabled") else None,
    )


def model(sheet: Values) -> catalog.Model | None:
    """Return the run's model, or None where the catalog does not have it: its shape and tokens are the run's own."""
    said = mapping(sheet, "model")
    if (name := str(said.get("name") or "")) not in catalog.names():
        return None
    found = catalog.get(name)
    shape = mapping(sheet, "architecture").items()
    own = {key: value if isinstance(value, bool) else count(value) for key, value in shape}
    own = {key: value for key, value in own.items() if value is not None}
    return replace(
        found,
        architecture=catalog.architecture_from({**chart.models()["models"][name]["architecture"], **own}),
        tokens_per_sample=count(said.get("tokensPerSample")) or found.tokens_per_sample,
    )


def gpus_of(training: Values) -> int | None:
    """Return the GPUs of a job, or None where the section does not tell."""
    nodes, per_node = count(training.get("nodes")), count(training.get("gpusPerNode"))
    return nodes * per_node if nodes and per_node else None


def count(value: object) -> int | None:
    """Return a positive whole number, also where an annotation has it as text; None for all else."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**18 else None
