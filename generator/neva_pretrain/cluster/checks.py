"""What would fail or wait if a run were installed in a cluster now, in the order in which a user would meet it."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from neva_pretrain import chart
from neva_pretrain.chart import yamlfile
from neva_pretrain.chart.access import VOLUMES, Values, preparing, read_only, section, text
from neva_pretrain.check.pods import refused_pods
from neva_pretrain.check.storage import storage_sources
from neva_pretrain.cluster.nodes import check_nodes, needs
from neva_pretrain.cluster.reader import Cluster
from neva_pretrain.cluster.references import KINDS, Reference, references
from neva_pretrain.errors import Violation
from neva_pretrain.facts import Facts
from neva_pretrain.kubectl import ForbiddenError, at, conditions, word

ENFORCED = "pod-security.kubernetes.io/enforce"
"""Label of a namespace: its level of the Pod Security Standard."""

Check = Callable[[Cluster], Iterator[Violation | str]]
"""Yields what would fail, and in words what may be a mistake."""


class Found(NamedTuple):
    """What a cluster says of a run.

    Attributes:
        violations: what would fail or wait.
        warnings: what may.
        unchecked: what the user may not see.

    """

    violations: tuple[Violation, ...]
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]


def against(facts: Facts, cluster: Cluster) -> Found:
    """Return what would fail or wait: of values that break no rule."""
    found: list[Violation | str] = []
    unchecked: list[str] = []
    for check in _checks(facts):
        try:
            found += check(cluster)
        except ForbiddenError as error:
            unchecked.append(str(error))
    return Found(
        tuple(each for each in found if isinstance(each, Violation)),
        tuple(each for each in found if isinstance(each, str)),
        tuple(dict.fromkeys(unchecked)),
    )


def _checks(facts: Facts) -> Iterator[Check]:
    values = facts.shaped
    yield _version
    yield partial(_job, values)
    yield partial(_kinds, values)
    yield partial(_fields, values)
    yield partial(_namespace, values)
    yield partial(_rights, values)
    for reference in references(values):
        yield partial(_reference, values, reference)
    yield partial(_nodes, values)


def _version(cluster: Cluster) -> Iterator[Violation]:
    """Helm refuses an older Kubernetes."""
    least: str = yamlfile.read(chart.path("Chart.yaml")).content["kubeVersion"]
    wanted, got = (_numbers(each) for each in (least, cluster.version))
    if got and got < wanted:
        rule = f"must be {'.'.join(map(str, wanted))} or newer"
        yield Violation("kubeVersion", cluster.version, rule, "upgrade the cluster")


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()


class Kind(NamedTuple):
    """A kind of object that a cluster may lack.

    Attributes:
        value: the value that asks for it.
        api: its group, with the version that the release makes it of.
        kind: the kind.
        resource: as kubectl takes it; empty for what the release itself does not make.
        brought: what installs it.

    """

    value: str
    api: str
    kind: str
    resource: str
    brought: str


OPERATOR = "the Kubeflow training operator 1.9 or newer"
TRAINER = "Kubeflow Trainer 2"
PROMETHEUS = "the Prometheus operator"

JOBS = {
    "PyTorchJob": Kind("job.kind", "kubeflow.org/v1", "PyTorchJob", "pytorchjobs.kubeflow.org", OPERATOR),
    "TrainJob": Kind(
        "job.kind", "trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs.trainer.kubeflow.org", TRAINER
    ),
}
RUNTIME = Kind(
    "job.kind", "trainer.kubeflow.org/v1alpha1", "TrainingRuntime", "trainingruntimes.trainer.kubeflow.org", TRAINER
)
JOBSETS = "jobset.x-k8s.io"
POD_GROUPS = ("scheduling.x-k8s.io", "scheduling.volcano.sh")
"""Groups of the kind PodGroup, of the gang schedulers that the operators know."""


def _job(values: Values, cluster: Cluster) -> Iterator[Violation]:
    """The cluster has the kind of job, and does not have the other kind alone."""
    if preparing(values):
        return
    kind = values["job"]["kind"]
    wanted = JOBS[kind]
    if cluster.has(wanted.api, wanted.kind):
        if kind == "TrainJob" and not cluster.has(JOBSETS, "JobSet"):
            yield Violation(
                "job.kind", kind, "must have JobSet in the cluster, on which Trainer runs", "install JobSet"
            )
        return
    fix = f"install {wanted.brought}"
    for other in JOBS.values():
        if other.kind != kind and cluster.has(other.api, other.kind):
            fix = f"use {other.kind}, which it has, or {fix}"
    yield Violation("job.kind", kind, "must be a kind of job that the cluster has", fix)


def _kinds(values: Values, cluster: Cluster) -> Iterator[Violation]:
    """The cluster has whatever else the release is made of."""
    for one in _wanted(values):
        if not cluster.has(one.api, one.kind):
            rule = f"must have the kind {one.kind} of {one.api} in the cluster"
            yield Violation(one.value, text(_value(values, one.value)), rule, f"install {one.brought}")
    asked = section(values, "scheduling", "schedulingPolicy")
    if asked and not preparing(values) and not any(cluster.has(group, "PodGroup") for group in POD_GROUPS):
        given = ", ".join(f"{key} {text(value)}" for key, value in sorted(asked.items()))
        rule = "must have a gang scheduler in the cluster, whose PodGroups it makes"
        fix = "install scheduler-plugins or Volcano, or leave it out"
        yield Violation("scheduling.schedulingPolicy", given, rule, fix)


def _value(values: Values, key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def _wanted(values: Values) -> Iterator[Kind]:
    """Yield the kinds beside the job's that no Kubernetes has by itself."""
    monitoring, scheduling = section(values, "monitoring"), section(values, "scheduling")
    for name, kind, resource in (
        ("podMonitor", "PodMonitor", "podmonitors"),
        ("prometheusRule", "PrometheusRule", "prometheusrules"),
    ):
        if section(monitoring, name).get("enabled"):
            resource = f"{resource}.monitoring.coreos.com"
            yield Kind(f"monitoring.{name}.enabled", "monitoring.coreos.com/v1", kind, resource, PROMETHEUS)
    if section(scheduling, "queue").get("name"):
        yield Kind("scheduling.queue.name", "kueue.x-k8s.io", "LocalQueue", "", "Kueue")
    if section(scheduling, "kai").get("queue"):
        yield Kind("scheduling.kai.queue", "scheduling.run.ai", "Queue", "", "the KAI scheduler")
    if section(values, "rdma").get("networks"):
        yield Kind("rdma.networks", "k8s.cni.cncf.io", "NetworkAttachmentDefinition", "", "Multus")


