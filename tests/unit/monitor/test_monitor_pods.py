"""Why a job does not run (U02), from what kubectl was seen to answer; odd answers (K20); rights on one kind (N30)."""

import contextlib
import copy
import io
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from neva_pod.monitor.judge import Severity, Status, exit_code
from neva_pod.monitor.run import Run
from neva_pretrain.kubectl import ClusterError, trouble
from neva_pretrain.model.hardware import H100
from neva_pretrain.monitor import page, report, view
from neva_pretrain.monitor import settings as of_run
from neva_pretrain.monitor.findings import CODES
from neva_pretrain.monitor.jobs import Jobs
from neva_pretrain.monitor.pods import Look
from neva_pretrain.monitor.sources import JobLog
from neva_pretrain.output import printable
from tests.unit.monitor.conftest import ROOT

Object = dict[str, Any]
NOW = 1767225700.0  # a minute and forty seconds after the objects were made
CREATED = "2026-01-01T00:00:00Z"
GPUS = "0/16 nodes are available: 16 Insufficient nvidia.com/gpu. preemption: 0/16 nodes are available."
NO_CLAIM = 'persistentvolumeclaim "llava" not found'
UNBOUND = "0/16 nodes are available: pod has unbound immediate PersistentVolumeClaims. not eligible due to preemption."
QUOTA = (
    'Error creating: pods "neva-1-master-0" is forbidden: exceeded quota: gpus, requested: '
    "requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=4"
)
POD_SECURITY = (
    'Error creating: pods "neva-1-master-0" is forbidden: violates PodSecurity "restricted:latest": unrestricted '
    "capabilities"
)
REPORT = """\
ok       gpus       8 GPUs
FAILED   dataset    /datasets/preset/images: must have the images of the annotations; 3 of 1000 are missing
                    fix: copy them again
FAILED   resume     checkpoint of TP 8; training.tensorParallelSize is 4
ok       tokenizer  32000 pieces
preflight: 2 failed, 0 warning, 2 ok, 0 skipped
"""


class Recorded(Jobs):
    """A kubectl that gives what it was seen to give, by kind, or by ``logs POD CONTAINER``."""

    def __init__(self, **answers: object) -> None:
        super().__init__(None, None)
        self.answers = answers
        self.asked: list[str] = []

    def _ask(self, words: Sequence[str]) -> bytes:
        plain = [w for w in words if not w.startswith("--")]
        options = dict(w.removeprefix("--").split("=", 1) for w in words if "=" in w)
        key = plain[1].split(".")[0] if plain[0] == "get" else f"{plain[1]}/{options['container']}"
        self.asked.append(key)
        if key in ("pytorchjobs", "trainjobs") and options.get("field-selector"):
            return b'{"items": []}'
        answer = self.answers.get(key, [])
        if isinstance(answer, bytes):
            return answer
        if isinstance(answer, str):
            if answer.startswith(("Error", "error")):
                raise trouble(f"kubectl {words[0]} {words[1]}", answer.encode())
            return answer.encode()
        return json.dumps({"items": answer}).encode()


def job(kind: str = "PyTorchJob", **spec: Any) -> Object:
    nodes: Object = {"pytorchReplicaSpecs": {"Master": {"replicas": 1}, "Worker": {"replicas": 1}}}
    return {
        "kind": kind,
        "metadata": {"name": "neva-1", "uid": "j", "creationTimestamp": CREATED, "annotations": {}},
        "spec": {**(nodes if kind == "PyTorchJob" else {"trainer": {"numNodes": 2}}), **spec},
        "status": {"conditions": [{"type": "Created", "status": "True", "message": "is created."}]},
    }


def pod(name: str = "neva-1-master-0", phase: str = "Pending", node: str = "gpu-0001", **status: Any) -> Object:
    return {
        "metadata": {"name": name, "uid": name, "creationTimestamp": CREATED, "labels": {}},
        "spec": {"schedulerName": "default-scheduler", **({"nodeName": node} if node else {})},
        "status": {"phase": phase, **status},
    }


def unscheduled(said: str, reason: str = "Unschedulable") -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": said}
    return pod(node="", conditions=[condition])


