"""Why a job does not run: what the cluster says of the job, of its pods and of what happened to them.

Shapes are those of Kubernetes' core/v1, kubelet's reasons (pkg/kubelet/images, kuberuntime, volumemanager), of the
training operator 1.9, JobSet 0.10 and Kueue 0.14.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from neva_pod.monitor.judge import Judgement, Severity
from neva_pod.monitor.limits import Limits
from neva_pretrain.kubectl import ClusterError, Object, at, conditions, name_of, objects, word
from neva_pretrain.monitor import settings
from neva_pretrain.monitor.findings import NOT_STARTED, Trouble, grouped, short
from neva_pretrain.monitor.jobs import Job, Jobs, created, happened, restarts
from neva_pretrain.plan import recorded

UNSEEN_SECONDS = 60
"""A job or pod that nobody has taken up for so long has no operator or scheduler."""

MORE_LOGS = 8
"""Logs of finished containers that one look reads: those of many pods mostly say the same."""

_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
          "RegistryUnavailable", "SignatureValidationFailed"}  # fmt: skip
_WAITS = {"", "PodInitializing", "ContainerCreating"}
_LOST = {"NodeLost", "DeletionByTaintManager", "DeletionByPodGC"}
_FOR_MASTER = "wait-for-master"
_OPERATORS = "init-pytorch"
"""The operator's init container of workers: it waits 200 s for the master's name, then its pod is created anew."""

_PREFLIGHT = 1
_EXITS = {
    64: "wrong environment",
    65: "the loss is not a number",
    69: "a node did not come in time",
    70: "gave up after restarts without progress",
    137: "killed (SIGKILL)",
    139: "crashed (SIGSEGV)",
}
_OF_AN_IMAGE = re.compile(
    r"not found|manifest unknown|unauthorized|denied|forbidden|invalid reference|no match for", re.I
)
_OF_A_THING = re.compile(r"\bnot found\b|\bdoesn't exist\b|non-?existent", re.I)
_OF_A_VOLUME = re.compile(r"persistentvolumeclaim|persistent volume|volume node affinity", re.I)
_MAY_PASS = re.compile(
    r"exceeded quota|failed calling webhook|timed? ?out|connection refused|try again|been modified", re.I
)
_ERROR_LINE = re.compile(r"^neva: ERROR: |^[\w.]*(?:Error|Exception)\b")


class Look:
    """Asks the cluster why a job does not run. Logs of finished containers are read once."""

    def __init__(self, kubectl: Jobs, now: Callable[[], float]) -> None:
        self._kubectl = kubectl
        self._now = now
        self._events: dict[str, list[Object]] = {}
        self._read: dict[tuple[str, str, int], list[str]] = {}
        self._more = 0

    def findings(self, job: Job) -> list[Judgement]:
        """Return what keeps a job from running; empty where nothing does.

        What the user may not ask for is left out.

        Raises:
            ClusterError: its pods cannot be asked for.
        """
        if job.outcome and not job.failed:
            return []
        self._events, self._more = {}, MORE_LOGS
        suspended = self._suspended(job)
        if suspended is not None:
            return grouped([suspended], 0)
        every = self._kubectl.pods(job)
        pods = _newest(every)
        found = [trouble for pod in pods for trouble in self._of_pod(pod)]
        found += [
            stuck._replace(said=short(stuck.said), pod=name_of(pod))
            for pod in every
            if all(pod is not newest for newest in pods) and (stuck := self._terminating(pod))
        ]
        if not job.outcome and len(pods) < _wanted(job):
            found += self._not_created(job, len(pods))
        return grouped(found, len(pods), None if job.outcome else _held(job, pods, found))

    def _suspended(self, job: Job) -> Trouble | None:
        spec = at(job.found, "spec")
        if job.outcome or not (spec.get("suspend") is True or at(spec, "runPolicy").get("suspend") is True):
            return None
        said = [text for kind, holds, text in conditions(job.found) if holds and kind == "Suspended"]
        level = Severity.WARNING
        workloads: list[Object] = []
        with suppress(ClusterError):
            workloads = self._kubectl.workloads(job)
        for workload in workloads:
            level, words = _admission(workload)
            said = [f"queue {word(at(workload, 'spec').get('queueName'))}: {words}"]
        return Trouble("queued", level, short(said[0] if said else "the job is suspended"))

    def _not_created(self, job: Job, pods: int) -> Iterator[Trouble]:
        """Yield why pods are missing: what the makers of pods complain of, or that there are none."""
        makers = {job.name, f"{job.name}-node-0"}
        complaints = [
            event
            for event in self._asked("type=Warning")
            if word(at(event, "involvedObject").get("name")) in makers
            and event.get("type") != "Normal"
            and at(event, "involvedObject").get("kind") in ("PyTorchJob", "TrainJob", "JobSet", "Job")
        ]
        if complaints:
            said = _event(complaints[-1])
            level = Severity.WARNING if _MAY_PASS.search(said) else Severity.FAILED
            yield Trouble("not-created", level, said)
            return
        known = {kind: said for kind, _, said in conditions(job.found)}
        if not pods and "Running" not in known and self._age(job.found) > UNSEEN_SECONDS:
            operator = "the training operator" if job.kind == "pytorchjob" else "Trainer"
            last = list(known.values())[-1] if known else f"is {operator} running?"
            said = f"{job.kind} {job.name} has no pods after {self._age(job.found):.0f} s: {last}"
            yield Trouble("not-created", Severity.WARNING, said)

    def _of_pod(self, pod: Object) -> Iterator[Trouble]:
        """Yield what is the matter with a pod: the first that holds."""
        name, status = name_of(pod), at(pod, "status")
        if status.get("phase") == "Succeeded":
            return
        for check in (self._terminating, _taken_away, self._containers, self._scheduling, self._node):
            found = check(pod)
            if found is not None:
                yield found._replace(said=short(found.said), pod=name)
                return

    def _containers(self, pod: Object) -> Trouble | None:
        status = at(pod, "status")
        waits = ""
        for key in ("initContainerStatuses", "containerStatuses"):
            for container in objects(status.get(key)):
                name, state = word(container.get("name")), at(container, "state")
                ended, waiting = at(state, "terminated"), at(state, "waiting")
                reason, before = word(waiting.get("reason")), at(container, "lastState", "terminated")
                if _code(ended):
                    return self._ended(pod, container, ended, previous=False)
                if reason in _IMAGE:
                    return _image(name, reason, word(waiting.get("message")))
                if _code(before) and (waiting or (key == "initContainerStatuses" and "running" in state)):
                    return self._ended(pod, container, before, previous=True)
                if reason not in _WAITS:
                    said = f"{name}: {reason}: {word(waiting.get('message'))}".rstrip(": ")
                    return Trouble("container", Severity.FAILED, said)
                if name == _OPERATORS and "running" in state:
                    waits = f"its init container {name} has been waiting{self._since(at(state, 'running'))}"
        return Trouble(_FOR_MASTER, Severity.WARNING, waits) if waits else None

    def _ended(self, pod: Object, container: Object, ended: Object, previous: bool) -> Trouble:
        name, code = word(container.get("name")), _code(ended)
        reason, message = word(ended.get("reason")), word(ended.get("message")).strip()
        if reason == "OOMKilled":
            return Trouble("host-oom", Severity.FAILED, f"{name}: OOMKilled, exit code {code}")
        if reason in ("ContainerCannotRun", "StartError"):
            return Trouble("container", Severity.FAILED, f"{name}: {reason}: {message}")
        if code == 143:
            return Trouble("terminated", Severity.WARNING, f"{name}: exit code 143")
        if name == _OPERATORS:
            return Trouble(_FOR_MASTER, Severity.WARNING, f"its init container {name} ended with code {code}")
        lines = message.splitlines() or self._lines(pod, container, name, previous)
        failed = [" ".join(line.split()) for line in _failed_lines(lines)]
        if code == _PREFLIGHT and (failed or not lines):
            return Trouble("preflight", Severity.FAILED, "; ".join(failed) or f"exit code {code}")
        means = _EXITS.get(code)
        said = f"{name}: exit code {code}" + (f" ({means})" if means else "")
        errors = [line for line in lines if _ERROR_LINE.search(line)][-1:] or _last(lines)
        return Trouble("exit", Severity.FAILED, ": ".join([said, *errors]))

    def _lines(self, pod: Object, container: Object, name: str, previous: bool) -> list[str]:
        """Return a finished container's last lines; of few pods only, since they mostly say the same."""
        key = (word(at(pod, "metadata").get("uid")), name, restarts(container))
        if key not in self._read:
            if not self._more:
                return []
            self._more -= 1
            try:
                self._read[key] = self._kubectl.said(name_of(pod), name, previous)
            except ClusterError:
                return []
        return self._read[key]

    def _scheduling(self, pod: Object) -> Trouble | None:
        if word(at(pod, "spec").get("nodeName")):
            return self._mounting(pod)
        for condition in objects(at(pod, "status").get("conditions")):
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                reason, said = word(condition.get("reason")), word(condition.get("message"))
                if reason == "SchedulingGated":
                    return Trouble("queued", Severity.WARNING, f"{reason}: {said}")
                if _OF_A_VOLUME.search(said):
                    return self._claims(pod, said)
                return Trouble("unschedulable", Severity.WARNING, f"{reason}: {said}")
        if at(pod, "status").get("phase") == "Pending" and self._age(pod) > UNSEEN_SECONDS:
            scheduler = word(at(pod, "spec").get("schedulerName"))
            said = f"no scheduler has handled it for {self._age(pod):.0f} s: is {scheduler or 'the scheduler'} running?"
            return Trouble("unschedulable", Severity.WARNING, said)
        return None

    def _claims(self, pod: Object, said: str) -> Trouble:
        level = Severity.FAILED if _OF_A_THING.search(said) else Severity.WARNING
        claims = {
            word(at(volume, "persistentVolumeClaim").get("claimName"))
            for volume in objects(at(pod, "spec").get("volumes"))
        }
        of_claims = {}
        for event in self._asked("involvedObject.kind=PersistentVolumeClaim"):
            claim, reason = word(at(event, "involvedObject").get("name")), word(event.get("reason"))
            if claim in claims and reason in _UNBOUND:
                of_claims[claim] = _event(event)
        return Trouble("volume", level, "; ".join([said, *(f"{c}: {words}" for c, words in of_claims.items())]))

    def _mounting(self, pod: Object) -> Trouble | None:
        """Return what the node complains of while a pod's containers are not created."""
        if at(pod, "status").get("phase") != "Pending":
            return None
        events = [
            event
            for event in self._events_of(pod, "type=Warning")
            if event.get("reason") != "FailedScheduling" and event.get("type") != "Normal"
        ]
        if not events:
            return self._creating(pod)
        reason, said = word(events[-1].get("reason")), _event(events[-1])
        if "Volume" in reason or "Mount" in reason:
            return Trouble("volume", Severity.FAILED if _OF_A_THING.search(said) else Severity.WARNING, said)
        return Trouble("container", Severity.WARNING, said)

    def _creating(self, pod: Object) -> Trouble:
        """Return what a pod's containers wait for on its node: no alarm at first, since images are large."""
        status = at(pod, "status")
        waits = "its node has not taken it up"
        for container in [*objects(status.get("initContainerStatuses")), *objects(status.get("containerStatuses"))]:
            waiting = at(container, "state").get("waiting")
            if isinstance(waiting, Mapping):
                waits = f"{word(container.get('name'))}: {word(waiting.get('reason')) or 'waiting'}"
                break
        scheduled = [
            word(condition.get("lastTransitionTime"))
            for condition in objects(status.get("conditions"))
            if condition.get("type") == "PodScheduled" and condition.get("status") == "True"
        ]
        since = next(filter(None, [*scheduled, word(status.get("startTime")), created(pod)]), "")
        waited = self._now() - _seconds(since, self._now())
        pulls = [
            event
            for reason in ("Pulling", "Pulled")
            for event in self._events_of(pod, f"reason={reason}")
            if event.get("reason") == reason
        ]
        said = f"{waits} for {_about(waited)}"
        if pulls:
            said = f"{said}; {_event(max(pulls, key=happened))}"
        if waited <= Limits.create_seconds:
            return Trouble("creating", Severity.OK, said)
        return Trouble("creating", Severity.WARNING, f"node {word(at(pod, 'spec').get('nodeName'))}: {said}")

    def _terminating(self, pod: Object) -> Trouble | None:
        """Return that a pod is still there after its grace period, which its deletionTimestamp includes."""
        over = self._now() - _seconds(word(at(pod, "metadata").get("deletionTimestamp")), math.inf)
        if over <= UNSEEN_SECONDS:
            return None
        taken = _taken_away(pod)
        if taken and taken.code == "node-lost":
            return taken
        said = f"node {word(at(pod, 'spec').get('nodeName'))}: its grace period was over {_about(over)} ago"
        return Trouble("terminating", Severity.WARNING, f"{said}; {taken.said}" if taken else said)

    def _node(self, pod: Object) -> Trouble | None:
        """Return that a pod's node is not ready: its pod is not, but its containers were when last heard of."""
        holds = {kind: (holds, said) for kind, holds, said in conditions(pod)}
        ready, said = holds.get("Ready", (True, ""))
        containers = objects(at(pod, "status").get("containerStatuses"))
        were = bool(containers) and all(c.get("ready") is True for c in containers)
        if at(pod, "status").get("phase") == "Unknown" or (not ready and holds.get("ContainersReady", (were,))[0]):
            node = word(at(pod, "spec").get("nodeName"))
            return Trouble("node-lost", Severity.WARNING, f"node {node} is not ready{f': {said}' if said else ''}")
        return None

    def _asked(self, which: str) -> list[Object]:
        """Return the events that a selector picks, asked for once a look; none where that may not be asked."""
        if which not in self._events:
            self._events[which] = []
            with suppress(ClusterError):
                self._events[which] = self._kubectl.events(which)
        return self._events[which]

    def _events_of(self, pod: Object, which: str) -> list[Object]:
        """Return those of a selector's events that are about this pod, not an earlier one of its name."""
        name, uid = name_of(pod), at(pod, "metadata").get("uid")
        return [
            event
            for event in self._asked(which)
            if at(event, "involvedObject").get("name") == name and at(event, "involvedObject").get("uid") in (uid, None)
        ]

    def _age(self, thing: Object) -> float:
        return self._now() - _seconds(created(thing), self._now())

    def _since(self, running: Object) -> str:
        started = _seconds(word(running.get("startedAt")), 0)
        return f" for {self._now() - started:.0f} s" if started else ""


