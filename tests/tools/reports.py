"""Fill in the tests that cite each field report: ``python -m tests.tools.reports [--check]``."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.tools.made import ROOT, write_or_check

TABLE = ROOT / "docs" / "reference" / "field-reports.md"

_CODE = re.compile(r"\b(?:[A-HKLNRUX]\d\d|P\d)\b")
_NAME = re.compile(r"\b(?:def|class) (\w+)")
_CODE_IN_NAME = re.compile(r"(?<=_)(?:[a-hklnrux]\d\d|p\d)(?=_|$)")
_ROW = re.compile(r"^\| ([A-Z]\d\d?) \| (.+?) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
_NOT_CITING = (TABLE, ROOT / "tests" / "tools" / "test_reports.py")
_FOLDERS = (".ci", "charts", "docs", "generator", "tests", "values")
_KINDS = (".gotmpl", ".helmignore", ".md", ".py", ".sh", ".tpl", ".txt", ".yaml")


def files() -> Iterator[Path]:
    """Return the files in which a code is a citation."""
    yield from (ROOT / name for name in (".gitattributes", "CHANGELOG.md", "Makefile", "README.md"))
    for folder in _FOLDERS:
        for file in sorted((ROOT / folder).rglob("*")):
            if (file.suffix in _KINDS or file.name in _KINDS) and file.is_file() and file not in _NOT_CITING:
                yield file


def codes(text: str) -> set[str]:
    """Return the codes in a text, and in the names that it defines."""
    names = (code for name in _NAME.findall(text) for code in _CODE_IN_NAME.findall(name))
    return {*_CODE.findall(text), *(code.upper() for code in names)}


def citing() -> dict[str, list[str]]:
    """Return by code the files that cite it."""
    found: dict[str, list[str]] = {}
    for file in files():
        for code in codes(file.read_text("utf-8")):
            found.setdefault(code, []).append(file.relative_to(ROOT).as_posix())
    return found


def rows(text: str) -> list[str]:
    """Return the table's codes in its order."""
    return [code for code, *_ in _ROW.findall(text)]


def made() -> str:
    """Return the text of the page with its last column filled in."""
    cited = citing()

    def filled(match: re.Match[str]) -> str:
        tests = [file.removeprefix("tests/") for file in cited.get(match[1], []) if file.startswith("tests/")]
        return f"| {match[1]} | {match[2]} | {match[3]} | {', '.join(f'`{test}`' for test in tests)} |"

    return _ROW.sub(filled, TABLE.read_text("utf-8"))


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` say whether it is up to date."""
    return write_or_check(TABLE, made(), "must name the tests that cite each code", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