def main(**state: Any) -> Object:
    """The training container in a state, after an init container that passed."""
    passed = {"name": "init-pytorch", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    return {
        "initContainerStatuses": [passed],
        "containerStatuses": [{"name": "pytorch", "restartCount": 0, **state}],
    }


def scheduled(ago: float) -> Object:
    """A pod's condition that it has a node since so many seconds."""
    since = datetime.fromtimestamp(NOW - ago, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": since}]}


def normal(reason: str, message: str, at: int = 1, name: str = "neva-1-master-0") -> Object:
    return {**event(reason, message, name=name, at=at), "type": "Normal"}


def deleted(pod: Object, ago: float) -> Object:
    """A pod whose grace period was over so many seconds ago."""
    since = datetime.fromtimestamp(NOW - ago, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": since}}


def waiting(reason: str, message: str) -> Object:
    return main(state={"waiting": {"reason": reason, "message": message}})


def ended(code: int, reason: str = "Error", **more: Any) -> Object:
    return main(state={"terminated": {"exitCode": code, "reason": reason, **more}})


def first(**container: Any) -> Object:
    """The exporter in a state; training waits for it."""
    return {
        "initContainerStatuses": [{"name": "exporter", "restartCount": 0, **container}],
        "containerStatuses": [{"name": "pytorch", "state": {"waiting": {"reason": "PodInitializing"}}}],
    }


def event(reason: str, message: str, kind: str = "Pod", name: str = "neva-1-master-0", at: int = 1) -> Object:
    return {
        "involvedObject": {"kind": kind, "name": name},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": f"2026-01-01T00:00:{at:02}Z",
    }


def workload(said: str, kind: str = "QuotaReserved") -> Object:
    return {
        "metadata": {"name": "pytorchjob-neva-1", "ownerReferences": [{"kind": "PyTorchJob", "uid": "j"}]},
        "spec": {"queueName": "research"},
        "status": {"conditions": [{"type": kind, "status": "False", "reason": "Pending", "message": said}]},
    }


def reserved(*checks: tuple[str, str], admitted: Any = None, quota: str = "True") -> Object:
    """What Kueue has quota for, and admission checks in a state and with a message."""
    conditions = [{"type": "QuotaReserved", "status": quota, "message": "Quota reserved in ClusterQueue gpus"}]
    if admitted:
        conditions.append({"type": "Admitted", "status": admitted, "message": "has not all checks ready"})
    found = workload("")
    found["status"] = {
        "conditions": conditions,
        "admissionChecks": [
            {"name": f"check-{n}", "state": state, "message": said} for n, (state, said) in enumerate(checks)
        ],
    }
    return found


RUNNING = {"state": {"running": {"startedAt": CREATED}}}
WAITS: dict[str, Any] = {"initContainerStatuses": [{"name": "init-pytorch", **RUNNING}]}
NOT_READY = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
TAKEN = {"type": "DisruptionTarget", "status": "True"}
PULL = 'Back-off pulling image "nvcr.io/nvidia/nemo:24.70": ErrImagePull: '

CASES: dict[str, tuple[str, Severity, str, Object]] = {
    # name: code, level, a part of the evidence, what kubectl answers
    "no room": ("unschedulable", Severity.WARNING, GPUS, {"pods": [unscheduled(GPUS)]}),
    "no scheduler": ("unschedulable", Severity.WARNING, "is my-scheduler running?", {
        "pods": [{**pod(node=""), "spec": {"schedulerName": "my-scheduler"}}]}),
    "a gate": ("queued", Severity.WARNING, "non-empty scheduling gates", {
        "pods": [unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated")]}),
    "no claim": ("volume", Severity.FAILED, NO_CLAIM, {"pods": [unscheduled(NO_CLAIM)]}),
    "a claim without a volume": ("volume", Severity.WARNING,
        'results: ProvisioningFailed: storageclass "x" not found', {
        "pods": [{**unscheduled(UNBOUND), "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "results"}}]}}],
        "events": [event("ProvisioningFailed", 'storageclass "x" not found', "PersistentVolumeClaim", "results")]}),
    "volumes elsewhere": ("volume", Severity.WARNING, "volume node affinity conflict", {
        "pods": [unscheduled("0/16 nodes are available: 16 node(s) had volume node affinity conflict.")]}),
    "no such tag": ("image", Severity.FAILED, "pytorch: ImagePullBackOff: Back-off", {
        "pods": [pod(**waiting("ImagePullBackOff", PULL + "nvcr.io/nvidia/nemo:24.70: not found"))]}),
    "a registry that is away": ("image", Severity.WARNING, "i/o timeout", {
        "pods": [pod(**waiting("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout"))]}),
    "no name of an image": ("image", Severity.FAILED, "exporter: InvalidImageName", {
        "pods": [pod(**first(state={"waiting": {"reason": "InvalidImageName", "message": "couldn't parse"}}))]}),
    "no Secret": ("container", Severity.FAILED, 'CreateContainerConfigError: secret "wandb" not found', {
        "pods": [pod(**waiting("CreateContainerConfigError", 'secret "wandb" not found'))]}),
    "no command": ("container", Severity.FAILED, "StartError: exec: /bin/bash: no such file", {
        "pods": [pod(phase="Failed", **ended(128, "StartError", message="exec: /bin/bash: no such file"))]}),
    "a mount": ("volume", Severity.WARNING, "FailedMount: MountVolume.SetUp failed: hostPath type check failed", {
        "pods": [pod(**waiting("ContainerCreating", ""))],
        "events": [event("FailedScheduling", "old", at=3),
                   event("FailedMount", "MountVolume.SetUp failed: hostPath type check failed", at=2)]}),
    "a mount of a Secret": ("volume", Severity.FAILED, 'secret "key" not found', {
        "pods": [pod()], "events": [event("FailedMount", 'MountVolume.SetUp failed: secret "key" not found')]}),
    "an attachment": ("volume", Severity.WARNING, "Multi-Attach", {
        "pods": [pod()], "events": [event("FailedAttachVolume", "Multi-Attach error for volume")]}),
    "a sandbox": ("container", Severity.WARNING, "FailedCreatePodSandBox: network", {
        "pods": [pod()], "events": [event("FailedCreatePodSandBox", "network is not ready")]}),
    "a quota": ("not-created", Severity.WARNING, "FailedCreatePod: " + QUOTA, {
        "events": [event("FailedCreatePod", QUOTA, "PyTorchJob", "neva-1")]}),
    "Pod Security": ("not-created", Severity.FAILED, "violates PodSecurity", {
        "events": [event("FailedCreatePod", POD_SECURITY, "PyTorchJob", "neva-1")]}),
    "a webhook says no": ("not-created", Severity.FAILED, 'webhook "policy.example" denied the request', {
        "events": [event("FailedCreate", 'admission webhook "policy.example" denied the request', "Job",
                         "neva-1-node-0")]}),
    "a webhook that is away": ("not-created", Severity.WARNING, "failed calling webhook", {
        "events": [event("FailedCreatePod", 'failed calling webhook "x": no route', "PyTorchJob", "neva-1")]}),
    "no operator": ("not-created", Severity.WARNING, "no pods after 100 s: is the training operator running?", {
        "pytorchjobs": [{**job(), "status": {}}]}),
    "suspended": ("queued", Severity.WARNING, "the job is suspended", {
        "pytorchjobs": [job(runPolicy={"suspend": True})]}),
    "a queue without room": ("queued", Severity.WARNING, "queue research: QuotaReserved: insufficient unused quota", {
        "pytorchjobs": [job(runPolicy={"suspend": True})],
        "workloads": [workload("insufficient unused quota for nvidia.com/gpu in flavor h100, 8 more needed")]}),
    "no such queue": ("queued", Severity.WARNING, "LocalQueue research doesn't exist", {
        "pytorchjobs": [job(runPolicy={"suspend": True})],
        "workloads": [workload("LocalQueue research doesn't exist")]}),
    "an admission check that waits": ("queued", Severity.WARNING,
        "queue research: quota is reserved; admission check check-1 is Pending: 16 nodes are being provisioned", {
        "pytorchjobs": [job(runPolicy={"suspend": True})],
        "workloads": [reserved(("Ready", "ok"), ("Pending", "16 nodes are being provisioned"))]}),
    "an admission check that waits, as Kueue also says": ("queued", Severity.WARNING,
        "queue research: quota is reserved; admission check check-0 is Pending", {
        "pytorchjobs": [job(runPolicy={"suspend": True})], "workloads": [reserved(("Pending", ""), admitted="False")]}),
    "an admission check that tries again": ("queued", Severity.WARNING,
        "QuotaReserved: Quota reserved in ClusterQueue gpus; admission check check-0 is Retry: no room", {
        "pytorchjobs": [job(runPolicy={"suspend": True})],
        "workloads": [reserved(("Retry", "no room"), ("Pending", "not asked yet"), quota="False")]}),
    "an admission check that says no": ("queued", Severity.FAILED,
        "quota is reserved; admission check check-1 is Rejected: no budget; admission check check-0 is Pending: x",
        {"pytorchjobs": [job(runPolicy={"suspend": True})],
         "workloads": [reserved(("Pending", "x"), ("Rejected", "no budget"))]}),
    "quota and nothing that waits": ("queued", Severity.WARNING, "quota is reserved; the job is about to be resumed", {
        "pytorchjobs": [job(runPolicy={"suspend": True})], "workloads": [reserved(admitted="True")]}),
    "quota and not admitted": ("queued", Severity.WARNING, "quota is reserved; Admitted: has not all checks ready", {
        "pytorchjobs": [job(runPolicy={"suspend": True})], "workloads": [reserved(admitted="False")]}),
    "a workload that Kueue has not looked at": ("queued", Severity.WARNING, "queue research: not evaluated yet", {
        "pytorchjobs": [job(runPolicy={"suspend": True})], "workloads": [{**workload(""), "status": {}}]}),
    "a TrainJob in a queue": ("queued", Severity.WARNING, "insufficient", {
        "pytorchjobs": [], "trainjobs": [job("TrainJob", suspend=True)], "workloads": [workload("insufficient")]}),
    "preflight": ("preflight", Severity.FAILED,
        "neva-1-master-0: FAILED dataset /datasets/preset/images: must have the images of the annotations; 3 of 1000 "
        "are missing; fix: copy them again; FAILED resume", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(1))],
        "neva-1-master-0/pytorch": REPORT}),
    "preflight that broke": ("exit", Severity.FAILED, "pytorch: exit code 1: ImportError: no json", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(1))],
        "neva-1-master-0/pytorch": "Traceback (most recent call last):\nImportError: no json\n\n"}),
    "a worker that waits": ("wait-for-master", Severity.WARNING, "init-pytorch has been waiting for 100 s", {
        "pods": [pod("neva-1-worker-0", **WAITS)]}),
    "a worker that waited too long": ("wait-for-master", Severity.WARNING, "init-pytorch ended with code 1", {
        "pods": [pod("neva-1-worker-0", "Failed", initContainerStatuses=[
            {"name": "init-pytorch", "state": {"terminated": {"exitCode": 1}}}])]}),
    "a node that never came": ("exit", Severity.FAILED, "pytorch: exit code 69 (a node did not come in time)", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(69))],
        "neva-1-master-0/pytorch": "neva: waiting\nneva: ERROR: node 1: not there after 900 s\n"}),
    "no progress": ("exit", Severity.FAILED, "exit code 70 (gave up after restarts without progress)", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(70))]}),
    "a wrong environment": ("exit", Severity.FAILED, "(wrong environment): neva: ERROR: PET_NODE_RANK: not set", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(64))],
        "neva-1-master-0/pytorch": "neva: one\nneva: ERROR: PET_NODE_RANK: not set on a job of 2 nodes\n"}),
    "an exception": ("exit", Severity.FAILED, "exit code 1: KeyError: 'x'", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(1))],
        "neva-1-master-0/pytorch": "Traceback (most recent call last):\nKeyError: 'x'\nbye\n"}),
    "told to stop": ("terminated", Severity.WARNING, "exit code 143", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(143))]}),
    "out of memory": ("host-oom", Severity.FAILED, "pytorch: OOMKilled, exit code 137", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(137, "OOMKilled"))]}),
    "out of memory, again": ("host-oom", Severity.FAILED, "OOMKilled", {
        "pods": [pod(phase="Running", **main(state={"waiting": {"reason": "CrashLoopBackOff"}},
                                             lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))]}),
    "killed": ("exit", Severity.FAILED, "exit code 137 (killed", {
        "pods": [pod("neva-1-master-0", "Failed", **ended(137))]}),
    "evicted": ("evicted", Severity.WARNING, "Evicted: The node was low on resource: memory", {
        "pods": [pod("neva-1-master-0", "Failed", reason="Evicted", message="The node was low on resource: memory.")]}),
    "preempted": ("evicted", Severity.WARNING, "PreemptionByScheduler: default-scheduler: preempting", {
        "pods": [pod(phase="Running", conditions=[{**TAKEN, "reason": "PreemptionByScheduler",
                                                   "message": "default-scheduler: preempting to accommodate"}])]}),
    "no device": ("evicted", Severity.WARNING, "UnexpectedAdmissionError: Allocate failed", {
        "pods": [pod("neva-1-master-0", "Failed", reason="UnexpectedAdmissionError", message="Allocate failed")]}),
    "an image that takes too long": ("creating", Severity.WARNING,
        "node gpu-0001: pytorch: ContainerCreating for 20 min; Pulling: Pulling image \"nemo:24.07\"", {
        "pods": [pod(**waiting("ContainerCreating", ""), **scheduled(1200))],
        "events": [normal("Pulled", "Successfully pulled image \"busybox\"", at=1),
                   normal("Pulling", "Pulling image \"nemo:24.07\"", at=2), normal("Pulling", "x", at=3, name="y")]}),
    "a node that takes nothing up": ("creating", Severity.WARNING,
        "node gpu-0001: its node has not taken it up for 17 min", {"pods": [pod(**scheduled(1000))]}),
    "a pod that does not go": ("terminating", Severity.WARNING,
        "neva-1-worker-0: node gpu-0007: its grace period was over 10 min ago", {
        "pods": [pod(phase="Running", **main(**RUNNING)),
                 deleted(pod("neva-1-worker-0", "Running", "gpu-0007", **main(**RUNNING)), 600)]}),
    "a preempted pod that does not go": ("terminating", Severity.WARNING, "10 min ago; PreemptionByScheduler: gone", {
        "pods": [deleted(pod(phase="Running", conditions=[
            {**TAKEN, "reason": "PreemptionByScheduler", "message": "gone"}]), 600)]}),
    "a pod of a lost node that does not go": ("node-lost", Severity.WARNING, "node gpu-0001: DeletionByTaintManager", {
        "pods": [deleted(pod(phase="Running", conditions=[{**TAKEN, "reason": "DeletionByTaintManager"}]), 600)]}),
    "a node is lost": ("node-lost", Severity.WARNING, "DeletionByTaintManager", {
        "pods": [pod(phase="Running", conditions=[{**TAKEN, "reason": "DeletionByTaintManager"}])]}),
    "a node is not ready": ("node-lost", Severity.WARNING, "node gpu-0001 is not ready", {
        "pods": [pod(phase="Running", conditions=NOT_READY, **main(**RUNNING))]}),
    "a node is not ready, long ago": ("node-lost", Severity.WARNING, "node gpu-0001 is not ready", {
        "pods": [pod(phase="Running", conditions=NOT_READY[:1], **main(ready=True, **RUNNING))]}),
}  # fmt: skip


