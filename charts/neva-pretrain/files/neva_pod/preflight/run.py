"""Runs checks; an error in one, or a hang, is a finding."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from neva_pod.findings import Finding, NotPossibleError, Outcome, ProblemError, UsageError, brief, failed, skipped, some
from neva_pod.inputs.files import denied
from neva_pod.preflight.checks import CHECKS
from neva_pod.preflight.registry import Check, Context, Level


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    name: str
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of its findings."""
        found = {f.outcome for f in self.findings}
        order = (Outcome.FAILED, Outcome.WARNING, Outcome.SKIPPED)
        return next((s for s in order if s in found), Outcome.OK)


def run_check(wanted: Check, context: Context) -> CheckResult:
    """Run one check; an error in it, or a hang, is a finding.

    It runs in its own thread: a read from a stalled file system cannot be cancelled, only abandoned, and the main
    thread handles signals while it waits.

    Raises:
        UsageError: the settings are wrong.

    """
    started = time.monotonic()
    findings: list[Finding] = []
    raised: list[BaseException] = []
    lacking = [key for key in wanted.needs if context.settings.find(key) is None]
    if lacking:
        findings.append(skipped(f"{', '.join(lacking)} not given"))
    elif started >= context.deadline:
        findings.append(skipped("no time is left, see above"))
    else:
        thread = threading.Thread(target=_collect, args=(wanted, context, findings, raised), daemon=True)
        context.progress.moved = started
        thread.start()
        while thread.is_alive():
            now = time.monotonic()
            if now >= context.deadline:
                findings.append(
                    failed(
                        f"still running after {now - started:.0f} s, when the time limit for all checks expired",
                        "raise preflight.timeoutSeconds, and with it rendezvous.waitSeconds",
                    )
                )
                break
            quiet = now - context.progress.moved
            if quiet >= context.patience:
                findings.append(
                    failed(
                        f"no progress for {quiet:.0f} s: a file system or a driver hangs",
                        "check the node's mounts and dmesg, or keep the job away from it (scheduling.avoidNodes)",
                    )
                )
                break
            thread.join(min(1.0, context.deadline - now, context.progress.moved + context.patience - now))
    if raised:
        raise raised[0]
    context.progress.clear()
    return CheckResult(wanted.name, time.monotonic() - started, tuple(findings))


def _collect(wanted: Check, context: Context, findings: list[Finding], raised: list[BaseException]) -> None:
    """Run a check to its end; other errors are handed to the main thread."""
    try:
        for finding in wanted.run(context):
            findings.append(finding)
    except ProblemError as problem:
        findings.append(problem.finding)
    except NotPossibleError as reason:
        findings.append(skipped(str(reason)))
    except UsageError as error:
        raised.append(error)
    except OSError as error:
        findings.append(denied(str(error.filename or ""), error))
    except Exception as error:  # a fault of one check must not hide what the others find
        findings.append(
            failed(f"the check itself crashed: {type(error).__name__}: {brief(str(error))}", "please report it")
        )
    except BaseException as error:
        raised.append(error)


def select(level: Level, only: Iterable[str], skip: Iterable[str]) -> list[Check]:
    """Return the checks to run, in the order of the registry."""
    only, skip = list(only), list(skip)
    unknown = [name for name in (*only, *skip) if name not in CHECKS]
    if unknown:
        raise UsageError(f"check: got {some(unknown)}; must be one of {', '.join(CHECKS)}")
    chosen = [c for c in CHECKS.values() if c.name in only] if only else list(CHECKS.values())
    return [c for c in chosen if c.name not in skip and (only or level is Level.FULL or c.level is level)]
