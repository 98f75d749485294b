"""Values files: read without surprises, merged as Helm merges, checked against the schema, written byte for byte."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from neva_pretrain import chartdata, rules, yamlfile
from neva_pretrain.catalog import Model
from neva_pretrain.errors import InputError, Violation
from neva_pretrain.output import printable
from neva_pretrain.output import write as write
from neva_pretrain.plan import Plan, save_interval
from neva_pretrain.reading import text
from neva_pretrain.secrecy import is_secret_name, show
from neva_pretrain.words import lost_meaning

SCHEMA_IN_CHECKOUT = "schemas/values.schema.json"


class _Dumper(yaml.SafeDumper):
    """Safe YAML dumper that quotes every string that Helm or PyYAML would not read as one."""


class _NoString:
    """Stands for a pattern of PyYAML's: what Helm takes for no string."""

    @staticmethod
    def match(word: str) -> bool:
        try:
            return not isinstance(yamlfile.plain(word), str)
        except InputError:
            return True


_Dumper.add_implicit_resolver("tag:neva-pretrain:no-string", _NoString(), None)

REFUSAL = "ERROR: "
"""Begins each key of the document that stands for refused values; see :func:`refusal`."""


def refusal(sentences: Iterable[str]) -> str:
    """Return what is written in place of values: YAML that the schema and :func:`read` refuse, with the sentences.

    An empty file would install the chart's defaults.
    """
    said = dict.fromkeys((f"{REFUSAL}{' '.join(sentence.split())}" for sentence in sentences), "refused")
    return yaml.dump(said, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read(path: Path) -> dict[str, Any]:
    """Read a values file, or standard input for ``-``, as Helm reads it.

    Raises:
        InputError: unreadable, no YAML, no values, or what a refusal left in their place.
    """
    return read_document(path)[0]


def read_document(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a values file as :func:`read` does, and what to look at in its text; each sentence begins with a key."""
    document = yamlfile.read(path)
    content = document.content
    if content is None:
        raise InputError("has no values, and Helm would install the chart's defaults; write it, or {} for these", path)
    if not isinstance(content, dict):
        raise InputError(f"must be a mapping of values, got a {type(content).__name__}", path)
    if refused := [key.removeprefix(REFUSAL) for key in content if key.startswith(REFUSAL)]:
        raise InputError(f"holds a refusal in place of values: {' | '.join(refused)}", path)
    encoding = ["encoding: UTF-16, which Helm 4 does not read; save it as UTF-8"] if document.is_utf16 else []
    return content, [*encoding, *lost_meaning(document.words)]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values as Helm does: mappings deeply, all else replaced; null removes a key that is there."""
    merged = dict(base)
    for key, value in over.items():
        if value is None and key in merged:
            del merged[key]
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's values over the chart's defaults: what the templates see."""
    return merge(chartdata.defaults(), values)


def _bounded(keyword: str, limit: str) -> Any:
    """Return the validator of a keyword that does not look into what is larger than its own limit."""
    inside: Any = Draft7Validator.VALIDATORS[keyword]

    def validate(validator: object, value: object, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        if not isinstance(instance, dict | list) or len(instance) <= schema.get(limit, len(instance)):
            yield from inside(validator, value, instance, schema)

    return validate


_BOUNDED = {"items": "maxItems", "additionalProperties": "maxProperties"}
_Validator = extend(  # type: ignore[no-untyped-call]
    Draft7Validator, {keyword: _bounded(keyword, limit) for keyword, limit in _BOUNDED.items()}
)


def schema_violations(values: Mapping[str, Any]) -> list[Violation]:
    """Return every way in which complete values break values.schema.json."""
    errors = sorted(_Validator(chartdata.schema()).iter_errors(values), key=lambda e: (e.json_path, e.message))
    # What says most says all: of a number where a name is listed, not that it is no string.
    most = {e.json_path: str(e.validator) for kind in ("type", "enum") for e in errors if e.validator == kind}
    wanted = [e for e in errors if e.validator == most.get(e.json_path, e.validator)]
    found = rules.scrub([violation for error in wanted for violation in _explain(error)])
    if any(e.validator in ("maxItems", "maxProperties") for e in wanted):
        return found
    keys = {violation.key for violation in found}
    return found + [violation for violation in rules.shape_violations(values) if violation.key not in keys]


def _explain(error: ValidationError) -> Iterator[Violation]:
    path = _visible(error.json_path.removeprefix("$").removeprefix("."))
    part: Any = error.schema
    limit: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        known = list(part["properties"])
        for key in sorted(set(instance) - set(known)):
            close = difflib.get_close_matches(key, known, n=1)
            fix = f"use {close[0]}" if close else f"use one of {', '.join(known)}"
            got = "a value" if is_secret_name(key) else show(instance[key])
            yield Violation(f"{path}.{key}".removeprefix("."), got, "must be a known key", fix)
    else:
        kinds = [text(kind) for kind in _listed(limit) if kind != "null"]
        known = [text(choice) for choice in _listed(limit) if choice is not None]
        close = difflib.get_close_matches(text(instance), known, n=1)
        rule, fix = {
            "type": (f"must be of type {', '.join(kinds)}", _FIXES.get(kinds[0] if kinds else "", "")),
            "enum": (f"must be one of {', '.join(known)}", f"use {(close or known)[0] or 'another'}"),
            "minimum": (f"must be at least {limit}", f"use {limit} or more"),
            "maximum": (f"must be at most {limit}", f"use {limit} or less"),
            "exclusiveMinimum": (f"must be more than {limit}", "use more"),
            "minLength": ("must not be empty", "leave the default, or set it"),
            "maxLength": (f"must have at most {limit} characters", "use fewer"),
            "maxItems": (f"must have at most {limit} items", "use fewer"),
            "maxProperties": (f"must have at most {limit} keys", "use fewer"),
            "minProperties": (f"must have at least {limit} keys", "leave it out, or say more"),
            "uniqueItems": ("must not say one thing twice", "keep one"),
        }[str(error.validator)]
        got = "a value" if is_secret_name(path.rpartition(".")[2]) else show(instance)
        yield Violation(path or "values", got or '""', rule, fix)


_FIXES = {
    "integer": "use a whole number, without quotes",
    "number": "use a number, without quotes",
    "string": "use a text, in quotes where it looks like a number",
    "boolean": "use true or false, without quotes",
    "array": "use a list",
    "object": "use a map",
}


def _listed(limit: Any) -> list[Any]:
    return limit if isinstance(limit, list) else [limit]


def _visible(given: str) -> str:
    """Return a text on one line, its control characters escaped."""
    return re.sub(r"[^ -~]", lambda match: match[0] if match[0].isprintable() else repr(match[0])[1:-1], given)


def from_plan(plan: Plan, model: Model, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a plan: only what differs from run to run; the rest is the chart's defaults.

    Args:
        plan: the plan.
        model: its model; the folders follow the layout of the chart's default paths.
        more: further values, merged last.
    """
    defaults = chartdata.defaults()
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
    return merge(values, more)


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge deeply and keep nulls: they remove the chart's defaults when Helm reads the result."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = overlay(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def emit(values: Mapping[str, Any], command: str, notes: list[str], output: Path | None) -> str:
    """Return the text of a values file: the schema for editors, the command, what follows from it, the values.

    The same arguments give the same bytes; the schema's path is relative to the file's folder, by its name alone.
    """
    plan = Plan.from_values(complete(values))
    schema = os.path.relpath(SCHEMA_IN_CHECKOUT, output.parent if output and not output.is_absolute() else ".")
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# {printable(' '.join(command.splitlines()))}",
        f"#   {plan.gpus} GPUs on {_counted(plan.nodes, 'node')}: 1 master, {_counted(plan.workers, 'worker')}",
        f"#   data parallel size {plan.data_parallel_size}, {plan.accumulation_steps} accumulation steps",
        f"#   {plan.samples:,} samples in {plan.max_steps:,} steps, {plan.epochs:.2f} epochs",
        *(f"# {note}" for note in notes),
    ]
    style: dict[str, Any] = {"Dumper": _Dumper, "sort_keys": False, "default_flow_style": False, "width": 1000}
    body: str = yaml.dump(dict(values), allow_unicode=True, **style)
    if body != printable(body):  # shown in another order than it has: escaped, so that a terminal may have it too
        body = yaml.dump(dict(values), allow_unicode=False, **style)
    return "\n".join(lines) + "\n" + body


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
