"""values.schema.json is made of schemas/values.schema.yaml and of the comments in values.yaml."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.tools import schema

Path = tuple[str, ...]
SOURCE: dict[str, Any] = yaml.safe_load(schema.SOURCE.read_text())
COMMENTS = schema.comments(schema.VALUES.read_text())


def listed(node: dict[str, Any], values: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    """Paths of the schema's properties that values.yaml lists, without its sections."""
    for key, value in node["properties"].items():
        if key in values and values[key] and "properties" in value:
            yield from listed(value, values[key], (*path, key))
        elif key in values:
            yield (*path, key)


def described(node: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    """Paths of the properties that have a description in the source itself, not by a definition."""
    if "description" in node:
        yield path
    for key, value in node.get("properties", {}).items():
        yield from described(value, (*path, key))


def test_it_is_up_to_date() -> None:
    assert schema.MADE.read_text() == schema.made()


def test_every_value_has_a_comment() -> None:
    made, values = json.loads(schema.MADE.read_text()), yaml.safe_load(schema.VALUES.read_text())
    assert not [".".join(path) for path in listed(made, values) if path not in COMMENTS]


def test_nothing_is_described_twice() -> None:
    assert not [".".join(path) for path in described(SOURCE) if path in COMMENTS]


def test_every_definition_is_used() -> None:
    text = schema.SOURCE.read_text()
    assert not [name for name in SOURCE["definitions"] if f'"#/definitions/{name}"' not in text]


def test_a_reference_is_written_out_with_what_stands_beside_it() -> None:
    references = schema.References(
        {
            "volume": {"type": "object", "properties": {"path": {"$ref": "#/definitions/path"}}},
            "path": {"type": "string", "maxLength": 9},
        }
    )
    node = {"$ref": "#/definitions/volume", "description": "x", "properties": {"path": {"maxLength": 5}, "size": {}}}
    assert references.resolved(node) == {
        "type": "object",
        "properties": {"path": {"type": "string", "maxLength": 5}, "size": {}},
        "description": "x",
    }
    assert not references.kept


def test_a_definition_that_refers_to_itself_stays() -> None:
    tree = {"type": "object", "additionalProperties": {"$ref": "#/definitions/tree"}}
    references = schema.References({"tree": tree})
    node = {"properties": {"config": {"additionalProperties": {"$ref": "#/definitions/tree"}}}}
    assert references.resolved(node) == node
    assert references.kept == {"tree": tree}


def test_comments_are_those_directly_above_a_key() -> None:
    text = """
# Of the file.

a:
  # -- (int) One,
  # two.
  b: 1
  c: {}
# Of a section.
d:
  # -- Three.
  e:
"""
    assert schema.comments(text) == {("a", "b"): "One, two.", ("d",): "Of a section.", ("d", "e"): "Three."}
