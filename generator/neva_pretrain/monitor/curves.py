"""A run over its steps, as lines to draw and as an inline SVG."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from neva_pod.monitor.records import Point
from neva_pretrain.monitor.text import number

Curve = list[tuple[float, float]]


TOO_LARGE = 1e100
"""No training has such a value, and sums and ranges of them are infinite."""

COLOURS = 8
"""Lines that a chart's page tells apart by colour; later ones are dashed."""


class Line(NamedTuple):
    """What a chart shows of one run.

    Attributes:
        name: for the key.
        curves: its lines.
        noisy: they are drawn faintly, below their running mean.

    """

    name: str
    curves: list[Curve]
    noisy: bool = False


def curves_of(
    points: Iterable[Point],
    value: Callable[[Point], float | None],
    place: Callable[[Point], float] = lambda point: point.step,
) -> list[Curve]:
    """Return the lines to draw: a new one after each restart and each gap."""
    curves: list[Curve] = []
    attempt = 0
    for point in points:
        y = value(point)
        if y is None or not abs(y) < TOO_LARGE:  # nor is NaN
            attempt = 0
            continue
        if point.attempt != attempt:
            curves.append([])
            attempt = point.attempt
        curves[-1].append((place(point), y))
    return curves


def restart_steps(points: Sequence[Point]) -> list[int]:
    """Return the first step of each later attempt."""
    return [b.step for a, b in pairwise(points) if b.attempt != a.attempt]


_WIDTH, _HEIGHT = 880, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 26


def svg(
    title: str,
    unit: str,
    lines: Sequence[Line],
    restarts: Sequence[int] = (),
    planned: float | None = None,
    from_zero: bool = True,
    axis: str = "step",
    top: float | None = None,
) -> str:
    """Return a line chart as a section with an inline SVG."""
    every = [p for line in lines for curve in line.curves for p in curve]
    if len(every) < 2:
        return ""
    xs, ys = [x for x, _ in every], [y for _, y in every]
    high = top or max(without_outliers(ys), planned or 0)
    x_ticks, y_ticks = ticks(min(xs), max(xs), 8), ticks(0 if from_zero else min(ys), high, 5)
    x0, x1 = min(xs), max(max(xs), min(xs) + 1)
    y0, y1 = y_ticks[0], y_ticks[-1]
    if max(ys) > y1:
        unit += f"; {sum(y > y1 for y in ys)} higher ones are cut off"

    def px(x: float) -> float:
        return _LEFT + (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        share = (min(max(y, y0), y1) - y0) / (y1 - y0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{py(y):.1f}"'
        f' y2="{py(y):.1f}"/><text x="{_LEFT - 8}" y="{py(y) + 4:.1f}"'
        f' text-anchor="end">{y:,.6g}</text>'
        for y in y_ticks
    ]
    parts += [
        f'<text x="{px(x):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{x:,.0f}</text>'
        for x in x_ticks
        if x0 <= x <= x1
    ]
    parts += [
        f'<line class="restart" x1="{px(s):.1f}" x2="{px(s):.1f}" y1="{_TOP}"'
        f' y2="{_HEIGHT - _BOTTOM}"><title>restart at step {s:,}</title></line>'
        for s in restarts
    ]
    parts.append(f'<text class="unit" x="0" y="{_HEIGHT - 6}">{axis}</text>')
    if planned is not None:
        parts.append(
            f'<line class="planned" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{py(planned):.1f}" y2="{py(planned):.1f}"/>'
        )
    key = []
    for place, line in enumerate(lines):
        look = f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")
        for curve in line.curves:
            drawn = [(f"{look} noise", curve), (look, smoothed(curve))] if line.noisy else [(look, curve)]
            for style, shown in drawn:
                points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in shown if top is None or y <= y1)
                parts.append(f'<polyline class="{style}" points="{points}"/>')
        key.append(f'<span class="key {look}">{escape(line.name)}</span>')
    if planned is not None:
        key.append(f'<span class="key dash">planned {number(planned)}</span>')
    if restarts:
        key.append('<span class="key dots">restart</span>')
    return (
        f'<section class="card"><div class="row"><h2>{title}</h2><span class="quiet">{unit}</span>'
        f'<span class="keys">{"".join(key)}</span></div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}, {unit}, over'
        f' {axis}">'
        f"{''.join(parts)}</svg></section>"
    )


def smoothed(curve: Curve) -> Curve:
    """Return the running mean over a fiftieth of a line's points, of each the middle eight tenths."""
    half = len(curve) // 100
    smooth = []
    for i, (x, _) in enumerate(curve):
        near = sorted(y for _, y in curve[max(0, i - half) : i + half + 1])
        cut = len(near) // 10
        smooth.append((x, fmean(near[cut : len(near) - cut])))
    return smooth


def without_outliers(values: list[float]) -> float:
    """Return the top of the range to show: the first step, which loads and compiles, is far above.

    That is the largest value, unless the top 1 % stands far above the rest.
    """
    ordered = sorted(values)
    high, usual = ordered[-1], ordered[math.ceil(0.99 * len(ordered)) - 1]
    middle = ordered[len(ordered) // 2]
    return usual if high - middle > 3 * (usual - middle) > 0 else high


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers that cover the range, at most about ``count``."""
    span = high - low or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / count))
    step = next(s * size for s in (1, 2, 5, 10) if s * size >= span / count * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [n * step for n in range(first, max(last, first + 1) + 1)]
