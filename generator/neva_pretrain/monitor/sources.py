"""Where a log comes from: a pipe, a file, a directory, or the job in the cluster.

A source yields :class:`Chunk`s of bytes as they come, an empty one at least every few seconds, so
that who reads can redraw and judge silence. It ends when nothing more will come.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from neva_pretrain.errors import InputError, NevaError
from neva_pretrain.monitor.core.tail import CHUNK, Tail, newest_log
from neva_pretrain.monitor.decode import Decoder, is_compressed

POLL_SECONDS = 1.0
RETRY_SECONDS = 5.0
ASK_SECONDS = 10.0
"""Time between looks at the job while its log is silent: a stream may stay open after the end."""

LOST_AFTER = 60
"""Failed calls in a row after which the API server counts as lost."""


class Chunk(NamedTuple):
    """Bytes of the log.

    Attributes:
        data: what came; may be empty.
        when: when it was written, as far as is known (s since the epoch).
        new_process: the training process began again before these bytes.

    """

    data: bytes
    when: float
    new_process: bool = False


class ClusterError(NevaError):
    """The cluster cannot be asked, or has no such job."""


def pipe(descriptor: int, once: bool) -> Iterator[Chunk]:
    """Read a pipe to its end."""
    while True:
        data = _read(descriptor, None if once else POLL_SECONDS)
        if data == b"":
            return
        yield Chunk(data or b"", time.time())


def path(log: Path, once: bool) -> Iterator[Chunk]:
    """Read a file, or the newest log of a directory; unless ``once``, go on as it grows.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if log.is_file() or log.is_dir():
            yield from _tail(log, once)
        else:  # a pipe, such as the shell's <(...)
            with log.open("rb", buffering=0) as file:
                yield from pipe(file.fileno(), once)
    except OSError as error:
        raise InputError(f"{log}: cannot be read: {error.strerror or error}") from None


def _tail(log: Path, once: bool) -> Iterator[Chunk]:
    with closing(Tail(log)) as tail:
        while True:
            data, written = tail.read()
            if data:
                yield Chunk(data, written)
            elif once:
                return
            else:
                yield Chunk(b"", time.time())
                time.sleep(POLL_SECONDS)


def decoded(chunks: Iterator[Chunk], name: str) -> Iterator[Chunk]:
    """Turn a log that is stored in another way (UTF-16, compressed) into text.

    Raises:
        InputError: it cannot be read as a log.
    """
    decoder = Decoder(name)
    when = time.time()
    for chunk in chunks:
        when = chunk.when
        if not chunk.data:
            yield chunk
        for text in decoder.feed(chunk.data):
            yield chunk._replace(data=text)
    for text in decoder.close():
        yield Chunk(text, when)


def only_compressed(folder: Path) -> list[str]:
    """Return the names of a folder's compressed logs, if it has no other."""
    with suppress(OSError):
        if newest_log(folder) is None:
            return sorted(p.name for p in folder.iterdir() if is_compressed(p.name) and ".log" in p.name)
    return []


def _read(descriptor: int, timeout: float | None) -> bytes | None:
    """Return what can be read now, empty at the end, or None if nothing came in time."""
    ready, _, _ = select.select([descriptor], [], [], timeout)
    return os.read(descriptor, CHUNK) if ready else None


@dataclass(frozen=True)
class Job:
    """A job of the training operator, and where its first node's log is.

    Attributes:
        kind: ``pytorchjob`` or ``trainjob``.
        name: its name.
        annotations: its annotations.
        outcome: how it ended, empty while it has not.
        failed: it ended in failure.

    """

    kind: str
    name: str
    annotations: Mapping[str, str]
    outcome: str = ""
    failed: bool = False


class _Kind(NamedTuple):
    resource: str
    master: str
    container: str


_KINDS = {
    "pytorchjob": _Kind(
        "pytorchjobs.kubeflow.org",
        "training.kubeflow.org/job-name={},training.kubeflow.org/replica-type=master",
        "pytorch",
    ),
    "trainjob": _Kind(
        "trainjobs.trainer.kubeflow.org",
        "jobset.sigs.k8s.io/jobset-name={},jobset.sigs.k8s.io/replicatedjob-name=node,"
        "batch.kubernetes.io/job-completion-index=0",
        "node",
    ),
}


