"""The runs of a namespace, each by the end of its log and by what the cluster says of it."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from neva_pod.monitor.judge import Judgement, Severity, Status
from neva_pod.monitor.limits import Limits
from neva_pod.monitor.run import Run
from neva_pretrain.kubectl import ClusterError
from neva_pretrain.monitor import inputs, report, settings, sources
from neva_pretrain.monitor.findings import NOT_STARTED, unreadable
from neva_pretrain.monitor.jobs import Job, Jobs, created
from neva_pretrain.monitor.text import duration, folded, number, percent
from neva_pretrain.output import table

TAIL = 1000
"""Last lines of a log that the list reads: enough for the step, the loss and a median speed."""

AT_ONCE = 8
"""Runs that are asked for at the same time."""

REASON = 240
"""Characters of a reason that the list shows; the run itself shows all."""


@dataclass(frozen=True)
class Listed:
    """A run of the list.

    Attributes:
        name: what ``neva-monitor`` takes for it.
        job: its job.
        run: as the end of its log shows it.
        judgements: what can be said of it, worst first.
        status: where it stands.

    """

    name: str
    job: Job
    run: Run
    judgements: list[Judgement]
    status: Status


def runs(kubectl: Jobs, everywhere: bool, limits: Limits) -> list[Listed]:
    """Return the runs of a namespace, or of all, by namespace and name.

    Raises:
        ClusterError: jobs cannot be listed.
    """
    jobs = kubectl.jobs(everywhere)
    newest = {(job.namespace, job.release): job for job in sorted(jobs, key=lambda job: created(job.found))}
    named = [(job.release if job.release and newest[job.namespace, job.release] is job else job.name, job)
             for job in jobs]  # fmt: skip

    def listed(entry: tuple[str, Job]) -> Listed:
        name, job = entry
        return _listed(name, job, kubectl.within(job.namespace), limits)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(listed, sorted(named, key=lambda entry: (entry[1].namespace, _natural(entry[0])))))


def _listed(name: str, job: Job, kubectl: Jobs, limits: Limits) -> Listed:
    log = inputs.of_job(sources.JobLog(kubectl, name, job=job, tail=TAIL), settings.Options(), once=True)
    try:
        run = log.read()
        judgements, status = log.judged(run, limits)
    except ClusterError as error:  # of one run; the others are listed
        run = Run(log.settings)
        judgements, status = [unreadable(str(error))], Status.STARTING
        if job.outcome:
            status = Status.FAILED if job.failed else Status.FINISHED
    return Listed(name, job, run, judgements, status)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which lr-2 comes before lr-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"[0-9]{1,9}|[^0-9]+", name)]


def as_dict(found: Sequence[Listed]) -> dict[str, Any]:
    """Return the list for ``-o json``: of each run what ``-o json`` of it has, without its points."""
    return {
        "runs": [
            {
                "name": each.name,
                "namespace": each.job.namespace,
                "kind": each.job.kind_title,
                "job": each.job.name,
                "created": created(each.job.found),
                **{k: v for k, v in report.as_dict(each.run, each.judgements, each.status).items() if k != "points"},
            }
            for each in found
        ]
    }


def as_text(found: Sequence[Listed], everywhere: bool, width: int | None) -> str:
    """Return a line for each run, and below it what is the matter with it, folded where a width is given."""
    head = ["RUN", "KIND", "GPUS", "STEP", "STATE", "LOSS", "OF PLAN", "LEFT"]
    rows = [_row(each) for each in found]
    if everywhere:
        head = ["NAMESPACE", *head]
        rows = [[each.job.namespace, *row] for each, row in zip(found, rows, strict=True)]
    first, *lines = table([head, *rows], right=("GPUS", "STEP", "LOSS", "OF PLAN"))
    shown = [first]
    for each, line in zip(found, lines, strict=True):
        shown.append(line)
        for judgement in each.judgements[:1]:
            if judgement.level is not Severity.OK or judgement.code in NOT_STARTED:
                shown += folded(_reason(judgement), width, indent="  ")
    return "\n".join(shown)


def _row(each: Listed) -> list[str]:
    run, speed = each.run, each.run.speed()
    left = run.seconds_left() if each.status is Status.TRAINING else None
    return [
        each.name,
        each.job.kind_title,
        number(run.settings.gpus),
        f"{number(run.completed or 0)}/{number(run.max_steps)}",
        each.status.value,
        "" if run.loss is None else number(run.loss),
        percent(speed.of_plan) if speed and speed.of_plan is not None else "",
        "" if left is None else duration(left),
    ]


def _reason(judgement: Judgement) -> str:
    evidence = judgement.evidence.partition("\n")[0]
    said = f"{judgement.level.name}: {judgement.title}" + (f": {evidence}" if evidence else "")
    return said if len(said) <= REASON else said[: REASON - 1] + "…"
