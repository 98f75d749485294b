"""Where a log comes from: a pipe, a file, a directory, or the job in the cluster.

A source yields :class:`Chunk`s of bytes as they come, an empty one at least every few seconds, so
that who reads can redraw and judge silence. It ends when nothing more will come.
"""

import os
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from neva_pod.monitor.judge import Judgement
from neva_pod.monitor.tail import CHUNK, Tail, newest_log
from neva_pretrain.errors import InputError
from neva_pretrain.kubectl import TIMEOUT, ClusterError, ForbiddenError, trouble
from neva_pretrain.monitor.decode import Decoder, is_compressed
from neva_pretrain.monitor.findings import unreadable
from neva_pretrain.monitor.jobs import Job, Jobs
from neva_pretrain.monitor.pods import Look

POLL_SECONDS = 1.0
RETRY_SECONDS = 5.0
ASK_SECONDS = 10.0
"""Time between looks at the job while its log is silent: a stream may stay open after the end."""

LOOK_SECONDS = 15.0
"""Time between looks at why pods do not run; of very many pods ten times what a look takes."""

LOST_AFTER = 60
"""Failed calls in a row after which the API server counts as lost."""


class Chunk(NamedTuple):
    """Bytes of the log.

    Attributes:
        data: what came; may be empty.
        when: when it was written, as far as is known (s since the epoch).
        new_process: the training process began again before these bytes.
        waiting: there is no training process now.

    """

    data: bytes
    when: float
    new_process: bool = False
    waiting: bool = False


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
    if timeout is not None and sys.platform != "win32":  # where it knows sockets only
        ready, _, _ = select.select([descriptor], [], [], timeout)
        if not ready:
            return None
    return os.read(descriptor, CHUNK)


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

    ``job`` is its newest state, ``findings`` what the cluster says of why it does not run.
    """

    def __init__(
        self,
        kubectl: Jobs,
        name: str,
        wait: Callable[[float], None] = time.sleep,
        job: Job | None = None,
        tail: int | None = None,
    ) -> None:
        """Take the release or job by its name, or as it was found; ``tail`` is how many last lines are read."""
        self._kubectl = kubectl
        self._name = name
        self._wait = wait
        self._tail = tail
        self._look = Look(kubectl, time.time)
        self._next_look = float("-inf")
        self._unread: list[Judgement] = []
        self._of_pods: list[Judgement] = []
        found = job or kubectl.find(name)
        if found is None:
            refused = "".join(f"; {words}" for words in kubectl.refused)
            raise ClusterError(
                f"{name}: no PyTorchJob or TrainJob of that release or name; "
                f"see `helm list`, and give its namespace with -n{refused}"
            )
        self.job = found

    @property
    def findings(self) -> list[Judgement]:
        """What keeps the job from running, and its log from being read."""
        return [*self._of_pods, *self._unread]

    def chunks(self, once: bool = False) -> Iterator[Chunk]:
        """Yield the log; ends with the job, or with what is there if ``once``."""
        stamped = Stamped()
        container = ""
        failures = 0
        while True:
            try:
                last = once or self._has_ended()
                master = self._kubectl.master(self.job)
                self._look_at_pods(now=last)
                failures = 0
            except ClusterError as error:
                failures += 1
                if failures > LOST_AFTER or once or isinstance(error, ForbiddenError):
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
            yield Chunk(b"", time.time(), waiting=master is None)
            self._wait(RETRY_SECONDS)

    def _has_ended(self) -> bool:
        if not self.job.outcome:
            found = self._kubectl.find(self._name)
            if found is None or found.name != self.job.name:
                outcome = f"the {self.job.kind} {self.job.name} was deleted"
                found = replace(self.job, outcome=outcome, deleted=True)
            self.job = found
        return bool(self.job.outcome)

    def _look_at_pods(self, now: bool = False) -> None:
        """Ask why pods do not run, now and then; what was seen of a failed job's pods outlives them."""
        began = time.monotonic()
        if now or began >= self._next_look:
            found = self._look.findings(self.job)
            self._next_look = time.monotonic() + max(LOOK_SECONDS, 10 * (time.monotonic() - began))
            if found or not self.job.failed:
                self._of_pods = found

    def _read(self, pod: str, stamped: Stamped, follow: bool) -> Iterator[Chunk]:
        with (
            tempfile.TemporaryFile() as said,
            self._kubectl.logs(self.job, pod, stamped.last, follow, said, self._tail) as process,
        ):
            assert process.stdout is not None  # noqa: S101 (it is a pipe)
            asked = heard = time.monotonic()
            came = False
            try:
                while True:
                    data = _read(process.stdout.fileno(), POLL_SECONDS)
                    if data == b"":
                        break
                    if data is None and follow and time.monotonic() - asked >= ASK_SECONDS:
                        asked = time.monotonic()
                        with suppress(ClusterError):
                            if self._has_ended():
                                return  # what is left is read without following
                            self._look_at_pods()
                    if data is not None:
                        heard = time.monotonic()
                    elif not follow and time.monotonic() - heard >= TIMEOUT:
                        self._unread = [unreadable(f"kubectl logs: no answer from the API server for {TIMEOUT} s")]
                        return
                    text = stamped.feed(data or b"")
                    came = came or bool(data)
                    yield Chunk(text, stamped.when if text else time.time())
                failed = process.wait() != 0 and not came
                said.seek(0)
                self._unread = [unreadable(str(trouble("kubectl logs", said.read())))] if failed else []
            finally:
                process.terminate()
