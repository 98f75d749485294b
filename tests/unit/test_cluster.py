"""``neva-values check --cluster``: what an install would meet, from what kubectl was seen to answer."""

import json
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neva_pretrain.cli.main import main
from neva_pretrain.cluster import checks
from neva_pretrain.cluster.reader import Cluster
from neva_pretrain.facts import Facts
from neva_pretrain.kubectl import ClusterError
from tests.chart import helm

Object = dict[str, Any]

NOTHING: Mapping[str, Any] = {}
FORBIDDEN = 'Error from server (Forbidden): {0} is forbidden: User "dev" cannot get resource "{0}" in API group ""'
WARNS = "Warning: resource 'persistentvolumes' is not namespace scoped\n"
OPERATOR = "pytorchjobs   kubeflow.org/v1   true   PyTorchJob"
TRAINER = """\
trainjobs          trainer.kubeflow.org/v1alpha1   true   TrainJob
trainingruntimes   trainer.kubeflow.org/v1alpha1   true   TrainingRuntime
jobsets            jobset.x-k8s.io/v1alpha2        true   JobSet"""
BUILT_IN = """\
configmaps    cm       v1                     true    ConfigMap
jobs                   batch/v1               true    Job
deployments   deploy   apps/v1                true    Deployment
networkpolicies        networking.k8s.io/v1   true    NetworkPolicy
poddisruptionbudgets   policy/v1              true    PodDisruptionBudget"""
CLAIM = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
STORAGE = {name: {"existingClaim": name} for name in ("datasets", "models", "results")}
CLAIMS = {f"persistentvolumeclaim/{name}": CLAIM for name in STORAGE}


def below(name: str, inner: Object) -> Object:
    return {"properties": {name: inner}}


def schema(kind: str, *fields: str) -> Object:
    """An operator's API, of which pods have these fields of a mount and of an init container."""
    known: Object = {"properties": {name: {"type": "string"} for name in ("name", *fields)}}
    mounts = below("volumeMounts", {"items": known})
    pod: Object = {"properties": {"containers": {"items": mounts}, "initContainers": {"items": known}}}
    template = below("template", below("spec", pod))
    group, version = ("kubeflow.org", "v1") if kind == "PyTorchJob" else ("trainer.kubeflow.org", "v1alpha1")
    spec = below("pytorchReplicaSpecs", {"additionalProperties": template})
    if kind != "PyTorchJob":
        jobs = {"properties": {"template": {"properties": {"spec": template}}}}
        spec = {
            "properties": {"template": {"properties": {"spec": {"properties": {"replicatedJobs": {"items": jobs}}}}}}
        }
    called = [{"group": group, "version": version, "kind": kind}]
    return {**below("spec", spec), "x-kubernetes-group-version-kind": called}


NEW = ("recursiveReadOnly", "restartPolicy")


def openapi(*schemas: Object) -> Object:
    return {"components": {"schemas": {str(number): each for number, each in enumerate(schemas)}}}


def node(name: str = "gpu", labels: Mapping[str, str] = {}, **spec: Any) -> Object:
    offered = {"cpu": "128", "memory": "2Ti", "nvidia.com/gpu": "8", "rdma/hca_shared_devices_all": "1"}
    return {
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": spec,
        "status": {"allocatable": offered},
    }


def smaller(offered: Mapping[str, str | None], **spec: Any) -> Object:
    made = node(**spec)
    made["status"]["allocatable"].update(offered)
    made["status"]["allocatable"] = {k: v for k, v in made["status"]["allocatable"].items() if v is not None}
    return made