_UNBOUND = {"FailedBinding", "ProvisioningFailed", "VolumeMismatch", "ExternalProvisioning", "WaitForFirstConsumer"}


def _held(job: Job, pods: list[Object], found: list[Trouble]) -> Trouble | None:
    """Return how many GPUs are held for nothing, since their pods have a node and another pod does not start."""
    waits = any(trouble.code == _FOR_MASTER for trouble in found)
    master = next((pod for pod in pods if "-master-" in name_of(pod)), None) if waits else None
    late = {t.pod: t for t in found if t.pod and t.code in NOT_STARTED and t.code != _FOR_MASTER}
    late = {name: t for name, t in late.items() if t.level is not Severity.OK or (master and name == name_of(master))}
    if not (late or waits):
        return None
    awaited = [f"{name}: {trouble.said}" for name, trouble in late.items()]
    if not awaited:
        phase = at(master, "status").get("phase")
        awaited = [f"{name_of(master)}, which is {phase}" if master else "the master, which has no pod"]
    holders = [
        pod
        for pod in pods
        if word(at(pod, "spec").get("nodeName"))
        and at(pod, "status").get("phase") in ("Pending", "Running")
        and name_of(pod) not in late
        and pod is not master
    ]
    if not holders:
        return None
    usual = recorded.count(settings.of_annotations(job.annotations)["training"].get("gpusPerNode")) or 0
    gpus = sum(_gpus(pod) or usual for pod in holders)
    said = f"{len(holders)} of {max(_wanted(job), len(pods))} pods hold {f'{gpus} GPUs' if gpus else 'their nodes'}"
    more = f"{len(awaited) - 1} more and " if len(awaited) > 1 else ""
    code = _FOR_MASTER if waits else next(iter(late.values())).code
    return Trouble(code, Severity.WARNING, short(f"{said} while they wait for {more}{awaited[0]}"))


