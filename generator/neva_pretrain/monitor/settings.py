"""What a run is meant to do: from a values file, a run record or a job's annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from neva_pretrain import catalog, chartdata
from neva_pretrain.cost import Setup, step_time, useful_flops
from neva_pretrain.errors import InputError
from neva_pretrain.hardware import Gpu
from neva_pretrain.monitor.core.run import Settings

ANNOTATION = "neva-pretrain/"
"""Prefix of the annotations that the chart puts on its job."""

RECORD = "run.json"
"""What the chart's launch script writes into the results folder of a run."""

Values = Mapping[str, Any]


def from_values(values: Values, gpu: Gpu) -> Settings:
    """Return the settings in a values file or run record; a part that is not there stays unknown.

    Read are ``model.name``, ``training``, ``checkpoint`` and ``run.release``, by their names in
    the chart's values.
    """
    training = _section(values, "training")
    checkpoint = _section(values, "checkpoint")
    every = checkpoint.get("everyNSteps") if checkpoint.get("enabled", True) else 0
    settings = Settings(
        name=str(_section(values, "run").get("release") or ""),
        model=str(_section(values, "model").get("name") or ""),
        max_steps=_count(training.get("maxSteps")),
        global_batch_size=_count(training.get("globalBatchSize")),
        gpus=_gpus(training),
        tokens_per_sample=_count(training.get("tokensPerSample")),
        peak_flops=gpu.peak_tflops * 1e12,
        checkpoint_every=every if every == 0 else _count(every),
    )
    if settings.model not in catalog.names():  # the user's own: what depends on it is not known
        return settings
    settings = with_model(settings, settings.model)
    return replace(settings, planned_step_seconds=predict(settings, training, gpu))


def from_annotations(annotations: Mapping[str, str], gpu: Gpu) -> Settings:
    """Return the settings that the chart's annotations of a job tell."""
    said = {k.removeprefix(ANNOTATION): v for k, v in annotations.items() if k.startswith(ANNOTATION)}
    training = dict(_json(said.get("training")))
    for annotation, key in (
        ("max-steps", "maxSteps"),
        ("global-batch-size", "globalBatchSize"),
        ("gpus", "gpus"),
        ("tokens-per-sample", "tokensPerSample"),
    ):
        if annotation in said:
            training[key] = said[annotation]
    return from_values(
        {
            "training": training,
            "model": {"name": said.get("model", "")},
            "checkpoint": _json(said.get("checkpoint")),
        },
        gpu,
    )


def from_file(path: Path, gpu: Gpu) -> Settings:
    """Return the settings in a values file; what it leaves out is the chart's default."""
    try:
        given = chartdata.load_yaml(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: must be a values file: {' '.join(str(error).split())}") from error
    if not isinstance(given, Mapping):
        raise InputError(f"{path}: must be a values file (a mapping)")
    defaults = chartdata.defaults()
    merged = {
        name: {**_section(defaults, name), **_section(given, name)}
        for name in ("model", "training", "checkpoint", "run")
    }
    return from_values(merged, gpu)


def from_record(log: Path, gpu: Gpu) -> Settings:
    """Return the settings in the run record of the results folder around a log, if any."""
    for folder in [log, *log.parents][:3]:
        record = folder / RECORD
        if record.is_file():
            return from_values(_json(record.read_text("utf-8", "replace")), gpu)
    return Settings(peak_flops=gpu.peak_tflops * 1e12)


def with_model(settings: Settings, name: str) -> Settings:
    """Return the settings with what the catalog says of that model."""
    model = catalog.get(name)
    tokens = settings.tokens_per_sample or model.tokens_per_sample
    return replace(
        settings,
        model=model.name,
        tokens_per_sample=tokens,
        vocab_size=model.architecture.vocab_size,
        flops_per_sample=useful_flops(model, tokens),
    )


def predict(settings: Settings, training: Values, gpu: Gpu) -> float | None:
    """Return the seconds a step takes by the planner, or None if the plan is not complete."""
    tensor = _count(training.get("tensorParallelSize"))
    pipeline = _count(training.get("pipelineParallelSize"))
    micro = _count(training.get("microBatchSize"))
    batch, gpus = settings.global_batch_size, settings.gpus
    tokens = settings.tokens_per_sample
    if not (tensor and pipeline and micro and batch and gpus and tokens):
        return None
    data = gpus // (tensor * pipeline)
    accumulation = batch // (micro * data) if data else 0
    if not accumulation:
        return None
    setup = Setup(
        catalog.get(settings.model),
        gpu,
        tensor,
        pipeline,
        data,
        micro,
        accumulation,
        tokens,
        kernels=training.get("kernels") or "reference",
        sequence_parallel=bool(training.get("sequenceParallel")),
        recompute=training.get("recompute") or "none",
        gpus_per_node=_count(training.get("gpusPerNode")) or 8,
    )
    return step_time(setup).total / 1000


def _gpus(training: Values) -> int | None:
    nodes, per_node = _count(training.get("nodes")), _count(training.get("gpusPerNode"))
    return _count(training.get("gpus")) or (nodes * per_node if nodes and per_node else None)


def _section(values: Values, name: str) -> Values:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _count(value: object) -> int | None:
    """Return a positive whole number, also where an annotation has it as text."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and 0 < value < 10**18 else None


def _json(text: str | None) -> Values:
    try:
        parsed = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, Mapping) else {}