class Recorded(Cluster):
    """A cluster of two nodes that has what a PyTorchJob needs; answers by RESOURCE/NAME take the place of its own."""

    def __init__(self, *kinds: str, lacks: Sequence[str] = (), answers: Mapping[str, Any] = NOTHING) -> None:
        super().__init__("team", None, lambda _: None)
        self.kinds_of = "\n".join([BUILT_IN, *(kinds or (OPERATOR,))])
        self.lacks = lacks
        self.answers: Object = {
            "version": {"serverVersion": {"gitVersion": "v1.34.3"}},
            "namespace/team": {"metadata": {"name": "team"}},
            "nodes": {"items": [node("a"), node("b")]},
            "/openapi/v3/apis/kubeflow.org/v1": openapi(schema("PyTorchJob", *NEW)),
            "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1": openapi(schema("TrainingRuntime", *NEW)),
            **CLAIMS,
            **answers,
        }
        self.asked: list[str] = []

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        self.asked.append(" ".join(words))
        plain = [w for w in words if not w.startswith("-")]
        key = "/".join(plain[1:]) if plain[0] == "get" else plain[0]
        answer = self.answers.get(plain[1] if "--raw" in words else key)
        code, out, err = 0, json.dumps(answer), ""
        if words[0] == "api-resources":
            out = self.kinds_of
        elif words[0] == "auth":
            code, out, err = (1, "no\n", WARNS) if words[3] in self.lacks else (0, "yes\n", WARNS)
        elif isinstance(answer, str):
            code, out, err = 1, "", answer
        elif answer is None:
            out = ""
        elif key.startswith("secret/"):
            out = "\n".join(answer)
        return subprocess.CompletedProcess(words, code, out.encode(), err.encode())


def found(cluster: Cluster, **values: Any) -> checks.Found:
    given = {"training": {"nodes": 2, "globalBatchSize": 512}, "storage": STORAGE, **values}
    return checks.against(Facts.of(given), cluster)


def words(cluster: Cluster, **values: Any) -> list[str]:
    return [str(violation) for violation in found(cluster, **values).violations]


def test_a_cluster_that_has_all_is_silent() -> None:
    assert found(Recorded()) == ((), (), ())
    assert found(Recorded(TRAINER), job={"kind": "TrainJob"}) == ((), (), ())


def test_each_thing_is_asked_once_and_nothing_is_changed() -> None:
    cluster = Recorded()
    found(cluster)
    asked = list(cluster.asked)
    found(cluster)
    again = [each for each in cluster.asked[len(asked) :] if each in asked]
    assert again == []
    assert {each.split()[0] for each in asked} == {"version", "api-resources", "get", "auth"}


def test_the_other_kind_of_job_alone_is_told() -> None:
    fix = "install the Kubeflow training operator 1.9 or newer"
    rule = "must be a kind of job that the cluster has"
    assert words(Recorded(TRAINER)) == [f"job.kind: got PyTorchJob; {rule}; use TrainJob, which it has, or {fix}"]
    assert words(Recorded("")) == [f"job.kind: got PyTorchJob; {rule}; {fix}"]
    (said,) = words(Recorded(OPERATOR), job={"kind": "TrainJob"})
    assert said == f"job.kind: got TrainJob; {rule}; use PyTorchJob, which it has, or install Kubeflow Trainer 2"
    (said,) = words(Recorded(TRAINER.rpartition("\n")[0]), job={"kind": "TrainJob"})
    assert said == "job.kind: got TrainJob; must have JobSet in the cluster, on which Trainer runs; install JobSet"


@pytest.mark.parametrize(
    ("kind", "api"), [("PyTorchJob", "kubeflow.org/v1"), ("TrainJob", "trainer.kubeflow.org/v1alpha1")]
)
def test_n16_an_operator_without_a_field_is_told(kind: str, api: str) -> None:
    old = openapi(schema("TrainingRuntime" if kind == "TrainJob" else kind))
    values = {"job": {"kind": kind}, "monitoring": {"exporter": {"enabled": True}}}
    said = words(Recorded(OPERATOR, TRAINER, answers={f"/openapi/v3/apis/{api}": old}), **values)
    rule = "must have the field {} in the cluster, which an older operator does not know"
    assert [rule.format(field) in line for field, line in zip(NEW, said, strict=True)] == [True, True]
    open_ended = openapi({**schema("PyTorchJob"), "x-kubernetes-preserve-unknown-fields": True})
    assert words(Recorded(answers={"/openapi/v3/apis/kubeflow.org/v1": open_ended})) == []


