"""Prepare, preflight and helm test on a real API server: what is created, in which order, with which mounts."""

from typing import Any

import pytest

from tests.e2e.release import ROOT, Release, names, process_environment
from tests.sandbox import Sandbox
from tests.waiting import PATIENCE

pytestmark = pytest.mark.e2e

TWO_NODES = ["--set", "training.nodes=2", "--set", "training.globalBatchSize=512"]
PREPARE = ["--set", "prepare.enabled=true", "--set", "prepare.llm.source=/models/preset/Llama-2-7b-chat-hf"]
COMPLETE = r"podAnnotations.neva\.test/complete=true"  # the simulated kubelet ends such a pod with success


def the_job(release: Release) -> dict[str, Any]:
    """The one batch Job of the release."""
    (found,) = release.sandbox.get("jobs", namespace=release.namespace)["items"]
    return dict(found)


def ended(release: Release, kind: str) -> bool:
    """Whether the batch Job has that condition."""
    conditions = the_job(release).get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def mounts(pod: dict[str, Any]) -> dict[str, bool]:
    """Mount paths of the pod's container, and whether they are read-only."""
    (container,) = pod["spec"]["containers"]
    return {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}


def test_prepare_completes_and_the_same_values_then_train(sandbox: Sandbox, release: Release) -> None:
    notes = release.apply("install", *TWO_NODES, *PREPARE, "--set-string", COMPLETE)
    sandbox.wait(lambda: ended(release, "Complete"), "prepare complete")
    job = the_job(release)
    assert f"kubectl logs -f job/{job['metadata']['name']} -n {release.namespace}" in notes
    (pod,) = sandbox.pods(f"job-name={job['metadata']['name']}", release.namespace)
    assert mounts(pod)["/datasets/preset"] is mounts(pod)["/models/preset"] is False
    assert "nvidia.com/gpu" not in pod["spec"]["containers"][0]["resources"]["limits"]
    assert not sandbox.get("pytorchjobs", namespace=release.namespace)["items"]
    claims = sandbox.get("persistentvolumeclaims", namespace=release.namespace)["items"]
    before = {c["metadata"]["name"]: c["spec"]["volumeName"] for c in claims}

    release.apply("upgrade", *TWO_NODES)
    release.wait_for("Running")
    assert not sandbox.get("jobs", namespace=release.namespace)["items"]
    claims = sandbox.get("persistentvolumeclaims", namespace=release.namespace)["items"]
    assert {c["metadata"]["name"]: c["spec"]["volumeName"] for c in claims} == before
    for pod in release.pods().values():
        init = [c["name"] for c in pod["spec"].get("initContainers", [])]
        level = process_environment(pod)["NEVA_PREFLIGHT"]
        assert mounts(pod)["/datasets/preset"] is mounts(pod)["/models/preset"] is True
        if "-master-" in pod["metadata"]["name"]:
            assert (init, level) == ([], "full")
        else:  # the operator's own
            assert (init, level) == (["init-pytorch"], "quick")


def test_an_upgrade_does_not_cut_a_running_prepare_off(sandbox: Sandbox, release: Release) -> None:
    release.apply("install", *PREPARE)
    name = the_job(release)["metadata"]["name"]
    sandbox.wait(lambda: the_job(release).get("status", {}).get("active"), "prepare runs")
    done = release.helm("upgrade", "neva", str(ROOT / "charts" / "neva-pretrain"), "--set", "prepare.enabled=false")
    assert done.returncode != 0
    assert f"must not replace the job {name}, which has not ended; use kubectl delete job {name}" in done.stderr
    assert names([the_job(release)]) == [name]


@pytest.mark.parametrize("mode", [[], PREPARE])
def test_helm_test_runs_on_the_mounts_of_training(sandbox: Sandbox, release: Release, mode: list[str]) -> None:
    release.apply("install", *mode, "--set-string", COMPLETE)
    done = release.helm("test", "neva")
    assert done.returncode == 0, done.stderr
    assert "Succeeded" in done.stdout
    (pod,) = [p for p in sandbox.pods("helm.sh/chart", release.namespace) if p["metadata"]["name"].endswith("-test")]
    assert mounts(pod)["/datasets/preset"] is (not mode)
    assert "nvidia.com/gpu" not in pod["spec"]["containers"][0]["resources"]["limits"]


def test_a_failed_helm_test_fails(sandbox: Sandbox, release: Release) -> None:
    release.apply("install", "--set-string", r"podAnnotations.neva\.test/fail=true")
    done = release.helm("test", "neva", "--timeout", f"{PATIENCE:.0f}s")
    assert done.returncode != 0
