"""Runs as pictures, in the format of the file's suffix.

Only this module of the monitor imports matplotlib, and only when a plot is asked for.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from neva_pod.monitor.run import Run
from neva_pretrain.errors import NevaError
from neva_pretrain.monitor.compare import Comparison
from neva_pretrain.monitor.curves import curves_of, restart_steps, smoothed, without_outliers
from neva_pretrain.monitor.page import TITLE
from neva_pretrain.output import printable, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _RED, _GREY = "#2563eb", "#dc2626", "#6b7280"
_COLOURS = (_BLUE, "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", _GREY)


def save_plot(run: Run, target: Path) -> None:
    """Draw loss and step time over steps."""
    figure, top, bottom = _panels()
    points = run.series.points()
    for axes, curves, label in (
        (top, curves_of(points, lambda point: point.loss), "reduced_train_loss"),
        (bottom, curves_of(points, lambda point: point.seconds), "step time (s)"),
    ):
        for curve in curves:
            axes.plot([x for x, _ in curve], [y for _, y in curve], color=_BLUE, linewidth=1.4)
        for step in restart_steps(points):
            axes.axvline(step, color=_RED, linestyle=":", linewidth=1)
        axes.set_ylabel(label)
    planned = run.settings.planned_step_seconds
    if planned:
        bottom.axhline(planned, color=_GREY, linestyle="--", linewidth=1, label="planned")
        bottom.legend(frameon=False)
    seconds = [y for curve in curves_of(points, lambda point: point.seconds) for _, y in curve]
    bottom.set_ylim(0, 1.1 * max(without_outliers(seconds), planned or 0) if seconds else None)
    bottom.set_xlabel("step")
    top.set_title(printable(run.settings.name) or TITLE, loc="left", parse_math=False)
    _save(figure, target)


def save_comparison(found: Comparison, target: Path) -> None:
    """Draw loss and speed of the runs over the axis that they are compared over."""
    figure, top, bottom = _panels()
    rates = []
    for number, each in enumerate(found.runs):
        style = "-" if number < len(_COLOURS) else "--"
        colour = _COLOURS[number % len(_COLOURS)]
        for axes, curves in ((top, found.losses(each)), (bottom, found.speeds(each))):
            for curve in curves:
                axes.plot(*zip(*curve, strict=True), color=colour, linewidth=0.7, alpha=0.25)
                axes.plot(*zip(*smoothed(curve), strict=True), style, color=colour, linewidth=1.6)
        top.plot([], [], style, color=colour, label=printable(each.name).replace("$", r"\$"))
        rates += [y for curve in found.speeds(each) for _, y in curve]
    losses = [y for each in found.runs for curve in found.losses(each) for _, y in curve]
    cut = found.top is not None and found.top < max(losses)
    if cut:
        low, high = min(losses), found.top or 0.0
        top.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    top.set_ylabel("reduced_train_loss" + ("\n(without the start)" if cut else ""))
    bottom.set_ylabel(found.rate)
    bottom.set_ylim(0, 1.1 * without_outliers(rates) if rates else None)
    bottom.set_xlabel(found.axis)
    bottom.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    _save(figure, target)


def _panels() -> "tuple[Figure, Axes, Axes]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NevaError("--plot: needs matplotlib; install neva-pretrain[plot]") from error
    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, top, bottom


def _save(figure: "Figure", target: Path) -> None:
    figure.savefig(drawn := io.BytesIO(), format=target.suffix[1:].lower(), dpi=150)
    write(target, drawn.getvalue(), "--plot")
