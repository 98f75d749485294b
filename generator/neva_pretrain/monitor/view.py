"""A run on a terminal: the live view, the summary and the plain line."""

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from neva_pod.monitor.judge import Judgement, Severity, Status
from neva_pod.monitor.records import Speed
from neva_pod.monitor.run import Run
from neva_pretrain.monitor.findings import NOT_STARTED
from neva_pretrain.monitor.text import UNKNOWN, braille, duration, number, percent
from neva_pretrain.output import printable

_STATUS_STYLE = {
    Status.STARTING: "cyan",
    Status.WAITING: "yellow",
    Status.TRAINING: "green",
    Status.STALLED: "yellow",
    Status.ENDED: "yellow",
    Status.FAILED: "red",
    Status.FINISHED: "green",
}
_LEVEL_STYLE = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.FAILED: "red"}
_PLOT_HEIGHT = 6


def plain_line(run: Run, status: Status) -> str:
    """Return the run in one line, for logs and pipes."""
    parts = [status.value, f"step {number(run.completed)}/{number(run.max_steps)}"]
    if run.completed is not None and run.max_steps:
        parts.append(f"{run.completed / run.max_steps:.1%}")
    if run.loss is not None:
        parts.append(f"loss {number(run.loss)}")
    speed = run.speed()
    if speed is not None:
        parts.append(f"{duration(speed.median)}/step (p95 {duration(speed.p95)})")
        if speed.samples is not None:
            parts.append(f"{number(speed.samples)} samples/s")
        if speed.samples_per_gpu is not None:
            parts.append(f"{number(speed.samples_per_gpu)}/GPU")
        if speed.mfu is not None:
            parts.append(f"MFU {percent(speed.mfu)}")
        if speed.of_plan is not None:
            parts.append(f"{percent(speed.of_plan)} of planned speed")
    if status is Status.TRAINING:
        parts.append(f"{duration(run.seconds_left())} left")
    return "  ".join(parts)


def judgement_lines(judgement: Judgement) -> list[str]:
    """Return a finding as text, for logs and pipes."""
    rank = "" if judgement.rank is None else f" (rank {judgement.rank})"
    lines = [f"{judgement.level.name}: {judgement.title}{rank}"]
    for name in ("evidence", "cause", "action"):
        text = getattr(judgement, name)
        if text:
            lines.append(f"  {name}: " + text.replace("\n", "\n    "))
    return list(map(printable, lines))


def render(run: Run, judgements: list[Judgement], status: Status, width: int) -> RenderableType:
    """Return the view of a run for a terminal of that many columns."""
    inner = max(40, width - 4)
    parts: list[RenderableType] = [_progress(run, status, inner), Text(), _figures(run)]
    plot = _loss_plot(run, inner)
    if plot is not None:
        parts += [Text(), plot]
    shown = [j for j in judgements if j.level is not Severity.OK or j.code in NOT_STARTED]
    if shown:
        parts += [Text(), *map(_judgement, shown)]
    style = _STATUS_STYLE[status]
    name = printable(run.settings.name) or "neva-monitor"
    title = Text.assemble((name, "bold"), "  ", (status.value, f"bold {style}"))
    about = "  ".join(
        filter(
            None,
            (
                escape(printable(run.settings.model)),
                f"{run.settings.gpus} GPUs" if run.settings.gpus else "",
                f"global batch {run.global_batch_size}" if run.global_batch_size else "",
            ),
        )
    )
    return Panel(
        Group(*parts),
        title=title,
        title_align="left",
        subtitle=about or None,
        subtitle_align="left",
        border_style=style,
        box=box.ROUNDED,
        width=max(44, width),
    )


def _progress(run: Run, status: Status, width: int) -> RenderableType:
    step, limit = run.completed or 0, run.max_steps
    left = run.seconds_left() if status is Status.TRAINING else None
    text = Text.assemble((f"step {step:,}", "bold"), f" of {limit:,}" if limit else " of an unknown number")
    if limit:
        text.append(f"   {step / limit:.1%}")
    if left:
        text.append(f"   {duration(left)} left", style="cyan")
    style = _STATUS_STYLE[status]
    bar = ProgressBar(
        total=limit or 1, completed=step if limit else 0, width=width, complete_style=style, finished_style=style
    )
    return Group(text, bar)


def _figures(run: Run) -> RenderableType:
    speed = run.speed()
    grid = Table.grid(padding=(0, 3, 0, 0))
    for _ in range(2):
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True)
    samples = run.consumed_samples
    saved = UNKNOWN if run.checkpoint_step is None else f"step {run.checkpoint_step:,}"
    left: list[tuple[str, str | Text]] = [
        ("loss", number(run.loss)),
        ("step time", _step_time(speed)),
        ("plan", _plan(run, speed)),
        ("samples", UNKNOWN if samples is None else f"{'~' if samples[1] else ''}{samples[0]:,}"),
    ]
    right = [
        ("samples/s", _rate(speed)),
        ("tokens/s", number(speed.tokens if speed else None)),
        ("MFU", percent(speed.mfu if speed else None)),
        ("checkpoint", f"{saved}   restarts {run.restarts}"),
    ]
    for (name, value), (other, its) in zip(left, right, strict=True):
        grid.add_row(name, value, other, its)
    return grid


def _step_time(speed: Speed | None) -> str:
    return UNKNOWN if speed is None else f"{duration(speed.median)} (p95 {duration(speed.p95)})"


def _rate(speed: Speed | None) -> str:
    if speed is None or speed.samples is None:
        return UNKNOWN
    per_gpu = f"   {number(speed.samples_per_gpu)}/GPU" if speed.samples_per_gpu else ""
    return number(speed.samples) + per_gpu


def _plan(run: Run, speed: Speed | None) -> Text:
    planned = run.settings.planned_step_seconds
    if planned is None:
        return Text(UNKNOWN)
    text = Text(f"{duration(planned)}")
    if speed is not None and speed.of_plan is not None:
        style = "green" if speed.of_plan >= 0.8 else "yellow"
        text = Text.assemble((f"{percent(speed.of_plan)} of planned speed", style), f": {duration(planned)}")
    return text


def _loss_plot(run: Run, width: int) -> RenderableType | None:
    points = run.series.points()
    losses = [p.loss for p in points]
    known = [v for v in losses if v is not None and abs(v) < float("inf")]
    if len(known) < 2:
        return None
    high, low = number(max(known)), number(min(known))
    margin = max(len(high), len(low)) + 1
    rows = braille(losses, max(10, width - margin), _PLOT_HEIGHT)
    text = Text.assemble(("loss\n", "dim"))
    for place, row in enumerate(rows):
        label = high if place == 0 else low if place == _PLOT_HEIGHT - 1 else ""
        text.append(f"{label:>{margin - 1}} ", style="dim")
        text.append(row + "\n", style="cyan")
    first, last = f"step {points[0].step:,}", f"step {points[-1].step:,}"
    gap = max(1, width - margin - len(first) - len(last))
    text.append(f"{'':{margin}}{first}{'':{gap}}{last}", style="dim")
    return text


def _judgement(judgement: Judgement) -> RenderableType:
    style = _LEVEL_STYLE[judgement.level]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    title, *rest = judgement_lines(judgement)
    for line in rest:
        name, _, text = line.strip().partition(": ")
        grid.add_row("  " + name, Text(text))
    return Group(Text(title, style=f"bold {style}"), grid)