def _gpus(pod: Object) -> int:
    """Return the GPUs that a pod asks for."""
    asked = [at(container, "resources", "limits") for container in objects(at(pod, "spec").get("containers"))]
    return sum(
        recorded.count(number) or 0 for limits in asked for name, number in limits.items() if str(name).endswith("/gpu")
    )


_CHECKS = ("Rejected", "Retry", "Pending")
"""States of Kueue's admission checks that keep a job waiting, the worst first."""


def _admission(workload: Object) -> tuple[Severity, str]:
    """Return why Kueue has not admitted a workload, and how bad that is.

    A check that is rejected deactivates the workload, so it does not go away by itself.
    """
    known = {kind: (holds, text) for kind, holds, text in conditions(workload)}
    reserved = known.get("QuotaReserved", (False, ""))[0]
    checks = [check for check in objects(at(workload, "status").get("admissionChecks"))
              if check.get("state") in (_CHECKS if reserved else _CHECKS[:2])]  # fmt: skip
    checks.sort(key=lambda check: _CHECKS.index(word(check.get("state"))))
    waits = [
        f"{kind}: {text}"
        for kind, (holds, text) in known.items()
        if (kind == "QuotaReserved" and not holds)
        or (kind == "Admitted" and not holds and not checks)
        or (kind in ("Evicted", "Requeued") and holds)
    ][:1]
    for check in checks:
        name, state, text = (word(check.get(key)) for key in ("name", "state", "message"))
        waits.append(f"admission check {name} is {state}: {text}".rstrip(": "))
    if reserved:
        waits = ["quota is reserved", *(waits or ["the job is about to be resumed"])]
    rejected = bool(checks) and checks[0].get("state") == _CHECKS[0]
    return Severity.FAILED if rejected else Severity.WARNING, "; ".join(waits) or "not evaluated yet"


