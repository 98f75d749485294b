"""What a bad sign in a log means, and what to do next: one long table."""

from dataclasses import dataclass

from neva_pod.monitor.records import Kind


@dataclass(frozen=True)
class Advice:
    """Title, cause and action of a kind of line; ``fatal``: it alone means that the run has failed."""

    code: str
    title: str
    cause: str
    action: str
    fatal: bool = True


AVOID = (
    "`kubectl get pods -o wide` shows the node of that rank's pod: add it to scheduling.avoidNodes and have its GPUs"
    " tested (`dmesg | grep Xid`, `dcgmi diag -r 3`)"
)
ADVICE: dict[Kind, Advice] = {
    Kind.GPU_FAULT: Advice(
        "gpu-error",
        "a GPU, its link or its driver failed",
        "broken hardware: memory (ECC), NVLink, bus, or a driver that lost the GPU; no setting of the run causes it",
        f"{AVOID}; start again: it resumes from the last checkpoint",
    ),
    Kind.DEVICE_ASSERT: Advice(
        "gpu-error",
        "a check in a CUDA kernel failed (device-side assert)",
        "an index out of range, most often a token id beyond the vocabulary: tokenizer and LLM do not match",
        "compare the tokenizer's pieces with the LLM's vocabulary, run once with CUDA_LAUNCH_BLOCKING=1; if only one "
        "node ever shows it, add it to scheduling.avoidNodes",
    ),
    Kind.CUDA_ERROR: Advice(
        "gpu-error",
        "CUDA error",
        "a failing GPU, link or driver, or a kernel that touched memory that is not its own",
        f"{AVOID} if that node shows it again; if it moves from node to node it is software: run once with "
        "CUDA_LAUNCH_BLOCKING=1 to see which call",
    ),
    Kind.NAN: Advice(
        "nan",
        "FAILED(nan): a rank found NaN in its gradients",
        "learning rate too high for this global batch size, or a damaged sample or checkpoint",
        "restart from the last checkpoint with a lower training.learningRate or a longer warm-up; "
        "if one rank is always the first, test its GPU",
    ),
    Kind.GPU_OOM: Advice(
        "gpu-oom",
        "a GPU ran out of memory",
        "micro batch too large for this tensor parallel size, or another process on the GPU",
        "halve training.microBatchSize (the global batch size stays) or raise"
        " training.tensorParallelSize; neva-values shows the memory of a plan",
    ),
    Kind.HOST_OOM: Advice(
        "host-oom",
        "a process was killed or ran out of memory",
        "most often the container's memory limit, while weights are loaded or by DataLoader workers",
        "look for OOMKilled in `kubectl describe pod`; raise resources.memory or lower the number of workers",
    ),
    Kind.SHARED_MEMORY: Advice(
        "shared-memory",
        "/dev/shm is too small",  # noqa: S108 (a message)
        "the pod has the 64 MiB default, or its memory-backed volume is full; a bus error may also be a mapped "
        "file that was cut",
        "mount an emptyDir with medium: Memory at /dev/shm (the chart does) and raise its size limit",
    ),
    Kind.DISK_FULL: Advice(
        "disk-full",
        "no space left on a disk",
        "results volume or its quota is full of checkpoints, or /tmp is full of an unpacked .nemo file",
        "free space or raise the quota; keep fewer checkpoints (checkpoint.saveTopK); unpack the .nemo once beforehand",
    ),
    Kind.DUPLICATE_GPU: Advice(
        "ranks",
        "two ranks use the same GPU",
        "the same node rank twice, or fewer GPUs visible than processes started",
        "let the operator set PET_NODE_RANK, and check that each pod has gpusPerNode GPUs",
    ),
    Kind.MISSING_RANKS: Advice(
        "ranks",
        "ranks are missing: not all of them joined",
        "a pod that is not running, or the same node rank twice",
        "`kubectl get pods` must show every Worker Running; look at the log of the missing ones",
    ),
    Kind.NCCL_TIMEOUT: Advice(
        "nccl-timeout",
        "NCCL timeout: a collective did not complete",
        "one rank died, hangs or is far behind; the rank that times out is rarely the one to blame",
        "look for the first error in the other pods' logs and for a faulty GPU or link on their nodes (dmesg: Xid)",
    ),
    Kind.NCCL_ERROR: Advice(
        "nccl-error",
        "NCCL error",
        "network device or memory lock limit not usable in the pod, or a peer that died",
        "set NCCL_DEBUG=INFO and look at the first NCCL WARN line; check rdma, IPC_LOCK and NCCL_SOCKET_IFNAME",
    ),
    Kind.RENDEZVOUS: Advice(
        "rendezvous",
        "ranks cannot reach the master",
        "its name does not resolve or its port is closed: master pod not running, network policy, wrong MASTER_ADDR",
        "check that the master pod runs and that its Service has an endpoint: `kubectl get endpoints`",
    ),
    Kind.RENDEZVOUS_RETRY: Advice(
        "rendezvous",
        "still trying to reach the master",
        "the master pod is slower to start (image pull), or its name does not resolve",
        "wait a few minutes; then check that the master pod runs and that its Service has an endpoint",
        fatal=False,
    ),
    Kind.CRASH: Advice(
        "crash",
        "the training process failed",
        "see the exception above this line in the log of the rank named",
        "read the log of that rank from its first Traceback on",
    ),
    Kind.SIGNAL: Advice(
        "crash",
        "a process died from a signal",
        "a crash in native code, or an abort after an error reported in the lines before",
        "read the log of that rank before this line; if only one node ever shows it, add it to scheduling.avoidNodes",
    ),
    Kind.TRACEBACK: Advice(
        "crash",
        "a Python exception in the log",
        "see the log; an exception that is caught is harmless",
        "if no steps follow, read the log from there on",
        fatal=False,
    ),
    Kind.TERMINATED: Advice(
        "terminated",
        "the job was stopped (SIGTERM)",
        "preempted, deleted, or its node was drained",
        "see `kubectl get events`; it resumes from the last checkpoint when restarted",
        fatal=False,
    ),
}
"""From the most to the least telling: one cause often leaves several of these lines."""
UNCAUGHT = Advice(
    "crash",
    "the training process failed",
    "an exception that nothing caught, shown as evidence",
    "read its traceback, just above that line in the log",
)
