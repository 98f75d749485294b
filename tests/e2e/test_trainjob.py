"""The chart as a TrainJob: real Kubeflow Trainer and JobSet with their webhooks, real Kueue, real gang scheduler."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.queues import queue, quota
from tests.e2e.release import CHART, ROOT, Release, check_pod, names, process_environment
from tests.e2e.torchrun import train_for_real
from tests.sandbox import Sandbox
from tests.sandbox.operators.gang import SCHEDULER

pytestmark = pytest.mark.e2e

FILE = ROOT / "values" / "trainjob.yaml"
TRAINJOB = ["--set", "job.kind=TrainJob"]
LABEL = "jobset.sigs.k8s.io/jobset-name"


def nodes(count: int) -> list[str]:
    """Options of a TrainJob of that size."""
    return [*TRAINJOB, "--set", f"training.nodes={count}", "--set", f"training.globalBatchSize={256 * count}"]


@pytest.fixture
def releases(full: Sandbox, room: str) -> tuple[Release, Release]:
    """Two releases side by side, none installed."""
    return Release(full, room, "first", "TrainJob"), Release(full, room, "second", "TrainJob")


@pytest.fixture
def release(releases: tuple[Release, Release]) -> Release:
    return releases[0]


def is_placed(release: Release, count: int) -> bool:
    return len(release.placed()) == count


def complete(release: Release) -> None:
    """Let all pods of the release's job succeed."""
    release.sandbox.complete("-l", f"{LABEL}={release.job()['metadata']['name']}", namespace=release.namespace)
    release.wait_for("Complete")


def test_values_file_runs_and_completes(full: Sandbox, release: Release) -> None:
    """Install, Running with the right pods, Complete when they end, uninstall; only data is kept."""
    count = yaml.safe_load(FILE.read_text())["training"]["nodes"]
    said = release.install("-f", str(FILE))
    full.wait_for_phase("Running", count, namespace=release.namespace)
    name, pods = release.job()["metadata"]["name"], release.pods()
    assert f"kubectl get trainjob {name}" in said
    first = f"{LABEL}={name},batch.kubernetes.io/job-completion-index=0"
    assert f"kubectl logs -f -l {first} -c node --tail=-1 -n {release.namespace}" in said
    (master,) = full.pods(first, release.namespace)

    assert len(pods) == count == len({pod["spec"]["nodeName"] for pod in pods.values()})
    ranks = set()
    for pod in pods.values():
        environment = process_environment(pod)
        assert environment["PET_NNODES"] == environment["NEVA_NODES"] == str(count)
        assert environment["PET_NPROC_PER_NODE"] == environment["NEVA_GPUS_PER_NODE"] == "8"
        assert environment["PET_MASTER_ADDR"] == f"{name}-node-0-0.{name}"
        assert environment["PET_MASTER_PORT"] == "29500"
        assert environment["NEVA_MASTER_PORT"] == "23456"
        assert environment["NCCL_IB_TIMEOUT"] == "22"
        ranks.add(environment["PET_NODE_RANK"])
        check_pod(pod)
        assert pod["spec"]["restartPolicy"] == "Never"
        assert environment["NEVA_PREFLIGHT"] == "auto"
        assert environment["JOB_COMPLETION_INDEX"] == environment["PET_NODE_RANK"]
    assert ranks == {str(rank) for rank in range(count)}
    assert process_environment(master)["PET_NODE_RANK"] == "0"
    assert (master["spec"]["hostname"], master["spec"]["subdomain"]) == (f"{name}-node-0-0", name)

    service = full.get("service", name, namespace=release.namespace)["spec"]
    assert service["publishNotReadyAddresses"], "the master's name resolves while its preflight runs"

    complete(release)
    release.uninstall()

    def left() -> set[str]:
        kinds = "trainjobs,trainingruntimes,jobsets,jobs,pods,configmaps,serviceaccounts,services"
        return set(names(full.get(kinds, namespace=release.namespace)["items"])) - {"kube-root-ca.crt", "default"}

    full.wait(lambda: not left(), "all but the data gone")
    assert len(full.get("persistentvolumeclaims", namespace=release.namespace)["items"]) == 3


def test_a06_a_failed_node_ends_the_job_and_frees_the_gpus(full: Sandbox, release: Release) -> None:
    """A06: no pod is started anew without its peers, and none keeps its GPUs."""
    release.install(*nodes(3))
    full.wait_for_phase("Running", 3, namespace=release.namespace)
    victim = next(name for name in release.pods() if "-node-0-1-" in name)
    full.fail(victim, namespace=release.namespace)
    release.wait_for("Failed")
    full.wait(lambda: all(p["status"]["phase"] == "Failed" for p in release.pods().values()), "running pods deleted")


