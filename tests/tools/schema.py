"""Make the chart's values.schema.json: ``python -m tests.tools.schema [--check]``.

The structure is written in schemas/values.schema.yaml, the descriptions in the comments of values.yaml, where helm-docs
finds them, too. Keys that values.yaml does not list are described in the schema. A key that another one replaced
(`renamed` of files/rules.yaml) passes, so that a rule can say which.
"""

import json
import re
import sys
from typing import Any

import yaml

from neva_pretrain import chart
from tests.tools.made import ROOT, write_or_check

Schema = dict[str, Any]

SOURCE = ROOT / "schemas" / "values.schema.yaml"
VALUES = ROOT / "charts" / "neva-pretrain" / "values.yaml"
MADE = ROOT / "charts" / "neva-pretrain" / "values.schema.json"


def merged(below: Schema, above: Schema) -> Schema:
    """Lay one schema over another, map by map."""
    out = dict(below)
    for key, value in above.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


class References:
    """Definitions, written out where they are referred to; one that refers to itself stays a definition."""

    def __init__(self, definitions: Schema) -> None:
        self.definitions = definitions
        self.kept: Schema = {}

    def resolved(self, node: Any, inside: tuple[str, ...] = ()) -> Any:
        """Return the node with what its references refer to; what stands beside a reference is laid over that."""
        if isinstance(node, list):
            return [self.resolved(item, inside) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" not in node:
            return {key: self.resolved(value, inside) for key, value in node.items()}
        name = node["$ref"].removeprefix("#/definitions/")
        if name in inside:
            self.kept[name] = {}
            return node
        beside = {key: value for key, value in node.items() if key != "$ref"}
        definition = self.resolved(self.definitions[name], (*inside, name))
        if name in self.kept:
            self.kept[name] = definition
            return node
        return merged(definition, self.resolved(beside, inside))


def comments(text: str) -> dict[tuple[str, ...], str]:
    """Return the comment above each key of a values file, without helm-docs' ``-- (type)``."""
    lines = text.splitlines()
    found: dict[tuple[str, ...], str] = {}

    def visit(node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            mark = " " * key.start_mark.column + "#"
            first = key.start_mark.line
            while first and lines[first - 1].startswith(mark):
                first -= 1
            words = " ".join(line.removeprefix(mark).strip() for line in lines[first : key.start_mark.line])
            if words:
                found[(*path, key.value)] = re.sub(r"^-- (\(\w+\) )?", "", words)
            visit(value, (*path, key.value))

    visit(yaml.compose(text), ())
    return found


def described(node: Schema, words: dict[tuple[str, ...], str], path: tuple[str, ...] = ()) -> Schema:
    """Return the schema with the comments of values.yaml as its descriptions."""
    out = {**node, "description": words[path]} if path in words else dict(node)
    if "properties" in node:
        out["properties"] = {key: described(value, words, (*path, key)) for key, value in node["properties"].items()}
    return out


def with_renamed(schema: Schema) -> Schema:
    """Return the schema with the old names of keys."""
    for path, renamed in chart.rules()["renamed"].items():
        *sections, key = path.split(".")
        part = schema
        for section in sections:
            part = part["properties"][section]
        old = {"$ref": "#/definitions/scalar", "description": f"Replaced by {renamed['now']}."}
        part["properties"][key] = old
    return schema


def made() -> str:
    """Return the text of values.schema.json."""
    source = with_renamed(yaml.safe_load(SOURCE.read_text()))
    references = References(source.pop("definitions"))
    schema = described(references.resolved(source), comments(VALUES.read_text()))
    return json.dumps({**schema, "definitions": references.kept}, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with ``--check`` say whether it is up to date."""
    return write_or_check(MADE, made(), f"must follow schemas/{SOURCE.name}", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
