"""What watches a TrainJob: the same as of a PyTorchJob, where all nodes have one template."""

import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from neva_pod.monitor import exporter as exporter_module
from neva_pod.monitor.records import RunSettings
from tests.chart import helm
from tests.chart.helm import notes
from tests.waiting import PATIENCE

TRAINJOB: dict[str, Any] = {"job": {"kind": "TrainJob"}, "training": {"nodes": 4, "globalBatchSize": 1024}}
EXPORTER: dict[str, Any] = {"monitoring": {"exporter": {"enabled": True}}}


def test_every_node_has_the_exporter_since_any_may_be_the_first() -> None:
    pod = helm.pod(helm.render({**TRAINJOB, **EXPORTER}), "Node")
    assert [c["name"] for c in pod["initContainers"]] == ["exporter"]
    theirs = helm.pod(helm.render({"training": TRAINJOB["training"], **EXPORTER}), "Master")
    assert pod["initContainers"] == theirs["initContainers"]
    plain = helm.pod(helm.render(TRAINJOB), "Node")
    assert "initContainers" not in plain


@pytest.mark.parametrize(("index", "told"), [(None, True), ("0", True), ("1", False), ("12", False)])
def test_only_the_first_node_tells_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str | None, told: bool
) -> None:
    """The log is on a shared volume: else each node would tell the same run once more. Liveness holds on all."""
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    if index is not None:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    settings = RunSettings(name="run", max_steps=10)
    served = exporter_module._open(tmp_path / "train.log", ("127.0.0.1", 0), settings)
    thread = threading.Thread(target=served.serve)
    thread.start()
    try:
        for path, wanted in (("metrics", told), ("healthz", True)):
            with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/{path}", timeout=PATIENCE) as answer:
                assert answer.status == 200
                assert bool(answer.read()) == wanted
    finally:
        served.stop()
        thread.join(timeout=PATIENCE)
    assert not thread.is_alive()


def test_weights_and_biases_is_on_every_node_that_may_be_the_first() -> None:
    values = {**TRAINJOB, "wandb": {"enabled": True, "mode": "online"}, "secrets": {"wandb": {"name": "wb"}}}
    names = [e["name"] for e in helm.container(helm.render(values), "Node")["env"]]
    assert {"WANDB_API_KEY", "WANDB_MODE"} <= set(names)


def test_notes_find_the_pod_whose_name_ends_in_random_letters(folder: Path) -> None:
    values = {**TRAINJOB, **EXPORTER, "wandb": {"enabled": True, "mode": "online"}, "secrets": {"wandb": {"name": "w"}}}
    name = helm.job(helm.render(values))["metadata"]["name"]
    label = f"-l jobset.sigs.k8s.io/jobset-name={name},batch.kubernetes.io/job-completion-index=0"
    text = notes(folder, values)
    assert f"kubectl port-forward $(kubectl get pod -o name -n default {label}) 9400 -n default &" in text
    assert f"kubectl logs {label} -c node --tail=-1 -n default | grep wandb:" in text
    assert "-master-0" not in text


def test_annotations_tell_the_monitor_the_same() -> None:
    ours, theirs = (
        helm.job(helm.render(v))["metadata"]["annotations"] for v in (TRAINJOB, {"training": TRAINJOB["training"]})
    )
    assert ours == theirs
    assert "neva-pretrain/training" in ours
