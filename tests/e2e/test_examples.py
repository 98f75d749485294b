"""The examples of queues and gangs in values/ on the controllers that they are for."""

import pytest

from tests.e2e.queues import FLAVOR, TOPOLOGY, queue, quota
from tests.e2e.release import ROOT, Release
from tests.sandbox import Sandbox

pytestmark = pytest.mark.e2e

RACK = "cloud.provider.com/topology-rack"
PRIORITY = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "kind": "WorkloadPriorityClass",
    "metadata": {"name": "training"},
    "value": 1000,
}


@pytest.fixture
def release(full: Sandbox, room: str) -> Release:
    return Release(full, room)


def install(release: Release, name: str) -> None:
    release.apply("install", "-f", str(ROOT / "values" / f"{name}.yaml"))
    release.wait_for("Running")


def test_kueue(full: Sandbox, release: Release) -> None:
    full.create(queue(release.namespace, quota(8)))
    install(release, "kueue")
    full.wait(lambda: len(release.placed()) == 8, "all nodes")
    (workload,) = full.get("workloads.kueue.x-k8s.io", namespace=release.namespace)["items"]
    assert workload["spec"]["queueName"] == "gpus"


def test_kueue_topology(full: Sandbox, release: Release) -> None:
    """The level and the priority class are the example's; the nodes get its label here."""
    racks = {n["metadata"]["name"]: n["metadata"]["labels"]["neva.test/rack"] for n in full.get("nodes")["items"]}
    for node, rack in racks.items():
        full.kubectl("label", "node", node, f"{RACK}={rack}", "--overwrite")
    levels = [{"nodeLabel": RACK}, {"nodeLabel": "kubernetes.io/hostname"}]
    topology = {**TOPOLOGY, "metadata": {"name": "cloud"}, "spec": {"levels": levels}}
    flavor = {**FLAVOR, "metadata": {"name": "cloud"}, "spec": {**FLAVOR["spec"], "topologyName": "cloud"}}
    objects = queue(release.namespace, quota(8))
    objects[0]["spec"]["resourceGroups"][0]["flavors"][0]["name"] = "cloud"
    full.create([PRIORITY, topology, flavor, *objects])
    install(release, "kueue-topology")
    full.wait(lambda: len(release.placed()) == 8, "all nodes")
    assert len({racks[node] for node in release.placed()}) == 1
    (workload,) = full.get("workloads.kueue.x-k8s.io", namespace=release.namespace)["items"]
    assert workload["spec"]["priority"] == 1000


def test_gang(full: Sandbox, release: Release) -> None:
    install(release, "gang")
    full.wait(lambda: len(release.placed()) == 12, "all nodes")
    group = full.get("podgroup", release.job()["metadata"]["name"], namespace=release.namespace)["spec"]
    assert (group["minMember"], group["scheduleTimeoutSeconds"]) == (12, 120)