def recorded(answers: Object) -> Recorded:
    return Recorded(**{"pytorchjobs": [job()], **answers})


def found(kubectl: Recorded) -> list[Any]:
    seen = kubectl.find("neva-1")
    assert seen is not None
    return Look(kubectl, lambda: NOW).findings(seen)


@pytest.mark.parametrize("name", CASES)
def test_u02_the_reason_is_told(name: str) -> None:
    """Its code, how bad it is, the cluster's own words, and what to do; nothing else."""
    code, level, words, answers = CASES[name]
    (finding,) = found(recorded(answers))
    assert (finding.code, finding.level) == (code, level)
    assert words in finding.evidence
    assert finding.cause
    assert finding.action
    assert exit_code([finding]) == {Severity.FAILED: 1, Severity.WARNING: 3}[level]


def test_u02_every_code_is_documented() -> None:
    """In docs/reference/monitor.md's table."""
    text = (ROOT / "docs" / "reference" / "monitor.md").read_text()
    assert [code for code in CODES if f"| `{code}` |" not in text] == []
    assert {code for code, *_ in CASES.values()} | {"log"} == set(CODES)


@pytest.mark.parametrize(
    "pods",
    [
        [pod(phase="Running", **main(**RUNNING)), pod("neva-1-worker-0", "Running", **main(**RUNNING))],
        [pod(phase="Succeeded"), pod("neva-1-worker-0", "Succeeded")],
        [deleted(pod(phase="Running", **main(**RUNNING)), -20), pod("neva-1-worker-0", "Running")],
        [pod(phase="Running", **main(**RUNNING, lastState={"terminated": {"exitCode": 1}})), pod("b", "Running")],
        [{**pod(node=""), "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:01:30Z"}}, pod("b", "Running")],
    ],
)  # fmt: skip
def test_u02_what_goes_well_has_no_finding(pods: list[Object]) -> None:
    """Running, done, told to stop a moment ago, restarted, or just made."""
    assert found(recorded({"pods": pods})) == []


