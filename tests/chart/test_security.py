"""Least privilege of every pod, its Pod Security level as the notes say it, policies, and no secret in clear."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.check import config, pod_security
from neva_pretrain.check.pods import check_pods, check_security
from neva_pretrain.check.rules import violations
from neva_pretrain.check.schema import violations as schema_violations
from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.chart.helm import notes
from tests.chart.test_schema import FILES, OPTIONS, schema

PREPARE = {"prepare": {"enabled": True, "llm": {"source": "meta-llama/Llama-2-7b-chat-hf"}}}
TWO_NODES = {"training": {"nodes": 2, "globalBatchSize": 512}}
NON_ROOT = {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}


def pods(manifests: list[helm.Manifest]) -> Iterator[helm.Manifest]:
    """Every pod spec in a render, wherever it lies."""

    def walk(node: Any) -> Iterator[helm.Manifest]:
        if isinstance(node, dict):
            if isinstance(node.get("containers"), list):
                yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    return walk(manifests)


IDS = {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"}
EVERY_POD = {"tensorboard": {"enabled": True}, "monitoring": {"exporter": {"enabled": True}}}


@pytest.mark.parametrize("partial", [TWO_NODES, PREPARE, {**TWO_NODES, "job": {"kind": "TrainJob"}}])
def test_no_pod_has_a_user_that_the_values_do_not_name(partial: dict[str, Any]) -> None:
    """OpenShift gives each namespace a range of its own, and admits no pod with an id of another."""
    seen = list(pods(helm.render({**EVERY_POD, **partial})))
    assert len(seen) >= 4, "job or prepare, TensorBoard, helm test, rollback"
    for named in ({}, {"runAsUser": 1000730005, "runAsGroup": 0}):
        for pod in pods(helm.render({**EVERY_POD, **partial, "securityContext": named})):
            assert not IDS & set(pod.get("securityContext", {}))
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                ids = {key: value for key, value in container["securityContext"].items() if key in IDS}
                assert ids == named, container["name"]


@pytest.mark.parametrize("partial", [TWO_NODES, PREPARE, {**TWO_NODES, "fabric": "tcp"}, *OPTIONS.values()])
def test_every_container_has_the_least_privilege(partial: dict[str, Any]) -> None:
    manifests = helm.render(partial)
    seen = list(pods(manifests))
    assert seen
    added = (partial.get("securityContext") or {}).get("capabilities", {}).get("add")
    for pod in seen:
        assert pod["automountServiceAccountToken"] is False
        assert "fsGroup" not in pod.get("securityContext", {}), "it would walk the whole file system"
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert "privileged" not in context
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context["capabilities"]["drop"] == ["ALL"]
            rdma = any("rdma" in name or "efa" in name for name in container["resources"]["limits"])
            wanted = None if container["name"] == "guard" else added or (["IPC_LOCK"] if rdma else None)
            assert context["capabilities"].get("add") == wanted, "what only reads adds none"


@pytest.mark.parametrize("partial", [TWO_NODES, PREPARE, {**TWO_NODES, "job": {"kind": "TrainJob"}}])
def test_a_privileged_container_may_escalate(partial: dict[str, Any]) -> None:
    """Sites whose RDMA devices need privileged containers; the API refuses one that must not escalate."""
    given = {**EVERY_POD, **partial, "securityContext": {"privileged": True}}
    for pod in pods(helm.render(given)):
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            reads = container["name"] in ("exporter", "tensorboard", "guard")
            assert context.get("privileged") == (None if reads else True), container["name"]
            assert context.get("allowPrivilegeEscalation") == (False if reads else None), container["name"]
            assert context["capabilities"]["drop"] == ["ALL"]


def test_an_escalation_that_privileged_contradicts_is_refused() -> None:
    for said in (True, None):
        assert helm.render({"securityContext": {"privileged": True, "allowPrivilegeEscalation": said}})
    (line,) = helm.render_fails({"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}})
    assert line == (
        "securityContext.allowPrivilegeEscalation: got false; must not be false with securityContext.privileged, "
        "or the API refuses the pods; remove it"
    )
    for name in ("SYS_ADMIN", "ALL"):  # the API takes these without escalation
        context = helm.container(helm.render({"securityContext": {"capabilities": {"add": [name]}}}))["securityContext"]
        assert context["allowPrivilegeEscalation"] is False


ROOT_USER = [
    ({}, {"runAsNonRoot": True, "runAsUser": 0}, ["securityContext.runAsUser"]),
    ({"runAsNonRoot": True}, {"runAsUser": 0}, ["securityContext.runAsUser"]),
    ({"runAsNonRoot": True, "runAsUser": 0}, {}, ["podSecurityContext.runAsUser"]),
    ({"runAsUser": 0}, {"runAsNonRoot": True}, ["podSecurityContext.runAsUser"]),
    ({"runAsUser": 0}, {"runAsNonRoot": True, "runAsUser": 0}, ["securityContext.runAsUser"]),
    ({"runAsUser": 0}, {"runAsNonRoot": True, "runAsUser": 1000}, []),
    ({"runAsNonRoot": True}, {"runAsNonRoot": False, "runAsUser": 0}, []),
    ({"runAsNonRoot": True}, {"runAsNonRoot": None, "runAsUser": 1}, []),
    ({"runAsNonRoot": False, "runAsUser": 0}, {"runAsNonRoot": False}, []),
]


@pytest.mark.parametrize(("pod", "container", "keys"), ROOT_USER, ids=str)
def test_root_where_no_root_may_run_is_refused(pod: dict[str, Any], container: dict[str, Any], keys: list[str]) -> None:
    """The kubelet would start no container: CreateContainerConfigError, with the GPUs held."""
    lines = ours({"podSecurityContext": pod, "securityContext": container})
    rule = "got 0; must not be 0 with runAsNonRoot, or the kubelet starts no container; use a non-root user"
    assert [line.partition(": ")[0] for line in lines] == keys
    assert all(rule in line for line in lines)


PROFILES = [
    ("podSecurityContext.seccompProfile", {}, "type: got nothing; must be set with the profile; use RuntimeDefault"),
    ("securityContext.seccompProfile", {}, ""),
    ("securityContext.seccompProfile", {"type": "RuntimeDefault"}, ""),
    ("securityContext.seccompProfile", {"type": "Localhost", "localhostProfile": "a/b.json"}, ""),
    ("securityContext.seccompProfile", {"type": "Localhost"}, "localhostProfile: got nothing; must be set with type"),
    ("securityContext.seccompProfile", {"localhostProfile": "x"}, "localhostProfile: got x; must come with type Local"),
    ("securityContext.appArmorProfile", {"localhostProfile": "x"}, "type: got nothing; must be set with the profile"),
    ("securityContext.appArmorProfile", {"type": "Localhost", "localhostProfile": "x"}, ""),
    ("podSecurityContext.appArmorProfile", {"type": "Unconfined", "localhostProfile": ""}, "localhostProfile: got no"),
]


@pytest.mark.parametrize(("path", "profile", "words"), PROFILES, ids=str)
def test_a_profile_of_the_node_is_named_and_no_other(path: str, profile: dict[str, Any], words: str) -> None:
    where, _, name = path.partition(".")
    lines = ours({where: {name: profile}})
    assert len(lines) == bool(words)
    assert all(line.startswith(f"{path}.{words}") for line in lines)


def ours(partial: dict[str, Any]) -> list[str]:
    """What `check` says, as Helm does."""
    complete = values.complete(partial)
    said = [str(v) for v in schema_violations(complete) or violations(Facts(complete))]
    assert (helm.render_fails(partial) if said else helm.render(partial) and []) == said
    return said


HUB = {"hf": {"online": True, "endpoint": "https://m.example"}, "secrets": {"huggingface": {"name": "hf"}}}
WANDB = {"wandb": {"enabled": True, "mode": "online"}, "secrets": {"wandb": {"name": "w"}}}
EVERYTHING = {"tensorboard": {"enabled": True}, "monitoring": {"exporter": {"enabled": True}}}
WITH_ENVIRONMENT = [
    {**TWO_NODES, **EVERYTHING, **HUB, "fabric": "roce"},
    {"job": {"kind": "TrainJob"}, **TWO_NODES, **EVERYTHING, **WANDB, "fabric": "efa"},
    {**PREPARE, **HUB},
]


@pytest.mark.parametrize("partial", WITH_ENVIRONMENT)
def test_k22_a_name_stands_once_in_a_containers_environment(partial: dict[str, Any]) -> None:
    """K22: every name that the chart sets is refused as the user's, or stands once and is the user's."""

    def environments(more: dict[str, Any]) -> list[list[str]]:
        found = helm.render(values.merge(partial, more))
        containers = [c for p in pods(found) for c in (*p["containers"], *p.get("initContainers", []))]
        return [[e["name"] for e in c["env"]] for c in containers]

    names = {name for environment in environments({}) for name in environment}
    assert {"HF_HOME", "TMPDIR"} < names
    for given in (
        ({"env": {n: "x"}} for n in names),
        ({"secrets": {"env": {n: {"name": "s", "key": "k"}}}} for n in names),
    ):
        free: dict[str, Any] = {}
        for one in given:
            if not list(config.check_environment(Facts.of(values.merge(partial, one)))):
                free = values.merge(free, one)
        assert free, "some are the user's choice"
        for environment in environments(free):
            assert len(environment) == len(set(environment)), environment


@pytest.mark.parametrize("name", ["POD_NAME", "NODE_NAME"])
@pytest.mark.parametrize("place", ["env", "secrets.env"])
def test_k22_the_pods_own_names_are_the_charts(name: str, place: str) -> None:
    more = {"env": {name: "x"}} if place == "env" else {"secrets": {"env": {name: {"name": "x", "key": "k"}}}}
    assert helm.render_fails(more) == [f"{place}.{name}: got x; must not be set here; the chart sets it"]


PARTS = ["nvidia.com/mig-3g.40gb", "nvidia.com/mig-7g.80gb", "nvidia.com/mig-1g.5gb.shared", "nvidia.com/gpu.shared"]
PARTS += ["example.com/mig-1g.5gb", "example.com/h100.mig-1g.5gb"]
SHARES = ["nvidia.com/gpu-10gb", "nvidia.com/gpumem", "volcano.sh/vgpu-number", "aliyun.com/gpu-mem"]


def test_n10_parts_of_a_gpu_are_refused() -> None:
    """N10: a process of a MIG slice sees no other one; what shares a GPU has no memory of its own."""
    for name in (
        "nvidia.com/gpu",
        "example.com/h100",
        "amd.com/gpu",
        "a.com/amig-x",
        "nvidia.com/GH100_H100_SXM5_80GB",
    ):
        assert not refused(name)
    for name in (*PARTS, *SHARES):
        assert refused(name), name
    assert helm.render_fails({"resources": {"gpuResourceName": PARTS[0]}}) == refused(PARTS[0])


@pytest.mark.parametrize("product", ["NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "NVIDIA-H100-80GB-HBM3-SHARED"])
def test_n10_nodes_whose_gpus_are_parts_are_refused(product: str) -> None:
    """N10: their resource is called nvidia.com/gpu, as that of whole GPUs; the label alone tells."""
    rule = f"got {product}; must be whole GPUs, since each training process needs its own GPU and access to its peers"
    label = "nvidia.com/gpu.product"
    scheduling = {"gpuType": {"values": ["NVIDIA-H100-80GB-HBM3", product]}}
    (line,) = ours({"scheduling": scheduling})
    assert line == f"scheduling.gpuType.values[1]: {rule}; use the label of nodes with whole GPUs"
    (line,) = ours({"scheduling": {"nodeSelector": {label: product}}})
    assert line.startswith(f"scheduling.nodeSelector.{label}: {rule}")
    assert not ours({"scheduling": {"gpuType": {"key": "pool", "values": [product]}, "nodeSelector": {"a": product}}})


@pytest.mark.parametrize(
    "name", ["requests.nvidia.com/gpu", "kubernetes.io/gpu", "x.kubernetes.io/gpu", "-a.com/x", "a.com/x-"]
)
def test_what_no_node_can_offer_is_refused(name: str) -> None:
    rule = f"got {name}; must be an extended resource, domain/name, without requests. and not of kubernetes.io"
    lines = ours({"resources": {"gpuResourceName": name}, "rdma": {"resources": {name: 1}}})
    assert [line.partition("; use")[0] for line in lines] == [
        f"resources.gpuResourceName: {rule}",
        f"rdma.resources.{name}: {rule}",
    ]
    (line,) = ours({"rdma": {"resourceName": name}})
    assert line.startswith(f"rdma.resourceName: {rule}")


AMOUNTS = [
    ({"resources": {"memory": 512}}, "resources.memory: got 512; must be at least 1Gi for each of 8 GPUs, or nothing"),
    ({"resources": {"memory": 0}}, "resources.memory: got 0; must be at least 1Gi for each of 8 GPUs"),
    ({"resources": {"memory": "8191Mi"}}, "resources.memory: got 8191Mi; must be at least 1Gi for each of 8 GPUs"),
    ({"resources": {"memory": "8Gi"}}, ""),
    ({"resources": {"cpu": 0}}, "resources.cpu: got 0; must be at least 1, or nothing runs; use more"),
    ({"resources": {"cpu": "999m"}}, "resources.cpu: got 999m; must be at least 1"),
    ({"resources": {"cpu": "1000m"}}, ""),
    ({"resources": {"shmSize": 64}}, "resources.shmSize: got 64; must be at least 64Mi, or nothing runs; use more, wi"),
    ({"tensorboard": {"resources": {"memory": "4m"}}}, "tensorboard.resources.memory: got 4m; must be at least 64Mi"),
    ({"prepare": {"resources": {"memory": 16}}}, "prepare.resources.memory: got 16; must be at least 64Mi"),
    ({"tensorboard": None, "monitoring": None}, ""),
]


@pytest.mark.parametrize(("partial", "words"), AMOUNTS, ids=str)
def test_amounts_that_hold_nothing_are_refused(partial: dict[str, Any], words: str) -> None:
    """Mostly a unit that is missing: 512 is bytes, and the kernel kills the process as it starts."""
    lines = ours(partial)
    assert len(lines) == bool(words)
    assert all(line.startswith(words) for line in lines)


def refused(gpu: str) -> list[str]:
    """What the rules say of a GPU resource; test_agreement holds the chart to the same words."""
    found = values.complete({"resources": {"gpuResourceName": gpu}})
    return [str(v) for v in check_pods(Facts(found))]


NOTES = [
    ({**TWO_NODES, "fabric": "ib"}, "meets privileged only; baseline is broken by rdma.enabled; restricted also by "
     "securityContext.runAsNonRoot, podSecurity.operatorInitContainer"),
    ({"fabric": "tcp"}, "meets baseline; restricted is broken by securityContext.runAsNonRoot"),
    ({"fabric": "tcp", **NON_ROOT}, "meets restricted"),
    ({"fabric": "ib", "securityContext": {**NON_ROOT["securityContext"], "capabilities": {"add": []}}},
     "meets restricted"),
    ({**TWO_NODES, "fabric": "tcp", **NON_ROOT},
     "meets baseline; restricted is broken by podSecurity.operatorInitContainer"),
    ({**TWO_NODES, "fabric": "tcp", **NON_ROOT, "podSecurity": {"operatorInitContainer": True}}, "meets restricted"),
    ({**PREPARE, **NON_ROOT}, "meets restricted"),
    (PREPARE, "meets baseline; restricted is broken by securityContext.runAsNonRoot"),
    ({"fabric": "tcp", **NON_ROOT, "storage": {"scratch": {"hostPath": "/nvme"}}},
     "meets privileged only; baseline is broken by storage.scratch.hostPath"),
]  # fmt: skip


@pytest.mark.parametrize(("partial", "words"), NOTES, ids=[json.dumps(partial) for partial, _ in NOTES])
def test_notes_tell_the_level_and_what_breaks_it(folder: Path, partial: dict[str, Any], words: str) -> None:
    assert f"Pod Security: {words}\n" in notes(folder, partial)


def test_a_default_without_rdma_meets_baseline() -> None:
    complete = values.complete({})
    assert "baseline" not in {broken.level for broken in pod_security.pod_security_breaks(complete)}


def test_a_namespace_that_enforces_a_level_is_refused_what_it_would_reject() -> None:
    """At install, in place of a job whose pods never come."""
    hosts = {"storage": {"scratch": {"hostPath": "/nvme"}}, "hostNetwork": True, "rendezvous": {"port": 24000}}
    hosts["fabric"] = "ib"
    lines = helm.render_fails({**hosts, "podSecurity": {"enforce": "baseline"}})
    assert [line.split(":")[0] for line in lines] == ["hostNetwork", "storage.scratch.hostPath", "rdma.enabled"]
    assert all("where podSecurity.enforce is baseline; use " in line for line in lines)
    lines = helm.render_fails({**TWO_NODES, "fabric": "ib", "podSecurity": {"enforce": "restricted"}})
    keys = ["rdma.enabled", "securityContext.runAsNonRoot", "podSecurity.operatorInitContainer"]
    assert [line.split(":")[0] for line in lines] == keys
    assert helm.render({"fabric": "tcp", "podSecurity": {"enforce": "baseline"}})
    assert helm.render({**PREPARE, **NON_ROOT, "podSecurity": {"enforce": "restricted"}})


def test_null_in_a_security_context_is_not_set() -> None:
    context = {"seccompProfile": None, "capabilities": {"add": None}}
    manifests = helm.render({"fabric": "ib", "securityContext": context})
    context = helm.container(manifests)["securityContext"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["capabilities"] == {"add": ["IPC_LOCK"], "drop": ["ALL"]}


# NetworkPolicy

POLICY: dict[str, Any] = {
    "networkPolicy": {
        "enabled": True,
        "egress": {"hub": {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}},
        "ingress": {"metrics": {"from": [{"namespaceSelector": {}}], "ports": [{"port": 9400, "protocol": "TCP"}]}},
    }
}


def matches(policy: helm.Manifest, labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]["matchLabels"]
    return bool(selector) and selector.items() <= labels.items()


def test_there_is_no_policy_unless_asked_for() -> None:
    assert not helm.of_kind(helm.render(), "NetworkPolicy")


@pytest.mark.parametrize("partial", [TWO_NODES, {**PREPARE, "podLabels": {"team": "a"}}])
def test_a_policy_admits_the_jobs_pods_dns_and_what_is_named(partial: dict[str, Any]) -> None:
    manifests = helm.render({**partial, **POLICY})
    policies = {m["metadata"]["name"]: m for m in helm.of_kind(manifests, "NetworkPolicy")}
    assert set(policies) == {"neva", "neva-egress-hub", "neva-ingress-metrics"}
    templates = [m["spec"]["template"] for m in helm.of_kind(manifests, "Job")]
    if not templates:
        templates = [replica["template"] for replica in helm.replicas(manifests).values()]
    for labels in [t["metadata"]["labels"] for t in [*templates, *helm.of_kind(manifests, "Pod")]]:
        assert all(matches(policy, labels) for policy in policies.values())
        assert not matches(policies["neva"], {**labels, "app.kubernetes.io/instance": "other"})
    own = policies["neva"]["spec"]
    peer = {"podSelector": own["podSelector"]}
    assert own["policyTypes"] == ["Ingress", "Egress"]
    assert own["ingress"] == [{"from": [peer]}]
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    ports = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert own["egress"] == [{"to": [peer]}, {"to": [dns], "ports": ports}]
    hub = policies["neva-egress-hub"]["spec"]
    assert (hub["policyTypes"], hub["egress"]) == (["Egress"], [POLICY["networkPolicy"]["egress"]["hub"]])
    metrics = policies["neva-ingress-metrics"]["spec"]
    assert (metrics["policyTypes"], metrics["ingress"]) == (
        ["Ingress"],
        [POLICY["networkPolicy"]["ingress"]["metrics"]],
    )


@pytest.mark.parametrize("labels", [{"a": "b"}, {"a": "b", "c": 1}, {"k8s-app": None, "a": "b"}])
def test_n05_labels_of_the_clusters_dns_replace_the_usual_ones(labels: dict[str, Any]) -> None:
    """OpenShift's DNS pods lack k8s-app: with both labels no pod would match, and no worker finds the master."""
    own = {key: str(value) for key, value in labels.items() if value is not None}
    dns = {"namespaceLabels": labels, "podLabels": labels, "port": 5353}
    policy = helm.one(helm.render({"networkPolicy": {"enabled": True, "dns": dns}}), "NetworkPolicy")
    (to,) = policy["spec"]["egress"][1]["to"]
    assert to == {"namespaceSelector": {"matchLabels": own}, "podSelector": {"matchLabels": own}}
    dns = {"namespaceLabels": {"a": "b"}}
    policy = helm.one(helm.render({"networkPolicy": {"enabled": True, "dns": dns}}), "NetworkPolicy")
    (to,) = policy["spec"]["egress"][1]["to"]
    assert to["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}, "each map by itself"


def test_n05_labels_that_the_dashboard_is_found_by_replace_the_usual_one() -> None:
    """Beside the user's, the usual one would show the dashboard in a Grafana that is not meant."""
    for labels, found in (({}, {"grafana_dashboard": "1"}), ({"a": "b"}, {"a": "b"})):
        manifests = helm.render({"monitoring": {"dashboard": {"enabled": True, "labels": labels}}})
        (board,) = [m for m in helm.of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "neva-dashboard"]
        has = board["metadata"]["labels"]
        assert {key: has[key] for key in ("grafana_dashboard", "a") if key in has} == found


def test_n05_a_map_with_defaults_is_one_whose_entries_stand_alone() -> None:
    """A default entry stays beside the user's: only where each entry is for itself, and none selects anything."""

    def maps(node: dict[str, Any], part: dict[str, Any], path: str = "") -> Iterator[str]:
        for key, value in node.items():
            below = part.get("properties", {}).get(key, {})
            if isinstance(value, dict) and "properties" not in below and value:
                yield f"{path}{key}"
            elif isinstance(value, dict):
                yield from maps(value, below, f"{path}{key}.")

    assert set(maps(chart.defaults(), schema())) == {"env", "podAnnotations"}


def test_a_policy_that_cannot_act_or_cuts_the_hub_off_is_refused() -> None:
    on = {"networkPolicy": {"enabled": True}}
    (line,) = helm.render_fails({**on, "hostNetwork": True, "rendezvous": {"port": 24000}})
    assert line.startswith("networkPolicy.enabled: got true; must be false with hostNetwork")
    for partial, why in ((PREPARE, "prepare downloads"), ({"hf": {"online": True}}, "hf.online is true")):
        (line,) = helm.render_fails({**on, **partial})
        assert line.startswith("networkPolicy.egress: got nothing; must allow internet hosts")
        assert why in line
    assert helm.render({**on, "prepare": {**PREPARE["prepare"], **local()}})


def local() -> dict[str, Any]:
    """Sources of prepare on mounted paths."""
    steps = ("tokenizer", "vision", "llm", "dataset")
    return {step: {"source": "/models/preset/in"} for step in steps}


PEERS: list[tuple[dict[str, Any], str]] = [
    ({"podSelector": {"matchLabel": {"a": "b"}}}, "podSelector.matchLabel: got a map; must be a known key; use matchL"),
    ({"podselector": {}}, "podselector: got {}; must be a known key; use podSelector"),
    ({"podSelector": {"matchLabels": {"a": 1}}}, "podSelector.matchLabels.a: got 1; must be of type string"),
    ({}, ": got nothing; must be an ipBlock, a namespaceSelector or a podSelector"),
    ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, ": got ipBlock and podSelector; must be an ipBlock or se"),
    ({"ipBlock": {"cidr": "10.0.0.1"}}, "ipBlock.cidr: got 10.0.0.1; must be a network, an address with its mask"),
    ({"ipBlock": {"cidr": "10.0.0.0/33"}}, "ipBlock.cidr: got 10.0.0.0/33; must be a network"),
    ({"ipBlock": {"except": []}}, "ipBlock.cidr: got nothing; must be set"),
    ({"ipBlock": {"cidr": "::/0", "except": ["fe80::"]}}, "ipBlock.except[0]: got fe80::; must be a network"),
    ({"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}}, ""),
    ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "podSelector.matchExpressions[0].values"),
    ({"podSelector": {}, "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}, ""),
]
PORTS: list[tuple[dict[str, Any], str]] = [
    ({"port": 443, "protocol": "tcp"}, "protocol: got tcp; must be one of TCP, UDP, SCTP"),
    ({"port": 0}, "port: got 0; must be at least 1"),
    ({"port": "443"}, "port: got 443; must be a number without quotes, or a name with a letter; use 443"),
    ({"port": "HTTPS"}, "port: got HTTPS; must be the number of a port, or its name"),
    ({"port": "https"}, ""),
    ({"ports": 443}, "ports: got 443; must be a known key; use port"),
    ({"port": 10, "endPort": 9}, "port: got 10; must be a number up to endPort (9)"),
    ({"endPort": 9}, "port: got nothing; must be a number up to endPort (9)"),
    ({"port": 9, "endPort": 9, "protocol": "SCTP"}, ""),
    ({}, ""),
]


@pytest.mark.parametrize(
    ("rule", "words"),
    [({"to": [peer]}, words) for peer, words in PEERS] + [({"ports": [port]}, words) for port, words in PORTS],
    ids=str,
)
def test_a_peer_or_port_that_the_api_does_not_mean_is_refused(rule: dict[str, Any], words: str) -> None:
    """The API drops a mistyped matchLabels, and the empty selector that is left selects everything."""
    for direction, side in (("egress", "to"), ("ingress", "from")):
        given = {side if key == "to" else key: value for key, value in rule.items()}
        complete = values.complete({"networkPolicy": {direction: {"a": given}}})
        lines = [str(v) for v in schema_violations(complete) or violations(Facts(complete))]
        key = f"networkPolicy.{direction}.a.{next(iter(given))}[0]"
        assert len(lines) == bool(words), lines
        assert all(line.startswith(f"{key}{'' if words[0] == ':' else '.'}{words}") for line in lines), lines
        partial = {"networkPolicy": {direction: {"a": given}}}
        assert bool(words) == (helm.template(json.dumps(partial)).returncode != 0)


# Secrets


def test_environment_of_a_secret_comes_by_reference() -> None:
    partial = {"secrets": {"env": {"NGC_API_KEY": {"name": "ngc", "key": "api"}}}}
    reference = {"name": "NGC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "ngc", "key": "api"}}}
    assert reference in helm.container(helm.render(partial))["env"]
    manifests = helm.render({**PREPARE, **partial})
    (container,) = helm.one(manifests, "Job")["spec"]["template"]["spec"]["containers"]
    assert reference in container["env"]
    (tester,) = helm.one(manifests, "Pod")["spec"]["containers"]
    assert reference not in tester["env"]


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "NGC_APIKEY", "TOKEN"]
)
def test_a_secret_in_clear_is_refused_and_not_repeated(name: str) -> None:
    (line,) = helm.render_fails({"env": {name: "s3cr3t"}})
    assert line.startswith(f"env.{name}: got a value; must not ")
    assert "s3cr3t" not in line


def test_names_that_only_look_like_secrets_are_free() -> None:
    names = ["TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "MAX_TOKENS", "KEYRING"]
    assert helm.render({"env": dict.fromkeys(names, "x")})


def test_one_name_has_one_source() -> None:
    secret = {"name": "s", "key": "k"}
    (line,) = helm.render_fails({"env": {"A": "x"}, "secrets": {"env": {"A": secret}}})
    assert line == "secrets.env.A: got s; must not be set here; remove it here or in env"
    (line,) = helm.render_fails({"secrets": {"env": {"HF_TOKEN": secret}}})
    assert line.endswith("use secrets.huggingface")


# A token of each kind that the programs of this field use.
TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bnvapi-[A-Za-z0-9_-]{20,}|\b(ghp|gho|ghs)_[A-Za-z0-9]{30,}|\bAKIA[A-Z0-9]{16}\b"
    r"|\bglpat-[A-Za-z0-9_-]{20}|\bxox[abp]-[A-Za-z0-9-]{10,}|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\."
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?<!sha256:)(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])"
)


