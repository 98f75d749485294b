"""Plain words of a values file whose meaning as text is lost: ``off``, ``0777``, ``1_000`` and their like.

YAML 1.1, which Helm reads, takes them for booleans and numbers; most people and YAML 1.2 take them for text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from neva_pretrain import chart
from neva_pretrain.chart.access import text
from neva_pretrain.chart.secrecy import is_secret_name
from neva_pretrain.chart.yamlfile import Word

_ANYWHERE = re.compile(r"(?i:y|n|yes|no|on|off)|[-+]?(0[0-9xob_][0-9a-fxob_]*|[0-9_]*_[0-9_]*)")
"""Forms that YAML 1.2 takes for text or for another number."""
_OTHER_NUMBER = re.compile(r"[-+]?0[0-7_]+")
"""A number in octal that looks decimal."""


def lost_meaning(words: Iterable[Word]) -> list[str]:
    """Return a sentence for each word that does not stay as it is written where text is wanted or possible."""
    return [sentence for word in words if (sentence := _sentence(word))]


def _sentence(word: Word) -> str:
    if word.value is None or text(word.value) == word.text:
        return ""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in word.path).removeprefix(".")
    if word.is_key:
        return f"{where or 'values'}: the key {word.text} (line {word.line}) is read as {word.value}; text needs quotes"
    wanted = set(_kinds(word.path))
    if "string" in wanted:
        lost = True
    elif wanted:
        lost = bool(_OTHER_NUMBER.fullmatch(word.text))
    else:
        lost = bool(_ANYWHERE.fullmatch(word.text))
    if not lost:
        return ""
    kind = "boolean" if isinstance(word.value, bool) else "number"
    if any(is_secret_name(str(part)) for part in word.path):
        return f"{where}: line {word.line} is read as a {kind}; text needs quotes"
    taken = f"{where}: {word.text} (line {word.line}) is read as the {kind} {text(word.value)}"
    return f'{taken}; text needs quotes: "{word.text}"'


def _kinds(path: Iterable[str | int]) -> Iterator[str]:
    """Yield the types that the schema wants at a path; none where it leaves everything open."""
    parts = list(_alternatives(chart.schema()))
    for key in path:
        parts = [found for part in parts for below in _below(part, key) for found in _alternatives(below)]
    kinds = [part.get("type", "string" if "enum" in part else []) for part in parts]
    flat = [kind for said in kinds for kind in ([said] if isinstance(said, str) else said)]
    if "object" not in flat:  # a tree is open, whatever it lists
        yield from flat


def _below(part: Mapping[str, Any], key: str | int) -> Iterator[Mapping[str, Any]]:
    if isinstance(key, int):
        found = part.get("items")
    else:
        found = part.get("properties", {}).get(key, part.get("additionalProperties"))
    if isinstance(found, Mapping):
        yield found


def _alternatives(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all that it refers to or is made of."""
    yield part
    below = [other for name in ("allOf", "anyOf", "oneOf") for other in part.get(name, [])]
    if "$ref" in part:
        below.append(chart.schema()["definitions"][part["$ref"].rpartition("/")[2]])
    for other in below:
        yield from _alternatives(other)