def test_u02_what_a_start_waits_for_is_told_without_alarm() -> None:
    """Images are large: each pod's reason, for how long, and its pull; all is well so far."""
    pods = [pod(**first(**RUNNING), **scheduled(300)), pod("neva-1-worker-0", **waiting("ContainerCreating", ""))]
    pulls = [normal("Pulling", 'Pulling image "nemo:24.07"')]
    (finding,) = found(recorded({"pods": pods, "events": pulls}))
    assert (finding.code, finding.level) == ("creating", Severity.OK)
    assert finding.title == "its containers are not created yet: 2 of 2 pods"
    assert finding.evidence.splitlines() == [
        'neva-1-master-0: pytorch: PodInitializing for 5 min; Pulling: Pulling image "nemo:24.07"',
        "neva-1-worker-0: pytorch: ContainerCreating for 100 s",
    ]
    assert exit_code([finding]) == 0
    forbidden = "Error from server (Forbidden): events is forbidden"
    drawn = io.StringIO()
    run = Run(of_run.from_facts({}, H100))
    Console(file=drawn, width=100).print(view.render(run, [finding], Status.STARTING, 100))
    assert "OK: its containers are not created yet: 2 of 2 pods" in drawn.getvalue()
    (finding,) = found(recorded({"pods": pods[1:], "events": forbidden}))
    assert finding.evidence == "neva-1-worker-0: pytorch: ContainerCreating for 100 s"


