"""From a request to a values file: request -> plan -> values -> facts -> verdict -> text."""

import os
import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import yaml

from neva_pretrain import chart
from neva_pretrain.chart import values as chart_values
from neva_pretrain.chart.access import VOLUMES, Values, mapping, section
from neva_pretrain.check import rules
from neva_pretrain.check.storage import node_path, storage_sources
from neva_pretrain.check.verdict import judge, possible_gain, saves, with_prediction
from neva_pretrain.errors import RefusedError
from neva_pretrain.facts import Facts
from neva_pretrain.model import catalog
from neva_pretrain.model.catalog import Model
from neva_pretrain.output import printable
from neva_pretrain.plan import explain, recorded, saving, search
from neva_pretrain.plan.plan import SAMPLES_PER_EPOCH, Plan, Request, make_plan, warmup_for
from neva_pretrain.plan.setup import Kernels
from neva_pretrain.plan.time import speedup

SITE = "values/sites/scitix.yaml"
"""The site of the launch scripts: what is meant if none is named."""


class Options(NamedTuple):
    """What a user says of a run beside its sizes; None is the chart's default.

    Attributes:
        save_every: steps between checkpoints.
        checkpoint: whether any are saved.
        learning_rate: the peak.
        run_id: names the results folder.
        kernels: those of the model.
        gpu: kind of GPU, a key of ``hardware.GPUS``.
        image: repository and tag or digest of the container's image.
        site: file with partial values of a site, merged over the plan's; None is Scitix.
        optimize: take the planner's parallelism and micro batch.
        chosen: values of a sweep's run, over all others.
    """

    save_every: int | None = None
    checkpoint: bool = True
    learning_rate: float | None = None
    run_id: str | None = None
    kernels: Kernels | None = None
    gpu: str | None = None
    image: Mapping[str, str] | None = None
    site: Path | None = None
    optimize: bool = False
    chosen: Mapping[str, Any] = MappingProxyType({})

    def values(self) -> dict[str, Any]:
        """Return what is said, as values."""
        said: dict[str, Any] = {}
        if self.run_id:
            said["run"] = {"id": self.run_id}
        if not self.checkpoint:
            said["checkpoint"] = {"enabled": False}
        if self.save_every:
            said["checkpoint"] = {"everyNSteps": self.save_every}
        if self.image:
            said["image"] = dict(self.image)
        training = {"learningRate": self.learning_rate, "kernels": self.kernels, "gpu": self.gpu}
        if any(training.values()):
            said["training"] = {key: value for key, value in training.items() if value}
        return said

    def over(self, site: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is said over a site's values; an image is named as a whole, so the site's tag is not kept."""
        image = section(site, "image")
        if self.image and image:
            site = {**site, "image": {key: image[key] for key in image if key not in ("repository", "tag", "digest")}}
        return chart_values.overlay(chart_values.overlay(site, self.values()), self.chosen)


def generate(request: Request, options: Options, command: str, output: Path | None = None) -> tuple[str, list[str]]:
    """Return the text of a values file, and warnings.

    Args:
        request: sizes of the run.
        options: all else.
        command: the command line, which the file repeats.
        output: where the file will lie; None for stdout.

    Raises:
        RefusedError: a rule is broken; all that are.
        InputError: the site's file cannot be read.
    """
    site, words = chart_values.read_document(options.site or chart.root() / SITE)
    plan, refused = _plan_or_rest(request)
    model, said = catalog.get(request.model), options.over(site)
    notes = [] if options.site else [f"  site: Scitix ({SITE}); --site FILE names another"]
    chosen: dict[str, Any] = {}
    if options.optimize and not refused:
        plan, chosen, more = _optimize(plan, request, model, said)
        notes += more
    values = chart_values.overlay(from_plan(plan, model, chosen), said)
    facts = Facts.of(values)
    verdict = judge(facts)
    broken = list(verdict.violations)
    if refused:  # nodes were rounded to judge the rest
        broken = rules.without_followers([*refused.violations, *broken])
    if broken:
        raise RefusedError(broken)
    gain = [] if options.optimize else possible_gain(facts.setup)
    if options.site:
        words = [*_of_another_site(options.site, facts.values), *words]
    setup = facts.setup
    if section(said, "checkpoint").get("everyNSteps"):
        words = [*words, *saves(facts)]
    elif setup.checkpoint_interval:  # now that a step's time is known
        setup = replace(setup, checkpoint_interval=saving.interval(setup, facts.plan.max_steps))
        values = chart_values.merge(values, {"checkpoint": {"everyNSteps": setup.checkpoint_interval}})
    text = emit(with_prediction(values, facts, setup), facts.plan, command, notes, output, request.samples)
    return text, [*words, *verdict.warnings, *gain]


def _of_another_site(site: Path, values: Values) -> list[str]:
    """Say which volumes are folders of Scitix, since a site's file names no source of them."""
    folders = {name: node_path(values, name) for name in VOLUMES if not storage_sources(values["storage"][name])}
    scitix = {name: folder for name, folder in folders.items() if folder}
    if not scitix or site.samefile(chart.root() / SITE):
        return []
    named = ", ".join(f"storage.{name}" for name in scitix)
    return [
        f"storage: {site} names no source of {named}: pods mount {', '.join(scitix.values())} of their nodes, the "
        "folders of Scitix: name yours, such as existingClaim or gpfs.nodePath"
    ]


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
    plan: Plan, request: Request, model: catalog.Model, said: Mapping[str, Any]
) -> tuple[Plan, dict[str, Any], list[str]]:
    """Return the planner's best plan for the same GPUs and global batch, its values, and what it needs."""
    kernels = mapping(said, "training").get("kernels")  # judged only later
    found = search.search(
        search.SearchRequest(
            model,
            request.gpus,
            gpu=recorded.gpu(said),
            gpus_per_node=request.gpus_per_node,
            fixed_global_batch_size=plan.global_batch_size,
            kernels=next((known for known in get_args(Kernels) if known == kernels), "reference"),
            tensor_parallel_size=request.tensor_parallel,
            pipeline_parallel_size=request.pipeline_parallel,
            micro_batch_size=request.micro_batch,
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
    notes = [f"  planner: {found.best.time.basis.sign}{found.best.rate:#.3g} samples/s/GPU"]
    if found.preset:
        notes[0] += f", {speedup(found.best.time, found.preset.time)} the preset's"
    return best, chosen, notes + [f"  {needs}" for needs in explain.requirements(setup)]


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
            "llmPath": f"{posixpath.dirname(defaults['model']['llmPath'])}/{model.folder}",
            "visionEncoderPath": f"{models}/{model.vision.path}",
        },
        "training": plan.training_values(),
        "checkpoint": {"everyNSteps": saving.tenth(plan.max_steps)},
    }
    return chart_values.merge(values, more)


