"""Every value is used by a template, and every value that a template uses exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.chart import helm

TEMPLATES = "\n".join(
    file.read_text()
    for file in sorted((helm.CHART / "templates").rglob("*"))
    if file.suffix in (".tpl", ".yaml", ".txt")
)
# settings.json hands these sections on as they are.
SCRIPTS = "\n".join(file.read_text() for file in sorted((helm.CHART / "files").glob("pre*.py")))
SCHEMA: dict[str, Any] = json.loads((helm.CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((helm.CHART / "values.yaml").read_text())


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the values that have no values inside."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def in_schema(path: tuple[str, ...]) -> bool:
    """Whether the schema knows the path; what lies in a free map is known."""
    node: dict[str, Any] = SCHEMA
    for key in path:
        if "properties" not in node:
            return True
        if key not in node["properties"]:
            return False
        node = node["properties"][key]
    return True


def schema_leaves(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the schema's properties that have no properties inside."""
    if "properties" not in node:
        yield path
        return
    for key, value in node["properties"].items():
        yield from schema_leaves(value, (*path, key))


def is_read(path: tuple[str, ...]) -> bool:
    """Whether a template reads the value, or the map that it lies in as a whole."""
    # Maps that templates range over or merge as a whole.
    whole = {"env", "config", "architecture", "podAnnotations", "podLabels", "workerLabels", "commonLabels"}
    whole |= {"schedulingPolicy", "global", "labels", "namespaceLabels"}
    if whole & set(path):
        return bool({"global"} & set(path)) or any(re.search(rf"\.{key}\b", TEMPLATES) for key in path if key in whole)
    readers = SCRIPTS if path[0] in ("preflight", "prepare") and path[-1] != "enabled" else ""
    return bool(re.search(rf'(\.{path[-1]}\b|"{path[-1]}")', TEMPLATES + readers))


def test_every_value_is_read_by_a_template() -> None:
    assert not [".".join(path) for path in leaves(VALUES) if not is_read(path)]


def test_every_property_of_the_schema_is_read_by_a_template() -> None:
    assert not [".".join(path) for path in schema_leaves(SCHEMA) if not is_read(path)]


def test_every_value_is_in_the_schema() -> None:
    assert not [".".join(path) for path in leaves(VALUES) if not in_schema(path)]


def used() -> set[tuple[str, ...]]:
    """Paths below .Values in the templates; `$v` is .Values and `$t` .Values.training by convention."""
    found = set()
    for prefix, tail in re.findall(r"(\.Values|\$v|\$t)((?:\.[A-Za-z]+)+)", TEMPLATES):
        path = tuple(tail[1:].split("."))
        found.add(("training", *path) if prefix == "$t" else path)
    return found


def test_every_value_that_a_template_uses_exists() -> None:
    assert not [".".join(path) for path in sorted(used()) if not in_schema(path)]
    assert len(used()) > 40


def test_the_letters_mean_what_this_file_thinks() -> None:
    for name, meaning in (("v", r"\S*\.Values"), ("t", r"(\$v|\S*\.Values)\.training")):
        assigned = re.findall(rf"(?<!, )\${name} := ([^}}]+?) -?}}}}", TEMPLATES)
        assert assigned
        assert not [text for text in assigned if not re.fullmatch(meaning, text)]
