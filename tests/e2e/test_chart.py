"""The chart on a real API server with the real training operator: from helm install to Succeeded, and real torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.release import ROOT, Release, names, process_environment, provide_storage
from tests.sandbox import Sandbox

pytestmark = pytest.mark.e2e

FILES = sorted((ROOT / "values").glob("*.yaml"))


@pytest.fixture
def release(sandbox: Sandbox, namespace: str) -> Release:
    return Release(sandbox, namespace)


@pytest.fixture(autouse=True)
def volumes_gone(sandbox: Sandbox, namespace: str) -> Any:
    """Kept volumes are cluster-wide: the next test starts without them."""
    yield
    for volume in sandbox.get("persistentvolumes")["items"]:
        if volume["spec"].get("claimRef", {}).get("namespace") == namespace:
            sandbox.kubectl("delete", "pv", volume["metadata"]["name"], "--wait=false")


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
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
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        mounts = {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}
        wanted = {"/etc/neva": True, "/datasets/preset": True, "/models/preset": True, "/results": False}
        assert {path: mounts[path] for path in wanted} == wanted
        assert {"/dev/shm", "/scratch"} <= set(mounts)
        assert not any("serviceaccount" in path for path in mounts)
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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port if port < 32768 else 20000 + port % 10000


def test_real_torchrun_with_the_operators_environment(sandbox: Sandbox, release: Release, tmp_path: Path) -> None:
    """4 nodes x 2 processes: launch.sh of the ConfigMap, env of the real pods, real torchrun, a real all-reduce.

    Not there on one machine without GPUs: cluster DNS (the master is 127.0.0.1), nvidia-smi and NeMo's script (named
    stand-ins), and the mounts (folders of the test).
    """
    port = free_port()
    plan = {"nodes": 4, "gpusPerNode": 2, "tensorParallelSize": 2, "microBatchSize": 2, "globalBatchSize": 8}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"training": plan, "rendezvous": {"port": port}, "fabric": "tcp"}))
    release.apply("install", "-f", str(values))
    release.wait_for("Running")
    pods = release.pods()
    (volume,) = (v for v in next(iter(pods.values()))["spec"]["volumes"] if v["name"] == "config")
    data = sandbox.get("configmap", volume["configMap"]["name"], namespace=release.namespace)["data"]
    config = tmp_path / "etc"
    config.mkdir()
    for name, text in data.items():
        (config / name).write_text(text)
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    smi = stand_ins / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'GPU 0: stand-in\\nGPU 1: stand-in\\n'\n")
    smi.chmod(0o755)
    output, results = tmp_path / "output", tmp_path / "results"
    output.mkdir()

    running = []
    for name, pod in pods.items():
        here = tmp_path / name
        moved = {
            "NEVA_CONFIG_DIR": str(config),
            "NEVA_ENTRYPOINT": str(Path(__file__).with_name("stand_in_training.py")),
            "NEVA_RESULTS_DIR": str(results),
            "NEVA_WORK_DIR": str(here / "work"),
            "TMPDIR": str(here / "tmp"),
            "HF_HOME": str(here / "hf"),
            "MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "STAND_IN_OUTPUT": str(output),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{stand_ins}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        environment = process_environment(pod) | moved
        command = ["bash", str(config / "launch.sh")]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said

    records = sorted((json.loads(f.read_text()) for f in output.glob("*.json")), key=lambda r: r["rank"])
    assert [r["rank"] for r in records] == list(range(8)), "every global rank once"
    assert {(r["world"], r["sum"]) for r in records} == {(8, 28)}
    assert records[0]["pod"].endswith("-master-0"), "rank 0 on the master"
    for record in records:
        assert record["local"] == record["rank"] % 2
        assert f"--config-path={config}" in record["arguments"]
        assert Path(record["folder"]).name == "work"
    run = json.loads((results / "run.json").read_text())
    assert run["training"]["nodes"] == 4
    assert sorted(f.name for f in (results / "logs").iterdir()) == [f"node-0000{i}.log" for i in range(4)]
