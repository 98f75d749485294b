"""Downloads from the Hugging Face hub: all files of one commit, each with the right checksum."""

import contextlib
import errno
import hashlib
import importlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from neva_pod.findings import ProblemError, gib, show, some
from neva_pod.inputs.files import inside
from neva_pod.prepare.errors import say, unwritten, words
from neva_pod.prepare.publish import (
    Meter,
    chunks_of,
    make_parent,
    need_space,
    open_text,
    publish,
    remove,
    size_below,
    write_record,
)
from neva_pod.prepare.steps import PATHS, Chooser, source_of, source_step, work_folder
from neva_pod.settings import Settings


@dataclass(frozen=True)
class HubFile:
    """A file of a commit: size in bytes (-1: not told) and checksum, ``sha256:`` or ``git:`` (empty: not told)."""

    name: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Pin:
    """The one commit that a step takes all its files from, however often its pod restarts."""

    repository: str
    kind: str
    revision: str
    commit: str
    there: list[str]
    files: list[HubFile]


PAUSES = (1, 2, 4, 8)
"""Seconds before the next try of what the network or the hub refused for a while; the hub's client tries, too."""
DAMAGED = 3
"""Times that a file may come with another checksum."""
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT}


def passes(error: Exception) -> bool:
    """Whether another try may help."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    return not isinstance(error, ProblemError | ValueError | TypeError | ImportError) and not (
        isinstance(error, OSError) and error.errno in DISK
    )


def ask(what: str, function: Callable[[], Any]) -> Any:
    """Ask the hub, again while it may help."""
    for pause in (*PAUSES, 0):
        try:
            return function()
        except ProblemError:
            raise
        except Exception as error:  # the client raises its own, its HTTP library's and OSErrors
            if not pause or not passes(error):
                raise unreachable(what, error) from None
            say(f"{what}: {words(error)}; retrying in {pause} s")
            time.sleep(pause)


def unreachable(what: str, error: Exception) -> ProblemError:
    """Say that the hub did not give what was asked for."""
    return ProblemError(
        f"{what}: {words(error)}",
        "check id, revision, HF_ENDPOINT, the token's Secret (gated models) and the network, or name a local source",
    )


def hub() -> Any:
    """Return the hub's client."""
    try:
        client = importlib.import_module("huggingface_hub")
        for part in ("file_download", "utils"):
            importlib.import_module(f"huggingface_hub.{part}")
    except ImportError:
        raise ProblemError("huggingface_hub is not installed", "use the NeMo image, or name a local source") from None
    client.utils.disable_progress_bars()
    return client


def pin(settings: Settings, name: str, work: str, wanted: Chooser) -> Pin:
    """Return the step's commit: the recorded one, another step's of the same revision, or what the hub says now."""
    record = os.path.join(work, "commit.json")
    if os.path.exists(record):
        return _recorded(record)
    origin = source_step(settings, name)
    repository, kind = source_of(settings, origin), "dataset" if origin == "dataset" else "model"
    revision = settings.text(f"prepare.{origin}.revision", "") or "main"
    what = f"{repository} at {revision}"
    known = (
        _recorded(path)
        for path in [os.path.join(work_folder(settings, step), "commit.json") for step in PATHS]
        if os.path.exists(path)
    )
    same = next((p for p in known if (p.repository, p.kind, p.revision) == (repository, kind, revision)), None)
    if same:
        commit, there = same.commit, same.there
    else:
        info = ask(what, lambda: hub().HfApi().repo_info(repository, repo_type=kind, revision=revision))
        commit, there = str(info.sha or ""), [s.rfilename for s in info.siblings or []]
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ProblemError(f"{what}: the hub returned no commit", "check HF_ENDPOINT, or name a local source")
    say(f"{name}: {kind} {what} is commit {commit}")
    pinned = Pin(repository, kind, revision, commit, there, [])
    pinned.files.extend(_described(pinned, n) for n in wanted(there))
    write_record(record, json.dumps(asdict(pinned)))
    return pinned


def _recorded(path: str) -> Pin:
    data = json.loads(open_text(path))
    return Pin(**{**data, "files": [HubFile(**f) for f in data["files"]]})


def _described(pinned: Pin, name: str) -> HubFile:
    """Ask for a file's size and checksum: a large file's ETag is its sha256, a small one's git's name for it."""
    what = f"{pinned.repository} at {pinned.commit}: {name}"
    client = hub()
    found = ask(what, lambda: client.get_hf_file_metadata(_address(pinned, name)))
    if found.commit_hash not in (None, pinned.commit):
        raise ProblemError(f"{what}: the hub returned commit {found.commit_hash}", "check HF_ENDPOINT")
    size, etag = found.size if found.size is not None else -1, str(found.etag or "")
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):  # a mirror's own: its API may tell
        (entry,) = ask(
            what,
            lambda: client.HfApi().get_paths_info(
                pinned.repository, [name], revision=pinned.commit, repo_type=pinned.kind
            ),
        ) or [None]
        lfs = getattr(entry, "lfs", None)
        etag = str(getattr(lfs, "sha256", "") or "") if lfs else str(getattr(entry, "blob_id", "") or "")
    kind = {64: "sha256:", 40: "git:"}.get(len(etag))
    if not kind:
        say(f"{what}: the hub gives no checksum; only the size is checked")
    return HubFile(name, size, f"{kind}{etag}" if kind else "")


