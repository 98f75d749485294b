"""One torchrun and what it leaves behind; the real one runs in tests/survival."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neva_pod.supervisor import processes
from neva_pod.supervisor import torchrun as module
from neva_pod.supervisor.torchrun import Torchrun
from tests.waiting import PATIENCE, ended, until


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whom a signal was sent to; nobody is hit."""
    made: list[int] = []
    monkeypatch.setattr(processes, "send", lambda pid, _: made.append(pid))
    return made


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[processes.Process]:
    """What is below the supervisor, as the test wants it."""
    made: list[processes.Process] = []
    monkeypatch.setattr(processes, "below", lambda _: list(made))
    return made


def started(folder: Path, script: str) -> Torchrun:
    return Torchrun([sys.executable, "-c", script], str(folder), str(folder / "stacks"), None, lambda _: None)


def test_it_has_not_ended_before_what_it_left_is_gone(
    tmp_path: Path, sent: list[int], left: list[processes.Process]
) -> None:
    """A killed rank takes seconds to give its GPU's memory back; the next attempt would find none."""
    left.append(processes.Process(4_000_001, os.getpid(), "D", "python3"))
    torchrun = started(tmp_path, "raise SystemExit(3)")
    until(lambda: torchrun.code() is not None or 4_000_001 in sent, "it has ended")
    assert torchrun.code() is None
    left[0] = processes.Process(4_000_001, os.getpid(), "Z", "python3")
    assert torchrun.code() == 3


def test_a_process_that_cannot_be_killed_is_not_waited_for_for_ever(
    tmp_path: Path, sent: list[int], left: list[processes.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEFT_SECONDS", 0.5)
    left.append(processes.Process(4_000_001, os.getpid(), "D", "python3"))
    torchrun = started(tmp_path, "raise SystemExit(3)")
    until(lambda: torchrun.code() == 3, "the code")
    assert sent.count(4_000_001) > 3


CLOSING = "print('Sending process 7 closing signal SIGTERM', flush=True)"


@pytest.mark.parametrize("asked", [False, True])
def test_ranks_that_torchrun_closes_are_killed_unless_the_pod_goes(
    tmp_path: Path, sent: list[int], left: list[processes.Process], monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """After a fault they wait in vain; when the pod must go they have torchrun's 30 s to save."""
    torchrun = started(tmp_path, f"{CLOSING}; import time; time.sleep(600)")
    with ended(torchrun._process):
        monkeypatch.setattr(processes, "variable", lambda *_: "5")
        left.append(processes.Process(4_000_001, torchrun._process.pid, "S", "python3"))
        if asked:
            torchrun.terminate()
        until(lambda: torchrun._closing, "what torchrun says")
        assert torchrun.code() is None
        assert (4_000_001 in sent) == (not asked)
    torchrun._pump.join(PATIENCE)  # its last line belongs to this test


def test_reaping_leaves_the_code_of_torchrun_alone_and_takes_all_others() -> None:
    kept = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    orphans = [subprocess.Popen(["true"]) for _ in range(5)]
    until(lambda: all(_zombie(p.pid) for p in [kept, *orphans]), "all have ended")
    for _ in range(3):
        processes.reap(keep=kept.pid)
    assert _zombie(kept.pid)
    assert kept.wait() == 7
    processes.reap(keep=kept.pid)
    assert [processes.state(p.pid) for p in orphans] == [None] * 5
    for orphan in orphans:
        orphan.wait()


def test_a_look_ten_times_a_second_costs_nothing() -> None:
    """A node has hundreds of processes: ranks, their DataLoader workers, compilers."""
    with ended(subprocess.Popen(["sleep", "600"])) as kept:
        before = time.thread_time()
        for _ in range(1000):
            processes.reap(keep=kept.pid)
        assert time.thread_time() - before < 0.1, "of 1 s a tenth of a millisecond each"


def _zombie(pid: int) -> bool:
    process = processes.state(pid)
    return process is not None and process.state == "Z"
