"""A run as JSON, as a picture and as one HTML page that needs nothing else."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from neva_pod.monitor.judge import Judgement, Status, exit_code
from neva_pod.monitor.run import Point, Run
from neva_pretrain.errors import NevaError
from neva_pretrain.monitor.text import UNKNOWN, duration, number, percent
from neva_pretrain.output import printable, write

Curve = list[tuple[float, float]]

_TITLE = "NeVa pretraining"


def as_dict(run: Run, judgements: list[Judgement], status: Status) -> dict[str, Any]:
    """Return the run for ``-o json``; NaN and infinity become null, as JSON has neither."""
    speed = run.speed()
    samples = run.consumed_samples
    data = {
        "status": status.value,
        "exitCode": exit_code(judgements),
        "step": run.completed,
        "maxSteps": run.max_steps,
        "loss": run.loss,
        "consumedSamples": samples[0] if samples else None,
        "consumedSamplesApproximate": samples[1] if samples else None,
        "secondsLeft": run.seconds_left(),
        "speed": speed._asdict() if speed else None,
        "restarts": run.restarts,
        "lostSteps": run.lost_steps,
        "checkpoint": {
            "count": run.checkpoints,
            "step": run.checkpoint_step,
            "at": run.checkpoint_at,
        },
        "nonFiniteLosses": run.nan_total,
        "worldSize": run.world_size,
        "judgements": [{**asdict(j), "level": j.level.name.lower()} for j in judgements],
        "settings": asdict(run.settings),
        "points": [p._asdict() for p in run.series.points()],
    }
    finite: dict[str, Any] = _finite(data)
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value


def save_plot(run: Run, target: Path) -> None:
    """Draw loss and step time over steps with matplotlib, in the format of the file's suffix."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NevaError("--plot: needs matplotlib; install neva-pretrain[plot]") from error
    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    points = run.series.points()
    for axes, curves, label in (
        (top, curves_of(points, _loss), "reduced_train_loss"),
        (bottom, curves_of(points, _seconds), "step time (s)"),
    ):
        for curve in curves:
            axes.plot([x for x, _ in curve], [y for _, y in curve], color=_BLUE, linewidth=1.4)
        for step in restart_steps(points):
            axes.axvline(step, color=_RED, linestyle=":", linewidth=1)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    planned = run.settings.planned_step_seconds
    if planned:
        bottom.axhline(planned, color=_GREY, linestyle="--", linewidth=1, label="planned")
        bottom.legend(frameon=False)
    seconds = [y for curve in curves_of(points, _seconds) for _, y in curve]
    bottom.set_ylim(0, 1.1 * max(without_outliers(seconds), planned or 0) if seconds else None)
    bottom.set_xlabel("step")
    top.set_title(printable(run.settings.name) or _TITLE, loc="left", parse_math=False)
    try:
        figure.savefig(drawn := io.BytesIO(), format=target.suffix[1:] or "png", dpi=150)
    except ValueError as error:
        raise NevaError(f"--plot {target}: {error}") from error
    write(target, drawn.getvalue(), "--plot")


_BLUE, _RED, _GREY = "#2563eb", "#dc2626", "#6b7280"


def _loss(point: Point) -> float | None:
    return point.loss


def _seconds(point: Point) -> float | None:
    return point.seconds


def curves_of(points: Iterable[Point], value: Callable[[Point], float | None]) -> list[Curve]:
    """Return the lines to draw: a new one after each restart and each gap."""
    curves: list[Curve] = []
    attempt = 0
    for point in points:
        y = value(point)
        if y is None or not math.isfinite(y):
            attempt = 0
            continue
        if point.attempt != attempt:
            curves.append([])
            attempt = point.attempt
        curves[-1].append((point.step, y))
    return curves


def restart_steps(points: Sequence[Point]) -> list[int]:
    """Return the first step of each later attempt."""
    return [b.step for a, b in pairwise(points) if b.attempt != a.attempt]


def html(run: Run, judgements: list[Judgement], status: Status, written: str) -> str:
    """Return the page; ``written`` says when it was made."""
    title = run.settings.name or _TITLE
    points = run.series.points()
    sections = [
        _header(title, run, status, written),
        _tiles(run),
        _findings(judgements),
        _chart(
            "Loss",
            "reduced_train_loss",
            curves_of(points, _loss),
            restart_steps(points),
            from_zero=False,
        ),
        _chart(
            "Step time",
            "seconds a step",
            curves_of(points, _seconds),
            restart_steps(points),
            run.settings.planned_step_seconds,
        ),
        _throughput(run, points),
        _table("Restarts and checkpoints", _history(run)),
        _table("Configuration", _configuration(run)),
    ]
    return printable(
        _PAGE.replace("{{title}}", escape(title))
        .replace("{{style}}", _STYLE)
        .replace("{{body}}", "\n".join(filter(None, sections)))
    )


