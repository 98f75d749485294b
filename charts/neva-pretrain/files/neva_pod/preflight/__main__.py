"""Proves, before a GPU is used, that the inputs and the node of a NeVa pretraining run are right.

Reads ``settings.json`` (the chart renders it) and runs every check of its registry; one that fails
never hides another.

    python3 -m neva_pod.preflight --settings F --level quick   # every pod: seconds, node and access
    python3 -m neva_pod.preflight --settings F --level full    # master: also the content of all inputs
    python3 -m neva_pod.preflight --settings F --level auto    # pod of an indexed Job: full in that of index 0

Exit codes: 0 nothing failed, 1 a check failed, 2 wrong usage or settings, 143 (130) stopped by a signal.
"""

import argparse
import faulthandler
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from neva_pod.findings import Outcome, UsageError
from neva_pod.preflight.registry import Context, Level
from neva_pod.preflight.report import as_json, as_text, table, write_report
from neva_pod.preflight.run import run_check, select
from neva_pod.settings import Settings, load_settings


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="neva_pod.preflight", description="Checks a NeVa run before a GPU is used.")
    made.add_argument("--settings", help="settings.json as the chart renders it")
    made.add_argument(
        "--level",
        choices=[*(x.value for x in Level), "auto"],
        default="full",
        help="quick: only checks for every pod; auto: quick unless JOB_COMPLETION_INDEX is 0",
    )
    made.add_argument("--only", type=_names, default=[], metavar="A,B", help="run only these checks, at any level")
    made.add_argument("--skip", type=_names, default=[], metavar="A,B", help="skip these checks")
    made.add_argument("-o", "--format", choices=["text", "json"], default="text")
    made.add_argument("--json-file", help="also write the JSON report here")
    made.add_argument("--list", action="store_true", help="list the checks and exit")
    return made


def level_of(name: str) -> Level:
    """Return the level of that name; Kubernetes tells the pods of one template apart by their index."""
    if name == "auto":
        return Level.FULL if os.environ.get("JOB_COMPLETION_INDEX", "0") == "0" else Level.QUICK
    return Level(name)


def stop_at_once(number: int, _frame: object) -> NoReturn:
    """End now, whatever the checks' threads wait for; PID 1 has no other handler."""
    os.write(2, f"preflight: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def time_limit(settings: Settings) -> float:
    """Return the time when all checks must have ended, and see to it that this process then does."""
    seconds = settings.integer("preflight.timeoutSeconds", 0)
    if not seconds:
        return math.inf
    # If something holds the interpreter itself, this ends the process with code 1 all the same.
    faulthandler.dump_traceback_later(seconds + 60, exit=True)
    return time.monotonic() + seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parser().parse_args(arguments)
    if options.list:
        print(table())
        return 0
    try:
        if not options.settings:
            raise UsageError("--settings: missing; must name the chart's settings.json")
        settings = load_settings(options.settings)
        level = level_of(options.level)
        checks = select(level, options.only, [*options.skip, *settings.texts("preflight.skip")])
        context = Context(settings, deadline=time_limit(settings))
        results = [run_check(c, context) for c in checks]
        report = as_json(level, results)
        if options.json_file:
            write_report(options.json_file, report)
    except (UsageError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    print(report if options.format == "json" else as_text(results))
    return 1 if any(r.outcome is Outcome.FAILED for r in results) else 0


if __name__ == "__main__":
    for sent in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sent, stop_at_once)
    sys.exit(main())