@pytest.mark.parametrize(
    ("version", "refused"), [("v1.29.9-eks-1", True), ("v1.30.0", False), ("v2.1.0", False), ("", False)]
)
def test_an_older_kubernetes_is_told_before_helm_does(version: str, refused: bool) -> None:
    said = words(Recorded(answers={"version": {"serverVersion": {"gitVersion": version}}}))
    assert said == ([f"kubeVersion: got {version}; must be 1.30 or newer; upgrade the cluster"] if refused else [])


def test_a_namespace_that_is_not_there_and_one_that_refuses_the_pods() -> None:
    (said,) = words(Recorded(answers={"namespace/team": None}))
    assert said.startswith("--namespace: got team; must be a namespace of the cluster; use helm install --create-names")
    enforcing = {"metadata": {"name": "team", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    (said,) = words(Recorded(answers={"namespace/team": enforcing}), fabric="ib")
    assert said.startswith("rdma.enabled: got true; must be false, since RDMA adds the capability IPC_LOCK, where ")
    assert "where namespace team enforces baseline; use fabric tcp" in said
    assert words(Recorded(answers={"namespace/team": enforcing}), fabric="tcp") == []
    enforcing["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "privileged"}
    assert words(Recorded(answers={"namespace/team": enforcing}), fabric="ib") == []


def test_rights_to_make_what_the_release_is_made_of() -> None:
    (said,) = words(Recorded(lacks=["pytorchjobs.kubeflow.org", "secrets", "deployments.apps"]))
    assert "got team; must have the right to create secrets, pytorchjobs.kubeflow.org; ask" in said
    assert "deployments.apps" in words(Recorded(lacks=["deployments.apps"]), tensorboard={"enabled": True})[0]


def test_what_may_not_be_read_is_no_failure() -> None:
    refused = {key: FORBIDDEN.format(key) for key in ("nodes", "namespace/team", "storageclass/fast")}
    values = {"storage": {**STORAGE, "scratch": {"storageClassName": "fast"}}}
    said = found(Recorded(answers=refused), **values)
    assert said.violations == ()
    assert said.unchecked == ("no right to get namespace", "no right to get storageclass", "no right to get nodes")


REFERENCES: dict[str, tuple[Object, str]] = {
    "secret/ngc": ({"image": {"pullSecrets": ["ngc"]}}, "image.pullSecrets[0]: got ngc; must be a Secret of namespace"),
    "secret/wb": (
        {"wandb": {"enabled": True}, "secrets": {"wandb": {"name": "wb"}}},
        "secrets.wandb.name: got wb; must be a Secret of namespace team; make it, or name another one",
    ),
    "secret/hub": (
        {"hf": {"online": True}, "secrets": {"huggingface": {"name": "hub"}}},
        "secrets.huggingface.name: got hub; must be",
    ),
    "secret/s": ({"secrets": {"env": {"A": {"name": "s", "key": "k"}}}}, "secrets.env.A.name: got s; must be a Secret"),
    "configmap/c": (
        {"extraVolumes": [{"name": "x", "configMap": {"name": "c"}}]},
        "extraVolumes[0]: got c; must be a ConfigMap of namespace team",
    ),
    "serviceaccount/sa": (
        {"serviceAccount": {"create": False, "name": "sa"}},
        "serviceAccount.name: got sa; must be a",
    ),
    "priorityclass/p": (
        {"scheduling": {"priorityClassName": "p"}},
        "scheduling.priorityClassName: got p; must be a PriorityClass of the cluster; make it, or name another one",
    ),
    "localqueues.kueue.x-k8s.io/q": (
        {"scheduling": {"queue": {"name": "q"}}},
        "scheduling.queue.name: got q; must be a",
    ),
    "persistentvolumeclaim/own": (
        {"storage": {**STORAGE, "results": {"existingClaim": "own"}}},
        "storage.results.existingClaim: got own; must be a PersistentVolumeClaim of namespace team",
    ),
}
KUEUE = "localqueues   lq   kueue.x-k8s.io/v1beta2   true   LocalQueue"


@pytest.mark.parametrize("what", REFERENCES)
def test_what_the_values_name_is_there(what: str) -> None:
    values, sentence = REFERENCES[what]
    (said,) = words(Recorded(OPERATOR, KUEUE), **values)
    assert said.startswith(sentence)
    there: Any = ["WANDB_API_KEY", "HF_TOKEN", "k"] if what.startswith("secret/") else CLAIM
    assert words(Recorded(OPERATOR, KUEUE, answers={what: there}), **values) == []


def test_a_secret_without_the_key_and_what_it_holds_is_not_read() -> None:
    cluster = Recorded(answers={"secret/s": ["other"]})
    (said,) = words(cluster, secrets={"env": {"A": {"name": "s", "key": "k"}}})
    assert said == "secrets.env.A.key: got k; must be a key of Secret s; use one of other"
    assert not [each for each in cluster.asked if "secret" in each and "json" in each]


@pytest.mark.parametrize(
    ("volume", "mode", "refused"),
    [
        ("results", "ReadWriteOnce", True),
        ("results", "ReadOnlyMany", True),
        ("results", "ReadWriteMany", False),
        ("datasets", "ReadOnlyMany", False),
        ("datasets", "ReadWriteOnce", True),
    ],
)
def test_claims_are_mounted_on_all_nodes(volume: str, mode: str, refused: bool) -> None:
    claim = {**CLAIM, "spec": {"accessModes": [mode]}}
    said = words(Recorded(answers={f"persistentvolumeclaim/{volume}": claim}))
    modes = "ReadWriteMany" if volume == "results" else "ReadWriteMany or ReadOnlyMany"
    rule = f"must have {modes}, since pods of 2 nodes mount it; use a claim of a shared file system"
    got = f"storage.{volume}.existingClaim: got {volume} with access mode {mode}"
    assert said == ([f"{got}; {rule}"] if refused else [])
    one = {"nodes": 1, "globalBatchSize": 256}
    assert words(Recorded(answers={f"persistentvolumeclaim/{volume}": claim}), training=one, fabric="none") == []


def test_a_claim_whose_volume_is_gone() -> None:
    (said,) = words(Recorded(answers={"persistentvolumeclaim/results": {**CLAIM, "status": {"phase": "Lost"}}}))
    assert said == "storage.results.existingClaim: got results; must have its volume, which is gone; use another claim"


def test_queues_and_schedulers_that_are_asked_for() -> None:
    queue = {"queue": {"name": "lq", "priorityClass": "high"}}
    (said,) = words(Recorded(), scheduling=queue)
    assert said.startswith("scheduling.queue.name: got lq; must have the kind LocalQueue of kueue.x-k8s.io in the cl")
    stopped = {"status": {"conditions": [{"type": "Active", "status": "False", "message": "ClusterQueue is missing"}]}}
    answers = {"localqueues.kueue.x-k8s.io/lq": stopped, "workloadpriorityclasses.kueue.x-k8s.io/high": CLAIM}
    (said,) = words(Recorded(OPERATOR, KUEUE, answers=answers), scheduling=queue)
    assert said == "scheduling.queue.name: got lq; must be active (ClusterQueue is missing); ask who runs the queues"
    gang = {"schedulingPolicy": {"minAvailable": 2}}
    (said,) = words(Recorded(), scheduling=gang)
    assert said.startswith("scheduling.schedulingPolicy: got minAvailable 2; must have a gang scheduler in the cluster")
    for group in ("scheduling.x-k8s.io/v1alpha1", "scheduling.volcano.sh/v1beta1"):
        assert words(Recorded(OPERATOR, f"podgroups pg {group} true PodGroup"), scheduling=gang) == []


def test_kinds_of_the_prometheus_operator() -> None:
    values = {
        "monitoring": {name: {"enabled": True} for name in ("exporter", "podMonitor", "prometheusRule")},
    }
    said = words(Recorded(), **values)
    assert [line.partition(":")[0] for line in said] == [
        "monitoring.podMonitor.enabled",
        "monitoring.prometheusRule.enabled",
    ]
    assert said[0].endswith(
        "must have the kind PodMonitor of monitoring.coreos.com/v1 in the cluster; install the Prometheus operator"
    )


def nodes(*given: Object) -> Recorded:
    return Recorded(answers={"nodes": {"items": list(given)}})


def test_nodes_that_take_no_pod_are_told_with_the_reason() -> None:
    tainted = node(taints=[{"key": "dedicated", "value": "x", "effect": "NoSchedule"}])
    others = [smaller({"nvidia.com/gpu": "4"}), smaller({"nvidia.com/gpu": None}), tainted, node(unschedulable=True)]
    (said,) = words(nodes(node(), *others))
    assert said.startswith(
        "training.nodes: got 2; must be at most 1, the nodes of the cluster that can take a pod; use fewer, or see to"
    )
    assert "the others: 1 with less than 8 nvidia.com/gpu, 1 without nvidia.com/gpu, 1 with the taint dedicated" in said
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    assert words(nodes(node(), tainted), scheduling={"tolerations": tolerations}) == []
    (said,) = words(nodes(node(), smaller({"memory": "500Gi"})))
    assert "others: 1 with less than 512Gi memory" in said
    assert words(nodes(node(), smaller({"cpu": "64000m"}))) == []
    (said,) = words(nodes(node(), smaller({"cpu": "63999m"})))
    assert "others: 1 with less than 64 cpu" in said


@pytest.mark.parametrize(
    ("scheduling", "labels"),
    [
        ({"gpuType": {"key": "kind", "values": ["h100"]}}, {"kind": "h100"}),
        ({"nodeSelector": {"pool": "a", "on": "true"}}, {"pool": "a", "on": "true"}),
        ({"nodeExpressions": [{"key": "bad", "operator": "DoesNotExist"}]}, {}),
        ({"nodeExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}, {"pool": "a"}),
        ({"nodeExpressions": [{"key": "n", "operator": "Gt", "values": ["3"]}]}, {"n": "4"}),
        ({"nodeExpressions": [{"key": "n", "operator": "Lt", "values": ["3"]}]}, {"n": "2"}),
        ({"nodeExpressions": [{"key": "n", "operator": "NotIn", "values": ["3"]}]}, {"n": "2"}),
        ({"avoidNodes": ["bad"]}, {}),
    ],
)
def test_where_pods_may_run(scheduling: Object, labels: Object) -> None:
    good, bad = node("good", labels), node("bad", {"bad": "1", "kind": "x", "n": "3"})
    assert words(nodes(good, good), scheduling=scheduling) == []
    (said,) = words(nodes(good, bad), scheduling=scheduling)
    assert said.startswith("training.nodes: got 2; must be at most 1,")


def test_what_no_node_has_is_told_by_its_own_value() -> None:
    kind = {"gpuType": {"key": "kind", "values": ["h100nvlink80"]}}
    labelled = node(labels={"kind": "h200"})
    (said,) = words(nodes(labelled, labelled), scheduling=kind)
    rule = "must have a value of the label kind on the nodes that have the GPUs"
    assert said == f"scheduling.gpuType.values: got h100nvlink80; {rule}; use h200 (2 nodes)"
    (said,) = words(nodes(node(), node()), scheduling=kind)
    assert said.startswith("scheduling.gpuType.key: got kind; must be a label of the nodes that have the GPUs;")
    bare = smaller(
        {
            "nvidia.com/gpu": None,
            "nvidia.com/mig-1g.10gb": "7",
            "nvidia.com/hgpu": "1",
            "rdma/hca_shared_devices_all": None,
        }
    )
    both = words(nodes(bare, bare), fabric="ib")
    assert [line.partition(";")[0] for line in both] == [
        "resources.gpuResourceName: got nvidia.com/gpu",
        "rdma.resourceName: got rdma/hca_shared_devices_all",
    ]
    assert "use nvidia.com/hgpu (2 nodes)" in both[0]
    assert words(nodes()) == ["training.nodes: got 2; must be nodes of the cluster, which has none; add some"]


def test_nodes_that_karpenter_may_add_are_a_warning() -> None:
    growing = Recorded(OPERATOR, "nodepools   karpenter.sh/v1   false   NodePool", answers={"nodes": {"items": []}})
    said = found(growing)
    assert said.violations == ()
    (warning,) = said.warnings
    assert warning.endswith("(unless Karpenter adds nodes)")


def test_prepare_needs_no_operator_and_no_gpu() -> None:
    values = {"prepare": {"enabled": True, "llm": {"source": "/models/preset/in"}}}
    cluster = Recorded("", answers={"nodes": {"items": [smaller({"nvidia.com/gpu": None})]}})
    assert words(cluster, **values) == []
    assert "auth can-i create jobs.batch" in cluster.asked


@pytest.mark.helm
@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_helm_tells_a_cluster_with_the_other_kind_alone_in_the_same_words(kind: str) -> None:
    apis = {"PyTorchJob": "kubeflow.org/v1/PyTorchJob", "TrainJob": "trainer.kubeflow.org/v1alpha1/TrainJob"}
    (other,) = set(apis) - {kind}
    values = {"job": {"kind": kind}}
    only = Recorded(TRAINER if other == "TrainJob" else OPERATOR)
    assert helm.render_fails(values, "--api-versions", apis[other]) == [words(only, **values)[0]]
    for seen in (
        [],
        ["--api-versions", apis[kind]],
        [part for api in apis.values() for part in ("--api-versions", api)],
    ):
        assert helm.render(values, *seen)
    assert helm.render({**ALL["preparing"], **values}, "--api-versions", apis[other])


ON: Object = {"enabled": True}
ALL: dict[str, Object] = {
    "a TrainJob": {"job": {"kind": "TrainJob"}},
    "preparing": {"prepare": {**ON, "llm": {"source": "/models/preset/in"}}, "podDisruptionBudget": ON},
    "claims of others": {"storage": STORAGE, "serviceAccount": {"create": False}},
    "claims of a class": {"storage": {name: {"storageClassName": "fast"} for name in STORAGE}},
    "everything": {
        "networkPolicy": {**ON, "ingress": {"prometheus": {"from": [{"namespaceSelector": {}}]}}},
        "podDisruptionBudget": ON,
        "tensorboard": ON,
        "monitoring": dict.fromkeys(("exporter", "podMonitor", "prometheusRule", "dashboard"), ON),
    },
}


@pytest.mark.helm
@pytest.mark.parametrize("name", ALL)
def test_rights_are_those_to_make_what_is_rendered(name: str) -> None:
    """Hooks are made when a person asks for them."""
    rendered = {"secrets"}
    for manifest in (each for one in helm.render(ALL[name]) for each in one.get("items", [one])):
        if not manifest["metadata"].get("annotations", {}).get("helm.sh/hook"):
            group, kind = manifest["apiVersion"].rpartition("/")[0], manifest["kind"].lower()
            plural = f"{kind.removesuffix('y')}ies" if kind.endswith("y") else f"{kind}s"
            rendered.add(f"{plural}.{group}" if group else plural)
    assert set(checks.made(Facts.of(ALL[name]).shaped)) == rendered


KUBECTL = """#!{python}
import json, sys
words = [w for w in sys.argv[1:] if not w.startswith("--")]
if words[0] == "version":
    print(json.dumps({{"serverVersion": {{"gitVersion": "v1.34.3"}}}}))
elif words[0] == "api-resources":
    print("trainjobs   trainer.kubeflow.org/v1alpha1   true   TrainJob")
elif words[0] == "auth":
    pass
else:
    sys.exit('Error from server (Forbidden): x is forbidden: User "dev" cannot get resource "x"')
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (tmp_path / "kubectl").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "values.yaml").write_text("training: {nodes: 2, globalBatchSize: 512}\n")
    return tmp_path / "values.yaml"


def test_the_command_shows_its_calls_and_ends_as_check_does(shell: Path) -> None:
    done = CliRunner().invoke(main, ["check", str(shell), "--cluster", "-n", "team", "--context", "c"])
    assert done.exit_code == 1
    assert done.stderr.startswith("+ kubectl --namespace=team --context=c version --output=json\n")
    assert f"{shell}: ERROR: job.kind: got PyTorchJob; must be a kind of job that the cluster has" in done.stdout
    assert f"{shell}: not checked: no right to get nodes\n" in done.stdout
    shell.write_text("job: {kind: TrainJob}\n")
    assert CliRunner().invoke(main, ["check", str(shell), "--cluster", "-n", "team"]).exit_code == 1  # no JobSet
    shell.write_text("prepare: {enabled: true, llm: {source: /models/preset/in}}\n")
    done = CliRunner().invoke(main, ["check", str(shell), "--cluster", "-n", "team", "-o", "json"])
    (document,) = json.loads(done.stdout)
    assert (done.exit_code, document["ok"]) == (0, True)
    assert document["notChecked"] == ["no right to get namespace", "no right to get nodes"]


def test_a_cluster_that_does_not_answer_fails_each_file_and_is_asked_once(shell: Path) -> None:
    kubectl = shell.with_name("kubectl")
    kubectl.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('The connection to the server was refused')")
    broken = shell.with_name("broken.yaml")
    broken.write_text("training: {nodes: 0}\n")
    files = [str(shell), str(broken), str(shell)]
    done = CliRunner().invoke(main, ["check", *files, "--cluster", "-o", "json"])
    errors = [[each["message"] for each in document["errors"]] for document in json.loads(done.stdout)]
    unreachable = ["kubectl version --output=json: The connection to the server was refused"]
    assert (errors[0], errors[2]) == (unreachable, unreachable)
    assert errors[1][0].startswith("training.nodes: got 0; ")
    assert (done.exit_code, done.stderr) == (1, "+ kubectl version --output=json\n")


def test_values_that_break_a_rule_ask_no_cluster(shell: Path) -> None:
    shell.write_text("training: {nodes: 2, globalBatchSize: 7}\n")
    done = CliRunner().invoke(main, ["check", str(shell), "--cluster"])
    assert (done.exit_code, done.stderr) == (1, "")


@pytest.mark.parametrize("option", ["--namespace=team", "--context=c"])
def test_without_a_cluster_its_options_are_wrong_usage(shell: Path, option: str) -> None:
    done = CliRunner().invoke(main, ["check", str(shell), option])
    assert done.exit_code == 2
    assert "need --cluster" in done.stderr


class OneServerIsDown(Recorded):
    """kubectl shows the kinds of the others, and fails."""

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        done = super()._run(words)
        if words[0] != "api-resources":
            return done
        said = b"error: unable to retrieve the complete list of server APIs: metrics.k8s.io/v1beta1: stale"
        return subprocess.CompletedProcess(words, 1, done.stdout, said)


def test_a_group_whose_server_is_down_does_not_matter() -> None:
    assert found(OneServerIsDown()) == ((), (), ())


def test_kinds_that_cannot_be_listed_at_all_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Recorded()
    done = subprocess.CompletedProcess([], 1, b"", b"error: You must be logged in to the server (Unauthorized)")
    monkeypatch.setattr(cluster, "_run", lambda _: done)
    with pytest.raises(ClusterError, match=r"kubectl api-resources: error: You must be logged in"):
        cluster.has("v1", "ConfigMap")


def test_a_cluster_that_serves_no_schemas_is_still_checked() -> None:
    """As Kubernetes before 1.24, whose own version is the thing to tell."""
    absent = "Error from server (NotFound): the server could not find the requested resource"
    answers = {"version": {"serverVersion": {"gitVersion": "v1.23.1"}}, "/openapi/v3/apis/kubeflow.org/v1": absent}
    assert [v.key for v in found(Recorded(answers=answers)).violations] == ["kubeVersion"]


def test_malformed_labels_and_modes_count_as_missing() -> None:
    odd = node()
    odd["metadata"]["labels"] = {"gpu": ["H100"], "rank": [7]}
    claim: Object = {"spec": {"accessModes": [None, {}]}}
    cluster = Recorded(answers={"nodes": {"items": [odd, odd]}, "persistentvolumeclaim/models": claim})
    ranked = [{"key": "rank", "operator": "Gt", "values": ["3"]}]
    scheduling = {"gpuType": {"key": "gpu", "values": ["H100"]}, "nodeExpressions": ranked}
    assert [v.key for v in found(cluster, scheduling=scheduling).violations] == [
        "storage.models.existingClaim",
        "scheduling.gpuType.key",
    ]
    ranks = found(cluster, scheduling={"gpuType": {"values": []}, "nodeExpressions": ranked}).violations
    assert [v.key for v in ranks] == ["storage.models.existingClaim", "training.nodes"]