def test_u02_an_older_pod_that_does_not_go_is_told() -> None:
    """A Job makes another in its place, which may wait for its GPUs."""
    old = deleted(pod("neva-1-node-0-0-abc", "Running", "gpu-0007", **main(**RUNNING)), 3600)
    new = unscheduled(GPUS)
    new["metadata"] |= {"name": "neva-1-node-0-0-xyz", "creationTimestamp": "2026-01-01T00:01:00Z"}
    for each in (old, new):
        each["metadata"]["labels"] = {"batch.kubernetes.io/job-completion-index": "0"}
    kubectl = recorded({"pytorchjobs": [], "trainjobs": [job("TrainJob", trainer={"numNodes": 1})], "pods": [new, old]})
    by_code = {finding.code: finding for finding in found(kubectl)}
    assert by_code.keys() == {"unschedulable", "terminating"}
    assert by_code["terminating"].evidence == "neva-1-node-0-0-abc: node gpu-0007: its grace period was over 60 min ago"


def gang(master: Object | None, worker: Object) -> list[Object]:
    """The pods of a job of 16 nodes, eight GPUs each."""
    workers = [copy.deepcopy(worker) for _ in range(15)]
    for n, each in enumerate(workers):
        each["metadata"] |= {"name": f"neva-1-worker-{n}", "uid": f"w{n}"}
    pods = [*([master] if master else []), *workers]
    for each in pods:
        each["spec"]["containers"] = [{"resources": {"limits": {"nvidia.com/gpu": "8", "rdma/hca": "1"}}}]
    return pods


