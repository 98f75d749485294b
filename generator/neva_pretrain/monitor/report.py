"""A run as JSON and as a picture."""

import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neva_pod.monitor.judge import Judgement, Status, exit_code
from neva_pod.monitor.run import Run
from neva_pretrain.errors import NevaError
from neva_pretrain.monitor.curves import curves_of, restart_steps, without_outliers
from neva_pretrain.monitor.page import TITLE
from neva_pretrain.output import printable, write


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
        "checkpoint": {"count": run.checkpoints, "step": run.checkpoint_step, "at": run.checkpoint_at},
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
        (top, curves_of(points, lambda point: point.loss), "reduced_train_loss"),
        (bottom, curves_of(points, lambda point: point.seconds), "step time (s)"),
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
    seconds = [y for curve in curves_of(points, lambda point: point.seconds) for _, y in curve]
    bottom.set_ylim(0, 1.1 * max(without_outliers(seconds), planned or 0) if seconds else None)
    bottom.set_xlabel("step")
    top.set_title(printable(run.settings.name) or TITLE, loc="left", parse_math=False)
    figure.savefig(drawn := io.BytesIO(), format=target.suffix[1:].lower(), dpi=150)
    write(target, drawn.getvalue(), "--plot")


_BLUE, _RED, _GREY = "#2563eb", "#dc2626", "#6b7280"