def _taken_away(pod: Object) -> Trouble | None:
    status = at(pod, "status")
    reason, said = word(status.get("reason")), word(status.get("message"))
    for condition in objects(status.get("conditions")):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason, said = word(condition.get("reason")), word(condition.get("message")) or said
    if not reason:
        return None
    said, node = f"{reason}: {said}".rstrip(": "), word(at(pod, "spec").get("nodeName"))
    if reason in _LOST:
        return Trouble("node-lost", Severity.WARNING, f"node {node}: {said}" if node else said)
    return Trouble("evicted", Severity.WARNING, said)


def _image(container: str, reason: str, message: str) -> Trouble:
    certain = reason in ("InvalidImageName", "ErrImageNeverPull") or _OF_AN_IMAGE.search(message)
    return Trouble(
        "image", Severity.FAILED if certain else Severity.WARNING, f"{container}: {reason}: {message}".rstrip(": ")
    )


def _code(ended: Object) -> int:
    code = ended.get("exitCode")
    return code if isinstance(code, int) else 0


def _failed_lines(lines: list[str]) -> Iterator[str]:
    """Yield preflight's failures, each with its fix below it."""
    failed = False
    for line in lines:
        fix = line.lstrip().startswith("fix: ")
        failed = line.startswith("FAILED") or (failed and fix)
        if failed:
            yield line


