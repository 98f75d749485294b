"""``neva-values preflight``: the chart's checks of data and models, on local paths.

The checks are those of the chart's ``preflight.py``, loaded from the file itself. Those of a pod's
node and mounts are left out: they say nothing on another machine.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import click

from neva_pretrain import catalog, chartdata, hydra, rules
from neva_pretrain.errors import InputError
from neva_pretrain.output import say

Values = Mapping[str, Any]


@cache
def script() -> ModuleType:
    """Load the chart's preflight.py; its sibling is found beside it."""
    path = chartdata.path("preflight.py")
    spec = importlib.util.spec_from_file_location("preflight", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["preflight"] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def merged(base: Any, over: Any) -> Any:
    """Return values laid over others, as Helm does: mappings key by key, null takes a key away."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    keys = [k for k in {**base, **over} if k not in over or over[k] is not None]
    return {k: merged(base.get(k), over[k]) if k in over else base[k] for k in keys}


def read_values(path: Path) -> Values:
    """Read a values file over the chart's defaults."""
    try:
        given = chartdata.load_yaml(path.read_text("utf-8")) or {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # PyYAML's errors have no common built-in base
        raise InputError(f"{path}: is not YAML: {error}") from None
    if not isinstance(given, Mapping):
        raise InputError(f"{path}: must be a YAML mapping")
    complete: Values = merged(chartdata.defaults(), given)
    return complete


def local(path: str, places: Mapping[str, str]) -> str:
    """Return where a pod's path lies on this machine, by the longest mount path that holds it."""
    for mount in sorted(places, key=len, reverse=True):
        if path == mount or path.startswith(mount.rstrip("/") + "/"):
            return places[mount].rstrip("/") + path[len(mount.rstrip("/")) :]
    return path


def at(*parts: str) -> str:
    """Join a pod's path; an absolute part begins anew."""
    return str(PurePosixPath(*parts))


def node_paths(values: Values) -> dict[str, str]:
    """Return mount paths and the folders on a node that they show, where the values say so."""
    found = {}
    for name, volume in values["storage"].items():
        if node := rules.node_path(values, name):
            found[volume["mountPath"]] = node
    return found


def preset_settings(model: catalog.Model) -> dict[str, Any]:
    """Return what is to be demanded of a model's files, in the shape of settings.json."""
    shape, tower, preset = model.architecture, model.vision, model.preset
    return {
        "model": {
            "name": model.name,
            "modelType": model.model_type,
            "tokenizerLibrary": model.tokenizer_library,
            "extraTokens": model.extra_tokens,
        },
        "architecture": {
            "numLayers": shape.num_layers,
            "hiddenSize": shape.hidden_size,
            "ffnHiddenSize": shape.ffn_hidden_size,
            "numAttentionHeads": shape.num_attention_heads,
            "numQueryGroups": shape.num_query_groups,
            "vocabSize": shape.vocab_size,
            "numExperts": shape.num_experts,
        },
        "llm": hydra.llm({}, model),
        "samples": hydra.samples({}, model),
        "vision": {
            "architectures": list(tower.architectures),
            "imageSize": tower.image_size,
            "patchSize": tower.patch_size,
            "hiddenSize": tower.hidden_size,
        },
        "training": {
            "tensorParallelSize": preset.tensor_parallel_size,
            "pipelineParallelSize": preset.pipeline_parallel_size,
        },
    }


def settings_of(values: Values, model: catalog.Model, places: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a values file, with its paths on this machine.

    The same paths that the chart derives in ``templates/_facts.tpl``.
    """
    given, data, training = values["model"], values["data"], values["training"]
    paths = places or node_paths(values)
    fullname = (values.get("run") or {}).get("id") or ""
    results = at(values["storage"]["results"]["mountPath"], fullname)
    settings = preset_settings(model)
    settings["architecture"] |= given.get("architecture") or {}
    settings["llm"] = hydra.llm(values, model)
    settings["samples"] = hydra.samples(values, model)
    settings["model"] |= {
        "checkpointPath": local(at(given["llmPath"], given["checkpoint"] or model.checkpoint_name), paths),
        "checkpointFormat": given["checkpointFormat"],
        "tokenizerPath": local(at(given["llmPath"], given["tokenizer"] or model.tokenizer_name), paths),
        "visionEncoderPath": local(given["visionEncoderPath"], paths),
    }
    settings["training"] = dict(training)
    settings["data"] = {
        "annotations": local(at(data["path"], data["annotations"]), paths),
        "images": local(at(data["path"], data["images"]), paths),
    }
    settings["hf"] = {"online": bool((values.get("hf") or {}).get("online"))}
    if fullname:  # without it the release's name says where results are
        settings["results"] = results_settings(local(results, paths))
        settings["resume"] = values["checkpoint"]["resume"]
    return settings


def results_settings(path: str) -> dict[str, str]:
    """Return the folders of a run."""
    return {"path": path, "checkpointsDir": at(path, "results", "checkpoints")}


def _names(_context: click.Context, _option: click.Parameter, value: str) -> list[str]:
    return [name for name in value.split(",") if name]


def _places(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = [v.partition("=") for v in value]
    if not all(mount.startswith("/") and folder for mount, _, folder in pairs):
        raise click.BadParameter("must be /mount/path=/local/folder")
    return {mount: folder for mount, _, folder in pairs}


FOLDER = click.Path(path_type=str)


@click.command("preflight")
@click.option(
    "-f",
    "--values",
    "values_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Values of the run: its model, paths and parallelism.",
)
@click.option(
    "--model",
    "model_name",
    metavar="NAME",
    help="A model of the catalog.  [default: llama2_7b_chat]",
)
@click.option("--tensor-parallel", type=click.IntRange(min=1), metavar="N", help="TP of the run.")
@click.option("--pipeline-parallel", type=click.IntRange(min=1), metavar="N", help="PP of the run.")
@click.option(
    "--dataset",
    type=FOLDER,
    metavar="DIR",
    help="Folder with blip_laion_cc_sbu_558k.json and images.",
)
@click.option("--llm", type=FOLDER, metavar="PATH", help="NeMo checkpoint: .nemo file or unpacked folder.")
@click.option("--tokenizer", type=FOLDER, metavar="PATH", help="Tokenizer file or folder.")
@click.option("--vision", type=FOLDER, metavar="DIR", help="Folder of the vision encoder.")
@click.option("--results", type=FOLDER, metavar="DIR", help="Folder of the run, to resume it.")
@click.option(
    "--map",
    "places",
    multiple=True,
    callback=_places,
    metavar="MOUNT=DIR",
    help="Where a pod's mount path lies here.  [default: storage.*.gpfs.nodePath]",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Images to decode.",
)
@click.option(
    "--decode",
    type=click.Choice(["none", "sample", "all"]),
    default="sample",
    show_default=True,
    help="Which images to decode.",
)
@click.option("--only", default="", callback=_names, metavar="A,B", help="Run these checks only.")
@click.option("--skip", default="", callback=_names, metavar="A,B", help="Leave these checks out.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print.",
)
@click.pass_context
def preflight(
    context: click.Context,
    values_file: Path | None,
    model_name: str | None,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    dataset: str | None,
    llm: str | None,
    tokenizer: str | None,
    vision: str | None,
    results: str | None,
    places: dict[str, str],
    sample: int,
    decode: str,
    only: list[str],
    skip: list[str],
    output: str,
) -> None:
    """Check data, models and what is to be resumed, on this machine's paths.

    Options win over the values file. Ends with 1 when a check failed. The chart runs the same
    checks in every pod before training, and those of the node besides.
    """
    values = read_values(values_file) if values_file else None
    model = catalog.get(model_name or (values or chartdata.defaults())["model"]["name"])
    settings = settings_of(values, model, places) if values else preset_settings(model)
    given = {
        "model.checkpointPath": llm,
        "model.tokenizerPath": tokenizer,
        "model.visionEncoderPath": vision,
        "training.tensorParallelSize": tensor_parallel,
        "training.pipelineParallelSize": pipeline_parallel,
    }
    for key, value in given.items():
        if value is not None:
            section, name = key.split(".")
            absolute = str(Path(value).absolute()) if isinstance(value, str) else value
            settings[section][name] = absolute
    if dataset:
        names = (values or chartdata.defaults())["data"]
        settings["data"] = {key: at(str(Path(dataset).absolute()), names[key]) for key in ("annotations", "images")}
    if results:
        settings["results"] = results_settings(str(Path(results).absolute()))
    settings["preflight"] = {"sample": sample, "decode": decode}
    run_checks(context, settings, only, skip, output)


def run_checks(context: click.Context, settings: dict[str, Any], only: list[str], skip: list[str], output: str) -> None:
    """Run the checks that make sense here, print the report, end with its code."""
    chart = script()
    run = chart.Run(chart.Settings(settings))
    try:
        checks = chart.select(chart.Level.FULL, only, [*skip, *sorted(chart.NODE)])
        found = [chart.run_check(c, run) for c in checks]
    except chart.UsageError as error:
        raise click.UsageError(str(error)) from None
    say(chart.as_json(chart.Level.FULL, found) if output == "json" else chart.as_text(found))
    context.exit(1 if any(r.status is chart.Status.FAILED for r in found) else 0)
