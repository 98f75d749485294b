"""The coordinator against agents of the test's own, over real sockets: nodes that come and go at the wrong moment."""

import contextlib
import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neva_pod.inputs.saved import Recovery
from neva_pod.settings import Settings
from neva_pod.supervisor import coordinator as module
from neva_pod.supervisor.agent import Agent
from neva_pod.supervisor.control import Channel, listen, readable
from neva_pod.supervisor.coordinator import Coordinator
from neva_pod.supervisor.node import DONE, GAVE_UP, UNREACHABLE, WRONG, Node
from neva_pod.supervisor.peers import Peers
from neva_pod.supervisor.restarts import Restarts
from tests.waiting import until


def node(folder: Path, rank: int = 0, port: int = 0, wait: float = 60.0, **restart: Any) -> Node:
    """A node of two."""
    settings = {"restart": {"limit": 3, "waitSeconds": 60, **restart}, "checkpoint": {"enabled": True}}
    return Node(
        rank=rank,
        nodes=2,
        processes=1,
        results=str(folder),
        work=str(folder),
        entrypoint="none",
        config=str(folder),
        master="127.0.0.1",
        port=port,
        wait=wait,
        namespace="ns",
        pod=f"neva-1-worker-{rank}",
        uid=f"uid-{rank}",
        name=f"node-{rank}",
        settings=Settings(settings),
        digest="12345678",
    )


class FakeAgent:
    """A node by hand: says what the test wants."""

    def __init__(self, port: int, rank: int, attempt: int = 0) -> None:
        self.rank, self.attempt = rank, attempt
        self._channel = Channel(socket.create_connection(("127.0.0.1", port)))
        self._heard: list[dict[str, Any]] = []
        who = {"digest": "12345678", "pod": f"pod-{rank}", "uid": f"uid-{rank}", "name": "n", "pid": 1}
        self._channel.send("hello", rank=rank, attempt=attempt, **who)

    def beat(self, *, running: bool = False, code: int | None = None, leaving: bool = False) -> None:
        """Tell how torchrun is."""
        self._channel.send("beat", attempt=self.attempt, running=running, code=code, leaving=leaving)

    def hears(self, kind: str) -> dict[str, Any]:
        """Wait for a message."""

        def come() -> bool:
            if not self._channel.closed:
                readable([self._channel], 0.05)
                self._heard += [dict(m) for m in self._channel.receive()]
            return any(m["kind"] == kind for m in self._heard)

        until(come, f"node {self.rank} hears {kind}")
        message = next(m for m in self._heard if m["kind"] == kind)
        self._heard.remove(message)
        return message

    def starts(self) -> int:
        """Obey a start."""
        self.attempt = int(self.hears("start")["attempt"])
        self.beat(running=True)
        return self.attempt

    def leave(self) -> None:
        """Break the connection."""
        self._channel.close()


class Master:
    """A coordinator that serves in a thread; at the end of a block it is gone without a word of its own, as killed."""

    def __init__(self, folder: Path, **restart: Any) -> None:
        self._agents: list[FakeAgent] = []
        self._killed = False
        self.resumes = int(restart.pop("resumes", 0))
        self.judging = threading.Event()
        self.judging.set()
        self.judged = 0
        self.said: list[str] = []
        server = listen(0, everywhere=False)
        self.port = int(server.getsockname()[1])
        self.node = node(folder, **restart)
        self.restarts = Restarts(str(folder / "restarts.jsonl"), self.node.job)
        peers = Peers(self.node, server)
        self.coordinator = Coordinator(
            self.node, peers, self.restarts, self._recover, self._superseded, self.said.append
        )
        self.thread = threading.Thread(target=self.coordinator.serve, daemon=True)
        self.thread.start()

    def _recover(self) -> Recovery:
        self.judged += 1
        self.judging.wait()
        return Recovery((), (), f"neva--step={self.resumes}-last" if self.resumes else "", 0)

    def _superseded(self) -> str | None:
        return "killed" if self._killed else None

    def agent(self, rank: int, attempt: int = 0) -> FakeAgent:
        """Let a node in."""
        self._agents.append(FakeAgent(self.port, rank, attempt))
        return self._agents[-1]

    def agents(self) -> tuple[FakeAgent, FakeAgent]:
        """Let both nodes in."""
        return self.agent(0), self.agent(1)

    def __enter__(self) -> "Master":
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._killed = True
        self.judging.set()
        until(lambda: self.coordinator._phase is module.Phase.END, "the end")
        for agent in self._agents:
            agent.leave()
        self.thread.join()


