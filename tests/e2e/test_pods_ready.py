"""Kueue's waitForPodsReady, which is on by default since 0.19: a job that cannot start gives its quota back."""

from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.queues import FLAVOR, queue, quota
from tests.e2e.release import Release
from tests.sandbox import Sandbox

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Two nodes and a Kueue that waits less than its 30 minutes."""
    folder = tmp_path_factory.mktemp("impatient")
    with Sandbox.up(folder=folder, nodes=2, components=("kueue", "trainer")) as box:
        file = box.folder / "operators" / "kueue" / "config.yaml"
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        config["waitForPodsReady"] = {"timeout": "30s", "requeuingStrategy": {"backoffBaseSeconds": 1}}
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        box.restart("kueue")
        flavor = {**FLAVOR, "spec": {"nodeLabels": FLAVOR["spec"]["nodeLabels"]}}

        def answers() -> bool:
            box.create([flavor])
            return True

        box.wait(answers, "Kueue's webhook")
        yield box


@pytest.mark.parametrize(("kind", "broken"), [("PyTorchJob", 2), ("TrainJob", 1)])
def test_a_job_that_cannot_start_gives_way_and_comes_back(impatient: Sandbox, kind: str, broken: int) -> None:
    """The quota has room, the cluster has not. A PyTorchJob is Running, and so ready for Kueue, once its master is."""
    room = f"room-{kind.lower()}"
    impatient.kubectl("create", "namespace", room)
    impatient.create(queue(room, quota(2)))
    nodes = [node["metadata"]["name"] for node in impatient.get("nodes")["items"]][:broken]
    impatient.kubectl("cordon", *nodes)
    release = Release(impatient, room, kind=kind)
    size = ("--set", "training.nodes=2", "--set", "training.globalBatchSize=512")
    release.install("--set", f"job.kind={kind}", "--set", "scheduling.queue.name=gpus", *size)

    def requeued() -> bool:
        (workload,) = impatient.get("workloads.kueue.x-k8s.io", namespace=room)["items"]
        return "count" in workload.get("status", {}).get("requeueState", {})

    impatient.wait(lambda: len(release.pods()) == 2, "admitted")
    assert len(release.placed()) <= 2 - broken
    impatient.wait(requeued, "given way")
    impatient.kubectl("uncordon", *nodes)
    impatient.wait(lambda: len(release.placed()) == 2, "runs by itself")
    release.uninstall()
    impatient.wait(lambda: not impatient.pods(namespace=room), "GPUs free")
