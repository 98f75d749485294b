"""The chart as a TrainJob: real Kubeflow Trainer and JobSet with their webhooks, real Kueue, real gang scheduler."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from neva_pod.monitor.trainjob import RefusedError, Server
from tests.chart.helm import HELMS
from tests.e2e.queues import queue, quota
from tests.e2e.release import (
    CHART,
    ROOT,
    Release,
    check_pod,
    container_environment,
    mount,
    names,
    process_environment,
)
from tests.e2e.torchrun import train_for_real
from tests.sandbox import Sandbox
from tests.sandbox.operators.gang import SCHEDULER
from tests.sandbox.operators.trainer import Trainer
from tests.tools import ensure, path
from tests.waiting import PATIENCE, ended, until

pytestmark = pytest.mark.e2e

FILE = ROOT / "values" / "trainjob.yaml"
TRAINJOB = ["--set", "job.kind=TrainJob"]
LABEL = "jobset.sigs.k8s.io/jobset-name"


def nodes(count: int) -> list[str]:
    """Options of a TrainJob of that size."""
    return [*TRAINJOB, "--set", f"training.nodes={count}", "--set", f"training.globalBatchSize={256 * count}"]


@pytest.fixture
def releases(full: Sandbox, room: str) -> tuple[Release, Release]:
    """Two releases side by side, of Helm 3 and of Helm 4, none installed."""
    ensure("helm4")
    return Release(full, room, "first", "TrainJob"), Release(full, room, "second", "TrainJob", "helm4")


@pytest.fixture
def release(releases: tuple[Release, Release], request: pytest.FixtureRequest) -> Release:
    """The one of Helm 3, unless a test names the other's."""
    return next(each for each in releases if each.client == getattr(request, "param", "helm"))


def is_placed(release: Release, count: int) -> bool:
    return len(release.placed()) == count


def complete(release: Release) -> None:
    """Let all pods of the release's job succeed."""
    release.sandbox.complete("-l", f"{LABEL}={release.job()['metadata']['name']}", namespace=release.namespace)
    release.wait_for("Complete")


@pytest.mark.parametrize("release", HELMS, indirect=True)
def test_values_file_runs_and_completes(full: Sandbox, release: Release) -> None:
    """Install, Running with the right pods, Complete when they end, uninstall; only data is kept."""
    count = yaml.safe_load(FILE.read_text())["training"]["nodes"]
    said = release.install("-f", str(FILE))
    full.wait_for_phase("Running", count, namespace=release.namespace)
    name, pods = release.job()["metadata"]["name"], release.pods()
    assert f"kubectl get trainjob {name}" in said
    first = f"{LABEL}={name},batch.kubernetes.io/job-completion-index=0"
    assert f"kubectl logs -f -l {first} -c node --tail=-1 -n {release.namespace}" in said
    (master,) = full.pods(first, release.namespace)

    assert len(pods) == count == len({pod["spec"]["nodeName"] for pod in pods.values()})
    ranks = set()
    for pod in pods.values():
        environment = process_environment(pod)
        assert environment["PET_NNODES"] == environment["NEVA_NODES"] == str(count)
        assert environment["PET_NPROC_PER_NODE"] == environment["NEVA_GPUS_PER_NODE"] == "8"
        assert environment["PET_MASTER_ADDR"] == f"{name}-node-0-0.{name}"
        assert environment["PET_MASTER_PORT"] == "29500"
        assert environment["NEVA_MASTER_PORT"] == "23456"
        assert environment["NCCL_IB_TIMEOUT"] == "22"
        ranks.add(environment["PET_NODE_RANK"])
        check_pod(pod)
        assert pod["spec"]["restartPolicy"] == "Never"
        assert environment["NEVA_PREFLIGHT"] == "auto"
        assert environment["JOB_COMPLETION_INDEX"] == environment["PET_NODE_RANK"]
    assert ranks == {str(rank) for rank in range(count)}
    assert process_environment(master)["PET_NODE_RANK"] == "0"
    assert (master["spec"]["hostname"], master["spec"]["subdomain"]) == (f"{name}-node-0-0", name)

    service = full.get("service", name, namespace=release.namespace)["spec"]
    assert service["publishNotReadyAddresses"], "the master's name resolves while its preflight runs"

    complete(release)
    release.uninstall()

    def left() -> set[str]:
        kinds = "trainjobs,trainingruntimes,jobsets,jobs,pods,configmaps,serviceaccounts,services"
        return set(names(full.get(kinds, namespace=release.namespace)["items"])) - {"kube-root-ca.crt", "default"}

    full.wait(lambda: not left(), "all but the data gone")
    assert len(full.get("persistentvolumeclaims", namespace=release.namespace)["items"]) == 3


