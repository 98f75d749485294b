"""The lease of a results folder: one writer at a time, whichever job, release, namespace or cluster it comes from.

A lease is a file ``lease/N.json`` of the results folder, N its generation; the newest one counts. This relies on

- link(2) and O_EXCL being atomic between clients: GPFS, NFSv3 and later, Lustre, every local file system;
- a file that this client makes showing it the folder as it is: NFS drops its cached listing then, and open() its cached
  times (close-to-open consistency), so every look makes a probe file first and opens what it asks for its time;
- the clock of the file system, never a pod's: ``utime`` without times is stamped by NFS's server. GPFS stamps by the
  node's clock, so an old lease is also watched for two renewals before it counts as stale: a holder that lives renews.

A holder that was paused for longer than the lease lives learns at its next renewal that another has taken over.
"""

import contextlib
import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone

from neva_pod.findings import show

FOLDER = "lease"
"""Of a results folder: where its leases are."""
RENEW_SECONDS = 10.0
TTL_SECONDS = 60.0
"""A lease that was not renewed for so long is stale."""
LARGEST = 64 * 2**10
"""Bytes that are read of a lease."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LeaseError(Exception):
    """The lease cannot be taken; the message is a whole sentence."""


class HeldError(LeaseError):
    """Another run writes into the folder."""


@dataclass(frozen=True)
class Identity:
    """Whose lease it is; ``values`` is the hash that names the job."""

    namespace: str
    release: str
    pod: str
    pod_uid: str
    node: str
    values: str

    def to_json(self, since: str, released: bool = False) -> str:
        """Return the content of a lease."""
        return json.dumps({**asdict(self), "since": since, "released": released}, indent=2) + "\n"

    @classmethod
    def from_json(cls, found: object) -> "Identity | None":
        """Return the identity in a lease's content, if there is one."""
        names = [field.name for field in fields(cls)]
        if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
            return None
        return cls(**{name: found[name] for name in names})


@dataclass(frozen=True)
class Times:
    """How often a lease is renewed, and for how long it lives without."""

    renew: float = RENEW_SECONDS
    ttl: float = TTL_SECONDS


@dataclass(frozen=True)
class Holder:
    """The newest lease of a folder as it was read; the identity is None where the file is garbled."""

    generation: int
    identity: Identity | None
    since: str
    released: bool
    renewed: int
    """When, in nanoseconds by the file system's clock."""
    age: float | None
    """Seconds since then by the same clock; None where the folder cannot be written."""

    def __str__(self) -> str:
        """Return who holds it and since when."""
        who = self.identity
        words = [f"an unreadable lease, generation {self.generation}"]
        if who:
            words = [f"the lease of pod {who.pod}", f"namespace {who.namespace}", f"release {who.release}"]
            words += [f"node {who.node}", f"values {who.values}", f"since {self.since}"]
        if self.age is not None:
            words.append(f"renewed {max(0, round(self.age))} s ago")
        return show(f"{words[0]} ({', '.join(words[1:])})" if len(words) > 1 else words[0])