def reasons(folder: Path) -> list[tuple[str, int]]:
    """Why attempts ended, and the failures in a row."""
    path = folder / "restarts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(a["reason"], a["failures"]) for a in map(json.loads, lines)]


def test_a_run_without_a_fault(tmp_path: Path) -> None:
    with Master(tmp_path) as master:
        agents = master.agents()
        for agent in agents:
            agent.starts()
        for agent in agents:
            agent.beat(code=0)
        assert [agent.hears("end")["code"] for agent in agents] == [DONE, DONE]
        assert reasons(tmp_path) == [("done", 0)]


def test_a_node_that_goes_while_checkpoints_are_judged_is_waited_for(tmp_path: Path) -> None:
    """The others would wait for it at the rendezvous, until startSeconds, and a failure would count."""
    with Master(tmp_path) as master:
        master.judging.clear()
        first, second = master.agents()
        until(lambda: master.judged == 1, "the checkpoints are judged")
        second.leave()
        until(lambda: [p.rank for p in master.coordinator._peers.all] == [0], "the master knows")
        master.judging.set()
        time.sleep(0.5)
        assert not tmp_path.joinpath("attempt.json").exists()
        second = master.agent(1)
        assert first.starts() == second.starts() == 1
        assert reasons(tmp_path) == []


def test_a_node_that_comes_again_after_the_end_hears_of_it(tmp_path: Path) -> None:
    """Else it would wait for a master that is gone, and fail a job that is done."""
    with Master(tmp_path) as master:
        first, second = master.agents()
        for agent in (first, second):
            agent.starts()
        first.beat(code=0)
        second.beat(code=0)
        first.hears("end")
        second.leave()
        second = master.agent(1)
        assert second.hears("end")["code"] == DONE
        for agent in (first, second):
            agent.leave()
        master.thread.join(5)
        assert not master.thread.is_alive()


def test_a_master_that_is_killed_each_time_is_given_up(tmp_path: Path) -> None:
    """By the kernel, for want of memory: nobody else would count, and the pod comes again for ever."""
    for number in (1, 2, 3):
        with Master(tmp_path, resumes=15) as master:
            assert [agent.starts() for agent in master.agents()] == [number, number]
            assert len(reasons(tmp_path)) == number - 1
    with Master(tmp_path, resumes=15) as master:
        assert [agent.hears("end")["code"] for agent in master.agents()] == [GAVE_UP, GAVE_UP]
        assert reasons(tmp_path) == [("the master was killed", n) for n in (1, 2, 3)]


def test_a_master_that_is_killed_but_moves_is_not(tmp_path: Path) -> None:
    for number in range(6):
        with Master(tmp_path, resumes=15 * number) as master:
            assert [agent.starts() for agent in master.agents()] == [number + 1] * 2
    assert {failures for _, failures in reasons(tmp_path)} == {1}


def test_restarts_that_are_off_hold_for_a_killed_master_too(tmp_path: Path) -> None:
    with Master(tmp_path, enabled=False) as master:
        for agent in master.agents():
            agent.starts()
    with Master(tmp_path, enabled=False) as master:
        assert [agent.hears("end")["code"] for agent in master.agents()] == [GAVE_UP, GAVE_UP]