def test_a06_a_failed_node_ends_the_job_and_frees_the_gpus(full: Sandbox, release: Release) -> None:
    """A06: no pod is started anew without its peers, and none keeps its GPUs."""
    release.install(*nodes(3))
    full.wait_for_phase("Running", 3, namespace=release.namespace)
    victim = next(name for name in release.pods() if "-node-0-1-" in name)
    full.fail(victim, namespace=release.namespace)
    release.wait_for("Failed")
    full.wait(lambda: all(p["status"]["phase"] == "Failed" for p in release.pods().values()), "running pods deleted")


@pytest.mark.parametrize("release", HELMS, indirect=True)
def test_a11_upgrade_never_replaces_a_running_job_in_silence(full: Sandbox, release: Release) -> None:
    release.install(*nodes(2))
    full.wait_for_phase("Running", 2, namespace=release.namespace)
    name = release.job()["metadata"]["name"]
    changed = [*nodes(2), "--set", "training.seed=7"]
    done = release.helm("upgrade", release.name, str(CHART), *changed)
    assert done.returncode != 0
    assert f"must not replace the job {name}, which has not ended; use kubectl delete trainjob {name}" in done.stderr
    release.apply("upgrade", *nodes(2))
    assert release.job()["metadata"]["name"] == name
    complete(release)
    release.install(*changed)
    assert release.job()["metadata"]["name"] != name


def test_kueue_runs_one_of_two_jobs_and_then_the_other(full: Sandbox, releases: tuple[Release, Release]) -> None:
    """A quota of 8 nodes, two jobs of 8; Kueue alone suspends."""
    first, second = releases
    full.create(queue(first.namespace, quota(8)))
    queued = [*nodes(8), "--set", "scheduling.queue.name=gpus"]
    first.install(*queued)
    full.wait(lambda: len(first.placed()) == 8, "the first runs")
    second.install(*queued)
    workloads = "workloads.kueue.x-k8s.io"
    full.wait(lambda: len(full.get(workloads, namespace=second.namespace)["items"]) == 2, "the second is queued")
    assert second.job()["spec"]["suspend"] is True
    assert not second.pods()
    complete(first)
    full.wait(lambda: len(second.placed()) == 8, "the second runs")


def test_kueue_keeps_all_nodes_of_a_job_in_one_rack(full: Sandbox, releases: tuple[Release, Release]) -> None:
    """Two jobs of 7 nodes in racks of 8: without placement both would lie in both racks."""
    full.create(queue(releases[0].namespace, quota(16)))
    rack = ["--set", "scheduling.queue.name=gpus"]
    rack += ["--set-string", r"scheduling.queue.topology.required=neva\.test/rack"]
    for release in releases:
        release.install(*nodes(7), *rack)
    for release in releases:
        full.wait(partial(is_placed, release, 7), "job placed")
    racks = [
        {full.get("node", node)["metadata"]["labels"]["neva.test/rack"] for node in release.placed()}
        for release in releases
    ]
    assert [len(one) for one in racks] == [1, 1]
    assert racks[0] != racks[1]


def test_a14_of_two_gangs_one_runs_whole_and_none_is_half_placed(
    full: Sandbox, releases: tuple[Release, Release]
) -> None:
    """12 + 12 nodes on 16; Trainer makes the pod groups, the chart names the scheduler."""
    gang = ["--set", "scheduling.schedulingPolicy.minAvailable=12"]
    gang += ["--set", f"scheduling.schedulerName={SCHEDULER}"]
    for release in releases:
        release.install(*nodes(12), *gang)
    full.wait(lambda: 12 in [len(release.placed()) for release in releases], "one runs")
    winner, other = sorted(releases, key=lambda release: len(release.placed()), reverse=True)
    full.wait(lambda: len(other.pods()) == 12, "the other one's pods")
    full.wait(lambda: "FailedScheduling" in full.kubectl("get", "events", "-n", other.namespace), "tried")
    assert len(other.placed()) == 0
    group = full.get("podgroup", other.job()["metadata"]["name"], namespace=other.namespace)
    assert group["spec"]["minMember"] == 12
    complete(winner)
    full.wait(lambda: len(other.placed()) == 12, "the other one runs whole")