def emit(
    values: Mapping[str, Any],
    plan: Plan,
    command: str,
    notes: list[str],
    output: Path | None,
    epoch: int = SAMPLES_PER_EPOCH,
) -> str:
    """Return the text of a values file: the schema for editors, the command, what follows from it, the values."""
    lines = [
        f"# yaml-language-server: $schema={_schema(output)}",
        f"# {printable(' '.join(command.splitlines()))}",
        f"#   {plan.gpus} GPUs on {_counted(plan.nodes, 'node')}: 1 master, {_counted(plan.workers, 'worker')}",
        f"#   data parallel size {plan.data_parallel_size}, {plan.accumulation_steps} accumulation steps",
        f"#   {plan.samples:,} samples in {plan.max_steps:,} steps, {plan.samples / epoch:.2f} epochs",
        *(f"# {note}" for note in notes),
    ]
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "width": 1000}
    style["Dumper"] = chart_values.Dumper
    body: str = yaml.dump(dict(values), allow_unicode=True, **style)
    if body != printable(body):  # shown in another order than it has: escaped, so that a terminal may have it too
        body = yaml.dump(dict(values), allow_unicode=False, **style)
    return "\n".join(lines) + "\n" + body


def _schema(output: Path | None) -> str:
    """Return where an editor finds the schema: in this checkout or copy of the chart, else in the installed package."""
    here = Path(chart.CHART, chart.SCHEMA)
    if not here.exists():
        return chart.path(chart.SCHEMA).as_uri()
    if output and output.is_absolute():
        return here.resolve().as_uri()
    return Path(os.path.relpath(here, output.parent if output else ".")).as_posix()


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
