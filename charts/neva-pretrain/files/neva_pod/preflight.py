"""Proves, before a GPU is used, that the inputs and the node of a NeVa pretraining run are right.

Reads ``settings.json`` (the chart renders it) and runs every check of its registry; one that fails
never hides another. Python 3.10 and its standard library; PyYAML and Pillow of the NeMo image are
used where they are there.

    python3 -m neva_pod.preflight --settings F --level quick   # every pod: seconds, node and access
    python3 -m neva_pod.preflight --settings F --level full    # master: also the content of all inputs
    python3 -m neva_pod.preflight --settings F --level auto    # pod of an indexed Job: full in that of index 0

Exit codes: 0 nothing failed, 1 a check failed, 2 wrong usage or settings, 143 (130) told to stop. Letters with
numbers in comments (D11) are the failures, seen at other users, that a line is there for.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import itertools
import json
import math
import os
import queue
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from neva_pod.inputs import (
    CONFIG,
    LLAMA_3_TOKENS,
    SHOWN,
    Checkpoint,
    Finding,
    NotAFileError,
    NotPossibleError,
    ProblemError,
    Progress,
    Settings,
    Shape,
    Status,
    UsageError,
    ancestor,
    brief,
    denied,
    extra_tokens,
    failed,
    gib,
    huggingface_vocabulary,
    inside,
    is_lfs_pointer,
    load_settings,
    note,
    open_file,
    piece_problems,
    read_checkpoint,
    read_json,
    read_object,
    read_pieces,
    show,
    some,
    warning,
    weight_shapes,
    writable,
)
from neva_pod.samples import TEMPLATES, Rules, images_of, look_at

T = TypeVar("T")
R = TypeVar("R")


class Level(str, Enum):
    """Where a check runs: in every pod, or once for the run."""

    QUICK = "quick"
    FULL = "full"


# The registry


@dataclass(frozen=True)
class Check:
    """One check: its cost, the failure it prevents, the settings without which it is skipped."""

    name: str
    level: Level
    cost: str
    prevents: str
    needs: tuple[str, ...]
    run: Callable[[Run], Iterator[Finding]]


CHECKS: dict[str, Check] = {}


NODE = frozenset(("filesystem", "read-only", "results", "unpack-space", "hf-home", "shm", "gpus", "memlock"))
"""Checks of a pod's node and mounts: on another machine they say nothing about the run."""


def check(
    name: str, level: Level, *needs: str, cost: str, prevents: str
) -> Callable[[Callable[[Run], Iterator[Finding]]], Callable[[Run], Iterator[Finding]]]:
    """Register a check under its name, in the order of the file."""

    def register(
        function: Callable[[Run], Iterator[Finding]],
    ) -> Callable[[Run], Iterator[Finding]]:
        CHECKS[name] = Check(name, level, cost, prevents, needs, function)
        return function

    return register


class Once(Generic[T]):
    """Something that several checks need: made once, its failure reported once."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._broken = False

    def __call__(self) -> T:
        """Return it, made at the first call."""
        if self._broken:
            raise NotPossibleError("what it needs could not be read, see above")
        if not self._made:
            self._broken = True
            self._made.append(self._make())
            self._broken = False
        return self._made[0]


@dataclass
class Run:
    """What the checks of one run share."""

    settings: Settings
    progress: Progress = field(default_factory=Progress)
    patience: float = 300.0
    """Seconds without a sign of progress after which a check is given up: more than a file system's failover takes."""
    deadline: float = math.inf
    """When all checks must have ended, on the monotonic clock."""

    def __post_init__(self) -> None:
        self.samples = Once(lambda: _samples(self.settings.text("data.annotations")))
        self.checkpoint = Once(lambda: read_checkpoint(self.settings.text("model.checkpointPath")))
        self.shapes = Once(lambda: weight_shapes(self.checkpoint()))
        self.pieces = Once(lambda: read_pieces(self.settings.text("model.tokenizerPath")))
        self.huggingface = Once(lambda: huggingface_vocabulary(self.settings.text("model.tokenizerPath")))

    @property
    def sentencepiece(self) -> bool:
        """Whether the tokenizer is a sentencepiece file."""
        return self.settings.text("model.tokenizerLibrary", "sentencepiece") == "sentencepiece"

    @property
    def image_names(self) -> list[str]:
        """Paths of all images inside the images folder, in the order of the samples."""
        return [i for s in self.samples() for i in images_of(s) if isinstance(i, str)]


def _samples(path: str) -> list[dict[str, Any]]:
    if not path.endswith(".json"):
        raise ProblemError(
            f"{show(path)}: must end with .json: NeMo reads .jsonl as another form (SteerLM) and nothing else at all",
            "convert or rename it, and set data.annotations",
        )
    data = read_json(path)
    if not isinstance(data, list) or not all(isinstance(s, dict) for s in data):
        raise ProblemError(f"{show(path)}: must be a JSON list of samples", "use blip_laion_cc_sbu_558k.json")
    if not data:
        raise ProblemError(f"{show(path)}: has no samples", "use blip_laion_cc_sbu_558k.json")
    return data


# Checks of the node and the mounts: quick


@check(
    "filesystem",
    Level.QUICK,
    "preflight.filesystems",
    cost="one read of /proc/self/mountinfo",
    prevents="the shared file system is not mounted on the node and an empty folder of its root disk is used",
)
def check_filesystem(run: Run) -> Iterator[Finding]:
    """G02."""
    for path, wanted in run.settings.objects("preflight.filesystems").items():
        fix = "mount the file system on this node, or keep the job away from it (scheduling.avoidNodes)"
        kind, demanded = filesystem_type(path), Settings(wanted).text("type", "")
        if demanded and kind != demanded:
            yield failed(f"{show(path)}: file system is {kind}; must be {demanded}", fix)
        marker = Settings(wanted).text("marker", "")
        if marker and not os.path.exists(os.path.join(path, marker)):
            yield failed(f"{show(path)}: has no marker file {show(marker)}", fix)
        yield note(f"{show(path)} is {kind}")


def filesystem_type(path: str) -> str:
    """Return the type of the file system that a path is on: the last mount whose point holds it."""
    real, best = os.path.realpath(path), ("", "unknown")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), left.split(" ")[4])
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, right.split(" ")[0])
    return best[1]


@check(
    "read-only",
    Level.QUICK,
    "readOnly",
    cost="one statvfs for each mount",
    prevents="a run changes or deletes shared datasets and models",
)
def check_read_only(run: Run) -> Iterator[Finding]:
    """Ask the kernel; writing to find out would be what is to be prevented."""
    for path in run.settings.texts("readOnly"):
        try:
            read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        except OSError as error:
            yield denied(path, error)
            continue
        if not read_only:
            yield failed(
                f"{show(path)}: is mounted writable; must be read-only",
                "set readOnly on its volume mount",
            )


@check(
    "access",
    Level.QUICK,
    cost="opens five files",
    prevents="permission denied, or a wrong path, when the first rank reads an input",
)
def check_access(run: Run) -> Iterator[Finding]:
    """G01: as the job's own uid."""
    opened = 0
    for key in (
        "data.annotations",
        "data.images",
        "model.checkpointPath",
        "model.tokenizerPath",
        "model.visionEncoderPath",
    ):
        path = run.settings.find(key)
        if not isinstance(path, str) or not path.startswith("/"):
            continue
        try:
            _open_one(path)
            opened += 1
        except OSError as error:
            yield denied(path if error.filename is None else str(error.filename), error)
    yield note(f"{opened} inputs open as uid {os.geteuid()}, gid {os.getegid()}")


def _open_one(path: str) -> None:
    """Read a byte of a file, or of the first file below a folder."""
    while os.path.isdir(path):
        with os.scandir(path) as entries:
            first = next(iter(entries), None)
        if first is None:
            return
        path = first.path
    with open_file(path) as file:
        file.read(1)


