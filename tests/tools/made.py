"""Files made from others: written, or held against what would be written."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def write_or_check(file: Path, text: str, rule: str, arguments: list[str]) -> int:
    """Write the file; with ``--check`` return 1 with a hint when it has another text."""
    if arguments != ["--check"]:
        file.write_text(text, "utf-8")
    elif file.read_text("utf-8") != text:
        print(f"ERROR: {file.relative_to(ROOT)}: {rule}; run make docs", file=sys.stderr)
        return 1
    return 0
