"""The GPUs of the node and the memory that RDMA pins."""

import contextlib
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence

from neva_pod.findings import Finding, ProblemError, failed, note, show, some
from neva_pod.preflight.registry import Context, Level, check


@check(
    Level.QUICK,
    "training.gpusPerNode",
    cost="two nvidia-smi calls",
    prevents="fewer processes than GPUs, MIG slices, vGPUs, or a node whose GPU fell off the bus",
)
def check_gpus(context: Context) -> Iterator[Finding]:
    """As many whole GPUs as processes are started."""
    wanted, (found, slices, mig, shares) = context.settings.integer("training.gpusPerNode"), count_gpus()
    where = os.environ.get("NODE_NAME") or os.uname().nodename
    if shares:
        yield failed(
            f"{shares} on {where}; must be {wanted} whole GPUs: several processes would share one",
            "give the node whole GPUs (passthrough, no time slicing), or keep the job away from it "
            "(scheduling.avoidNodes)",
        )
    elif slices or mig:
        said = f"{slices} MIG slices" if slices else f"MIG is on for {mig} GPUs"
        yield failed(
            f"{said} on {where}; must be {wanted} whole GPUs: a training process sees only one slice",
            "switch MIG off on that node, or keep the job away from it (scheduling.avoidNodes)",
        )
    elif found != wanted:
        yield failed(
            f"{found} GPUs visible on {where}; must be {wanted} (training.gpusPerNode)",
            "check the node's health and the container's GPU resource",
        )
    yield note(f"{found} GPUs")


ANSWER = 60.0
"""Seconds that a driver's tool may take; a healthy one takes one."""


VIRTUAL = re.compile(r"GRID .*|.*-[0-9]+[ABCQ]")
"""Names of NVIDIA's vGPUs: they end in the memory in GB and the series. No whole GPU of a data center is named so."""


def count_gpus() -> tuple[int, int, int, str]:
    """Return GPUs and MIG slices by nvidia-smi, GPUs whose MIG mode is on, and which lines are no GPU of their own.

    Without nvidia-smi it is GPUs by device files.
    """
    try:
        listed = output_of(["nvidia-smi", "-L"], ANSWER).splitlines()
        modes = output_of(["nvidia-smi", "--query-gpu=mig.mode.current", "--format=csv,noheader"], ANSWER).split()
    except OSError:
        return sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev")), 0, 0, ""
    slices = sum(bool(re.match(r"\s*MIG\s|.*UUID: MIG-", line)) for line in listed)
    found = sum(line.startswith("GPU ") for line in listed)
    return found, slices, modes.count("Enabled"), _shares(listed)


def _shares(listed: Sequence[str]) -> str:
    """Say which lines of nvidia-smi -L are vGPUs, or one GPU again; "" for none."""
    gpus = [m for line in listed if (m := re.fullmatch(r"GPU [0-9]+: (.*) \(UUID: (.*)\)\s*", line))]
    virtual = [m[1] for m in gpus if VIRTUAL.fullmatch(m[1])]
    if virtual:
        return f"{len(virtual)} vGPUs ({some(sorted(set(virtual)))})"
    uuid, times = max(Counter(m[2] for m in gpus).items(), key=lambda item: item[1], default=("", 0))
    return f"one GPU listed {times} times (UUID {show(uuid)})" if times > 1 else ""


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
    Level.QUICK,
    "rdma",
    cost="none",
    prevents="memory cannot be pinned for RDMA and NCCL silently falls back to TCP",
)
def check_memlock(context: Context) -> Iterator[Finding]:
    """The limit binds unless the capability is effective, as it is for root only."""
    if not context.settings.flag("rdma"):
        yield note("RDMA is off")
        return
    import resource  # Windows has none

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
