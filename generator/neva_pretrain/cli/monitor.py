"""``neva-monitor``: watch a training run by its log."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from neva_pod.monitor.judge import Judgement, Severity, Status, exit_code, judge, status
from neva_pod.monitor.limits import Limits
from neva_pod.monitor.parser import LogParser
from neva_pod.monitor.records import RunSettings
from neva_pod.monitor.run import Run
from neva_pretrain.cli import options
from neva_pretrain.cli.options import FILE, Number
from neva_pretrain.errors import NevaError
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.monitor import page, report, settings, sources, view
from neva_pretrain.monitor.decode import is_compressed
from neva_pretrain.monitor.findings import NOT_STARTED
from neva_pretrain.monitor.kubectl import Kubectl
from neva_pretrain.monitor.sources import Chunk
from neva_pretrain.output import Boundary, say, write

_EPILOG = f"""
\b
Examples:
  neva-monitor neva -n training             follow the job of the release "neva"
  neva-monitor results/run-1 --once         newest log of a results folder, once
  kubectl logs -f neva-master-0 | neva-monitor -
  neva-monitor train.log --once -o json | jq .step
  neva-monitor train.log --once -f values.yaml --html report.html --plot loss.png

\b
Exit codes:
  0  training or finished      2  wrong usage, no such log or job
  1  failed, or cannot start   3  a warning, or waiting with a reason

{options.completion("neva-monitor")}"""

_SEVERITY = (Severity.FAILED, Severity.WARNING, Severity.OK)
_PLAIN_EVERY = 30.0
_FRAME_EVERY = 0.5
_WIDEST = 110


@dataclass(frozen=True)
class _Input:
    """A log to read.

    Attributes:
        chunks: its bytes, as they come.
        settings: what the run is meant to do.
        ending: why it ended, empty if the run may go on, and whether the job failed.
        grows: it has no end of its own: stop when the trainer reports that it is done.
        findings: what is known of the run beside its log.

    """

    chunks: Iterator[Chunk]
    settings: RunSettings
    ending: Callable[[], tuple[str, bool]]
    grows: bool = False
    findings: Callable[[], list[Judgement]] = list

    def judged(self, run: Run, limits: Limits) -> tuple[list[Judgement], Status]:
        """Return all that can be said of the run now, worst first, and where it stands."""
        beside = [] if run.is_finished else self.findings()
        codes = {j.code for j in beside}
        waits = not codes.isdisjoint(NOT_STARTED)  # what does not run does not stall
        of_log = [
            j for j in judge(run, time.time(), limits) if j.code not in codes and not (waits and j.code == "stalled")
        ]
        found = sorted([*beside, *of_log], key=lambda j: _SEVERITY.index(j.level))
        state = status(run, found)
        if state is Status.STARTING or (waits and state is Status.TRAINING):
            state = Status.WAITING if exit_code(beside) == Severity.WARNING.value else state
        return found, state


class _Monitor(Boundary):
    refused = 2


@click.command("neva-monitor", cls=_Monitor, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", required=False)
@click.option("-n", "--namespace", metavar="NS", help="Namespace of the job.")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
@options.values()
@options.gpus(show_default="of the run")
@options.gpu(show_default="the planned one")
@options.model(show_default="of the run")
@options.global_batch(show_default="of the run")
@options.max_steps(show_default="of the run")
@click.option("--step-time", type=Number(0, min_open=True), metavar="S", help="Planned step time.")
@click.option("--once", is_flag=True, help="Report on the log as it is, then exit.")
@options.output()
@options.plot()
@click.option("--html", type=FILE, metavar="FILE", help="Write a report page.")
@click.option(
    "--stall-after",
    type=Number(0, min_open=True),
    default=Limits.stall_seconds,
    show_default=True,
    metavar="S",
    help="Minimum time without a step that counts as a stall.",
)
@click.option(
    "--nan-steps",
    type=click.IntRange(1),
    default=Limits.nan_in_a_row,
    show_default=True,
    metavar="N",
    help="NaN losses in a row that count as a failure.",
)
@click.option(
    "--slow-below",
    type=Number(0, 1),
    default=Limits.slow_share,
    show_default=True,
    metavar="SHARE",
    help="Share of the planned speed below which a run is slow.",
)
@click.version_option(package_name="neva-pretrain", prog_name="neva-monitor")
def command(
    source: str | None,
    namespace: str | None,
    context: str | None,
    values: Path | None,
    gpus: int | None,
    gpu: str | None,
    model: str | None,
    global_batch: int | None,
    max_steps: int | None,
    step_time: float | None,
    once: bool,
    output: str,
    plot: Path | None,
    html: Path | None,
    stall_after: float,
    nan_steps: int,
    slow_below: float,
) -> int:
    """Watch a NeVa pretraining run: progress, loss, speed against the plan, and what is wrong.

    SOURCE is a Helm release or job name, a log file, a folder of logs, or - for standard input.
    A name that is also a file is read as the file; with -n it is a name in the cluster. Of a cluster it asks what
    kubectl may see; nothing is sent anywhere else.
    """
    limits = Limits(stall_seconds=stall_after, nan_in_a_row=nan_steps, slow_share=slow_below)
    said = settings.Options(values, model, max_steps, global_batch, gpus, step_time, GPUS[gpu] if gpu else None)
    log = _open(source, namespace, context, once, said)
    run = Run(log.settings)
    ended = _watch(run, log, limits, live=not once and output == "text")
    if ended:
        run.end(*log.ending())
    judgements, state = log.judged(run, limits)
    if output == "json":
        say(json.dumps(report.as_dict(run, judgements, state), indent=2))
    else:
        _print_summary(run, judgements, state)
    if plot:
        report.save_plot(run, plot)
    if html:
        written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        write(html, page.html(run, judgements, state, written), "--html")
    return exit_code(judgements)


def _open(source: str | None, namespace: str | None, context: str | None, once: bool, said: settings.Options) -> _Input:
    if source is None and not sys.stdin.isatty():
        source = "-"
    if source is None:
        raise click.UsageError("give a release name, a log file, a folder of logs, or - for standard input")
    if source == "-":
        chosen = settings.chosen({}, said)
        chunks = sources.decoded(sources.pipe(sys.stdin.fileno(), once), "standard input")
        return _Input(chunks, chosen, lambda: ("" if once else "end of the input", False))
    path = Path(source)
    if path.exists() and namespace is None:
        packed = sources.only_compressed(path)
        if packed:
            raise NevaError(f"{path}: has compressed logs only; name one of them: {', '.join(packed[-3:])}")
        recorded, trouble = settings.of_record(path)
        if trouble:
            say(f"warning: {trouble}", err=True)
        chosen = settings.chosen(recorded, said)
        chunks = sources.decoded(sources.path(path, once or is_compressed(source)), source)
        return _Input(chunks, chosen, lambda: ("", False), grows=True)
    if "/" in source or is_compressed(source) or path.suffix in (".log", ".txt", ".out"):
        raise NevaError(f"{source}: no such file or folder")
    log = sources.JobLog(Kubectl(namespace, context), source)
    chosen = settings.chosen(settings.of_annotations(log.job.annotations), said, log.job.name)
    return _Input(log.chunks(once), chosen, lambda: (log.job.outcome, log.job.failed), findings=lambda: log.findings)


def _watch(run: Run, log: _Input, limits: Limits, live: bool) -> bool:
    """Feed the run until its log ends; return whether that was the end, not the user's Ctrl-C."""
    console = Console(stderr=True)
    if live and console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as screen:
            draw = partial(_draw, screen, console, run, log, limits)
            return _feed(run, log, draw, _FRAME_EVERY)
    if live:
        return _feed(run, log, _Lines(run, log, limits).print, _PLAIN_EVERY)
    return _feed(run, log, lambda: None, _PLAIN_EVERY)


