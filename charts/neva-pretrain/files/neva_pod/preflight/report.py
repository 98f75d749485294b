"""Reports: for a person, for a program, and the table of the documentation."""

import contextlib
import json
import os
import stat
from collections import Counter
from collections.abc import Sequence

from neva_pod.findings import Outcome, note, show
from neva_pod.preflight.checks import CHECKS
from neva_pod.preflight.registry import Level
from neva_pod.preflight.run import CheckResult


def as_text(results: Sequence[CheckResult]) -> str:
    """Return the table for a person: a line for each finding, its fix below it."""
    width = max((len(r.name) for r in results), default=0)
    lines = []
    for result in results:
        shown = [f for f in result.findings if f.outcome is not Outcome.OK] or list(result.findings) or [note("")]
        for finding in shown:
            mark = (
                finding.outcome.value.upper()
                if finding.outcome in (Outcome.FAILED, Outcome.WARNING)
                else finding.outcome.value
            )
            lines.append(f"{mark:8} {result.name:{width}} {show(finding.message)}".rstrip())
            if finding.fix:
                lines.append(f"{'':8} {'':{width}} fix: {show(finding.fix)}")
    counts = Counter(r.outcome for r in results)
    lines.append("preflight: " + ", ".join(f"{counts[s]} {s.value}" for s in Outcome))
    return "\n".join(lines)


def as_json(level: Level, results: Sequence[CheckResult]) -> str:
    """Return the same for a program."""
    return json.dumps(
        {
            "ok": all(r.outcome is not Outcome.FAILED for r in results),
            "level": level.value,
            "node": os.environ.get("NODE_NAME") or os.uname().nodename,
            "uid": os.geteuid(),
            "checks": [
                {
                    "name": r.name,
                    "status": r.outcome.value,
                    "seconds": round(r.seconds, 3),
                    "findings": [{"status": f.outcome.value, "message": f.message, "fix": f.fix} for f in r.findings],
                }
                for r in results
            ],
        },
        indent=2,
    )


def table() -> str:
    """Return the registry as the Markdown table of the documentation."""
    lines = ["| check | where | costs | prevents |", "| --- | --- | --- | --- |"]
    where = {Level.QUICK: "every pod", Level.FULL: "master"}
    lines += [f"| `{c.name}` | {where[c.level]} | {c.cost} | {c.prevents} |" for c in CHECKS.values()]
    return "\n".join(lines)


def write_report(path: str, report: str) -> None:
    """Write a report atomically.

    Anything but a regular file (a pipe, /dev/stdout) is written to in place.
    """
    data = report.encode() + b"\n"
    try:
        old: os.stat_result | None = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None and (not stat.S_ISREG(old.st_mode) or os.path.samestat(old, os.fstat(1))):
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK), "wb") as file:
            os.set_blocking(file.fileno(), True)
            file.write(data)
        return
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        if old is not None:
            os.chmod(temporary, stat.S_IMODE(old.st_mode))
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
