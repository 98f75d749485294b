"""One torchrun on this node, and the ranks below it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from neva_pod.supervisor import processes
from neva_pod.supervisor.output import LogFile, Pump

STACK_SECONDS = 5.0
"""Seconds that ranks may take to write their stacks."""
FROZEN_SECONDS = 60.0
"""A process that is stopped for so long was not stopped for a look."""
LOOK_SECONDS = 10.0
LAST_LINES_SECONDS = 10.0
LEFT_SECONDS = 45.0
"""Seconds that killed processes may take to be gone; the kernel frees their GPUs' memory meanwhile."""
CLOSING = b" closing signal SIG"
"""What torchrun says of each rank that it ends, since another one has died."""


class Torchrun:
    """A started torchrun."""

    def __init__(
        self, command: Sequence[str], folder: str, stacks: str, log: LogFile | None, read: Callable[[bytes], None]
    ) -> None:
        """Start it.

        Args:
            command: what to run.
            folder: where to run it.
            stacks: folder for the stacks of the ranks; old ones are removed.
            log: also takes what it prints.
            read: is given what it prints, by another thread.

        """
        os.makedirs(stacks, exist_ok=True)
        for old in Path(stacks).glob("rank-*.txt"):
            old.unlink(missing_ok=True)
        self._stacks = stacks
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "NEVA_STACKS_DIR": stacks},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._read, self._tail, self._closing = read, b"", False
        self._pump = Pump(cast(BinaryIO, self._process.stdout), log, self._follow)
        self._frozen: dict[int, float] = {}
        self._terminated = False
        self._ended: float | None = None
        self._looked, self._told = time.monotonic(), False

    def _follow(self, data: bytes) -> None:
        self._closing = self._closing or CLOSING in self._tail + data
        self._tail = data[-len(CLOSING) :]
        self._read(data)

    def code(self) -> int | None:
        """Return the exit code, None while it runs or what it left behind is not gone; its last lines are then read.

        The next attempt would find the GPUs' memory taken.
        """
        code = self._process.poll()
        if code is None and self._closing and not self._terminated:
            # It would wait 30 s for ranks that wait for the one that died; then it tells which one that was.
            for _, process in self._ranks():
                processes.send(process.pid, signal.SIGKILL)
        processes.reap(keep=self._process.pid)
        if code is None:
            return None
        self._ended = self._ended or time.monotonic()
        if self._kill_all() and time.monotonic() - self._ended < LEFT_SECONDS:
            return None
        self._pump.join(LAST_LINES_SECONDS)
        return code

    def _ranks(self) -> Iterable[tuple[int, processes.Process]]:
        """Yield the global ranks on this node with their processes."""
        for process in processes.below(self._process.pid):
            if process.parent == self._process.pid:
                rank = processes.variable(process.pid, "RANK")
                if rank and rank.isdigit() and processes.variable(process.pid, "LOCAL_RANK") is not None:
                    yield int(rank), process

    def save(self) -> None:
        """Ask rank 0, if it is here, to save and end the run: NeMo's PreemptionCallback does at the end of its step.

        Not through torchrun, which kills all ranks 30 s after a signal of its own.
        """
        for rank, process in self._ranks():
            if rank == 0:
                processes.send(process.pid, signal.SIGTERM)

    def frozen(self) -> str:
        """Name, once, a rank or torchrun that has been stopped (SIGSTOP) for long; "" if there is none."""
        now, stopped = time.monotonic(), {}
        if now - self._looked < LOOK_SECONDS or self._told:
            return ""
        self._looked = now
        ranks = [(f"rank {rank}", process) for rank, process in self._ranks()]
        own = processes.state(self._process.pid)
        if own:
            ranks.append(("torchrun", own))
        for name, process in ranks:
            if process.state == "T":
                stopped[process.pid] = self._frozen.get(process.pid, now)
                if now - stopped[process.pid] > FROZEN_SECONDS:
                    self._told = True
                    return f"{name} (PID {process.pid}) has been stopped for {now - stopped[process.pid]:.0f} s"
        self._frozen = stopped
        return ""

    def stacks(self) -> list[str]:
        """Return the stacks of all ranks here, as lines; of one that does not answer, its state."""
        ranks = list(self._ranks())
        for rank, process in ranks:
            if (Path(self._stacks) / f"rank-{rank:05d}.txt").exists():
                processes.send(process.pid, signal.SIGUSR2)
        time.sleep(STACK_SECONDS)
        lines = []
        for rank, process in sorted(ranks, key=lambda r: r[0]):
            file = Path(self._stacks) / f"rank-{rank:05d}.txt"
            text = file.read_text("utf-8", errors="replace").strip() if file.exists() else ""
            state = processes.state(process.pid)
            lines.append(f"rank {rank}, PID {process.pid}, state {state.state if state else 'gone'}:")
            lines += [f"  {line}" for line in text.splitlines()] or ["  no answer"]
        return lines

    def terminate(self) -> None:
        """Ask torchrun, once, to end: it passes the signal on, and kills what is left after 30 s."""
        if not self._terminated:
            self._terminated = True
            processes.send(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, now: after a fault the ranks wait for each other in vain."""
        processes.send(self._process.pid, signal.SIGKILL)
        self._kill_all()

    def _kill_all(self) -> bool:
        """Kill what is left below the supervisor: ranks, DataLoader workers, writers of checkpoints; tell if any was.

        What one of them started meanwhile is found by the next look.
        """
        left = [process for process in processes.below(os.getpid()) if process.state != "Z"]
        for process in left:
            processes.send(process.pid, signal.SIGKILL)
        return bool(left)
