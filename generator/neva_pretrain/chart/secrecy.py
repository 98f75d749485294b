"""Places of values, and which of them hold secrets, in the chart's words (files/rules.yaml).

The twin of ``templates/_walk.tpl``.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from neva_pretrain import chart
from neva_pretrain.chart.access import text

LEVELS = 32
"""Depth to which a tree is looked at; deeper ones are refused."""


class Entry(NamedTuple):
    """One place of a tree; of a scalar its text, of ``deep`` what lies below is not looked at."""

    path: str
    name: str
    node: Any
    deep: bool = False


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern as Go reads it: ASCII classes, and ``$`` only at the very end."""
    return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern), re.ASCII)


def walk(tree: Any, path: str) -> Iterator[Entry]:
    """Yield all that lies in a tree, level by level, as the chart does; an item of a list has the list's name."""
    level = [Entry(path, "", tree)]
    for _ in range(LEVELS):
        level = [entry for parent in level for entry in _below(parent)]
        yield from level
    yield from (Entry(e.path, e.name, None, deep=True) for e in level if isinstance(e.node, Mapping | list))


def _below(parent: Entry) -> Iterator[Entry]:
    if isinstance(parent.node, Mapping):
        prefix = f"{parent.path}." if parent.path else ""
        for name, node in sorted(parent.node.items()):
            yield Entry(f"{prefix}{name}", name, node)
    elif isinstance(parent.node, list):
        for index, node in enumerate(parent.node):
            yield Entry(f"{parent.path}[{index}]", parent.name, node)


def select(tree: Any, path: str) -> Iterator[Entry]:
    """Yield the places of a path: * is each value of a map, [] each item of a list, @ each key of a map.

    A section that is missing is itself the place, with None.
    """
    keys = path.split(".")
    level = [Entry("", "", tree)]
    for at, key in enumerate(keys):
        found: list[Entry] = []
        for parent in level:
            if key == "[]":
                found += _below(parent) if isinstance(parent.node, list) else ()
            elif not isinstance(parent.node, Mapping):
                continue
            elif key == "@":
                found += (e._replace(node=e.name) for e in _below(parent))
            elif key == "*":
                found += (e for e in _below(parent) if e.node is not None)
            else:
                below = Entry(f"{parent.path}.{key}".removeprefix("."), key, parent.node.get(key))
                if below.node is None and at < len(keys) - 1:
                    yield below
                else:
                    found.append(below)
        level = found
    yield from level


def is_secret_name(name: str) -> bool:
    """Return whether a name says that its value is a secret."""
    rules = chart.rules()["secrets"]
    upper = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).upper()
    return bool(compiled(rules["names"]).search(upper) and not compiled(rules["harmlessNames"]).search(upper))


def is_secret(name: str, value: object) -> bool:
    """Return whether a scalar is a secret, by its name or by its own look."""
    said, rules = text(value), chart.rules()["secrets"]
    if isinstance(value, bool) or not said:
        return False
    named = is_secret_name(name) and not compiled(rules["harmlessValues"]).search(said)
    return named or bool(compiled("|".join(rules["values"])).search(said))


def scrubbed(sentence: str) -> str:
    """Return a sentence without what looks like a secret."""
    look = "|".join(chart.rules()["secrets"]["values"])
    return compiled(f"(?:{look})[^ ;,]*").sub("***", sentence)


def show(value: object) -> str:
    """Return a value for a sentence: on one line, and not too long."""
    if isinstance(value, Mapping):
        return "a map" if value else "{}"
    if isinstance(value, list):
        return "a list" if value else "[]"
    return "null" if value is None else "".join("?" if _hidden(c) else c for c in text(value)[:80])


def _hidden(character: str) -> bool:
    """Return whether a character is not seen, or is another space than the usual."""
    odd = character in "\ufffe\uffff" or (character != " " and unicodedata.category(character) == "Zs")
    return odd or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
