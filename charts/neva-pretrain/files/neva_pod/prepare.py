"""Makes what a NeVa pretraining run is given: tokenizer, vision encoder, language model, dataset.

Reads ``settings.json`` (the chart renders it): where a run looks for its inputs, and under
``prepare`` where they come from. Each step leaves its final name only by a rename of something
whole, takes up what a killed run left, and does nothing where the final name is there and right.
A step that fails never hides what the others have to say.

    python3 -m neva_pod.prepare --settings /etc/neva/settings.json [--only tokenizer,vision,llm,dataset]

A source is an absolute path, or an id of the Hugging Face hub (HF_ENDPOINT, HF_TOKEN and HF_HOME as
its client reads them). Exit codes: 0 all is there, 1 a step failed, 2 wrong usage or settings.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from neva_pod.inputs import (
    CONFIG,
    USER_DEFINED,
    Checkpoint,
    Finding,
    FolderStore,
    ProblemError,
    Progress,
    Settings,
    Status,
    TarStore,
    UsageError,
    denied,
    extra_tokens,
    gib,
    huggingface_vocabulary,
    inside,
    is_lfs_pointer,
    load_settings,
    piece_problems,
    pieces,
    read_checkpoint,
    read_json,
    read_pieces,
    show,
    some,
)
from neva_pod.preflight import as_nemo, layout_problems, llm_problems, missing_images, sample_findings, vision_problems
from neva_pod.samples import images_of

CHUNK = 2**20
"""Bytes that are read and written at once."""

Chooser = Callable[[Sequence[str]], list[str]]
"""Chooses the files that a step needs of those that a repository has."""


@dataclass(frozen=True)
class Step:
    """One thing to make: its final names, what is asked of one that is there, what is fetched, and how it is made."""

    finals: Callable[[Settings], tuple[str, ...]]
    check: Callable[[Settings], str]
    wanted: Callable[[Settings], Chooser]
    make: Callable[[Settings, str], str]


STEPS: dict[str, Step] = {}
"""By name, cheap ones first."""


def say(message: str) -> None:
    """Print a line that a log shows at once."""
    print(f"prepare: {show(message)}", flush=True)


def stop_at(findings: Iterable[Finding]) -> None:
    """Stop the step at the first failed finding."""
    for finding in findings:
        if finding.status is Status.FAILED:
            raise ProblemError(finding.message, finding.fix)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Name the input that could not be read, whatever its reader stumbles over (K08)."""
    try:
        yield
    except (ProblemError, UsageError):
        raise
    except OSError as error:
        found = denied(str(error.filename or path), error)
        raise ProblemError(found.message, found.fix) from None
    except Exception as error:
        raise ProblemError(
            f"{show(path)}: damaged, or not what it should be: {words(error)}", "copy or download it again"
        ) from None


def words(error: BaseException) -> str:
    """Return an error's kind and first line, without the query of an address: it may be signed."""
    text = re.sub(r"\?[^\s'\")]*", "", str(error).strip().split("\n")[0])
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


# Publish: files that appear whole or not at all


def beside(final: str, role: str) -> str:
    """Return a hidden name beside the final one, on its file system; the same after a restart."""
    folder, name = os.path.split(os.path.normpath(final))
    return os.path.join(folder, f".{name}.{role}")