def test_checkpoints_that_cannot_be_judged_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system hangs: all nodes would hold their GPUs for ever."""
    monkeypatch.setattr(module, "JUDGE_SECONDS", 0.3)
    with Master(tmp_path) as master:
        master.judging.clear()
        assert [agent.hears("end")["code"] for agent in master.agents()] == [WRONG, WRONG]
        assert "its checkpoints could not be judged within 0 s" in master.said[-1]
        master.judging.set()


def test_a_record_that_hangs_does_not_hold_the_master_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.2)
    forever = threading.Event()
    with Master(tmp_path) as master:
        monkeypatch.setattr(master.restarts, "write", lambda _: forever.wait())
        monkeypatch.setattr(master.restarts, "announce", lambda _: forever.wait())
        agents = master.agents()
        for agent in agents:
            agent.starts()
            agent.beat(code=0)
        assert [agent.hears("end")["code"] for agent in agents] == [DONE, DONE]
        assert "the record of attempts cannot be written: no answer after 0 s" in master.said
        forever.set()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_master_that_takes_connections_but_says_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """A hung supervisor, or another service on its port: the wait goes on counting, and not in a tight loop."""
    taken = 0

    def given_up() -> bool:
        nonlocal taken
        with contextlib.suppress(TimeoutError):
            connection, _ = server.accept()
            with connection:
                taken += 1
                connection.sendall(answer)
        return bool(ended) or taken > 50

    ended: list[int] = []
    monkeypatch.setattr("neva_pod.supervisor.agent.signal.signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        agent = Agent(node(tmp_path, rank=1, wait=2.5), server.getsockname()[1], lambda _: None)
        thread = threading.Thread(target=lambda: ended.append(agent.run()), daemon=True)
        thread.start()
        until(given_up, "the agent gives up", pause=0)
    assert ended == [UNREACHABLE]
    assert taken <= 5


def test_an_agent_that_has_lost_the_master_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system held the folders up meanwhile; the next start would make a second torchrun beside this one."""
    asked, answered, started = threading.Event(), threading.Event(), threading.Event()

    def folders(_: Node) -> str:
        asked.set()
        answered.wait()
        return ""

    def torchrun(*_: object) -> None:
        started.set()
        raise OSError(2, "stand-in", "torchrun")

    monkeypatch.setattr("neva_pod.supervisor.agent.make_folders", folders)
    monkeypatch.setattr("neva_pod.supervisor.agent.Torchrun", torchrun)
    monkeypatch.setattr("neva_pod.supervisor.agent.signal.signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        agent = Agent(node(tmp_path, rank=1), server.getsockname()[1], lambda _: None)
        thread = threading.Thread(target=agent.run, daemon=True)
        thread.start()
        connection, _ = server.accept()
        connection.sendall(b'{"kind": "start", "attempt": 1}\n')
        asked.wait()
        connection.close()
        second, _ = server.accept()  # it has come again
        answered.set()
        time.sleep(1.0)
        assert not started.is_set()
        second.close()
        agent._stop()
        thread.join()


def test_an_attempt_has_a_number_that_no_node_knows(tmp_path: Path) -> None:
    """The master before it could write none down; else what nodes say of their last attempt is taken for this one's."""
    with Master(tmp_path) as master:
        agents = [master.agent(0), master.agent(1, attempt=5)]
        agents[1].beat(code=-9)
        assert [agent.starts() for agent in agents] == [6, 6]
        time.sleep(0.5)
        assert not any("torchrun ended" in said for said in master.said)


@pytest.mark.parametrize("came", [False, True])
def test_a_master_of_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, came: bool) -> None:
    """Wrong for a node that begins; later on its master's address may be another's for a while, and that is no end."""
    monkeypatch.setattr("neva_pod.supervisor.agent.signal.signal", lambda *_: None)
    ended: list[int] = []
    with Master(tmp_path) as master:
        agent = Agent(replace(node(tmp_path, rank=1), digest="other"), master.port, lambda _: None)
        agent._came = came
        thread = threading.Thread(target=lambda: ended.append(agent.run()), daemon=True)
        thread.start()
        thread.join(4.0 if came else 60.0)
        assert ended == ([] if came else [WRONG])
        agent._stop()
        thread.join()


class EndedTorchrun:
    """A torchrun that has ended at once."""

    made = 0

    def __init__(self, *_: object) -> None:
        type(self).made += 1

    def code(self) -> int:
        """Return an exit code of its own."""
        return 3

    def kill(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_ends_only_a_job_that_has_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """At the first start it is a mistake, later on a fault: it may pass, and counts if it does not."""
    problems = ["", "No space left"] if before else ["No space left"]
    monkeypatch.setattr("neva_pod.supervisor.agent.make_folders", lambda _: problems.pop(0))
    monkeypatch.setattr("neva_pod.supervisor.agent.Torchrun", EndedTorchrun)
    monkeypatch.setattr("neva_pod.supervisor.agent.signal.signal", lambda *_: None)
    monkeypatch.setattr(EndedTorchrun, "made", 0)
    ended: list[int] = []
    with Master(tmp_path) as master:
        other = master.agent(0)
        agent = Agent(node(tmp_path, rank=1), master.port, lambda _: None)
        thread = threading.Thread(target=lambda: ended.append(agent.run()), daemon=True)
        thread.start()
        for _ in range(2 if before else 1):
            other.starts()
            if before:
                other.hears("stop")
                other.beat(code=-9)
        assert before or other.hears("stop")
        other.beat(code=-9)
        if before:
            until(lambda: EndedTorchrun.made >= 2, "it starts again")
        else:
            assert other.hears("end")["code"] == WRONG
            until(lambda: ended == [WRONG], "it ends")
        agent._stop()
        other.leave()
        thread.join()
