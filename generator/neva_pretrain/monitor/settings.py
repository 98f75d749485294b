"""What a run is meant to do: its fact sheet, from a values file, a run's record or a job's annotations.

The chart writes the sheet into the record and its parts into annotations. Those that older charts wrote lack some of
it: what they do not tell stays unknown, or is the catalog's.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from neva_pod.monitor.records import RunSettings
from neva_pretrain.chart import values
from neva_pretrain.chart.access import Values, mapping
from neva_pretrain.check import schema
from neva_pretrain.errors import RefusedError
from neva_pretrain.facts import Facts
from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import Gpu
from neva_pretrain.plan import recorded
from neva_pretrain.plan.time import step_time, useful_flops

ANNOTATION = "neva-pretrain/"
"""Prefix of the annotations that the chart puts on its job."""

RECORD = "run.json"
"""What the chart's launch script writes into the results folder of a run."""

RECORD_BYTES = 1 << 20
"""Bytes of a record that are read; it has a few KiB."""


class Options(NamedTuple):
    """What the command line says of a run; it wins over all else.

    Attributes:
        values: the run's values file.
        model: name in the catalog.
        max_steps: trainer.max_steps.
        global_batch_size: samples a step.
        gpus: GPUs of the whole job.
        step_seconds: planned time of a step.
        gpu: kind of GPU; None for the one that the run was planned for.
    """

    values: Path | None = None
    model: str | None = None
    max_steps: int | None = None
    global_batch_size: int | None = None
    gpus: int | None = None
    step_seconds: float | None = None
    gpu: Gpu | None = None


def chosen(sheet: Values, options: Options, name: str = "") -> RunSettings:
    """Return what is recorded of a run, or in place of it a values file; options win.

    Args:
        sheet: the run's fact sheet, whole or in part.
        options: of the command line.
        name: of the job, where it is known.

    Raises:
        InputError: the values file cannot be read.
        RefusedError: see :func:`from_values`.
    """
    name = name or _text(mapping(sheet, "run").get("release"))
    if options.values:
        settings = from_values(values.read(options.values), options.gpu)
    else:
        settings = from_facts(sheet, options.gpu)
    settings = replace(settings, name=name or settings.name)
    if options.model:
        settings = _with_model(settings, options.model)
    return replace(
        settings,
        max_steps=options.max_steps or settings.max_steps,
        global_batch_size=options.global_batch_size or settings.global_batch_size,
        gpus=options.gpus or settings.gpus,
        planned_step_seconds=options.step_seconds or settings.planned_step_seconds,
        peak_flops=options.gpu.peak_tflops * 1e12 if options.gpu else settings.peak_flops,
    )


def from_facts(sheet: Values, gpu: Gpu | None = None) -> RunSettings:
    """Return the settings in a fact sheet, whole or in part.

    Args:
        sheet: as :attr:`neva_pretrain.facts.Facts.sheet` is; keys may be missing or of a wrong kind.
        gpu: kind of GPU; None for the one that the run was planned for.
    """
    training, checkpoint = mapping(sheet, "training"), mapping(sheet, "checkpoint")
    planned_for, model = recorded.gpu(sheet), recorded.model(sheet)
    kind = gpu or planned_for
    plan = mapping(sheet, "plan") if kind == planned_for else {}
    every = checkpoint.get("everyNSteps") if checkpoint.get("enabled", True) else 0
    settings = RunSettings(
        name=_text(mapping(sheet, "run").get("release")),
        model=_text(mapping(sheet, "model").get("name")),
        max_steps=recorded.count(training.get("maxSteps")),
        global_batch_size=recorded.count(training.get("globalBatchSize")),
        gpus=recorded.count(mapping(sheet, "derived").get("worldSize")) or recorded.gpus_of(training),
        tokens_per_sample=recorded.count(mapping(sheet, "model").get("tokensPerSample")),
        vocab_size=recorded.count(mapping(sheet, "architecture").get("vocabSize")) or RunSettings.vocab_size,
        planned_step_seconds=_number(plan.get("stepSeconds")),
        flops_per_sample=_number(plan.get("flopsPerSample")),
        peak_flops=1e12 * (_number(plan.get("peakTflops")) or kind.peak_tflops),
        checkpoint_every=0 if every == 0 else recorded.count(every),
    )
    if model is None:  # not of this catalog: what depends on it is not known
        return settings
    setup = recorded.setup(sheet)
    planned = step_time(replace(setup, gpu=kind)).total / 1000 if setup else None
    return replace(
        settings,
        tokens_per_sample=model.tokens_per_sample,
        vocab_size=model.architecture.vocab_size,
        flops_per_sample=settings.flops_per_sample or useful_flops(model, model.tokens_per_sample),
        planned_step_seconds=settings.planned_step_seconds or planned,
    )


def from_values(partial: Values, gpu: Gpu | None = None) -> RunSettings:
    """Return the settings in the content of a values file; what it leaves out is the chart's default.

    Raises:
        RefusedError: values of the wrong shape, or a model that is not of the catalog.
    """
    found = Facts.of(partial)
    if broken := schema.violations(found.values):
        raise RefusedError(broken)
    return from_facts(found.sheet, gpu)


def of_annotations(annotations: Mapping[str, str]) -> dict[str, Any]:
    """Return the part of a fact sheet that the chart's annotations of a job tell."""
    said = {k.removeprefix(ANNOTATION): v for k, v in annotations.items() if k.startswith(ANNOTATION)}
    training = dict(_json(said.get("training")))
    for annotation, key in (("max-steps", "maxSteps"), ("global-batch-size", "globalBatchSize")):
        if annotation in said:
            training[key] = said[annotation]
    return {
        "training": training,
        "derived": {"worldSize": said.get("gpus")},
        "model": {"name": said.get("model"), "tokensPerSample": said.get("tokens-per-sample")},
        "architecture": _json(said.get("architecture")),
        "checkpoint": _json(said.get("checkpoint")),
        "plan": _json(said.get("plan")),
        "image": said.get("image"),
    }


def of_record(log: Path) -> tuple[dict[str, Any], str]:
    """Return the fact sheet in the run record of the results folder around a log, if any, and what is wrong with it."""
    for folder in [log, *log.parents][:3]:
        record = folder / RECORD
        if record.is_file():
            sheet, trouble = _parsed(_head(record))
            said = f"{record}: {trouble}; the run's settings are not known from it" if trouble else ""
            return sheet, said
    return {}, ""


def _with_model(settings: RunSettings, name: str) -> RunSettings:
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


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _head(record: Path) -> str:
    """Return a record's text; what cannot be read, or is none, tells nothing."""
    try:
        with record.open("rb") as file:
            return file.read(RECORD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _json(text: str | None) -> dict[str, Any]:
    return _parsed(text or "{}")[0]


def _parsed(text: str) -> tuple[dict[str, Any], str]:
    """Return the object of a JSON text, empty where there is none, and then why."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {}, "cannot be read as JSON"
    return (parsed, "") if isinstance(parsed, dict) else ({}, "must be a JSON object")
