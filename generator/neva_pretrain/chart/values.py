"""Values files: read without surprises, merged as Helm merges, checked against the schema, written byte for byte."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from neva_pretrain import chart
from neva_pretrain.chart import yamlfile
from neva_pretrain.chart.words import lost_meaning
from neva_pretrain.errors import InputError
from neva_pretrain.output import write as write


class Dumper(yaml.SafeDumper):
    """Safe YAML dumper that quotes every string that Helm or PyYAML would not read as one."""


class _NoString:
    """Stands for a pattern of PyYAML's: what Helm takes for no string."""

    @staticmethod
    def match(word: str) -> bool:
        try:
            return not isinstance(yamlfile.plain(word), str)
        except InputError:
            return True


Dumper.add_implicit_resolver("tag:neva-pretrain:no-string", _NoString(), None)

REFUSAL = "ERROR: "
"""Begins each key of the document that stands for refused values; see :func:`refusal`."""


def refusal(sentences: Iterable[str]) -> str:
    """Return what is written in place of values: YAML that the schema and :func:`read` refuse, with the sentences.

    An empty file would install the chart's defaults.
    """
    said = dict.fromkeys((f"{REFUSAL}{' '.join(sentence.split())}" for sentence in sentences), "refused")
    return yaml.dump(said, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


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
        raise InputError(
            "is empty, and Helm would install the chart's defaults; write values, or {} for the defaults", path
        )
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
    return merge(chart.defaults(), values)


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
