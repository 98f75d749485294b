"""Ends ``helm rollback`` before it deletes anything, while a run of the release writes its results."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

from neva_pod.findings import show
from neva_pod.supervisor.lease import FOLDER, Holder, Times, first_living


def run_folders(results: str) -> list[str]:
    """Return the folders of runs below the results volume, those that have leases."""
    found = []
    for place, inner, _ in os.walk(results, onerror=_raise):
        if FOLDER in inner:
            found.append(place)
        if FOLDER in inner or os.path.relpath(place, results).count("/") >= 2:
            inner.clear()
    return found


def _raise(error: OSError) -> None:
    """Stand alone: the hook's ConfigMap has no inputs package."""
    raise error


def refusal(
    results: str,
    release: str,
    namespace: str,
    sleep: Callable[[float], None] = time.sleep,
    *,
    times: Times | None = None,
) -> str:
    """Return why a rollback must not go on, "" for nothing; a lease that nobody renews takes its lifetime to tell."""

    def ours(holder: Holder) -> bool:
        who = holder.identity
        return who is not None and (who.release, who.namespace) == (release, namespace)

    try:
        holder = first_living(run_folders(results), ours, sleep, times=times)
    except OSError as error:
        return (
            f"{show(results)}: got {error.strerror or error} as uid {os.geteuid()}; must be readable, to see whether "
            "this release trains; check storage.results, or use helm rollback --no-hooks where nothing runs"
        )
    if not holder:
        return ""
    return (
        f"helm rollback {show(release)}: got a run that writes results, {holder}; must not replace a job that runs; "
        f"wait for it, or end it first (helm uninstall {show(release)} --namespace {show(namespace)})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Say why not, and exit with 1; or exit with 0."""
    parser = argparse.ArgumentParser(prog="python3 -m neva_pod.supervisor.guard", description=__doc__)
    parser.add_argument("--results", required=True, help="where the results volume is mounted")
    parser.add_argument("--release", required=True, help="the release that is rolled back")
    parser.add_argument("--namespace", required=True, help="its namespace")
    given = parser.parse_args(arguments)
    words = refusal(given.results, given.release, given.namespace)
    print(
        f"ERROR: {words}" if words else "no run of this release writes results: the rollback goes on", file=sys.stderr
    )
    return 1 if words else 0


if __name__ == "__main__":
    sys.exit(main())
