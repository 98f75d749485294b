"""What every pod of a release has, whoever makes it: training, prepare, TensorBoard, helm test."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.chart import helm

TWO = {"training": {"nodes": 2, "globalBatchSize": 512}}
EXPORTER = {"monitoring": {"exporter": {"enabled": True}}}
BOARD = {"tensorboard": {"enabled": True}}
RELEASES: dict[str, dict[str, Any]] = {
    "PyTorchJob": {**TWO, **BOARD, **EXPORTER},
    "TrainJob": {**TWO, **BOARD, "job": {"kind": "TrainJob"}},
    "prepare": {**BOARD, "prepare": {"enabled": True, "llm": {"source": "meta-llama/Llama-2-7b-chat-hf"}}},
}
# What makes pods: to Kueue each is a workload by itself.
WORKLOADS = {"PyTorchJob", "TrainJob", "Job", "Deployment", "Pod"}


@pytest.mark.parametrize("name", RELEASES)
def test_n07_every_pod_has_podlabels_and_kais_queue(name: str) -> None:
    """A policy that demands labels, and KAI, look at pods."""
    values = {**RELEASES[name], "podLabels": {"cost-center": "ml", "n": 1}, "scheduling": {"kai": {"queue": "team-a"}}}
    found = helm.pod_templates(helm.render(values))
    assert len(found) == {"PyTorchJob": 5, "TrainJob": 4, "prepare": 4}[name]
    for pod in found:
        labels = pod["metadata"]["labels"]
        assert {"cost-center": "ml", "n": "1", "kai.scheduler/queue": "team-a"}.items() <= labels.items()
        assert labels["app.kubernetes.io/instance"] == "neva"


@pytest.mark.parametrize("name", RELEASES)
def test_n07_a13_kueues_queue_is_on_what_makes_pods_and_not_on_pods_that_are_made(name: str) -> None:
    values = {**RELEASES[name], "scheduling": {"queue": {"name": "lq", "priorityClass": "high"}}}
    manifests = helm.render(values)
    queue = {"kueue.x-k8s.io/queue-name": "lq", "kueue.x-k8s.io/priority-class": "high"}
    for manifest in manifests:
        ours = {k: v for k, v in manifest["metadata"].get("labels", {}).items() if k.startswith("kueue.x-k8s.io/")}
        waits = manifest["kind"] in WORKLOADS and not helm.of_rollback(manifest)
        assert ours == (queue if waits else {})
    for pod in helm.pod_templates([m["spec"] for m in manifests if "spec" in m]):
        assert not [key for key in pod["metadata"]["labels"] if key.startswith("kueue")]


def test_n07_a_label_that_is_said_twice_is_there_once() -> None:
    """Helm test's pod is an object and a pod: it has the labels of both, the pod's own last."""
    values = {"commonLabels": {"a": "object", "b": 1}, "podLabels": {"a": "pod"}}
    labels = helm.one(helm.render(values), "Pod")["metadata"]["labels"]
    assert (labels["a"], labels["b"]) == ("pod", "1")
    assert helm.render_text(values).count('"a": "pod"') == 3, "the job's pod, the test's and the rollback's"


# A user that the image does not know


CACHES = [
    "HOME",
    *(f"{name}_CACHE_DIR" for name in ("NUMBA", "TORCHINDUCTOR", "TRITON")),
    *(f"XDG_{name}_HOME" for name in ("CACHE", "CONFIG", "DATA")),
    "MPLCONFIGDIR",
]
ASK = """
import getpass, os, pathlib, sys
assert getpass.getuser(), "no user"
for folder in [pathlib.Path.home(), *(pathlib.Path(os.environ[name]) for name in sys.argv[1:])]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "written").write_text("x")
"""


@pytest.mark.parametrize("name", RELEASES)
def test_n06_every_python_of_the_image_knows_its_user_and_where_to_write(name: str) -> None:
    """All containers but those of the standard library alone, which writes nothing: their file system is read-only."""
    for pod in helm.pod_templates(helm.render({**RELEASES[name], "storage": {"scratch": {"mountPath": "/nvme"}}})):
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            if container["name"] in ("exporter", "guard"):
                continue
            env = {entry["name"]: entry.get("value", "") for entry in container["env"]}
            assert env["USER"] == env["LOGNAME"] == "neva"
            (writable,) = {m["mountPath"] for m in container["volumeMounts"]} & {"/nvme", "/tmp"}
            assert all(env[cache].startswith(f"{writable}/home") for cache in CACHES)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root may become another user")
def test_n06_a_user_without_a_passwd_entry_has_a_name_and_a_home() -> None:
    """The rendered environment as the pod's user sees it, with the home that a runtime gives such a user."""
    env = helm.env(helm.render({"securityContext": {"runAsUser": 1002700000}}))
    user = ["setpriv", "--reuid", "1002700000", "--regid", "0", "--clear-groups"]
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    with tempfile.TemporaryDirectory() as scratch:  # pytest's folders are root's alone
        Path(scratch).chmod(0o777)
        pairs = [f"{k}={v.replace('/scratch', scratch, 1) if v.startswith('/scratch') else v}" for k, v in env.items()]
        command = [*user, "env", "-i", "HOME=/", *pairs, python, "-c", ASK, *CACHES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(list(Path(scratch).rglob("written"))) == len(set(CACHES))


@pytest.mark.parametrize("name", ["HOME", "USER", "TRITON_CACHE_DIR"])
def test_n06_the_users_own_home_wins(name: str) -> None:
    assert helm.env(helm.render({"env": {name: "/elsewhere"}}))[name] == "/elsewhere"


# The code


@pytest.mark.parametrize("name", RELEASES)
def test_the_code_of_a_pod_starts_from_what_is_mounted(name: str, tmp_path: Path) -> None:
    """Every Python module that a container names, from its own working directory and with nothing else of ours."""
    manifests = helm.render(RELEASES[name])
    modules: list[str] = []
    for spec in [pod["spec"] for pod in helm.pod_templates(manifests)]:
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            if "workingDir" not in container:
                continue
            python, option, module = container["command"][:3]
            assert (python, option) == ("python3", "-m")
            (volume,) = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == container["workingDir"]]
            folder = tmp_path / str(len(modules))
            helm.mount(spec, manifests, volume, folder)
            command = [sys.executable, "-S", "-m", module, "--help"]
            done = subprocess.run(command, cwd=folder, env={}, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            modules.append(module.removeprefix("neva_pod."))
    second = {"PyTorchJob": {"monitor.exporter"}, "TrainJob": set(), "prepare": {"prepare"}}
    assert set(modules) == {"preflight", "supervisor.guard", *second[name]}


@pytest.mark.parametrize("name", RELEASES)
def test_every_file_of_a_configmap_is_mounted_and_there_is_room_for_more(name: str) -> None:
    """A key that no item names is not in the pod, an item without its key keeps the pod from starting.

    1 MiB is all, and 256 KiB where kubectl apply keeps a copy in an annotation.
    """
    manifests = helm.render(RELEASES[name])
    for config in (m for m in manifests if m["kind"] == "ConfigMap" and set(m["data"]) != {"kind"}):
        volumes = [
            source
            for pod in helm.pod_templates(manifests)
            for volume in pod["spec"]["volumes"]
            if volume.keys() & {"configMap", "projected"}
            for source in helm.sources(volume)
            if source["name"] == config["metadata"]["name"]
        ]
        assert volumes
        for volume in volumes:
            assert {item["key"] for item in volume["items"]} == set(config["data"])
            assert len({item["path"] for item in volume["items"]}) == len(config["data"])
        assert len(json.dumps(config).encode()) < 250 * 2**10
