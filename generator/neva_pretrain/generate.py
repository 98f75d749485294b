"""From a request to a values file: request -> plan -> values -> verdict -> text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from neva_pretrain import chart, facts
from neva_pretrain.chart import values as chart_values
from neva_pretrain.check import rules
from neva_pretrain.check.verdict import judge, possible_gain, setup_of, with_prediction
from neva_pretrain.errors import RefusedError
from neva_pretrain.model import catalog
from neva_pretrain.model.catalog import Model
from neva_pretrain.model.hardware import Gpu
from neva_pretrain.output import printable
from neva_pretrain.plan import explain, search
from neva_pretrain.plan.plan import Plan, Request, make_plan, save_interval, warmup_for

SCHEMA_IN_CHECKOUT = "charts/neva-pretrain/values.schema.json"


def from_plan(plan: Plan, model: Model, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a plan: only what differs from run to run; the rest is the chart's defaults.

    Args:
        plan: the plan.
        model: its model; the folders follow the layout of the chart's default paths.
        more: further values, merged last.
    """
    defaults = chart.defaults()
    models = defaults["storage"]["models"]["mountPath"]
    values: dict[str, Any] = {
        "model": {
            "name": model.name,
            "llmPath": f"{Path(defaults['model']['llmPath']).parent}/{model.folder}",
            "visionEncoderPath": f"{models}/{model.vision.path}",
        },
        "training": plan.training_values(),
        "checkpoint": {"everyNSteps": save_interval(plan.max_steps)},
    }
    return chart_values.merge(values, more)


def emit(values: Mapping[str, Any], command: str, notes: list[str], output: Path | None) -> str:
    """Return the text of a values file: the schema for editors, the command, what follows from it, the values.

    The same arguments give the same bytes; the schema's path is relative to the file's folder, by its name alone.
    """
    plan = Plan.from_values(chart_values.complete(values))
    schema = os.path.relpath(SCHEMA_IN_CHECKOUT, output.parent if output and not output.is_absolute() else ".")
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# {printable(' '.join(command.splitlines()))}",
        f"#   {plan.gpus} GPUs on {_counted(plan.nodes, 'node')}: 1 master, {_counted(plan.workers, 'worker')}",
        f"#   data parallel size {plan.data_parallel_size}, {plan.accumulation_steps} accumulation steps",
        f"#   {plan.samples:,} samples in {plan.max_steps:,} steps, {plan.epochs:.2f} epochs",
        *(f"# {note}" for note in notes),
    ]
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "width": 1000}
    style["Dumper"] = chart_values.Dumper
    body: str = yaml.dump(dict(values), allow_unicode=True, **style)
    if body != printable(body):  # shown in another order than it has: escaped, so that a terminal may have it too
        body = yaml.dump(dict(values), allow_unicode=False, **style)
    return "\n".join(lines) + "\n" + body


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def generate(options: dict[str, Any], command: str) -> tuple[str, list[str]]:
    """Return the text of a values file for the options, and warnings.

    Raises:
        RefusedError: a rule is broken; all that are.
        InputError: the site's file cannot be read.
    """
    request = Request(
        gpus=options["gpus"],
        model=options["model"],
        gpus_per_node=options["gpus_per_node"],
        tensor_parallel=options["tensor_parallel"],
        pipeline_parallel=options["pipeline_parallel"],
        micro_batch=options["micro_batch"],
        global_batch=options["global_batch"],
        max_steps=options["max_steps"],
        epochs=options["epochs"],
        batch_policy=options["batch_policy"],
    )
    site, words = chart_values.read_document(options["site"]) if options["site"] else ({}, [])
    plan, refused = _plan_or_rest(request)
    model = catalog.get(request.model)
    more: dict[str, Any] = {}
    if options["save_every"]:
        more["checkpoint"] = {"everyNSteps": options["save_every"]}
    if options["image"]:
        more["image"] = options["image"]
    training = {name: options[name] for name in ("kernels", "gpu") if options[name]}
    if training:
        more["training"] = training
    notes: list[str] = []
    if options["optimize"] and not refused:
        kind = facts.gpu(chart_values.overlay(more, site))
        plan, chosen, notes = _optimize(plan, request, model, kind, options)
        more = chart_values.merge(more, chosen)
    result = chart_values.overlay(from_plan(plan, model, more), site)
    verdict = judge(result)
    broken = list(verdict.violations)
    if refused:  # nodes were rounded to judge the rest
        broken = rules.without_followers([*refused.violations, *broken])
    if broken:
        raise RefusedError(broken)
    warnings, complete = [*words, *verdict.warnings], chart_values.complete(result)
    if not options["optimize"]:
        warnings += possible_gain(setup_of(complete))
    result = with_prediction(result, complete)
    return emit(result, command, notes, options["output"]), warnings


def _plan_or_rest(request: Request) -> tuple[Plan, RefusedError | None]:
    """Return the plan; for GPUs that are not whole nodes, the refusal and a plan to judge all else on."""
    try:
        return make_plan(request), None
    except RefusedError as error:
        if error.violations[0].key != "--gpus":
            raise
        nodes = max(1, request.gpus // request.gpus_per_node)
        return make_plan(replace(request, gpus=nodes * request.gpus_per_node)), error


def _optimize(
    plan: Plan, request: Request, model: catalog.Model, gpu: Gpu, options: dict[str, Any]
) -> tuple[Plan, dict[str, Any], list[str]]:
    """Return the planner's best plan for the same GPUs and global batch, its values, and what it needs."""
    found = search.search(
        search.Request(
            model,
            request.gpus,
            gpu=gpu,
            gpus_per_node=request.gpus_per_node,
            fixed_global_batch_size=plan.global_batch_size,
            kernels=options["kernels"] or "reference",
            tensor_parallel_size=request.tensor_parallel,
            pipeline_parallel_size=request.pipeline_parallel,
            micro_batch_size=request.micro_batch,
            checkpoint_interval=options["save_every"] or save_interval(plan.max_steps),
        )
    )
    setup = found.best.setup
    best = replace(
        plan,
        tensor_parallel_size=setup.tensor_parallel_size,
        pipeline_parallel_size=setup.pipeline_parallel_size,
        micro_batch_size=setup.micro_batch_size,
        sequence_parallel=setup.sequence_parallel,
        warmup_steps=warmup_for(plan.max_steps),
    )
    chosen: dict[str, Any] = {}
    if setup.recompute != "none":
        chosen["training"] = {"recompute": setup.recompute}
    if setup.tensor_parallel_size != model.preset.tensor_parallel_size:
        chosen["model"] = {"checkpointFormat": "distributed"}
    notes = [f"  planner: {found.best.rate:#.3g} samples/s/GPU"]
    if found.gain:
        notes[0] += f", {found.gain:.2f}x the preset's"
    return best, chosen, notes + [f"  {needs}" for needs in explain.requirements(setup)]
