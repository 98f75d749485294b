"""A TrainJob under runPolicy, names, hostNetwork and a change of kind: real Trainer, JobSet and Job controller."""

import json
from pathlib import Path

import pytest

from tests.chart import helm
from tests.e2e.release import CHART, Release
from tests.sandbox import Sandbox, SandboxError

pytestmark = pytest.mark.e2e


def nodes(count: int, kind: str = "TrainJob") -> list[str]:
    """Options of a job of that size and kind."""
    size = [f"training.nodes={count}", f"training.globalBatchSize={256 * count}"]
    return [word for value in (f"job.kind={kind}", *size) for word in ("--set", value)]


@pytest.fixture
def release(full: Sandbox, room: str, request: pytest.FixtureRequest) -> Release:
    return Release(full, room, getattr(request, "param", "first"), "TrainJob")


def test_a_suspended_job_holds_no_node_and_starts_when_it_is_resumed(full: Sandbox, release: Release) -> None:
    release.install(*nodes(2), "--set", "runPolicy.suspend=true")
    release.wait_for("Suspended")
    name = release.job()["metadata"]["name"]
    full.wait(lambda: full.get("jobs", namespace=release.namespace)["items"], "the Job of the nodes")
    assert not release.pods()
    release.apply("upgrade", *nodes(2))
    full.wait_for_phase("Running", 2, namespace=release.namespace)
    assert release.job()["metadata"]["name"] == name, "resumed, not replaced"


def test_a_deadline_ends_the_job_and_frees_the_gpus(full: Sandbox, release: Release) -> None:
    release.install(*nodes(2), "--set", "runPolicy.activeDeadlineSeconds=5")
    release.wait_for("Failed")
    full.wait(
        lambda: not any(p["status"]["phase"] in ("Running", "Pending") for p in release.pods().values()), "no pod runs"
    )


def test_a11_another_kind_never_replaces_a_running_job_in_silence(full: Sandbox, release: Release) -> None:
    """A TrainJob in place of a PyTorchJob is another job on the same results."""
    before = Release(full, release.namespace, release.name, "PyTorchJob")
    before.install(*nodes(2, "PyTorchJob"))
    before.wait_for("Running")
    name = before.job()["metadata"]["name"]
    done = release.helm("upgrade", release.name, str(CHART), *nodes(2))
    assert done.returncode != 0
    assert f"must not replace the job {name}, which has not ended; use kubectl delete pytorchjob {name}" in done.stderr
    full.complete("--all", namespace=release.namespace)
    before.wait_for("Succeeded")
    release.install(*nodes(2))
    selector = f"jobset.sigs.k8s.io/jobset-name={release.job()['metadata']['name']}"
    full.wait_for_phase("Running", 2, selector, release.namespace)
    done = release.helm("upgrade", release.name, str(CHART), *nodes(2, "PyTorchJob"))
    assert "use kubectl delete trainjob" in done.stderr


@pytest.mark.parametrize("release", ["r" * 17], indirect=True)
def test_a02_the_longest_name_is_the_longest_that_jobset_accepts(full: Sandbox, release: Release) -> None:
    longest = [*nodes(16384), "--set", f"run.id={'i' * 17}", "--set", "runPolicy.suspend=true"]
    release.install(*longest)
    name = release.job()["metadata"]["name"]
    full.wait(lambda: full.get("jobsets", namespace=release.namespace)["items"], "JobSet accepts the name")
    jobset = full.get("jobset", name, namespace=release.namespace)
    jobset["metadata"] = {"name": f"{name}x", "namespace": release.namespace}
    with pytest.raises(SandboxError, match="will exceed 63 characters"):
        full.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(jobset))
    release.uninstall()


def test_a_rendered_file_can_be_applied_without_helm(full: Sandbox, release: Release) -> None:
    """As GitOps tools do; kubectl keeps the order of the file."""
    text = helm.render_text(None, "--no-hooks", *nodes(2), release=release.name, namespace=release.namespace)
    full.kubectl("apply", "-n", release.namespace, "-f", "-", stdin=text)
    full.wait_for_phase("Running", 2, namespace=release.namespace)


def test_a15_on_the_nodes_network_trainers_port_is_the_nodes(full: Sandbox, release: Release, tmp_path: Path) -> None:
    """Trainer names its port on the container, which claims it of the node: a second job's pod goes to another node."""
    values = {
        "job": {"kind": "TrainJob"},
        "training": {"gpusPerNode": 4},
        "resources": {"cpu": "8", "memory": "80Gi"},
        "hostNetwork": True,
        "scheduling": {"nodeSelector": {"kubernetes.io/hostname": "gpu-0000"}},
    }
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    options = ["-f", str(file)]
    release.install(*options, "--set", "rendezvous.port=24001")
    full.wait_for_phase("Running", 1, namespace=release.namespace)
    (pod,) = release.pods().values()
    (port,) = (p for c in pod["spec"]["containers"] for p in c["ports"] if p.get("name") != "restart")
    assert (port["containerPort"], port["hostPort"]) == (29500, 29500)
    second = Release(full, release.namespace, "second", "TrainJob")
    second.install(*options, "--set", "rendezvous.port=24003")
    full.wait(lambda: bool(second.pods()), "its pod")

    def refusal() -> str:
        (pod,) = second.pods().values()
        return " ".join(c.get("message", "") for c in pod["status"].get("conditions", []))

    full.wait(lambda: "free ports" in refusal(), "the scheduler finds the port taken")
