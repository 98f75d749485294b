"""docs/reference/scheduling.md says what the chart does."""

import re
from pathlib import Path

import pytest

from neva_pretrain import chart

FILE = Path(__file__).parents[2] / "docs" / "reference" / "scheduling.md"
TEXT = FILE.read_text(encoding="utf-8")


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


def test_its_limits_are_the_rules() -> None:
    limits = chart.rules()["maxNameLength"]
    assert f"at most {limits['PyTorchJob']} characters | at most {limits['TrainJob']} |" in TEXT
