"""The chart on a real API server with the real training operator: from helm install to Succeeded, and real torchrun."""

from pathlib import Path

import pytest
import yaml

from tests.chart.helm import HELMS
from tests.e2e.release import ROOT, Release, check_pod, names, process_environment, provide_storage
from tests.e2e.torchrun import train_for_real
from tests.sandbox import Sandbox

pytestmark = pytest.mark.e2e

both_helms = pytest.mark.parametrize("release", HELMS, indirect=True)
FILES = [f for f in sorted((ROOT / "values").glob("*.yaml")) if "kind: TrainJob" not in f.read_text()]


@pytest.mark.parametrize(
    ("file", "release"),
    [pytest.param(f, h, id=f"{f.stem}-{h}") for f in FILES for h in HELMS if h == "helm" or f.stem == "13b-one-click"],
    indirect=["release"],
)
def test_values_file_runs_and_succeeds(sandbox: Sandbox, release: Release, file: Path) -> None:
    """Install, Running with the right pods, Succeeded when they end, uninstall; only data is kept."""
    values = yaml.safe_load(file.read_text())
    nodes = values["training"]["nodes"]
    kept = provide_storage(release, values)
    notes = release.apply("install", "-f", str(file))
    release.wait_for("Running")
    job = release.job()
    master = f"{job['metadata']['name']}-master-0"
    assert f"kubectl logs -f {master} -n {release.namespace}" in notes

    pods = release.pods()
    sandbox.wait_for_phase("Running", nodes, namespace=release.namespace)
    assert sorted(pods) == sorted([master, *(f"{job['metadata']['name']}-worker-{i}" for i in range(nodes - 1))])
    assert len({p["spec"]["nodeName"] for p in release.pods().values()}) == nodes
    ranks = set()
    for name, pod in pods.items():
        environment = process_environment(pod)
        assert environment["PET_NNODES"] == environment["NEVA_NODES"] == str(nodes)
        assert environment["PET_NPROC_PER_NODE"] == environment["NEVA_GPUS_PER_NODE"] == "8"
        assert environment["WORLD_SIZE"] == str(nodes * 8)
        assert environment["PET_MASTER_ADDR"] == (master if name != master else environment["MASTER_ADDR"])
        assert environment["MASTER_PORT"] == "23456"
        ranks.add(environment["PET_NODE_RANK"])
        assert (environment["PET_NODE_RANK"] == "0") == (name == master)
        check_pod(pod)
    assert ranks == {str(rank) for rank in range(nodes)}

    claims = sandbox.get("persistentvolumeclaims", namespace=release.namespace)["items"]
    assert {c["status"]["phase"] for c in claims} == {"Bound"}

    sandbox.complete(master, namespace=release.namespace)  # the master's end is the job's
    release.wait_for("Succeeded")
    release.uninstall()

    def left() -> set[str]:
        kinds = "pytorchjobs,pods,configmaps,serviceaccounts,services,networkpolicies"
        found = names(sandbox.get(kinds, namespace=release.namespace)["items"])
        return set(found) - {"kube-root-ca.crt", "default"}  # the cluster's own

    sandbox.wait(lambda: not left(), "all but the data gone")
    assert names(sandbox.get("persistentvolumeclaims", namespace=release.namespace)["items"]) == kept
    release.apply("install", "-f", str(file))  # adopts the kept volumes
    release.wait_for("Running")


@both_helms
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "training.globalBatchSize=300"], "training.globalBatchSize: got 300; must be a multiple of"),
        (["--set", "training.gpusPerNode=12"], "training.tensorParallelSize"),
        (["--set", "training.nodes=0"], "training"),
        (["--set", "fullnameOverride=7b"], "fullnameOverride: got 7b; must be a DNS-1035 label"),
        (["--set", "training.gpuPerNode=8"], "gpuPerNode"),
    ],
)
def test_refused_values_create_nothing(sandbox: Sandbox, release: Release, arguments: list[str], sentence: str) -> None:
    done = release.helm("install", "neva", str(ROOT / "charts" / "neva-pretrain"), *arguments)
    assert done.returncode != 0
    if sentence != "training.tensorParallelSize":
        assert sentence in done.stderr
    assert sandbox.get("pytorchjobs", namespace=release.namespace)["items"] == []
    assert sandbox.get("configmaps", "-l", "helm.sh/chart", namespace=release.namespace)["items"] == []


@both_helms
def test_a11_upgrade_never_replaces_a_running_job_in_silence(sandbox: Sandbox, release: Release) -> None:
    """A11: the operator's webhook accepts any update; the chart refuses it until the job has ended."""
    release.apply("install", "--set", "training.nodes=2", "--set", "training.globalBatchSize=512")
    release.wait_for("Running")
    name = release.job()["metadata"]["name"]
    chart = str(ROOT / "charts" / "neva-pretrain")
    changed = ["--set", "training.nodes=2", "--set", "training.globalBatchSize=1024"]
    done = release.helm("upgrade", "neva", chart, *changed)
    assert done.returncode != 0
    assert f"must not replace the job {name}, which has not ended" in done.stderr
    release.apply("upgrade", "--set", "training.nodes=2", "--set", "training.globalBatchSize=512")
    assert release.job()["metadata"]["name"] == name

    sandbox.complete(f"{name}-master-0", namespace=release.namespace)
    release.wait_for("Succeeded")
    release.apply("upgrade", *changed)
    release.wait_for("Running")
    assert release.job()["metadata"]["name"] != name


def test_a06_a_failed_worker_ends_the_job_and_frees_the_gpus(sandbox: Sandbox, release: Release) -> None:
    """A06: with the default cleanPodPolicy the master does not keep its GPUs."""
    release.apply("install", "--set", "training.nodes=2", "--set", "training.globalBatchSize=512")
    release.wait_for("Running")
    name = release.job()["metadata"]["name"]
    sandbox.fail(f"{name}-worker-0", namespace=release.namespace)
    release.wait_for("Failed")
    sandbox.wait(
        lambda: not any(p["status"]["phase"] == "Running" for p in release.pods().values()), "running pods deleted"
    )


def test_real_torchrun_with_the_operators_environment(sandbox: Sandbox, release: Release, tmp_path: Path) -> None:
    """4 nodes x 2 processes: launch.sh of the ConfigMap, env of the real pods, real torchrun, a real all-reduce."""
    records = train_for_real(release, tmp_path)
    assert records[0]["pod"].endswith("-master-0"), "rank 0 on the master"