def test_the_pattern_finds_tokens() -> None:
    tokens = [
        f"hf_{'a1' * 17}",
        f"nvapi-{'a' * 64}",
        f"ghp_{'a' * 36}",
        "AKIA" + "A" * 16,
        "0123456789abcdef" * 2 + "01234567",
    ]
    assert all(TOKEN.search(f"key: {token}\n") for token in tokens)


@pytest.mark.parametrize("partial", [None, TWO_NODES, PREPARE, POLICY, *FILES, *OPTIONS.values()], ids=str)
def test_no_render_holds_a_token(partial: Any) -> None:
    assert not TOKEN.search(helm.render_text(partial))


def test_no_file_of_the_chart_or_the_values_holds_a_token() -> None:
    files = [f for f in [*helm.CHART.rglob("*"), *(helm.ROOT / "values").rglob("*")] if f.is_file()]
    assert len(files) > 20
    assert not [str(f) for f in files if f.suffix != ".pyc" and TOKEN.search(f.read_text("utf-8"))]


def test_no_property_takes_a_secret_but_by_reference() -> None:
    """Below secrets there are names and keys of Secrets; elsewhere no property is named like a secret."""
    words = {"token", "password", "passwd", "apikey", "secret", "credential", "credentials", "auth"}

    def walk(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        more = node.get("additionalProperties")  # of a map
        for name, part in {**node.get("properties", {}), **({"*": more} if isinstance(more, dict) else {})}.items():
            if part.get("type") not in ("integer", "number", "boolean"):
                yield (*path, name)
            yield from walk(part, (*path, name))

    named = []
    for path in walk(schema(), ()):
        split = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", path[-1])}
        if split & words or {"api", "key"} <= split or {"access", "key"} <= split:
            named.append(".".join(path))
        if path[0] == "secrets" and len(path) == 3:
            assert path[-1] in ("name", "key", "*", "online", "mode", "project"), path
    assert not named


def test_rules_use_the_same_breaks_as_the_notes() -> None:
    complete = values.complete({**TWO_NODES, "podSecurity": {"enforce": "restricted"}})
    said = [str(violation).partition(":")[0] for violation in check_security(Facts(complete))]
    assert said == [broken.key for broken in pod_security.pod_security_breaks(complete)]