def _feed(run: Run, log: _Input, show: Callable[[], None], every: float) -> bool:
    parser = LogParser()
    shown = float("-inf")
    try:
        for chunk in log.chunks:
            if chunk.new_process:
                run.new_process()
            if not chunk.waiting:
                run.update(parser.feed(chunk.data), chunk.when)
            if log.grows and run.finished and not chunk.data:
                break
            if time.monotonic() - shown >= every:
                shown = time.monotonic()
                show()
    except KeyboardInterrupt:
        return False
    rest = parser.close()
    if rest:
        run.update(rest, run.last_event_at or time.time())
    return True


def _draw(screen: Live, console: Console, run: Run, log: _Input, limits: Limits) -> None:
    judgements, state = log.judged(run, limits)
    screen.update(view.render(run, judgements, state, min(console.width, _WIDEST)), refresh=True)


class _Lines:
    """The run for what is no terminal: a line now and then, a finding once when it appears."""

    def __init__(self, run: Run, log: _Input, limits: Limits) -> None:
        self._run = run
        self._log = log
        self._limits = limits
        self._said: set[str] = set()

    def print(self) -> None:
        judgements, state = self._log.judged(self._run, self._limits)
        say(view.plain_line(self._run, state))
        for judgement in judgements:
            if judgement.code not in self._said:
                say("\n".join(view.judgement_lines(judgement)))
        self._said = {j.code for j in judgements}


def _print_summary(run: Run, judgements: list[Judgement], state: Status) -> None:
    console = Console()
    if console.is_terminal:
        console.print(view.render(run, judgements, state, min(console.width, _WIDEST)))
        return
    say(view.plain_line(run, state))
    for judgement in judgements:
        say("\n".join(view.judgement_lines(judgement)))


def main() -> None:
    """Run the command; refusals end with exit code 2, since 1 is a finding's."""
    command()