def _last(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip()][-1:]


def _newest(pods: list[Object]) -> list[Object]:
    """Return the newest pod of each place in the job, the master first: a Job keeps those that failed before."""
    found: dict[str, Object] = {}
    for pod in sorted(pods, key=created):
        labels = at(pod, "metadata", "labels")
        found[word(labels.get("batch.kubernetes.io/job-completion-index")) or name_of(pod)] = pod
    return sorted(found.values(), key=lambda pod: ("-master-" not in name_of(pod), len(name_of(pod)), name_of(pod)))


def _wanted(job: Job) -> int:
    """Return how many pods a job is to have."""
    spec = at(job.found, "spec")
    numbers = [at(spec, "pytorchReplicaSpecs", role).get("replicas") for role in at(spec, "pytorchReplicaSpecs")]
    numbers.append(at(spec, "trainer").get("numNodes"))
    return sum(n for n in numbers if isinstance(n, int)) or 1


def _event(event: Object) -> str:
    return f"{word(event.get('reason'))}: {word(event.get('message'))}".strip(": ")


def _about(seconds: float) -> str:
    """Return a time in so few digits that pods which began together say the same."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _seconds(stamp: str, otherwise: float) -> float:
    """Return a time of the API server's in seconds since the epoch."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError):
        return otherwise
