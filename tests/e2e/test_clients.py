"""The same job by Helm 3, Helm 4, kubectl and a GitOps loop, on the real API server with the real operators."""

import subprocess
from typing import Any

import pytest

from tests.chart import helm
from tests.chart.helm import HELMS
from tests.e2e.queues import queue, quota
from tests.e2e.release import CHART, Release, names
from tests.sandbox import Sandbox
from tests.tools import ensure

pytestmark = pytest.mark.e2e

TWO_NODES = ("--set", "training.nodes=2", "--set", "training.globalBatchSize=512")
BOARD = ("--set", "tensorboard.enabled=true")


def identity(release: Release) -> tuple[str, str]:
    """Name and uid of the job: the same as long as nothing has replaced it."""
    metadata = release.job()["metadata"]
    return metadata["name"], metadata["uid"]


def boards(release: Release) -> list[str]:
    return names(release.sandbox.get("deployments", namespace=release.namespace)["items"])


@pytest.mark.parametrize("release", HELMS, indirect=True)
def test_from_lint_to_uninstall(sandbox: Sandbox, release: Release) -> None:
    """Nothing that Helm does beside the job replaces it."""
    done = release.helm("lint", "--strict", "--kube-version", helm.KUBERNETES, str(CHART))
    assert done.returncode == 0, done.stdout
    release.apply("install", *TWO_NODES)
    release.wait_for("Running")
    job = identity(release)
    release.apply("upgrade", *TWO_NODES)
    release.apply("upgrade", *TWO_NODES, *BOARD)
    assert boards(release) == ["neva-tensorboard"]
    done = release.helm("rollback", release.name, "2", "--no-hooks")
    assert done.returncode == 0, done.stderr
    assert boards(release) == []
    assert identity(release) == job
    assert release.has_condition("Running")

    said = release.helm_with_hook("test", release.name)
    assert "Succeeded" in said

    release.uninstall()
    sandbox.wait(lambda: not sandbox.get("pytorchjobs", namespace=release.namespace)["items"], "job gone")
    assert len(sandbox.get("persistentvolumeclaims", namespace=release.namespace)["items"]) == 3


@pytest.mark.parametrize("client", HELMS)
@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_n18_an_upgrade_beside_a_job_that_kueue_has_changed(full: Sandbox, room: str, kind: str, client: str) -> None:
    """Kueue has put its flavor's node labels and tolerations into the job, and every Helm leaves them there."""
    ensure(client)
    full.create(queue(room, quota(2)))
    release = Release(full, room, kind=kind, client=client)
    queued = (*TWO_NODES, "--set", f"job.kind={kind}", "--set", "scheduling.queue.name=gpus")
    release.install(*queued)
    full.wait(lambda: len(release.placed()) == 2, "job placed")
    job, generation = identity(release), release.job()["metadata"]["generation"]
    release.apply("upgrade", *queued, *BOARD)
    assert boards(release) == ["neva-tensorboard"]
    assert identity(release) == job
    assert release.job()["metadata"]["generation"] == generation, "Kueue's own settings are still there"
    assert len(release.placed()) == 2


def test_n18_tolerations_of_ones_own_have_two_owners(full: Sandbox, room: str) -> None:
    """The list is one field to the API server: with server-side apply Helm 4 ends in a conflict and changes nothing."""
    ensure("helm4")
    full.create(queue(room, quota(2)))
    release = Release(full, room, client="helm4")
    own = ("--set-json", 'scheduling.tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]')
    queued = (*TWO_NODES, *own, "--set", "scheduling.queue.name=gpus")
    release.install(*queued)
    full.wait(lambda: len(release.placed()) == 2, "job placed")
    job, generation = identity(release), release.job()["metadata"]["generation"]
    done = release.helm("upgrade", release.name, str(CHART), *queued, *BOARD)
    assert done.returncode == 1
    assert "conflict" in done.stderr
    assert ".spec.pytorchReplicaSpecs.Worker.template.spec.tolerations" in done.stderr
    release.apply("upgrade", *queued, *BOARD, "--server-side=false")
    assert boards(release) == ["neva-tensorboard"]
    assert identity(release) == job
    assert release.job()["metadata"]["generation"] == generation


def rendered(release: Release, *args: str) -> str:
    """What a GitOps tool applies: all but hooks; Helm 4 renders it."""
    command = [str(ensure("helm4")[0]), "template", release.name, str(CHART), "--namespace", release.namespace]
    command += ["--no-hooks", "--kube-version", helm.KUBERNETES, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_render_is_applied_by_the_server(sandbox: Sandbox, release: Release) -> None:
    text = rendered(release, *TWO_NODES)
    apply = ("apply", "--server-side", "-n", release.namespace, "-f", "-")
    sandbox.kubectl(*apply, stdin=text)
    release.wait_for("Running")
    job = identity(release)
    said = sandbox.kubectl(*apply, stdin=text)
    assert all(line.endswith("serverside-applied") for line in said.splitlines()), said
    assert identity(release) == job
    assert release.has_condition("Running")


def test_a_loop_of_render_prune_and_apply(sandbox: Sandbox, release: Release) -> None:
    """As GitOps tools do it: what is no longer rendered goes; a job that runs goes only once a person confirms it."""
    ours = f"app.kubernetes.io/instance={release.name}"

    def sync(*args: str, confirmed: bool = False) -> None:
        kinds = ["core/v1/ConfigMap", "core/v1/Service", "apps/v1/Deployment"]
        kinds += ["kubeflow.org/v1/PyTorchJob"] if confirmed else []
        prune = ("--prune", "-l", ours, *(f"--prune-allowlist={kind}" for kind in kinds))
        text = rendered(release, *TWO_NODES, *args)
        sandbox.kubectl("apply", "-n", release.namespace, *prune, "-f", "-", stdin=text)

    def jobs() -> dict[str, dict[str, Any]]:
        items = sandbox.get("pytorchjobs", "-l", ours, namespace=release.namespace)["items"]
        return {item["metadata"]["name"]: item["metadata"] for item in items}

    sync(*BOARD)
    release.wait_for("Running")
    assert boards(release) == ["neva-tensorboard"]
    first, uid = identity(release)
    for _ in range(2):
        sync()
        assert boards(release) == []
        assert identity(release) == (first, uid)
    assert release.has_condition("Running")

    changed = ("--set", "training.seed=7")
    sync(*changed)
    assert len(jobs()) == 2
    assert jobs()[first]["uid"] == uid
    assert jobs()[first]["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=confirm"
    sync(*changed, confirmed=True)
    sandbox.wait(lambda: len(jobs()) == 1 and first not in jobs(), "the first job gone")
