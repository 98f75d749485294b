"""What the cluster says of a job that does not run, as findings: one for each code, with its cause and what to do."""

from typing import NamedTuple

from neva_pod.monitor.judge import Judgement, Severity

SHOWN = 3
"""Different words of pods that one finding shows."""

MAX_WORDS = 2000
"""Characters of an object's words that are shown."""

LOG = "log"
"""The code of a log that cannot be read."""


class _Advice(NamedTuple):
    title: str
    cause: str
    action: str


_ADVICE = {
    "queued": _Advice(
        "the job waits to be admitted",
        "its queue is full or does not exist, an admission check of the queue holds it, or the job is suspended",
        "`kubectl get workloads,localqueues`, `kubectl describe workload`; a job that was suspended manually resumes"
        " with `suspend: false`",
    ),
    "not-created": _Advice(
        "the job's pods are not created",
        "refused by a quota, Pod Security, an admission webhook or a missing service account; or no operator runs",
        "`kubectl describe` the job; `kubectl get resourcequota`; look at the operator's pod and its log",
    ),
    "unschedulable": _Advice(
        "cannot be scheduled",
        "nodes are full, too small, tainted, or not of the requested kind",
        "compare scheduling.*, resources and training.gpusPerNode with `kubectl describe nodes`",
    ),
    "image": _Advice(
        "cannot pull an image",
        "wrong name or tag, a registry that requires image.pullSecrets, or one that cannot be reached",
        "check image.repository, image.tag and image.pullSecrets; `kubectl describe pod` shows the registry's message",
    ),
    "volume": _Advice(
        "cannot mount a volume",
        "a claim, Secret or ConfigMap is missing, a claim is unbound, or a file system is not mounted",
        "`kubectl get pvc`; check storage.* and, for GPFS, that the folder is on that node",
    ),
    "container": _Advice(
        "a container cannot be started",
        "a Secret, ConfigMap or key that is missing, or a command or device that the node does not have",
        "check secrets.*, envFrom and image.entrypoint; `kubectl describe pod`",
    ),
    "creating": _Advice(
        "its containers are not created yet",
        "the image is large or its registry slow, or a mount or the node's container runtime hangs",
        "`kubectl describe pod` shows whether the pull goes on; if not, look at the mounts and the kubelet's log on"
        " that node, and add it to scheduling.avoidNodes",
    ),
    "preflight": _Advice(
        "preflight failed",
        "see the lines: each has its fix",
        "fix it and install again; `kubectl logs POD` shows the full report",
    ),
    "wait-for-master": _Advice(
        "waiting for the master",
        "the master's pod is not running yet: it is unscheduled or pulling its image",
        "look at the master's pod: `kubectl describe pod`. rendezvous.waitSeconds has not begun, and the operator"
        " creates each waiting worker anew after 200 s: only runPolicy.activeDeadlineSeconds ends this."
        " `helm uninstall` frees their GPUs; a queue or a gang starts all pods or none",
    ),
    "evicted": _Advice(
        "evicted from its node",
        "preempted by a higher priority, drained, or its node ran out of memory or disk",
        "`kubectl get events`; the job goes on from its last checkpoint by itself, unless restart.enabled is false",
    ),
    "node-lost": _Advice(
        "its node is lost",
        "the machine is down, or its kubelet does not answer",
        "`kubectl get nodes`; the job goes on once that node is back or deleted; exclude it with scheduling.avoidNodes",
    ),
    "terminating": _Advice(
        "stuck in Terminating",
        "its node does not answer, or a process hangs in the kernel (GPU driver, file system); it keeps its GPUs",
        "`kubectl get nodes`; look at `dmesg` of that node and add it to scheduling.avoidNodes; once no process of the"
        " pod is left, as after a reboot, `kubectl delete pod POD --force`",
    ),
    "host-oom": _Advice(
        "out of memory (OOMKilled)",
        "the container's memory limit: weights being loaded, DataLoader workers, /dev/shm",
        "raise resources.memory or lower the number of workers",
    ),
    "terminated": _Advice(
        "stopped (SIGTERM)",
        "preempted, deleted, or the node was drained",
        "see `kubectl get events`; the job goes on from its last checkpoint by itself, unless restart.enabled is false",
    ),
    "exit": _Advice(
        "a container failed",
        "see its last lines",
        "`kubectl logs POD` shows the full log, with `--previous` after a restart",
    ),
    LOG: _Advice(
        "the master's log cannot be read",
        "no permission for pods/log, or its node does not answer",
        "`kubectl auth can-i get pods/log`; `kubectl get nodes`",
    ),
}

CODES = tuple(_ADVICE)
"""All codes of findings about the cluster, for scripts."""

NOT_STARTED = {
    *("queued", "not-created", "unschedulable", "image", "volume", "container", "creating", "wait-for-master"),
}
"""Those of a job some of whose containers have not started yet."""


class Trouble(NamedTuple):
    """What is wrong with one pod, or with the job."""

    code: str
    level: Severity
    said: str
    pod: str = ""


def grouped(troubles: list[Trouble], pods: int, held: Trouble | None = None) -> list[Judgement]:
    """Return a finding for each code: how many pods it is about, and what they say, each once.

    ``held`` adds to the finding of its code what waits meanwhile.
    """
    found = []
    for code, advice in _ADVICE.items():
        mine = [t for t in troubles if t.code == code]
        if not mine:
            continue
        words: dict[str, list[str]] = {}
        for trouble in mine:
            words.setdefault(trouble.said, []).append(trouble.pod)
        lines = [f"{_named(names)}{said}" for said, names in list(words.items())[:SHOWN]]
        if len(words) > SHOWN:
            lines.append(f"... and {len(words) - SHOWN} more")
        if held and held.code == code:
            lines.append(held.said)
        count = sum(bool(t.pod) for t in mine)
        level = min((t.level for t in mine), key=(Severity.FAILED, Severity.WARNING, Severity.OK).index)
        title = advice.title + (f": {count} of {pods} pods" if count and pods > 1 else "")
        told = ("", "") if level is Severity.OK else (advice.cause, advice.action)
        found.append(Judgement(code, level, title, "\n".join(lines), *told))
    return found


def _named(pods: list[str]) -> str:
    if not pods[0]:
        return ""
    return f"{pods[0]}: " if len(pods) == 1 else f"{pods[0]} and {len(pods) - 1} more: "


def unreadable(words: str) -> Judgement:
    """Return that the master's log cannot be read."""
    return grouped([Trouble(LOG, Severity.WARNING, short(words))], 0)[0]


def short(said: str) -> str:
    """Return words on one line, and not too long."""
    said = " ".join(said.split())
    return said if len(said) <= MAX_WORDS else said[: MAX_WORDS - 1] + "…"