class Kubectl:
    """``kubectl`` with a namespace and context."""

    def __init__(self, namespace: str | None, context: str | None) -> None:
        self._options = [
            *([f"--namespace={namespace}"] if namespace else []),
            *([f"--context={context}"] if context else []),
        ]

    def find(self, name: str) -> Job | None:
        """Return the newest job of that Helm release, else the job of that name."""
        for kind, facts in _KINDS.items():
            for query in (
                [f"--selector=app.kubernetes.io/instance={name}"],
                [f"--field-selector=metadata.name={name}"],
            ):
                found = self._list(facts.resource, query)
                if found:
                    newest = max(found, key=lambda o: str(o["metadata"].get("creationTimestamp")))
                    return _job(kind, newest)
        return None

    def master(self, job: Job) -> tuple[str, str] | None:
        """Return the master pod's name and its container's identity, once that has started."""
        facts = _KINDS[job.kind]
        pods = self._list("pods", [f"--selector={facts.master.format(job.name)}"])
        pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        for pod in reversed(pods):
            for status in pod.get("status", {}).get("containerStatuses") or []:
                state = status.get("state", {})
                if status.get("name") == facts.container and ("running" in state or "terminated" in state):
                    restarts = status.get("restartCount", 0)
                    return pod["metadata"]["name"], f"{pod['metadata'].get('uid')}/{restarts}"
        return None

    def logs(self, job: Job, pod: str, since: str, follow: bool) -> subprocess.Popen[bytes]:
        """Start to read the log of that pod, each line with the time it was written."""
        return subprocess.Popen(
            [
                *(
                    "kubectl",
                    *self._options,
                    "logs",
                    "--timestamps",
                    f"--follow={str(follow).lower()}",
                ),
                *([f"--since-time={since}"] if since else []),
                *(f"--container={_KINDS[job.kind].container}", pod),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _list(self, resource: str, query: list[str]) -> list[dict[str, Any]]:
        argv = ["kubectl", *self._options, "get", resource, *query, "--output=json"]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
        except FileNotFoundError:
            raise ClusterError("kubectl: not found; install it, or pipe a log into neva-monitor") from None
        except subprocess.TimeoutExpired:
            raise ClusterError("kubectl: no answer from the API server for 60 s") from None
        if done.returncode == 0:
            items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
            return items
        said = done.stderr.decode("utf-8", "replace").strip()
        if "doesn't have a resource type" in said:
            return []
        raise ClusterError(f"kubectl get {resource}: {said.splitlines()[-1] if said else 'failed'}")


def _job(kind: str, found: Mapping[str, Any]) -> Job:
    metadata = found["metadata"]
    outcome, failed = "", False
    for condition in found.get("status", {}).get("conditions") or []:
        if condition.get("status") == "True" and condition.get("type") in (
            "Succeeded",
            "Complete",
            "Failed",
        ):
            failed = condition["type"] == "Failed"
            reason = condition.get("message") or condition.get("reason") or ""
            outcome = f"{kind} {metadata['name']}: {condition['type']}. {reason}".strip()
    return Job(kind, metadata["name"], metadata.get("annotations") or {}, outcome, failed)


class Stamped:
    r"""Takes the times off the lines of ``kubectl logs --timestamps``, and drops lines seen before.

    A line may be endless (a bar ends with ``\r``), so it is passed on as it comes.
    """

    def __init__(self) -> None:
        self.last = ""
        self._seen = ""
        self._rest = b""
        self._inside = self._keep = False

    def reconnect(self) -> None:
        """Say that the stream begins again, at or before the last line seen."""
        self._seen, self._rest, self._inside = self.last, b"", False

    def feed(self, data: bytes) -> bytes:
        """Return the new log text in these bytes."""
        data = self._rest + data
        self._rest = b""
        kept: list[bytes] = []
        at = 0
        while at < len(data):
            if not self._inside:
                space = data.find(b" ", at, at + 40)
                if space < 0 and len(data) - at < 40 and b"\n" not in data[at:]:
                    self._rest = data[at:]
                    break
                stamp = data[at:space].decode("ascii", "replace") if space > 0 else ""
                if stamp[:4].isdecimal():
                    self._keep = stamp > self._seen
                    self.last = max(self.last, stamp)
                    at = space + 1
                else:
                    self._keep = True
            newline = data.find(b"\n", at)
            end = newline + 1 if newline >= 0 else len(data)
            if self._keep:
                kept.append(data[at:end])
            self._inside = newline < 0
            at = end
        return b"".join(kept)

    @property
    def when(self) -> float:
        """The time of the last line (s since the epoch)."""
        try:
            return datetime.fromisoformat(self.last).timestamp()
        except ValueError:
            return time.time()


class JobLog:
    """The master's log of a job, through reconnects and restarts, until the job ends.

    ``job`` is its newest state.
    """

    def __init__(self, kubectl: Kubectl, name: str, wait: Callable[[float], None] = time.sleep) -> None:
        self._kubectl = kubectl
        self._name = name
        self._wait = wait
        found = kubectl.find(name)
        if found is None:
            raise ClusterError(
                f"{name}: no PyTorchJob or TrainJob of that release or name; "
                "see `helm list`, and give its namespace with -n"
            )
        self.job = found

    def chunks(self, once: bool = False) -> Iterator[Chunk]:
        """Yield the log; ends with the job, or with what is there if ``once``."""
        stamped = Stamped()
        container = ""
        failures = 0
        while True:
            try:
                last = self._has_ended() or once
                master = self._kubectl.master(self.job)
                failures = 0
            except ClusterError:
                failures += 1
                if failures > LOST_AFTER:
                    raise
                last, master = False, None
            if master is not None:
                pod, identity = master
                began = bool(container) and identity != container
                if identity != container:
                    stamped = Stamped()
                container = identity
                stamped.reconnect()
                yield Chunk(b"", time.time(), began)
                yield from self._read(pod, stamped, follow=not last)
            if last:
                return
            yield Chunk(b"", time.time())
            self._wait(RETRY_SECONDS)

    def _has_ended(self) -> bool:
        if not self.job.outcome:
            found = self._kubectl.find(self._name)
            if found is None or found.name != self.job.name:
                found = replace(self.job, outcome=f"the {self.job.kind} {self.job.name} was deleted")
            self.job = found
        return bool(self.job.outcome)

    def _read(self, pod: str, stamped: Stamped, follow: bool) -> Iterator[Chunk]:
        with self._kubectl.logs(self.job, pod, stamped.last, follow) as process:
            assert process.stdout is not None  # noqa: S101 (it is a pipe)
            asked = time.monotonic()
            try:
                while True:
                    data = _read(process.stdout.fileno(), POLL_SECONDS)
                    if data == b"":
                        return
                    if data is None and follow and time.monotonic() - asked >= ASK_SECONDS:
                        asked = time.monotonic()
                        with suppress(ClusterError):
                            if self._has_ended():
                                return  # what is left is read without following
                    text = stamped.feed(data or b"")
                    yield Chunk(text, stamped.when if text else time.time())
            finally:
                process.terminate()