def test_a11_upgrade_never_replaces_a_running_job_in_silence(full: Sandbox, release: Release) -> None:
    release.install(*nodes(2))
    full.wait_for_phase("Running", 2, namespace=release.namespace)
    name = release.job()["metadata"]["name"]
    changed = [*nodes(2), "--set", "training.seed=7"]
    done = release.helm("upgrade", release.name, str(CHART), *changed)
    assert done.returncode != 0
    assert f"must not replace the job {name}, which has not ended; use kubectl delete trainjob {name}" in done.stderr
    release.apply("upgrade", *nodes(2))
    assert release.job()["metadata"]["name"] == name
    complete(release)
    release.install(*changed)
    assert release.job()["metadata"]["name"] != name


def test_kueue_runs_one_of_two_jobs_and_then_the_other(full: Sandbox, releases: tuple[Release, Release]) -> None:
    """A quota of 8 nodes, two jobs of 8; Kueue alone suspends."""
    first, second = releases
    full.create(queue(first.namespace, quota(8)))
    queued = [*nodes(8), "--set", "scheduling.queue.name=gpus"]
    first.install(*queued)
    full.wait(lambda: len(first.placed()) == 8, "the first runs")
    second.install(*queued)
    workloads = "workloads.kueue.x-k8s.io"
    full.wait(lambda: len(full.get(workloads, namespace=second.namespace)["items"]) == 2, "the second is queued")
    assert second.job()["spec"]["suspend"] is True
    assert not second.pods()
    complete(first)
    full.wait(lambda: len(second.placed()) == 8, "the second runs")


def test_kueue_keeps_all_nodes_of_a_job_in_one_rack(full: Sandbox, releases: tuple[Release, Release]) -> None:
    """Two jobs of 7 nodes in racks of 8: without placement both would lie in both racks."""
    full.create(queue(releases[0].namespace, quota(16)))
    rack = ["--set", "scheduling.queue.name=gpus"]
    rack += ["--set-string", r"scheduling.queue.topology.required=neva\.test/rack"]
    for release in releases:
        release.install(*nodes(7), *rack)
    for release in releases:
        full.wait(partial(is_placed, release, 7), "job placed")
    racks = [
        {full.get("node", node)["metadata"]["labels"]["neva.test/rack"] for node in release.placed()}
        for release in releases
    ]
    assert [len(one) for one in racks] == [1, 1]
    assert racks[0] != racks[1]


def test_a14_of_two_gangs_one_runs_whole_and_none_is_half_placed(
    full: Sandbox, releases: tuple[Release, Release]
) -> None:
    """12 + 12 nodes on 16; Trainer makes the pod groups, the chart names the scheduler."""
    gang = ["--set", "scheduling.schedulingPolicy.minAvailable=12"]
    gang += ["--set", f"scheduling.schedulerName={SCHEDULER}"]
    for release in releases:
        release.install(*nodes(12), *gang)
    full.wait(lambda: 12 in [len(release.placed()) for release in releases], "one runs")
    winner, other = sorted(releases, key=lambda release: len(release.placed()), reverse=True)
    full.wait(lambda: len(other.pods()) == 12, "the other one's pods")
    full.wait(lambda: "FailedScheduling" in full.kubectl("get", "events", "-n", other.namespace), "tried")
    assert len(other.placed()) == 0
    group = full.get("podgroup", other.job()["metadata"]["name"], namespace=other.namespace)
    assert group["spec"]["minMember"] == 12
    complete(winner)
    full.wait(lambda: len(other.placed()) == 12, "the other one runs whole")


def test_real_torchrun_with_trainers_environment(release: Release, tmp_path: Path) -> None:
    """Trainer's port gives way to rendezvous.port, its ranks are torchrun's."""
    records = train_for_real(release, tmp_path)
    assert "-node-0-0-" in records[0]["pod"], "rank 0 on the first node"


def test_the_monitor_finds_a_trainjob(full: Sandbox, release: Release) -> None:
    release.install(*nodes(2))
    full.wait_for_phase("Running", 2, namespace=release.namespace)
    master = next(name for name in release.pods() if "-node-0-0-" in name)
    bar = "Epoch 0: :  50%|##| 1000/2170 [1:00:00<1:00:00, reduced_train_loss=2.50, global_step=999.0, "
    bar += "consumed_samples=512000.0, train_step_timing in s=3.60]\n"
    full.write_logs(bar, master, namespace=release.namespace)
    command = [str(Path(sys.executable).with_name("neva-monitor")), release.name, "-n", release.namespace]
    done = subprocess.run([*command, "--once", "-o", "json"], env=full.env, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    assert (report["step"], report["maxSteps"], report["settings"]["gpus"]) == (1000, 2170, 16), done