def publish(temporary: str, final: str) -> None:
    """Give something whole its final name, for good."""
    if os.path.isdir(temporary):
        os.sync()
    else:
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    os.rename(temporary, final)
    folder = os.open(os.path.dirname(final), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def unwritten(path: str, error: OSError) -> ProblemError:
    """Say why a file could not be written."""
    again = "and run prepare again: it goes on where it stopped"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what, fix = "no space left on its volume, or in its quota", f"make room, {again}"
    elif error.errno == errno.EFBIG:
        what, fix = "larger than a file may be here", f"raise the limit (ulimit -f) or use another file system, {again}"
    elif error.errno == errno.EROFS:
        what, fix = "its file system is read-only", f"mount it writable, {again}"
    else:
        found = denied(path, error)
        return ProblemError(found.message, found.fix)
    return ProblemError(f"{show(path)}: cannot be written: {what}", fix)


def write(path: str, chunks: Iterable[bytes], durable: bool = True) -> None:
    """Write a file anew; what cannot be written whole is removed."""
    try:
        with open(path, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            if durable:  # a full quota or a lost server shows here, not at the write
                file.flush()
                os.fsync(file.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            raise unwritten(path, error) from None
        raise


def chunks_of(file: BinaryIO, name: str, meter: Meter | None = None) -> Iterator[bytes]:
    """Read a file piece by piece; an error is the source's, not the target's."""
    while True:
        with reading(name):
            chunk = file.read(CHUNK)
        if not chunk:
            return
        if meter:
            meter.add(len(chunk))
        yield chunk


class Meter:
    """Lines of progress for what is counted in bytes."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done, self._progress = f"prepare: {what}: MiB", total, 0, Progress()

    def add(self, count: int) -> None:
        """Count bytes that are done."""
        self.at(self._done + count)

    def at(self, done: int) -> None:
        """Say how many bytes are done in all."""
        self._done = done
        self._progress.step(self._what, done >> 20, self._total >> 20)


def copy_file(source: str, target: str, meter: Meter) -> None:
    """Copy a regular file."""
    need_file(source)
    with reading(source), open(source, "rb") as file:
        write(target, chunks_of(file, source, meter))


def need_file(path: str) -> None:
    """Refuse what is no regular file: reading a pipe would wait for ever."""
    with reading(path):
        mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ProblemError(f"{show(path)}: is not a file", "name the file itself")


def copy_files(name: str, origin: str, target: str, names: Sequence[str]) -> None:
    """Copy files into a fresh folder."""
    with reading(origin):
        size = sum(os.path.getsize(os.path.join(origin, n)) for n in names)
    remove(target)
    os.makedirs(target)
    need_space(target, size)
    meter = Meter(f"{name}: copy", size)
    for file in names:
        make_parent(os.path.join(target, file))
        copy_file(os.path.join(origin, file), os.path.join(target, file), meter)


def make_parent(path: str) -> None:
    """Make the folder that a path lies in."""
    os.makedirs(os.path.dirname(os.path.normpath(path)), exist_ok=True)


def remove(path: str) -> None:
    """Remove a temporary file or folder."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


@contextlib.contextmanager
def fresh(folder: str) -> Iterator[str]:
    """Make a folder for one try of something that may die; nothing of it outlives the try (R02)."""
    remove(folder)
    os.makedirs(folder)
    yield folder
    remove(folder)


def need_space(folder: str, needed: int) -> None:
    """Refuse what would fill the file system."""
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise ProblemError(f"{show(folder)} has {gib(free)} free, {gib(needed)} are needed", "make room first")


WAIT = 1.0
"""Seconds between two looks at a lock that another prepare holds."""


@contextlib.contextmanager
def locked(name: str, finals: Iterable[str]) -> Iterator[None]:
    """Keep other prepares away from these names (K10).

    The lock is fcntl's on a file beside each name: the kernel gives it up with its holder, also after kill -9, and
    GPFS, NFSv4 and Lustre (mounted with flock) hold it between nodes; after the loss of a node when its lease is over.
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
                say(f"{name}: {path}: this file system has no locks ({error.strerror}); start no second prepare")
                return fd
            holder = os.pread(fd, 200, 0).decode(errors="replace") or "another prepare"
            os.close(fd)
            if time.monotonic() >= next_line:
                next_line = time.monotonic() + 60
                say(f"{name}: waits for {holder}, which holds {path}")
            time.sleep(WAIT)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):  # else its last holder has removed it
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.uname().nodename} (pid {os.getpid()}, since {time.ctime()})".encode(), 0)
                return fd
        os.close(fd)


def begin(settings: Settings, name: str) -> str:
    """Return a step's work folder; what a killed run with other settings or another source left there is removed."""
    finals = STEPS[name].finals(settings)
    work, origin = beside(finals[0], "work"), source_step(settings, name)
    keys = (
        f"prepare.{name}",
        f"prepare.{origin}.source",
        f"prepare.{origin}.revision",
        "model",
        "training.tensorParallelSize",
        "training.pipelineParallelSize",
    )
    source = source_of(settings, origin)
    state = fingerprint(source, deep=name != "dataset") if source.startswith("/") else ""
    record, now = os.path.join(work, "settings.json"), json.dumps([*map(settings.find, keys), state])
    if not os.path.exists(record) or open_text(record) != now:
        for place in (work, *(beside(final, "partial") for final in finals)):
            remove(place)
        os.makedirs(work)
        write_record(record, now)
    return work


def fingerprint(source: str, deep: bool) -> str:
    """Return what changes when a local source does: name, size and time of its files."""
    files = [source] if os.path.isfile(source) else []
    for place, _, names in os.walk(source):
        files += [os.path.join(place, n) for n in names]
        if not deep:
            break
    state = hashlib.sha256()
    for file in sorted(files):
        with contextlib.suppress(OSError):
            found = os.stat(file)
            state.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def write_record(path: str, text: str) -> None:
    """Write a small file, whole or not at all."""
    write(path + ".partial", [text.encode()])
    publish(path + ".partial", path)


def leavings(finals: Iterable[str]) -> list[str]:
    """Return what a killed run left beside these names."""
    paths = (beside(final, role) for final in finals for role in ("work", "partial", "lock"))
    return [p for p in paths if os.path.lexists(p)]


def open_text(path: str) -> str:
    """Return a text file's content."""
    with open(path, encoding="utf-8") as file:
        return file.read()


# Sources: a local path, or a repository of the Hugging Face hub


def source_step(settings: Settings, name: str) -> str:
    """Return the step whose source this one uses: the tokenizer comes with the model unless it has its own."""
    return "llm" if name == "tokenizer" and not settings.text("prepare.tokenizer.source", "") else name


def source_of(settings: Settings, name: str) -> str:
    """Return where a step's input comes from."""
    source = settings.text(f"prepare.{name}.source", "")
    if not source:
        raise ProblemError(f"prepare.{name}.source: is empty; must be an absolute path or a hub id", "name one")
    if not source.startswith("/") and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise ProblemError(
            f"prepare.{name}.source: got {show(source)}; must be an absolute path or a hub id",
            "begin a path with /",
        )
    return source


@dataclass(frozen=True)
class HubFile:
    """A file of a commit: size in bytes (-1: not told) and checksum, ``sha256:`` or ``git:`` (empty: not told)."""

    name: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Pin:
    """The one commit that a step takes all its files from, however often its pod restarts (K03)."""

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
            say(f"{what}: {words(error)}; again in {pause} s")
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


def pin(settings: Settings, name: str, work: str) -> Pin:
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
        for step in STEPS.values()
        for path in [os.path.join(beside(step.finals(settings)[0], "work"), "commit.json")]
        if os.path.exists(path)
    )
    same = next((p for p in known if (p.repository, p.kind, p.revision) == (repository, kind, revision)), None)
    if same:
        commit, there = same.commit, same.there
    else:
        info = ask(what, lambda: hub().HfApi().repo_info(repository, repo_type=kind, revision=revision))
        commit, there = str(info.sha or ""), [s.rfilename for s in info.siblings or []]
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ProblemError(f"{what}: the hub names no commit", "check HF_ENDPOINT, or name a local source")
    say(f"{name}: {kind} {what} is commit {commit}")
    pinned = Pin(repository, kind, revision, commit, there, [])
    pinned.files.extend(_described(pinned, n) for n in STEPS[name].wanted(settings)(there))
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
        raise ProblemError(f"{what}: the hub answers with commit {found.commit_hash}", "check HF_ENDPOINT")
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
        say(f"{what}: the hub tells no checksum; only the size is checked")
    return HubFile(name, size, f"{kind}{etag}" if kind else "")


def _address(pinned: Pin, name: str) -> str:
    """Return a file's address; HF_ENDPOINT counts."""
    return str(hub().hf_hub_url(pinned.repository, name, repo_type=pinned.kind, revision=pinned.commit))


def download(settings: Settings, name: str, work: str) -> str:
    """Download the step's files of its commit; return the folder with exactly what the hub has (K03).

    A second call checks what is there, and goes on with a file where the first one was killed.
    """
    folder, pinned = os.path.join(work, "download"), pin(settings, name, work)
    os.makedirs(folder, exist_ok=True)
    sizes = {f.name: max(f.size, 0) for f in pinned.files}
    need_space(folder, sum(sizes.values()) - _size_below(folder))
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
            say(f"{what}: {words(error)}; goes on in {pause} s")
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
        say(f"{what}: {problem}; downloaded again")


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
        return f"{size} bytes came, must be {file.size}"
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


# Tokenizer


def with_extra_tokens(model: bytes, count: int) -> bytes:
    """Append <extra_id_0..> as USER_DEFINED pieces, as add_special_tokens_to_sentencepiece.py does.

    A field appended to a protobuf message is appended to its list, so the rest of the file stays
    byte for byte what it was.
    """
    out = bytearray(model)
    for token in extra_tokens(count):
        text = token.encode()
        piece = bytes([0x0A, len(text)]) + text + b"\x15\0\0\0\0" + bytes([0x18, USER_DEFINED])
        out += bytes([0x0A, len(piece)]) + piece
    return bytes(out)


HUGGINGFACE_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def _is_huggingface(settings: Settings) -> bool:
    return settings.text("model.tokenizerLibrary") == "huggingface"


def _tokenizer_finals(settings: Settings) -> tuple[str, ...]:
    return (settings.text("model.tokenizerPath"),)


def _tokenizer_wanted(settings: Settings) -> Chooser:
    return named(*HUGGINGFACE_TOKENIZER) if _is_huggingface(settings) else named("tokenizer.model")


def _tokenizer_check(settings: Settings) -> str:
    final = settings.text("model.tokenizerPath")
    with reading(final):
        if _is_huggingface(settings):
            huggingface_vocabulary(final)
        else:
            stop_at(piece_problems(final, read_pieces(final), settings.integer("model.extraTokens")))
    return final


def _tokenizer(settings: Settings, work: str) -> str:
    """Make the tokenizer with NeVa's media tokens (E07)."""
    final, count = settings.text("model.tokenizerPath"), settings.integer("model.extraTokens")
    source = source_of(settings, source_step(settings, "tokenizer"))
    if not source.startswith("/"):
        source = download(settings, "tokenizer", work)
    if _is_huggingface(settings):
        with reading(source):
            huggingface_vocabulary(source)
        copy_files(
            "tokenizer", source, beside(final, "partial"), [n for n in HUGGINGFACE_TOKENIZER if _exists(source, n)]
        )
        publish(beside(final, "partial"), final)
        return f"made {final}"
    origin = source if os.path.isfile(source) else os.path.join(source, "tokenizer.model")
    need_file(origin)
    with reading(origin):
        found = read_pieces(origin)
        with open(origin, "rb") as file:
            model = file.read()
        if {t for t, _ in found} & set(extra_tokens(count)):
            stop_at(piece_problems(origin, found, count))
        else:
            model = with_extra_tokens(model, count)
        stop_at(piece_problems(final, pieces(model), count))
    write(beside(final, "partial"), [model])
    publish(beside(final, "partial"), final)
    return f"made {final}: {len(pieces(model))} pieces, the last {count} added"


STEPS["tokenizer"] = Step(_tokenizer_finals, _tokenizer_check, _tokenizer_wanted, _tokenizer)


def _exists(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))


# Vision encoder


def _vision_finals(settings: Settings) -> tuple[str, ...]:
    final = settings.text("model.visionEncoderPath")
    if not final.startswith("/"):
        raise ProblemError(
            f"model.visionEncoderPath: got the hub id {show(final)}; must be an absolute path",
            "name the folder to make; the hub id is prepare.vision.source",
        )
    return (final,)


def _vision_check(settings: Settings) -> str:
    return _vision_right(settings, settings.text("model.visionEncoderPath"))


def _vision_right(settings: Settings, folder: str) -> str:
    """Check a folder as preflight does (D14)."""
    with reading(folder):
        stop_at(vision_problems(folder, settings.mapping("vision")))
    return folder


def _vision(settings: Settings, work: str) -> str:
    """Copy or download the vision encoder."""
    final, origin = settings.text("model.visionEncoderPath"), source_of(settings, "vision")
    if not origin.startswith("/"):
        origin = download(settings, "vision", work)
    _vision_right(settings, origin)
    copy_files("vision", origin, beside(final, "partial"), model_files(os.listdir(origin)))
    publish(beside(final, "partial"), final)
    return f"made {final}"


STEPS["vision"] = Step(_vision_finals, _vision_check, lambda _: model_files, _vision)


# Language model

CONVERTERS = {
    "llama_2": "convert_llama_hf_to_nemo.py",
    "llama_3": "convert_llama_hf_to_nemo.py",
    "mistral": "convert_mistral_7b_hf_to_nemo.py",
    "mixtral": "convert_mixtral_hf_to_nemo.py",
}
"""Scripts of NeMo r2.0.0rc1's scripts/checkpoint_converters, by model_type."""

HUGGINGFACE_NAMES = {
    "numLayers": "num_hidden_layers",
    "hiddenSize": "hidden_size",
    "ffnHiddenSize": "intermediate_size",
    "numAttentionHeads": "num_attention_heads",
    "numQueryGroups": "num_key_value_heads",
    "numExperts": "num_local_experts",
}


def _llm_finals(settings: Settings) -> tuple[str, ...]:
    return (settings.text("model.checkpointPath"),)


def _llm_check(settings: Settings) -> str:
    found = opened(settings.text("model.checkpointPath"))
    stop_at(layout_problems(settings, found))
    return f"{found.path}, {found}"


def opened(path: str) -> Checkpoint:
    """Open a checkpoint."""
    with reading(path):
        return read_checkpoint(path)


def _llm(settings: Settings, work: str) -> str:
    """Make the NeMo checkpoint for this job's TP and PP."""
    final, source = settings.text("model.checkpointPath"), source_of(settings, "llm")
    is_nemo = os.path.isfile(source) or _exists(source, CONFIG)
    if not is_nemo:
        _converter(settings)
        if not source.startswith("/"):
            source = download(settings, "llm", work)
        with reading(source):
            stop_at(huggingface_problems(settings, source))
    checkpoint = opened(source) if is_nemo else _convert(settings, source, work)
    checkpoint = _repartition(settings, checkpoint, source, work)
    _finish(settings, checkpoint, final)
    return f"made {final}: {checkpoint}"


STEPS["llm"] = Step(_llm_finals, _llm_check, lambda _: model_files, _llm)


def huggingface_problems(settings: Settings, source: str) -> Iterator[Finding]:
    """Check a Hugging Face folder before hours are spent on its conversion."""
    names = ["config.json"]
    if settings.text("model.tokenizerLibrary") == "sentencepiece":
        names.append("tokenizer.model")  # E01: without it the converter takes another branch
    for name in names:
        path = os.path.join(source, name)
        if not os.path.exists(path):
            yield Finding(
                Status.FAILED,
                f"{show(source)}: has no {name}; NeMo's converter needs it",
                "name a local folder with the model's whole repository",
            )
        elif is_lfs_pointer(path):
            yield _pointer(path)
    yield from _huggingface_weights(source)
    config = read_object(os.path.join(source, "config.json"))
    unset = {"num_key_value_heads": config.get("num_attention_heads"), "num_local_experts": 1}
    wrong = []
    yield from llm_problems(as_nemo(config), settings, f"{show(source)}/config.json, in NeMo's names")
    for key, name in HUGGINGFACE_NAMES.items():
        wanted, value = settings.find(f"architecture.{key}"), config.get(name, unset.get(name))
        if wanted is not None and value != wanted:
            wrong.append(f"{name} is {value}, must be {wanted}")
    if wrong:  # E05
        yield Finding(
            Status.FAILED,
            f"{show(source)}/config.json: {'; '.join(wrong)}",
            "name the source of this model, or the model of this source (model.name)",
        )


def read_object(path: str) -> Mapping[str, Any]:
    """Read a JSON file that must be an object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ProblemError(f"{show(path)}: must be a JSON object", "copy it again")
    return found


def _huggingface_weights(source: str) -> Iterator[Finding]:
    files = [n for n in model_files(os.listdir(source)) if n.endswith((".safetensors", ".bin"))]
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if _exists(source, index) and (not files or files[0].endswith(index.split(".")[1])):
            weights = read_object(os.path.join(source, index)).get("weight_map")
            if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
                raise ProblemError(
                    f"{show(source)}/{index}: weight_map must name a file for each tensor", "copy the repository again"
                )
            files = sorted(set(weights.values()))
    missing = [n for n in files if not _exists(source, n)]
    if missing or not files:
        yield Finding(
            Status.FAILED,
            f"{show(source)}: weights are missing: {some(missing) or 'no *.safetensors, no *.bin'}",
            "copy the repository again",
        )
    for name in files:
        if name not in missing and is_lfs_pointer(os.path.join(source, name)):
            yield _pointer(os.path.join(source, name))


def _pointer(path: str) -> Finding:
    return Finding(
        Status.FAILED,
        f"{show(path)} is a git LFS pointer, not the file",
        "run git lfs pull, or copy it again",
    )


def _converter(settings: Settings) -> str:
    kind = settings.text("model.modelType")
    if kind == "mistral" and settings.integer("architecture.numExperts", 1) > 1:
        kind = "mixtral"
    if kind not in CONVERTERS:
        raise ProblemError(
            f"prepare.llm: NeMo 24.07 has no converter for model type {kind}",
            "name a .nemo file or its unpacked folder in prepare.llm.source",
        )
    nemo = settings.text("prepare.nemoPath", "/opt/NeMo")
    return os.path.join(nemo, "scripts", "checkpoint_converters", CONVERTERS[kind])


def _taken_up(done: str) -> Checkpoint | None:
    """Return what a killed run has finished, if it can still be read."""
    if os.path.exists(done):
        try:
            return opened(done)
        except ProblemError as problem:
            say(f"llm: {problem.finding.message}: made again")
            remove(done)
    return None


def _convert(settings: Settings, source: str, work: str) -> Checkpoint:
    """Convert to .nemo, in a folder of its own: a conversion that dies leaves files that stop the next one (R02)."""
    script, done = _converter(settings), os.path.join(work, "converted.nemo")
    found = _taken_up(done)
    if found:
        return found
    with fresh(os.path.join(work, "convert")) as folder:
        temporary = os.path.join(folder, "converting.nemo")
        precision = settings.text("prepare.llm.precision", "bf16")
        call(
            [
                *(sys.executable, script),
                *("--input_name_or_path", source),
                *("--output_path", temporary),
                *("--precision", precision),
            ]
        )
        opened(temporary)
        publish(temporary, done)
    return opened(done)


def _repartition(settings: Settings, found: Checkpoint, source: str, work: str) -> Checkpoint:
    """Split a legacy checkpoint for this TP and PP; a distributed one loads at any (E03)."""
    tensor = settings.integer("training.tensorParallelSize")
    pipeline = settings.integer("training.pipelineParallelSize", 1)
    if found.distributed:
        say("llm: distributed, loads at any TP and PP: not repartitioned")
        return found
    if (found.tensor_parallel, found.pipeline_parallel) == (tensor, pipeline):
        return found
    done = os.path.join(work, "repartitioned.nemo")
    split = _taken_up(done)
    if split:
        return split
    with fresh(os.path.join(work, "repartition")) as folder:
        temporary = os.path.join(folder, "repartitioning.nemo")
        script = ("examples", "nlp", "language_modeling", "megatron_change_num_partitions.py")
        options = {
            "model_file": _without_sequence_parallel(found, folder),
            "target_file": temporary,
            "tensor_model_parallel_size": found.tensor_parallel,
            "target_tensor_model_parallel_size": tensor,
            "pipeline_model_parallel_size": found.pipeline_parallel,
            "target_pipeline_model_parallel_size": pipeline,
            "precision": settings.text("prepare.llm.precision", "bf16"),
        }
        if _exists(source, "tokenizer.model"):  # the model's own: a .nemo file has it inside
            options["tokenizer_model_path"] = os.path.join(source, "tokenizer.model")
        command = [
            sys.executable,
            os.path.join(settings.text("prepare.nemoPath", "/opt/NeMo"), *script),
        ]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        if found.pipeline_parallel == pipeline == 1:
            command.append("--tp_conversion_only")
        call(command)
        stop_at(layout_problems(settings, opened(temporary)))
        publish(temporary, done)
    return opened(done)


def _without_sequence_parallel(found: Checkpoint, folder: str) -> str:
    """Return a .nemo file whose config has sequence_parallel false, or the script throws (E06)."""
    if found.is_file and not (found.config or {}).get("sequence_parallel"):
        return found.path
    extracted, packed = os.path.join(folder, "extracted"), os.path.join(folder, "serial.nemo")
    unpack(found.path, extracted)
    config = os.path.join(extracted, CONFIG)
    text = re.sub(r"(?m)^sequence_parallel:.*$", "sequence_parallel: false", open_text(config))
    write(config, [text.encode()])
    try:
        with tarfile.open(packed, "w:") as tar:
            tar.add(extracted, arcname=".")
    except OSError as error:
        raise unwritten(packed, error) from None
    return packed


def _finish(settings: Settings, checkpoint: Checkpoint, final: str) -> None:
    """Give the checkpoint its final name: unpacked, unless a file is wanted (D11)."""
    temporary = beside(final, "partial")
    remove(temporary)
    if not checkpoint.is_file or settings.flag("prepare.llm.unpack", True):
        unpack(checkpoint.path, temporary)
    elif os.path.dirname(checkpoint.path) == beside(final, "work"):
        temporary = checkpoint.path
    else:
        size = os.path.getsize(checkpoint.path)
        need_space(os.path.dirname(temporary), size)
        copy_file(checkpoint.path, temporary, Meter("llm: copy", size))
    publish(temporary, final)


def unpack(path: str, folder: str) -> None:
    """Copy a checkpoint's files into a new folder; of a .nemo file what :class:`TarStore` takes, all or none (K05)."""
    store = TarStore(path) if os.path.isfile(path) else FolderStore(path)
    size = sum(store.sizes.values())
    os.makedirs(folder)
    need_space(folder, size)
    meter = Meter("llm: unpack", size)
    for name in store.sizes:
        if not inside(name):
            raise ProblemError(f"{show(path)}: member {show(name)} lies outside of it", "do not use this file")
        target = os.path.join(folder, name)
        make_parent(target)
        if isinstance(store, FolderStore):
            need_file(os.path.join(path, name))
        with reading(path), store.open(name) as source:
            write(target, chunks_of(source, f"{path}: {name}", meter))


def call(command: Sequence[str]) -> None:
    """Run one of NeMo's scripts; its words go to the log."""
    say("runs " + " ".join(map(show, command[1:])))
    if not os.path.exists(command[1]):
        raise ProblemError(f"{show(command[1])}: not there", "use the NeMo 24.07 image, or set prepare.nemoPath")
    code = subprocess.run(command, check=False, preexec_fn=_end_with_prepare).returncode
    if code:
        killed = " (killed: out of memory?)" if code == -9 else ""
        raise ProblemError(
            f"{os.path.basename(command[1])} ended with {code}{killed}",
            "see its lines above; raise the memory of the prepare Job if it was killed",
        )


def _end_with_prepare() -> None:
    """Ask the kernel to kill this child with its parent: a script left alone would go on writing (K10)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# Dataset


IMAGE_LIMIT = 64 * 2**20
"""Bytes of one image. The images of LLaVA-Pretrain have 48 KB on average."""
RATIO_LIMIT = 100
"""Bytes of all images for a byte of the zip. JPEG does not compress: LLaVA-Pretrain's images.zip has 1.0."""
TOTAL_FLOOR = 2**30
"""Bytes of all images that are no bomb, whatever the ratio."""


def _dataset_finals(settings: Settings) -> tuple[str, ...]:
    return settings.text("data.annotations"), settings.text("data.images")


def _dataset_check(settings: Settings) -> str:
    return ", ".join(_dataset_finals(settings))


def _dataset_names(settings: Settings) -> tuple[str, str]:
    return (
        settings.text("prepare.dataset.annotationsFile", "blip_laion_cc_sbu_558k.json"),
        settings.text("prepare.dataset.archiveFile", "images.zip"),
    )


def _dataset(settings: Settings, work: str) -> str:
    """Get the JSON and the images; only images.zip, never single downloads (F01)."""
    annotations, images = _dataset_finals(settings)
    folder = source_of(settings, "dataset")
    if not folder.startswith("/"):
        folder = download(settings, "dataset", work)
    origin, archive = (os.path.join(folder, n) for n in _dataset_names(settings))
    need_file(origin)
    with reading(origin):
        wanted = wanted_images(origin, settings)
    if os.path.exists(images):  # of another release, or of a run that was killed here
        with reading(images):
            missing, odd, _ = missing_images(images, wanted, Progress())
            missing += odd
        if missing:
            raise ProblemError(
                f"{show(images)}: is there without {len(missing)} of {len(wanted)} images of the JSON: {some(missing)}",
                "remove it, or name another data.images",
            )
    else:
        temporary = beside(images, "partial")
        need_file(archive)
        with reading(archive):
            unzip(archive, wanted, temporary)
        publish(temporary, images)
    temporary = beside(annotations, "partial")
    copy_file(origin, temporary, Meter("dataset: copy", os.path.getsize(origin)))
    publish(temporary, annotations)
    return f"made {annotations} and {images}: {len(wanted)} images"


STEPS["dataset"] = Step(_dataset_finals, _dataset_check, lambda s: named(*_dataset_names(s)), _dataset)


def wanted_images(path: str, settings: Settings) -> list[str]:
    """Return the images that a JSON of samples names, once the samples are what the run can take (F04, N03)."""
    samples = read_json(path)
    if not isinstance(samples, list) or not all(isinstance(s, Mapping) for s in samples):
        raise ProblemError(f"{show(path)}: must be a JSON list of samples", "name the right file")
    bad = next((f for f in sample_findings(settings, samples) if f.status is Status.FAILED), None)
    if bad:
        raise ProblemError(f"{show(path)}: {bad.message}", "download the JSON again")
    wanted = list(dict.fromkeys(i for s in samples for i in images_of(s)))
    outside = [n for n in wanted if not inside(n)]
    if outside:
        raise ProblemError(f"images {some(outside)} lie outside the folder", "do not use this JSON")
    strange = [n for n in wanted if not _is_name(n)]
    if strange:
        raise ProblemError(f"images {some(strange)} have no names that a file can have", "do not use this JSON")
    return wanted


def _is_name(name: str) -> bool:
    """Whether a file can have this name."""
    with contextlib.suppress(UnicodeEncodeError):
        return "\0" not in name and all(len(part) <= 255 for part in os.fsencode(name).split(b"/"))
    return False


def unzip(path: str, wanted: Sequence[str], folder: str) -> None:
    """Unzip the images named; everything is checked before the first one is written (F03)."""
    with open_zip(path) as archive:
        members = _zip_members(path, archive, wanted)
        os.makedirs(folder, exist_ok=True)
        _case_problem(path, members, folder)
        need_space(folder, sum(m.file_size for m in members.values()) - _size_below(folder))
        for place in sorted({os.path.dirname(n) for n in members}):
            os.makedirs(os.path.join(folder, place), exist_ok=True)
        progress, names = Progress(), list(members)
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(names), 1000):
                batch = names[start : start + 1000]
                for _ in pool.map(lambda n: _unzip_one(archive, members[n], os.path.join(folder, n)), batch):
                    pass
                progress.step("prepare: dataset: unzip", start + len(batch), len(names))
        progress.clear()


