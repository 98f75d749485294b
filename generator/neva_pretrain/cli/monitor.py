"""``neva-monitor``: list training runs, watch one, compare several."""

import json
import os
import re
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem
from rich.console import Console

from neva_pod.monitor.judge import exit_code
from neva_pod.monitor.limits import Limits
from neva_pod.monitor.run import Run
from neva_pretrain.cli import options
from neva_pretrain.cli.options import FILE, Number, exclude
from neva_pretrain.cli.watching import FINISHED, TRAINING, Wait, print_summary, watch
from neva_pretrain.errors import NevaError
from neva_pretrain.kubectl import TIMEOUT
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.monitor import compare, compare_page, inputs, listing, page, plot, report, settings
from neva_pretrain.monitor.inputs import Input
from neva_pretrain.monitor.jobs import LISTS, Jobs
from neva_pretrain.output import say, write

_EPILOG = f"""
\b
Examples:
  neva-monitor -n training            # list the runs of a namespace
  neva-monitor neva -n training       # follow the job of the release "neva"
  neva-monitor neva -n training --wait --timeout 7200
  neva-monitor lr-1 lr-2 -n training --html compared.html
  neva-monitor results/run-1 --once   # newest log of a results folder, once
  neva-monitor - < train.log
  neva-monitor train.log --once -o json | jq .step
  neva-monitor train.log --once -f values.yaml --html run.html --plot run.png

\b
Exit codes:
  0    training or finished; a list, a comparison
  1    failed, or cannot start
  2    wrong usage, no such log or job
  3    a warning, or waiting with a reason
  124  --timeout has passed
  130  Ctrl-C during --wait or --until

{options.completion("neva-monitor")}"""

_OF_A_RUN = ("values", "gpus", "gpu", "model", "global_batch", "max_steps", "step_time", "plot", "html")
_OF_ONE_RUN = ("wait", "until", "timeout")


