"""The pages that users read: their text, blocks and commands."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from neva_pretrain.cli.main import main
from neva_pretrain.cli.monitor import command as monitor

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


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
    """Yield the lines of a page's indented blocks, which are commands; those of several lines as one."""
    prose = re.sub(r"^( *)```.*?^\1```$", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    indent, before = 4, ""
    for line in re.sub(r"\\\n\s*|(?<=&&)\n *(?= )", "", prose).splitlines():
        if re.match(r"\S", line):
            indent = 8 if re.match(r"(\d+\.|-) ", line) else 4  # within a list
        shown = line.startswith(" " * indent) and not before.strip()
        if shown:
            yield line.strip()
        before = "" if shown else line


def consoles(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each command that a page shows with what it says."""
    yield from re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", file.read_text(encoding="utf-8"), re.M | re.DOTALL)


def programs() -> list[tuple[str, click.Command, str]]:
    """Return every command with the text that documents it."""
    assert isinstance(main, click.Group)
    context = click.Context(main)
    below = [(name, main.get_command(context, name)) for name in main.list_commands(context)]
    words = text("reference/commands.md")
    return [
        ("neva-values", main, words),
        *((f"neva-values {name}", command, words) for name, command in below if command is not None),
        ("neva-monitor", monitor, words + text("reference/monitor.md")),
    ]
