"""The rules of ``files/rules.yaml`` on values: the twin of the chart's ``templates/_rules.tpl``."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from neva_pretrain import chart
from neva_pretrain.chart.access import Values, text
from neva_pretrain.errors import Violation
from neva_pretrain.facts import Facts

Condition = str | list[Any] | dict[str, Any]

_OPERATORS: dict[str, Callable[[Any, str], bool]] = {
    "set": lambda value, _: bool(value),
    "unset": lambda value, _: not value,
    "given": lambda value, _: value is not None,
    "is": lambda value, operand: said(value) == operand,
    "not": lambda value, operand: said(value) != operand,
    "gt": lambda value, operand: value is not None and float(value) > float(operand),
    "lt": lambda value, operand: value is not None and float(value) < float(operand),
    "matches": lambda value, operand: re.search(operand, said(value)) is not None,
}


def check_rules(facts: Facts) -> Iterator[Violation]:
    """Yield what values break of the rules."""
    values = facts.shaped
    for rule in chart.rules()["rules"]:
        if holds(rule["when"], values):
            got = said(at(values, rule["key"])) or "nothing"
            yield Violation(rule["key"], got, filled(rule["rule"], values), filled(rule["fix"], values))


def warnings(values: Values) -> list[str]:
    """Return the warnings that hold, each beginning with its key."""
    return [f"{w['key']}: {filled(w['text'], values)}" for w in chart.rules()["warnings"] if holds(w["when"], values)]


def holds(condition: Condition, values: Values) -> bool:
    """Return whether a condition, all of a list, or one of ``any`` holds."""
    if isinstance(condition, list):
        return all(holds(part, values) for part in condition)
    if isinstance(condition, dict):
        return any(holds(part, values) for part in condition["any"])
    path, operator, *operand = condition.split(" ", 2)
    return _OPERATORS[operator](at(values, path), filled("".join(operand), values))


def at(values: Values, path: str) -> Any:
    """Return the value of a path, None where it is missing."""
    node: Any = values
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def said(value: object) -> str:
    """Return a value in a sentence: the keys of a map, the items of a list."""
    if isinstance(value, Mapping | list):
        return ", ".join(sorted(value) if isinstance(value, Mapping) else map(text, value))
    return text(value)


def filled(sentence: str, values: Values) -> str:
    """Return a text with the values that its {path}s stand for."""
    return re.sub(r"\{([A-Za-z.]+)\}", lambda found: said(at(values, found[1])), sentence)