PODS = {
    "PyTorchJob": (JOBS["PyTorchJob"], "spec.pytorchReplicaSpecs.*.template.spec"),
    "TrainJob": (RUNTIME, "spec.template.spec.replicatedJobs.*.template.spec.template.spec"),
}
"""Where the kinds of job have their pods, with * for each item or key."""


def _fields(values: Values, cluster: Cluster) -> Iterator[Violation]:
    """The operator's API knows newer fields of pods: Helm 4 and ``kubectl apply`` refuse a job with others (N16)."""
    if preparing(values):
        return
    kind, pod = PODS[values["job"]["kind"]]
    fields = []
    if any(read_only(values, name) for name in VOLUMES):
        fields.append("containers.*.volumeMounts.*.recursiveReadOnly")
    if section(values, "monitoring", "exporter").get("enabled"):
        fields.append("initContainers.*.restartPolicy")
    if not cluster.has(kind.api, kind.kind):
        return
    schema = cluster.schema(kind.api, kind.kind)
    for field in fields:
        if schema and not _knows(schema, f"{pod}.{field}".split(".")):
            rule = (
                f"must have the field {field.rpartition('.')[2]} in the cluster, which an older operator does not know"
            )
            yield Violation("job.kind", values["job"]["kind"], rule, f"install {kind.brought}")


def _knows(schema: Any, path: list[str]) -> bool:
    """Return whether a schema has a field; what it leaves open it has."""
    for key in path:
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return True
        each = at(schema, "items") or at(schema, "additionalProperties")
        schema = each if key == "*" else at(schema, "properties", key)
        if not schema:
            return False
    return True


def _namespace(values: Values, cluster: Cluster) -> Iterator[Violation]:
    """It is there, and admits the pods."""
    name = cluster.namespace
    found = cluster.find("namespace", name)
    if found is None:
        rule = "must be a namespace of the cluster"
        yield Violation("--namespace", name, rule, "use helm install --create-namespace, or another one")
        return
    enforced = word(at(found, "metadata", "labels").get(ENFORCED))
    yield from refused_pods(values, enforced, f"where namespace {name} enforces {enforced}")


