"""The chart under Kueue, topology-aware scheduling and a gang scheduler, all real; nodes and GPUs are simulated."""

from functools import partial

import pytest

from tests.e2e.queues import queue, quota
from tests.e2e.release import Release
from tests.sandbox import Sandbox
from tests.tools import ensure

pytestmark = pytest.mark.e2e

KUEUE = ["--set", "scheduling.queue.name=gpus"]
RACK = [*KUEUE, "--set-string", r"scheduling.queue.topology.required=neva\.test/rack"]


def is_placed(release: Release) -> bool:
    return len(release.placed()) == 8


def nodes(count: int) -> list[str]:
    """Options of a job of that size."""
    batch = 256 * count
    return ["--set", f"training.nodes={count}", "--set", f"training.globalBatchSize={batch}"]


@pytest.fixture
def releases(full: Sandbox, room: str) -> tuple[Release, Release]:
    """Two releases side by side, of Helm 3 and of Helm 4; they share no volume."""
    ensure("helm4")
    return Release(full, room, "first"), Release(full, room, "second", client="helm4")


def test_kueue_runs_one_of_two_jobs_and_then_the_other(full: Sandbox, releases: tuple[Release, Release]) -> None:
    """A quota of 8 nodes, two jobs of 8: the second takes no GPU until the first has ended."""
    first, second = releases
    full.create(queue(first.namespace, quota(8)))
    first.apply("install", *nodes(8), *KUEUE)
    first.wait_for("Running")
    full.wait(lambda: len(first.placed()) == 8, "first job placed")
    second.apply("install", *nodes(8), *KUEUE)
    full.wait(
        lambda: len(full.get("workloads.kueue.x-k8s.io", namespace=second.namespace)["items"]) == 2, "second queued"
    )
    assert second.job()["spec"]["runPolicy"]["suspend"] is True
    assert not second.pods()
    full.complete(f"{first.job()['metadata']['name']}-master-0", namespace=first.namespace)
    first.wait_for("Succeeded")
    second.wait_for("Running")
    full.wait(lambda: len(second.placed()) == 8, "second job placed")


def test_kueue_keeps_master_and_workers_in_one_rack(full: Sandbox, releases: tuple[Release, Release]) -> None:
    """Each rack has 8 nodes; without the group the master alone could lie in the other one."""
    first, _ = releases
    full.create(queue(first.namespace, quota(16)))
    for release in releases:
        release.apply("install", *nodes(8), *RACK)
        release.wait_for("Running")
        full.wait(partial(is_placed, release), "job placed")
    racks = []
    for release in releases:
        label = "neva.test/rack"
        racks.append({full.get("node", n)["metadata"]["labels"][label] for n in release.placed()})
    assert all(len(one) == 1 for one in racks)
    assert racks[0] != racks[1]


def test_kueue_refuses_a_job_that_no_rack_can_hold(full: Sandbox, releases: tuple[Release, Release]) -> None:
    first, _ = releases
    full.create(queue(first.namespace, quota(16)))
    first.apply("install", *nodes(9), *RACK)
    full.wait(lambda: full.get("workloads.kueue.x-k8s.io", namespace=first.namespace)["items"], "queued")

    def reasons() -> str:
        (workload,) = full.get("workloads.kueue.x-k8s.io", namespace=first.namespace)["items"]
        return " ".join(c["message"] for c in workload.get("status", {}).get("conditions", []))

    full.wait(lambda: "topology" in reasons(), "Kueue has said why")
    assert not first.pods()


def test_a14_of_two_gangs_one_runs_whole_and_none_is_half_placed(
    full: Sandbox, releases: tuple[Release, Release]
) -> None:
    """12 + 12 nodes on 16: without gangs each could hold a part of the cluster and wait for ever."""
    first, second = releases
    for release in releases:
        release.apply("install", *nodes(12), "--set", "scheduling.schedulingPolicy.minAvailable=12")
    full.wait(lambda: 12 in (len(first.placed()), len(second.placed())), "one runs")
    winner, other = sorted(releases, key=lambda release: -len(release.placed()))
    full.wait(lambda: len(other.pods()) == 12, "the other one's pods")
    full.wait(lambda: "FailedScheduling" in full.kubectl("get", "events", "-n", other.namespace), "tried")
    assert not other.placed()
    group = full.get("podgroup", other.job()["metadata"]["name"], namespace=other.namespace)
    assert group["spec"]["minMember"] == 12
    full.complete(f"{winner.job()['metadata']['name']}-master-0", namespace=winner.namespace)
    winner.wait_for("Succeeded")
    full.wait(lambda: len(other.placed()) == 12, "the other one runs whole")
