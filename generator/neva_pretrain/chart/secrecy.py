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
    """Return a pattern as Go reads it: ASCII classes, ``$`` only at the very end, K and S with their Unicode twins."""
    pattern = re.sub(r"\(\?i:[^()]*\)", lambda group: _with_twins(group[0]), pattern)
    return re.compile(re.sub(r"(?<!\\)\$", r"\\Z", pattern), re.ASCII)


def _with_twins(group: str) -> str:
    return re.sub("[ks]", lambda letter: {"k": "[k\u212a]", "s": "[s\u017f]"}[letter[0]], group)


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
    """Return whether a name says that its value is a secret, whatever the value is."""
    return any("pattern" not in kind for kind in _kinds(name))


def is_secret(name: str, value: object) -> bool:
    """Return whether a scalar is a secret, by its name or by its own look."""
    said = text(value)
    if isinstance(value, bool) or not said:
        return False
    return looks_secret(said) or (
        not compiled(chart.rules()["secrets"]["harmlessValues"]).search(said)
        and any(
            ("pattern" not in kind or compiled(kind["pattern"]).search(said))
            and not ("never" in kind and compiled(kind["never"]).search(said))
            for kind in _kinds(name)
        )
    )


def looks_secret(said: str) -> bool:
    """Return whether a text is a secret or holds one, whatever its name."""
    return bool(compiled("|".join(chart.rules()["secrets"]["values"])).search(said))


@cache
def _kinds(name: str) -> tuple[Mapping[str, str], ...]:
    """Return the kinds of secrets that a name may have."""
    rules = chart.rules()["secrets"]
    upper = "".join(map(_upper, re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)))
    word = compiled(rules["endings"]).sub("", upper, count=1)
    if compiled(rules["harmlessNames"]).search(word):
        return ()
    return tuple(kind for kind in rules["names"] if compiled(kind["name"]).search(word))


def _upper(character: str) -> str:
    """Return the upper case that Go knows: one character for one."""
    upper = character.upper()
    return upper if len(upper) == 1 else character


def scrubbed(sentence: str) -> str:
    """Return a sentence without what looks like a secret."""
    look = "|".join(chart.rules()["secrets"]["values"])
    return compiled(f"(?:{look})[^ ;,]*").sub("***", sentence)


HIDDEN = "a value"
"""What a sentence says in place of a secret."""


def show(value: object, path: str = "") -> str:
    """Return a value for a sentence: on one line, and not too long; a secret, and all of ``secrets``, as "a value".

    Args:
        value: the value.
        path: its place.
    """
    if isinstance(value, Mapping):
        return "a map" if value else "{}"
    if isinstance(value, list):
        return "a list" if value else "[]"
    if value is None:
        return "null"
    said = text(value)
    if looks_secret(said) or (said and compiled("^secrets([.[]|$)").search(path)):
        return HIDDEN
    return one_line(said)


def one_line(said: str) -> str:
    """Return a text on one line, and not too long."""
    return "".join("?" if _hidden(c) else c for c in said[:80])


def _hidden(character: str) -> bool:
    """Return whether a character is not seen, or is another space than the usual."""
    odd = character in "\ufffe\uffff" or (character != " " and unicodedata.category(character) == "Zs")
    return odd or unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
