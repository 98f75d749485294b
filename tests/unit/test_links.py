"""Every link of every page leads somewhere: to a file of the repository, and to a heading that it has."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.pages import DOCS, ROOT

FILES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
)


def prose(text: str) -> str:
    """Drop code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> list[str]:
    """Return the targets of links and pictures."""
    return re.findall(r"\]\(\s*([^)\s]+)[^)]*\)", prose(text))


def anchors(text: str) -> list[str]:
    """Return the anchors of the headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles]


def broken(file: Path, text: str) -> list[str]:
    """Return the targets that are not there."""
    return [
        target
        for target in links(text)
        if not re.match(r"https?://|mailto:", target) and not leads(file, text, *target.partition("#")[::2])
    ]


def leads(file: Path, text: str, name: str, anchor: str) -> bool:
    """Return whether the file of a link exists and has its heading; without a name it is this one."""
    path = file.parent / name
    if name and not path.exists():
        return False
    return not anchor or anchor in anchors(path.read_text(encoding="utf-8") if name else text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    assert broken(file, file.read_text(encoding="utf-8")) == []


def test_what_is_broken_is_seen() -> None:
    text = "# A b c!\n[a](#a-b-c) [b](#ab) [c](README.md) [d](no.md) `[e](no)` [f](README.md#no) ![g](no.png)"
    assert broken(ROOT / "x.md", text) == ["#ab", "no.md", "README.md#no", "no.png"]


def test_every_page_is_reached_from_the_index() -> None:
    """By links from page to page."""
    seen, queue = set(), [DOCS / "index.md"]
    while queue:
        page = queue.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in links(page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                path = (page.parent / target.partition("#")[0]).resolve()
                if path.suffix == ".md" and DOCS in path.parents:
                    queue.append(path)
    assert sorted(set(DOCS.rglob("*.md")) - seen) == []
