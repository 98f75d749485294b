"""Make docs/reference/rules.md from files/rules.yaml and the checks: ``python -m tests.tools.rules [--check]``."""

import inspect
import re
import sys
from collections.abc import Iterable

from neva_pretrain import chart
from neva_pretrain.check.engine import check_rules
from neva_pretrain.check.rules import CHECKS
from tests.tools.made import ROOT, write_or_check

PAGE = ROOT / "docs" / "reference" / "rules.md"

_HEAD = """# Rules

What `helm install` and `neva-values` refuse, beside what one value alone can tell (`values.schema.json`). A refusal
reads `key: got value; rule; fix`. `make docs` makes this page from `files/rules.yaml`, which both sides read.

## Values that contradict each other

`{path}` stands for a value.

| Key | Rule | Fix |
| --- | --- | --- |
"""
_FORMATS = """
## What a value must look like

In a key, `*` is each value of a map, `[]` each item of a list, `@` each key of a map.

| Keys | Rule | Fix |
| --- | --- | --- |
"""
_CHECKS = """
## What needs arithmetic, paths or more than one place

Each is a define of `templates/_validate-*.tpl` and a function of `generator/neva_pretrain/check/`, in the same words.

| Check | What must hold |
| --- | --- |
"""


def made() -> str:
    """Return the page."""
    facts = chart.rules()
    between = ((_code([rule["key"]]), rule["rule"], rule["fix"]) for rule in facts["rules"])
    formats = ((_code(form["keys"].split()), form["rule"], form["fix"]) for form in facts["formats"])
    checks = ((f"`{check.__name__}`", _sentence(check)) for check in CHECKS if check is not check_rules)
    return _HEAD + _rows(between) + _FORMATS + _rows(formats) + _CHECKS + _rows(checks)


def _rows(rows: Iterable[Iterable[str]]) -> str:
    return "".join(f"| {' | '.join(_plain(cell) for cell in row)} |\n" for row in rows)


def _plain(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _code(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _sentence(check: object) -> str:
    text = " ".join((inspect.getdoc(check) or "").split())
    return re.sub(r"`+", "`", text).rstrip(".")


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` say whether it is up to date."""
    return write_or_check(PAGE, made(), "must follow files/rules.yaml", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
