"""How fast the last steps of an attempt were: by the times that they log, and by the bar's clock."""

import math
from collections import deque

from neva_pod.monitor.records import StepRecord

LAG = 10
"""Steps that shown metrics may be behind the bar (NeMo's log_every_n_steps, rarely above 10)."""

RECENT_STEPS = 256
"""Steps over which step times and pace are taken."""


class Pace:
    """Step times and the bar's clock, each with its step."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, float]] = deque(maxlen=RECENT_STEPS)
        self._clock: deque[tuple[int, float]] = deque(maxlen=RECENT_STEPS)
        self._first_steps = 1.0

    def clear(self) -> None:
        """Forget the last attempt."""
        self._seconds.clear()
        self._clock.clear()

    def begin(self, record: StepRecord) -> None:
        """Take the first record of an attempt, which tells by its clock, too, how many steps came before it."""
        by_clock = record.elapsed / record.seconds if record.elapsed is not None and record.seconds else math.inf
        self._first_steps = min(record.n, by_clock)

    def add(self, record: StepRecord, done: int) -> float | None:
        """Take the next record; return its step time if it has one that can be."""
        seconds = record.seconds if record.seconds is not None and 0 < record.seconds < math.inf else None
        if seconds is not None:
            self._seconds.append((done, seconds))
            while len(self._seconds) > LAG and self._seconds[0][0] <= done - RECENT_STEPS:
                self._seconds.popleft()
        if record.elapsed is not None:
            self._clock.append((done, record.elapsed))
        return seconds

    def elapsed_at(self, done: int) -> float | None:
        """Return the bar's clock at a step, as far as it is remembered."""
        return next((elapsed for step, elapsed in self._clock if done <= step <= done + LAG), None)

    def times(self) -> list[float]:
        """Return the step times, sorted; that of the clock where no line has one."""
        by_clock = self.by_clock()
        return sorted(seconds for _, seconds in self._seconds) or ([] if by_clock is None else [by_clock])

    def by_clock(self) -> float | None:
        """Return the seconds of a step by the bar's clock, once LAG lines tell it."""
        if len(self._clock) >= LAG:
            (first, begun), (last, until) = self._clock[0], self._clock[-1]
            if last > first and until > begun:
                return (until - begun) / (last - first)
        return None

    @property
    def lines(self) -> int:
        """Step times that :meth:`times` rests on."""
        return len(self._seconds) or len(self._clock)

    @property
    def steps(self) -> int:
        """Steps of this attempt from the first timed one to the last, however many of them were logged."""
        timed = self._seconds or self._clock
        return timed[-1][0] - timed[0][0] + 1 if timed else 0

    @property
    def steps_a_line(self) -> float:
        """Steps from one line of the log to the next: 1, or what the bar's refresh rate makes of it.

        The first line alone tells how many steps came before it; so does its clock, where the bar goes on after a
        resume.
        """
        return (self.steps - 1) / (self.lines - 1) if self.lines > 1 else max(1.0, self._first_steps)