def _address(pinned: Pin, name: str) -> str:
    """Return a file's address; HF_ENDPOINT counts."""
    return str(hub().hf_hub_url(pinned.repository, name, repo_type=pinned.kind, revision=pinned.commit))


def fetched(settings: Settings, name: str, work: str, wanted: Chooser) -> str:
    """Return a step's source, downloaded where it is the hub's."""
    source = source_of(settings, source_step(settings, name))
    return source if source.startswith("/") else download(settings, name, work, wanted)


def download(settings: Settings, name: str, work: str, wanted: Chooser) -> str:
    """Download the step's files of its commit; return the folder with exactly what the hub has.

    A second call checks what is there, and goes on with a file where the first one was killed.
    """
    folder, pinned = os.path.join(work, "download"), pin(settings, name, work, wanted)
    os.makedirs(folder, exist_ok=True)
    sizes = {f.name: max(f.size, 0) for f in pinned.files}
    need_space(folder, sum(sizes.values()) - size_below(folder))
    for number, file in enumerate(pinned.files, 1):
        if not inside(file.name):
            raise ProblemError(f"{pinned.repository}: file {show(file.name)} lies outside of it", "do not use it")
        say(f"{name}: file {number} of {len(pinned.files)}: {file.name}, {gib(max(file.size, 0))}")
        _fetch(name, pinned, file, folder)
    return folder


def _fetch(name: str, pinned: Pin, file: HubFile, folder: str) -> None:
    """Download one file; it has its name only with the right checksum."""
    final, what = os.path.join(folder, file.name), f"{pinned.repository} at {pinned.commit}: {file.name}"
    part, damaged, tries, best = final + ".part", 0, list(PAUSES), 0
    make_parent(final)
    if os.path.exists(final):  # a killed run's; checked like a new one
        os.replace(final, part)
    while True:
        try:
            if not os.path.exists(part) or os.path.getsize(part) != file.size:
                _receive(name, pinned, file, part)
            problem = _difference(name, file, part)
        except ProblemError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise unwritten(part, error) from None
            status = getattr(getattr(error, "response", None), "status_code", None)
            size = os.path.getsize(part) if os.path.exists(part) else 0
            if size > best:  # a line that often breaks is no reason to give up
                best, tries = size, list(PAUSES)
            if not tries or not (passes(error) or status == 416):
                raise unreachable(what, error) from None
            if status == 416 or size > file.size >= 0:
                remove(part)
            pause = tries.pop(0)
            say(f"{what}: {words(error)}; resuming in {pause} s")
            time.sleep(pause)
            continue
        if not problem:
            publish(part, final)
            return
        remove(part)
        damaged += 1
        if damaged == DAMAGED:
            raise ProblemError(
                f"{what}: {problem}, {DAMAGED} times; it is not used",
                "check the mirror (HF_ENDPOINT), a proxy's cache and the volume, or name a local source",
            )
        say(f"{what}: {problem}; downloading again")


def _receive(name: str, pinned: Pin, file: HubFile, part: str) -> None:
    """Download what is missing of a file, with a line of progress now and then."""
    client = hub()
    have = os.path.getsize(part) if os.path.exists(part) else 0
    if have > file.size >= 0:
        remove(part)
        have = 0
    meter, done = Meter(f"{name}: {file.name}", max(file.size, 0)), threading.Event()

    def watch() -> None:
        while not done.wait(1):
            with contextlib.suppress(OSError):
                meter.at(os.path.getsize(part))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with open(part, "r+b" if have else "wb") as target:
            target.seek(have)
            client.file_download.http_get(
                _address(pinned, file.name),
                target,
                resume_size=have,
                headers=client.utils.build_hf_headers(),
                expected_size=file.size if file.size >= 0 else None,
                displayed_filename=file.name,
            )
            target.flush()
            os.fsync(target.fileno())
    finally:
        done.set()
        watcher.join()


def _difference(name: str, file: HubFile, path: str) -> str:
    """Return how a file differs from what the hub says it is, or nothing."""
    size = os.path.getsize(path)
    if size != file.size >= 0:
        return f"got {size} bytes, must be {file.size}"
    kind, _, wanted = file.checksum.partition(":")
    if not kind:
        return ""
    state = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % size)  # noqa: S324 (git's)
    with open(path, "rb") as content:
        for chunk in chunks_of(content, path, Meter(f"{name}: checksum of {file.name}", size)):
            state.update(chunk)
    return "" if state.hexdigest() == wanted else f"its checksum is {state.hexdigest()[:12]}..., must be {wanted}"


def model_files(there: Sequence[str]) -> list[str]:
    """Choose a model's files: one kind of weights, configuration, tokenizer; no other formats."""
    top = [n for n in there if "/" not in n]
    weights = [n for n in top if n.endswith(".safetensors")]
    weights = weights or [n for n in top if re.fullmatch(r"pytorch_model.*\.bin", n)]
    return [*(n for n in top if n.endswith((".json", ".model"))), *weights]


def named(*names: str) -> Chooser:
    """Return a chooser of these files, which must be there."""

    def choose(there: Sequence[str]) -> list[str]:
        missing = [n for n in names if n not in there]
        if missing:
            raise ProblemError(f"the repository has no {some(missing)}", "name another repository")
        return list(names)

    return choose
