"""A sweep: a values file for each combination of some values, each a run and a release of its own.

What the planner decides goes through the request, so that all that follows from it follows; the rest is a value.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from neva_pretrain import chart
from neva_pretrain.chart import values as chart_values
from neva_pretrain.chart import yamlfile
from neva_pretrain.chart.secrecy import is_secret
from neva_pretrain.check import schema
from neva_pretrain.check.config import in_clear
from neva_pretrain.errors import InputError, RefusedError, Violation
from neva_pretrain.generate import Options, generate
from neva_pretrain.output import holds_another, write_all
from neva_pretrain.plan.plan import Request

MOST = 100
"""Runs of one sweep."""

MOST_CHARACTERS = 40
"""Of a run id, by the schema; a TrainJob's has fewer."""

SHORT = {
    "lr": "training.learningRate",
    "min-lr": "training.minLearningRate",
    "tp": "training.tensorParallelSize",
    "pp": "training.pipelineParallelSize",
    "mbs": "training.microBatchSize",
    "gbs": "training.globalBatchSize",
    "warmup": "training.warmupSteps",
    "max": "training.maxSteps",  # no run's id may have the word step
    "save-every": "checkpoint.everyNSteps",
    "model": "model.name",
}
"""Short names of keys, in run ids and for who types them."""

NODES = "training.nodes"

_REQUESTED = {
    "model.name": "model",
    "training.gpusPerNode": "gpus_per_node",
    "training.tensorParallelSize": "tensor_parallel",
    "training.pipelineParallelSize": "pipeline_parallel",
    "training.microBatchSize": "micro_batch",
    "training.globalBatchSize": "global_batch",
    "training.maxSteps": "max_steps",
}
"""Values that a request holds, by its field; training.nodes is its GPUs."""


class Axis(NamedTuple):
    """A key and the values that it takes in turn, as they were typed."""

    key: str
    words: tuple[str, ...]

    @classmethod
    def parse(cls, said: str) -> "Axis":
        r"""Read ``KEY=VALUE,VALUE``; a comma of a value is ``\,``, as with Helm.

        Raises:
            ValueError: it is none.
        """
        key, _, listed = said.partition("=")
        words = tuple(re.sub(r"\\(.)", r"\1", word) for word in re.split(r"(?<!\\),", listed))
        if not key.strip("-") or not all(words):
            raise ValueError(said)
        return cls(SHORT.get(key.lstrip("-"), key), words)

    @property
    def name(self) -> str:
        """The key in short."""
        last = _path(self.key)[-1]
        plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", last).lower()
        return next((short for short, key in SHORT.items() if key == self.key), plain)


class Run(NamedTuple):
    """One combination.

    Attributes:
        id: its ``run.id``, the name of its file and of its release.
        words: its values as they were typed, by key.
        content: the text of its values file.
        warnings: what to review.
    """

    id: str
    words: Mapping[str, str]
    content: str
    warnings: Sequence[str]


def plan(
    axes: Sequence[Axis],
    request: Request,
    options: Options,
    command: Callable[[Mapping[str, str]], str],
    folder: Path,
) -> list[Run]:
    """Return the runs of all combinations; nothing is written.

    Args:
        axes: what varies, the first one slowest.
        request: sizes of all runs.
        options: all else of all runs; the run id begins each run's own.
        command: the command line that writes one run, by its words.
        folder: where the files will lie.

    Raises:
        RefusedError: a value or a run is refused, or two runs meet; all that is wrong of all of them.
    """
    if broken := list(_check_axes(axes)):
        raise RefusedError(broken)
    combinations = [
        dict(zip((a.key for a in axes), words, strict=True)) for words in itertools.product(*(a.words for a in axes))
    ]
    ids = [_id(axes, words, options.run_id or "neva") for words in combinations]
    if broken := [*_check_ids(ids, combinations), *(v for name in ids for v in _check_name(name, MOST_CHARACTERS))]:
        raise RefusedError(broken)
    runs, refusals = [], dict[str, dict[Violation, None]]()
    for name, words in zip(ids, combinations, strict=True):
        given = {key: _typed(key, word) for key, word in words.items()}
        own = options._replace(run_id=name, chosen=_nested(given))
        try:
            content, warnings = generate(_requested(request, given), own, command(words), folder / f"{name}.yaml")
            runs.append(Run(name, words, content, warnings))
        except RefusedError as error:
            refusals[name] = dict.fromkeys(error.violations)
    if broken := [*_check_releases(runs), *_together(refusals, len(ids))]:
        raise RefusedError(broken)
    return runs


def write(runs: Sequence[Run], folder: Path) -> None:
    """Write all runs into a folder, or none.

    Raises:
        RefusedError: another file is in the way.
        InputError: the folder cannot be written to.
    """
    files = {folder / f"{run.id}.yaml": run.content for run in runs}
    others = [path.name for path, content in files.items() if holds_another(path, content.encode("utf-8"))]
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        rule = f"must have no other file of a run's name, has {others[0]}{more}"
        raise RefusedError([Violation("--output", str(folder), rule, "use a new folder, or another --run-id")])
    write_all(files, "--output")


