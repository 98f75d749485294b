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

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

MAX_LINE = 64 * 1024
"""Bytes that may wait for the end of their line; beyond that they are read as they are."""

MAX_RECORD = 4096
"""No record of a step is longer than this (bytes)."""

MAX_STEP = 10**9
"""No run has more steps; a larger number is damaged text."""

MAX_EVIDENCE = 300
"""Characters of a log line that are kept as evidence."""


class Kind(Enum):
    """What a line other than a step's says."""

    RANK = "a rank starts"
    REGISTERED = "all ranks of the job are there"
    FAILED_RANK = "torchrun names the rank that failed first"
    SAVED = "checkpoint saved"
    NOT_SAVED = "checkpoint not saved"
    RESTORED = "resumed from a checkpoint"
    FINISHED = "max_steps reached"
    TIME_LIMIT = "stopped by the time limit"
    NAN = "NaN check failed"
    GPU_OOM = "GPU out of memory"
    HOST_OOM = "process killed"
    NCCL_TIMEOUT = "NCCL timeout"
    NCCL_ERROR = "NCCL error"
    DUPLICATE_GPU = "two ranks on one GPU"
    MISSING_RANKS = "ranks did not join"
    RENDEZVOUS_RETRY = "still trying to reach the master"
    RENDEZVOUS = "master not reached"
    SHARED_MEMORY = "shared memory too small"
    DISK_FULL = "disk full"
    TERMINATED = "SIGTERM"
    CRASH = "training process failed"
    TRACEBACK = "Python traceback"


class Step(NamedTuple):
    """One record of a step, as logged.

    Attributes:
        epoch: epoch, 0-based.
        n: optimizer steps that this process completed in this epoch.
        total: the bar's total (24.0x and 2.x: trainer.max_steps), if it has one.
        global_step: 0-based number of the last optimizer step whose metrics are shown.
        step_error: how far rounding may have moved ``global_step`` (0 = exact).
        loss: reduced_train_loss (may be NaN or infinite).
        seconds: train_step_timing, or the bar's s/it where there is none (1.x).
        consumed_samples: samples seen by all steps.
        samples_error: how far rounding may have moved ``consumed_samples`` (0 = exact).
        elapsed: the bar's clock (s).
        global_batch_size: samples a step, which only 2.x prints.

    """

    epoch: int
    n: int
    total: int | None
    global_step: float
    step_error: float
    loss: float | None
    seconds: float | None
    consumed_samples: float | None
    samples_error: float
    elapsed: float | None
    global_batch_size: int | None


class Notice(NamedTuple):
    """A line that says something about the run's health.

    Attributes:
        kind: what it says.
        line: the line, cleaned and shortened, as evidence.
        rank: the global rank that it comes from or names, where the line tells.
        value: the number that it carries: world size (RANK, REGISTERED, MISSING_RANKS), step
            (SAVED, RESTORED).

    """

    kind: Kind
    line: str
    rank: int | None = None
    value: int | None = None


Event = Step | Notice

_BAR = re.compile(
    rb"Epoch (\d{1,9}): *(?:: *)?(?:\d{1,3}%\|[^|]{0,400}\|"
    rb" *)?(\d{1,12})(?:/(?:(\d{1,12})|\?))?(?:it)? "
    rb"\[(\d[\d:]{1,20})(?:<[\d:?]{1,20})?(?:, *([\d.]{1,20})(s/it|it/s))?, "
    rb"(?:[^\[\]|]{0,999}?, )??reduced_train_loss=([-+.\deEnaif]{1,40}), (?:[^\[\]|]{0,999}?,"
    rb" )??global_step=([.\de+]{1,40})"
    rb"(?:, consumed_samples=([.\de+]{1,40}))?(?:, train_step_timing in s=([.\de+-]{1,40}))?(?:,"
    rb" [^\[\]|]{0,999})?\]"
)
_PRINTER = re.compile(rb"Training epoch (\d{1,9}), iteration (\d{1,12})/(\d{1,12}) \| ([^\[\]\r\n]{1,2000})")
_NUMBER = re.compile(rb"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf)")
_ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")

_NEEDLES = (
    b"rror",
    b"xception",
    b"heckpoint",
    b"global step ",
    b"GLOBAL_RANK",
    b"processes registered",
    b"local_rank:",
    b"Trainer",
    b"found NaN",
    b"operation timeout",
    b"imed out",
    b"failed to connect",
    b"No space left",
    b"Traceback (most",
    b"SIG",
    b"Duplicate GPU",
)
"""Every rule's line holds one of these; finding them runs at GB/s, a regular expression of them
does not."""

