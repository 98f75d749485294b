"""values.schema.json, the file that Helm checks too, in sentences: key, value, rule, fix."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from neva_pretrain import chart
from neva_pretrain.chart.access import text
from neva_pretrain.chart.secrecy import HIDDEN, is_secret, is_secret_name, show
from neva_pretrain.check import rules
from neva_pretrain.errors import Violation


def _bounded(keyword: str, limit: str) -> Any:
    """Return the validator of a keyword that does not look into what is larger than its own limit."""
    inside: Any = Draft7Validator.VALIDATORS[keyword]

    def validate(validator: object, value: object, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        if not isinstance(instance, dict | list) or len(instance) <= schema.get(limit, len(instance)):
            yield from inside(validator, value, instance, schema)

    return validate


_BOUNDED = {"items": "maxItems", "additionalProperties": "maxProperties"}


Validator = extend(  # type: ignore[no-untyped-call]
    Draft7Validator, {keyword: _bounded(keyword, limit) for keyword, limit in _BOUNDED.items()}
)


def violations(values: Mapping[str, Any]) -> list[Violation]:
    """Return every way in which complete values break values.schema.json."""
    errors = sorted(Validator(chart.schema()).iter_errors(values), key=lambda e: (e.json_path, e.message))
    # What says most says all: of a number where a name is listed, not that it is no string.
    most = {e.json_path: str(e.validator) for kind in ("type", "enum") for e in errors if e.validator == kind}
    wanted = [e for e in errors if e.validator == most.get(e.json_path, e.validator)]
    found = rules.scrub([violation for error in wanted for violation in _explain(error)])
    if any(_broken(e) in ("maxItems", "maxProperties") for e in wanted):
        return found
    keys = {violation.key for violation in found}
    return found + [violation for violation in rules.shape_violations(values) if violation.key not in keys]


def _broken(error: ValidationError) -> str:
    """Return the keyword that is broken; what is not empty where it must be is of another type than is wanted."""
    return "type" if error.validator in _EMPTY and error.validator_value == 0 else str(error.validator)


def _explain(error: ValidationError) -> Iterator[Violation]:
    path = _visible(error.json_path.removeprefix("$").removeprefix("."))
    part: Any = error.schema
    limit: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        known = list(part["properties"])
        for key in sorted(set(instance) - set(known)):
            close = _close(key, known)
            fix = f"use {close[0]}" if close else f"use one of {', '.join(known)}"
            place = f"{path}.{key}".removeprefix(".")
            yield Violation(place, _shown(instance[key], place, key), "must be a known key", fix)
    else:
        kinds = [text(kind) for kind in _listed(limit) if kind != "null"]
        known = [text(choice) for choice in _listed(limit) if choice not in (None, "")]
        close = _close(text(instance), known)
        broken = _broken(error)
        if broken != error.validator:
            kinds = [_EMPTY[str(error.validator)]]
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
            "minProperties": (f"must have at least {limit} keys", "remove it, or add keys"),
            "uniqueItems": ("must not have duplicates", "keep one"),
        }[broken]
        yield Violation(path or "values", _shown(instance, path, path.rpartition(".")[2]) or '""', rule, fix)


def _shown(value: object, path: str, name: str) -> str:
    """Return a value for a sentence, unless it is a secret or its name says so."""
    secret = is_secret_name(name) or (not isinstance(value, dict | list) and is_secret(name, value))
    return HIDDEN if secret else show(value, path)


_FIXES = {
    "integer": "use a whole number, without quotes",
    "number": "use a number, without quotes",
    "string": "use text, in quotes where it looks like a number",
    "boolean": "use true or false, without quotes",
    "array": "use a list",
    "object": "use a map",
}


_EMPTY = {"maxLength": "object", "maxProperties": "string"}
"""By the keyword that a limit of 0 breaks, the type that is wanted."""


def _close(word: str, known: list[str]) -> list[str]:
    """Return the known word that is most like another, if one is."""
    from difflib import get_close_matches  # here, since most values need it not

    return get_close_matches(word, known, n=1)


def _listed(limit: Any) -> list[Any]:
    return limit if isinstance(limit, list) else [limit]


def _visible(given: str) -> str:
    """Return a text on one line, its control characters escaped."""
    return re.sub(r"[^ -~]", lambda match: match[0] if match[0].isprintable() else repr(match[0])[1:-1], given)
