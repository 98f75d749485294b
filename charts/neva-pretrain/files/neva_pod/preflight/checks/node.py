"""The node and the mounts; every pod checks its own."""

import os
import re
from collections.abc import Iterator

from neva_pod.findings import Finding, NotPossibleError, failed, gib, note, show
from neva_pod.inputs.files import ancestor, denied, open_file, writable
from neva_pod.preflight.registry import Context, Level, check
from neva_pod.settings import Settings


@check(
    Level.QUICK,
    "preflight.filesystems",
    cost="one read of /proc/self/mountinfo",
    prevents="the shared file system is not mounted on the node and an empty folder of its root disk is used",
)
def check_filesystem(context: Context) -> Iterator[Finding]:
    """What is mounted is the file system that the values name."""
    for path, wanted in context.settings.objects("preflight.filesystems").items():
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
    Level.QUICK,
    "readOnly",
    cost="one statvfs per mount",
    prevents="a run changes or deletes shared datasets and models",
)
def check_read_only(context: Context) -> Iterator[Finding]:
    """Ask the kernel; writing to find out would be what is to be prevented."""
    for path in context.settings.texts("readOnly"):
        try:
            read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        except OSError as error:
            yield denied(path, error)
            continue
        if not read_only:
            yield failed(f"{show(path)}: is mounted writable; must be read-only", "set readOnly on its volume mount")


INPUTS = (
    "data.annotations",
    "data.images",
    "model.checkpointPath",
    "model.tokenizerPath",
    "model.visionEncoderPath",
)


@check(
    Level.QUICK,
    cost="opens five files",
    prevents="permission denied, or a wrong path, when the first rank reads an input",
)
def check_access(context: Context) -> Iterator[Finding]:
    """As the job's own uid."""
    opened = 0
    given = [context.settings.find(key) for key in INPUTS]
    paths = [path for path in given if isinstance(path, str) and path.startswith("/")]
    if not paths:
        raise NotPossibleError("no input is given")
    for path in paths:
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
    Level.QUICK,
    "results.path",
    cost="writes and removes one byte",
    prevents="checkpoints and logs cannot be written, found at the first save",
)
def check_results(context: Context) -> Iterator[Finding]:
    """The run's folder may not exist yet; 16 nodes do this at once."""
    problem = writable(context.settings.text("results.path"))
    yield problem or note(f"{show(context.settings.text('results.path'))} is writable")


@check(
    Level.QUICK,
    "model.checkpointPath",
    "training.gpusPerNode",
    cost="one statvfs",
    prevents="every rank unpacks the .nemo file into TMPDIR, which fills up",
)
def check_unpack_space(context: Context) -> Iterator[Finding]:
    """NeMo's load_nemo_model_weights unpacks a file once for each rank of the node."""
    path, ranks = (context.settings.text("model.checkpointPath"), context.settings.integer("training.gpusPerNode"))
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
    Level.QUICK,
    "hf.home",
    cost="writes and removes one byte",
    prevents="Hugging Face libraries cannot write their locks, even when all files are there",
)
def check_hf_home(context: Context) -> Iterator[Finding]:
    """The hub's library writes, even where all files are there."""
    home = os.path.normpath(context.settings.text("hf.home"))
    for mount in context.settings.texts("readOnly"):
        if os.path.commonpath([home, os.path.normpath(mount)]) == os.path.normpath(mount):
            yield failed(f"hf.home: got {show(home)}, below the read-only mount {show(mount)}", "name a writable path")
            return
    problem = writable(home)
    yield problem or note(f"{show(home)} is writable")


@check(
    Level.QUICK,
    "model.visionEncoderPath",
    cost="none",
    prevents="every rank tries to download the vision encoder on a node without network",
)
def check_hub_id(context: Context) -> Iterator[Finding]:
    """A hub id needs the hub."""
    path = context.settings.text("model.visionEncoderPath")
    if not path.startswith("/") and not context.settings.flag("hf.online"):
        yield failed(
            f"model.visionEncoderPath: got the hub id {show(path)} while hf.online is false; must be an absolute path",
            "name a local folder (prepare.vision makes one), or set hf.online=true",
        )


SHM = "/dev/shm"  # noqa: S108 (the mount that is checked)


@check(
    Level.QUICK,
    "training.gpusPerNode",
    cost="one statvfs",
    prevents="DataLoader bus errors and NCCL's 'No space left on device' in /dev/shm",
)
def check_shm(context: Context) -> Iterator[Finding]:
    """What the DataLoader's workers hold ready, and 64 MiB of NCCL for each rank."""
    space = os.statvfs(SHM)
    size = space.f_blocks * space.f_frsize
    needed = context.settings.integer("preflight.minimumShmBytes", 0) or shm_needed(context.settings)
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
