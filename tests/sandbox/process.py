"""Start processes and find and stop exactly those again.

Every process of a sandbox carries the sandbox's folder in its environment, and so does whatever it
starts itself. A process is found by that mark and signalled through a pidfd, so a recycled pid can
never be mistaken for one of ours, no list of pids can go stale, and a sandbox whose owner was
killed can still be cleaned up completely.
"""

import contextlib
import os
import random
import select
import signal
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.tools import cache_root
from tests.waiting import PATIENCE

MARK = "NEVA_SANDBOX"


@dataclass(frozen=True)
class Process:
    """One live process of a sandbox."""

    pid: int
    command: str


def environment(folder: Path) -> dict[str, str]:
    """Environment of everything that a sandbox starts: ours, marked."""
    return {**os.environ, MARK: str(folder)}


def spawn(argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> int:
    """Start a program in a session of its own, its output in ``log``; returns the pid."""
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def find(folder: Path) -> list[Process]:
    """List the live processes of the sandbox in ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_ours(int(entry.name), folder):
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                found.append(Process(int(entry.name), Path(os.fsdecode(argv[0])).name))
    return sorted(found, key=lambda process: process.pid)


def restart(folder: Path, commands: Collection[str], *, log: Path) -> None:
    """Kill the one process of the sandbox with such a name, and start it again as it was started."""
    (process,) = (process for process in find(folder) if process.command in commands)
    entry = Path(f"/proc/{process.pid}")
    argv = [os.fsdecode(word) for word in (entry / "cmdline").read_bytes().split(b"\0")[:-1]]
    variables = [os.fsdecode(pair) for pair in (entry / "environ").read_bytes().split(b"\0")[:-1]]
    argv[0] = str((entry / "exe").readlink())
    if not _kill(process.pid, folder, PATIENCE):
        raise ProcessLookupError(f"{process.command}: not running")
    spawn(argv, log=log, env=dict(pair.split("=", 1) for pair in variables))


def stop(folder: Path, timeout: float = PATIENCE) -> list[Process]:
    """Kill every process of the sandbox and return them; state is thrown away, so no grace."""
    deadline = time.monotonic() + timeout
    stopped: list[Process] = []
    while processes := find(folder):  # again, for what a dying process had just started
        for process in processes:
            if _kill(process.pid, folder, max(0.0, deadline - time.monotonic())):
                stopped.append(process)
        if time.monotonic() > deadline:
            names = ", ".join(f"{process.command} ({process.pid})" for process in processes)
            raise TimeoutError(f"still running after {timeout:.0f} s: {names}")
    return stopped


def _is_ours(pid: int, folder: Path) -> bool:
    entry = Path(f"/proc/{pid}")
    try:
        for _ in range(200):
            if variables := (entry / "environ").read_bytes():
                return os.fsencode(f"{MARK}={folder}") in variables.split(b"\0")
            # Empty for an instant while a program replaces the one that started it: for one of
            # our programs that means look again, not that it is somebody else's.
            program = (entry / "exe").readlink()
            if not any(program.is_relative_to(place) for place in (folder, cache_root())):
                return False
            time.sleep(0.005)
    except OSError:  # another user's, or gone
        pass
    return False


def _kill(pid: int, folder: Path, timeout: float) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not _is_ours(pid, folder):  # asked again now that the handle pins the process
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], timeout)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # reap it when it is our own child
    return True


def interrupt_once() -> None:
    """Make Ctrl-C, and being told to stop, one KeyboardInterrupt: a second must not cut the cleaning up short.

    Also when a script started us in the background, where SIGINT is ignored by default.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupted(_: int, __: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupted)


def free_ports(count: int) -> list[int]:
    """Pick free loopback ports below the range that the kernel gives to outgoing connections."""
    chosen: list[int] = []
    while len(chosen) < count:
        port = random.randrange(20000, 32000)  # noqa: S311 - not a secret
        if port not in chosen and is_free(port):
            chosen.append(port)
    return chosen


def free_port_pair() -> int:
    """Pick a free loopback port whose next one is free, too: the supervisor takes the one after torchrun's."""
    return next(port for port in iter(lambda: free_ports(1)[0], None) if is_free(port + 1))


def is_free(port: int) -> bool:
    """Tell whether a loopback port can be bound."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