@check(
    "results",
    Level.QUICK,
    "results.path",
    cost="writes and removes one byte",
    prevents="checkpoints and logs cannot be written, found at the first save",
)
def check_results(run: Run) -> Iterator[Finding]:
    """G01, G04: the run's folder may not exist yet; 16 nodes do this at once."""
    problem = writable(run.settings.text("results.path"))
    yield problem or note(f"{show(run.settings.text('results.path'))} is writable")


@check(
    "unpack-space",
    Level.QUICK,
    "model.checkpointPath",
    "training.gpusPerNode",
    cost="one statvfs",
    prevents="every rank unpacks the .nemo file into TMPDIR, which fills up",
)
def check_unpack_space(run: Run) -> Iterator[Finding]:
    """D11: NeMo's load_nemo_model_weights unpacks a file once for each rank of the node."""
    path, ranks = (
        run.settings.text("model.checkpointPath"),
        run.settings.integer("training.gpusPerNode"),
    )
    place = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 (as tempfile does)
    problem = writable(place)
    if problem:
        yield problem
    if not os.path.isfile(path):
        yield note("the checkpoint is a folder: nothing to unpack")
        return
    size, space = os.path.getsize(path), os.statvfs(ancestor(place))
    free = space.f_bavail * space.f_frsize
    if free < ranks * size:
        yield failed(
            f"TMPDIR {show(place)} has {gib(free)} free; unpacking {show(path)} needs {ranks} x "
            f"{gib(size)} = "
            f"{gib(ranks * size)}",
            "unpack it once (mkdir DIR; tar -xf FILE -C DIR) and set model.checkpoint to that "
            "folder, or give "
            "storage.scratch more space",
        )
    yield note(f"{gib(free)} free in {show(place)} for {ranks} x {gib(size)}")


@check(
    "hf-home",
    Level.QUICK,
    "hf.home",
    cost="writes and removes one byte",
    prevents="Hugging Face libraries cannot write their locks, even when all files are there",
)
def check_hf_home(run: Run) -> Iterator[Finding]:
    """D17."""
    home = os.path.normpath(run.settings.text("hf.home"))
    for mount in run.settings.texts("readOnly"):
        if os.path.commonpath([home, os.path.normpath(mount)]) == os.path.normpath(mount):
            yield failed(
                f"hf.home: got {show(home)}, below the read-only mount {show(mount)}",
                "name a writable path",
            )
            return
    problem = writable(home)
    yield problem or note(f"{show(home)} is writable")


@check(
    "hub-id",
    Level.QUICK,
    "model.visionEncoderPath",
    cost="none",
    prevents="every rank tries to download the vision encoder on a node without network",
)
def check_hub_id(run: Run) -> Iterator[Finding]:
    """D15."""
    path = run.settings.text("model.visionEncoderPath")
    if not path.startswith("/") and not run.settings.flag("hf.online"):
        yield failed(
            f"model.visionEncoderPath: got the hub id {show(path)} while hf.online is false; must be an absolute path",
            "name a local folder (prepare.vision makes one), or set hf.online=true",
        )


SHM = "/dev/shm"  # noqa: S108 (the mount that is checked)


@check(
    "shm",
    Level.QUICK,
    "training.gpusPerNode",
    cost="one statvfs",
    prevents="DataLoader bus errors and NCCL's 'No space left on device' in /dev/shm",
)
def check_shm(run: Run) -> Iterator[Finding]:
    """C01: what the DataLoader's workers hold ready, and 64 MiB of NCCL for each rank."""
    space = os.statvfs(SHM)
    size = space.f_blocks * space.f_frsize
    needed = run.settings.integer("preflight.minimumShmBytes", 0) or shm_needed(run.settings)
    if size < needed:
        yield failed(
            f"{SHM} has {gib(size)}; must have at least {gib(needed)}",
            "mount an emptyDir with medium Memory at /dev/shm (the chart does), raise resources.shmSize",
        )
    yield note(f"{SHM} has {gib(size)}, needed {gib(needed)}")


def shm_needed(settings: Settings) -> int:
    """Return bytes of /dev/shm: 2 batches of float32 pixels for each worker, NCCL's buffers."""
    side = settings.integer("vision.imageSize", 336)
    batch = settings.integer("training.microBatchSize", 1) * 3 * side * side * 4
    rank = settings.integer("data.workers", 8) * 2 * batch + 64 * 2**20
    return settings.integer("training.gpusPerNode") * rank


@check(
    "gpus",
    Level.QUICK,
    "training.gpusPerNode",
    cost="two nvidia-smi calls",
    prevents="fewer processes than GPUs, MIG slices, or a node whose GPU fell off the bus",
)
def check_gpus(run: Run) -> Iterator[Finding]:
    """A05, N10."""
    wanted, (found, slices, mig) = run.settings.integer("training.gpusPerNode"), count_gpus()
    where = os.environ.get("NODE_NAME") or os.uname().nodename
    if slices or mig:
        said = f"{slices} MIG slices" if slices else f"MIG is on for {mig} GPUs"
        yield failed(
            f"{said} on {where}; must be {wanted} whole GPUs: a training process sees one slice only",
            "switch MIG off on that node, or keep the job away from it (scheduling.avoidNodes)",
        )
    elif found != wanted:
        yield failed(
            f"{found} GPUs visible on {where}; must be {wanted} (training.gpusPerNode)",
            "check the node's health and the container's GPU resource",
        )
    yield note(f"{found} GPUs")


ANSWER = 60.0
"""Seconds that a tool of the driver has; a sound one takes one."""


def count_gpus() -> tuple[int, int, int]:
    """Return GPUs and MIG slices by nvidia-smi, and GPUs whose MIG mode is on; without it, GPUs by device files."""
    try:
        listed = output_of(["nvidia-smi", "-L"], ANSWER).splitlines()
        modes = output_of(["nvidia-smi", "--query-gpu=mig.mode.current", "--format=csv,noheader"], ANSWER).split()
    except OSError:
        return sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev")), 0, 0
    slices = sum(bool(re.match(r"\s*MIG\s|.*UUID: MIG-", line)) for line in listed)
    return sum(line.startswith("GPU ") for line in listed), slices, modes.count("Enabled")