def _sources(context: click.Context, _argument: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete a file, and where a namespace is named, a run in it."""
    found = [CompletionItem(typed, type="file")]
    if context.params.get("namespace"):
        kubectl = Jobs(context.params["namespace"], context.params.get("context"), timeout=_COMPLETION_SECONDS)
        with suppress(NevaError):
            found += [CompletionItem(name) for name in sorted({job.release or job.name for job in kubectl.jobs()})]
    return [item for item in found if item.type == "file" or item.value.startswith(typed)]


_COMPLETION_SECONDS = 3.0


class _Monitor(options.Command):
    refused = 2


@click.command("neva-monitor", cls=_Monitor, epilog=_EPILOG, context_settings=options.SETTINGS)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", shell_complete=_sources)
@options.namespace()
@click.option("-A", "--all-namespaces", is_flag=True, help="List the runs of all namespaces.")
@options.context()
@options.values()
@options.gpus(show_default="of the run")
@options.gpu(show_default="the planned one")
@options.model(show_default="of the run")
@options.global_batch(show_default="of the run")
@options.max_steps(show_default="of the run")
@click.option("--step-time", type=Number(0, min_open=True), metavar="S", help="Planned step time.")
@click.option("--once", is_flag=True, help="Report on the log as it is, then exit.")
@click.option("--wait", is_flag=True, help="Wait until the run has ended, as --until finished.")
@click.option("--until", type=click.Choice([TRAINING, FINISHED]), help="Wait until the run trains, or has ended.")
@click.option("--timeout", type=Number(0, min_open=True), metavar="S", help="Wait no longer than this.")
@options.form()
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
@click.option("--show-commands", is_flag=True, help="Show each command of kubectl that is run, on stderr.")
@click.version_option(package_name="neva-pretrain", prog_name="neva-monitor")
def command(
    sources: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    context: str | None,
    values: Path | None,
    gpus: int | None,
    gpu: str | None,
    model: str | None,
    global_batch: int | None,
    max_steps: int | None,
    step_time: float | None,
    once: bool,
    wait: bool,
    until: str | None,
    timeout: float | None,
    form: str,
    plot: Path | None,
    html: Path | None,
    stall_after: float,
    nan_steps: int,
    slow_below: float,
    show_commands: bool,
) -> int:
    """List NeVa pretraining runs, watch one, or compare several: progress, loss, speed against the plan, what is wrong.

    SOURCE is a Helm release or job name, a log file, a folder of logs, or - for standard input. Without one, the runs
    of the namespace are listed; two or more are compared. A name that is also a file is read as the file; with -n it
    is a name in the cluster. Of a cluster it asks what kubectl may see; nothing is sent anywhere else.
    """
    limits = Limits(stall_seconds=stall_after, nan_in_a_row=nan_steps, slow_share=slow_below)
    said = settings.Options(values, model, max_steps, global_batch, gpus, step_time, GPUS[gpu] if gpu else None)
    if not sources and not namespace and not all_namespaces and _is_piped():
        sources = (inputs.STANDARD_INPUT,)
    longest = min(TIMEOUT, timeout or TIMEOUT)  # a call that hangs does not outlast the wait
    kubectl = Jobs(namespace, context, _Shown(listing=not sources, each=show_commands), longest)
    if not sources:
        _refuse("needs a SOURCE", *_OF_A_RUN, *_OF_ONE_RUN)
        exclude(namespace=namespace, all_namespaces=all_namespaces)
        return _list(kubectl, all_namespaces, limits, form)
    _refuse("is for the list; with a SOURCE, name its namespace with -n", "all_namespaces")
    files = _Files(form, plot, html)
    if len(sources) == 1:
        exclude(once=once, wait=wait, until=until)
        if timeout and not (wait or until):
            raise click.UsageError("--timeout needs --wait or --until.")
        log = inputs.opened(sources[0], kubectl, said, once, named=bool(namespace))
        return _watch(log, limits, once, Wait(until or (FINISHED if wait else None), timeout, limits), files)
    _refuse("takes one SOURCE", *_OF_ONE_RUN)
    logs = [inputs.opened(source, kubectl, said, once=True, named=bool(namespace)) for source in _different(sources)]
    return _compare(sources, logs, limits, files)


class _Files(NamedTuple):
    """What is asked for beside text: ``json`` in place of it, a picture, a page."""

    form: str
    plot: Path | None
    html: Path | None


def _list(kubectl: Jobs, everywhere: bool, limits: Limits, form: str) -> int:
    found = listing.runs(kubectl, everywhere, limits)
    if form == "json":
        say(json.dumps(listing.as_dict(found), indent=2))
    elif found:
        say(listing.as_text(found, everywhere, _width()))
    elif not kubectl.has_kinds:
        say("no runs here: the cluster has neither PyTorchJobs nor TrainJobs; --context names another", err=True)
    else:
        say("no runs here" + ("" if everywhere else "; -n names another namespace, -A looks in all"), err=True)
    for words in kubectl.refused:
        say(f"warning: {words}", err=True)
    return 0


def _watch(log: Input, limits: Limits, once: bool, wait: Wait, files: _Files) -> int:
    if log.trouble:
        say(f"warning: {log.trouble}", err=True)
    run = Run(log.settings)
    watch(run, log, limits, live=not once and files.form == "text", wait=wait)
    judgements, state = log.judged(run, limits)
    code = exit_code(judgements) if wait.code is None else wait.code
    if files.form == "json":
        say(json.dumps({**report.as_dict(run, judgements, state), "exitCode": code}, indent=2))
    else:
        print_summary(run, judgements, state)
    if files.plot:
        plot.save_plot(run, files.plot)
    if files.html:
        write(files.html, page.html(run, judgements, state, _now()), "--html")
    return code


def _compare(sources: Sequence[str], logs: Sequence[Input], limits: Limits, files: _Files) -> int:
    runs = []
    for name, source, log in zip(compare.names(sources), sources, logs, strict=True):
        if log.trouble:
            say(f"warning: {log.trouble}", err=True)
        run = log.read()
        runs.append(compare.Compared(name, source, log.sheet, run, *log.judged(run, limits)))
    found = compare.Comparison(runs)
    if files.form == "json":
        say(json.dumps(compare.as_dict(found), indent=2))
    else:
        say(compare.as_text(found, _width()))
    if files.plot:
        plot.save_comparison(found, files.plot)
    if files.html:
        write(files.html, compare_page.html(found, _now()), "--html")
    return 0


class _Shown:
    """Shows calls of kubectl on stderr: those that list runs, or each of them, once, however often it is made."""

    def __init__(self, listing: bool, each: bool) -> None:
        self._listing = listing
        self._each = each
        self._seen: set[str] = set()

    def __call__(self, call: str) -> None:
        """Show a call."""
        call = re.sub(r" --since-time=\S+", "", call)
        if call not in self._seen and (self._each or (self._listing and LISTS in call)):
            self._seen.add(call)
            say(f"+ {call}", err=True)


def _is_piped() -> bool:
    """Tell whether there is something to read: a pipe, a socket or a file, not a terminal or /dev/null."""
    try:
        return not stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):  # none, or closed
        return False


def _refuse(why: str, *names: str) -> None:
    """Refuse options that were given and have no meaning here."""
    for parameter in options.given(click.get_current_context()):
        if parameter.name in names:
            raise click.UsageError(f"{parameter.opts[-1]} {why}.")


def _different(sources: Sequence[str]) -> Sequence[str]:
    meant = [os.path.realpath(source) for source in sources]
    for at, source in enumerate(sources):
        if meant[at] in meant[:at]:
            raise click.UsageError(f"{source} is named twice.")
    return sources


def _width() -> int | None:
    """Return the columns of the terminal, None where stdout is none."""
    console = Console()
    return console.width if console.is_terminal else None


def _now() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def main() -> None:
    """Run the command; refusals end with exit code 2, since 1 is a finding's."""
    command()
