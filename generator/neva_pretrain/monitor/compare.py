"""Two or more runs side by side: where each stands, what differs between them, loss and speed over one axis.

Runs of one global batch are compared over steps, others over samples: only these mean the same for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from statistics import fmean
from typing import Any

from neva_pod.monitor.judge import Judgement, Status
from neva_pod.monitor.records import Point
from neva_pod.monitor.run import Run
from neva_pretrain.chart.access import Values, mapping
from neva_pretrain.monitor import report
from neva_pretrain.monitor.curves import Curve, curves_of, smoothed
from neva_pretrain.monitor.text import UNKNOWN, duration, folded, number, percent
from neva_pretrain.output import table

WINDOW = 0.05
"""Share of the way to the common point whose losses are averaged: one step's alone is noise."""

START = 0.1
"""Share of the axis whose losses, far above the rest, may be cut off."""

HEADS = ("RUN", "STATE", "STEP", "LOSS", "STEP TIME", "SMP/S/GPU", "OF PLAN")

_LONG = 24
_SECTIONS = ("model", "architecture", "training", "data", "versions")
_NOT_OF_THE_RUN = ("model.checkpointPath", "model.tokenizerPath", "model.visionEncoderPath", "data.images")
"""Paths that follow from the rest, or from where a run was."""


@dataclass(frozen=True)
class Compared:
    """A run among others.

    Attributes:
        name: tells it from the others.
        source: what the command line names.
        sheet: its fact sheet, as far as it is known.
        run: as its log shows it.
        judgements: what can be said of it, worst first.
        status: where it stands.

    """

    name: str
    source: str
    sheet: Values
    run: Run
    judgements: list[Judgement]
    status: Status

    @cached_property
    def points(self) -> list[Point]:
        """Its steps; what a restart did again counts as it was the last time."""
        return [point for _, point in sorted({p.step: p for p in self.run.series.points()}.items())]

    @cached_property
    def facts(self) -> dict[str, str]:
        """What it is, by the keys of the values."""
        said = {"image": self.sheet.get("image"), "GPUs": self.run.settings.gpus}
        for section in _SECTIONS:
            said |= {f"{section}.{key}": value for key, value in mapping(self.sheet, section).items()}
        said["training.globalBatchSize"] = self.run.global_batch_size
        said["training.maxSteps"] = self.run.max_steps
        return {
            key: _shown(value)
            for key, value in said.items()
            if value is not None and not isinstance(value, Mapping | list) and key not in _NOT_OF_THE_RUN
        }


