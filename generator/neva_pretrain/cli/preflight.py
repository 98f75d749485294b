"""``neva-values preflight``: the chart's checks of data and models, on local paths.

The checks are those that pods run. Those of a pod's node and mounts are left out: they say nothing on another
machine.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from neva_pod.findings import Outcome, UsageError
from neva_pod.preflight.checks import NODE
from neva_pod.preflight.registry import Check, Context, Level
from neva_pod.preflight.report import as_json, as_text
from neva_pod.preflight.run import CheckResult, run_check, select
from neva_pod.settings import Settings
from neva_pretrain import chart
from neva_pretrain.chart.access import Values
from neva_pretrain.chart.values import merge, read
from neva_pretrain.check import storage
from neva_pretrain.check.verdict import accepted
from neva_pretrain.cli import options
from neva_pretrain.cli.options import POSITIVE
from neva_pretrain.errors import InputError, NevaError
from neva_pretrain.facts import Facts, below, results_in
from neva_pretrain.model import catalog
from neva_pretrain.output import say


def local(path: str, places: Mapping[str, str]) -> str:
    """Return where a pod's path lies on this machine, by the longest mount path that holds it."""
    for mount in sorted(places, key=len, reverse=True):
        if path == mount or path.startswith(mount.rstrip("/") + "/"):
            return places[mount].rstrip("/") + path[len(mount.rstrip("/")) :]
    return path


def node_paths(values: Values) -> dict[str, str]:
    """Return mount paths and the folders on a node that they show, where the values say so."""
    found = {}
    for name, volume in values["storage"].items():
        if node := storage.node_path(values, name) or volume.get("hostPath"):
            found[volume["mountPath"]] = below(node, volume["subPath"]) if volume.get("subPath") else node
    return found


def absolute(path: str) -> str:
    """Return a path on this machine, links as they are."""
    return str(Path(path).absolute())


PATHS = (
    "model.checkpointPath",
    "model.tokenizerPath",
    "model.visionEncoderPath",
    "data.annotations",
    "data.images",
    "results.path",
    "results.logDir",
    "results.checkpointsDir",
)
"""Facts that are paths of a pod."""

WAYS = {
    "model.checkpointPath": "--llm PATH",
    "model.tokenizerPath": "--tokenizer PATH",
    "model.visionEncoderPath": "--vision DIR",
    "data.annotations": "--dataset DIR",
    "data.images": "--dataset DIR",
    "results.checkpointsDir": "--results DIR, or run.id in the values",
}
"""What gives a fact that only values or an option have."""


def of_values(facts: Facts, places: Mapping[str, str]) -> dict[str, Any]:
    """Return a run's fact sheet, with its paths on this machine."""
    sheet = copy.deepcopy(facts.sheet)
    paths = places or node_paths(facts.values)
    for key in PATHS:
        section, name = key.split(".")
        sheet[section][name] = local(sheet[section][name], paths)
    if not sheet["run"]["id"]:  # the release's name says where results are
        del sheet["results"], sheet["resume"]
    return sheet


def of_model(name: str) -> dict[str, Any]:
    """Return what a model's files must be at its preset's parallelism, without any path."""
    preset = catalog.get(name).preset
    sizes = {"tensorParallelSize": preset.tensor_parallel_size, "pipelineParallelSize": preset.pipeline_parallel_size}
    sheet = copy.deepcopy(Facts.of({"model": {"name": name}, "training": sizes}).sheet)
    for key in ("checkpointPath", "tokenizerPath", "visionEncoderPath"):
        del sheet["model"][key]
    for key in ("data", "results", "resume"):
        del sheet[key]
    sheet["training"] = sizes  # the others do not belong to a model, and were not given
    return sheet


def _names(_context: click.Context, _option: click.Parameter, value: str) -> list[str]:
    return [name for name in value.split(",") if name]


