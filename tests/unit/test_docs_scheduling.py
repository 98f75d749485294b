"""docs/scheduling.md says what the chart does."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.check import rules, schema
from neva_pretrain.facts import Facts

FILE = Path(__file__).parents[2] / "docs" / "scheduling.md"
TEXT = FILE.read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)]


def row(first: str) -> list[str]:
    """The cells of the table row that begins with a word."""
    (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{first}` |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("name", ["roce", "efa", "tcp", "ib"])
def test_the_table_of_fabrics_is_the_file(name: str) -> None:
    fabric = chart.fabrics()[name]
    _, devices, environment = row(name)
    rdma = fabric["rdma"]
    assert devices == (f"`{rdma['resourceName']}`: {rdma['count']}" if rdma["enabled"] else "none")
    shown = dict(re.findall(r"`([A-Z_]+)` (\w+)", environment))
    if "those of `ib`" in environment:
        shown |= chart.fabrics()["ib"]["env"]
    assert shown == fabric["env"]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_its_examples_are_accepted(block: dict[str, Any]) -> None:
    complete = values.complete(block)
    assert schema.violations(complete) == []
    assert rules.violations(Facts(complete)) == []


def test_its_limits_are_the_rules() -> None:
    limits = chart.rules()["maxNameLength"]
    assert f"at most {limits['PyTorchJob']} characters | at most {limits['TrainJob']} |" in TEXT


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or (FILE.parent / target).exists(), target


def test_every_value_that_is_named_exists() -> None:
    schema = chart.schema()
    sections = "|".join(schema["properties"])
    found = re.findall(rf"`((?:{sections})(?:\.\w+)+)[`:]", TEXT)
    assert len(found) > 8
    for path in found:
        node = schema
        for key in path.split("."):
            assert key in node.get("properties", {}), path
            node = node["properties"][key]
