"""How ``neva-monitor`` shows a run while it goes on: a live view, or lines for what is no terminal."""

import time
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.live import Live

from neva_pod.monitor.judge import Judgement, Severity, Status
from neva_pod.monitor.limits import Limits
from neva_pod.monitor.run import Run
from neva_pretrain.monitor import view
from neva_pretrain.monitor.inputs import Input
from neva_pretrain.output import say

TRAINING, FINISHED = "training", "finished"
"""What may be waited for."""

_PLAIN_EVERY = 30.0
_FRAME_EVERY = 0.5
_ASK_EVERY = 1.0
_WIDEST = 110

Judged = tuple[list[Judgement], Status]


TIME_UP = 124
"""Exit code of a wait that took too long, as timeout(1) has it."""
INTERRUPTED = 130
"""Exit code of a wait that the user ended: what was waited for is not there."""


class Wait:
    """Tells when to stop looking on.

    Attributes:
        code: the exit code if the wait was over before the run was; 0 if what was waited for is there.

    """

    def __init__(self, until: str | None, timeout: float | None, limits: Limits) -> None:
        self._until = until
        self._timeout = timeout
        self._end = time.monotonic() + timeout if timeout else float("inf")
        self._limits = limits
        self.code: int | None = None

    def is_over(self, run: Run, log: Input, judged: Callable[[], Judged]) -> bool:
        """Tell whether to stop before the log ends."""
        if self._until is None:
            return False
        found, state = judged()
        if self._until == TRAINING and state in (Status.TRAINING, Status.FINISHED):
            self.code = 0
        elif log.grows and any(j.level is Severity.FAILED for j in found):  # no job tells that it has ended
            return time.time() - (run.last_event_at or time.time()) > self._limits.stall_seconds
        elif time.monotonic() >= self._end:
            self.code = TIME_UP
            say(f"ERROR: --timeout: not {self._until} after {self._timeout:g} s", err=True)
        return self.code is not None

    def interrupt(self) -> None:
        """Say that the user will not wait any longer."""
        if self._until is not None:
            self.code = INTERRUPTED


def watch(run: Run, log: Input, limits: Limits, live: bool, wait: Wait) -> None:
    """Feed the run until its log ends, the wait is over, or the user presses Ctrl-C."""
    console = Console(stderr=True)
    judged = partial(log.judged, run, limits)
    if live and console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as screen:
            _feed(run, log, judged, partial(_draw, screen, console, run, judged), _FRAME_EVERY, wait)
    else:
        show = _Lines(run, judged).print if live else lambda: None
        _feed(run, log, judged, show, _PLAIN_EVERY, wait)


def _feed(
    run: Run, log: Input, judged: Callable[[], Judged], show: Callable[[], None], every: float, wait: Wait
) -> None:
    shown = asked = float("-inf")
    try:
        for more in log.follow(run):
            now = time.monotonic()
            if now - shown >= every:
                shown = now
                show()
            if not more or now - asked >= _ASK_EVERY:
                asked = now
                if wait.is_over(run, log, judged):
                    return
    except KeyboardInterrupt:
        wait.interrupt()


def _draw(screen: Live, console: Console, run: Run, judged: Callable[[], Judged]) -> None:
    screen.update(view.render(run, *judged(), min(console.width, _WIDEST)), refresh=True)


class _Lines:
    """The run for what is no terminal: a line now and then, a finding once when it appears or grows worse."""

    def __init__(self, run: Run, judged: Callable[[], Judged]) -> None:
        self._run = run
        self._judged = judged
        self._said: set[tuple[str, Severity]] = set()

    def print(self) -> None:
        judgements, state = self._judged()
        say(view.plain_line(self._run, state))
        for judgement in judgements:
            if (judgement.code, judgement.level) not in self._said:
                say("\n".join(view.judgement_lines(judgement)))
        self._said = {(j.code, j.level) for j in judgements}


def print_summary(run: Run, judgements: list[Judgement], state: Status) -> None:
    """Print where the run stands and what is wrong with it."""
    console = Console()
    if console.is_terminal:
        console.print(view.render(run, judgements, state, min(console.width, _WIDEST)))
        return
    say(view.plain_line(run, state))
    for judgement in judgements:
        say("\n".join(view.judgement_lines(judgement)))
