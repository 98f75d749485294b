"""Where pods run and who lets them: node choice, queues, gangs, fabrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain import chart
from neva_pretrain.chart import access, values
from neva_pretrain.check import advice, rules, schema
from neva_pretrain.check.verdict import judge
from neva_pretrain.facts import Facts
from neva_pretrain.model.hardware import GPUS
from tests.chart import helm
from tests.chart.helm import notes

TWO: dict[str, Any] = {"training": {"nodes": 2, "globalBatchSize": 512}}
RACK = "cloud.provider.com/topology-rack"


def metadata(manifests: list[helm.Manifest]) -> list[dict[str, Any]]:
    """Metadata of the pods, of each role."""
    return [replica["template"]["metadata"] for replica in helm.replicas(manifests).values()]


def scheduled(**scheduling: Any) -> list[helm.Manifest]:
    return helm.render({**TWO, "scheduling": scheduling})


# Nodes


def required(manifests: list[helm.Manifest], role: str = "Worker") -> dict[str, Any]:
    """What a node must be: the one term of the affinity."""
    affinity = helm.pod(manifests, role)["affinity"]["nodeAffinity"]
    assert list(affinity) == ["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return dict(term)


def named(*nodes: str) -> list[dict[str, Any]]:
    """Every node but these; the API takes one name in a requirement."""
    return [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]


@pytest.mark.parametrize(("kind", "role"), [("PyTorchJob", "Master"), ("PyTorchJob", "Worker"), ("TrainJob", "Node")])
def test_nodes_are_chosen_by_gpu_name_and_health(kind: str, role: str) -> None:
    """N12: nodes to avoid by their name, which the host name label need not equal."""
    healthy = {"key": "node-health", "operator": "NotIn", "values": ["bad", "draining"]}
    unmarked = {"key": "maintenance", "operator": "DoesNotExist"}
    scheduling = {
        "gpuType": {"key": "nvidia.com/gpu.product", "values": ["A", "B"]},
        "avoidNodes": ["i-0abc.eu-west-1.compute.internal", "gpu-0007", "gpu-0007"],
        "nodeExpressions": [healthy, unmarked],
    }
    assert required(helm.render({**TWO, "job": {"kind": kind}, "scheduling": scheduling}), role) == {
        "matchExpressions": [
            {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["A", "B"]},
            healthy,
            unmarked,
        ],
        "matchFields": named("i-0abc.eu-west-1.compute.internal", "gpu-0007"),
    }


def test_n12_nodes_to_avoid_need_no_other_term() -> None:
    manifests = scheduled(gpuType={"values": []}, avoidNodes=["gpu-0007"])
    assert required(manifests) == {"matchFields": named("gpu-0007")}
    tester = helm.one(manifests, "Pod")["spec"]["affinity"]["nodeAffinity"]
    assert "metadata.name" in str(tester), "helm test keeps away too"
    for bad in ("Node-1", "-a", "a..b", "a_b", "x" * 254):
        assert helm.render_fails({"scheduling": {"avoidNodes": [bad]}})


def test_any_node_will_do_without_a_gpu_type() -> None:
    assert "affinity" not in helm.pod(scheduled(gpuType={"values": []}))


def test_the_rest_of_the_pods_scheduling() -> None:
    toleration = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    spread = {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}
    manifests = scheduled(
        nodeSelector={"pool": "h100", "gone": None, "spot": False},
        tolerations=[toleration],
        topologySpreadConstraints=[spread],
        priorityClassName="high",
        schedulerName="mine",
    )
    for role in ("Master", "Worker"):
        pod = helm.pod(manifests, role)
        assert pod["nodeSelector"] == {"pool": "h100", "spot": "false"}
        assert pod["tolerations"] == [toleration]
        (constraint,) = pod["topologySpreadConstraints"]
        labels = constraint.pop("labelSelector")["matchLabels"]
        assert labels.items() <= helm.replicas(manifests)[role]["template"]["metadata"]["labels"].items()
        assert constraint == spread
        assert (pod["priorityClassName"], pod["schedulerName"]) == ("high", "mine")


def broken(**scheduling: Any) -> list[str]:
    """What schema and rules have against it."""
    complete = values.complete({"scheduling": scheduling})
    return [str(v) for v in schema.violations(complete) or rules.violations(Facts(complete))]


SPREAD = {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}
ODD: list[tuple[dict[str, Any], str]] = [
    ({"tolerations": [{"key": "a", "operator": "Exist"}]}, "tolerations[0].operator: got Exist; must be one of Equal,"),
    ({"tolerations": [{"key": "a", "effect": "noschedule"}]}, "tolerations[0].effect: got noschedule; must be one of"),
    (
        {"tolerations": [{"key": "a", "values": ["x"]}]},
        "tolerations[0].values: got a list; must be a known key; use val",
    ),
    ({"tolerations": [{"key": "a", "value": True}]}, "tolerations[0].value: got true; must be of type string;"),
    ({"tolerations": [{"key": "a b"}]}, "tolerations[0].key: got a b; "),
    (
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "tolerations[0].value: got b; must not be set",
    ),
    ({"tolerations": [{"value": "b"}]}, "tolerations[0].key: got nothing; must be set with operator Equal"),
    (
        {"tolerations": [{"key": "a", "tolerationSeconds": 9}]},
        "tolerations[0].tolerationSeconds: got 9; must come with",
    ),
    ({"nodeExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}, "nodeExpressions[0].operator: got in;"),
    (
        {"nodeExpressions": [{"key": "a", "operator": "In"}]},
        "nodeExpressions[0].values: got nothing; must not be empty",
    ),
    ({"nodeExpressions": [{"key": "a", "operator": "In", "values": "b"}]}, "nodeExpressions[0].values: got b; must be"),
    ({"nodeExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, "nodeExpressions[0].values: got b;"),
    ({"nodeExpressions": [{"key": "a", "operator": "Gt", "values": ["x"]}]}, "nodeExpressions[0].values: got x; must"),
    ({"nodeExpressions": [{"operator": "Exists"}]}, "nodeExpressions[0].key: got nothing; must be set;"),
    ({"topologySpreadConstraints": [{**SPREAD, "whenUnsatisfiable": "Never"}]}, "topologySpreadConstraints[0].whenUns"),
    ({"topologySpreadConstraints": [{**SPREAD, "maxSkew": 0}]}, "topologySpreadConstraints[0].maxSkew: got 0; must be"),
    ({"topologySpreadConstraints": [{"topologyKey": "a", "maxSkew": 1}]}, "topologySpreadConstraints[0].whenUnsatisf"),
    (
        {"topologySpreadConstraints": [SPREAD, SPREAD]},
        "topologySpreadConstraints[1].topologyKey: got rack; must differ",
    ),
    ({"topologySpreadConstraints": [{**SPREAD, "minDomains": 2}]}, "topologySpreadConstraints[0].minDomains: got 2;"),
    ({"nodeSelector": {"a b": "c"}}, "nodeSelector"),
    ({"nodeSelector": {"a": "x" * 64}}, "nodeSelector"),
    ({"gpuType": {"key": "a/b/c"}}, "gpuType.key: got a/b/c;"),
    ({"gpuType": {"values": ["NVIDIA H100"]}}, "gpuType.values[0]: got NVIDIA H100;"),
    ({"priorityClassName": "High"}, "priorityClassName: got High;"),
]


@pytest.mark.parametrize(("scheduling", "words"), ODD, ids=[json.dumps(odd) for odd, _ in ODD])
def test_u10_what_the_api_would_refuse_of_pods_is_refused_before(scheduling: dict[str, Any], words: str) -> None:
    """The job would be made, and its pods would never come."""
    (error,) = broken(**scheduling)
    assert error.startswith(f"scheduling.{words}")


def test_u10_what_the_api_takes_is_taken() -> None:
    tolerations = [
        {"operator": "Exists"},
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "a", "value": "b"},
        {"key": "a", "operator": "Equal", "value": "", "effect": "NoExecute", "tolerationSeconds": 0},
    ]
    expressions = [
        {"key": "a/b", "operator": "Gt", "values": ["8"]},
        {"key": "a", "operator": "DoesNotExist", "values": []},
        {"key": "a", "operator": "NotIn", "values": ["b", ""]},
    ]
    spread = [SPREAD, {**SPREAD, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2, "nodeTaintsPolicy": "Honor"}]
    assert not broken(tolerations=tolerations, nodeExpressions=expressions, topologySpreadConstraints=spread)
    pod = helm.pod(scheduled(tolerations=tolerations, nodeExpressions=expressions, topologySpreadConstraints=spread))
    assert pod["tolerations"] == tolerations


@pytest.mark.parametrize("key", ["commonLabels", "podLabels", "workerLabels"])
@pytest.mark.parametrize("labels", [{"a b": "c"}, {"a": "x y"}, {"a": "-x"}, {"a": "x" * 64}, {"A/b/c": "d"}], ids=str)
def test_u10_labels_are_what_the_api_takes(key: str, labels: dict[str, str]) -> None:
    assert schema.violations(values.complete({key: labels}))
    assert not schema.violations(values.complete({key: {"a.b/C_d": "X.y_z-1", "n": 1, "t": True, "e": ""}}))


# Queues


@pytest.mark.parametrize(
    ("topology", "annotations"),
    [
        ({"required": RACK}, {"podset-required-topology": RACK, "podset-group-name": "job"}),
        ({"preferred": RACK}, {"podset-preferred-topology": RACK, "podset-group-name": "job"}),
        ({"unconstrained": True}, {"podset-unconstrained-topology": "true"}),
        ({}, {}),
    ],
)
def test_master_and_workers_are_one_group_to_kueue(topology: dict[str, Any], annotations: dict[str, str]) -> None:
    """The group's meaning is Kueue's: it ignores one beside unconstrained."""
    manifests = scheduled(queue={"name": "lq", "topology": topology})
    for found in metadata(manifests):
        ours = {k.partition("/")[2]: v for k, v in found["annotations"].items() if k.startswith("kueue.x-k8s.io/")}
        assert ours == annotations
    alone = helm.render({"scheduling": {"queue": {"name": "lq", "topology": topology}}})
    (found,) = metadata(alone)
    assert "kueue.x-k8s.io/podset-group-name" not in found["annotations"], "a group of one pod set"


def test_without_a_queue_nothing_is_kueues() -> None:
    """With one: test_pods.py."""
    assert "kueue" not in helm.render_text()


@pytest.mark.parametrize("asked", [True, False])
def test_a13_nothing_but_kueue_suspends_a_queued_job(asked: bool) -> None:
    (error,) = helm.render_fails({"scheduling": {"queue": {"name": "lq"}}, "runPolicy": {"suspend": asked}})
    assert error.startswith(f"runPolicy.suspend: got {str(asked).lower()};")


@pytest.mark.parametrize(
    ("queue", "key"),
    [
        ({"priorityClass": "high"}, "scheduling.queue.priorityClass: got high;"),
        ({"topology": {"required": RACK}}, f"scheduling.queue.topology.required: got {RACK};"),
        ({"topology": {"unconstrained": True}}, "scheduling.queue.topology.unconstrained: got true;"),
        (
            {"name": "lq", "topology": {"required": RACK, "preferred": RACK}},
            "scheduling.queue.topology: got required and preferred;",
        ),
    ],
)
def test_what_no_kueue_would_read_or_accept_is_refused(queue: dict[str, Any], key: str) -> None:
    (error,) = helm.render_fails({"scheduling": {"queue": queue}})
    assert error.startswith(key)


def test_kai_finds_its_queue_on_the_job_and_its_pods() -> None:
    manifests = scheduled(kai={"queue": "team"})
    assert helm.job(manifests)["metadata"]["labels"]["kai.scheduler/queue"] == "team"
    assert {found["labels"]["kai.scheduler/queue"] for found in metadata(manifests)} == {"team"}
    assert {helm.pod(manifests, role)["schedulerName"] for role in ("Master", "Worker")} == {"kai-scheduler"}
    assert "kai" not in helm.render_text()


def test_kai_and_another_scheduler_or_kueue_are_refused() -> None:
    (error,) = helm.render_fails({"scheduling": {"kai": {"queue": "a"}, "schedulerName": "b"}})
    assert error.startswith("scheduling.schedulerName: got b;")
    (error,) = helm.render_fails({"scheduling": {"kai": {"queue": "a"}, "queue": {"name": "b"}}})
    assert error.startswith("scheduling.kai.queue: got a;")


@pytest.mark.parametrize("label", ["kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class", "kai.scheduler/queue"])
def test_a13_a_queue_is_a_value_and_no_label(label: str) -> None:
    for key in ("commonLabels", "podLabels", "workerLabels"):
        (error,) = helm.render_fails({key: {label: "x"}})
        assert error.startswith(f"{key}.{label}: got x; must not be set here; use scheduling.")


# Fabrics


@pytest.mark.parametrize("name", ["ib", "roce", "efa", "tcp"])
def test_a_fabric_is_its_devices_and_its_environment(name: str) -> None:
    fabric = chart.fabrics()[name]
    manifests = helm.render({**TWO, "fabric": name})
    for role in ("Master", "Worker"):
        container = helm.container(manifests, role)
        limits = set(container["resources"]["limits"]) - {"cpu", "memory", "nvidia.com/gpu"}
        assert limits == ({fabric["rdma"]["resourceName"]} if fabric["rdma"]["enabled"] else set())
        added = container["securityContext"]["capabilities"].get("add")
        assert added == (["IPC_LOCK"] if fabric["rdma"]["enabled"] else None)
        assert fabric["env"].items() <= helm.env(manifests, role).items()
        others = {key for other in chart.fabrics().values() for key in other["env"]} - set(fabric["env"])
        assert not others & set(helm.env(manifests, role)), "no other fabric's environment"


@pytest.mark.parametrize(
    ("rdma", "name"),
    [
        ({}, "tcp"),
        ({"enabled": False, "resourceName": "rdma/a", "networks": ["a"]}, "tcp"),
        ({"enabled": True}, "ib"),
        ({"resourceName": "rdma/a"}, "ib"),
        ({"count": 8}, "ib"),
        ({"resources": {"rdma/a": 1}}, "ib"),
        ({"networks": ["a"]}, "ib"),
    ],
)
def test_u12_a_fabric_that_nobody_names_asks_for_no_device_that_nobody_names(rdma: dict[str, Any], name: str) -> None:
    manifests = helm.render({**TWO, "rdma": rdma})
    assert chart.fabrics()[name]["env"].items() <= helm.env(manifests, "Worker").items()
    asked = {key for key in helm.container(manifests, "Worker")["resources"]["limits"] if "rdma/" in key}
    complete = values.complete({**TWO, "rdma": rdma})
    assert access.fabric(complete) == name
    assert asked == (set(access.rdma_resources(complete)) if name == "ib" else set())


@pytest.mark.parametrize(
    ("partial", "warned"),
    [
        (TWO, True),
        ({**TWO, "rdma": {"enabled": False}}, True),
        ({**TWO, "fabric": "tcp"}, False),
        ({**TWO, "rdma": {"resourceName": "rdma/a"}}, False),
        ({}, False),
    ],
)
def test_u12_nodes_without_a_named_fabric_are_told_so(folder: Path, partial: dict[str, Any], warned: bool) -> None:
    """By check and by the notes: an idle InfiniBand would be seen only by the speed."""
    assert bool([line for line in advice.warnings(values.complete(partial)) if line.startswith("fabric: ")]) is warned
    assert ("WARNING: fabric: not named" in notes(folder, partial)) is warned


def test_one_node_needs_no_fabric_and_two_do() -> None:
    assert "NCCL_IB_TIMEOUT" not in helm.env(helm.render({"fabric": "none"}))
    (error,) = helm.render_fails({**TWO, "fabric": "none"})
    assert error.startswith("fabric: got none;")


@pytest.mark.parametrize("value", ["^ibs,lo", "=eth0", "mlx5_0:1,mlx5_3:1", "", "a=b^c,d", "$(X) $$"])
def test_c03_c04_the_users_environment_wins_byte_for_byte(value: str) -> None:
    names = sorted({key for fabric in chart.fabrics().values() for key in fabric["env"]})
    for fabric in ("ib", "roce", "efa", "tcp"):
        seen = helm.env(helm.render({**TWO, "fabric": fabric, "env": dict.fromkeys(names, value)}), "Worker")
        assert {seen[name] for name in names} == {value}


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_n26_each_rail_may_have_a_resource_of_its_own(kind: str) -> None:
    rails = {f"rdma/shared_ib{rail}": 1 for rail in range(8)} | {"rdma/b": 3}
    manifests = helm.render({**TWO, "job": {"kind": kind}, "rdma": {"resources": rails}})
    for role in helm.replicas(manifests):
        container = helm.container(manifests, role)
        for side in ("limits", "requests"):
            asked = {k: v for k, v in container["resources"][side].items() if k.startswith("rdma/")}
            assert asked == {name: str(count) for name, count in rails.items()}
        assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert "rdma/" not in str(helm.one(manifests, "Pod")["spec"]["containers"][0]["resources"])
    off = helm.render({**TWO, "rdma": {"resources": rails, "enabled": False}})
    assert not [name for name in helm.container(off)["resources"]["limits"] if name.startswith("rdma/")]


@pytest.mark.parametrize(
    ("rdma", "words"),
    [
        (
            {"resources": {"rdma/a": 1, "rdma/b": 1}, "count": 2},
            "rdma.resources: got rdma/a, rdma/b; must be set without",
        ),
        ({"resources": {"rdma/a": 1}, "resourceName": "rdma/b"}, "rdma.resources: got rdma/a; must be set without"),
        ({"resources": {"nvidia.com/gpu": 1}}, "rdma.resources: got nvidia.com/gpu; must not be resources.gpuRes"),
        ({"resourceName": "nvidia.com/gpu"}, "rdma.resourceName: got nvidia.com/gpu; must not be resources.gpuRes"),
        *(({"resources": {"rdma/a": count}}, "") for count in (0, -1, 65, 1.5, "1")),
        *(({"resources": {name: 1}}, "") for name in ("shared_ib0", "RDMA/a", "rdma/a b", "")),
    ],
)
def test_n26_devices_are_said_once_and_counted(rdma: dict[str, Any], words: str) -> None:
    complete = values.complete({"rdma": rdma})
    found = [str(v) for v in schema.violations(complete) or rules.violations(Facts(complete))]
    assert len(found) == 1
    assert found[0].startswith(words or "rdma.resources")
    if words:
        assert helm.render_fails({"rdma": rdma}) == found


# Warnings, which check, generator and notes give in the same words

NETWORKS = "k8s.v1.cni.cncf.io/networks"
ROCE = {**TWO, "fabric": "roce"}
WARNED: list[tuple[dict[str, Any], str]] = [
    (ROCE, "rdma.networks: none with fabric roce;"),
    ({**ROCE, "podAnnotations": {NETWORKS: ""}}, "rdma.networks: none with fabric roce;"),
    ({**ROCE, "job": {"kind": "TrainJob"}, "rdma": {"resources": {"rdma/a": 1}}}, "rdma.networks: none with fabric"),
    ({**ROCE, "rdma": {"networks": ["a"]}}, ""),
    ({**ROCE, "podAnnotations": {NETWORKS: '[{"name": "a"}]'}}, ""),
    ({**ROCE, "hostNetwork": True, "rendezvous": {"port": 24000}}, ""),
    ({**ROCE, "rdma": {"enabled": False}}, ""),
    ({"fabric": "roce"}, ""),
    ({**ROCE, "prepare": {"enabled": True, "llm": {"source": "a/b"}}}, ""),
    ({**TWO, "fabric": "efa"}, "rdma.count: 32, as a p5.48xlarge has;"),
    ({**TWO, "fabric": "efa", "rdma": {"count": 16}}, ""),
    ({**TWO, "fabric": "efa", "rdma": {"resources": {"a/b": 16}}}, ""),
    ({**TWO, "fabric": "ib"}, ""),
    ({"fabric": "tcp", "rdma": {"resources": {"rdma/a": 1}}}, "rdma: names devices that no pod asks for with"),
    ({"scheduling": {"gpuType": {"values": ["NVIDIA-A100-SXM4-80GB"]}}}, "scheduling.gpuType.values: NVIDIA-A100-SXM4"),
    (
        {"training": {"gpu": "h200-141gb"}, "scheduling": {"gpuType": {"values": ["h100nvlink80"]}}},
        "scheduling.gpuType",
    ),
    ({"training": {"gpu": "a100-80gb"}, "scheduling": {"gpuType": {"values": ["NVIDIA-A100-SXM4-80GB"]}}}, ""),
    ({"scheduling": {"gpuType": {"values": ["gpu-large"]}}}, ""),
    ({"fabric": "tcp", "rdma": {"count": 8}}, "rdma: names devices that no pod asks for with fabric tcp: use"),
    ({"fabric": "tcp", "rdma": {"enabled": False, "count": 8}}, ""),
    ({"fabric": "tcp", "rdma": {"enabled": True, "resources": {"rdma/a": 1}}}, ""),
]


@pytest.mark.parametrize(("partial", "words"), WARNED, ids=[json.dumps(partial) for partial, _ in WARNED])
def test_n25_devices_that_a_pod_may_not_be_able_to_use_are_warned_of(
    folder: Path, partial: dict[str, Any], words: str
) -> None:
    said = advice.warnings(values.complete(partial))
    assert [sentence.startswith(words) for sentence in said] == ([True] if words else [])
    shown = notes(folder, partial)
    assert all(f"  - WARNING: {sentence}.\n" in shown for sentence in said)
    assert shown.count("WARNING: ") == len(said)
    if words:
        assert set(said) <= set(judge(Facts.of(partial), GPUS["h100-80gb"]).warnings), "check and generator"


@pytest.mark.parametrize("fabric", ["ib", "roce", "efa", "tcp"])
def test_n25_no_fabric_knows_a_sites_numbering(fabric: str) -> None:
    numbered = {"NCCL_IB_GID_INDEX", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "UCX_NET_DEVICES"}
    assert not numbered & set(helm.env(helm.render({**TWO, "fabric": fabric})))


def test_multus_attaches_the_networks_that_are_named() -> None:
    networks = ["rdma/roce-a@net1", "roce-b"]
    key = "k8s.v1.cni.cncf.io/networks"
    for found in metadata(helm.render({**TWO, "fabric": "roce", "rdma": {"networks": networks}})):
        assert found["annotations"][key] == "rdma/roce-a@net1,roce-b"
    for found in metadata(
        helm.render({**TWO, "rdma": {"networks": networks}, "podAnnotations": {key: '[{"name": "mine"}]'}})
    ):
        assert found["annotations"][key] == '[{"name": "mine"}]', "the user's own annotation wins"
    assert key not in helm.render_text(TWO)
    for bad in ("UPPER", "a/b/c", "a b", "a,b", "a@eth0", "a@lo", "a@sixteencharacter"):
        assert helm.render_fails({"rdma": {"networks": [bad]}})
    (error,) = helm.render_fails({"rdma": {"networks": ["a@net1", "b", "c", "a@net2", "d@net1"]}})
    assert error.startswith("rdma.networks: got d@net1; must have an interface of its own;")


def test_a15_a_pod_on_the_nodes_network_gets_no_other() -> None:
    values = {"hostNetwork": True, "rendezvous": {"port": 24000}, "rdma": {"networks": ["a", "b"]}}
    (error,) = helm.render_fails(values)
    assert error.startswith("rdma.networks: got a, b; must be empty with hostNetwork")


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_a15_the_port_of_a_job_on_the_nodes_network_is_its_own(kind: str) -> None:
    values = {**TWO, "job": {"kind": kind}, "hostNetwork": True}
    (error,) = helm.render_fails(values)
    assert error.startswith("rendezvous.port: got 23456;")
    manifests = helm.render({**values, "rendezvous": {"port": 24000}})
    for role in helm.replicas(manifests):
        assert helm.pod(manifests, role)["dnsPolicy"] == "ClusterFirstWithHostNet"
    port = helm.env(manifests, "Node")["NEVA_MASTER_PORT"] if kind == "TrainJob" else "24000"
    assert port == "24000"


LABELS: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"gpuType": {"values": ["H100", "H200"]}, "nodeSelector": {"nvidia.com/gpu.product": "A100"}},
        ["nodeSelector.nvidia.com/gpu.product: got A100; must leave a node, and the rest of scheduling asks for H100"],
    ),
    ({"gpuType": {"values": ["H100", "H200"]}, "nodeSelector": {"nvidia.com/gpu.product": "H200", "a": "b"}}, []),
    (
        {"nodeSelector": {"a": "x"}, "nodeExpressions": [{"key": "a", "operator": "NotIn", "values": ["x", "y"]}]},
        ["nodeExpressions[0]: got NotIn x, y; must leave a node, and the rest of scheduling asks for x; change"],
    ),
    (
        {"nodeSelector": {"a": "x"}, "nodeExpressions": [{"key": "a", "operator": "DoesNotExist"}]},
        ["nodeExpressions[0]: got DoesNotExist; must leave a node"],
    ),
    (
        {"nodeExpressions": [{"key": "a", "operator": "In", "values": [value]} for value in ("x", "y")]},
        ["nodeExpressions[1]: got In y; must leave a node, and the rest of scheduling asks for x"],
    ),
    ({"nodeSelector": {"a": 8}, "nodeExpressions": [{"key": "a", "operator": "Gt", "values": ["4"]}]}, []),
    ({"nodeSelector": {"a": "x"}, "nodeExpressions": [{"key": "a", "operator": "Exists"}]}, []),
    ({"nodeSelector": {"a": "x"}, "nodeExpressions": [{"key": "b", "operator": "NotIn", "values": ["x"]}]}, []),
    (
        {
            "nodeExpressions": [
                {"key": "a", "operator": "DoesNotExist"},
                {"key": "b", "operator": "NotIn", "values": ["x"]},
            ]
        },
        [],
    ),
]


@pytest.mark.parametrize(("scheduling", "said"), LABELS, ids=str)
def test_labels_that_no_node_has_together_are_refused(scheduling: dict[str, Any], said: list[str]) -> None:
    """The pods would stay Pending, whatever nodes there are."""
    partial = {"scheduling": scheduling}
    found = [str(violation) for violation in rules.violations(Facts.of(partial))]
    assert len(found) == len(said), found
    assert all(line.startswith(f"scheduling.{words}") for line, words in zip(found, said, strict=True)), found
    assert (helm.render_fails(partial) if said else helm.render(partial) and []) == found