def output_of(command: list[str], limit: float) -> str:
    """Return what a tool prints.

    Raises:
        OSError: it cannot be started.
        ProblemError: it has not ended after ``limit`` seconds; it is killed, but not waited for: a driver may hold it.

    """
    with open(os.devnull, "rb") as nothing:
        process = subprocess.Popen(
            command, stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    try:
        printed = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        raise ProblemError(
            f"{command[0]} gave no answer in {limit:.0f} s: the driver hangs",
            "restart that node, or keep the job away from it (scheduling.avoidNodes)",
        ) from None
    return printed.decode("utf-8", "replace")


CAP_IPC_LOCK = 14
"""linux/capability.h"""


@check(
    "memlock",
    Level.QUICK,
    "rdma",
    cost="none",
    prevents="memory cannot be pinned for RDMA and NCCL falls back to TCP without a word",
)
def check_memlock(run: Run) -> Iterator[Finding]:
    """C02: the limit binds unless the capability is effective, as it is for root only."""
    if not run.settings.flag("rdma"):
        yield note("RDMA is off")
        return
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY and not has_capability(CAP_IPC_LOCK):
        yield failed(
            f"memlock limit is {limit} bytes as uid {os.geteuid()} without CAP_IPC_LOCK; must be unlimited for RDMA",
            "run as root with the IPC_LOCK capability, or raise the container runtime's memlock limit",
        )


def has_capability(number: int) -> bool:
    """Whether a capability is effective in this process."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return bool(effective >> number & 1)


# Checks of the data: full

EXPECTED = 558128
KNOWN = {
    EXPECTED: "LLaVA-Pretrain-LCS-558K",
    595375: "LLaVA-CC3M-Pretrain-595K",
    665298: "LLaVA-v1.5-mix665K (instruction tuning)",
    157712: "LLaVA-Instruct-150K (instruction tuning)",
}


@check(
    "dataset",
    Level.FULL,
    "data.annotations",
    cost="parses the JSON once: about 2 s and 0.8 GB of memory for 558K samples",
    prevents="an AssertionError in a DataLoader worker when a bad sample is drawn, hours later; the wrong dataset; "
    "fewer samples than one pass takes",
)
def check_dataset(run: Run) -> Iterator[Finding]:
    """F02 by count, F04 for each sample."""
    path, samples = run.settings.text("data.annotations"), run.samples()
    name = KNOWN.get(len(samples))
    if name is None:
        yield warning(
            f"{show(path)}: {len(samples)} samples, of no known dataset (LLaVA-Pretrain-LCS-558K has {EXPECTED})",
            "check that it is whole, and that training.maxSteps is meant for it",
        )
    elif len(samples) != EXPECTED:
        yield failed(
            f"{show(path)}: {len(samples)} samples: this looks like {name}; must be "
            f"LLaVA-Pretrain-LCS-558K ({EXPECTED})",
            "use blip_laion_cc_sbu_558k.json of liuhaotian/LLaVA-Pretrain",
        )
        return  # its samples are of another form: each would be named
    yield from sample_findings(run.settings, samples)
    yield from length_problems(run.settings, len(samples))
    yield note(f"{len(samples)} samples: {name or 'own dataset'}")


def sample_findings(settings: Settings, samples: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Name the samples that NeMo would stop at, or would learn nothing from (N03)."""
    template, media = settings.text("samples.template", "plain"), settings.text("samples.mediaType", "image")
    if template not in TEMPLATES:
        yield failed(
            f"config.model.data.conv_template: got {show(template)}; must be a template of NeMo's",
            f"use {', '.join(TEMPLATES)}",
        )
        return
    if media != "image":
        yield warning(f"samples of media type {show(media)} are not looked at", "check them by hand")
        return
    llama_3 = settings.text("model.modelType", "") == "llama_3"
    rules = Rules(template, settings.flag("samples.imageFirst"), LLAMA_3_TOKENS[5] if llama_3 else extra_tokens(6)[5])
    bad: dict[str, list[int]] = defaultdict(list)
    slots: dict[int, list[int]] = defaultdict(list)
    silent: list[int] = []
    without_image = 0
    for index, sample in enumerate(samples):
        problem, images, answered = look_at(sample, rules)
        if problem:
            bad[problem].append(index)
            continue
        slots[images or 1].append(index)
        without_image += not images
        if not answered:
            silent.append(index)
    alone = settings.integer("training.microBatchSize", 0) == 1
    for images in sorted(slots, key=lambda n: -len(slots[n]))[1:] if not alone else ():
        bad[f"have {images} images, other samples another number: they do not fit into one batch"] = slots[images]
    if alone and silent:
        bad["have no answer, so that at micro batch size 1 the loss is NaN"] = silent

    def named(indices: Sequence[int]) -> str:
        names = [brief(samples[i].get("id", f"#{i}")) for i in indices[: SHOWN + 1]]
        return some([*names, *[""] * (len(indices) - len(names))])

    for problem, indices in bad.items():
        yield failed(
            f"{len(indices)} samples {problem}: id {named(indices)}",
            "repair or remove them, or download the JSON again",
        )
    if silent and not alone:
        yield warning(f"{len(silent)} samples have no answer to learn from: id {named(silent)}", "remove them")
    if without_image:
        yield warning(f"{without_image} samples have no image", "check that it is a dataset of image captions")


@check(
    "images",
    Level.FULL,
    "data.annotations",
    "data.images",
    cost="lists each folder once, no stat of single files (656 folders for 558K images)",
    prevents="FileNotFoundError in a DataLoader worker when a missing image is drawn",
)
def check_images(run: Run) -> Iterator[Finding]:
    """F01, F02."""
    folder, wanted = run.settings.text("data.images"), list(dict.fromkeys(run.image_names))
    started = time.perf_counter()
    missing, odd, folders = missing_images(folder, wanted, run.progress)
    seconds = max(time.perf_counter() - started, 1e-6)
    if missing:
        yield failed(
            f"{show(folder)}: {len(missing)} of {len(wanted)} images are missing: {some(missing)}",
            _where_images_are(folder, missing[0]),
        )
    if odd:
        yield failed(
            f"{show(folder)}: {len(odd)} of {len(wanted)} images are no files (folders, pipes, devices): {some(odd)}",
            "unzip images.zip again (prepare.dataset), or remove their samples from the JSON",
        )
    found = len(wanted) - len(missing) - len(odd)
    yield note(f"{found} images in {folders} folders, listed in {seconds:.1f} s ({len(wanted) / seconds:.0f}/s)")


def missing_images(folder: str, wanted: Sequence[str], progress: Progress) -> tuple[list[str], list[str], int]:
    """Return the images that are not below the folder, those that are no files, and the number of folders looked into.

    The listing tells files apart from other things; a link counts as what it should lead to.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in wanted:
        by_folder[os.path.dirname(path)].append(os.path.basename(path))
    missing: list[str] = []
    odd: list[str] = []
    done = 0
    for place, names in by_folder.items():
        there: dict[str, bool] = {}
        try:
            with os.scandir(os.path.join(folder, place)) as entries:
                there = {e.name: e.is_file(follow_symlinks=False) or e.is_symlink() for e in entries}
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
            pass
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
                raise
        missing += [os.path.join(place, name) for name in names if name not in there]
        odd += [os.path.join(place, name) for name in names if not there.get(name, True)]
        done += len(names)
        progress.step("images", done, len(wanted))
    return missing, odd, len(by_folder)


def _where_images_are(folder: str, example: str) -> str:
    """Look for an image one level below or above, where unzip may have put it."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir() and os.path.exists(os.path.join(entry.path, example)):
                return f"they lie one level deeper: set data.images to {show(entry.path)}"
    above = os.path.dirname(folder.rstrip("/"))
    if os.path.exists(os.path.join(above, example)):
        return f"they lie one level higher: set data.images to {show(above)}"
    return "unzip images.zip again (prepare.dataset); single downloads lose about 15 %"


@check(
    "decode",
    Level.FULL,
    "data.annotations",
    "data.images",
    cost="decodes preflight.sample images (1000), evenly spread; with preflight.decode=all every "
    "one, about 2,000/s a core",
    prevents="an empty, truncated or malicious image kills the run when it is drawn",
)
def check_decode(run: Run) -> Iterator[Finding]:
    """F05: by content, not by name. F06: any exception of Pillow is a finding."""
    mode = run.settings.text("preflight.decode", "sample")
    if mode not in ("none", "sample", "all"):
        raise UsageError(f"settings: preflight.decode: got {mode!r}; must be none, sample or all")
    folder, names = run.settings.text("data.images"), list(dict.fromkeys(run.image_names))
    if mode == "none" or not names:
        yield Finding(Status.SKIPPED, "nothing to decode" if mode != "none" else "preflight.decode is none")
        return
    if mode == "sample":
        names = names[:: max(1, len(names) // max(1, run.settings.integer("preflight.sample", 1000)))]
    if not pillow():
        yield warning(
            "Pillow is not installed: only the first bytes of images are looked at",
            "use the NeMo image",
        )
    started = time.perf_counter()
    bad, renamed, decoded = decode(folder, names, run.progress)
    seconds = max(time.perf_counter() - started, 1e-6)
    if bad:
        yield failed(
            f"{len(bad)} of {len(names)} images cannot be decoded: "
            + some([f"{name} ({problem})" for name, problem in bad.items()]),
            "unzip them again (prepare.dataset), or remove their samples from the JSON",
        )
    if renamed:
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(renamed.values()).items())
        yield warning(
            f"{len(renamed)} images are of another kind than their name says ({kinds}): {some(list(renamed))}",
            "nothing needs to be done: Pillow goes by content",
        )
    yield note(f"{decoded} images decoded in {seconds:.1f} s ({len(names) / seconds:.0f}/s)")


def pillow() -> Any:
    """Return Pillow's Image module, or None."""
    try:
        from PIL import Image
    except ImportError:
        return None
    return Image


def decode(folder: str, names: Sequence[str], progress: Progress) -> tuple[dict[str, str], dict[str, str], int]:
    """Return problems of images by name, true kinds of wrongly named ones, and the decoded.

    Missing images are left to the check that counts them.
    """
    bad, renamed, decoded = {}, {}, 0
    threads = min(32, 2 * len(os.sched_getaffinity(0)))
    found = in_threads(lambda n: decode_one(os.path.join(folder, n)), names, threads)
    for done, (name, (problem, kind)) in enumerate(found, 1):
        decoded += bool(kind)
        if problem:
            bad[name] = problem
        elif kind and kind not in _kinds_of(name):
            renamed[name] = kind
        progress.step("decode", done, len(names))
    return {n: bad[n] for n in names if n in bad}, {n: renamed[n] for n in names if n in renamed}, decoded


def in_threads(work: Callable[[str], R], items: Sequence[str], count: int) -> Iterator[tuple[str, R]]:
    """Yield items and their results as they come; no one waits for a thread that a file system holds."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, R]] = queue.SimpleQueue()

    def go_on() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                item = todo.get_nowait()
                done.put((item, work(item)))

    for item in items:
        todo.put(item)
    for _ in range(min(count, len(items))):
        threading.Thread(target=go_on, daemon=True).start()
    for _ in items:
        yield done.get()


def _kinds_of(name: str) -> tuple[str, ...]:
    ending = os.path.splitext(name)[1].lower()
    return {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO")}.get(ending, (ending[1:].upper(),))


SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WEBP",
    b"BM": "BMP",
}


def decode_one(path: str) -> tuple[str, str]:
    """Return (problem, kind) of one image, decoded as NeMo does: open, convert to RGB.

    A missing one has neither. Pillow raises anything: OSError, ValueError, SyntaxError ...
    """
    try:
        with open_file(path) as file:
            head = file.read(16)
            if not head:
                return "empty", ""
            image_module = pillow()
            if image_module is None:
                kind = next((k for s, k in SIGNATURES.items() if head.startswith(s)), "")
                return ("" if kind else "not an image"), kind
            file.seek(0)
            with image_module.open(file) as image:
                image.convert("RGB")
                return "", str(image.format)
    except FileNotFoundError:
        return ("a link to nothing" if os.path.islink(path) else ""), ""
    except NotAFileError:
        return "no regular file", ""
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0], ""


# Checks of the models: full


@check(
    "checkpoint",
    Level.FULL,
    "model.checkpointPath",
    cost="reads the tar's headers or lists the folder, and model_config.yaml; never the weights",
    prevents="a checkpoint of another model, RoPE, TP or PP, another code path, or not written to its end",
)
def check_checkpoint(run: Run) -> Iterator[Finding]:
    """D12, E02, E03, E05: by what is inside, never by name."""
    found = run.checkpoint()
    yield from layout_problems(run.settings, found)
    if found.config is None:
        yield warning(f"PyYAML is not installed: {CONFIG} is not compared", "use the NeMo image")
    else:
        yield from config_problems(found.config, run.settings.mapping("architecture"))
        yield from llm_problems(found.config, run.settings)
    yield note(str(found))


def layout_problems(settings: Settings, found: Checkpoint) -> Iterator[Finding]:
    """Compare the layout with what is demanded and with the job's TP and PP."""
    demanded = settings.text("model.checkpointFormat", "auto")
    actual = "distributed" if found.distributed else "legacy"
    if demanded not in ("auto", actual):
        yield failed(
            f"{show(found.path)}: is {actual}; model.checkpointFormat demands {demanded}",
            "convert it again, or set model.checkpointFormat=auto",
        )
    tensor, pipeline = (
        settings.find("training.tensorParallelSize"),
        settings.find("training.pipelineParallelSize"),
    )
    if found.distributed or tensor is None:
        return
    if (found.tensor_parallel, found.pipeline_parallel) != (tensor, pipeline or 1):
        yield failed(
            f"{show(found.path)}: is split for TP {found.tensor_parallel} PP "
            f"{found.pipeline_parallel}; must be "
            f"TP {tensor} PP {pipeline or 1}",
            "repartition it (prepare.llm), or set "
            f"training.tensorParallelSize={found.tensor_parallel} and "
            f"training.pipelineParallelSize={found.pipeline_parallel}",
        )


MEGATRON_NAMES = {
    "numLayers": "num_layers",
    "hiddenSize": "hidden_size",
    "ffnHiddenSize": "ffn_hidden_size",
    "numAttentionHeads": "num_attention_heads",
    "numQueryGroups": "num_query_groups",
    "numExperts": "num_moe_experts",
}


def config_problems(config: Mapping[str, Any], architecture: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare model_config.yaml with the architecture (E05), and demand Megatron Core (D12)."""
    if config.get("mcore_gpt") is not True:
        yield failed(
            f"{CONFIG}: mcore_gpt is {brief(config.get('mcore_gpt'))}; must be true: weights under "
            "other names are ignored "
            "without an error, and the projector learns against a random language model",
            "convert it again with the 24.07 container",
        )
    unset = {"num_query_groups": config.get("num_attention_heads"), "num_moe_experts": 1}
    wrong = []
    for key, name in MEGATRON_NAMES.items():
        value = config.get(name)
        value = unset.get(name) if value is None else value
        if key in architecture and value != architecture[key]:
            wrong.append(f"{name} is {brief(value)}, must be {architecture[key]}")
    if wrong:
        yield failed(
            f"{CONFIG}: {'; '.join(wrong)}",
            "name the checkpoint of this model, or the model of this checkpoint (model.name)",
        )


VALUES_OF = {"rotary_base": "model.architecture.rotaryBase", "moe_router_topk": "model.architecture.expertsPerToken"}
"""Values that say what others say in ``config``."""

UNREAD = re.compile(
    r"rope(?!.*fusion)|rotary|yarn|position_?emb|positional|window|interpolat|soft_?cap|alibi|embedding_scal|logit_scal"
)
"""Names of what changes attention or embeddings, and NeVa does not read unless rules.yaml's llmConfig lists it."""


def llm_problems(config: Mapping[str, Any], settings: Settings, where: str = CONFIG) -> Iterator[Finding]:
    """Compare what makes the language model another one without an error with the run's Hydra config (N01)."""
    facts: Mapping[str, Mapping[str, Any]] = settings.objects("llm")
    dense = config.get("num_moe_experts") in (None, 0, 1)
    names = [
        n
        for n, fact in facts.items()
        if (n in config or "default" in fact) and "run" in fact and not (dense and n.startswith("moe_"))
    ]
    theirs = {n: config.get(n, facts[n].get("default")) for n in names}
    ours = {n: facts[n]["run"] for n in names}
    shape = settings.find("architecture.hiddenSize"), settings.find("architecture.numAttentionHeads")
    left = canonical(theirs, config.get("hidden_size"), config.get("num_attention_heads"))
    right = canonical(ours, *shape)
    wrong = [n for n in names if left[n] != right[n] and (theirs[n] is not None or ours[n] is not None)]
    if wrong:
        said = "; ".join(f"{n} is {brief(theirs[n])}, the run's config says {brief(ours[n])}" for n in wrong)
        yield failed(
            f"{where}: {said}: the weights would load, without an error, into another model than theirs",
            "name the checkpoint of this model (model.name), or if it is meant set "
            + ", ".join(f"{VALUES_OF.get(n, f'config.model.{n}')}={brief(theirs[n])}" for n in wrong),
        )
    names = [n for n in config if isinstance(n, str) and n not in facts and n != "max_position_embeddings"]
    unread = [n for n in names if UNREAD.search(n[:100])]
    more = [f"{n} {brief(config[n])}" for n in unread if config.get(n) not in (None, False, 0, "", [], {})]
    if facts and more:
        yield failed(
            f"{where}: {some(more)}: NeVa of NeMo 24.07 has no such setting and would run the weights without it",
            "use a model without it, such as the one of the catalog (model.name)",
        )


def as_nemo(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what NeMo's converters make of a Hugging Face config.json, as far as it is compared."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope = rope if isinstance(rope, dict) else {"type": rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    made = {
        "hidden_size": config.get("hidden_size"),
        "num_attention_heads": config.get("num_attention_heads"),
        "num_moe_experts": config.get("num_local_experts"),
        "rotary_base": config.get("rope_theta", rope.get("rope_theta", 10000.0)),
        "seq_len_interpolation_factor": rope.get("factor") if kind == "linear" else None,
        "rope_scaling": None if kind in ("linear", "default") else kind,
        "window_size": [window, 0] if window else None,
        "qkv_bias": bool(config.get("attention_bias")),
    }
    names = {
        "rms_norm_eps": "layernorm_epsilon",
        "head_dim": "kv_channels",
        "num_experts_per_tok": "moe_router_topk",
        "partial_rotary_factor": "rotary_percentage",
        "tie_word_embeddings": "share_embeddings_and_output_weights",
    }
    return made | {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs) is not None}


def canonical(values: Mapping[str, Any], hidden: Any, heads: Any) -> dict[str, Any]:
    """Return config values so that what NeMo and Megatron take for the same is equal."""
    found = {name: _plain(value) for name, value in values.items()}
    if isinstance(found.get("activation"), str):
        found["activation"] = found["activation"].removeprefix("fast-")
    if found.pop("layernorm_zero_centered_gamma", None) and found.get("normalization") == "layernorm":
        found["normalization"] = "layernorm1p"
    if found.get("moe_router_load_balancing_type") == "none":
        found["moe_router_load_balancing_type"] = "aux_loss"  # the same forward pass
    if found.get("kv_channels") is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        found["kv_channels"] = hidden // heads
    if found.get("seq_len_interpolation_factor") == 1:
        found["seq_len_interpolation_factor"] = None
    window = found.get("window_size")
    if isinstance(window, tuple) and window[:1] == (-1,):
        found["window_size"] = None
    return {name: found.get(name) for name in values}


def _plain(value: Any) -> Any:
    """Return a number for what YAML 1.1 reads as text and OmegaConf as a number, such as 1e-6."""
    if isinstance(value, list):
        return tuple(map(_plain, value))
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value.lower()


EMBEDDING = "embedding.word_embeddings.weight"


def embedding_of(shapes: Mapping[str, Shape]) -> Shape | None:
    """Return rows and columns of the word embeddings."""
    found = shapes.get("model." + EMBEDDING) or shapes.get(EMBEDDING)
    return found if found and len(found) == 2 else None


@check(
    "weights",
    Level.FULL,
    "model.checkpointPath",
    cost="reads the index of the weights (names and shapes), never the weights",
    prevents="weights whose names do not fit are ignored without an error (loss stays near 10)",
)
def check_weights(run: Run) -> Iterator[Finding]:
    """D12: NeVa's load_llm_weights strips one leading `model.` and loads with strict=False."""
    run.checkpoint()
    shapes = run.shapes()
    names = {n.removeprefix("model.") for n in shapes}
    if any(n.startswith("language_model.") for n in names) or not any(n.startswith("decoder.layers.") for n in names):
        yield failed(
            "names of the weights are not Megatron Core's (model.decoder.layers. ...): "
            f"{some(sorted(shapes))}; NeVa "
            "would ignore them without an error",
            "convert it again with the 24.07 container",
        )
        return
    embedding = embedding_of(shapes)
    hidden = run.settings.find("architecture.hiddenSize")
    if embedding and hidden is not None and embedding[1] != hidden:
        yield failed(
            f"word embeddings are {embedding[1]} wide; must be {hidden}",
            "name the checkpoint of this model",
        )
    yield note(f"{len(shapes)} tensors under Megatron Core's names")


@check(
    "tokenizer",
    Level.FULL,
    "model.tokenizerPath",
    cost="reads the tokenizer (0.5 MB sentencepiece, 9 MB Hugging Face)",
    prevents="media tokens that do not exist or are never found in text",
)
def check_tokenizer(run: Run) -> Iterator[Finding]:
    """E07."""
    path, count = (
        run.settings.text("model.tokenizerPath"),
        run.settings.integer("model.extraTokens", 0),
    )
    if run.sentencepiece:
        found = run.pieces()
        if count:
            yield from piece_problems(path, found, count)
        elif not set(extra_tokens(6)) <= {t for t, _ in found}:
            yield failed(
                f"{show(path)}: has no <extra_id_0..5>, NeVa's media tokens",
                "use the model's own tokenizer",
            )
        yield note(f"{len(found)} pieces")
        return
    size, added = run.huggingface()
    missing = [t for t in LLAMA_3_TOKENS if t not in added]
    if missing and run.settings.text("model.modelType", "") == "llama_3":
        yield failed(f"{show(path)}: has no {some(missing)}", "copy the tokenizer of Llama 3 unchanged")
    yield note(f"vocabulary of {size}")


VOCAB_DIVISOR = 128
"""NeMo's make_vocab_size_divisible_by."""


def padded(size: int, tensor_parallel: int) -> int:
    """Return a vocabulary's size after NeMo's padding to a multiple of 128 x TP."""
    multiple = VOCAB_DIVISOR * tensor_parallel
    return -(-size // multiple) * multiple


@check(
    "vocabulary",
    Level.FULL,
    "model.tokenizerPath",
    "training.tensorParallelSize",
    cost="none beyond tokenizer and weights",
    prevents="a size mismatch of the embedding after all ranks have loaded",
)
def check_vocabulary(run: Run) -> Iterator[Finding]:
    """Compare the padded vocabulary with the model's, and with a legacy checkpoint's embedding."""
    tensor = run.settings.integer("training.tensorParallelSize", least=1)
    size = len(run.pieces()) if run.sentencepiece else run.huggingface()[0]
    wanted = padded(size, tensor)
    model = run.settings.integer("architecture.vocabSize", 0)
    if model and padded(model, tensor) != wanted:
        yield failed(
            f"the tokenizer has {size} tokens, padded to {wanted} at TP {tensor}; the model has "
            f"{model}, padded to "
            f"{padded(model, tensor)}",
            "name the tokenizer of this model (model.tokenizer)",
        )
    if run.settings.find("model.checkpointPath") is not None and not run.checkpoint().distributed:
        shapes = run.shapes()
        embedding = embedding_of(shapes)
        if embedding and embedding[0] * run.checkpoint().tensor_parallel != wanted:
            yield failed(
                "the checkpoint's embedding has "
                f"{embedding[0] * run.checkpoint().tensor_parallel} rows; the tokenizer "
                f"needs {wanted} at TP {tensor}",
                "repartition the checkpoint for this TP (prepare.llm): that pads it",
            )
    yield note(f"{size} tokens, padded to {wanted} at TP {tensor}")


VISION_DEFAULTS = {"clip": (224, 32, 768), "siglip": (224, 16, 768)}
"""transformers' CLIPVisionConfig and SiglipVisionConfig where config.json leaves a key out."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@check(
    "vision",
    Level.FULL,
    "model.visionEncoderPath",
    "vision",
    cost="reads config.json and the folder's names",
    prevents="a ValueError on all ranks after the language model was loaded; a wrong number of image tokens",
)
def check_vision(run: Run) -> Iterator[Finding]:
    """D14, D15."""
    path = run.settings.text("model.visionEncoderPath")
    if not path.startswith("/"):
        yield Finding(Status.SKIPPED, f"{show(path)} is a hub id")
        return
    run.settings.texts("vision.architectures")
    yield from vision_problems(path, run.settings.mapping("vision"))


def vision_problems(path: str, wanted: Mapping[str, Any]) -> Iterator[Finding]:
    """Check a vision encoder's folder."""
    config = read_object(os.path.join(path, "config.json"))
    fix = "name the vision encoder of this model in model.visionEncoderPath"
    known = wanted.get("architectures") or []
    architectures = config.get("architectures") or [None]
    architecture = architectures[0] if isinstance(architectures, list) else architectures
    if known and architecture not in known:
        said = None if architecture is None else brief(architecture)
        yield failed(
            f"{show(path)}/config.json: architectures[0] is {said}; must be one of {', '.join(known)}",
            fix,
        )
    tower = config.get("vision_config") or config
    if not isinstance(tower, dict):
        raise ProblemError(f"{show(path)}/config.json: vision_config is {brief(tower)}; must be an object", fix)
    family = "siglip" if "siglip" in brief(architecture).lower() else "clip"
    names = {"image_size": "imageSize", "patch_size": "patchSize", "hidden_size": "hiddenSize"}
    for (name, key), default in zip(names.items(), VISION_DEFAULTS[family], strict=True):
        found = tower.get(name, default)
        if key in wanted and found != wanted[key]:
            yield failed(f"{show(path)}/config.json: {name} is {brief(found)}; must be {wanted[key]}", fix)
    processor = os.path.join(path, "preprocessor_config.json")
    if os.path.exists(processor):
        read_object(processor)
    else:
        yield failed(
            f"{show(path)}: has no preprocessor_config.json",
            "copy it from the encoder's repository",
        )
    yield from _vision_weights(path)


def _vision_weights(path: str) -> Iterator[Finding]:
    fix = "copy the weights again (prepare.vision)"
    present = [n for n in WEIGHTS if os.path.exists(os.path.join(path, n))]
    for index in (os.path.join(path, n + ".index.json") for n in WEIGHTS):
        if not present and os.path.exists(index):
            shards = read_object(index).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(n, str) and inside(n) for n in shards.values()):
                raise ProblemError(f"{show(index)}: weight_map does not name files of this folder", fix)
            present = sorted(set(shards.values()))
    if not present:
        yield failed(f"{show(path)}: has neither {' nor '.join(WEIGHTS)}", fix)
    for name in present:
        file = os.path.join(path, name)
        if not os.path.exists(file) or os.path.getsize(file) == 0:
            yield failed(f"{show(file)}: is missing or empty", fix)
        elif is_lfs_pointer(file):
            yield failed(f"{show(file)} is a git LFS pointer, not the file", "run git lfs pull, or " + fix)
    yield note(f"weights: {some(present)}")


# Resuming


@check(
    "resume",
    Level.FULL,
    "results.checkpointsDir",
    cost="lists the run's checkpoints folder, reads run.json; the dataset's length where the batch sizes changed",
    prevents="training silently starts from 0, resumes another run, ends at once, or dies in NeMo's sampler",
)
def check_resume(run: Run) -> Iterator[Finding]:
    """D04, D05, X16, R03: as NeMo's exp_manager.check_resume decides, with the path that was looked at."""
    folder, mode = run.settings.text("results.checkpointsDir"), run.settings.text("resume", "auto")
    state = resume_state(folder)
    where = show(folder)
    if state.unfinished:
        yield warning(
            f"{where}: {some(state.unfinished)} were not written to their end; NeMo removes them",
            "none needed",
        )
    if mode == "never":
        if state.last or state.end:
            yield warning(
                f"{where}: has {some(state.last + state.end)} while checkpoint.resume is never: the new run mixes its "
                "files with them",
                "choose another run.id",
            )
        return
    if state.end:
        yield failed(
            f"{where}: {some(state.end)} says that the run has ended; NeMo stops at that",
            "choose another run.id",
        )
    elif not state.last:
        yield from _nothing_to_resume(run, folder, mode)
        return
    elif not state.chosen:
        yield failed(
            f"{where}: several checkpoints match *last: {some(state.last)}; NeMo stops at that",
            "keep the right one only",
        )
    else:
        if len(set(state.last)) > 1:
            yield warning(
                f"{where}: several checkpoints match *last: {some(state.last)}; each rank takes the one that its file "
                f"system lists first, here {show(os.path.basename(state.chosen))}",
                "keep the right one only",
            )
        yield from continuation_problems(run, state.chosen)
    yield from other_run(run.settings, state.chosen)
    if state.chosen:
        yield note(f"resumes from {show(state.chosen)}")


def _nothing_to_resume(run: Run, folder: str, mode: str) -> Iterator[Finding]:
    if mode != "require":
        yield note(f"no checkpoint in {show(folder)}: starts from step 0")
        return
    others = _other_checkpoints(os.path.dirname(run.settings.text("results.path", folder)), folder)
    hint = f"; there are some in {some(others)}: set run.id to theirs" if others else ""
    yield failed(
        f"no checkpoint that matches *last in {show(folder)}, and checkpoint.resume is require",
        f"check run.id and storage.results, or set checkpoint.resume=auto{hint}",
    )


RANK_FOLDERS = ("mp_rank", "tp_rank", "fsdp_shard")
"""Parts of a path by which NeMo knows a rank's own file."""


@dataclass(frozen=True)
class ResumeState:
    """What NeMo sees in a checkpoints folder, by name, and the path that it resumes from ("" for none)."""

    last: list[str]
    end: list[str]
    unfinished: list[str]
    chosen: str = ""


def resume_state(folder: str) -> ResumeState:
    """Look into a checkpoints folder, with the calls and in the order of NeMo.

    A distributed checkpoint is a folder ``*-last``; where there is none, a legacy one is ``*last.ckpt`` at any depth,
    once in each rank's folder. Source: NeMo r2.0.0rc1, exp_manager.check_resume and
    _filter_out_unfinished_checkpoints, NeMoModelCheckpoint.format_checkpoint_unfinished_marker_path.
    """
    place = Path(folder)
    folders = [d for d in place.glob("*") if d.is_dir()]

    def matching(word: str) -> list[Path]:
        found = [d for d in folders if d.match(f"*{word}")] or list(place.rglob(f"*{word}.ckpt"))
        return [c for c in found if not _marker(str(c)).exists()]

    end, last = matching("end"), matching("last")
    chosen = ""
    if last and not end and (len(last) == 1 or any(r in str(last[0]) for r in RANK_FOLDERS)):
        chosen = str(last[0]) if len(last) == 1 else without_rank(str(last[0]))
    markers = [m.name.removesuffix("-unfinished") for m in place.glob("*-unfinished") if m.is_file()]
    return ResumeState(sorted({c.name for c in last}), sorted({c.name for c in end}), sorted(markers), chosen)


def without_rank(path: str) -> str:
    """Return a checkpoint's path without the rank's folder. Source: model_utils.uninject_model_parallel_rank."""
    if not any(rank in path for rank in RANK_FOLDERS):
        return path
    return os.path.join(os.path.dirname(os.path.dirname(path)), os.path.basename(path))


def _marker(path: str) -> Path:
    plain = without_rank(path)
    for ending in (".nemo", ".ckpt", "-EMA"):
        plain = plain.removesuffix(ending)
    return Path(plain + "-unfinished")


def consumed_samples(path: str) -> int:
    """Return the samples that NeMo takes a checkpoint to have seen: by its path, 0 where that does not say.

    Source: NeMo r2.0.0rc1, megatron_base_model._extract_consumed_samples_from_ckpt.
    """
    try:
        return int(float(re.findall(r"consumed_samples\=([0-9]+.[0-9]+)", path)[0]))
    except (ValueError, IndexError, OverflowError):
        return 0


def sampler_takes(samples: int, consumed: int, pass_size: int) -> bool:
    """Whether NeMo's sampler begins at that many consumed samples, with MBS x data parallel size at a time.

    Source: NeMo r2.0.0rc1, MegatronVisionPretrainingRandomSampler.__iter__.
    """
    active = samples - samples % pass_size
    return active > 0 and consumed % active % pass_size == 0


def step_of(path: str) -> int | None:
    """Return a checkpoint's step, by its name."""
    match = re.search(r"step=([0-9]{1,18})", os.path.basename(path))
    return int(match[1]) if match else None


def steps_for_the_rest(settings: Settings, chosen: str) -> int | None:
    """Return the maxSteps with which a run whose global batch has changed sees all of its samples.

    NeMo goes on counting steps: those before the checkpoint had another size.
    """
    step, consumed = step_of(chosen), consumed_samples(chosen)
    steps, batch = settings.find("training.maxSteps"), settings.find("training.globalBatchSize")
    if step is None or not consumed or not isinstance(steps, int) or not isinstance(batch, int) or batch < 1:
        return None
    left = steps * batch - consumed
    return step - (-left // batch) if left > 0 and consumed != step * batch else None


def continuation_problems(run: Run, chosen: str) -> Iterator[Finding]:
    """Compare a checkpoint's step and samples with the run's steps and batch sizes."""
    name = show(os.path.basename(chosen))
    step, steps = step_of(chosen), run.settings.find("training.maxSteps")
    if step is not None and steps is not None and step >= steps:
        rest = steps_for_the_rest(run.settings, chosen)
        more = f" (to {rest} for the samples that are left at this global batch)" if rest else ""
        yield failed(
            f"{name} is at step {step} of {steps}: the run is finished",
            f"choose another run.id, or raise training.maxSteps{more}",
        )
    yield from sampler_problems(run, name, consumed_samples(chosen))


@dataclass(frozen=True)
class Batches:
    """What NeMo's sampler goes by: how many samples all replicas take at a time."""

    nodes: int
    gpus_per_node: int
    tensor: int
    pipeline: int
    micro: int
    batch: int

    @property
    def replicas(self) -> int:
        """Data parallel size."""
        return max(1, self.nodes * self.gpus_per_node // (self.tensor * self.pipeline))

    @property
    def size(self) -> int:
        """Samples of a pass; with a pipeline the sampler gives a replica its whole share of a step at once."""
        return (self.micro if self.pipeline == 1 else self.batch // self.replicas) * self.replicas

    def __str__(self) -> str:
        if self.pipeline == 1:
            return f"{self.size} (MBS x data parallel size {self.replicas})"
        return f"{self.size} (global batch of {self.replicas} replicas with a pipeline)"

    def ways(self, takes: Callable[[int], bool]) -> list[str]:
        """Say with which sizes, each changed alone, a pass is one that is taken."""
        replica = self.tensor * self.pipeline
        changed = {
            "training.microBatchSize": (
                (m, replace(self, micro=m)) for m in range(self.batch // self.replicas, 0, -1) if self.pipeline == 1
            ),
            "training.nodes": (
                (n, replace(self, nodes=n))
                for n in range(2 * self.nodes, 0, -1)
                if n * self.gpus_per_node % replica == 0
            ),
            "training.globalBatchSize": (
                (b, replace(self, batch=b))
                for b in range(self.batch, 0, -self.micro * self.replicas)
                if self.pipeline > 1
            ),
        }
        found = {
            key: list(
                itertools.islice((n for n, b in sizes if b.batch % (b.micro * b.replicas) == 0 and takes(b.size)), 3)
            )
            for key, sizes in changed.items()
        }
        return [f"set {key}={' or '.join(map(str, sizes))}" for key, sizes in found.items() if sizes]


SIZES = ("nodes", "gpusPerNode", "tensorParallelSize", "pipelineParallelSize", "microBatchSize", "globalBatchSize")


def batches_of(settings: Settings) -> Batches | None:
    """Return the run's sizes, or None where they are not all given."""
    found = [settings.find(f"training.{key}") for key in SIZES]
    return Batches(*found) if all(type(n) is int and n > 0 for n in found) else None


def length_problems(settings: Settings, samples: int) -> Iterator[Finding]:
    """R03: of fewer samples than a pass nothing is ever drawn; NeMo's sampler divides by that nothing."""
    batches = batches_of(settings)
    if batches and 0 <= samples < batches.size:
        yield failed(
            f"{samples} samples are fewer than one pass of all replicas takes, {batches}: NeMo's sampler cannot begin",
            "; or ".join(
                [*batches.ways(lambda size: samples >= size), f"use a dataset of {batches.size} samples or more"]
            ),
        )


def sampler_problems(run: Run, name: str, consumed: int) -> Iterator[Finding]:
    """R03: the sampler asserts that what was consumed is whole passes of all replicas."""
    if run.settings.text("samples.loader", "cyclic") != "cyclic":
        return
    batches = batches_of(run.settings)
    if batches is None:
        yield warning(
            f"{name} has seen {consumed} samples: whether NeMo's sampler takes that follows from the run's nodes and "
            "batch sizes, which are unknown",
            "give the run's values, too (-f)",
        )
        return
    if consumed % batches.size == 0:
        return  # whatever the dataset's length
    said = f"{name} has seen {consumed} samples, no multiple of {batches}"
    open_question = f"{said}: whether NeMo's sampler takes that follows from the dataset's length, which is unknown"
    if run.settings.find("data.annotations") is None:
        yield warning(open_question, "give the dataset, too")
        return
    try:
        samples = len(run.samples())
    except (ProblemError, NotPossibleError):
        yield warning(open_question, "see what the check dataset says")
        return
    if sampler_takes(samples, consumed, batches.size):
        return
    ways = batches.ways(lambda size: sampler_takes(samples, consumed, size))
    yield failed(
        f"{said}: NeMo's sampler stops with an AssertionError ({samples} samples are an epoch)",
        "; or ".join([*ways, "go back to the first run's global batch"]),
    )


def _other_checkpoints(results: str, folder: str) -> list[str]:
    """Return checkpoints folders of other runs, or deeper ones, that have something to resume."""
    found = []
    for place, inner, _ in os.walk(results):
        depth = os.path.relpath(place, results).count("/")
        if os.path.basename(place) == "checkpoints":
            inner[:] = []
            if os.path.normpath(place) != os.path.normpath(folder) and resume_state(place).last:
                found.append(place)
        elif depth > 3:
            inner[:] = []
    return sorted(found)


FIXED = (
    "model.name",
    "model.projector",
    "architecture",
    "vision",
    "training.tensorParallelSize",
    "training.pipelineParallelSize",
)
"""Settings whose change a checkpoint does not survive."""

WATCHED = (
    *(
        f"training.{k}"
        for k in (
            "globalBatchSize",
            "microBatchSize",
            "precision",
            "seed",
            "learningRate",
            "maxSteps",
            "nodes",
        )
    ),
    "data.annotations",
    "data.images",
    "model.checkpointPath",
    "model.tokenizerPath",
    "model.visionEncoderPath",
    "image",
)
"""Settings whose change bends the curve of a resumed run."""


def other_run(settings: Settings, chosen: str) -> Iterator[Finding]:
    """Compare with run.json, which the first launch of this run wrote beside its results."""
    path = os.path.join(settings.text("results.path", "/"), "run.json")
    if not os.path.exists(path):
        yield warning(
            f"{show(path)}: not there, so the checkpoint's settings are unknown",
            "check that they are this run's",
        )
        return
    before, rest = Settings(read_json(path)), steps_for_the_rest(settings, chosen)
    more = f"; at this global batch training.maxSteps={rest} sees the same samples" if rest else ""
    for keys, make, fix in (
        (FIXED, failed, "choose another run.id, or go back to those settings"),
        (WATCHED, warning, f"nothing if it is meant; else go back to those settings{more}"),
    ):
        changed = [k for k in keys if settings.find(k) is not None and before.find(k) != settings.find(k)]
        if changed:
            said = "; ".join(f"{k} was {shown(before.find(k))}, is {shown(settings.find(k))}" for k in changed)
            yield make(f"{show(path)}: the run to resume had other settings: {said}", fix)


def shown(value: Any) -> str:
    """Return a setting as short JSON."""
    return json.dumps(value) if isinstance(value, str) and len(value) < 300 else brief(value)


# Running and reporting


@dataclass(frozen=True)
class Result:
    """What one check came to."""

    name: str
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """The worst of its findings."""
        found = {f.status for f in self.findings}
        order = (Status.FAILED, Status.WARNING, Status.SKIPPED)
        return next((s for s in order if s in found), Status.OK)


def run_check(wanted: Check, run: Run) -> Result:
    """Run one check; whatever stops it is a finding, and so is that it does not end.

    It runs in a thread of its own: a read from a file system that stalls cannot be called off, only left alone, and
    the main thread obeys signals while it waits.

    Raises:
        UsageError: the settings are wrong.

    """
    started = time.monotonic()
    findings: list[Finding] = []
    raised: list[BaseException] = []
    lacking = [key for key in wanted.needs if run.settings.find(key) is None]
    if lacking:
        findings.append(Finding(Status.SKIPPED, f"{', '.join(lacking)} not given"))
    elif started >= run.deadline:
        findings.append(Finding(Status.SKIPPED, "no time is left, see above"))
    else:
        thread = threading.Thread(target=_collect, args=(wanted, run, findings, raised), daemon=True)
        run.progress.moved = started
        thread.start()
        while thread.is_alive():
            now = time.monotonic()
            if now >= run.deadline:
                findings.append(
                    failed(
                        f"has not ended after {now - started:.0f} s, when the time of all checks was over",
                        "raise preflight.timeoutSeconds, and with it rendezvous.waitSeconds",
                    )
                )
                break
            if now >= run.progress.moved + run.patience:
                findings.append(
                    failed(
                        f"no sign of progress for {now - run.progress.moved:.0f} s: a file system or a driver hangs",
                        "look at the node's mounts and its dmesg, or keep the job away from it (scheduling.avoidNodes)",
                    )
                )
                break
            thread.join(min(1.0, run.deadline - now, run.progress.moved + run.patience - now))
    if raised:
        raise raised[0]
    run.progress.clear()
    return Result(wanted.name, time.monotonic() - started, tuple(findings))


def _collect(wanted: Check, run: Run, findings: list[Finding], raised: list[BaseException]) -> None:
    """Run a check to its end; what is no finding is handed to the main thread."""
    try:
        for finding in wanted.run(run):
            findings.append(finding)
    except ProblemError as problem:
        findings.append(problem.finding)
    except NotPossibleError as reason:
        findings.append(Finding(Status.SKIPPED, str(reason)))
    except UsageError as error:
        raised.append(error)
    except OSError as error:
        findings.append(denied(str(error.filename or ""), error))
    except Exception as error:  # a fault of one check must not hide what the others find
        findings.append(
            failed(f"the check itself stopped: {type(error).__name__}: {brief(str(error))}", "please report it")
        )
    except BaseException as error:
        raised.append(error)


def select(level: Level, only: Iterable[str], skip: Iterable[str]) -> list[Check]:
    """Return the checks to run, in the order of the registry."""
    only, skip = list(only), list(skip)
    unknown = [name for name in (*only, *skip) if name not in CHECKS]
    if unknown:
        raise UsageError(f"check: got {some(unknown)}; must be one of {', '.join(CHECKS)}")
    chosen = [c for c in CHECKS.values() if c.name in only] if only else list(CHECKS.values())
    return [c for c in chosen if c.name not in skip and (only or level is Level.FULL or c.level is level)]


def as_text(results: Sequence[Result]) -> str:
    """Return the table for a person: a line for each finding, its fix below it."""
    width = max((len(r.name) for r in results), default=0)
    lines = []
    for result in results:
        shown = [f for f in result.findings if f.status is not Status.OK] or list(result.findings) or [note("")]
        for finding in shown:
            mark = (
                finding.status.value.upper()
                if finding.status in (Status.FAILED, Status.WARNING)
                else finding.status.value
            )
            lines.append(f"{mark:8} {result.name:{width}} {show(finding.message)}".rstrip())
            if finding.fix:
                lines.append(f"{'':8} {'':{width}} fix: {show(finding.fix)}")
    counts = Counter(r.status for r in results)
    lines.append("preflight: " + ", ".join(f"{counts[s]} {s.value}" for s in Status))
    return "\n".join(lines)


def as_json(level: Level, results: Sequence[Result]) -> str:
    """Return the same for a program."""
    return json.dumps(
        {
            "ok": all(r.status is not Status.FAILED for r in results),
            "level": level.value,
            "node": os.environ.get("NODE_NAME") or os.uname().nodename,
            "uid": os.geteuid(),
            "checks": [
                {
                    "name": r.name,
                    "status": r.status.value,
                    "seconds": round(r.seconds, 3),
                    "findings": [{"status": f.status.value, "message": f.message, "fix": f.fix} for f in r.findings],
                }
                for r in results
            ],
        },
        indent=2,
    )


def table() -> str:
    """Return the registry as the Markdown table of the documentation."""
    lines = ["| check | where | costs | prevents |", "| --- | --- | --- | --- |"]
    where = {Level.QUICK: "every pod", Level.FULL: "master"}
    lines += [f"| `{c.name}` | {where[c.level]} | {c.cost} | {c.prevents} |" for c in CHECKS.values()]
    return "\n".join(lines)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="neva_pod.preflight", description="Checks a NeVa run before a GPU is used.")
    made.add_argument("--settings", help="settings.json as the chart renders it")
    made.add_argument(
        "--level",
        choices=[*(x.value for x in Level), "auto"],
        default="full",
        help="quick: only checks for every pod; auto: quick unless JOB_COMPLETION_INDEX is 0",
    )
    made.add_argument(
        "--only",
        type=_names,
        default=[],
        metavar="A,B",
        help="run these checks, whatever the level",
    )
    made.add_argument("--skip", type=_names, default=[], metavar="A,B", help="leave these checks out")
    made.add_argument("-o", "--output", choices=["text", "json"], default="text")
    made.add_argument("--json-file", help="write the JSON report here, too")
    made.add_argument("--list", action="store_true", help="list the checks and stop")
    return made


def level_of(name: str) -> Level:
    """Return the level of that name; Kubernetes tells the pods of one template apart by their index."""
    if name == "auto":
        return Level.FULL if os.environ.get("JOB_COMPLETION_INDEX", "0") == "0" else Level.QUICK
    return Level(name)


def write_report(path: str, report: str) -> None:
    """Write a report by temporary name and rename, so that no reader sees half of it.

    What is no regular file (a pipe, /dev/stdout) is written to and stays what it is.
    """
    data = report.encode() + b"\n"
    try:
        old: os.stat_result | None = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None and (not stat.S_ISREG(old.st_mode) or os.path.samestat(old, os.fstat(1))):
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK), "wb") as file:
            os.set_blocking(file.fileno(), True)
            file.write(data)
        return
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        if old is not None:
            os.chmod(temporary, stat.S_IMODE(old.st_mode))
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def stop_at_once(number: int, _frame: object) -> NoReturn:
    """End now, whatever the checks' threads wait for; PID 1 has no other handler."""
    os.write(2, f"preflight: told to stop by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def time_limit(settings: Settings) -> float:
    """Return the time when all checks must have ended, and see to it that this process then does."""
    seconds = settings.integer("preflight.timeoutSeconds", 0)
    if not seconds:
        return math.inf
    # If something holds the interpreter itself, this ends the process with code 1 all the same.
    faulthandler.dump_traceback_later(seconds + 60, exit=True)
    return time.monotonic() + seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = parser().parse_args(arguments)
    if options.list:
        print(table())
        return 0
    try:
        if not options.settings:
            raise UsageError("--settings: missing; must name the chart's settings.json")
        settings = load_settings(options.settings)
        level = level_of(options.level)
        checks = select(level, options.only, [*options.skip, *settings.texts("preflight.skip")])
        run = Run(settings, deadline=time_limit(settings))
        results = [run_check(c, run) for c in checks]
        report = as_json(level, results)
        if options.json_file:
            write_report(options.json_file, report)
    except (UsageError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    print(report if options.output == "json" else as_text(results))
    return 1 if any(r.status is Status.FAILED for r in results) else 0


if __name__ == "__main__":
    for sent in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sent, stop_at_once)
    sys.exit(main())