def _places(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = [v.partition("=") for v in value]
    if not all(mount.startswith("/") and folder for mount, _, folder in pairs):
        raise click.BadParameter("must be /mount/path=/local/folder")
    return {mount: folder for mount, _, folder in pairs}


FOLDER = click.Path(path_type=str)

EPILOG = """\b
Examples:
  neva-values preflight -f values.yaml
  neva-values preflight -f values.yaml --map /models/preset=/mnt/models
  neva-values preflight --model llama2_13b_chat --tp 8 --llm llama-2-13b.nemo
  neva-values preflight --dataset LLaVA --decode all --only dataset,images
"""


@click.command("preflight", epilog=EPILOG)
@options.values()
@options.model(show_default="model.name of the values")
@options.tensor_parallel(show_default="of the values, or the preset's")
@options.pipeline_parallel(show_default="of the values, or the preset's")
@click.option("--dataset", type=FOLDER, metavar="DIR", help="Folder with blip_laion_cc_sbu_558k.json and images.")
@click.option("--llm", type=FOLDER, metavar="PATH", help="NeMo checkpoint: .nemo file or unpacked folder.")
@click.option("--tokenizer", type=FOLDER, metavar="PATH", help="Tokenizer file or folder.")
@click.option("--vision", type=FOLDER, metavar="DIR", help="Folder of the vision encoder.")
@click.option("--results", type=FOLDER, metavar="DIR", help="Folder of the run to resume.")
@click.option(
    "--map",
    "places",
    multiple=True,
    callback=_places,
    metavar="MOUNT=DIR",
    show_default="storage.*.gpfs.nodePath",
    help="Local folder of a pod's mount path.",
)
@click.option("--sample", type=POSITIVE, metavar="N", show_default="preflight.sample", help="Images to decode.")
@click.option(
    "--decode",
    type=click.Choice(["none", "sample", "all"]),
    show_default="preflight.decode",
    help="Which images to decode.",
)
@click.option(
    "--only", default="", callback=_names, shell_complete=options.checks, metavar="A,B", help="Run only these checks."
)
@click.option(
    "--skip", default="", callback=_names, shell_complete=options.checks, metavar="A,B", help="Skip these checks."
)
@options.form()
@click.pass_context
def preflight(
    context: click.Context,
    values: Path | None,
    model: str | None,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    dataset: str | None,
    llm: str | None,
    tokenizer: str | None,
    vision: str | None,
    results: str | None,
    places: dict[str, str],
    sample: int | None,
    decode: str | None,
    only: list[str],
    skip: list[str],
    form: str,
) -> None:
    """Check data, models and the run to resume, on this machine's paths.

    Options win over the values file. Ends with 1 when a check failed, or none could run. The chart runs the same
    checks in every pod before training, and those of the node besides.
    """
    complete: Values = chart.defaults()
    if values:
        facts = accepted(Facts.of(merge(read(values), {"model": {"name": model}} if model else {})))
        complete, settings = facts.values, of_values(facts, places)
    else:
        settings = of_model(model or complete["model"]["name"])
    given = {
        "model.checkpointPath": llm,
        "model.tokenizerPath": tokenizer,
        "model.visionEncoderPath": vision,
        "training.tensorParallelSize": tensor_parallel,
        "training.pipelineParallelSize": pipeline_parallel,
        "preflight.sample": sample,
        "preflight.decode": decode,
    }
    for key, value in given.items():
        if value is not None:
            section, name = key.split(".")
            settings[section][name] = absolute(value) if isinstance(value, str) and name != "decode" else value
    if dataset:
        folder = absolute(dataset)
        settings["data"] = {key: below(folder, complete["data"][key]) for key in ("annotations", "images")}
    if results:
        if not Path(results).is_dir():  # a fresh start, to the check
            raise InputError("is no folder", f"--results {results}")
        settings["results"] = results_in(absolute(results))
    left_out = [] if only else settings["preflight"].get("skip", [])
    run_checks(context, settings, only, [*skip, *left_out], form)


def run_here(check: Check, shared: Context) -> CheckResult:
    """Run a check; where it is skipped since a fact is not given, say what gives it."""
    result = run_check(check, shared)
    lacking = {WAYS[key]: None for key in check.needs if key in WAYS and shared.settings.find(key) is None}
    if not lacking:
        return result
    (said,) = result.findings
    return replace(result, findings=(replace(said, message=f"{said.message}; give {' and '.join(lacking)}"),))


def run_checks(context: click.Context, settings: dict[str, Any], only: list[str], skip: list[str], form: str) -> None:
    """Run the checks that make sense here, print the report, end with its code."""
    if of_pods := [name for name in only if name in NODE]:
        raise click.UsageError(f"--only {of_pods[0]} says nothing on this machine: it is a check of a pod's node.")
    shared = Context(Settings(settings))
    try:
        checks = select(Level.FULL, only, [*skip, *sorted(NODE)])
        found = [run_here(c, shared) for c in checks]
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    say(as_json(Level.FULL, found) if form == "json" else as_text(found))
    if all(r.outcome is Outcome.SKIPPED for r in found):
        raise NevaError("nothing was checked; give -f VALUES, or what is to be checked (--help)")
    context.exit(1 if any(r.outcome is Outcome.FAILED for r in found) else 0)
