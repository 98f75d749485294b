"""The local control plane does what the other end-to-end tests rely on."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox import Sandbox, SandboxError
from tests.sandbox.process import find
from tests.waiting import PATIENCE

pytestmark = pytest.mark.e2e

UP = [sys.executable, "-m", "tests.sandbox", "up", "--nodes", "2", "--dir"]


def replica(count: int) -> dict[str, Any]:
    container = {
        "name": "pytorch",
        "image": "example.com/nemo:24.07",
        "resources": {"limits": {"nvidia.com/gpu": 8}},
    }
    spec = {"containers": [container]}
    return {"replicas": count, "restartPolicy": "Never", "template": {"spec": spec}}


def job(workers: int) -> dict[str, Any]:
    replicas = {"Master": replica(1), "Worker": replica(workers)}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "raw"},
        "spec": {"nprocPerNode": "8", "pytorchReplicaSpecs": replicas},
    }


def condition(sandbox: Sandbox, kind: str, namespace: str) -> bool:
    found = sandbox.get("pytorchjob", "raw", namespace=namespace)
    conditions = found.get("status", {}).get("conditions", [])
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def test_nodes_are_ready_and_have_gpus(sandbox: Sandbox) -> None:
    found = sandbox.get("nodes")["items"]
    assert len(found) == 16
    assert {node["status"]["allocatable"]["nvidia.com/gpu"] for node in found} == {"8"}


def test_a_job_runs_until_its_pods_complete(sandbox: Sandbox, namespace: str) -> None:
    sandbox.apply([job(workers=1)], namespace)
    sandbox.wait_for_phase("Running", 2, namespace=namespace)
    sandbox.wait(lambda: condition(sandbox, "Running", namespace), "job Running")
    nodes = {pod["spec"]["nodeName"] for pod in sandbox.pods(namespace=namespace)}
    assert len(nodes) == 2, "eight GPUs each: two pods never share a node"
    sandbox.complete("--all", namespace=namespace)
    sandbox.wait(lambda: condition(sandbox, "Succeeded", namespace), "job Succeeded")


def test_a_job_fails_with_the_exit_code_of_its_pod(sandbox: Sandbox, namespace: str) -> None:
    sandbox.apply([job(workers=1)], namespace)
    sandbox.wait_for_phase("Running", 2, namespace=namespace)
    sandbox.fail("raw-worker-0", code=137, namespace=namespace)
    sandbox.wait(lambda: condition(sandbox, "Failed", namespace), "job Failed")
    (pod,) = sandbox.pods("training.kubeflow.org/replica-type=worker", namespace)
    (status,) = pod["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 137


def test_a_job_larger_than_the_cluster_stays_pending(sandbox: Sandbox, namespace: str) -> None:
    sandbox.apply([job(workers=16)], namespace)
    sandbox.wait_for_phase("Running", 16, namespace=namespace)
    sandbox.wait_for_phase("Pending", 1, namespace=namespace)


def test_the_real_webhook_refuses_zero_workers(sandbox: Sandbox, namespace: str) -> None:
    with pytest.raises(SandboxError, match=r"Worker\]\.replicas: Forbidden: must be at least 1"):
        sandbox.apply([job(workers=0)], namespace)


def test_a_held_pod_stays_pending_until_released(sandbox: Sandbox, namespace: str) -> None:
    held = job(workers=1)
    template = held["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    template["metadata"] = {"annotations": {"neva.test/hold": "true"}}
    sandbox.apply([held], namespace)
    sandbox.wait_for_phase("Running", 1, namespace=namespace)
    sandbox.wait_for_phase("Pending", 1, namespace=namespace)
    sandbox.release("raw-worker-0", namespace=namespace)
    sandbox.wait_for_phase("Running", 2, namespace=namespace)


def test_logs_are_what_the_test_writes(sandbox: Sandbox, namespace: str) -> None:
    sandbox.apply([job(workers=1)], namespace)
    sandbox.wait_for_phase("Running", 2, namespace=namespace)
    sandbox.write_logs("first\nsecond", "raw-master-0", namespace=namespace)
    sandbox.write_logs("third", "raw-master-0", namespace=namespace)
    shown = sandbox.kubectl("logs", "-n", namespace, "raw-master-0")
    assert shown.splitlines() == ["first", "second", "third"]


def test_everything_listens_on_loopback_only(sandbox: Sandbox) -> None:
    """Look up the sockets of our processes in the kernel's table of listeners."""
    inodes = set()
    for process in sandbox.processes():
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.add(fields[1].split(":")[0])
    assert addresses == {"0100007F"}


def test_down_leaves_no_process_and_may_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    box = Sandbox.up(folder=folder, nodes=2)
    assert len(box.processes()) >= 6
    assert len(box.down()) >= 6
    assert find(folder) == []
    assert not folder.exists()
    assert box.down() == []


@pytest.mark.parametrize("seconds", [0.5, 2, 4, 6])
def test_an_interrupt_during_up_leaves_no_process(tmp_path: Path, seconds: float) -> None:
    folder = tmp_path / "box"
    with subprocess.Popen([*UP, str(folder)], stderr=subprocess.PIPE) as child:
        time.sleep(seconds)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=PATIENCE)
    assert child.returncode != 0
    assert find(folder) == []


def test_a_folder_that_is_no_sandbox_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work", encoding="utf-8")
    with pytest.raises(SandboxError, match="not empty and no sandbox"):
        Sandbox.up(folder=tmp_path)
    assert precious.exists()