def of_sixteen(pods: list[Object], **more: Any) -> dict[str, Any]:
    """The findings of a job of 16 nodes, by code."""
    spec: Object = {"pytorchReplicaSpecs": {"Master": {"replicas": 1}, "Worker": {"replicas": 15}}}
    return {each.code: each for each in found(recorded({"pytorchjobs": [job(**spec)], "pods": pods, **more}))}


@pytest.mark.parametrize(
    ("master", "awaited"),
    [
        (unscheduled(GPUS), f"neva-1-master-0: Unschedulable: {GPUS}"),
        (pod(**waiting("ImagePullBackOff", PULL)), f"neva-1-master-0: pytorch: ImagePullBackOff: {PULL}".rstrip(": ")),
        (pod(**waiting("ContainerCreating", "")), "neva-1-master-0: pytorch: ContainerCreating for 100 s"),
        (pod(phase="Running", **main(**RUNNING)), "neva-1-master-0, which is Running"),
        (None, "the master, which has no pod"),
    ],
    ids=["no node", "image", "creating", "running", "no pod"],
)
def test_u02_what_is_held_for_the_master_is_told(master: Object | None, awaited: str) -> None:
    """How many pods hold how many GPUs, for which pod, and why that does not start."""
    seen = of_sixteen(gang(master, pod(**WAITS)))["wait-for-master"]
    assert seen.evidence.splitlines()[-1] == f"15 of 16 pods hold 120 GPUs while they wait for {awaited}"
    assert seen.title.startswith("waiting for the master: 15 of ")
    assert "rendezvous.waitSeconds has not begun" in seen.action