def test_real_torchrun_with_trainers_environment(release: Release, tmp_path: Path) -> None:
    """Trainer's port gives way to rendezvous.port, its ranks are torchrun's."""
    records = train_for_real(release, tmp_path)
    assert "-node-0-0-" in records[0]["pod"], "rank 0 on the first node"


def test_the_monitor_finds_a_trainjob(full: Sandbox, release: Release) -> None:
    release.install(*nodes(2))
    full.wait_for_phase("Running", 2, namespace=release.namespace)
    master = next(name for name in release.pods() if "-node-0-0-" in name)
    bar = "Epoch 0: :  50%|##| 1000/2170 [1:00:00<1:00:00, reduced_train_loss=2.50, global_step=999.0, "
    bar += "consumed_samples=512000.0, train_step_timing in s=3.60]\n"
    full.write_logs(bar, master, namespace=release.namespace)
    command = [str(Path(sys.executable).with_name("neva-monitor")), release.name, "-n", release.namespace]
    done = subprocess.run([*command, "--once", "-o", "json"], env=full.env, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    assert (report["step"], report["maxSteps"], report["settings"]["gpus"]) == (1000, 2170, 16), done


CLUSTER_DNS = """
import socket
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: real("127.0.0.1" if host.endswith(".svc") else host, *rest, **more)
"""
TRAINER = "KUBEFLOW_TRAINER_SERVER_"


def token(release: Release, pod: dict[str, Any], audience: str) -> str:
    """A token as the kubelet projects it into the pod."""
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod['metadata']['name']}"]
    account = pod["spec"]["serviceAccountName"]
    command = ["create", "token", account, "-n", release.namespace, f"--audience={audience}", *bound]
    return release.sandbox.kubectl(*command).strip()


def mount_status(release: Release, pod: dict[str, Any], folder: Path) -> None:
    """Write what the kubelet mounts of the volume with which a pod reports its progress."""
    (volume,) = (v for v in pod["spec"]["volumes"] if v["name"] == "kubeflow-trainer-token")
    for source in volume["projected"]["sources"]:
        if projected := source.get("serviceAccountToken"):
            (folder / projected["path"]).write_text(token(release, pod, projected["audience"]))
        else:
            (item,) = source["configMap"]["items"]
            data = release.sandbox.get("configmap", source["configMap"]["name"], namespace=release.namespace)["data"]
            (folder / item["path"]).write_text(data[item["key"]])


