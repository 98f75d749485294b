"""A copy of the chart and the examples, laid out as in a checkout."""

from pathlib import Path

from neva_pretrain import chart
from neva_pretrain.errors import InputError, RefusedError, Violation
from neva_pretrain.output import holds_another, write

EXAMPLES = "values"


def copy(folder: Path) -> Path:
    """Write chart and examples into a folder and return where the chart now lies.

    Raises:
        RefusedError: a file is in the way; nothing was written.
        InputError: the folder cannot be written to.
    """
    ours = {name: (chart.root() / name).read_bytes() for name in [*_files(chart.CHART), *_files(EXAMPLES)]}
    others = [name for name, data in ours.items() if holds_another(folder / name, data)]
    # Helm would render what an older version left among the templates.
    others += [name for name in _files(chart.CHART, folder) if name not in ours]
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        rule = f"must have no other file where chart and examples go, has {others[0]}{more}"
        chart_s = f"{chart.CHART}/"
        away = dict.fromkeys(chart.CHART if name.startswith(chart_s) else name for name in others)
        fix = f"move {', '.join(str(folder / name) for name in away)} away, or name a new folder"
        raise RefusedError([Violation("--output", str(folder), rule, fix)])
    for name, data in ours.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output {folder}: cannot be written: {error.strerror}") from None
        write(folder / name, data, "--output")
    return folder / chart.CHART


def _files(part: str, root: Path | None = None) -> list[str]:
    """Return the files of a part; pip compiles Python files that the wheel brings."""
    base = root or chart.root()
    found = (file for file in (base / part).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted(file.relative_to(base).as_posix() for file in found)