def _header(title: str, run: Run, status: Status, written: str) -> str:
    step, limit = run.completed or 0, run.max_steps
    share = min(1.0, step / limit) if limit else 0.0
    left = f"<span>{duration(run.seconds_left())} left</span>" if status is Status.TRAINING else ""
    of = f" of {limit:,}" if limit else ""
    return f"""<header>
<div class="row"><h1>{escape(title)}</h1><span class="status
{status.name.lower()}">{status.value}</span></div> <p class="quiet">{escape(run.settings.model)} ·
{escape(written)}</p> <div class="bar" role="progressbar" aria-valuenow="{share * 100:.1f}"
aria-valuemin="0" aria-valuemax="100"> <div style="width:{share * 100:.2f}%"></div></div> <div
class="row small"><span><b>step
{step:,}</b>{of}</span><span>{share:.1%}</span>{left}</div> </header>"""


def _tiles(run: Run) -> str:
    speed = run.speed()
    median = speed.median if speed else None
    tiles = [
        ("Loss", number(run.loss), ""),
        ("Step time", duration(median), f"p95 {duration(speed.p95)}" if speed else ""),
        ("Samples/s", number(speed.samples if speed else None), _per_gpu(run)),
        ("Tokens/s", number(speed.tokens if speed else None), ""),
        ("MFU", percent(speed.mfu if speed else None), "of dense BF16 peak"),
        (
            "Of plan",
            percent(speed.of_plan if speed else None),
            f"planned {duration(run.settings.planned_step_seconds)} a step",
        ),
    ]
    return (
        '<section class="tiles">'
        + "".join(
            f'<div class="tile"><span class="quiet">{name}</span><b>{escape(value)}</b>'
            f'<span class="quiet">{escape(more)}</span></div>'
            for name, value, more in tiles
            if value != UNKNOWN
        )
        + "</section>"
    )


def _per_gpu(run: Run) -> str:
    speed = run.speed()
    return f"{number(speed.samples_per_gpu)} a GPU" if speed and speed.samples_per_gpu else ""


def _findings(judgements: list[Judgement]) -> str:
    if not judgements:
        return '<section class="card"><h2>Judgement</h2><p>Nothing to report.</p></section>'
    items = []
    for j in judgements:
        rank = "" if j.rank is None else f" (rank {j.rank})"
        rows = "".join(
            f"<dt>{name}</dt><dd>{_inline(f'`{text}`' if name == 'Evidence' else text)}</dd>"
            for name, text in (
                ("Evidence", j.evidence),
                ("Likely cause", j.cause),
                ("Next", j.action),
            )
            if text
        )
        items.append(
            f'<article class="finding {j.level.name.lower()}"><h3>{escape(j.title + rank)}</h3>'
            f"<dl>{rows}</dl></article>"
        )
    return '<section class="card"><h2>Judgement</h2>' + "".join(items) + "</section>"