def _path(key: str) -> list[str]:
    r"""Return the parts of a key; a dot of a part is ``\.``, as with Helm."""
    return [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", key)]


def _nested(given: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in given.items():
        for part in reversed(_path(key)):
            value = {part: value}
        nested = chart_values.overlay(nested, value)
    return nested


def _violations(key: str, value: object) -> list[Violation]:
    """Return what a value breaks of the schema, all else the chart's defaults."""
    return schema.violations(chart_values.complete(_nested({key: value})))


def _typed(key: str, word: str) -> Any:
    """Return what a word is: what YAML takes it for, or text where only that is right."""
    try:
        value = yamlfile.plain(word)
    except InputError:  # infinity and NaN: no number
        value = word
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return word if not isinstance(value, str) and _violations(key, value) and not _violations(key, word) else value


def _check_axes(axes: Sequence[Axis]) -> Iterator[Violation]:
    """Each key is there and each value right by itself, none is there twice, and they are not too many."""
    number = math.prod(len(axis.words) for axis in axes)
    if number > MOST:
        yield Violation("--sweep", f"{number} runs", f"must make at most {MOST}", "use fewer values")
        return
    for axis in axes:
        if (parts := len(_path(axis.key))) > yamlfile.MOST_LEVELS:
            rule = f"must have at most {yamlfile.MOST_LEVELS}"
            yield Violation("--sweep", f"a key of {parts} parts", rule, "use a key of the chart")
            continue
        if any(is_secret(_path(axis.key)[-1], said) for said in (*axis.words, ",".join(axis.words))):
            yield in_clear(axis.key)  # which would also be in ids and names of files
            continue
        if axis.key == "run.id":
            rule = "must not be swept, since each run has its own"
            yield Violation("run.id", ",".join(axis.words), rule, "use --run-id for what all begin with")
            continue
        if _path(axis.key)[0] not in chart.schema()["properties"]:
            fix = f"use {' or '.join(_ending_in(axis.key)) or 'one of values.yaml'}"
            yield Violation("--sweep", axis.key, "must be a known key", fix)
            continue
        values = [_typed(axis.key, word) for word in axis.words]
        yield from dict.fromkeys(v for value in values for v in _violations(axis.key, value))
        kinds = [(type(value), value) for value in values]  # 1 is true, but for Python alone
        if twice := [word for at, word in enumerate(axis.words) if kinds[at] in kinds[:at]]:
            yield Violation(axis.key, ",".join(axis.words), "must not have duplicates", f"leave out {twice[0]}")


def _ending_in(name: str) -> list[str]:
    """Return the keys of the chart's sections that have that name."""
    return [
        f"{section}.{name}" for section, keys in chart.defaults().items() if isinstance(keys, dict) and name in keys
    ]


def _id(axes: Sequence[Axis], words: Mapping[str, str], prefix: str) -> str:
    """Return a run's id: neva-lr-1e-3."""
    said = ((() if axis.key == "model.name" else (axis.name,)) + (words[axis.key],) for axis in axes)
    parts = (re.sub("[^a-z0-9]+", "-", part.lower()).strip("-") for pair in said for part in pair)
    return "-".join(filter(None, (prefix, *parts)))


def _requested(request: Request, given: Mapping[str, Any]) -> Request:
    fields = {field: given[key] for key, field in _REQUESTED.items() if key in given}
    made = replace(request, **fields)
    return replace(made, gpus=given[NODES] * made.gpus_per_node) if NODES in given else made


def _check_ids(ids: Sequence[str], combinations: Sequence[Mapping[str, str]]) -> Iterator[Violation]:
    """Run ids, and with them results folders, files and releases, are all different."""
    first: dict[str, Mapping[str, str]] = {}
    for name, words in zip(ids, combinations, strict=True):
        if name in first:
            both = " and of ".join(", ".join(f"{k}={w}" for k, w in some.items()) for some in (first[name], words))
            rule = "must be another id for each run, or one would resume the other"
            yield Violation("run.id", f"{name} of {both}", rule, "use them in two sweeps with different --run-id")
        first.setdefault(name, words)


def _check_name(name: str, limit: int) -> Iterator[Violation]:
    if len(name) > limit or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name):
        rule = f"must be the name of a release: at most {limit} lower case letters, digits and -, a letter first"
        yield Violation("run.id", name, rule, "use a shorter or other --run-id")


def _check_releases(runs: Sequence[Run]) -> Iterator[Violation]:
    """Each id can be the name of its kind of job, and no release makes what another one has made."""
    owners: dict[tuple[str, str], str] = {}
    for run in runs:
        values = chart_values.complete(yaml.safe_load(run.content))
        yield from _check_name(run.id, chart.rules()["maxNameLength"][values["job"]["kind"]])
        account = values["serviceAccount"]
        made = {"fullnameOverride": values["fullnameOverride"]}
        if account["create"]:
            made["serviceAccount.name"] = account["name"]
        for key, name in made.items():
            if name and (owner := owners.setdefault((key, name), run.id)) != run.id:
                rule = f"must be another for each run, and is that of {owner} and {run.id}"
                yield Violation(key, name, rule, "remove it")


def _together(refusals: Mapping[str, Mapping[Violation, None]], runs: int) -> Iterator[Violation]:
    """Yield all runs' violations; what holds of all of them once, all else with the run's id."""
    every = [v for v in next(iter(refusals.values()), {}) if all(v in found for found in refusals.values())]
    common = every if len(refusals) == runs else []
    yield from common
    for name, found in refusals.items():
        yield from (v._replace(key=f"{name}: {v.key}") for v in found if v not in common)
