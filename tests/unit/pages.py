"""The pages that users read: their text, blocks and commands."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROGRAMS = ("docker", "helm", "jq", "kubectl", "make", "neva-monitor", "neva-values", "pip")


def text(page: str) -> str:
    """Return a page below docs/."""
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of a page's fenced blocks, also of those in a list."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text(page), re.MULTILINE | re.DOTALL)
    return [(language, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)) for indent, language, body in found]


def block(page: str, first: str) -> str:
    """Return the block of a page that begins with a line."""
    (found,) = [body for _, body in blocks(page) if body.startswith(first)]
    return found


def commands(file: Path) -> Iterator[str]:
    """Yield the command lines of a page, those of several lines as one."""
    for line in re.sub(r"\\\n\s*", "", file.read_text(encoding="utf-8")).splitlines():
        if line.startswith("    ") and line.split(maxsplit=1)[:1] and line.split(maxsplit=1)[0] in PROGRAMS:
            yield line.strip()