def answer_of_the_api(full: Sandbox, bearer: str) -> int:
    """What the API server says to who comes with this token."""
    (cluster,) = yaml.safe_load(full.kubectl("config", "view", "--raw", "-o", "yaml"))["clusters"]
    request = urllib.request.Request(cluster["cluster"]["server"] + "/api")  # noqa: S310 - ours, on loopback
    request.add_header("Authorization", f"Bearer {bearer}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=PATIENCE)  # noqa: S310, S323
    refused.value.close()
    return refused.value.code


def trainer_status(release: Release) -> dict[str, Any]:
    return dict(release.job().get("status", {}).get("trainerStatus", {}))


def numbers(status: dict[str, Any]) -> dict[str, str]:
    return {metric["name"]: metric["value"] for metric in status["metrics"]}


def at_home(real: Callable[..., Any], host: str, *rest: Any, **more: Any) -> Any:
    return real("127.0.0.1" if host.endswith(".svc") else host, *rest, **more)


def columns(release: Release) -> dict[str, str]:
    """What the command of docs/how-to/trainjob.md prints of the one job."""
    text = (ROOT / "docs" / "how-to" / "trainjob.md").read_text()
    (shown,) = re.findall(r"^    S=.*\n(?:    .*\n)+", text, re.MULTILINE)
    command = (
        re.sub(r"(?m)^    ", "", shown)
        .replace("kubectl", f"'{path('kubectl')}'")
        .replace("-n training", f"-n {release.namespace}")
    )
    done = subprocess.run(["bash", "-c", command], env=release.sandbox.env, capture_output=True, text=True, check=True)
    head, row = done.stdout.splitlines()
    return dict(zip(head.split(), row.split(), strict=True))


def test_the_trainjob_shows_how_far_it_is(
    full: Sandbox, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter's command, files and environment as the pod has them; the log is the stand-in training's.

    Not there on one machine: cluster DNS and the kubelet, which mounts token and CA.
    """
    values = {
        "job": {"kind": "TrainJob"},
        "training": {"nodes": 2, "globalBatchSize": 512, "maxSteps": 40, "warmupSteps": 2},
        "checkpoint": {"everyNSteps": 10},
        "storage": {"results": {"mountPath": str(tmp_path / "results")}},
        "monitoring": {"exporter": {"enabled": True}, "trainJobStatus": {"server": Trainer.status_server(full)}},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    release.install("-f", str(tmp_path / "values.yaml"))
    full.wait_for_phase("Running", 2, namespace=release.namespace)
    name = release.job()["metadata"]["name"]
    first = next(pod for pod in release.pods().values() if "-node-0-0-" in pod["metadata"]["name"])
    (exporter,) = first["spec"]["initContainers"]
    given = {key: v for key, v in process_environment(first).items() if key.startswith(TRAINER)}
    assert len(given) == 3
    ours = container_environment(first, exporter)
    assert {key: v for key, v in ours.items() if key.startswith(TRAINER)} == given, "as Trainer's own"

    config, secrets = tmp_path / "etc", tmp_path / "secrets"
    log = tmp_path / "results" / release.name / "logs" / "node-00000.log"
    for folder in (config, secrets, log.parent, tmp_path / "dns", tmp_path / "faults"):
        folder.mkdir(parents=True, exist_ok=True)
    mount(release, first, "config", config)
    mount_status(release, first, secrets)
    (tmp_path / "dns" / "sitecustomize.py").write_text(CLUSTER_DNS)
    found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    moved = {f"{TRAINER}CA_CERT": str(secrets / "ca.crt"), f"{TRAINER}TOKEN": str(secrets / "token")}
    environment = {**ours, **found, **moved, "PYTHONPATH": str(tmp_path / "dns")}
    arguments = [argument for argument in exporter["args"] if not argument.startswith("--listen")]
    command = [*exporter["command"], *arguments, "--listen=127.0.0.1:0"]
    training = {
        **found,
        **{"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "0"},
        "NEVA_CONFIG_DIR": str(config),
        "STAND_IN_STEP_SECONDS": "0.02",
        "STAND_IN_CHECKPOINT": str(ROOT / "tests/data/checkpoints/saved"),
        "STAND_IN_LEDGER": str(tmp_path / "ledger"),
        "STAND_IN_FAULTS": str(tmp_path / "faults"),
    }
    stand_in = [sys.executable, str(ROOT / "tests/survival/training.py")]

    hang = tmp_path / "faults" / "sleep-20"
    hang.touch()
    with log.open("ab") as output:
        with ended(subprocess.Popen(stand_in, env=training, stdout=output)):
            until(lambda: not hang.exists(), lambda: f"it hangs after step 20: {log.read_bytes()!r}")
        with ended(subprocess.Popen(command, cwd=config, env=environment, stdout=subprocess.DEVNULL)) as reporting:
            full.wait(lambda: bool(trainer_status(release)), "the status is there")
            status = trainer_status(release)
            assert status["progressPercentage"] == 50
            assert status["estimatedRemainingSeconds"] >= 0
            assert status["lastUpdatedTime"]
            assert {"step": "20", "max_steps": "40", "loss": "0.05"}.items() <= numbers(status).items()
            row = columns(release)
            assert (row["NAME"], row["%"], row["STEP"], row["LOSS"]) == (name, "50", "20", "0.05")
            assert row["LEFT"].isdecimal()
            subprocess.run(stand_in, env=training, stdout=output, check=True, timeout=PATIENCE)
            reporting.send_signal(signal.SIGTERM)  # the kubelet's, once training has ended
            assert reporting.wait(timeout=PATIENCE) == 0
    status = trainer_status(release)
    assert (status["progressPercentage"], status["estimatedRemainingSeconds"]) == (100, 0)
    assert {"step": "40", "loss": "0.025"}.items() <= numbers(status).items()

    complete(release)
    assert trainer_status(release) == status, "it outlives the run"
    assert columns(release)["STATE"] == "Complete"
    head, row_of_state = full.kubectl("get", "trainjobs", "-n", release.namespace).splitlines()
    assert (head.split(), row_of_state.split()[:2]) == (["NAME", "STATE", "AGE"], [name, "Complete"])

    monkeypatch.setattr(socket, "getaddrinfo", partial(at_home, socket.getaddrinfo))
    good = Server(given[f"{TRAINER}URL"], secrets / "ca.crt", secrets / "token")
    good.post(status)
    assert answer_of_the_api(full, good.token.read_text()) == 401, "it opens nothing else"
    (tmp_path / "token").write_text(token(release, first, "trainer.kubeflow.org/another"))
    with pytest.raises(RefusedError, match="HTTP 403 Forbidden"):
        Server(good.url, good.ca, tmp_path / "token").post(status)
