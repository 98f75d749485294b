"""The node's part: does what the coordinator says, and ends torchrun when it no longer hears from it."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neva_pod.findings import show
from neva_pod.supervisor import alive
from neva_pod.supervisor.background import Background
from neva_pod.supervisor.control import (
    BEAT_SECONDS,
    SILENCE_SECONDS,
    TELL_SECONDS,
    TICK_SECONDS,
    Channel,
    Message,
    readable,
)
from neva_pod.supervisor.folders import make_folders
from neva_pod.supervisor.node import STOPPED, UNREACHABLE, WRONG, Node
from neva_pod.supervisor.output import LogFile
from neva_pod.supervisor.torchrun import Torchrun

CONNECT_SECONDS = 5.0
RETRY_SECONDS = 1.0
FOLDER_SECONDS = 300.0
"""Seconds that the file system of the results may take to answer."""
KILL_SECONDS = 40.0
"""Of the grace period: torchrun's 30 s, and what the kernel needs to end processes that hold GPUs."""


def say(text: str) -> None:
    """Tell the pod's log."""
    print(f"neva: {text}", file=sys.stderr, flush=True)


class Agent:
    """Runs torchrun on this node for the coordinator, which is on the master; that node has an agent, too."""

    def __init__(self, node: Node, port: int, read: Callable[[bytes], None]) -> None:
        """Prepare.

        Args:
            node: this one.
            port: the coordinator's.
            read: is given what torchrun prints.

        """
        self._node, self._port, self._read = node, port, read
        self._channel: Channel | None = None
        self._heard = self._opened = self._sent = self._asked = 0.0
        self._told = -TELL_SECONDS
        self._came = False
        self._torchrun: Torchrun | None = None
        self._folders: Background[str] | None = None
        self._log: LogFile | None = None
        self._attempt = 0
        self._code: int | None = None
        self._stopped = self._trained = False
        self._leaving: float | None = None
        self._end: int | None = None

    def run(self) -> int:
        """Serve until the coordinator ends the run, or the pod is stopped; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._heard = time.monotonic()
        while self._end is None:
            with contextlib.suppress(OSError):  # without the file, the probe says nothing
                Path(alive.path()).touch()
            if self._channel is None or self._channel.closed:
                if self._channel is not None:
                    self._channel.close()
                    self._channel = None
                    if self._torchrun:
                        say("the master is lost: torchrun is stopped here; waiting for the master")
                    self._finish()
                    if self._heard < self._opened:
                        self._wait_for_master("no answer")
                if self._end is None:
                    self._connect()
            else:
                self._talk(self._channel)
            self._look()
        if self._torchrun:
            self._finish()
        if self._log:
            self._log.close()
        if self._channel:
            self._channel.close()
        with contextlib.suppress(OSError):
            Path(alive.path()).unlink()
        return self._end

    def _stop(self, *_: object) -> None:
        if self._leaving is None:
            self._leaving = time.monotonic()

    # The line to the coordinator.

    def _connect(self) -> None:
        """Try once; give up when it takes too long since the master was heard."""
        if self._leaving is not None:
            self._end = STOPPED
            return
        try:
            connection = socket.create_connection((self._node.master, self._port), CONNECT_SECONDS)
        except OSError as error:
            self._wait_for_master(error.strerror or str(error))
            return
        self._channel, self._opened, self._sent = Channel(connection), time.monotonic(), 0.0
        node = self._node
        self._channel.send(
            "hello",
            rank=node.rank,
            digest=node.digest,
            pod=node.pod,
            uid=node.uid,
            name=node.name,
            pid=os.getpid(),
            attempt=self._attempt,
        )

    def _wait_for_master(self, why: str) -> None:
        waited = time.monotonic() - self._heard
        where = f"{self._node.master}:{self._port}"
        # A master that was lost may first have to find a node and pull the image.
        key = "restart.waitSeconds" if self._came else "rendezvous.waitSeconds"
        limit = self._node.wait_again if self._came else self._node.wait
        if waited > limit:
            say(
                f"ERROR: {where}: not reachable after {waited:.0f} s ({why}; limit {key} "
                f"{limit:.0f}); see the master's pod: kubectl describe pod, kubectl logs"
            )
            self._end = UNREACHABLE
        elif time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            say(f"waiting for the master at {where}, {waited:.0f} of {limit:.0f} s")
        self._pause(RETRY_SECONDS)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._leaving is None:
            time.sleep(TICK_SECONDS)

    def _talk(self, channel: Channel) -> None:
        readable([channel], TICK_SECONDS)
        messages = channel.receive()
        now = time.monotonic()
        if self._came and any(message["kind"] == "foreign" for message in messages):
            channel.closed = True  # its address was the master's, and is another job's now; DNS will tell
            return
        if messages:
            self._heard, self._came = now, True
        for message in messages:
            self._obey(message)
        silent = now - max(self._heard, self._opened)
        if silent > SILENCE_SECONDS:
            say(f"the master has said nothing for {silent:.0f} s")
            channel.closed = True
        if now - self._sent > BEAT_SECONDS:
            self._beat()
        channel.flush()

    def _beat(self) -> None:
        self._sent = time.monotonic()
        self._send(
            "beat",
            attempt=self._attempt,
            running=self._torchrun is not None or self._folders is not None,
            code=self._code,
            leaving=self._leaving is not None,
        )

    def _obey(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "start":
            self._attempt, self._code, self._stopped = int(message["attempt"]), None, False
            self._folders, self._asked = Background(lambda: make_folders(self._node)), time.monotonic()
        elif kind == "save" and self._torchrun:
            self._torchrun.save()
        elif kind == "stacks":
            for line in self._torchrun.stacks() if self._torchrun else []:
                self._tell(line)
            self._send("stacks")
        elif kind == "stop":
            self._finish()
        elif kind in ("end", "foreign"):
            if message.get("why"):
                say(str(message["why"]))
            self._end = int(message["code"])
        self._beat()

    # torchrun on this node.

    def _look(self) -> None:
        """See how torchrun is, and whether this pod must go."""
        now = time.monotonic()
        if self._folders and self._folders.done:
            self._start(self._folders.result())
        elif self._folders and not self._trained and now - self._asked > FOLDER_SECONDS:
            where = self._node.name or "this node"
            self._start(
                f"{show(self._node.results)}: no answer after {FOLDER_SECONDS:.0f} s; must be writable; check the file "
                f"systems of {where}"
            )
        if self._torchrun:
            code = self._torchrun.code()
            if code is not None:
                self._torchrun, self._code = None, code
                self._beat()
            elif frozen := self._torchrun.frozen():
                self._tell(f"neva: {frozen}")
                self._send("trouble", why=frozen)
        if self._leaving is not None:
            self._leave(now - self._leaving)

    def _start(self, problem: str) -> None:
        """Start torchrun, if nothing is wrong with the folders.

        Where torchrun has run they were right, and may be so again soon: if not, the next save fails, and counts.
        """
        self._folders = None
        if problem and not self._trained:
            self._fail(problem)
            return
        if problem:
            say(problem)
        node = self._node
        self._log = self._log or LogFile(node.log, say)
        command = node.command()
        say(f"node {node.rank} of {node.nodes}, attempt {self._attempt}: {' '.join(map(show, command))}")
        stacks = os.path.join(node.work, "stacks")
        try:
            self._torchrun = Torchrun(command, node.work, stacks, self._log, self._read)
            self._trained = True
        except OSError as error:
            self._fail(f"torchrun: {error.strerror}: {error.filename}; must start; check image and storage.scratch")
        self._beat()

    def _fail(self, problem: str) -> None:
        """End the job: another start would meet the same."""
        say(f"ERROR: {problem}")
        self._send("wrong", why=problem)
        self._end = WRONG

    def _send(self, kind: str, **fields: Any) -> None:
        if self._channel:
            self._channel.send(kind, **fields)

    def _tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        if self._log:
            self._log.write(line.encode() + b"\n")

    def _finish(self) -> None:
        """End torchrun now."""
        self._folders = None
        if not self._torchrun:
            return
        self._torchrun.kill()
        while (code := self._torchrun.code()) is None:
            time.sleep(TICK_SECONDS)
        self._torchrun, self._code = None, code

    def _leave(self, since: float) -> None:
        """Go within the pod's grace period: the coordinator lets rank 0 save, then torchrun is told, then killed."""
        if not self._stopped:
            self._stopped = True
            say("SIGTERM: saving a checkpoint, then this pod ends" if self._torchrun else "SIGTERM: this pod ends")
            self._beat()
        if not self._torchrun:
            self._beat()
            self._end = STOPPED
        elif since > self._node.grace - KILL_SECONDS / 4:
            self._finish()
        elif since > self._node.grace - KILL_SECONDS:
            self._torchrun.terminate()
