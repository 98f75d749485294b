r"""A NeMo training log as a stream of bytes -> steps and notices.

Three generations write a step in three ways (shortened)::

    1.x    Epoch 0:   1%|  | 795/77225 [9:07:58<878:01:48, 41.36s/it, ..., global_step=794.0]
    24.0x  Epoch 0: :  45%|##| 58/128 [1:14:05<1:29:25, ..., global_step=56.00, ...]
    2.x    Training epoch 0, iteration 199/3999 | lr: 3e-05 | global_step: 199 | ...

Sources: NeMo ``CustomProgressBar`` (tag r2.0.0rc1) and ``MegatronProgressPrinter`` (2.x),
    Lightning's ``TQDMProgressBar`` and tqdm's ``format_num``, which keeps three digits wherever
    that is shorter (``2e+3``).

A bar is redrawn after ``\r``, so a "line" here ends with ``\r`` or ``\n``. A step counts only when
its field is
whole: closed by ``,``, ``]`` or `` | ``. Text that is cut off gives nothing rather than a wrong
    number.
"""

import math
import re
from functools import lru_cache
from itertools import pairwise

from neva_pod.monitor.notices import Notices
from neva_pod.monitor.patterns import ANSI, BAR, FIELD, LAST_NUMBER, NEXT, NUMBER, OTHER_FIELDS, PRINTER
from neva_pod.monitor.records import Event, StepRecord

MAX_LINE = 64 * 1024
"""Bytes that may wait for the end of their line; beyond that they are read as they are."""
MAX_RECORD = 4096
"""No record of a step is longer than this (bytes)."""
MAX_STEP = 10**9
"""No run has more steps; a larger number is damaged text."""
PRINTED_DIGITS = 4
"""2.x prints a fraction with so many digits; more are two numbers that are glued together."""


