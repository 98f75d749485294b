"""Codes of field reports: all that are cited are explained, all that are explained are tested, no user reads one."""

import re
from pathlib import Path

import pytest

from tests.chart import helm
from tests.tools import reports
from tests.tools.made import ROOT

PAGE = reports.TABLE.read_text("utf-8")
READ_BY_USERS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *sorted(file for file in (ROOT / "docs").rglob("*.md") if file != reports.TABLE),
    *sorted((ROOT / "values").glob("*.yaml")),
    *(helm.CHART / name for name in ("README.md", "values.yaml", "values.schema.json")),
]
RENDERED = [
    file
    for folder in ("templates", "files")
    for file in sorted((helm.CHART / folder).rglob("*"))
    if file.is_file() and file.suffix != ".pyc"
]


def test_it_is_up_to_date() -> None:
    assert reports.made() == PAGE


def test_each_code_is_one_row_and_each_row_is_cited() -> None:
    rows = reports.rows(PAGE)
    assert len(rows) == len(set(rows))
    assert set(rows) == set(reports.citing())


def test_each_row_has_a_test() -> None:
    cited = reports.citing()
    assert not [code for code in reports.rows(PAGE) if not any(file.startswith("tests/") for file in cited[code])]


@pytest.mark.parametrize("file", READ_BY_USERS, ids=lambda file: str(file.relative_to(ROOT)))
def test_users_read_no_codes(file: Path) -> None:
    assert not reports.codes(file.read_text("utf-8"))


@pytest.mark.parametrize("file", RENDERED, ids=lambda file: file.name)
def test_manifests_have_no_codes(file: Path) -> None:
    assert not reports.codes(re.sub(r"\{\{-? ?/\*.*?\*/ ?-?\}\}", "", file.read_text("utf-8"), flags=re.DOTALL))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("# it fails (G02, X16).", {"G02", "X16"}),
        ("def test_a09_a10_notes() -> None:", {"A09", "A10"}),
        ("class P3Reader:\n    def test_p3(self): ...", {"P3"}),
        ("H100, A100-80GB, neva_p95_seconds, S10 and 0xB02", set()),
    ],
)
def test_what_is_a_code(text: str, codes: set[str]) -> None:
    assert reports.codes(text) == codes
