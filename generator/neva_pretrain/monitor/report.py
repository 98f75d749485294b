"""A run as JSON."""

import math
from dataclasses import asdict
from typing import Any

from neva_pod.monitor.judge import Judgement, Status, exit_code
from neva_pod.monitor.run import Run


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
