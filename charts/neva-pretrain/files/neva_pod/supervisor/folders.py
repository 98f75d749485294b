"""The folders and files that a run writes beside NeMo's own."""

import contextlib
import json
import os
import platform
import stat
import tempfile
from importlib import metadata
from typing import Any

from neva_pod.findings import show
from neva_pod.supervisor.node import Node

VERSIONS = ("torch", "nemo_toolkit", "megatron_core", "transformer_engine", "transformers")


def make_results(node: Node) -> str:
    """Make the results folder alone, in which the lease lies; return what is wrong, "" if nothing."""
    return _folder(node.results)


def make_folders(node: Node) -> str:
    """Make the folders of results and logs; return what is wrong, "" if nothing.

    Other nodes make them at the same time.
    """
    for folder in (node.results, node.logs):
        if problem := _folder(folder):
            return problem
    return _log(node.log)


def _folder(path: str) -> str:
    user = f"as uid {os.geteuid()}"
    owner = "storage.results"
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        return (
            f"{show(path)}: cannot be created {user} ({error.strerror}); must be a folder; check the owner and mode of "
            f"{owner}"
        )
    try:
        with tempfile.NamedTemporaryFile(prefix=".neva.", dir=path):
            pass
    except OSError as error:
        return (
            f"{show(path)}: cannot be written {user} ({error.strerror}); must be writable; check the owner, mode and "
            f"free space of {owner}"
        )
    return ""


def _log(path: str) -> str:
    """Open the node's log once, so that a wrong one is told before training; a FIFO would wait for its reader."""
    try:
        if os.path.lexists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            return f"{show(path)}: got no regular file; must be this node's log; remove it"
        with open(path, "ab"):
            pass
    except OSError as error:
        return (
            f"{show(path)}: cannot be written as uid {os.geteuid()} ({error.strerror}); must be writable; check its "
            "owner and mode, and the free space of storage.results"
        )
    return ""


def write_record(node: Node) -> str:
    """Write run.json: what this run is, beside its results; return what is wrong, "" if nothing.

    The checkpoint holds the projector only.
    """
    path = os.path.join(node.results, "run.json")
    temporary = ""
    try:
        with open(os.path.join(node.config, "settings.json"), encoding="utf-8") as file:
            record = json.load(file)
        record["versions"] = _versions()
        handle, temporary = tempfile.mkstemp(prefix=".run.json.", dir=node.results)
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=2, sort_keys=True)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 is for no one else
        os.replace(temporary, path)
    except (OSError, ValueError, TypeError) as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        what = "cannot be replaced" if os.path.isdir(path) else "cannot be written"
        return (
            f"{show(path)}: {what} ({cause}); must describe this run; check {show(node.config)}/settings.json and the "
            "free space of storage.results"
        )
    return ""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _versions() -> dict[str, Any]:
    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
