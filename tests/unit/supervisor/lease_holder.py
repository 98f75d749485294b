"""A process that takes and holds leases as its standard input says: `take FOLDER`, `drop`, `release`.

Prints a line for each: `won GENERATION`, `held SENTENCE`, `dropped`, `released`; `lost SENTENCE` when it must stop.
"""

import os
import select
import sys

from neva_pod.supervisor.lease import Identity, Lease, LeaseError, Times, take


def main(pod: str, namespace: str, release: str, renew: str, ttl: str) -> None:
    identity = Identity(namespace, release, pod, f"uid-{pod}", "node-1", "abc123")
    times = Times(float(renew), float(ttl))
    lease: Lease | None = None
    pending = b""
    while True:
        if select.select([0], [], [], times.renew / 2)[0]:
            read = os.read(0, 4096)
            if not read:
                return
            pending += read
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            word, _, folder = line.decode().partition(" ")
            if word == "take":
                try:
                    lease = take(folder, identity, lambda words: print(words, file=sys.stderr, flush=True), times=times)
                    print("won", lease.generation, flush=True)
                except LeaseError as error:
                    print("held", error, flush=True)
            elif word == "drop":
                lease = None
                print("dropped", flush=True)
            elif lease:
                lease.release()
                lease = None
                print("released", flush=True)
        lost = lease.renew() if lease else None
        if lost:
            lease = None
            print("lost", lost, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
