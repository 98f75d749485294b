"""Processes below this one, as /proc shows them."""

import contextlib
import ctypes
import os
import signal
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat."""

    pid: int
    parent: int
    state: str
    name: str


def adopt_orphans() -> None:
    """Become the parent of all orphans below this process, as PID 1 of a container is anyway."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def state(pid: int) -> Process | None:
    """Return a process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    # The name may hold anything, brackets too.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(pid, int(fields[1]), fields[0], head.partition("(")[2]) if len(fields) > 1 else None


def below(pid: int) -> list[Process]:
    """Return all processes that descend from one, children before their own."""
    found = [p for p in map(state, map(int, filter(str.isdigit, os.listdir("/proc")))) if p]
    children: dict[int, list[Process]] = {}
    for process in found:
        children.setdefault(process.parent, []).append(process)
    tree: list[Process] = []
    waiting = [pid]
    while waiting:
        inner = children.get(waiting.pop(0), [])
        tree += inner
        waiting += [p.pid for p in inner]
    return tree


def variable(pid: int, name: str) -> str | None:
    """Return a variable of a process's environment at its start."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return None
    prefix = name.encode() + b"="
    return next((e[len(prefix) :].decode(errors="replace") for e in entries if e.startswith(prefix)), None)


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def reap(keep: int) -> None:
    """Take the exit codes of orphans; one process is left to whoever waits for it.

    Asked ten times a second, so without a look at all of /proc.
    """
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == keep:
                break
            os.waitpid(ended.si_pid, os.WNOHANG)