def _rights(values: Values, cluster: Cluster) -> Iterator[Violation]:
    """The user may make all that the release is made of."""
    here = [resource for resource in made(values) if cluster.has_group(resource.partition(".")[2])]
    missing = [resource for resource in here if not cluster.may_create(resource)]
    if missing:
        rule = f"must have the right to create {', '.join(missing)}"
        fix = "ask who runs the cluster for a Role with them (docs/how-to/restricted-namespace.md)"
        yield Violation("--namespace", cluster.namespace, rule, fix)


def made(values: Values) -> list[str]:
    """Return the resources that a release is made of, with the Secrets in which Helm keeps it."""
    trains = not preparing(values)
    job = JOBS[values["job"]["kind"]].resource if trains else "jobs.batch"
    sources = [storage_sources(values["storage"][name]) for name in VOLUMES]
    defaults = {name for name in chart.rules()["defaultNodePaths"] if not storage_sources(values["storage"][name])}
    static = bool(defaults) or any({"gpfs.nodePath", "gpfs.csi"}.intersection(named) for named in sources)
    on = {
        "secrets": True,
        "configmaps": True,
        "serviceaccounts": section(values, "serviceAccount").get("create"),
        "persistentvolumes": static,
        "persistentvolumeclaims": static or ["storageClassName"] in sources,
        job: True,
        RUNTIME.resource: job == JOBS["TrainJob"].resource,
        "networkpolicies.networking.k8s.io": section(values, "networkPolicy").get("enabled"),
        "poddisruptionbudgets.policy": trains and section(values, "podDisruptionBudget").get("enabled"),
        "deployments.apps": section(values, "tensorboard").get("enabled"),
        "services": section(values, "tensorboard").get("enabled"),
    }
    on |= {kind.resource: True for kind in _wanted(values) if kind.resource}
    return [resource for resource, wanted in on.items() if wanted]


def _reference(values: Values, reference: Reference, cluster: Cluster) -> Iterator[Violation | str]:
    """What the values name is there, and can be used."""
    where = "the cluster" if reference.of_cluster else f"namespace {cluster.namespace}"
    rule = f"must be a {KINDS[reference.resource]} of {where}"
    absent = Violation(reference.value, reference.name, rule, "make it, or name another one")
    if not cluster.has_group(reference.resource.partition(".")[2]):
        return  # told by its kind
    if reference.resource == "secret":
        keys = cluster.keys(reference.name)
        if keys is None:
            yield absent
        elif reference.key and reference.key not in keys:
            key, rule = reference.value.removesuffix(".name") + ".key", f"must be a key of Secret {reference.name}"
            fix = f"use one of {', '.join(sorted(keys))}" if keys else "give it that key"
            yield Violation(key, reference.key, rule, fix)
        return
    found = cluster.find(reference.resource, reference.name)
    if found is None:
        yield absent
    elif reference.resource == "persistentvolumeclaim":
        yield from _claim(values, reference, found)
    elif reference.resource.startswith("localqueues"):
        for condition, holds, why in conditions(found):
            if condition == "Active" and not holds:
                yield Violation(reference.value, reference.name, f"must be active ({why})", "ask who runs the queues")


def _claim(values: Values, reference: Reference, found: Any) -> Iterator[Violation]:
    """A claim has its volume, and is mounted on all nodes of the job."""
    if word(at(found, "status").get("phase")) == "Lost":
        yield Violation(reference.value, reference.name, "must have its volume, which is gone", "use another claim")
    given = at(found, "spec").get("accessModes")
    modes = list(map(word, given)) if isinstance(given, list) else []
    volume = reference.value.split(".")[1] if reference.value.startswith("storage.") else ""
    wanted = ["ReadWriteMany"]
    if volume and read_only(values, volume):
        wanted.append("ReadOnlyMany")
    if needs(values).nodes > 1 and isinstance(given, list) and not set(wanted).intersection(modes):
        yield Violation(
            reference.value,
            f"{reference.name} with access mode {', '.join(modes)}",
            f"must have {' or '.join(wanted)}, since pods of {needs(values).nodes} nodes mount it",
            "use a claim of a shared file system",
        )


def _nodes(values: Values, cluster: Cluster) -> Iterator[Violation | str]:
    """Enough nodes can take the pods, now or once Karpenter has made them."""
    grows = cluster.has_group("karpenter.sh")
    for found in check_nodes(values, cluster.nodes):
        yield f"{found} (unless Karpenter adds nodes)" if grows else found