class Files:
    """All that the lease asks of the file system."""

    def __init__(self, results: str) -> None:
        self.path = os.path.join(results, FOLDER)

    def make(self) -> None:
        """Make the folder."""
        os.makedirs(self.path, exist_ok=True)

    def now(self) -> int:
        """Return the file system's time in nanoseconds."""
        handle, path = tempfile.mkstemp(prefix=".probe-", dir=self.path)
        try:
            return os.fstat(handle).st_mtime_ns
        finally:
            os.close(handle)
            with contextlib.suppress(OSError):
                os.unlink(path)

    def generations(self) -> list[int]:
        """Return the generations that have a file, the newest last."""
        return sorted(int(name[:-5]) for name in os.listdir(self.path) if re.fullmatch(r"[0-9]{12,18}\.json", name))

    def read(self, generation: int) -> tuple[bytes, int]:
        """Return the content and the time of a lease; no content where it cannot be read."""
        path = self.file(generation)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return b"", os.lstat(path).st_mtime_ns
        try:
            renewed = os.fstat(handle).st_mtime_ns
            try:
                return os.read(handle, LARGEST), renewed
            except OSError:
                return b"", renewed
        finally:
            os.close(handle)

    def claim(self, generation: int, content: Callable[[int], str]) -> bool:
        """Make the file of a generation whole at once; its content may hold the time. False: another one was first."""
        temporary = self._written(content)
        path = self.file(generation)
        try:
            os.link(temporary, path)
        except OSError as error:
            # An answer of NFS may be lost, and the repeated request finds the link that the first one made.
            if _links(temporary) > 1:
                return True
            if error.errno in NO_LINKS:
                return self._created(path, temporary)
            if error.errno in (errno.EEXIST, errno.ENOENT):
                return False
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        return True

    def touch(self, generation: int) -> None:
        """Renew: the file system stamps it."""
        os.utime(self.file(generation))

    def rewrite(self, generation: int, content: str) -> None:
        """Replace the content of a lease at once."""
        os.replace(self._written(lambda _: content), self.file(generation))

    def remove(self, generation: int) -> None:
        """Remove a lease, which may be gone."""
        with contextlib.suppress(OSError):
            os.unlink(self.file(generation))

    def clear(self, before: int) -> None:
        """Remove what killed processes left: temporary files from before a time."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path):
                path = os.path.join(self.path, name)
                if name.startswith(".") and os.stat(path).st_mtime_ns < before:
                    os.unlink(path)

    def file(self, generation: int) -> str:
        """Return the path of a lease."""
        return os.path.join(self.path, f"{generation:012}.json")

    def _written(self, content: Callable[[int], str]) -> str:
        handle, path = tempfile.mkstemp(prefix=".lease-", dir=self.path)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(content(os.fstat(handle).st_mtime_ns))
                file.flush()
                os.fchmod(handle, 0o644)  # others may ask who holds it
                os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        return path

    def _created(self, path: str, temporary: str) -> bool:
        """Claim where there are no hard links: the file is empty for a moment, which readers take for a live lease."""
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        os.close(handle)
        os.replace(temporary, path)
        return True


def _links(path: str) -> int:
    try:
        return os.stat(path).st_nlink
    except OSError:
        return 0


class Lease:
    """A lease that was taken; the supervisor's loop renews it."""

    def __init__(self, files: Files, identity: Identity, generation: int, say: Callable[[str], None]) -> None:
        self._files, self._identity, self._say = files, identity, say
        self.generation = generation
        self._lost: str | None = None
        self._silent = False

    def renew(self) -> str | None:
        """Renew the lease; return why the run must stop, once it must.

        A renewal that fails is said once and tried again: who cannot write does no damage.
        """
        if self._lost:
            return self._lost
        gone = False
        try:
            try:
                self._files.touch(self.generation)
            except FileNotFoundError:
                gone = True
            newest = _newest(self._files, fresh=True)
        except OSError as error:
            if not self._silent and not gone:
                self._say(
                    f"{show(self._files.path)}: the lease cannot be renewed ({error.strerror or error}); trying again"
                )
            self._silent = True
            # A full or read-only file system can still be read.
            newest = _quiet_newest(self._files)
        else:
            if self._silent:
                self._say(f"{show(self._files.path)}: the lease is renewed again")
            self._silent = False
        if newest and newest.generation > self.generation:
            self._lost = self._sentence(f"{newest}, which took over; must hold the newest lease")
        elif gone:
            self._lost = self._sentence(f"no file {self.generation:012}.json; must hold the lease that this run took")
        return self._lost

    def release(self) -> None:
        """Give the lease back, so that the next run need not wait; a lease that was lost is left alone."""
        if self.renew() is not None:
            return
        try:
            since = _holder(self.generation, *self._files.read(self.generation), None).since
            self._files.rewrite(self.generation, self._identity.to_json(since, released=True))
        except OSError as error:
            self._say(f"{show(self._files.path)}: the lease cannot be released ({error.strerror or error}); it expires")

    def _sentence(self, found: str) -> str:
        return (
            f"{show(self._files.path)}: got {found} to write results; this run stops, "
            "so that two never write one folder; see that run, or choose another run.id"
        )


def take(
    folder: str,
    identity: Identity,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    *,
    times: Times | None = None,
    files: Files | None = None,
) -> Lease:
    """Take the lease of a results folder; wait while an old one may still be alive.

    No lease is taken on trust, not even one of this pod's own earlier process: it may still be writing.

    Raises:
        HeldError: another run renews its lease.
        LeaseError: the folder cannot be used.

    """
    times, files = times or Times(), files or Files(folder)
    pause = times.renew / 5
    try:
        files.make()
        seen: Holder | None = None
        watched = 0.0
        while True:
            before, seen = seen, _newest(files, fresh=True)
            if seen and before and seen.generation == before.generation:
                if seen.renewed != before.renewed and not seen.released:
                    raise _held(folder, seen)
            else:
                watched = 0.0
            if seen is None or seen.released or _stale(seen, watched, times):
                if seen and not seen.released:
                    say(f"{show(files.path)}: taking over {seen}: its holder is gone")
                generation = _claim(files, identity, seen, times)
                if generation:
                    return Lease(files, identity, generation, say)
                seen = None
            elif not watched:
                say(f"{show(files.path)}: found {seen}; waiting until it is renewed or {times.ttl:g} s old")
            sleep(pause)
            watched += pause
    except OSError as error:
        raise LeaseError(
            f"{show(files.path)}: got {error.strerror or error} as uid {os.geteuid()}; must be writable, so that one "
            "run at a time writes results; check the owner, mode and free space of storage.results"
        ) from None


