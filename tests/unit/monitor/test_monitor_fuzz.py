"""Damaged logs: the monitor never raises, and never shows a step that was not made."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neva_pod.monitor.exporter import metrics
from neva_pod.monitor.judge import judge
from neva_pod.monitor.parser import LogParser
from neva_pod.monitor.records import RunSettings, StepRecord
from neva_pod.monitor.run import Run
from tests.unit.monitor.nemo_logs import REGISTERED, SAMPLES, SOURCE_DOCUMENT, bar, ranks

pytestmark = pytest.mark.slow

LOGGED = re.compile(rb"global_step(?:=|: )([\d.e+]+)(?=[,\]]| \|)")
"""A whole field of a step, found without the parser."""

CODE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
"""A terminal's control code (ECMA-48)."""

LINES = [
    *(sample.encode() for sample in SAMPLES.values()),
    SOURCE_DOCUMENT.encode(),
    *ranks(2).encode().splitlines(),
    REGISTERED.format(2).encode(),
    b"[rank1]: Traceback (most recent call last):",
    b"Epoch 0, global step 217: 'step' reached 217.0 (best 217.0), saving model to '/r/x.ckpt'",
    b"[W socket.cpp:601] [c10d] The client socket has failed to connect to [neva]:23456",
    b"Restoring states from the checkpoint path at /r/neva--step=868-last.ckpt",
]


def numbers(data: bytes) -> set[float]:
    """Return every step that the text holds."""
    found = set()
    for text in LOGGED.findall(CODE.sub(b"", data)):
        try:
            found.add(float(text))
        except ValueError:
            continue
    return found


def mutate(line: bytes, rng: random.Random, earlier: bytes) -> bytes:
    """Damage a line once, as broken pipes and interleaved writers do."""
    at, size = rng.randrange(len(line)), rng.randrange(1, 12)
    kind = rng.randrange(8)
    if kind == 0:
        return line[:at] + bytes([rng.randrange(256)]) + line[at + 1 :]
    if kind == 1:
        return line[:at] + line[at + size :]
    if kind == 2:
        return line[:at] + line[at : at + size] * 2 + line[at + size :]
    if kind == 3:
        return line[:at]
    if kind == 4:
        return line[:at] + rng.choice(b"0123456789.,=[]|\r\ne+-: ").to_bytes(1, "big") + line[at:]
    if kind == 5:
        return line[:at] + earlier[min(at, len(earlier)) :]
    if kind == 6:
        return line[:at] + b"\x1b[" + bytes([rng.randrange(64, 91)]) + line[at:]
    return line[:at] + earlier + line[at:]


def feed_mutations(count: int, seed: int) -> None:
    """Feed mutated lines of every kind in chunks of every size."""
    rng = random.Random(seed)  # noqa: S311 (a test's seed)
    parser, run = LogParser(), Run(RunSettings(global_batch_size=256, max_steps=2170))
    window = b""
    pending = b""
    for number in range(count):
        line = rng.choice(LINES)
        pending += mutate(line, rng, rng.choice(LINES)) + rng.choice((b"\n", b"\r", b"\r\n", b""))
        if len(pending) < rng.choice((1, 300, 3000)):
            continue
        window = window[-70_000:] + pending
        events = parser.feed(pending)
        pending = b""
        known = numbers(window)
        for event in events:
            if isinstance(event, StepRecord):
                assert event.global_step in known
        run.update(events, float(number))
        if number % 1000 < 3:
            judge(run, float(number))
            metrics(run, float(number))


def train_damaged(count: int, seed: int) -> None:
    """Feed a whole run of which one line in four is damaged; the step is never ahead of it."""
    rng = random.Random(seed)  # noqa: S311 (a test's seed)
    for _ in range(max(1, count // 2170)):
        parser, run = LogParser(), Run(RunSettings())
        earlier = bar(0).encode()
        for step in range(2170):
            line = bar(step).encode()
            damage = 2 < step < 2160 and rng.random() < 0.25
            sent = mutate(line, rng, earlier) if damage else line
            run.update(parser.feed(sent + b"\n"), float(step))
            assert run.step is None or run.step <= step + 1, sent
            earlier = line
        assert (run.completed, run.restarts) == (2170, 0)


def test_mutated_lines() -> None:
    """40,000 lines (a million with `-m bench`): nothing is raised, and each step is one that the text holds."""
    feed_mutations(40_000, seed=7)


def test_damaged_run() -> None:
    """Ten runs, each with hundreds of damaged lines."""
    train_damaged(20_000, seed=7)


@pytest.mark.bench
def test_mutated_lines_many() -> None:
    """10^6 lines in all."""
    feed_mutations(1_000_000, seed=11)
    train_damaged(200_000, seed=11)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300) | st.sampled_from(LINES), max_size=20))
def test_any_bytes(pieces: list[bytes]) -> None:
    """Whatever the bytes, parsing, folding, judging and exporting do not raise."""
    parser, run = LogParser(), Run()
    text = b"".join(pieces)
    for piece in pieces:
        events = parser.feed(piece)
        run.update(events, 1.0)
    run.update(parser.close(), 2.0)
    for event in parser.feed(text) + parser.close():
        if isinstance(event, StepRecord):
            assert event.global_step in numbers(text)
    judge(run, 1e9)
    metrics(run, 1e9)
    run.seconds_left()


NUMBER = st.sampled_from([b"1e999", b"nan", b"inf", b"-1", b"0", b"1e+3", b"9" * 12, b"", b"0e+0"])


@given(st.lists(NUMBER, min_size=8, max_size=8), st.booleans())
def test_absurd_numbers(numbers_: list[bytes], printed: bool) -> None:
    """Zero, negative, infinite and endless numbers in every field."""
    a, b, c, d, e, f, g, h = numbers_
    line = (
        b"Training epoch 0, iteration %s/%s | global_step: %s | global_batch_size: %s | "
        b"consumed_samples: %s | reduced_train_loss: %s | train_step_timing in s: %s | x: %s"
        if printed
        else b"Epoch 0: : %s/%s [00:0%s<00:00, %ss/it, reduced_train_loss=%s, global_step=%s, "
        b"consumed_samples=%s, train_step_timing in s=%s]"
    ) % (a, b, c, d, e, f, g, h)
    run, parser = Run(), LogParser()
    for _ in range(2):
        run.update(parser.feed(line + b"\n"), 1.0)
    judge(run, 2.0)
    metrics(run, 2.0)
