"""Faults that the cluster brings on, on the real controllers: each docstring is a row of docs/explanation/survival.md.

What the supervisors do of it, with real processes, is in other files: here are the pods that the controllers make anew,
and those that they do not.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.queues import queue, quota
from tests.e2e.release import CHART, Release
from tests.sandbox import Sandbox, SandboxError
from tests.sandbox.nodes import node

pytestmark = pytest.mark.e2e

KINDS = ("PyTorchJob", "TrainJob")
TWO_NODES = ("--set", "training.nodes=2", "--set", "training.globalBatchSize=512")
INDEX = "batch.kubernetes.io/job-completion-index"


@pytest.fixture(params=KINDS)
def named(request: pytest.FixtureRequest) -> Release:
    """Name a release of each kind of job; nothing is installed yet."""
    if request.param == "PyTorchJob":
        release: Release = request.getfixturevalue("release")
        return release
    return Release(request.getfixturevalue("full"), request.getfixturevalue("room"), kind="TrainJob")


@pytest.fixture
def running(named: Release) -> Release:
    """Install two nodes of it, and wait until both run."""
    install(named)
    return named


def install(release: Release, *options: str) -> None:
    release.install("--set", f"job.kind={release.kind}", *TWO_NODES, *options)
    release.sandbox.wait(lambda: len(places(release)) == 2, "both pods run")


def places(release: Release) -> dict[str, dict[str, Any]]:
    """Running pods by their place in the job: 0 is the master."""
    found = {}
    for name, pod in release.pods().items():
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
            place = pod["metadata"]["labels"].get(INDEX) or str(int("-worker-" in name))
            assert place not in found, "two pods of one place"
            found[place] = pod
    return found


def uids(release: Release) -> dict[str, str]:
    return {place: pod["metadata"]["uid"] for place, pod in places(release).items()}


def await_another(release: Release, before: dict[str, str], *lost: str) -> None:
    """Wait until pods run in place of the lost ones; the others, and the job, go on."""

    def replaced() -> bool:
        now = uids(release)
        return now.keys() == before.keys() and {place for place in now if now[place] != before[place]} == set(lost)

    release.sandbox.wait(replaced, f"another pod in place of {', '.join(lost)}")
    assert not release.has_condition("Failed")


def set_status(release: Release, pod: dict[str, Any], status: dict[str, Any]) -> None:
    """Say of a pod what its kubelet would."""
    command = ["patch", "pod", pod["metadata"]["name"], "-n", release.namespace, "--subresource=status"]
    release.sandbox.kubectl(*command, "--type=merge", "-p", json.dumps({"status": status}))


@pytest.mark.parametrize("place", ["0", "1"])
def test_a_pod_is_deleted(running: Release, place: str) -> None:
    """Pod deleted (master, worker)."""
    before = uids(running)
    name = places(running)[place]["metadata"]["name"]
    running.sandbox.kubectl("delete", "pod", name, "-n", running.namespace, "--wait=false")
    await_another(running, before, place)


@pytest.mark.parametrize(
    ("place", "code"), [("0", 137), ("1", 143), ("1", 255)], ids=["SIGKILL of the master", "SIGTERM", "runtime lost"]
)
def test_a_pod_is_killed(running: Release, place: str, code: int) -> None:
    """Pod killed (out of memory, SIGKILL, SIGTERM, container runtime lost)."""
    before = uids(running)
    running.sandbox.fail(places(running)[place]["metadata"]["name"], code=code, namespace=running.namespace)
    await_another(running, before, place)


@pytest.mark.parametrize("code", [1, 70])
def test_a_pod_ends_by_itself(running: Release, code: int) -> None:
    """Preflight fails, or the restarts made no progress: the job has failed, and no pod comes in place of the pod."""
    before = uids(running)
    running.sandbox.fail(places(running)["0"]["metadata"]["name"], code=code, namespace=running.namespace)
    running.wait_for("Failed")
    running.sandbox.wait(lambda: not places(running), "the GPUs of the other pod are free")
    assert {pod["metadata"]["uid"] for pod in running.pods().values()} <= set(before.values())


@pytest.mark.parametrize("place", ["0", "1"])
def test_a_pod_is_evicted(running: Release, place: str) -> None:
    """Pod evicted by its kubelet (no memory or disk left on the node): it is Failed, its containers have no status."""
    before = uids(running)
    target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    pod = places(running)[place]
    conditions = [*pod["status"]["conditions"], target]
    set_status(running, pod, {**evicted, "conditions": conditions, "containerStatuses": None})
    await_another(running, before, place)


def test_a_node_has_no_device_for_the_pod(running: Release) -> None:
    """Pod refused by its kubelet (UnexpectedAdmissionError: the device plugin is not up yet after a reboot)."""
    before = uids(running)
    refused = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed"}
    set_status(running, places(running)["1"], {**refused, "containerStatuses": None})
    await_another(running, before, "1")


def test_a_worker_waits_too_long_for_the_masters_name(release: Release) -> None:
    """Slow image or late DNS of the master: the operator's init container gives up after 200 s, and tries again."""
    install(release)
    before = uids(release)
    ended = {"name": "init-pytorch", "image": "alpine", "imageID": "", "ready": False, "restartCount": 0}
    ended["state"] = {"terminated": {"exitCode": 1, "reason": "Error"}}
    waits = {"name": "pytorch", "image": "nemo", "imageID": "", "ready": False, "restartCount": 0}
    waits["state"] = {"waiting": {"reason": "PodInitializing"}}
    failed = {"phase": "Failed", "initContainerStatuses": [ended], "containerStatuses": [waits]}
    set_status(release, places(release)["1"], failed)
    await_another(release, before, "1")


