"""Values files: read without surprises, merged as Helm merges, checked against the schema, written byte for byte.

Reading refuses duplicate keys (Helm lets the last one win in silence); a plain word is what Helm takes it for.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from neva_pretrain import chartdata
from neva_pretrain.catalog import Model
from neva_pretrain.errors import InputError, Violation
from neva_pretrain.output import printable
from neva_pretrain.output import write as write
from neva_pretrain.plan import Plan, save_interval
from neva_pretrain.reading import text

SCHEMA_IN_CHECKOUT = "schemas/values.schema.json"


# What Helm's YAML reader (go-yaml 2) takes a plain word for; the first match wins, and all else is a string. PyYAML
# alone would read 1:30 as 90 and 2024-01-01 as a date, and 1e-3, y and 0o10 as strings.
_HELM = (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    ("int", "[-+]?(0b[01][01_]*|0o?[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", "<<", ["<"]),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """Safe YAML loader that reads scalars and keys as Helm does and refuses duplicate keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    bool_values: ClassVar[dict[str, bool]] = {**yaml.SafeLoader.bool_values, "y": True, "n": False}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, dict | list):
                raise InputError(f"line {line}: a key must be a name, got a {type(key).__name__}")
            if text(key) in seen:
                raise InputError(f"line {line}: the key {key} is there twice; Helm would use the last one; keep one")
            seen.add(text(key))
        self.flatten_mapping(node)
        return {text(self.construct_object(k, deep=True)): self.construct_object(v, deep=deep) for k, v in node.value}


class _Dumper(yaml.SafeDumper):
    """Safe YAML dumper that quotes every string that Helm or PyYAML would not read as one."""


for _tag, _pattern, _first in _HELM:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read(path: Path) -> dict[str, Any]:
    """Parse a values file.

    Raises:
        InputError: unreadable, not YAML, a key twice, or no mapping at the top.
    """
    try:
        parsed = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 (a safe loader)
        json.dumps(parsed, default=str)  # finds an anchor inside itself
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:  # PyYAML's, on !!int x
        words = " ".join(str(error).split())
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            words = f"line {error.problem_mark.line + 1}: {error.problem}"
        raise InputError(f"{path}: cannot be read as YAML: {words}") from None
    if not isinstance(parsed, dict | None):
        raise InputError(f"{path}: must be a mapping of values, got a {type(parsed).__name__}")
    return parsed or {}


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


@cache
def _as_helm_reads(pattern: str) -> re.Pattern[str]:
    """Return a pattern as Helm reads it: in Python's alone, ``$`` also matches before a last line feed."""
    return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern))


def _as_helm_matches(_: object, pattern: str, instance: object, __: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _as_helm_reads(pattern).search(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(Draft7Validator, {"pattern": _as_helm_matches})  # type: ignore[no-untyped-call]


def schema_violations(values: Mapping[str, Any]) -> list[Violation]:
    """Return every way in which complete values break values.schema.json."""
    errors = sorted(_Validator(chartdata.schema()).iter_errors(values), key=lambda e: (e.json_path, e.message))
    listed = {e.json_path for e in errors if e.validator == "enum"}  # says more than the type
    wanted = [e for e in errors if e.validator != "type" or e.json_path not in listed]
    return [violation for error in wanted for violation in _explain(error)]


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
            yield Violation(f"{path}.{key}".removeprefix("."), text(instance[key]), "must be a known key", fix)
    elif error.validator == "required":
        missing = sorted(set(limit) - set(instance))
        for key in missing:
            yield Violation(f"{path}.{key}".removeprefix("."), "nothing", "must be set", "leave the default, or set it")
    else:
        rules = {
            "type": f"must be of type {_words(limit)}",
            "enum": f"must be one of {_words(limit)}",
            "minimum": f"must be at least {limit}",
            "maximum": f"must be at most {limit}",
            "exclusiveMinimum": f"must be more than {limit}",
            "maxLength": f"must have at most {limit} characters",
            "pattern": f"must match {_visible(str(limit))}",
        }
        got = _visible(instance if isinstance(instance, str) else text(instance))
        description = part.get("description", "see values.schema.json")
        rule = rules.get(str(error.validator), "must be as described")
        yield Violation(path or "values", got[:80] or '""', rule, description)


def _visible(given: str) -> str:
    """Return a text on one line, its control characters escaped."""
    return re.sub(r"[^ -~]", lambda match: match[0] if match[0].isprintable() else repr(match[0])[1:-1], given)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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
