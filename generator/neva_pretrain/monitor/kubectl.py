"""The cluster as ``kubectl`` shows it. Its answers may have any shape: anything malformed counts as missing."""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neva_pretrain.errors import NevaError

Object = Mapping[str, Any]

TIMEOUT = 60
"""Seconds that one question to the API server may take."""

LOG_LINES = 200
"""Lines of a finished container's log that are looked through."""


class ClusterError(NevaError):
    """The cluster cannot be asked, or has no such job."""


class ForbiddenError(ClusterError):
    """The user may not ask this."""


@dataclass(frozen=True)
class Job:
    """A job of the training operator, and where its first node's log is.

    Attributes:
        kind: ``pytorchjob`` or ``trainjob``.
        name: its name.
        annotations: its annotations.
        outcome: how it ended, empty while it has not.
        failed: it ended in failure.
        found: the object itself.

    """

    kind: str
    name: str
    annotations: Mapping[str, str]
    outcome: str = ""
    failed: bool = False
    found: Object = field(default_factory=dict)

    @property
    def kind_title(self) -> str:
        """Its kind, as manifests have it."""
        return _KINDS[self.kind].title

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return word(at(self.found, "metadata").get("namespace"))

    @property
    def release(self) -> str:
        """The Helm release that made it."""
        return word(at(self.found, "metadata", "labels").get("app.kubernetes.io/instance"))


class _Kind(NamedTuple):
    title: str
    resource: str
    pods: str
    master: str
    container: str


_KINDS = {
    "pytorchjob": _Kind(
        "PyTorchJob",
        "pytorchjobs.kubeflow.org",
        "training.kubeflow.org/job-name={}",
        ",training.kubeflow.org/replica-type=master",
        "pytorch",
    ),
    "trainjob": _Kind(
        "TrainJob",
        "trainjobs.trainer.kubeflow.org",
        "jobset.sigs.k8s.io/jobset-name={}",
        ",jobset.sigs.k8s.io/replicatedjob-name=node,batch.kubernetes.io/job-completion-index=0",
        "node",
    ),
}

OURS = "neva-pretrain/model"
"""Annotation of a job that this chart made, whatever the chart is called."""

LISTS = "--selector=helm.sh/chart"
"""Part of the calls that list runs: what Helm or Argo CD rendered, since annotations cannot be asked for."""


def at(value: object, *path: str) -> Object:
    """Return the mapping at a path of keys, empty where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def objects(value: object) -> list[Object]:
    """Return the mappings of a list, none where it is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def word(value: object) -> str:
    """Return a text, empty where it is none."""
    return value if isinstance(value, str) else ""


def name_of(value: Object) -> str:
    """Return an object's name."""
    return word(at(value, "metadata").get("name"))


def created(value: Object) -> str:
    """Return when an object was made; such times sort as text."""
    return word(at(value, "metadata").get("creationTimestamp"))


def restarts(status: Object) -> int:
    """Return how often a container was started again, from its status."""
    count = status.get("restartCount")
    return count if isinstance(count, int) else 0


def conditions(value: Object) -> Iterator[tuple[str, bool, str]]:
    """Yield the conditions of an object: type, whether it holds, and why."""
    for condition in objects(at(value, "status").get("conditions")):
        said = word(condition.get("message")) or word(condition.get("reason"))
        yield word(condition.get("type")), condition.get("status") == "True", said