@contextlib.contextmanager
def away(box: Sandbox, name: str) -> Iterator[None]:
    """Take a node away, and bring it back at the end."""
    box.kubectl("delete", "node", name)
    try:
        yield
    finally:
        box.create([node(int(name.removeprefix("gpu-")), 8)])
        ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        box.wait(lambda: box.kubectl("get", "node", name, "-o", ready) == "True", "node back")


def test_a_node_is_gone(running: Release) -> None:
    """Node deleted: its pod runs on another one."""
    before, lost = uids(running), places(running)["1"]["spec"]["nodeName"]
    with away(running.sandbox, lost):
        await_another(running, before, "1")
        assert places(running)["1"]["spec"]["nodeName"] != lost


@contextlib.contextmanager
def drained(box: Sandbox, name: str, *options: str) -> Iterator[None]:
    """Cordon and drain a node, and uncordon it at the end."""
    try:
        box.kubectl("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", *options)
        yield
    finally:
        box.kubectl("uncordon", name)


def test_a_node_is_drained(running: Release) -> None:
    """Node cordoned and drained: its pod runs on another one."""
    before, lost = uids(running), places(running)["1"]["spec"]["nodeName"]
    with drained(running.sandbox, lost):
        await_another(running, before, "1")
        assert places(running)["1"]["spec"]["nodeName"] != lost


def test_a_drain_waits_for_a_person(named: Release) -> None:
    """Node drained, podDisruptionBudget.enabled: every pod stays, until the job is deleted."""
    install(named, "--set", "podDisruptionBudget.enabled=true")
    box, before = named.sandbox, uids(named)
    budget = ("poddisruptionbudget", named.name)
    box.wait(
        lambda: box.get(*budget, namespace=named.namespace)["status"].get("currentHealthy") == 2, "the budget counts"
    )
    for place in ("0", "1"):
        where = places(named)[place]["spec"]["nodeName"]
        refused = pytest.raises(SandboxError, match="would violate the pod's disruption budget")
        with refused, drained(box, where, "--timeout=3s"):
            pass
    assert uids(named) == before


@pytest.mark.parametrize("kind", KINDS)
def test_kueue_preempts_the_job(full: Sandbox, room: str, kind: str) -> None:
    """Kueue preempts the job for one of a higher priority: it is suspended, and runs again when there is room."""
    low, high = (Release(full, room, name, kind) for name in ("low", "high"))
    cluster_queue, local_queue = queue(room, quota(2))
    cluster_queue["spec"]["preemption"] = {"withinClusterQueue": "LowerPriority"}
    api = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "WorkloadPriorityClass"}
    urgent = f"urgent-{room}"
    full.create([cluster_queue, local_queue, {**api, "metadata": {"name": urgent}, "value": 1000}])
    queued = ("--set", "scheduling.queue.name=gpus")
    install(low, *queued)
    install(high, *queued, "--set", f"scheduling.queue.priorityClass={urgent}")
    spec = low.job()["spec"]
    assert spec.get("suspend") or spec.get("runPolicy", {}).get("suspend")
    assert not low.pods()
    pods = [pod["metadata"]["name"] for pod in places(high).values()]
    full.complete(*pods, namespace=room)
    high.wait_for("Succeeded" if kind == "PyTorchJob" else "Complete")
    full.wait(lambda: len(places(low)) == 2, "it runs again")
    assert not low.has_condition("Failed")
    full.kubectl("delete", "workloadpriorityclass", urgent)


CONTROL_PLANE = {
    "PyTorchJob": ("kube-apiserver", "etcd", "training-operator"),
    "TrainJob": ("kube-apiserver", "etcd", "trainer-controller-manager", "jobset", "kube-controller-manager"),
}


@pytest.mark.parametrize(("kind", "tool"), [(kind, tool) for kind, tools in CONTROL_PLANE.items() for tool in tools])
def test_the_control_plane_restarts(request: pytest.FixtureRequest, kind: str, tool: str) -> None:
    """API server, etcd, operator restarted: the job runs on, and its pods are looked after again."""
    if kind == "PyTorchJob":
        release: Release = request.getfixturevalue("release")
    else:
        release = Release(request.getfixturevalue("full"), request.getfixturevalue("room"), kind=kind)
    install(release)
    before = uids(release)
    release.sandbox.restart(tool)
    release.sandbox.wait(lambda: uids(release) == before, "the API answers")
    assert release.has_condition("Running") or kind == "TrainJob"
    name = places(release)["1"]["metadata"]["name"]
    release.sandbox.kubectl("delete", "pod", name, "-n", release.namespace, "--wait=false")
    await_another(release, before, "1")


def test_a_failed_job_is_started_again_by_its_next_attempt(running: Release) -> None:
    """`helm upgrade` with unchanged values after a final failure: refused with what to do, and that works."""
    first = running.job()["metadata"]["name"]
    options = ["--set", f"job.kind={running.kind}", *TWO_NODES]
    running.install(*options)
    running.sandbox.fail(places(running)["0"]["metadata"]["name"], code=70, namespace=running.namespace)
    running.wait_for("Failed")
    done = running.helm("upgrade", running.name, str(CHART), *options)
    assert done.returncode != 0
    rule = r"must change, since that job has failed \(\w+: .+\) and an upgrade that changes nothing starts nothing"
    delete = f"kubectl delete {running.kind.lower()} {first} -n {running.namespace}"
    said = rf"got values that make the job {first}; {rule}; use --set run\.attempt=2 \(.*\), or {delete} first"
    assert re.search(said, done.stderr), done.stderr
    running.install(*options, "--set", "run.attempt=2")
    running.sandbox.wait(lambda: len(places(running)) == 2, "the next attempt runs")
    assert running.job()["metadata"]["name"] != first
