"""A run as one HTML page that needs nothing else."""

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from neva_pod.monitor.judge import Judgement, Status
from neva_pod.monitor.records import Point
from neva_pod.monitor.run import Run
from neva_pretrain.monitor.curves import Line, curves_of, restart_steps, svg
from neva_pretrain.monitor.text import UNKNOWN, duration, number, percent
from neva_pretrain.output import printable

TITLE = "NeVa pretraining"


def html(run: Run, judgements: list[Judgement], status: Status, written: str) -> str:
    """Return the page; ``written`` says when it was made."""
    title = run.settings.name or TITLE
    points = run.series.points()
    sections = [
        _header(title, run, status, written),
        _tiles(run),
        _findings(judgements),
        svg(
            "Loss",
            "reduced_train_loss",
            [Line("measured", curves_of(points, lambda point: point.loss))],
            restart_steps(points),
            from_zero=False,
        ),
        svg(
            "Step time",
            "seconds per step",
            [Line("measured", curves_of(points, lambda point: point.seconds))],
            restart_steps(points),
            run.settings.planned_step_seconds,
        ),
        _throughput(run, points),
        _table("Restarts and checkpoints", _history(run)),
        _table("Configuration", _configuration(run)),
    ]
    return filled(title, sections)


def filled(title: str, sections: Sequence[str]) -> str:
    """Return a page of these sections; empty ones are left out."""
    page = files("neva_pretrain.monitor").joinpath("page.html").read_text("utf-8")
    return printable(page.replace("{{title}}", escape(title)).replace("{{body}}", "\n".join(filter(None, sections))))


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
            "Speed vs plan",
            percent(speed.of_plan if speed else None),
            f"planned {duration(run.settings.planned_step_seconds)} per step",
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
    return f"{number(speed.samples_per_gpu)} per GPU" if speed and speed.samples_per_gpu else ""


def _findings(judgements: list[Judgement]) -> str:
    if not judgements:
        return '<section class="card"><h2>Findings</h2><p>Nothing to report.</p></section>'
    items = []
    for j in judgements:
        rank = "" if j.rank is None else f" (rank {j.rank})"
        rows = "".join(
            f"<dt>{name}</dt><dd>{_inline(f'`{text}`' if name == 'Evidence' else text)}</dd>"
            for name, text in (("Evidence", j.evidence), ("Likely cause", j.cause), ("Next", j.action))
            if text
        )
        items.append(
            f'<article class="finding {j.level.name.lower()}"><h3>{escape(j.title + rank)}</h3>'
            f"<dl>{rows}</dl></article>"
        )
    return '<section class="card"><h2>Findings</h2>' + "".join(items) + "</section>"


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

    return svg(
        "Throughput",
        "samples per second",
        [Line("measured", curves_of(points, rate))],
        restart_steps(points),
        batch / planned if planned else None,
    )


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
        ("Tokens per sample", number(s.tokens_per_sample)),
        ("Planned step time", duration(s.planned_step_seconds)),
        ("Steps between checkpoints", "off" if s.checkpoint_every == 0 else number(s.checkpoint_every)),
    ]
    return [(name, value) for name, value in rows if value != UNKNOWN]


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(n)}</th><td>{escape(v)}</td></tr>" for n, v in rows)
    return f'<section class="card"><h2>{title}</h2><table>{body}</table></section>'