class LogParser:
    """Splits a log into records; holds at most one unfinished line."""

    def __init__(self) -> None:
        self._rest = b""
        self._bar = b""
        self._notices = Notices()

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes of the log, cut anywhere; return what they complete."""
        data = self._rest + data
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        waiting = data[cut:]
        if _is_whole_bar(waiting):
            cut = len(data)
        elif len(waiting) > MAX_LINE:
            start = data.rfind(b"Epoch ", len(data) - MAX_RECORD)
            cut = start if start > cut else len(data)
        self._rest = data[cut:]
        return self._read(data[:cut])

    def close(self) -> list[Event]:
        """Return what the last, unfinished line holds."""
        rest, self._rest = self._rest, b""
        return self._read(rest)

    def _read(self, text: bytes) -> list[Event]:
        events: list[Event] = []
        other: list[bytes] = []
        for line in text.splitlines():
            if b"global_step" not in line:
                other.append(line)
            elif line != self._bar:  # a bar that is redrawn as it was says nothing new
                self._bar = line
                if other:
                    events += self._notices.of(other)
                    other = []
                self._read_steps(line, events)
        if other:
            events += self._notices.of(other)
        return events

    def _read_steps(self, line: bytes, events: list[Event]) -> None:
        """Append the steps of a line, and the notices that are glued around them, in order."""
        if b"\x1b" in line:
            line = ANSI.sub(b"", line)
        starts = [*(match.start() for match in NEXT.finditer(line)), len(line)]
        other = line[: starts[0]]
        for start, stop in pairwise(starts):
            part = line[start:stop]
            read = _read_bar(part) or _read_printed(part, cut=line.startswith(b"Training", stop))
            if read is None:
                other += part
                continue
            step, rest = read
            if other:
                events += self._notices.of([other])
            if step is not None:
                events.append(step)
            other = rest
        if other:
            events += self._notices.of([other])


def _is_whole_bar(text: bytes) -> bool:
    r"""Tell whether a redrawn bar is there in full: its ``\r`` only comes with the next one."""
    return b"global_step=" in text and text.rstrip().endswith(b"]") and text.rfind(b"[") < text.rfind(b"global_step=")


def _read_bar(text: bytes) -> tuple[StepRecord | None, bytes] | None:
    """Return the step of the bar that the text begins with, and what else it says; None if there is no bar.

    The bar may lack its end: what the next one, or another process, wrote over it is not known.
    """
    bar = BAR.match(text)
    if bar is None:
        return None
    fields: dict[bytes, bytes] = {}
    other = b""
    end = bar.end()
    for field in FIELD.finditer(text, end):
        fields.setdefault(field[1], field[2])
        other += text[end : field.start()]
        end = field.end()
    closing = OTHER_FIELDS.match(text, end)
    other += text[closing.end() if closing else end :]
    return _bar_step(bar, fields), other


def _bar_step(bar: re.Match[bytes], fields: dict[bytes, bytes]) -> StepRecord | None:
    epoch, n, total, elapsed, rate, unit = bar.groups()
    logged = fields.get(b"global_step", b"")
    global_step = _bar_number(logged)
    if global_step is None or not 0 <= global_step < MAX_STEP or not global_step.is_integer():
        return None
    seconds = _bar_number(fields.get(b"train_step_timing in s"))
    if seconds is None and rate is not None:
        per_step = _bar_number(rate)
        seconds = per_step if unit == b"s/it" or not per_step else 1 / per_step
    samples = fields.get(b"consumed_samples")
    return StepRecord(
        int(epoch),
        int(n),
        None if total is None else int(total),
        global_step,
        _rounding(logged),
        _bar_number(fields.get(b"reduced_train_loss")),
        seconds,
        _bar_number(samples),
        0.0 if samples is None else _rounding(samples),
        _clock(elapsed),
        None,
    )


def _read_printed(text: bytes, cut: bool) -> tuple[StepRecord | None, bytes] | None:
    """Return the step of the 2.x line that the text begins with, and what follows its last number.

    ``cut``: another line of the kind is glued to it, so the last number may be half of one.
    """
    match = PRINTER.match(text)
    if match is None:
        return None
    epoch, iteration, last, body = match.groups()
    *whole, tail = body.split(b" | ")
    fields = dict([f.split(b": ", 1) for f in whole if b": " in f])
    name, _, value = tail.partition(b": ")
    number = NUMBER.match(value)
    rest = text[match.end() - (len(value) - number.end() if number else 0) :]
    logged = fields.get(b"global_step", b"")
    if not logged.isdigit() or len(logged) > len(str(MAX_STEP)):
        return None, rest
    closed = LAST_NUMBER.match(value)
    if closed and not cut and _printed_digits(closed.group()) <= PRINTED_DIGITS:
        fields[name] = closed.group()
    batch = _number(fields.get(b"global_batch_size")) or 0.0
    step = StepRecord(
        int(epoch),
        int(iteration) + 1,
        int(last) + 1,
        float(logged),
        0.0,
        _number(fields.get(b"reduced_train_loss")),
        _number(fields.get(b"train_step_timing in s")),
        _number(fields.get(b"consumed_samples")),
        0.0,
        None,
        int(batch) if 0 < batch < MAX_STEP else None,
    )
    return step, rest


def _printed_digits(number: bytes) -> int:
    """Return the significant digits of a fraction; a whole number is printed as it is."""
    mantissa = number.lower().partition(b"e")[0]
    return len(re.sub(rb"\D", b"", mantissa).lstrip(b"0")) if b"." in mantissa else 0


def _number(text: bytes | None) -> float | None:
    """Return the whole text as a number, else None."""
    return float(text) if text is not None and NUMBER.fullmatch(text) else None


def _bar_number(text: bytes | None) -> float | None:
    """Return a number of a bar, which may be padded (``nan.0``), else None."""
    try:
        return None if text is None else float(text.rstrip(b".0") if b"n" in text else text)
    except ValueError:
        return None


@lru_cache(maxsize=256)  # many steps share three digits
def _rounding(text: bytes) -> float:
    """Return half a unit of the third digit, which is what tqdm keeps of ``2.22e+6``: 5000; 0 where it is exact."""
    if b"e" not in text:
        return 0.0
    size = abs(float(text))
    return 0.5 * 10.0 ** (math.floor(math.log10(size)) - 2) if 0 < size < math.inf else 0.0


def _clock(text: bytes) -> float:
    """Return the seconds of ``MM:SS`` or ``H:MM:SS``; hours go past 24 and past 99."""
    seconds = 0
    for part in text.split(b":"):
        seconds = seconds * 60 + int(part)
    return float(seconds)
