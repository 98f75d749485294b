"""What watches a TrainJob: the same as of a PyTorchJob, where all nodes have one template."""

import json
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
    silent = {"monitoring": {**EXPORTER["monitoring"], "trainJobStatus": {"enabled": False}}}
    ours = helm.pod(helm.render({**TRAINJOB, **silent}), "Node")
    theirs = helm.pod(helm.render({"training": TRAINJOB["training"], **EXPORTER}), "Master")
    assert ours["initContainers"] == theirs["initContainers"]
    plain = helm.pod(helm.render(TRAINJOB), "Node")
    assert "initContainers" not in plain


def test_the_exporter_has_what_trainer_gives_a_training_container() -> None:
    """Of Trainer 2.3: pkg/runtime/framework/plugins/trainjobstatus; no more rights than its token's audience."""
    manifests = helm.render({**TRAINJOB, **EXPORTER})
    job, pod = helm.job(manifests)["metadata"], helm.pod(manifests, "Node")
    status = f"trainer.kubeflow.org/v1alpha1/namespaces/default/trainjobs/{job['name']}/status"
    (exporter,) = pod["initContainers"]
    server = "https://kubeflow-trainer-controller-manager.kubeflow-system.svc:10443"
    assert {e["name"]: e["value"] for e in exporter["env"] if e["name"].startswith("KUBEFLOW_")} == {
        "KUBEFLOW_TRAINER_SERVER_URL": f"{server}/apis/{status}",
        "KUBEFLOW_TRAINER_SERVER_CA_CERT": "/var/run/secrets/kubeflow/trainer/ca.crt",
        "KUBEFLOW_TRAINER_SERVER_TOKEN": "/var/run/secrets/kubeflow/trainer/token",
    }
    (mount,) = (m for m in exporter["volumeMounts"] if m["name"] == "kubeflow-trainer-token")
    assert mount == {
        "name": "kubeflow-trainer-token",
        "mountPath": "/var/run/secrets/kubeflow/trainer",
        "readOnly": True,
    }
    (volume,) = (v for v in pod["volumes"] if v["name"] == "kubeflow-trainer-token")
    token, ca = volume["projected"]["sources"]
    assert token == {"serviceAccountToken": {"audience": status, "expirationSeconds": 3600, "path": "token"}}
    assert ca["configMap"]["name"] == f"{job['name']}-tls-config"
    assert ca["configMap"]["optional"], "no such ConfigMap without the feature gate, nor before Trainer 2.2"
    assert ca["configMap"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    assert pod["automountServiceAccountToken"] is False
    assert not [m for m in manifests if m["kind"] in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")]


def test_without_exporter_or_trainjob_no_pod_has_a_token() -> None:
    for values in (TRAINJOB, EXPORTER):
        assert "serviceAccountToken" not in json.dumps(helm.render(values))


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
    assert f"kubectl get trainjob {name} -n default -o jsonpath='{{.status.trainerStatus}}'" in text
    assert "-master-0" not in text


def test_annotations_tell_the_monitor_the_same() -> None:
    ours, theirs = (
        helm.job(helm.render(v))["metadata"]["annotations"] for v in (TRAINJOB, {"training": TRAINJOB["training"]})
    )
    assert ours == theirs
    assert "neva-pretrain/training" in ours
