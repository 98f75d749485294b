"""The plan as a picture: throughput and memory over the micro batch size and over GPU counts.

Only this module imports matplotlib, and only when a plot is asked for.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neva_pretrain import output
from neva_pretrain.errors import NevaError
from neva_pretrain.model.hardware import GIB
from neva_pretrain.plan.candidate import Candidate
from neva_pretrain.plan.search import Result, over_gpus, over_micro_batch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's: told apart by all
_STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "neva",
}


def draw(result: Result, path: Path) -> None:
    """Draw the plan to a PNG, SVG or PDF file; the same plan gives the same bytes."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NevaError("--plot: needs matplotlib; install it with: pip install 'neva-pretrain[plot]'") from error

    request = result.request
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 8), layout="constrained")
        figure.suptitle(
            f"{request.model.name} on {request.gpus} x {request.gpu.title}, {request.kernels} "
            f"kernels, {request.tokens_per_sample} tokens per sample",
            fontsize=13,
            x=0.01,
            ha="left",
        )
        (rate, used), (total, end) = figure.subplots(2, 2)
        _over_micro_batch(result, rate, used)
        _over_gpus(result, total, end)
        form = path.suffix[1:].lower()
        metadata: dict[str, Any] = {{"png": "Software", "svg": "Date", "pdf": "CreationDate"}[form]: None}
        figure.savefig(drawn := io.BytesIO(), format=form, dpi=130, metadata=metadata)
    output.write(path, drawn.getvalue(), "--plot")


def _over_micro_batch(result: Result, rate: Axes, used: Axes) -> None:
    """Draw one line for each tensor parallel size, dotted where it does not fit."""
    gpu = result.request.gpu
    widest: dict[int, Candidate] = {}
    for candidate in result.candidates:
        if candidate.setup.recompute == "none":
            widest.setdefault(candidate.setup.tensor_parallel_size, candidate)
    for colour, (size, candidate) in zip(_COLOURS, sorted(widest.items()), strict=False):
        points = over_micro_batch(candidate)
        fits = [p for p in points if p.headroom >= 0]
        for axes, value in ((rate, _rate), (used, _gib)):
            sizes = [p.setup.micro_batch_size for p in points]
            axes.plot(sizes, [value(p) for p in points], ":", color=colour, lw=1.2, alpha=0.6)
            axes.plot(sizes[: len(fits)], [value(p) for p in fits], color=colour, lw=2, label=f"TP {size}")
    for axes, value in ((rate, _rate), (used, _gib)):
        _mark(axes, result, lambda c: c.setup.micro_batch_size, value)
        axes.set_xscale("log", base=2)
        axes.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
        axes.set_xlabel("micro batch size")
    rate.set_title("Throughput, samples/s/GPU (dotted: does not fit)")
    rate.set_ylim(bottom=0)
    rate.legend(loc="lower right", ncols=2)
    used.set_title("Memory of the fullest GPU, GiB")
    used.axhline(gpu.memory_gib, color="black", lw=1)
    used.annotate(
        f"{gpu.title}: {gpu.memory_gib:.1f} GiB", (1, gpu.memory_gib), xytext=(2, 4), textcoords="offset points"
    )
    used.set_ylim(0, gpu.memory_gib * 1.25)


def _over_gpus(result: Result, total: Axes, end: Axes) -> None:
    """Draw the best plan of each GPU count and the preset's."""
    from matplotlib.ticker import LogLocator, NullLocator

    results = over_gpus(result.request)
    lines = (
        ("best", _COLOURS[0], [r.best for r in results]),
        ("NVIDIA's preset", _COLOURS[1], [r.preset for r in results if r.preset]),
    )
    for label, colour, points in lines:
        gpus = [p.setup.world_size for p in points]
        for axes, values in (
            (total, [p.rate * p.setup.world_size for p in points]),
            (end, [p.seconds / 60 for p in points]),
        ):
            axes.plot(gpus, values, "o-", color=colour, lw=2, ms=4, label=label)
    counts = [r.request.gpus for r in results]
    for axes in (total, end):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.set_xlabel(f"GPUs (global batch: {_policy(result)})")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    total.set_title("Throughput of all GPUs, samples/s")
    total.legend(loc="upper left")
    end.set_title(f"Minutes to the end ({result.request.samples} samples)")


def _policy(result: Result) -> str:
    request = result.request
    if request.fixed_global_batch_size is None and request.batch_policy == "per-node":
        return "256 a node"
    return str(request.global_batch_size)


def _mark(axes: Axes, result: Result, x: Any, y: Any) -> None:
    """Mark the best with a star and the preset with a square."""
    for candidate, marker, label in ((result.best, "*", "best"), (result.preset, "s", "preset")):
        if candidate is not None:
            axes.plot(
                [x(candidate)],
                [y(candidate)],
                marker,
                color="black",
                ms=14 if marker == "*" else 8,
                mfc="gold" if marker == "*" else "none",
                ls="none",
                label=label,
                zorder=3,
            )


def _rate(candidate: Candidate) -> float:
    return candidate.rate


def _gib(candidate: Candidate) -> float:
    return candidate.memory.total / GIB
