"""Jobs of a cluster as ``kubectl`` shows them: found, listed, their pods, events and logs."""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from neva_pretrain.kubectl import (
    ForbiddenError,
    Kubectl,
    NoSuchKindError,
    Object,
    at,
    conditions,
    name_of,
    objects,
    word,
)

LOG_LINES = 200
"""Lines of a finished container's log that are looked through."""


@dataclass(frozen=True)
class Job:
    """A job of the training operator, and where its first node's log is.

    Attributes:
        kind: ``pytorchjob`` or ``trainjob``.
        name: its name.
        annotations: its annotations.
        outcome: how it ended, empty while it has not.
        failed: it ended in failure.
        deleted: it is gone, and how it ended is not known.
        found: the object itself.

    """

    kind: str
    name: str
    annotations: Mapping[str, str]
    outcome: str = ""
    failed: bool = False
    deleted: bool = False
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


def created(value: Object) -> str:
    """Return when an object was made; such times sort as text."""
    return word(at(value, "metadata").get("creationTimestamp"))


def restarts(status: Object) -> int:
    """Return how often a container was started again, from its status."""
    count = status.get("restartCount")
    return count if isinstance(count, int) else 0


class Jobs(Kubectl):
    """The jobs that training operators have, of a namespace and context.

    Attributes:
        refused: why a kind of job was not looked for.
        has_kinds: whether the cluster has a kind of job at all.

    """

    refused: tuple[str, ...] = ()
    has_kinds = True

    def within(self, namespace: str) -> "Jobs":
        """Return the same for another namespace."""
        return Jobs(namespace, self._context, self._show, self._timeout)

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
        unknown = set()
        for kind, facts in _KINDS.items():
            for query in queries:
                try:
                    found = self._items(facts.resource, query)
                except ForbiddenError as error:
                    refused.append(error)
                    break
                except NoSuchKindError:
                    unknown.add(kind)
                    break
                if found:
                    yield kind, found
                    break
        if len(refused) == len(_KINDS):
            raise refused[0]
        self.refused = tuple(map(str, refused))
        self.has_kinds = unknown != _KINDS.keys()

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
        return sorted(self._list("events", [f"--field-selector={which}"], named=False), key=happened)

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

    def logs(
        self, job: Job, pod: str, since: str, follow: bool, stderr: IO[bytes], tail: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start to read the log of that pod, or its last lines, each with the time it was written.

        What kubectl says beside goes to a file: nobody reads it meanwhile, and a full pipe would stop the log.
        """
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
            stderr=stderr,
        )


def _job(kind: str, found: Object) -> Job:
    name, outcome, failed = name_of(found), "", False
    for condition, holds, said in conditions(found):
        if holds and condition in ("Succeeded", "Complete", "Failed"):
            failed = condition == "Failed"
            outcome = f"{kind} {name}: {condition}. {said}".strip()
    told = at(found, "metadata", "annotations")
    annotations = {k: v for k, v in told.items() if isinstance(v, str)}
    return Job(kind, name, annotations, outcome, failed, found=found)


def happened(event: Object) -> str:
    """Return when an event was last seen; such times sort as text."""
    times = (event.get("lastTimestamp"), at(event, "series").get("lastObservedTime"), event.get("eventTime"))
    return max(map(word, times)) or created(event)