@dataclass(frozen=True)
class Comparison:
    """Runs, compared."""

    runs: Sequence[Compared]

    @cached_property
    def over_samples(self) -> bool:
        """Whether samples are the axis: the global batch differs, and that of each run is known."""
        batches = {each.run.global_batch_size for each in self.runs}
        return len(batches) > 1 and None not in batches

    @property
    def axis(self) -> str:
        """What the runs are compared over."""
        return "samples" if self.over_samples else "steps"

    def place(self, each: Compared, step: float) -> float:
        """Return where a step of a run lies on the axis."""
        return step * (each.run.global_batch_size or 1) if self.over_samples else step

    @cached_property
    def common(self) -> float | None:
        """The last place that each run has reached with a loss."""
        ends = [[x for curve in self.losses(each) for x, _ in curve][-1:] for each in self.runs]
        return min(end[0] for end in ends) if all(ends) else None

    def loss(self, each: Compared) -> float | None:
        """Return a run's loss at the common place: the mean over the last part of the way there."""
        common = self.common
        if common is None:
            return None
        before = [(x, loss) for curve in self.losses(each) for x, loss in curve if x <= common]
        near = [loss for x, loss in before if x > (1 - WINDOW) * common] or [loss for _, loss in before[-1:]]
        return fmean(near) if near else None

    @cached_property
    def rate(self) -> str:
        """The unit of speed that all runs have."""
        if any(each.run.global_batch_size is None for each in self.runs):
            return "steps/s"
        return "samples/s" if any(each.run.settings.gpus is None for each in self.runs) else "samples/s per GPU"

    def speed(self, each: Compared, seconds: float | None) -> float | None:
        """Return the speed of a step that takes so long, in that unit."""
        if not seconds:
            return None
        batch, gpus = each.run.global_batch_size or 1, each.run.settings.gpus or 1
        return {"steps/s": 1, "samples/s": batch, "samples/s per GPU": batch / gpus}[self.rate] / seconds

    def losses(self, each: Compared) -> list[Curve]:
        """Return a run's loss over the axis, as lines to draw."""
        return curves_of(each.points, lambda p: p.loss, lambda p: self.place(each, p.step))

    def speeds(self, each: Compared) -> list[Curve]:
        """Return a run's speed over the axis, as lines to draw."""
        return curves_of(each.points, lambda p: self.speed(each, p.seconds), lambda p: self.place(each, p.step))

    @cached_property
    def differences(self) -> dict[str, list[str]]:
        """What is known of two runs or more and is not the same, run by run."""
        keys = dict.fromkeys(key for each in self.runs for key in each.facts)
        found = {key: [each.facts.get(key, UNKNOWN) for each in self.runs] for key in keys}
        differ = {key: row for key, row in found.items() if len(set(row) - {UNKNOWN}) > 1}
        if "model.name" in differ:  # its shape follows
            return {key: row for key, row in differ.items() if not key.startswith("architecture.")}
        return differ

    @property
    def note(self) -> str:
        """Why the losses are not quite comparable, where they are not."""
        if "training.microBatchSize" in self.differences:
            return (
                "the loss is a mean over the tokens of each micro batch: runs with other micro batch sizes weigh "
                "samples differently, so small differences say nothing"
            )
        return ""

    @cached_property
    def top(self) -> float | None:
        """The highest loss past the start: a chart that shows the start shows no difference at the end."""
        ends = [curve[-1][0] for each in self.runs for curve in self.losses(each)]
        begun = START * max(ends, default=0)
        return max(
            (y for each in self.runs for curve in self.losses(each) for x, y in smoothed(curve) if x >= begun),
            default=None,
        )

    def figures(self, each: Compared) -> list[str]:
        """Return a run's row, below the heads of :data:`HEADS`."""
        speed = each.run.speed()
        return [
            each.name,
            each.status.value,
            f"{number(each.run.completed or 0)}/{number(each.run.max_steps)}",
            number(self.loss(each)),
            duration(speed.median if speed else None),
            number(speed.samples_per_gpu if speed else None),
            percent(speed.of_plan if speed else None),
        ]


def names(sources: Sequence[str]) -> list[str]:
    """Return the shortest ends of paths that tell the sources apart."""
    parts = [PurePath(source).parts or (source,) for source in sources]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(p[-length:]) for p in parts]
        if len(set(short)) == len(short):
            return short
    return list(sources)


def as_text(found: Comparison, width: int | None) -> str:
    """Return the table of the runs, and what differs between them."""
    lines = table([HEADS, *map(found.figures, found.runs)], right=HEADS[2:])
    if found.common is None:
        said = f"Compared over {found.axis}; not each run has a loss yet."
    else:
        said = (
            f"LOSS is the mean over the last {WINDOW:.0%} of the first {found.common:,.0f} {found.axis}, "
            "which all runs have done."
        )
    lines += ["", *folded(said, width)]
    if found.differences:
        lines += ["", "What differs:", *(f"  {line}" for line in _differences(found, width))]
    elif any(each.sheet for each in found.runs):
        lines += ["", "Nothing that is known of these runs differs."]
    if found.note:
        lines += ["", *folded(f"Note: {found.note}.", width)]
    return "\n".join(lines)


def _differences(found: Comparison, width: int | None) -> list[str]:
    """Return what differs as columns, one for each run; what is too long for that, line by line."""
    short = {key: row for key, row in found.differences.items() if max(map(len, row)) <= _LONG}
    lines = table([["", *(each.name for each in found.runs)], *([key, *row] for key, row in short.items())])
    if width is not None and max(map(len, lines)) > width - 2:
        short, lines = {}, []
    for key, row in found.differences.items():
        if key not in short:
            lines += [key, *(f"  {line}" for line in table([*zip((e.name for e in found.runs), row, strict=True)]))]
    return lines


def as_dict(found: Comparison) -> dict[str, Any]:
    """Return the comparison for ``-o json``."""
    return {
        "over": found.axis,
        "at": found.common,
        "differences": {
            key: {each.name: said for each, said in zip(found.runs, row, strict=True)}
            for key, row in found.differences.items()
        },
        "runs": [
            {
                "name": each.name,
                "source": each.source,
                "lossAt": found.loss(each),
                **report.as_dict(each.run, each.judgements, each.status),
            }
            for each in found.runs
        ],
    }


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
