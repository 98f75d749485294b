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
from itertools import pairwise
from typing import NamedTuple

MAX_LINE = 64 * 1024
"""Bytes that may wait for the end of their line; beyond that they are read as they are."""

MAX_RECORD = 4096
"""No record of a step is longer than this (bytes)."""

MAX_STEP = 10**9
"""No run has more steps; a larger number is damaged text."""

PRINTED_DIGITS = 4
"""2.x prints a fraction with so many digits; more are two numbers that are glued together."""

MAX_EVIDENCE = 300
"""Characters of a log line that are kept as evidence."""

MAX_TRACEBACKS = 4096
"""Tracebacks, one a rank, that may be open at a time."""

MAX_TRACEBACK_LINES = 2000
"""Lines after which an exception that does not come is no longer waited for."""

HYDRA = "Error executing job with overrides"
"""What Hydra says before the exception that ended the training."""

WRAPPER = "in DataLoader worker process"
"""What an exception says that stands for another one, whose traceback follows."""

HEADER = "Traceback (most recent call last)"
"""What a traceback begins with; the exception is its first line that is not indented."""


class Kind(Enum):
    """What a line other than a step's says."""

    RANK = "a rank starts"
    REGISTERED = "all ranks of the job are there"
    FAILED_RANK = "torchrun names the rank that failed first"
    SAVED = "checkpoint saved"
    NOT_SAVED = "checkpoint not saved"
    RESTORED = "resumed from a checkpoint"
    FINISHED = "max_steps reached"
    FINISHED_BEFORE = "an earlier run reached max_steps"
    TIME_LIMIT = "stopped by the time limit"
    NAN = "NaN check failed"
    GPU_FAULT = "GPU, link or driver broken"
    DEVICE_ASSERT = "an index out of range on the GPU"
    CUDA_ERROR = "CUDA error"
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
    SIGNAL = "process died of a signal"
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
        raised: it is the exception that a traceback of its rank ends with.

    """

    kind: Kind
    line: str
    rank: int | None = None
    value: int | None = None
    raised: bool = False


Event = Step | Notice

_BAR = re.compile(
    rb"Epoch (\d{1,9}): *(?:: *)?(?:\d{1,3}%\|[^|]{0,400}\| *)?(\d{1,12})(?:/(?:(\d{1,12})|\?))?(?:it)? "
    rb"\[-?(\d{1,9}(?::\d\d){1,2})(?:<[\d:?-]{1,20})?(?:, *([\d.]{1,20})(s/it|it/s))?"
)
"""Where a bar begins, up to its metrics."""

_FIELD = re.compile(
    rb", ?(reduced_train_loss|global_step|consumed_samples|train_step_timing in s)="
    rb"([-+]?(?:\d{1,40}(?:\.\d{0,40})?(?:e[-+]?\d{1,3})?|(?:nan|inf)(?:\.0{0,2})?))(?=[,\]])"
)
"""A metric that is whole, as tqdm writes it and Lightning pads it: ``nan.0``, ``inf.0``, ``-inf.``."""

_OTHER_FIELDS = re.compile(rb"(?:, ?[^=,\[\]|]{1,200}=[^,\[\]|]{0,200})*\]")
_NEXT = re.compile(rb"Training epoch \d|Epoch \d{1,9}[:,]")
_PRINTER = re.compile(rb"Training epoch (\d{1,9}), iteration (\d{1,12})/(\d{1,12}) \| ([^\[\]\r\n]{1,2000})")
_NUMBER = re.compile(rb"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf)")
_LAST_NUMBER = re.compile(rb"[-+]?(?:\d{1,12}|\d+\.\d{0,12}(?:[eE][-+]?\d{1,3})?|nan|inf)(?![\d.:/-])")
_ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,999}(?:\x07|\x1b\\)|[()][A-B0-2]|[@-Z\\-_])")

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
    b"found Inf",
    b"Unexpected result",
    b"ssert",
    b"encountered",
    b"uda failure",
    b"Xid",
    b"XID",
    b"_STATUS_",
    b"fallen off",
    b"GPU is lost",
    b"device handle",
    b"illed",
    b"oom-kill",
    b"exitcode",
    b"exited unexpectedly",
    b"annot allocate memory",
    b"version mismatch",
    b"/dev/shm",
    b"hared memory",
    b"bad_alloc",
    b"already completed",
    b"Failures:",
    b"Root Cause",
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
        (Kind.FINISHED, r"Trainer\.fit` stopped: `max_(?:steps=(?P<value>\d{1,9})|epochs=\d+)` reached"),
        (
            Kind.FINISHED_BEFORE,
            r"(?:step=(?P<value>\d{1,9}).{0,200})?indicating that the last training run has already completed",
        ),
        (
            Kind.TIME_LIMIT,
            (
                r"Time limit reached\..{0,200}Signaling Trainer to stop|Trainer\.fit` stopped:"
                r" `max_time"
            ),
        ),
        (Kind.NAN, r"found (?:NaN|Inf) in local grad norm|Unexpected result (?:nan|-?inf)\b"),
        (Kind.HOST_OOM, r"DefaultCPUAllocator|\bOOMKilled\b|\boom-kill|[Oo]ut of memory: Killed process"),
        (
            Kind.GPU_OOM,
            (
                r"OutOfMemoryError|CUDA out of memory|(?:CUDA [Ee]rror|[Cc]uda failure)\W.{0,10}out of memory"
                r"|CUBLAS_STATUS_ALLOC_FAILED"
            ),
        ),
        (
            Kind.GPU_FAULT,
            (
                r"uncorrectable (?:ECC|NVLink)|[Cc]ontained ECC|fallen off the bus|GPU is lost"
                r"|Unable to determine the device handle for|system not yet initialized|busy or unavailable"
                r"|a hardware error|hardware stack error|[Dd]river/library version mismatch"
                r"|No CUDA GPUs are available|no CUDA-capable device is detected"
                r"|Xid \([^)]{1,60}\): (?!(?:13|31|32|43|45)\b)\d|\bX(?:id|ID)(?: error)?:? (?!(?:13|31|32|43|45)\b)\d"
            ),
        ),
        (Kind.DEVICE_ASSERT, r"device-side assert(?!ions)|thread: \[\d+,\d+,\d+\] Assertion"),
        (
            Kind.CUDA_ERROR,
            (
                r"CUDA (?:driver )?[Ee]rror\b|\bcu(?:BLAS|DNN|FFT|SOLVER)(?:Lt)? [Ee]rror"
                r"|(?:CUBLAS|CUDNN|CUFFT|CUSOLVER)_STATUS_[A-Z_]{0,30}(?:FAILED|ERROR|INITIALIZED)"
                r"|(?:illegal memory access|misaligned address|illegal instruction) was encountered"
                r"|unspecified launch failure|the launch timed out|Xid \([^)]{1,60}\): \d|\bX(?:id|ID)(?: error)?:? \d"
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
        (
            Kind.MISSING_RANKS,
            r"\d{1,6}/(?P<value>\d{1,6}) clients joined"
            r"|Timed out initializing process group in store based barrier",
        ),
        (
            Kind.SHARED_MEMORY,
            r"shared memory.{0,200}No space left on device|posix_fallocate.{0,200}No space left"
            r"|(?:unable to write to file|shared memory object) </torch|creating shared memory segment"
            r"|failed to extend /dev/shm|out of shared memory|allocate shared memory|signal: Bus error|\(SIGBUS\)"
            r"|exitcode\s*: -7\b|Fatal Python error: Bus error|Bus error \(core dumped\)",
        ),
        (
            Kind.NCCL_ERROR,
            r"NCCL [Ee]rror|nccl(?:(?:System|Internal|Remote|UnhandledCuda)Error|Invalid(?:Usage|Argument))",
        ),
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
        (
            Kind.HOST_OOM,
            r"\(SIGKILL\)|exitcode\s*: -9\b|killed by signal: Killed|DataLoader worker .{0,200}exited unexpectedly"
            r"|^.{0,200}\bKilled\s+(?:torchrun|python)|\bbad_alloc\b|^(?:[\w.]{1,100}\.)?_?(?:Array)?MemoryError\b"
            r"|\[Errno 12\]|unable to mmap .{0,300}Cannot allocate memory",
        ),
        (Kind.TERMINATED, r"[Rr]eceived (?:Signals\.)?(?:SIGTERM|15\b)|got signal: 15\b"),
        (Kind.CRASH, rf"ChildFailedError|{HYDRA}"),
        (
            Kind.SIGNAL,
            r"Signal \d{1,2} \(SIG(?!TERM|INT)[A-Z]+\) received|Fatal Python error|killed by signal: (?!Terminated)"
            r"|(?:Segmentation fault|Aborted) \(core dumped\)|exitcode\s*: -(?!15\b|2\b)\d",
        ),
        (Kind.TRACEBACK, re.escape(HEADER)),
        (Kind.TRACEBACK, r"^[\w.]{1,100}(?:Error|Exception)\b"),
    )
)

_RANK = re.compile(r"^\s*(\d{1,6}): |\[(?:rank|default)[: ]{0,2}(\d{1,6})\]|\b[Rr]ank:? (\d{1,6})\b")
_PREFIX = re.compile(
    r"^(?:\s*(?:\d{1,6}: |\[[^\]]{1,80}\]:? ?|\d{4}-\d\d-\d\d[T ][\d:.,]{5,20}(?:Z|[-+]\d\d:?\d\d)? ))+"
)
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*[a-z]\w*(?::\s|:?$)")


class LogParser:
    """Splits a log into records; holds at most one unfinished line."""

    def __init__(self) -> None:
        self._rest = b""
        self._bar = b""
        self._notices = _Notices()

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
            line = _ANSI.sub(b"", line)
        starts = [*(match.start() for match in _NEXT.finditer(line)), len(line)]
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


def _read_bar(text: bytes) -> tuple[Step | None, bytes] | None:
    """Return the step of the bar that the text begins with, and what else it says; None if there is no bar.

    The bar may lack its end: what the next one, or another process, wrote over it is not known.
    """
    bar = _BAR.match(text)
    if bar is None:
        return None
    fields: dict[bytes, bytes] = {}
    other = b""
    end = bar.end()
    for field in _FIELD.finditer(text, end):
        fields.setdefault(field[1], field[2])
        other += text[end : field.start()]
        end = field.end()
    closing = _OTHER_FIELDS.match(text, end)
    other += text[closing.end() if closing else end :]
    return _bar_step(bar, fields), other


def _bar_step(bar: re.Match[bytes], fields: dict[bytes, bytes]) -> Step | None:
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
    return Step(
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


def _read_printed(text: bytes, cut: bool) -> tuple[Step | None, bytes] | None:
    """Return the step of the 2.x line that the text begins with, and what follows its last number.

    ``cut``: another line of the kind is glued to it, so the last number may be half of one.
    """
    match = _PRINTER.match(text)
    if match is None:
        return None
    epoch, iteration, last, body = match.groups()
    *whole, tail = body.split(b" | ")
    fields = dict([f.split(b": ", 1) for f in whole if b": " in f])
    name, _, value = tail.partition(b": ")
    number = _NUMBER.match(value)
    rest = text[match.end() - (len(value) - number.end() if number else 0) :]
    logged = fields.get(b"global_step", b"")
    if not logged.isdigit() or len(logged) > len(str(MAX_STEP)):
        return None, rest
    closed = _LAST_NUMBER.match(value)
    if closed and not cut and _printed_digits(closed.group()) <= PRINTED_DIGITS:
        fields[name] = closed.group()
    batch = _number(fields.get(b"global_batch_size")) or 0.0
    step = Step(
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
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


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


def _line_of(raw: bytes) -> tuple[str, str, int | None]:
    """Return a line as text, what follows the prefixes of it, and the rank that it names."""
    line = _ANSI.sub(b"", raw).decode("utf-8", "replace").rstrip()
    prefix = _PREFIX.match(line)
    named = _RANK.search(line)
    return line, line[prefix.end() :] if prefix else line, int(next(filter(None, named.groups()))) if named else None


class _Notices:
    """Finds the lines that say something; remembers the tracebacks that are open, by rank."""

    def __init__(self) -> None:
        self._open: dict[int | None, int] = {}
        self._unfinished: Notice | None = None
        self._consequences = False

    def of(self, lines: list[bytes]) -> Iterator[Notice]:
        """Return the notices of these lines, in order."""
        if not self._open and self._unfinished is None:
            text = b"\n".join(lines)
            if not any(needle in text for needle in _NEEDLES):
                return
        for raw in lines:
            if self._unfinished is not None and raw.strip():
                if longer := self._continued(raw):
                    yield longer
                self._unfinished = None
            if self._open or any(needle in raw for needle in _NEEDLES):
                notice = self._notice(raw)
                if notice is not None:
                    yield notice
                    if notice.kind is Kind.TRACEBACK and notice.line.endswith(":") and HEADER not in notice.line:
                        self._unfinished = notice

    def _continued(self, raw: bytes) -> Notice | None:
        """Return an exception again, with the line below that says what its own only announces."""
        notice = self._unfinished
        line, body, rank = _line_of(raw)
        body = body.strip()
        if notice is None or rank != notice.rank or HEADER in line or not any(map(str.isalnum, body)):
            return None
        return notice._replace(line=f"{notice.line} {body}"[:MAX_EVIDENCE])

    def _notice(self, raw: bytes) -> Notice | None:
        line, body, rank = _line_of(raw)
        raised = self._is_raised(body, rank)
        for kind, pattern in _RULES:
            match = pattern.search(body if pattern.pattern.startswith("^") else line)
            if match is None:
                continue
            if kind is Kind.FAILED_RANK and self._consequences:
                return None
            groups = match.groupdict()
            named = rank if groups.get("rank") is None else int(groups["rank"])
            value = groups.get("value")
            if kind is Kind.TRACEBACK and HEADER in line:
                self._begin(rank)
            start = max(0, match.start() - MAX_EVIDENCE // 2) if len(line) > MAX_EVIDENCE else 0
            evidence = line[start : start + MAX_EVIDENCE].strip()
            return Notice(kind, evidence, named, None if value is None else int(value), raised)
        if body.startswith(("Failures:", "Root Cause")):  # torchrun lists the ranks that it saw fail later first
            self._consequences = body.startswith("F")
        return Notice(Kind.TRACEBACK, line[:MAX_EVIDENCE].strip(), rank, raised=True) if raised else None

    def _begin(self, rank: int | None) -> None:
        if len(self._open) < MAX_TRACEBACKS:
            self._open[rank] = MAX_TRACEBACK_LINES

    def _is_raised(self, body: str, rank: int | None) -> bool:
        """Tell whether the line is the exception that an open traceback ends with, by whatever name."""
        left = self._open.get(rank)
        if left is None:
            return False
        self._open[rank] = left - 1
        raised = bool(_RAISED.match(body))
        if raised or left <= 1:
            del self._open[rank]
        return raised
