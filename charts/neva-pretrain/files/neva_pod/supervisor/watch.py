"""Whether training moves: the step in the log of rank 0, against the time that it may take."""

import math
import re
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from neva_pod.monitor.records import Event, StepRecord

SLOWER = 5
"""A step may take so many times the median before it counts as a hang."""
REMEMBERED = 64
"""Steps that the median is taken over."""
NOT_FINITE_STEPS = 10
"""Steps in a row with a loss that is NaN or infinite, after which training will not recover."""
VALIDATION = re.compile(rb"Validation(?: DataLoader \d{1,3}: |: | iteration )")
"""What the bar of a validation begins with: Lightning's, and the lines of NeMo 2.x."""


@dataclass(frozen=True)
class Limits:
    """What a step may take, in seconds; see values.yaml, section restart."""

    start: float
    stall: float
    save: float


class StepWatch:
    """Judges one attempt.

    Each new step sets the clock back. Until the first, the limit is ``limits.start``, since every DataLoader worker
    imports NeMo before it, and any output sets the clock back: a log may show steps in a way that is not known here.
    Validation is the same, since it has DataLoader workers of its own. A step that a checkpoint follows may take
    ``limits.save``, and so may the end of the run.
    """

    def __init__(self, limits: Limits, save_every: int, max_steps: int, now: float, patience: int = 1) -> None:
        """Begin an attempt.

        Args:
            limits: in seconds.
            save_every: steps between checkpoints, 0 for none.
            max_steps: steps of the whole run.
            now: the clock's time, monotonic seconds.
            patience: factor on the limit of a step, above 1 once it has counted as a hang at the same step.

        """
        self._limits, self._save_every, self._max_steps, self._patience = limits, save_every, max_steps, patience
        self._began = self._moved = now
        self._position = (-1, -1)
        self._validates = self._rounded = False
        self._waits: deque[float] = deque(maxlen=REMEMBERED)
        self._not_finite = 0
        self.step: int | None = None
        """Optimizer steps that are done, as far as the log says; None before the first."""

    def hear(self, output: bytes, now: float) -> None:
        """Take that there is output, and whether it is of a validation."""
        validates = VALIDATION.search(output) is not None
        self._validates = self._validates or validates
        if self.step is None or validates:
            self._moved = now

    def read(self, events: Iterable[Event], now: float) -> None:
        """Take what the log says."""
        for event in events:
            if not isinstance(event, StepRecord):
                continue
            done, position = int(event.global_step) + 1, (event.epoch, event.n)
            # From 100,000 on the bar rounds the step, so that many look the same; its position is whole.
            new = self.step is None or done > self.step or (event.step_error > 0 and position > self._position)
            if not new:
                continue
            if self.step is None:
                # All that is known of the pace so far; the second step may take minutes where GPUs are few.
                self._waits.extend([event.seconds] if event.seconds and math.isfinite(event.seconds) else [])
            elif not self._validates:
                self._waits.append(now - self._moved)
            self.step, self._moved, self._position = max(done, self.step or 0), now, position
            self._validates, self._rounded = False, event.step_error > 0
            if event.loss is not None:
                self._not_finite = 0 if math.isfinite(event.loss) else self._not_finite + 1

    @property
    def limit(self) -> float:
        """Seconds that may pass from the last new step to the next one."""
        if self.step is None:
            return self._limits.start
        usual = max(self._limits.stall, SLOWER * statistics.median(self._waits) if self._waits else 0.0)
        usual *= self._patience
        if self._validates:
            usual = max(usual, self._limits.start)
        # The bar may be one step behind what is being saved.
        saves = self._save_every and (self._rounded or self.step % self._save_every in (0, self._save_every - 1))
        return max(usual, self._limits.save) if saves or self.step >= self._max_steps - 1 else usual

    def trouble(self, now: float) -> str | None:
        """Say what is wrong with the pace, None while nothing is."""
        waited = now - self._moved
        if waited <= self.limit:
            return None
        if self.step is None:
            return f"no step and no output for {waited:.0f} s (restart.startSeconds {self._limits.start:.0f})"
        return f"no new step for {waited:.0f} s after step {self.step} (limit {self.limit:.0f} s)"

    def blind(self, now: float) -> bool:
        """Whether training should move by now, but the log shows no step."""
        return self.step is None and now - self._began > self._limits.start

    @property
    def lost(self) -> bool:
        """Whether the loss has not been a number for too long for training to recover."""
        return self._not_finite >= NOT_FINITE_STEPS