def test_u02_what_running_pods_hold_for_one_that_has_no_node_is_told() -> None:
    """Workers that run wait as well; their GPUs are those of the fact sheet where the pods do not say."""
    running = pod(phase="Running", **main(**RUNNING))
    seen = of_sixteen(gang(unscheduled(GPUS), running))
    assert seen.keys() == {"unschedulable"}
    held = "15 of 16 pods hold 120 GPUs while they wait for neva-1-master-0: Unschedulable: "
    assert seen["unschedulable"].evidence.splitlines()[-1].startswith(held)
    two = [unscheduled(GPUS), {**running, "metadata": {**running["metadata"], "name": "neva-1-worker-0"}}]
    told = {"neva-pretrain/training": '{"gpusPerNode": 4}'}
    known = job()
    known["metadata"]["annotations"] = told
    for answer, words in ((known, "hold 4 GPUs while"), (job(), "hold their nodes while")):
        (finding,) = found(recorded({"pytorchjobs": [answer], "pods": two}))
        assert f"1 of 2 pods {words}" in finding.evidence
    late = gang(unscheduled(GPUS), running)
    late[3] = unscheduled(GPUS)
    late[3]["metadata"]["name"] = "neva-1-worker-2"
    said = of_sixteen(late)["unschedulable"].evidence.splitlines()[-1]
    assert said.startswith("14 of 16 pods hold 112 GPUs while they wait for 1 more and neva-1-master-0: ")


@pytest.mark.parametrize(
    "pods",
    [
        gang(unscheduled(GPUS), unscheduled(GPUS)),
        gang(pod(**waiting("ContainerCreating", "")), pod(phase="Running", **main(**RUNNING))),
        gang(pod(phase="Failed", **ended(7)), pod(phase="Running", **main(**RUNNING))),
    ],
    ids=["none has a node", "a usual start", "a failure"],
)
def test_u02_nothing_is_held_for_nothing(pods: list[Object]) -> None:
    assert all("while they wait" not in finding.evidence for finding in of_sixteen(pods).values())


def test_u02_many_pods_say_it_once() -> None:
    """16 workers, two different words; the master is named first; few logs are read."""
    names = ["neva-1-master-0", *(f"neva-1-worker-{n}" for n in range(15))]
    logs = {f"{name}/pytorch": f"FAILED   gpus  {8 - n % 2} GPUs\n" for n, name in enumerate(names)}
    kubectl = recorded({"pods": [pod(name, "Failed", **ended(1)) for name in reversed(names)], **logs})
    (finding,) = found(kubectl)
    assert finding.title == "preflight failed: 16 of 16 pods"
    assert finding.evidence.startswith("neva-1-master-0 and 3 more: FAILED gpus 8 GPUs\nneva-1-worker-0 and 3 more: ")
    assert sum(asked.endswith("/pytorch") for asked in kubectl.asked) <= 8


def test_u02_an_older_pod_of_the_same_place_is_history() -> None:
    """A Job keeps the pods that failed before."""
    old, new = pod("neva-1-node-0-0-abc", "Failed", **ended(1)), pod("neva-1-node-0-0-xyz", "Running")
    new["metadata"]["creationTimestamp"] = "2026-01-01T00:01:00Z"
    for each in (old, new):
        each["metadata"]["labels"] = {"batch.kubernetes.io/job-completion-index": "0"}
    kubectl = recorded({"pytorchjobs": [], "trainjobs": [job("TrainJob", trainer={"numNodes": 1})], "pods": [new, old]})
    assert found(kubectl) == []


def test_u02_without_rights_the_rest_is_told() -> None:
    """Events, workloads and logs may be forbidden."""
    no = "Error from server (Forbidden): events is forbidden"
    failed = pod("neva-1-master-0", "Failed", **ended(7))
    answers = {"pods": [failed], "events": no, "workloads": no, "neva-1-master-0/pytorch": no}
    (finding,) = found(recorded(answers))
    assert finding.evidence == "neva-1-master-0: pytorch: exit code 7"
    (finding,) = found(recorded({"pytorchjobs": [job(runPolicy={"suspend": True})], "workloads": no}))
    assert finding.evidence == "the job is suspended"


# N30


