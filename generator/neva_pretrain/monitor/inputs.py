"""A run to look at: its log, what it is meant to do, and what else is known of it."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neva_pod.monitor.judge import Judgement, Severity, Status, exit_code, judge, status
from neva_pod.monitor.limits import Limits
from neva_pod.monitor.parser import LogParser
from neva_pod.monitor.records import RunSettings
from neva_pod.monitor.run import Run
from neva_pod.monitor.tail import newest_log
from neva_pretrain.chart.access import Values
from neva_pretrain.errors import NevaError
from neva_pretrain.monitor import settings, sources
from neva_pretrain.monitor.decode import is_compressed
from neva_pretrain.monitor.findings import LOG, NOT_STARTED
from neva_pretrain.monitor.jobs import Job, Jobs
from neva_pretrain.monitor.sources import Chunk

STANDARD_INPUT = "-"

_SEVERITY = (Severity.FAILED, Severity.WARNING, Severity.OK)


@dataclass(frozen=True)
class Input:
    """A run to look at.

    Attributes:
        chunks: the bytes of its log, as they come.
        settings: what the run is meant to do.
        sheet: its fact sheet, whole or in part.
        job: its job in the cluster, as it is now, if it has one.
        findings: what is known of it beside its log.
        grows: its log has no end of its own: stop when the trainer reports that it is done.
        ending: why its log ends, where no job says so.
        trouble: what is wrong with what is known of it.

    """

    chunks: Iterator[Chunk]
    settings: RunSettings
    sheet: Values = field(default_factory=dict)
    job: Callable[[], Job | None] = lambda: None
    findings: Callable[[], list[Judgement]] = list
    grows: bool = False
    ending: str = ""
    trouble: str = ""

    def follow(self, run: Run) -> Iterator[bool]:
        """Feed the run until its log ends, and then tell it so; yields after each piece, and whether that had bytes."""
        parser = LogParser()
        for chunk in self.chunks:
            if chunk.new_process:
                run.new_process()
            if not chunk.waiting:
                run.update(parser.feed(chunk.data), chunk.when)
            if self.grows and run.finished and not chunk.data:
                break
            yield bool(chunk.data)
        rest = parser.close()
        if rest:
            run.update(rest, run.last_event_at or time.time())
        job = self.job()
        run.end(*(job.outcome, job.failed) if job else (self.ending, False))

    def read(self) -> Run:
        """Return the run as its log shows it now."""
        run = Run(self.settings)
        for _ in self.follow(run):
            pass
        return run

    def judged(self, run: Run, limits: Limits) -> tuple[list[Judgement], Status]:
        """Return all that can be said of the run now, worst first, and where it stands."""
        job = self.job()
        succeeded = job and job.outcome and not job.failed and not job.deleted
        if job and succeeded and run.step is None and not run.stopped:
            # Its pods are gone, or their log may not be read: the job itself says how it ended.
            done = Judgement("finished", Severity.OK, "finished: the job succeeded", job.outcome)
            return [done], Status.FINISHED
        beside = [] if run.is_finished else self.findings()
        codes = {j.code for j in beside}
        waits = not codes.isdisjoint(NOT_STARTED)  # what does not run does not stall
        of_log = [
            j for j in judge(run, time.time(), limits) if j.code not in codes and not (waits and j.code == "stalled")
        ]
        found = sorted([*beside, *of_log], key=lambda j: _SEVERITY.index(j.level))
        state = status(run, found)
        if state is Status.STARTING or (waits and state is Status.TRAINING):
            state = Status.WAITING if exit_code(beside) == Severity.WARNING.value and codes != {LOG} else state
        return found, state


def opened(source: str, kubectl: Jobs, said: settings.Options, once: bool = False, named: bool = False) -> Input:
    """Return the run that a source names.

    Args:
        source: a log file, a folder of logs, ``-`` for standard input; else a release or a job.
        kubectl: where releases and jobs are looked for.
        said: what the command line says of the run.
        once: read what is there, do not wait for more.
        named: the source is a name in the cluster, also where a file is called so.

    Raises:
        NevaError: there is no such log or job.
    """
    if source == STANDARD_INPUT:
        chunks = sources.decoded(sources.pipe(sys.stdin.fileno(), once), "standard input")
        return Input(chunks, settings.chosen({}, said), ending="" if once else "end of the input")
    path = Path(source)
    if path.exists() and not named:
        return _of_path(path, source, said, once)
    if "/" in source or is_compressed(source) or path.suffix in (".log", ".txt", ".out"):
        raise NevaError(f"{source}: no such file or folder")
    return of_job(sources.JobLog(kubectl, source), said, once)


def _of_path(path: Path, source: str, said: settings.Options, once: bool) -> Input:
    if path.suffix in (".yaml", ".yml"):
        raise NevaError(f"{path}: is no log; name a run, and its values file with -f")
    packed = sources.only_compressed(path)
    if packed:
        raise NevaError(f"{path}: has compressed logs only; name one of them: {', '.join(packed[-3:])}")
    sheet, trouble = settings.of_record(path)
    if once and path.is_dir() and not (sheet or trouble or newest_log(path)):
        raise NevaError(f"{path}: has no log and no {settings.RECORD}; name a log, or the results folder of one run")
    chosen = settings.chosen(sheet, said)
    chunks = sources.decoded(sources.path(path, once or is_compressed(source)), source)
    return Input(chunks, chosen, sheet, grows=True, trouble=trouble)


def of_job(log: sources.JobLog, said: settings.Options, once: bool) -> Input:
    """Return the run of a job in the cluster."""
    sheet = settings.of_annotations(log.job.annotations)
    chosen = settings.chosen(sheet, said, log.job.name)
    return Input(log.chunks(once), chosen, sheet, job=lambda: log.job, findings=lambda: log.findings)
