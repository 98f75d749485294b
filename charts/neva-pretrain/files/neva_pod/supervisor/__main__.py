"""PID 1 of the training container, after launch.sh: this node's agent and, on the master, the coordinator.

Exit codes: 0 the run has ended, 64 wrong configuration, results folder held by another run or with something of no use
in the place of the run's own, or rank held by another pod, 65 the loss is not a number, 69 a node or the master did not
come, 70 too many failures without progress, 143 stopped by SIGTERM.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

from neva_pod.findings import ProblemError, UsageError, show
from neva_pod.inputs.files import NotAFileError
from neva_pod.inputs.saved import DAMAGED, Recovery, need_folders, recover
from neva_pod.supervisor import processes
from neva_pod.supervisor.agent import FOLDER_SECONDS, Agent, say
from neva_pod.supervisor.background import Background
from neva_pod.supervisor.control import listen
from neva_pod.supervisor.coordinator import Coordinator
from neva_pod.supervisor.folders import make_results, write_record
from neva_pod.supervisor.lease import RENEW_SECONDS, TTL_SECONDS, Identity, Lease, LeaseError, Times, take
from neva_pod.supervisor.node import DONE, GAVE_UP, STOPPED, WRONG, Node
from neva_pod.supervisor.peers import Peers
from neva_pod.supervisor.restarts import Attempt, Restarts

T = TypeVar("T")
JUDGE_AGAIN = 3
"""Times that checkpoints which cannot be read are judged again: a file system may be back soon."""


class RefusedError(Exception):
    """The run must not start."""


def answered(call: Callable[[], T], seconds: float, path: str, node: str) -> T:
    """Return what a call returns that a hung file system may hold up."""
    work = Background(call)
    if not work.wait(seconds):
        where = node or "this node"
        raise RefusedError(f"{show(path)}: no answer after {seconds:.0f} s; check the file systems of {where}")
    return work.result()


class Renewer:
    """Renews the lease by a thread of its own, which the file system may hold up."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._ended = threading.Event()
        self.lost: str | None = None
        """Why this run must stop: the lease is another's."""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and self.lost is None:
            self.lost = self._lease.renew()

    def release(self) -> None:
        """Give the lease up, unless the file system does not answer."""
        self._ended.set()
        self._thread.join(RENEW_SECONDS)
        if self.lost is None and not self._thread.is_alive():
            Background(self._lease.release).wait(RENEW_SECONDS)


def become_master(node: Node) -> tuple[Coordinator, int, Renewer]:
    """Take the results folder, write what this run is, and open the port.

    Raises:
        RefusedError: with the reason.
    """
    renewer = Renewer(_take(node))
    try:
        return *_with_lease(node, renewer), renewer
    except BaseException:
        renewer.release()
        raise


def _with_lease(node: Node, renewer: Renewer) -> tuple[Coordinator, int]:
    if problem := answered(lambda: write_record(node), FOLDER_SECONDS, node.results, node.name):
        raise RefusedError(problem)
    checkpoints = node.settings.text("results.checkpointsDir", os.path.join(node.results, "results", "checkpoints"))
    damaged = os.path.join(node.results, DAMAGED)
    try:
        restarts = _restarts(node)
        answered(restarts.need_writable, FOLDER_SECONDS, node.results, node.name)
    except OSError as error:
        raise RefusedError(_unusable(error)) from None
    answered(lambda: need_folders(checkpoints, damaged), FOLDER_SECONDS, node.results, node.name)

    def recovery() -> Recovery | None:
        for _ in range(JUDGE_AGAIN if node.resumes else 0):
            with contextlib.suppress(ProblemError, OSError):
                return recover(checkpoints, damaged, node.settings.parallel)
            time.sleep(RENEW_SECONDS)
        return recover(checkpoints, damaged, node.settings.parallel) if node.resumes else None

    try:
        server = listen(node.port, everywhere=node.nodes > 1)
    except OSError as error:
        raise RefusedError(
            f"rendezvous.port: got port {node.port - 1}, but port {node.port} after it cannot be opened "
            f"({error.strerror}); both must be free on the master; use another port"
        ) from None
    peers = Peers(node, server)
    coordinator = Coordinator(node, peers, restarts, recovery, lambda: renewer.lost, say)
    return coordinator, server.getsockname()[1]


def _ended_before(node: Node) -> Attempt | None:
    """Return the attempt with which this run came to its end, if it would resume there; a worker may not read it."""
    if node.resumes and node.settings.flag("checkpoint.enabled"):
        with contextlib.suppress(OSError):
            return _restarts(node).done
    return None


def _restarts(node: Node) -> Restarts:
    path = os.path.join(node.results, "restarts.jsonl")
    return answered(lambda: Restarts(path, node.job), FOLDER_SECONDS, path, node.name)


def _unusable(error: OSError) -> str:
    """Say why the record of attempts is of no use: without it, failures are not counted."""
    path = show(str(error.filename))
    if isinstance(error, NotAFileError | IsADirectoryError):
        return f"{path}: got no regular file; must be this run's record of attempts; remove it"
    return (
        f"{path}: cannot be read and written as uid {os.geteuid()} ({error.strerror}); must be this run's record of "
        "attempts; check its owner and mode, and podSecurityContext.runAsUser"
    )


def _take(node: Node) -> Lease:
    if problem := answered(lambda: make_results(node), FOLDER_SECONDS, node.results, node.name):
        raise RefusedError(problem)
    release = node.settings.text("run.release", "")
    identity = Identity(node.namespace, release, node.pod, node.uid, node.name, node.digest)
    try:
        limit, times = FOLDER_SECONDS + 2 * TTL_SECONDS, Times(RENEW_SECONDS, TTL_SECONDS)
        return answered(lambda: take(node.results, identity, say, times=times), limit, node.results, node.name)
    except LeaseError as error:
        raise RefusedError(str(error)) from None


def coordinate(coordinator: Coordinator) -> None:
    """Run the coordinator; its end by a fault of its own is the job's."""
    try:
        coordinator.serve()
    except BaseException as error:  # nobody else would tell
        traceback.print_exc()
        say(f"ERROR: the supervisor has failed ({type(error).__name__}: {error}); this is a fault of the chart")
        leave(GAVE_UP)


def leave(code: int) -> NoReturn:
    """End this process, whatever its threads wait for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> int:
    """Supervise this node; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave(STOPPED))
    processes.adopt_orphans()
    try:
        node = Node.of_environment(os.environ)
        if done := _ended_before(node):
            say(
                f"this run has ended already, at step {done.step} (attempt {done.number}, {done.ended}): nothing is "
                "left to do; raise training.maxSteps to go on from there, or use a new run.id"
            )
            return DONE
        if node.rank > 0:
            return Agent(node, node.port, lambda _: None).run()
        coordinator, port, renewer = become_master(node)
    except (UsageError, RefusedError) as error:
        say(f"ERROR: {error}")
        return WRONG
    except ProblemError as error:
        say(f"ERROR: {error.finding.message}; {error.finding.fix}")
        return WRONG
    except OSError as error:
        say(f"ERROR: {error}; must be readable and writable as uid {os.geteuid()}; check storage.results")
        return WRONG
    thread = threading.Thread(target=coordinate, args=(coordinator,), name="coordinator", daemon=True)
    thread.start()
    code = Agent(node, port, coordinator.read).run()
    if code == STOPPED:
        coordinator.leave()
    else:
        thread.join(2 * RENEW_SECONDS)
    renewer.release()
    return code


if __name__ == "__main__":
    leave(main())
