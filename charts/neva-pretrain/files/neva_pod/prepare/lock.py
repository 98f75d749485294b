"""Keeps two prepares from making the same thing at once."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator

from neva_pod.prepare.errors import say, unwritten
from neva_pod.prepare.publish import beside

WAIT = 1.0
"""Seconds between two looks at a lock that another prepare holds."""


@contextlib.contextmanager
def locked(name: str, finals: Iterable[str]) -> Iterator[None]:
    """Keep other prepares away from these names.

    The lock is fcntl's on a file beside each name: the kernel releases it with its holder, also after kill -9, and
    GPFS, NFSv4 and Lustre (mounted with flock) enforce it between nodes; if a node is lost, until its lease expires.
    flock(2) would not do: GPFS and some NFS grant it to everyone. The file itself means nothing.
    """
    held: list[tuple[str, int]] = []
    try:
        for final in sorted(finals):
            path = beside(final, "lock")
            held.append((path, _lock(name, path)))
        yield
    finally:
        for path, fd in reversed(held):
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(fd)


def _lock(name: str, path: str) -> int:
    """Return the lock's descriptor, when it is ours."""
    next_line = 0.0
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise unwritten(path, error) from None
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                say(f"{name}: {path}: this file system has no locks ({error.strerror}); do not start a second prepare")
                return fd
            holder = os.pread(fd, 200, 0).decode(errors="replace") or "another prepare"
            os.close(fd)
            if time.monotonic() >= next_line:
                next_line = time.monotonic() + 60
                say(f"{name}: waiting for {holder}, which holds {path}")
            time.sleep(WAIT)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):  # else its last holder has removed it
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.uname().nodename} (pid {os.getpid()}, since {time.ctime()})".encode(), 0)
                return fd
        os.close(fd)