FORBIDDEN = (
    'Error from server (Forbidden): {0} is forbidden: User "ann" cannot list resource "{0}" in API group "x" in the '
    'namespace "training"'
)


@pytest.mark.parametrize("other", ["trainjobs", "pytorchjobs"])
def test_n30_rights_on_one_kind_are_enough(other: str) -> None:
    """And where no job is found, the kind that may not be looked at is said."""
    mine = "pytorchjobs" if other == "trainjobs" else "trainjobs"
    kubectl = Recorded(**{mine: [job()], other: FORBIDDEN.format(other)})
    assert JobLog(kubectl, "neva-1").job.kind == mine.removesuffix("s")
    with pytest.raises(ClusterError, match=f"no PyTorchJob or TrainJob .*; kubectl get {other}.*.ann. cannot"):
        JobLog(Recorded(**{mine: [], other: FORBIDDEN.format(other)}), "neva-1")


def test_n30_no_rights_on_pods_are_said_at_once() -> None:
    """They do not come while one waits."""
    log = JobLog(recorded({"pods": FORBIDDEN.format("pods")}), "neva-1", lambda _: pytest.fail("waits"))
    with pytest.raises(ClusterError, match="pods is forbidden"):
        list(log.chunks())


def test_n30_no_rights_at_all_are_said() -> None:
    with pytest.raises(ClusterError, match="pytorchjobs is forbidden"):
        JobLog(Recorded(pytorchjobs=FORBIDDEN.format("pytorchjobs"), trainjobs=FORBIDDEN.format("x")), "neva-1")


# K20


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"null", b"[]", b"7", b'"items"', b"{}", b'{"items": null}', b'{"items": 1}', b'{"items": {}}',
     b"\xff\xfe", b"Flag --x has been deprecated\n{}", b'{"items": [' + b"[" * 100_000, b"1" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["pytorchjobs", "pods", "events", "workloads"])
def test_k20_an_answer_that_is_none_is_a_sentence(kind: str, answer: bytes) -> None:
    answers: Object = {"pods": [unscheduled(NO_CLAIM)], kind: answer}
    if kind == "workloads":
        answers["pytorchjobs"] = [job(runPolicy={"suspend": True})]
    if kind in ("pytorchjobs", "pods"):
        with pytest.raises(ClusterError, match=f"^kubectl get {kind}.*: its answer is not "):
            found(recorded(answers))
    else:
        assert found(recorded(answers)), "what can be told is"


def places(tree: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(p for key, value in below for p in places(value, (*path, key)))]


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 10**400, 1.5, float("nan"), "", "x", "\ud800", "9" * 400, [], [None], [[]], ["x"], {}, {"x": 1},
     [{"name": []}], {"terminated": {"exitCode": "x"}}, {"name": {}}, [{}, None, 1]]
)  # fmt: skip


@settings(max_examples=60)
@given(st.data())
def test_k20_any_value_may_be_anything(data: st.DataObject) -> None:
    """Every value of every recorded answer replaced by something else: a finding or a sentence, never a traceback."""
    _, _, _, case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    answers = copy.deepcopy(recorded(case).answers)
    told = {
        "model": "llama2_7b_chat",
        "training": '{"maxSteps": 5}',
        "gpus": "16",
        "max-steps": "5",
        "checkpoint": "{}",
    }
    for each in [*answers["pytorchjobs"], *answers.get("trainjobs", [])]:  # type: ignore[misc]
        each["metadata"]["annotations"] = {f"neva-pretrain/{key}": text for key, text in told.items()}
    trees = {key: answer for key, answer in answers.items() if isinstance(answer, list)}
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([p for p in places(trees) if len(p) > 1]))
        node: Any = trees
        try:
            for step in path:
                node = node[step]
            node[last] = copy.deepcopy(data.draw(ODD))
        except (KeyError, IndexError, TypeError):  # an earlier change took it away
            continue
    kubectl = Recorded(**{**answers, **trees})
    with contextlib.suppress(ClusterError):
        log = JobLog(kubectl, "neva-1")
        run = Run(of_run.from_facts(of_run.of_annotations(log.job.annotations), H100))
        kubectl.master(log.job)
        seen = Look(kubectl, time.time).findings(log.job)
        for text in (view.plain_line(run, Status.WAITING), page.html(run, seen, Status.WAITING, "now")):
            assert text == printable(text)
        json.dumps(report.as_dict(run, seen, Status.WAITING), allow_nan=False)