_RULES: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (
            Kind.RANK,
            (
                r"[Ii]nitializing distributed: GLOBAL_RANK: (?P<rank>\d{1,6}), MEMBER:"
                r" \d{1,6}/(?P<value>\d{1,6})"
            ),
        ),
        (Kind.REGISTERED, r"processes registered\. Starting with (?P<value>\d{1,6}) processes"),
        (Kind.FAILED_RANK, r"^\W*rank\s*: (?P<rank>\d{1,6}) \(local_rank: \d+\)"),
        (Kind.SAVED, r"global step (?P<value>\d{1,9}): .{1,200}saving model to"),
        (
            Kind.NOT_SAVED,
            (
                r"global step (?P<value>\d{1,9}): .{1,200} was not in top|could not find the"
                r" monitored key"
            ),
        ),
        (Kind.SAVED, r"Global Checkpoint Save : Rank: \d+ : Iteration: (?P<value>\d{1,9})"),
        (Kind.SAVED, r"Successfully saved checkpoint from iteration\s+(?P<value>\d{1,9})"),
        (
            Kind.RESTORED,
            r"(?:Restoring states|Restored all states|[Rr]esuming(?: training)?) from (?:the"
            r" )?checkpoint\b"
            r"(?:.{0,300}?step=(?P<value>\d{1,9}))?",
        ),
        (Kind.FINISHED, r"Trainer\.fit` stopped: `max_(?:steps|epochs)=\d+` reached"),
        (
            Kind.TIME_LIMIT,
            (
                r"Time limit reached\..{0,200}Signaling Trainer to stop|Trainer\.fit` stopped:"
                r" `max_time"
            ),
        ),
        (Kind.NAN, r"found NaN in local grad norm"),
        (
            Kind.GPU_OOM,
            (
                r"OutOfMemoryError|CUDA out of memory|CUDA error: out of"
                r" memory|CUBLAS_STATUS_ALLOC_FAILED"
            ),
        ),
        (Kind.DUPLICATE_GPU, r"Duplicate GPU detected"),
        (
            Kind.NCCL_TIMEOUT,
            (
                r"Watchdog caught collective operation timeout|NCCL operations have failed or"
                r" timed out"
            ),
        ),
        (Kind.MISSING_RANKS, r"\d{1,6}/(?P<value>\d{1,6}) clients joined"),
        (
            Kind.SHARED_MEMORY,
            r"shared memory.{0,200}No space left on device|posix_fallocate.{0,200}No space left"
            r"|killed by signal: Bus error",
        ),
        (Kind.NCCL_ERROR, r"NCCL [Ee]rror|nccl(?:System|Internal|Remote|UnhandledCuda)Error"),
        (
            Kind.RENDEZVOUS,
            r"RendezvousConnectionError|RendezvousTimeoutError|DistStoreError|DistNetworkError"
            r"|gaierror|\[E.{0,100}\[c10d\]",
        ),
        (
            Kind.RENDEZVOUS_RETRY,
            r"\[W.{0,100}\[c10d\].{0,200}(?:failed to connect|not known|name resolution)",
        ),
        (Kind.DISK_FULL, r"No space left on device|Disk quota exceeded"),
        (Kind.HOST_OOM, r"\(SIGKILL\)|exitcode\s*: -9\b"),
        (Kind.TERMINATED, r"[Rr]eceived (?:Signals\.)?(?:SIGTERM|15\b)|got signal: 15\b"),
        (Kind.CRASH, r"ChildFailedError|Error executing job with overrides"),
        (Kind.TRACEBACK, r"Traceback \(most recent call last\)"),
        (Kind.TRACEBACK, r"^[\w.]{1,100}(?:Error|Exception)\b"),
    )
)

_RANK = re.compile(r"^\s*(\d{1,6}): |\[(?:rank|default)[: ]{0,2}(\d{1,6})\]|\b[Rr]ank:? (\d{1,6})\b")
_PREFIX = re.compile(r"^(?:\s*(?:\d{1,6}: |\[[^\]]{1,80}\]:? ?))+")


class LogParser:
    """Splits a log into records; holds at most one unfinished line."""

    def __init__(self) -> None:
        self._rest = b""
        self._bar = b""

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
                    events += _notices(other)
                    other = []
                _read_steps(line, events)
        if other:
            events += _notices(other)
        return events


def _is_whole_bar(text: bytes) -> bool:
    r"""Tell whether a redrawn bar is there in full: its ``\r`` only comes with the next one."""
    return b"global_step=" in text and text.rstrip().endswith(b"]") and text.rfind(b"[") < text.rfind(b"global_step=")