def open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip that is whole; say what another file is (F03)."""
    again = "download or copy it again"
    with open(path, "rb") as file:
        head = file.read(4)
    if is_lfs_pointer(path):
        raise ProblemError(f"{show(path)} is a git LFS pointer, not the file", again)
    if head != b"PK\x03\x04":
        raise ProblemError(f"{show(path)} is not a zip: begins with {head!r}", again)
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        size = os.path.getsize(path)
        raise ProblemError(f"{show(path)}: {error}: truncated at {size} bytes?", again) from None


def _zip_members(path: str, archive: zipfile.ZipFile, wanted: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """Find each image in the zip, at its top or below one folder, by its place; nothing else is unpacked (K09)."""
    listed = [(os.path.normpath(m.filename), m) for m in archive.infolist() if not m.is_dir()]
    there, times = dict(listed), Counter(name for name, _ in listed)
    places = [os.path.normpath(n) for n in wanted]
    tops = {n.split("/")[0] + "/" for n in there if "/" in n}
    first = places[0] if places else ""
    prefix = next((p for p in ("", *sorted(tops)) if p + first in there), "")
    missing = [n for n in places if prefix + n not in there]
    if missing:  # F01, F02
        raise ProblemError(
            f"{show(path)}: {len(missing)} of {len(wanted)} images of the JSON are not in it: {some(missing)}",
            "use JSON and images.zip of one release (liuhaotian/LLaVA-Pretrain)",
        )
    members = {n: there[prefix + n] for n in places}
    wrong: dict[str, list[str]] = {
        "more than once": [n for n in members if times[prefix + n] > 1],
        "not as files (links, devices)": [n for n, m in members.items() if not _is_regular(m)],
        "encrypted": [n for n, m in members.items() if m.flag_bits & 1],
        "compressed by other means than deflate": [
            n for n, m in members.items() if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        ],
        f"larger than {gib(IMAGE_LIMIT)}": [n for n, m in members.items() if m.file_size > IMAGE_LIMIT],
    }
    fix = "pack the images again, as plain files (zip -r)"
    for how, names in wrong.items():
        if names:
            raise ProblemError(f"{show(path)}: has {len(names)} images {how}: {some(names)}", fix)
    total, packed = sum(m.file_size for m in members.values()), os.path.getsize(path)
    if total > max(TOTAL_FLOOR, RATIO_LIMIT * packed):
        raise ProblemError(
            f"{show(path)}: {gib(packed)} unpack to {gib(total)}; must be at most {RATIO_LIMIT} times as much",
            "do not use this file, or pack the images as JPEG",
        )
    return members


def _is_regular(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a plain file; zips from other systems than Unix have no type."""
    return stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)


