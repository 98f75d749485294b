"""What it costs to read a log: the monitor against regular expressions over the same bytes.

Run with ``python -m tests.bench.bench_monitor [MB]``. Ratios of CPU time are printed, never judged.
``record regex`` only finds the steps; ``alarm regex`` also finds lines that may be an alarm, which
is what the monitor does, and turns the numbers of a step into floats.
"""

import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from time import process_time

from neva_pod.monitor.parser import LogParser
from neva_pod.monitor.run import Run

CHUNK = 1 << 20

RECORD = re.compile(
    rb"Epoch (\d+): :? *(?:\d+%\|[^|]*\|)? *(\d+)/(\d+) \[([\d:]+)<[\d:]+, .*?"
    rb"reduced_train_loss=([^,\]]+), global_step=([^,\]]+), consumed_samples=([^,\]]+), "
    rb"train_step_timing in s=([^,\]]+)"
)
ALARM = re.compile(
    RECORD.pattern + rb"|[Ee]rror|Exception|checkpoint|GLOBAL_RANK|NaN|timeout|timed out"
    rb"|No space left|Traceback|SIG"
)

BAR = (
    "\rEpoch 0: :  45%|███▌      | {0}/9999999 [1:14:05<1:29:25, reduced_train_loss=6.820, "
    "global_step={1}.0, consumed_samples=1.19e+5, train_step_timing in s=0.540]"
)
CHATTER = (
    "[NeMo I 2024-07-22 12:05:{:02} megatron_init:263] Rank {} has data parallel group, "
    "with the ranks that share its weights\n"
)


def bars() -> Iterator[str]:
    """Yield the worst case: every bar is another step."""
    for n in range(10**7):
        yield BAR.format(n + 1, n)


def redrawn() -> Iterator[str]:
    """Yield bars that are drawn twenty times each, as terminals do."""
    for bar in bars():
        yield 20 * bar


def chatter() -> Iterator[str]:
    """Yield what a job of many ranks logs while it starts."""
    for n in range(10**7):
        yield CHATTER.format(n % 60, n % 2048)


def chunks(lines: Iterator[str], size: int) -> list[bytes]:
    """Return that many bytes of a log, at least, in the pieces that a file is read in."""
    text = bytearray()
    while len(text) < size:
        text += next(lines).encode()
    return [bytes(text[at : at + CHUNK]) for at in range(0, len(text), CHUNK)]


def seconds(work: Callable[[], None]) -> float:
    """Return the least CPU time of three runs."""
    times = []
    for _ in range(3):
        begun = process_time()
        work()
        times.append(process_time() - begun)
    return min(times)


def main() -> None:
    """Print the ratios for each kind of log, and what the monitor keeps in memory."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    print(f"{'log':10}{'MB/s':>8}{'over record regex':>20}{'over alarm regex':>19}")
    for kind in (bars, redrawn, chatter):
        log = chunks(kind(), megabytes * 10**6)

        def monitor(log: list[bytes] = log) -> None:
            parser, run = LogParser(), Run()
            for piece in log:
                run.update(parser.feed(piece), 0.0)

        def record(log: list[bytes] = log) -> None:
            for piece in log:
                for match in RECORD.finditer(piece):
                    match.groups()

        def alarm(log: list[bytes] = log) -> None:
            for piece in log:
                for match in ALARM.finditer(piece):
                    if match[6]:
                        [float(match[group]) for group in (2, 5, 6, 7, 8)]

        ours = seconds(monitor)
        size = sum(map(len, log)) / 1e6
        over = [ours / seconds(other) for other in (record, alarm)]
        print(f"{kind.__name__:10}{size / ours:8.0f}{over[0]:20.1f}{over[1]:19.2f}")
    tracemalloc.start()
    monitor()
    print(f"memory beyond the log itself: {tracemalloc.get_traced_memory()[1] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