def _read_steps(line: bytes, events: list[Event]) -> None:
    """Append the steps of a line, and the notices that are glued around them, in order."""
    if b"\x1b" in line:
        line = _ANSI.sub(b"", line)
    printer = b", iteration " in line
    if printer:
        start = line.find(b"Training epoch ")
        if b"global_step" in line[: max(0, start)]:  # a bar that another process' line is glued to
            _read_steps(line[:start], events)
            line = line[start:]
    end = 0
    for match in (_PRINTER if printer else _BAR).finditer(line):
        if match.start() > end:
            events += _notices([line[end : match.start()]])
        end = match.end()
        if printer:
            step, end = _printer_step(match)
        else:
            step = _bar_step(match)
        if step is not None:
            events.append(step)
    if end < len(line):
        events += _notices([line[end:]])


def _bar_step(match: re.Match[bytes]) -> Step | None:
    epoch, n, total, elapsed, rate, unit, loss, logged, samples, timing = match.groups()
    try:
        if timing is not None:
            seconds = float(timing)
        elif rate is not None:
            seconds = float(rate) if unit == b"s/it" else 1 / float(rate)
        else:
            seconds = None
        step = Step(
            int(epoch),
            int(n),
            None if total is None else int(total),
            float(logged),
            _rounding(logged) if b"e" in logged else 0.0,
            float(loss),
            seconds,
            None if samples is None else float(samples),
            _rounding(samples) if samples is not None and b"e" in samples else 0.0,
            _clock(elapsed),
            None,
        )
    except (ValueError, ArithmeticError):
        return None
    return step if step.global_step < MAX_STEP and step.global_step.is_integer() else None


def _printer_step(match: re.Match[bytes]) -> tuple[Step | None, int]:
    """Return the step of a 2.x line, and where its last number ends: others' text may follow."""
    epoch, iteration, last, body = match.groups()
    *whole, tail = body.split(b" | ")
    fields = dict([f.split(b": ", 1) for f in whole if b": " in f])
    name, _, text = tail.partition(b": ")
    number = _NUMBER.match(text)
    end = match.end()
    if number:
        end -= len(text) - number.end()
    logged = fields.get(b"global_step", b"")
    if not logged.isdigit() or len(logged) > len(str(MAX_STEP)):
        return None, end
    if number:
        fields[name] = number.group()
    samples = fields.get(b"consumed_samples")
    batch = _number(fields.get(b"global_batch_size")) or 0.0
    step = Step(
        int(epoch),
        int(iteration) + 1,
        int(last) + 1,
        float(logged),
        0.0,
        _number(fields.get(b"reduced_train_loss")),
        _number(fields.get(b"train_step_timing in s")),
        _number(samples),
        0.0,
        None,
        int(batch) if 0 < batch < MAX_STEP else None,
    )
    return step, end


def _number(text: bytes | None) -> float | None:
    """Return the whole text as a number, else None."""
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


@lru_cache(maxsize=256)  # many steps share three digits
def _rounding(text: bytes) -> float:
    """Return half a unit of the third digit, which is what tqdm keeps of ``2.22e+6``: 5000."""
    return 0.5 * 10.0 ** (math.floor(math.log10(float(text))) - 2)


def _clock(text: bytes) -> float:
    """Return the seconds of ``MM:SS`` or ``H:MM:SS``; hours go past 24 and past 99."""
    seconds = 0
    for part in text.split(b":"):
        seconds = seconds * 60 + int(part)
    return float(seconds)


def _notices(lines: list[bytes]) -> Iterator[Notice]:
    text = b"\n".join(lines)
    if not any(needle in text for needle in _NEEDLES):
        return
    for line in lines:
        if any(needle in line for needle in _NEEDLES):
            notice = _notice(line)
            if notice is not None:
                yield notice


def _notice(raw: bytes) -> Notice | None:
    line = _ANSI.sub(b"", raw).decode("utf-8", "replace").rstrip()
    prefix = _PREFIX.match(line)
    body = line[prefix.end() :] if prefix else line
    for kind, pattern in _RULES:
        match = pattern.search(body if pattern.pattern.startswith("^") else line)
        if match is None:
            continue
        groups = match.groupdict()
        rank, value = groups.get("rank"), groups.get("value")
        if rank is None:
            named = _RANK.search(line)
            rank = next(filter(None, named.groups())) if named else None
        start = max(0, match.start() - MAX_EVIDENCE // 2) if len(line) > MAX_EVIDENCE else 0
        return Notice(
            kind,
            line[start : start + MAX_EVIDENCE].strip(),
            None if rank is None else int(rank),
            None if value is None else int(value),
        )
    return None