def _case_problem(path: str, names: Iterable[str], folder: str) -> None:
    """Refuse names that are one on a file system that knows no case."""
    above, name = os.path.split(folder)
    if _exists(above, name.swapcase()) and name.swapcase() != name:
        times = Counter(n.casefold() for n in names)
        twice = [n for n in names if times[n.casefold()] > 1]
        if twice:
            raise ProblemError(
                f"{show(path)}: images {some(twice)} differ in case only, which {show(above)} does not keep apart",
                "use a file system that does",
            )


def _unzip_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: str) -> None:
    """Unzip one image; one that is there is kept if it is this one."""
    if os.path.exists(target) and os.path.getsize(target) == member.file_size and _crc(target) == member.CRC:
        return
    write(target, _zip_chunks(archive, member), durable=False)


def _zip_chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(member) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ProblemError(f"image {show(member.filename)}: {error}", "download the zip again") from None


def _crc(path: str) -> int:
    crc = 0
    with open(path, "rb") as file:
        for chunk in chunks_of(file, path):
            crc = zlib.crc32(chunk, crc)
    return crc


def _size_below(folder: str) -> int:
    return sum(os.path.getsize(f"{p}/{n}") for p, _, names in os.walk(folder) for n in names)


# Running


def run(settings: Settings, only: Sequence[str]) -> int:
    """Run the enabled steps, all of them whatever fails (K08); return the number of failed ones."""
    unknown = [n for n in only if n not in STEPS]
    if unknown:
        raise UsageError(f"--only: got {some(unknown)}; must be of {', '.join(STEPS)}")
    chosen = [n for n in STEPS if (not only or n in only) and settings.flag(f"prepare.{n}.enabled", False)]
    left = [n for n in chosen if attempt(n, lambda n=n: start(settings, n))]  # type: ignore[misc]
    for name in list(left):
        if not attempt(name, lambda name=name: say(f"{name}: {perform(settings, name)}")):  # type: ignore[misc]
            left.remove(name)
    return len(chosen) - len(left)


