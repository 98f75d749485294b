"""Numbers as people read them, and plots made of characters."""

import math
from collections.abc import Sequence
from textwrap import wrap

from neva_pretrain.output import printable

UNKNOWN = "?"

_LARGE = 1e15
"""Numbers from here on, such as the loss of a run that diverges, are shown by their exponent."""


def duration(seconds: float | None) -> str:
    """Return the two largest units: ``3 d 4 h``, ``12 min 5 s``, ``0.54 s``."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def number(value: float | None) -> str:
    """Return four digits at most, thousands set apart."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < _LARGE else f"{value:.4g}"


def percent(share: float | None) -> str:
    """Return ``62%``."""
    return UNKNOWN if share is None else f"{share:.0%}"


def braille(values: Sequence[float | None], width: int, height: int) -> list[str]:
    """Return a line plot of ``width`` x ``height`` characters, 2 x 4 dots each.

    Unknown and non-finite values leave a gap.
    """
    columns, rows = 2 * width, 4 * height
    finite = [v for v in values if v is not None and math.isfinite(v)]
    cells = [[0] * width for _ in range(height)]
    if finite:
        low, span = min(finite), (max(finite) - min(finite)) or 1.0
        previous: int | None = None
        for x in range(columns):
            value = values[x * len(values) // columns]
            if value is None or not math.isfinite(value):
                previous = None
                continue
            y = round((rows - 1) * (1 - (value - low) / span))
            first, last = sorted((y, y if previous is None else previous))
            for dot in range(first, last + 1):
                cells[dot // 4][x // 2] |= _DOTS[dot % 4][x % 2]
            previous = y
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells]


_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def folded(text: str, width: int | None, indent: str = "") -> list[str]:
    """Return a text in lines of that width, each after the indent; in one line where there is no width."""
    text = printable(text)
    if width is None:
        return [indent + text]
    return wrap(text, max(20, width), initial_indent=indent, subsequent_indent=indent)
