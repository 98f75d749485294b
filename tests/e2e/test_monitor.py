"""A run that is watched: neva-monitor on a served log, the exporter and TensorBoard as the chart starts them."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import tools
from tests.e2e.queues import queue, quota
from tests.e2e.release import ROOT, Release, mount
from tests.sandbox import Sandbox
from tests.sandbox.process import free_ports
from tests.unit.monitor.nemo_logs import REGISTERED, bar, ranks
from tests.waiting import PATIENCE, ended, until

pytestmark = pytest.mark.e2e

Command = tuple[list[str], dict[str, str]]
STEPS = 40
VALUES: dict[str, Any] = {
    "training": {"nodes": 2, "globalBatchSize": 512, "maxSteps": STEPS, "warmupSteps": 2},
    "checkpoint": {"everyNSteps": 20},
}
SAVED = "Epoch 0, global step {0}: 'step' reached {0}.00000 (best {0}.00000), saving model to '/results/x.ckpt'"
FINISHED = f"`Trainer.fit` stopped: `max_steps={STEPS}` reached."


@pytest.fixture
def release(sandbox: Sandbox, namespace: str) -> Iterator[Release]:
    yield Release(sandbox, namespace)
    sandbox.kubectl("delete", "deployments", "--all", "-n", namespace)


def values_file(folder: Path, *parts: dict[str, Any]) -> str:
    """Write these values over each other's top level."""
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump({key: value for part in (VALUES, *parts) for key, value in part.items()}))
    return str(values)


def install(release: Release, folder: Path, *parts: dict[str, Any], verb: str = "install") -> str:
    """Install with these values over each other's top level; return the notes."""
    return release.apply(verb, "-f", values_file(folder, *parts))


def running_master(release: Release, folder: Path) -> str:
    """Install, wait until the job runs, return the name of its master's pod."""
    install(release, folder)
    release.wait_for("Running")
    return f"{release.job()['metadata']['name']}-master-0"


def line(step: int, **more: Any) -> str:
    """One line of the log; the launch script ends a bar's with a line feed."""
    return bar(step, total=STEPS, seconds=2.0, batch=512, **more).strip("\r")


# neva-monitor


@pytest.fixture
def command_on(tmp_path: Path) -> Callable[[Sandbox], Command]:
    """neva-monitor as installed, in a shell that has kubectl and one cluster."""

    def on(box: Sandbox) -> Command:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "kubectl").symlink_to(tools.path("kubectl"))
        environment = {**box.env, "PATH": f"{folder}:{os.environ['PATH']}", "TERM": "xterm-256color", "COLUMNS": "100"}
        return [str(Path(sys.executable).with_name("neva-monitor"))], environment

    return on


@pytest.fixture
def command(sandbox: Sandbox, command_on: Callable[[Sandbox], Command]) -> Command:
    """The same, on the cluster of most tests."""
    return command_on(sandbox)


class Terminal:
    """A process on a terminal; what it has drawn so far."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._end, other = pty.openpty()
        self.process = subprocess.Popen(
            argv, env=environment, stdin=other, stdout=subprocess.PIPE, stderr=other, text=True
        )
        os.close(other)
        self._drawn = bytearray()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while select.select([self._end], [], []) and (data := os.read(self._end, 65536)):
                self._drawn += data
        except OSError:  # the other end is closed
            pass

    @property
    def drawn(self) -> str:
        """The text, without colours and cursor moves."""
        return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", self._drawn.decode("utf-8", "replace"))

    def shows(self, text: str) -> None:
        """Wait until a text has been drawn."""
        until(lambda: text in self.drawn, lambda: f"{text!r} on the terminal: {self.drawn[-2000:]}")

    def result(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Exit code and standard output."""
        said, _ = self.process.communicate(timeout=timeout)
        os.close(self._end)
        return self.process.returncode, said


def stop(*processes: subprocess.Popen[Any]) -> None:
    """End what a failed assertion left."""
    for process in processes:
        process.kill()
        process.communicate()