class Kubectl:
    """``kubectl`` with a namespace and context."""

    def __init__(
        self,
        namespace: str | None,
        context: str | None,
        show: Callable[[str], None] = lambda _: None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Take where to look, what is told of each call, and how long one may take."""
        self._context = context
        self._show = show
        self._timeout = timeout
        self._options = [
            *([f"--namespace={namespace}"] if namespace else []),
            *([f"--context={context}"] if context else []),
        ]
        self.refused: tuple[str, ...] = ()

    def within(self, namespace: str) -> "Kubectl":
        """Return the same for another namespace."""
        return Kubectl(namespace, self._context, self._show, self._timeout)

    def find(self, name: str) -> Job | None:
        """Return the newest job of that Helm release, else the job of that name.

        A kind of job that the user may not list is passed over, and told in ``refused``.
        """
        queries = [f"--selector=app.kubernetes.io/instance={name}"], [f"--field-selector=metadata.name={name}"]
        for kind, found in self._of_each_kind(*queries):
            return _job(kind, max(found, key=created))
        return None

    def jobs(self, everywhere: bool = False) -> list[Job]:
        """Return the jobs of this chart, of this namespace or of all; refusals are as in :meth:`find`."""
        query = [LISTS, *(["--all-namespaces"] if everywhere else [])]
        found = [_job(kind, each) for kind, jobs in self._of_each_kind(query) for each in jobs]
        return [job for job in found if OURS in job.annotations]

    def _of_each_kind(self, *queries: list[str]) -> Iterator[tuple[str, list[Object]]]:
        """Yield the jobs of each kind that the first fruitful query finds.

        Raises:
            ForbiddenError: no kind may be listed.
        """
        refused: list[ForbiddenError] = []
        for kind, facts in _KINDS.items():
            for query in queries:
                try:
                    found = self._list(facts.resource, query)
                except ForbiddenError as error:
                    refused.append(error)
                    break
                if found:
                    yield kind, found
                    break
        if len(refused) == len(_KINDS):
            raise refused[0]
        self.refused = tuple(map(str, refused))

    def master(self, job: Job) -> tuple[str, str] | None:
        """Return the master pod's name and its container's identity, once that has started."""
        facts = _KINDS[job.kind]
        pods = self._list("pods", [f"--selector={(facts.pods + facts.master).format(job.name)}"])
        for pod in sorted(pods, key=created, reverse=True):
            for status in objects(at(pod, "status").get("containerStatuses")):
                state = at(status, "state")
                if status.get("name") == facts.container and ("running" in state or "terminated" in state):
                    return name_of(pod), f"{word(at(pod, 'metadata').get('uid'))}/{restarts(status)}"
        return None

    def pods(self, job: Job) -> list[Object]:
        """Return the job's pods."""
        return self._list("pods", [f"--selector={_KINDS[job.kind].pods.format(job.name)}"])

    def events(self, which: str) -> list[Object]:
        """Return the namespace's events that a field selector picks, oldest first."""
        return sorted(self._list("events", [f"--field-selector={which}"], named=False), key=_happened)

    def workloads(self, job: Job) -> list[Object]:
        """Return what Kueue holds of a job."""
        uid = at(job.found, "metadata").get("uid")
        return [
            workload
            for workload in self._list("workloads.kueue.x-k8s.io", [])
            if any(owner.get("uid") == uid for owner in objects(at(workload, "metadata").get("ownerReferences")))
        ]

    def said(self, pod: str, container: str, previous: bool = False) -> list[str]:
        """Return the last lines of a container's log."""
        options = [f"--container={container}", f"--tail={LOG_LINES}", *(["--previous"] if previous else [])]
        return self._ask(["logs", *options, pod]).decode("utf-8", "replace").splitlines()

    def logs(self, job: Job, pod: str, since: str, follow: bool, tail: int | None = None) -> subprocess.Popen[bytes]:
        """Start to read the log of that pod, or its last lines, each with the time it was written."""
        words = [
            *("logs", "--timestamps", f"--follow={str(follow).lower()}"),
            *([f"--since-time={since}"] if since else []),
            *([f"--tail={tail}"] if tail else []),
            *(f"--container={_KINDS[job.kind].container}", pod),
        ]
        return subprocess.Popen(
            self._call(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _list(self, resource: str, query: list[str], named: bool = True) -> list[Object]:
        """Return the objects of a kind that a query picks, none where the cluster has no such kind."""
        try:
            answer = self._ask(["get", resource, *query, "--output=json"])
        except _NoSuchKindError:
            return []
        try:
            parsed = json.loads(answer)
        except (ValueError, RecursionError):
            raise ClusterError(f"kubectl get {resource}: its answer is not JSON; is it the real kubectl?") from None
        if not isinstance(parsed, dict) or not isinstance(parsed.get("items"), list):
            raise ClusterError(f"kubectl get {resource}: its answer is not a list of objects; is it the real kubectl?")
        return [item for item in objects(parsed["items"]) if name_of(item) or not named]

    def _call(self, words: Sequence[str]) -> list[str]:
        """Return a call of kubectl, once it is told."""
        call = ["kubectl", *self._options, *words]
        self._show(shlex.join(call))
        return call

    def _ask(self, words: Sequence[str]) -> bytes:
        """Return what a call of kubectl prints."""
        try:
            done = subprocess.run(
                self._call(words),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout,
                check=False,
            )
        except FileNotFoundError:
            raise ClusterError("kubectl: not found; install it, or pipe a log into neva-monitor") from None
        except OSError as error:
            raise ClusterError(f"kubectl: cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise ClusterError(f"kubectl: no answer from the API server for {self._timeout:g} s") from None
        if done.returncode == 0:
            return done.stdout
        raise trouble(f"kubectl {' '.join(words[:2])}", done.stderr)


class _NoSuchKindError(ClusterError):
    """The cluster does not know this kind of object."""


def trouble(call: str, stderr: bytes) -> ClusterError:
    """Return what kubectl's last words mean."""
    said = stderr.decode("utf-8", "replace").strip()
    last = f"{call}: {said.splitlines()[-1] if said else 'failed'}"
    if "doesn't have a resource type" in said or "could not find the requested resource" in said:
        return _NoSuchKindError(last)
    if "(Forbidden)" in said:
        return ForbiddenError(last)
    return ClusterError(last)


def _job(kind: str, found: Object) -> Job:
    name, outcome, failed = name_of(found), "", False
    for condition, holds, said in conditions(found):
        if holds and condition in ("Succeeded", "Complete", "Failed"):
            failed = condition == "Failed"
            outcome = f"{kind} {name}: {condition}. {said}".strip()
    told = at(found, "metadata", "annotations")
    return Job(kind, name, {k: v for k, v in told.items() if isinstance(v, str)}, outcome, failed, found)


def _happened(event: Object) -> str:
    times = (event.get("lastTimestamp"), at(event, "series").get("lastObservedTime"), event.get("eventTime"))
    return max(map(word, times)) or created(event)