def living(results: str, sleep: Callable[[float], None] = time.sleep, *, times: Times | None = None) -> Holder | None:
    """Return who holds the lease of a results folder, if somebody does."""
    return first_living([results], sleep=sleep, times=times)


def first_living(
    results: Sequence[str],
    wanted: Callable[[Holder], bool] = lambda _: True,
    sleep: Callable[[float], None] = time.sleep,
    *,
    times: Times | None = None,
) -> Holder | None:
    """Return the first holder that lives and is wanted.

    Where the folders cannot be written, there is no clock to tell an age by: all are watched for a renewal.
    """
    times = times or Times()
    watched: dict[str, Holder] = {}
    for folder in results:
        holder = _quiet_newest(Files(folder), fresh=True)
        if not holder or holder.released or not wanted(holder):
            continue
        if holder.age is not None and holder.age < times.ttl:
            return holder
        watched[folder] = holder
    unknown = any(holder.age is None for holder in watched.values())
    left = (times.ttl if unknown else 2 * times.renew) if watched else 0.0
    while left > 0:
        sleep(times.renew / 5)
        left -= times.renew / 5
        for folder, before in watched.items():
            holder = _quiet_newest(Files(folder), fresh=True)
            if not holder or holder.released or not wanted(holder):
                continue
            if (holder.generation, holder.renewed) != (before.generation, before.renewed):
                return holder
    return None


def _claim(files: Files, identity: Identity, old: Holder | None, times: Times) -> int | None:
    """Try to make the next generation; return it, or None where another one was first."""
    generation = old.generation + 1 if old else 1
    if not files.claim(generation, lambda now: identity.to_json(_date(now))):
        return None
    # The old holder renews, then looks for a newer lease; this one makes a newer lease, then looks for a renewal:
    # whichever comes second sees the other.
    if (old and _renewed(files, old.generation) not in (None, old.renewed)) or files.generations()[-1] > generation:
        files.remove(generation)
        return None
    for other in files.generations():
        if other < generation:
            files.remove(other)
    with contextlib.suppress(OSError):
        files.clear(files.now() - int(times.ttl * 1e9))
    return generation


def _renewed(files: Files, generation: int) -> int | None:
    try:
        return files.read(generation)[1]
    except FileNotFoundError:
        return None


def _stale(holder: Holder, watched: float, times: Times) -> bool:
    """Whether nobody renews a lease, which did not change while it was watched."""
    old = holder.age is not None and holder.age >= times.ttl
    return watched >= times.ttl or (old and watched >= 2 * times.renew)


def _newest(files: Files, fresh: bool = False) -> Holder | None:
    """Return the newest lease; ``fresh``: with its age, from a folder that no cache hides."""
    now = None
    if fresh:
        with contextlib.suppress(OSError):
            now = files.now()
    for _ in range(10):  # a newer one may come and this one go meanwhile
        generations = files.generations()
        if not generations:
            return None
        try:
            content, renewed = files.read(generations[-1])
        except FileNotFoundError:
            continue
        return _holder(generations[-1], content, renewed, now)
    raise OSError(errno.EBUSY, "leases come and go")


def _quiet_newest(files: Files, fresh: bool = False) -> Holder | None:
    try:
        return _newest(files, fresh)
    except OSError:
        return None


def _holder(generation: int, content: bytes, renewed: int, now: int | None) -> Holder:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    identity = Identity.from_json(found)
    since = found.get("since") if identity else None
    released = bool(identity) and found.get("released") is True
    age = None if now is None else (now - renewed) / 1e9
    return Holder(generation, identity, since if isinstance(since, str) else "?", released, renewed, age)


def _date(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _held(folder: str, holder: Holder) -> HeldError:
    who = holder.identity
    stop = (
        f"wait for that run or end it (helm uninstall {who.release} --namespace {who.namespace})"
        if who
        else ("find the run that renews it and end it")
    )
    return HeldError(f"{show(folder)}: got {holder}; must have one writer; {show(stop)}, or choose another run.id")