def test_a_run_is_followed_live_and_the_monitor_ends_with_the_job(
    sandbox: Sandbox, release: Release, tmp_path: Path, command: Command
) -> None:
    """On a terminal, and as JSON for scripts; plan and steps are the job's annotations."""
    argv, environment = command
    master = running_master(release, tmp_path)

    def log(text: str) -> None:
        sandbox.write_logs(text, master, container="pytorch", namespace=release.namespace)

    log(ranks(16) + REGISTERED.format(16))
    watch = [*argv, "neva", "-n", release.namespace]
    screen = Terminal(watch, environment)
    script = subprocess.Popen([*watch, "-o", "json"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        for step in range(20):
            log(line(step))
        screen.shows(f"step 20 of {STEPS}   50.0%")
        log(SAVED.format(20))
        for step in range(20, 30):
            log(line(step))
        screen.shows(f"step 30 of {STEPS}   75.0%")
        assert screen.process.poll() is script.poll() is None, "they follow"
        for step in range(30, STEPS):
            log(line(step))
        log(f"{SAVED.format(STEPS)}\n{FINISHED}")
        screen.shows(f"step {STEPS} of {STEPS}   100.0%")
        sandbox.complete(master, namespace=release.namespace)
        release.wait_for("Succeeded")
        code, said = screen.result()
        assert code == 0, said
        assert f"step {STEPS}/{STEPS}" in said
        assert f"finished: {STEPS} steps" in said
        told = json.loads(script.communicate(timeout=PATIENCE)[0])
        assert script.returncode == 0
    finally:
        stop(screen.process, script)
    assert (told["status"], told["step"], told["maxSteps"]) == ("finished", STEPS, STEPS)
    assert (told["worldSize"], told["restarts"]) == (16, 0)
    assert told["checkpoint"]["step"] == STEPS
    settings = told["settings"]
    assert (settings["model"], settings["gpus"], settings["checkpoint_every"]) == ("llama2_7b_chat", 16, 20)
    assert told["speed"]["of_plan"] == pytest.approx(settings["planned_step_seconds"] / 2.0)


def test_a_run_that_fails_is_told_with_its_cause_and_exit_code_1(
    sandbox: Sandbox, release: Release, tmp_path: Path, command: Command
) -> None:
    argv, environment = command
    master = running_master(release, tmp_path)
    oom = "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 3 has a total capacity"
    text = "\n".join([*(line(step) for step in range(5)), oom])
    sandbox.write_logs(text, master, container="pytorch", namespace=release.namespace)
    watcher = subprocess.Popen(
        [*argv, "neva", "-n", release.namespace],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        sandbox.fail(master, namespace=release.namespace)
        release.wait_for("Failed")
        said, _ = watcher.communicate(timeout=PATIENCE)
    finally:
        stop(watcher)
    assert watcher.returncode == 1, said
    assert f"step 5/{STEPS}" in said
    assert "FAILED: a GPU ran out of memory (rank 3)" in said
    assert f"evidence: {oom}" in said


def test_runs_are_listed_compared_and_waited_for(
    sandbox: Sandbox, release: Release, tmp_path: Path, command: Command
) -> None:
    """One trains, one has no node; a wait ends with the job, with --until before it, or in time."""
    argv, environment = command
    here = ("-n", release.namespace)

    def monitor(*words: str) -> tuple[int, str, str]:
        call = [*argv, *words, *here]
        done = subprocess.run(
            call, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout, done.stderr

    master = running_master(release, tmp_path)
    other = Release(sandbox, release.namespace, "lr-2")
    install(other, tmp_path, NO_NODE, {"training": {**VALUES["training"], "learningRate": 2e-3}})
    sandbox.write_logs("\n".join(map(line, range(20))), master, container="pytorch", namespace=release.namespace)

    def runs() -> dict[str, Any]:
        code, out, err = monitor("-o", "json")
        assert code == 0, err
        return {run["name"]: run for run in json.loads(out)["runs"]}

    def reasons() -> list[str]:
        return [judgement["code"] for judgement in runs()["lr-2"]["judgements"]]

    until(lambda: reasons() == ["unschedulable"], lambda: f"lr-2 has no node: {runs()['lr-2']}")
    seen = runs()
    assert list(seen) == ["lr-2", "neva"]
    assert (seen["lr-2"]["status"], seen["lr-2"]["exitCode"]) == ("waiting", 3)
    assert (seen["neva"]["status"], seen["neva"]["step"], seen["neva"]["maxSteps"]) == ("training", 20, STEPS)
    code, out, err = monitor()
    assert code == 0
    assert re.search(r"^lr-2 +PyTorchJob +16 +0/40 +waiting\n  WARNING: cannot be scheduled: 2 of 2 pods: ", out, re.M)
    assert re.search(r"^neva +PyTorchJob +16 +20/40 +training ", out, re.M)
    assert "get pytorchjobs.kubeflow.org --selector=helm.sh/chart" in err

    code, out, _ = monitor("neva", "lr-2", "-o", "json")
    assert code == 0
    assert json.loads(out)["differences"] == {"training.learningRate": {"neva": "0.001", "lr-2": "0.002"}}

    assert monitor("lr-2", "--until", "training", "--timeout", "1")[0] == 124
    assert monitor("neva", "--until", "training")[0] == 0
    waiting = [*argv, "neva", *here, "--wait", "--timeout", "3600"]
    with ended(
        subprocess.Popen(waiting, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    ) as waiter:
        rest = "\n".join([*map(line, range(20, STEPS)), SAVED.format(STEPS), FINISHED])
        sandbox.write_logs(rest, master, container="pytorch", namespace=release.namespace)
        sandbox.complete(master, namespace=release.namespace)
        release.wait_for("Succeeded")
        said, _ = waiter.communicate(timeout=PATIENCE)
    assert waiter.returncode == 0, said
    assert f"finished: {STEPS} steps" in said
    assert runs()["neva"]["status"] == "finished"


# Why nothing runs (U02)


HELD = {"podAnnotations": {"neva.test/hold": "true"}}
REPORT = """\
ok       gpus     8 GPUs
FAILED   dataset  /datasets/preset/images: must have the images of the annotations; 3 are missing
                  fix: copy them again
preflight: 1 failed, 0 warning, 1 ok, 0 skipped
"""


def told(command: Command, release: Release, code: str) -> dict[str, Any]:
    """One look after another, until the monitor has this finding; return what it says."""
    argv, environment = command
    look = [*argv, release.name, "-n", release.namespace, "--once", "-o", "json"]
    last: dict[str, Any] = {}

    def found() -> bool:
        nonlocal last
        done = subprocess.run(look, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr
        last = json.loads(done.stdout or "{}")
        assert done.returncode == last.get("exitCode", 2), done.stderr
        return code in [j["code"] for j in last.get("judgements", ())]

    until(found, lambda: f"{code}: {last.get('judgements')}")
    (finding,) = (j for j in last["judgements"] if j["code"] == code)
    return {**last, **finding}


NO_NODE: dict[str, Any] = {"scheduling": {"nodeSelector": {"nobody": "has-this"}}}
NO_CLAIM: dict[str, Any] = {
    "storage": {"datasets": {"existingClaim": "nobody-made-it", "gpfs": {"nodePath": None}}},
}


@pytest.mark.parametrize(
    ("values", "code", "exit_code", "words"),
    [
        (NO_NODE, "unschedulable", 3, "didn't match Pod's node affinity/selector"),
        (NO_CLAIM, "volume", 1, 'persistentvolumeclaim "nobody-made-it" not found'),
        ({"runPolicy": {"suspend": True}}, "queued", 3, "suspended"),
    ],
    ids=["no node", "no claim", "suspended"],
)
def test_u02_the_scheduler_s_and_the_operator_s_words_are_told(
    release: Release, tmp_path: Path, command: Command, values: dict[str, Any], code: str, exit_code: int, words: str
) -> None:
    install(release, tmp_path, values)
    seen = told(command, release, code)
    assert words in seen["evidence"]
    assert (seen["exitCode"], seen["status"]) == (exit_code, "waiting" if exit_code == 3 else "failed")


def limit(sandbox: Sandbox, namespace: str) -> None:
    """A quota that has no room for a pod."""
    meta = {"name": "none", "namespace": namespace}
    sandbox.create([{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "0"}}}])
    sandbox.wait(lambda: "hard" in sandbox.get("resourcequota", "none", namespace=namespace)["status"], "quota")


def test_u02_a_quota_that_refuses_the_pods_is_told(
    sandbox: Sandbox, release: Release, tmp_path: Path, command: Command
) -> None:
    limit(sandbox, release.namespace)
    install(release, tmp_path)
    seen = told(command, release, "not-created")
    assert "exceeded quota: none" in seen["evidence"]
    assert seen["exitCode"] == 3


def end_preflight(sandbox: Sandbox, namespace: str, pod: str) -> None:
    """The kubelet's account of a pod whose preflight failed."""
    (container,) = sandbox.get("pod", pod, namespace=namespace)["spec"]["containers"]
    sandbox.write_logs(REPORT, pod, container=container["name"], namespace=namespace)
    state = {"terminated": {"exitCode": 1, "reason": "Error"}}
    image = {"image": "nemo", "imageID": "", "ready": False, "restartCount": 0}
    status = {"phase": "Failed", "containerStatuses": [{"name": container["name"], "state": state, **image}]}
    patch = json.dumps({"status": status})
    sandbox.kubectl("patch", "pod", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def test_u02_preflight_s_failure_is_told_to_who_follows(
    sandbox: Sandbox, release: Release, tmp_path: Path, command: Command
) -> None:
    """Its FAILED lines, live; the monitor ends with the job, with exit code 1."""
    argv, environment = command
    install(release, tmp_path, HELD)
    master = f"{release.job()['metadata']['name']}-master-0"
    sandbox.wait(lambda: len(release.placed()) == 2, "pods placed")
    watch = [*argv, "neva", "-n", release.namespace]
    with ended(
        subprocess.Popen(watch, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    ) as watcher:
        end_preflight(sandbox, release.namespace, master)
        release.wait_for("Failed")
        said, _ = watcher.communicate(timeout=PATIENCE)
    assert watcher.returncode == 1, said
    assert "FAILED: preflight failed" in said
    assert f"evidence: {master}: FAILED dataset /datasets/preset/images: must have the images" in said
    assert "fix: copy them again" in said


def test_u02_a_trainjob_s_reasons_are_told_too(
    full: Sandbox, room: str, tmp_path: Path, command_on: Callable[[Sandbox], Command]
) -> None:
    """A queue without room by Kueue, a selector by the scheduler, a quota by the Job, a preflight by the kubelet."""
    command = command_on(full)

    def installed(name: str, values: dict[str, Any]) -> Release:
        trainjob = Release(full, room, name, "TrainJob")
        trainjob.install("-f", values_file(tmp_path, {"job": {"kind": "TrainJob"}}, values))
        return trainjob

    full.create(queue(room, quota(1)))
    seen = told(command, installed("queued", {"scheduling": {"queue": {"name": "gpus"}}}), "queued")
    assert "queue gpus: QuotaReserved: " in seen["evidence"]
    assert "insufficient quota" in seen["evidence"]

    assert "node affinity/selector" in told(command, installed("elsewhere", NO_NODE), "unschedulable")["evidence"]

    broken = installed("broken", HELD)
    full.wait(lambda: len(broken.placed()) == 2, "pods placed")
    end_preflight(full, room, min(broken.pods()))
    seen = told(command, broken, "preflight")
    assert "3 are missing; fix: copy them again" in seen["evidence"]
    assert seen["exitCode"] == 1

    limit(full, room)
    assert "exceeded quota: none" in told(command, installed("refused", {}), "not-created")["evidence"]


# What the chart starts


def fetch(port: int, path: str) -> str:
    """What a real HTTP client gets; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@contextmanager
def started(container: dict[str, Any], folder: Path, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a container's command and arguments as they are, in a folder that stands for its working one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {entry["name"]: entry["value"] for entry in container["env"]} | {"PATH": path, "TMPDIR": str(folder)}
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*container["command"], *container["args"]], cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        stop(process)


def metrics(port: int) -> dict[str, float]:
    """The samples by name, as Prometheus' own parser reads them; judgements by their code."""
    text = fetch(port, "/metrics")
    return {
        sample.labels.get("code", sample.name): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_exporter_runs_beside_the_master_and_does_not_keep_the_job(
    sandbox: Sandbox, release: Release, tmp_path: Path
) -> None:
    """The pod on the API server, and what it runs: the ConfigMap's files, command and arguments unchanged."""
    results, (port,) = tmp_path / "results", free_ports(1)
    notes = install(
        release,
        tmp_path,
        {
            "storage": {"results": {"mountPath": str(results)}},
            "monitoring": {"exporter": {"enabled": True, "port": port}, "plan": {"stepSeconds": 1.0}},
        },
    )
    release.wait_for("Running")
    name = release.job()["metadata"]["name"]
    assert f"kubectl port-forward {name}-master-0 {port} -n {release.namespace} &" in notes
    master, worker = (release.pods()[f"{name}-{role}-0"] for role in ("master", "worker"))
    sidecar = {c["name"]: c for c in master["spec"]["initContainers"]}["exporter"]
    assert sidecar["restartPolicy"] == "Always"
    assert [c["name"] for c in master["spec"]["containers"]] == ["pytorch"]
    assert master["status"]["qosClass"] == "Guaranteed"
    assert "exporter" not in [c["name"] for c in worker["spec"]["initContainers"]]

    mounted = tmp_path / "mounted"
    mount(release, master, "config", mounted)
    with started(sidecar, mounted, tmp_path / "said") as process:
        until(lambda: fetch(port, "/healthz") == "ok\n", "the exporter answers")
        assert "neva_step" not in metrics(port), "no log yet"
        log = results / "neva" / "logs" / "node-00000.log"
        log.parent.mkdir(parents=True)
        with log.open("w") as training:
            training.write("\n".join([ranks(16), REGISTERED.format(16), *(line(step) for step in range(25)), ""]))
            training.flush()
            until(lambda: metrics(port).get("neva_step") == 25, "step 25 is served")
            training.write(SAVED.format(25) + "\n" + line(25) + "\n")
            training.flush()
            until(lambda: metrics(port).get("neva_step") == 26, "step 26 is served")
        seen = metrics(port)
        assert (seen["neva_max_steps"], seen["neva_samples_per_second"], seen["neva_of_plan_ratio"]) == (
            STEPS,
            256,
            0.5,
        )
        assert seen["neva_last_checkpoint_step"] == 25
        assert seen["slow"] == 1
        assert seen["gpu-oom"] == 0
        process.send_signal(signal.SIGTERM)  # the kubelet's, once training has ended
        assert process.wait(timeout=PATIENCE) == 0

    sandbox.complete(f"{name}-master-0", namespace=release.namespace)
    release.wait_for("Succeeded")
    (status,) = (
        s for s in release.pods()[f"{name}-master-0"]["status"]["initContainerStatuses"] if s["name"] == "exporter"
    )
    assert "running" in status["state"], "it was not what the job waited for"


EVENTS = """
import sys
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter(sys.argv[1]) as writer:
    for step in range(10):
        writer.add_scalar("reduced_train_loss", 10 - step, step)
"""


def test_tensorboard_shows_a_runs_event_file(sandbox: Sandbox, release: Release, tmp_path: Path) -> None:
    """The Deployment becomes available; its command, unchanged, serves what a real SummaryWriter wrote."""
    results, (port,) = tmp_path / "results", free_ports(1)
    values = {
        "storage": {"results": {"mountPath": str(results)}},
        "tensorboard": {"enabled": True, "port": port},
    }
    notes = install(release, tmp_path, values)
    assert f"kubectl port-forward service/neva-tensorboard {port} -n {release.namespace}" in notes
    release.wait_for("Running")

    def available() -> bool:
        status = sandbox.get("deployment", "neva-tensorboard", namespace=release.namespace)["status"]
        return bool(status.get("availableReplicas") == 1)

    sandbox.wait(available, "TensorBoard available")
    (pod,) = sandbox.pods("app.kubernetes.io/component=tensorboard", release.namespace)
    slices = sandbox.get(
        "endpointslices", "-l", "kubernetes.io/service-name=neva-tensorboard", namespace=release.namespace
    )
    (found,) = slices["items"]
    assert [e["addresses"] for e in found["endpoints"]] == [[pod["status"]["podIP"]]], "no training pod among them"
    assert found["ports"][0]["port"] == port
    (container,) = pod["spec"]["containers"]
    (shown,) = (m for m in container["volumeMounts"] if m["name"] == "results")
    assert shown == {"name": "results", "mountPath": str(results), "readOnly": True}

    mount(release, next(iter(release.pods().values())), "config", tmp_path / "mounted")
    config = (tmp_path / "mounted" / "neva_pretrain.yaml").read_text()
    folder = yaml.safe_load(config)["exp_manager"]["explicit_log_dir"]
    subprocess.run([sys.executable, "-c", EVENTS, folder], check=True)
    with started(container, tmp_path, tmp_path / "said"):
        probe = container["readinessProbe"]["httpGet"]["path"]
        until(lambda: "TensorBoard" in fetch(port, probe), "the probe's page")
        run = str(Path(folder).relative_to(results))
        tags = "/data/plugin/scalars/tags"
        until(lambda: run in json.loads(fetch(port, tags) or "{}"), "the run's tags")
        assert "reduced_train_loss" in json.loads(fetch(port, tags))[run]
        query = urllib.parse.urlencode({"run": run, "tag": "reduced_train_loss"})
        points = json.loads(fetch(port, f"/data/plugin/scalars/scalars?{query}"))
        assert [(step, value) for _, step, value in points] == [(step, 10 - step) for step in range(10)]


def test_only_looking_on_never_touches_the_running_job(sandbox: Sandbox, release: Release, tmp_path: Path) -> None:
    """TensorBoard and dashboard come and go by upgrades while it runs."""
    install(release, tmp_path)
    release.wait_for("Running")
    before = release.job()["metadata"]
    watch = {
        "tensorboard": {"enabled": True},
        "monitoring": {"dashboard": {"enabled": True}},
    }
    install(release, tmp_path, watch, verb="upgrade")
    (dashboard,) = sandbox.get("configmaps", "-l", "grafana_dashboard=1", namespace=release.namespace)["items"]
    assert json.loads(dashboard["data"]["neva-pretrain.json"])["title"] == "NeVa pretraining"
    install(release, tmp_path, verb="upgrade")
    assert not sandbox.get("deployments", namespace=release.namespace)["items"]
    after = release.job()["metadata"]
    assert (after["uid"], after["generation"]) == (before["uid"], before["generation"])


def stub(plural: str, kind: str) -> dict[str, Any]:
    """A kind of the Prometheus operator that takes anything; its real schema is what kubeconform checks."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def test_without_the_prometheus_operator_its_objects_are_refused_and_nothing_is_made(
    sandbox: Sandbox, release: Release
) -> None:
    on = [w for k in ("exporter", "podMonitor") for w in ("--set", f"monitoring.{k}.enabled=true")]
    done = release.helm("install", release.name, str(ROOT / "charts" / "neva-pretrain"), *on)
    assert done.returncode != 0
    assert 'no matches for kind "PodMonitor"' in done.stderr
    assert not sandbox.get("pytorchjobs", namespace=release.namespace)["items"]


def test_with_the_prometheus_operator_its_objects_are_made(sandbox: Sandbox, release: Release, tmp_path: Path) -> None:
    stubs = [stub("podmonitors", "PodMonitor"), stub("prometheusrules", "PrometheusRule")]
    sandbox.create(stubs)
    try:
        for kind in ("podmonitors", "prometheusrules"):
            sandbox.kubectl(
                "wait", "--for=condition=Established", f"crd/{kind}.monitoring.coreos.com", "--timeout=300s"
            )
        monitoring = {"exporter": {"enabled": True}, **{k: {"enabled": True} for k in ("podMonitor", "prometheusRule")}}
        notes = install(release, tmp_path, {"fabric": "tcp", "monitoring": monitoring})
        assert "WARNING" not in notes
        monitor = sandbox.get("podmonitor", "neva", namespace=release.namespace)
        release.wait_for("Running")
        selector = ",".join(f"{k}={v}" for k, v in monitor["spec"]["selector"]["matchLabels"].items())
        scraped = [
            pod["metadata"]["name"]
            for pod in sandbox.pods(selector, release.namespace)
            for c in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
            if any(port.get("name") == "metrics" for port in c.get("ports", []))
        ]
        assert scraped == [f"{release.job()['metadata']['name']}-master-0"]
        rule = sandbox.get("prometheusrule", "neva", namespace=release.namespace)
        alerts = yaml.safe_load((ROOT / "charts" / "neva-pretrain" / "files" / "alerts.yaml").read_text())
        assert rule["spec"] == alerts
    finally:
        release.uninstall()
        for one in stubs:
            sandbox.kubectl("delete", "crd", one["metadata"]["name"])
