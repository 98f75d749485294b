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
    Kind.DRIVER_MISMATCH: Advice(
        "gpu-error",
        "the node's NVIDIA driver does not match the image",
        "on one node, a driver that was upgraded and not loaded yet; on all, an image whose CUDA needs another driver",
        "compare `nvidia-smi` of the nodes: one that differs is to be rebooted (until then, scheduling.avoidNodes); if"
        " all are alike, take an image.tag that this driver supports, or have the driver upgraded",
    ),
    Kind.WRONG_IMAGE: Advice(
        "gpu-error",
        "the image has no code for this kind of GPU",
        "its PyTorch, or a library in it, was built for other GPUs; the GPU is healthy",
        "take an image.tag that supports this GPU, or rebuild the library for it (TORCH_CUDA_ARCH_LIST); check that"
        " scheduling selects the GPU that was planned for",
    ),
    Kind.TOO_FEW_GPUS: Advice(
        "ranks",
        "a rank has no GPU: more ranks than GPUs in the pod",
        "the pod sees fewer GPUs than the processes that torchrun starts; the GPUs are healthy",
        "compare training.gpusPerNode with `kubectl exec POD -- nvidia-smi -L`; do not set CUDA_VISIBLE_DEVICES",
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
    Kind.NETWORK_FAULT: Advice(
        "network-error",
        "a network link failed (InfiniBand, RoCE)",
        "port, cable or switch between this node and the peer named; or the peer had died: its own log says so then",
        "`kubectl get pods -o wide` shows the nodes of this rank's pod and of the peer; add the one that comes again to"
        " scheduling.avoidNodes and have its ports tested (`ibstat`, `perfquery -x`, `dmesg | grep mlx5`)",
    ),
    Kind.RDMA_REFUSED: Advice(
        "nccl-error",
        "RDMA cannot be used in the pod",
        "no right to lock memory, no RDMA device, or nvidia-peermem is not loaded on the node",
        "check fabric, rdma and IPC_LOCK; on the node, `lsmod | grep nvidia_peermem` and `ulimit -l` of the container"
        " runtime",
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
    Kind.PORT_EVENT: Advice(
        "network-error",
        "a network port went down (InfiniBand, RoCE)",
        "its cable, transceiver or switch; NCCL goes on if it comes back in time",
        "if no steps follow, or the same node shows it again, add that node to scheduling.avoidNodes and have its ports"
        " tested (`ibstat`, `dmesg | grep mlx5`)",
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
