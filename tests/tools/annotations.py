"""Make the icon and the end of Chart.yaml, for Artifact Hub: ``python -m tests.tools.annotations [--check]``.

Its images are those of values.yaml; its changes those that CHANGELOG.md lists under the chart's version, once it
has that version.
"""

import base64
import re
import sys
from collections.abc import Iterator

import yaml

from neva_pretrain import chart
from tests.tools.made import ROOT, write_or_check

FILE = ROOT / chart.CHART / "Chart.yaml"
CHANGELOG = ROOT / "CHANGELOG.md"
ICON = ROOT / "docs" / "images" / "icon.svg"

_MARK = "  # Made by make docs: "


def made() -> str:
    """Return the text of Chart.yaml."""
    text = FILE.read_text("utf-8")
    head, mark, rest = text.partition(_MARK)
    image = chart.defaults()["image"]
    lists = {
        "images": [{"name": "nemo", "image": f"{image['repository']}:{image['tag']}"}],
        "changes": list(changes(CHANGELOG.read_text("utf-8"), str(yaml.safe_load(text)["version"]))),
    }
    icon = base64.b64encode(ICON.read_bytes()).decode()
    head = re.sub(r"(?m)^icon: .*$", f"icon: data:image/svg+xml;base64,{icon}", head)
    return head + mark + rest.partition("\n")[0] + "\n" + "".join(_block(*item) for item in lists.items() if item[1])


def changes(changelog: str, version: str) -> Iterator[dict[str, str]]:
    """Yield what changed in a version: the first sentence of each item."""
    section = re.search(rf"^## \[?{re.escape(version)}\]? - .*?\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    kind = ""
    for part in re.split(r"^(?=### |- )", section[1] if section else "", flags=re.MULTILINE):
        words = " ".join(part.split())
        if words.startswith("### "):
            kind = words.removeprefix("### ").lower()
        elif words.startswith("- "):
            yield {"kind": kind, "description": re.split(r"(?<=[^.]\.) (?=[A-Z`])", words.removeprefix("- "))[0]}


def _block(name: str, items: list[dict[str, str]]) -> str:
    body = yaml.safe_dump(items, sort_keys=False, allow_unicode=True, width=1000)
    return f"  artifacthub.io/{name}: |\n" + "".join(f"    {line}\n" for line in body.splitlines())


def main(arguments: list[str]) -> int:
    """Write the file, or with ``--check`` say whether it is up to date."""
    return write_or_check(FILE, made(), "must follow values.yaml, CHANGELOG.md and docs/images/icon.svg", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