def attempt(name: str, function: Callable[[], None]) -> bool:
    """Do a part of a step; whatever stops it is said, and stops nothing else."""
    try:
        function()
    except ProblemError as problem:
        message, fix = problem.finding.message, problem.finding.fix
    except OSError as error:
        found = unwritten(str(error.filename or "a file"), error).finding
        message, fix = found.message, found.fix
    except UsageError as error:
        message, fix = str(error), "correct the settings"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"stopped by {words(error)} in {os.path.basename(place.filename)}, line {place.lineno}"
        fix = "an input may be damaged: look at the step's source; else report this line"
    else:
        return True
    say(f"{name}: ERROR: {message}")
    say(f"{name}: fix: {fix}")
    return False


def all_there(finals: Iterable[str]) -> bool:
    """Whether a step has nothing left to make."""
    return all(map(os.path.lexists, finals))


def start(settings: Settings, name: str) -> None:
    """Choose the commit of a step that downloads, before any step takes its time (K03)."""
    finals = STEPS[name].finals(settings)
    if all_there(finals) or source_of(settings, source_step(settings, name)).startswith("/"):
        return
    for final in finals:
        make_parent(final)
    with locked(name, finals):
        if not all_there(finals):
            pin(settings, name, begin(settings, name))


def perform(settings: Settings, name: str) -> str:
    """Do a step, unless it is done; return what to say of it."""
    step = STEPS[name]
    finals = step.finals(settings)
    if all_there(finals) and not leavings(finals):
        return f"already there: {step.check(settings)}"
    for final in finals:
        make_parent(final)
    with locked(name, finals):
        if all_there(finals):
            said = f"already there: {step.check(settings)}"
        else:
            said = step.make(settings, begin(settings, name))
        for path in leavings(finals):  # also those of a run that was killed at its very end
            if not path.endswith(".lock"):
                remove(path)
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    made = argparse.ArgumentParser(prog="neva_pod.prepare", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--settings", required=True, help="settings.json as the chart renders it")
    made.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(STEPS)}")
    options = made.parse_args(arguments)
    try:
        settings = load_settings(options.settings)
        # A fresh scratch volume is empty, and tempfile would fall back to the root disk.
        for name in ("TMPDIR", "HOME"):
            if os.environ.get(name):
                os.makedirs(os.environ[name], exist_ok=True)
        return 1 if run(settings, [n for n in options.only.split(",") if n]) else 0
    except UsageError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2


def _stop(*_: object) -> None:
    """End at SIGTERM: as a container's first process it would be ignored."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
