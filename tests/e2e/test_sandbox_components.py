"""The optional components of the local control plane: Kueue, gang scheduling, Trainer."""

from typing import Any

import pytest

from tests.e2e.queues import queue
from tests.e2e.release import NO_RUNTIME, has_condition
from tests.sandbox import Sandbox, SandboxError

pytestmark = pytest.mark.e2e

GPUS = {"limits": {"nvidia.com/gpu": 8}}


def replica(count: int, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    spec = {"containers": [{"name": "pytorch", "image": "example.com/nemo:24.07", "resources": GPUS}]}
    template = {"metadata": {"annotations": annotations or {}}, "spec": spec}
    return {"replicas": count, "restartPolicy": "Never", "template": template}


def job(name: str, nodes: int, *, queued: bool = False, rack: bool = False) -> dict[str, Any]:
    notes = {"kueue.x-k8s.io/podset-required-topology": "neva.test/rack"} if rack else {}
    replicas = {"Master": replica(1, notes)}
    if nodes > 1:
        replicas["Worker"] = replica(nodes - 1, notes)
    labels = {"kueue.x-k8s.io/queue-name": "gpus"} if queued else {}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {"nprocPerNode": "8", "pytorchReplicaSpecs": replicas},
    }


def test_kueue_admits_within_quota_and_holds_the_rest(full: Sandbox, room: str) -> None:
    full.create(queue(room, {"nvidia.com/gpu": 32}))
    full.apply([job("first", 3, queued=True)], room)
    full.wait_for_phase("Running", 3, namespace=room)
    full.apply([job("second", 2, queued=True)], room)
    full.wait(
        lambda: len(full.get("workloads.kueue.x-k8s.io", namespace=room)["items"]) == 2,
        "second workload queued",
    )
    assert full.get("pytorchjob", "second", namespace=room)["spec"]["runPolicy"]["suspend"]
    assert len(full.pods(namespace=room)) == 3
    full.complete("--all", namespace=room)
    full.wait_for_phase("Running", 2, "training.kubeflow.org/job-name=second", room)


def test_kueue_keeps_the_workers_in_one_rack(full: Sandbox, room: str) -> None:
    full.create(queue(room, {"nvidia.com/gpu": 128}))
    full.apply([job("tight", 7, queued=True, rack=True)], room)
    full.wait_for_phase("Running", 7, namespace=room)
    workers = full.pods("training.kubeflow.org/replica-type=worker", room)
    racks = {full.get("node", pod["spec"]["nodeName"])["metadata"]["labels"]["neva.test/rack"] for pod in workers}
    assert len(racks) == 1


def test_a_gang_that_does_not_fit_takes_no_gpu(full: Sandbox, room: str) -> None:
    """Without gang scheduling sixteen of the seventeen pods would run and wait for the last."""
    full.apply([job("large", 17)], room)
    full.wait_for_phase("Pending", 17, namespace=room)
    group = full.get("podgroup", "large", namespace=room)
    assert group["spec"]["minMember"] == 17
    full.wait(lambda: "FailedScheduling" in full.kubectl("get", "events", "-n", room), "scheduler has tried")
    assert not [pod for pod in full.pods(namespace=room) if pod["spec"].get("nodeName")]


def test_a_gang_that_fits_runs_whole(full: Sandbox, room: str) -> None:
    full.apply([job("whole", 16)], room)
    full.wait_for_phase("Running", 16, namespace=room)
    assert {pod["spec"]["schedulerName"] for pod in full.pods(namespace=room)} == {"scheduler-plugins-scheduler"}


def test_a_trainjob_runs_and_completes(full: Sandbox, room: str) -> None:
    container = {"name": "node", "image": "example.com/nemo:24.07", "resources": GPUS}
    replicated = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"template": {"spec": {"containers": [container]}}},
        },
    }
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": "torch"},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"replicatedJobs": [replicated]}},
        },
    }
    train_job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "neva"},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "torch"},
            "trainer": {"numNodes": 2, "numProcPerNode": 8},
        },
    }
    with pytest.raises(SandboxError, match=NO_RUNTIME):
        full.apply([train_job], room)
    full.apply([runtime], room)
    full.apply([train_job], room)
    full.wait_for_phase("Running", 2, namespace=room)
    full.complete("--all", namespace=room)
    full.wait(lambda: has_condition(full.get("trainjob", "neva", namespace=room), "Complete"), "TrainJob complete")