def _inline(text: str) -> str:
    """Return text with its `commands` set as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _throughput(run: Run, points: Sequence[Point]) -> str:
    batch = run.global_batch_size
    if not batch:
        return ""
    planned = run.settings.planned_step_seconds

    def rate(point: Point) -> float | None:
        return batch / point.seconds if point.seconds else None

    return _chart(
        "Throughput",
        "samples a second",
        curves_of(points, rate),
        restart_steps(points),
        batch / planned if planned else None,
    )


_WIDTH, _HEIGHT = 880, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 26


def _chart(
    title: str,
    unit: str,
    curves: list[Curve],
    restarts: list[int],
    planned: float | None = None,
    from_zero: bool = True,
) -> str:
    """Return a line chart as a section with an inline SVG."""
    every = [p for curve in curves for p in curve]
    if len(every) < 2:
        return ""
    xs, ys = [x for x, _ in every], [y for _, y in every]
    high = max(without_outliers(ys), planned or 0)
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
    parts.append(f'<text class="unit" x="{_LEFT - 8}" y="{_HEIGHT - 6}" text-anchor="end">step</text>')
    if planned is not None:
        parts.append(
            f'<line class="planned" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{py(planned):.1f}" y2="{py(planned):.1f}"/>'
        )
    parts += ['<polyline points="' + " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in curve) + '"/>' for curve in curves]
    key = ['<span class="key line">measured</span>']
    if planned is not None:
        key.append(f'<span class="key dash">planned {number(planned)}</span>')
    if restarts:
        key.append('<span class="key dots">restart</span>')
    return (
        f'<section class="card"><div class="row"><h2>{title}</h2><span class="quiet">{unit}</span>'
        f'<span class="keys">{"".join(key)}</span></div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}, {unit}, over'
        ' steps">'
        f"{''.join(parts)}</svg></section>"
    )


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


def _history(run: Run) -> list[tuple[str, str]]:
    saved = UNKNOWN if run.checkpoint_step is None else f"{run.checkpoint_step:,}"
    rows = [
        ("Restarts", str(run.restarts)),
        ("Steps lost to restarts", f"{run.lost_steps:,}"),
        ("Checkpoints saved", str(run.checkpoints)),
        ("Last checkpoint at step", saved),
        ("Steps with NaN or infinite loss", str(run.nan_total)),
    ]
    return rows + [(f"Before step {(i.step or 0) + 1:,}: {i.kind.value}", i.line) for i in run.past[-10:]]


def _configuration(run: Run) -> list[tuple[str, str]]:
    s = run.settings
    rows = [
        ("Model", s.model or UNKNOWN),
        ("GPUs", number(s.gpus)),
        ("World size in the log", number(run.world_size)),
        ("Global batch size", number(run.global_batch_size)),
        ("Steps", number(run.max_steps)),
        ("Tokens a sample", number(s.tokens_per_sample)),
        ("Planned step time", duration(s.planned_step_seconds)),
        (
            "Steps between checkpoints",
            "off" if s.checkpoint_every == 0 else number(s.checkpoint_every),
        ),
    ]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in rows)
    return f'<section class="card"><h2>{title}</h2><table>{body}</table></section>'


_STYLE = """
:root{--page:#f6f7f9;--card:#fff;--text:#16181d;--quiet:#646b78;--line:#e2e5ea;--blue:#2563eb;
--green:#15803d;--amber:#b45309;--red:#dc2626;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--page:#0e1116;--card:#171b22;--text:#e7eaf0;--quiet:#98a1b0;
--line:#2a303a;--blue:#6ea8fe;--green:#4ade80;--amber:#fbbf24;--red:#f87171}}
*{box-sizing:border-box} body{margin:0;background:var(--page);color:var(--text);font:15px/1.5
system-ui,sans-serif} main{max-width:960px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:26px;margin:0}h2{font-size:16px;margin:0}h3{font-size:15px;margin:0}
.row{display:flex;gap:14px;align-items:center;flex-wrap:wrap}
.small{justify-content:space-between;font-size:14px} .quiet{color:var(--quiet);font-size:13px}
header p{margin:2px 0 14px} .status{padding:2px
12px;border-radius:99px;font-size:13px;font-weight:600;color:var(--blue); border:1px solid
currentColor} .status.training,.status.finished{color:var(--green)}
.status.failed{color:var(--red)}.status.stalled,.status.ended,.status.waiting{color:var(--amber)}
.bar{height:10px;border-radius:5px;background:var(--line);overflow:hidden;margin-bottom:6px} .bar
div{height:100%;background:var(--blue);border-radius:5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(136px,1fr));gap:12px;margin:20px 0}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:12px 14px;display:flex;flex-direction:column} .tile
b{font-size:21px;font-variant-numeric:tabular-nums} .card{padding:16px 18px;margin:14px 0}
.finding{border-left:4px solid var(--green);padding:2px 0 2px 14px;margin:14px 0 4px}
.finding.failed{border-color:var(--red)}.finding.warning{border-color:var(--amber)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:6px 0 0;font-size:14px}
dt{color:var(--quiet)}dd{margin:0;min-width:0;overflow-wrap:anywhere} code{font:13px/1.5
ui-monospace,monospace} svg{width:100%;height:auto;display:block;margin-top:10px} svg
text{fill:var(--quiet);font-size:12px;font-variant-numeric:tabular-nums} svg
.grid{stroke:var(--line)} svg
polyline{fill:none;stroke:var(--blue);stroke-width:1.8;stroke-linejoin:round} svg
.restart{stroke:var(--red);stroke-width:1.5;stroke-dasharray:2 4} svg
.planned{stroke:var(--quiet);stroke-width:1.5;stroke-dasharray:7 5}
.keys{margin-left:auto;display:flex;gap:16px} .key{font-size:13px;color:var(--quiet)}
.key::before{content:"";display:inline-block;width:20px;margin-right:6px;vertical-align:middle;
border-top:2px solid var(--blue)} .key.dash::before{border-top:2px dashed
var(--quiet)}.key.dots::before{border-top:2px dotted var(--red)}
table{border-collapse:collapse;width:100%;margin-top:8px;font-size:14px}
th,td{text-align:left;padding:5px 0;border-top:1px solid var(--line);vertical-align:top}
th{font-weight:400;color:var(--quiet);width:38%;padding-right:16px}
td{overflow-wrap:anywhere;font-variant-numeric:tabular-nums} tr:first-child th,tr:first-child
td{border-top:0} @media(max-width:600px){svg{overflow:visible} svg text{font-size:24px} svg
.unit{display:none} svg *{vector-effect:non-scaling-stroke}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{{title}}</title>
<style>{{style}}</style>
</head>
<body><main>
{{body}}
</main></body>
</html>
"""
