"""The TrainJob: the PyTorchJob's pods and values under Kubeflow Trainer."""

import json
from typing import Any

import pytest

from tests.chart import helm

FOUR: dict[str, Any] = {"training": {"nodes": 4, "globalBatchSize": 1024}}


def trainjob(**more: Any) -> dict[str, Any]:
    """Values of a TrainJob of four nodes."""
    return {**FOUR, "job": {"kind": "TrainJob"}, **more}


def spec(manifests: list[helm.Manifest]) -> dict[str, Any]:
    """What the runtime says."""
    return dict(helm.one(manifests, "TrainingRuntime")["spec"])


def job_of_nodes(manifests: list[helm.Manifest]) -> dict[str, Any]:
    """The spec of the Job that JobSet makes."""
    (node,) = spec(manifests)["template"]["spec"]["replicatedJobs"]
    return dict(node["template"]["spec"])


def test_the_job_is_thin_and_its_runtime_has_its_name() -> None:
    manifests = helm.render(trainjob())
    job, runtime = helm.job(manifests), helm.one(manifests, "TrainingRuntime")
    assert job["metadata"]["name"] == runtime["metadata"]["name"]
    assert job["metadata"]["namespace"] == runtime["metadata"]["namespace"] == "default"
    reference = {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": runtime["metadata"]["name"],
    }
    assert job["spec"] == {"runtimeRef": reference, "trainer": {"numNodes": 4, "numProcPerNode": 8}}
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 4, "torch": {}}, "a field that Trainer 2.2 has dropped"
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    assert node["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert not helm.of_kind(manifests, "PyTorchJob")
    assert not helm.of_kind(helm.render(FOUR), "TrainingRuntime")


def test_helm_makes_the_runtime_before_the_job() -> None:
    """Trainer's webhook refuses a TrainJob whose runtime it has not seen; the ConfigMap between gives it time."""
    kinds = [manifest["kind"] for manifest in helm.render(trainjob()) if not helm.of_rollback(manifest)]
    assert kinds[-5:] == ["TrainingRuntime", "ConfigMap", "ConfigMap", "TrainJob", "Pod"], "the Pod is helm's test"
    assert kinds.index("ConfigMap") < kinds.index("TrainingRuntime"), "the record of the job's kind"
    assert kinds.count("ConfigMap") == 3


@pytest.mark.parametrize("more", [{}, {"extraVolumes": [{"name": "a", "emptyDir": {}}], "fabric": "efa"}])
def test_the_pod_is_the_pytorchjobs_but_for_names_level_and_port(more: dict[str, Any]) -> None:
    ours, theirs = helm.render(trainjob(**more)), helm.render({**FOUR, **more})
    ours_data, theirs_data = helm.config_data(ours), helm.config_data(theirs)
    pod, master = helm.pod(ours, "Node"), helm.pod(theirs, "Master")
    assert pod.pop("restartPolicy") == "Never"
    (node,), (first,) = pod["containers"], master["containers"]
    node["env"].remove({"name": "NEVA_MASTER_PORT", "value": "23456"})
    for container, level in ((node, "auto"), (first, "full")):
        container["env"].remove({"name": "NEVA_PREFLIGHT", "value": level})
    assert node.pop("name") == "node"
    assert first.pop("name") == "pytorch"
    assert first["ports"].pop(0)["name"] == "pytorchjob-port"
    for found in (pod, master):
        (config,) = [v for v in found["volumes"] if v["name"] == "config"]
        for source in helm.sources(config):
            assert source.pop("name").removesuffix("-supervisor") in {
                helm.job(ours)["metadata"]["name"],
                helm.job(theirs)["metadata"]["name"],
            }
    assert pod == master
    assert ours_data == theirs_data, "the same launch script, configuration and settings"


def test_labels_and_annotations_of_the_pods_are_the_workers() -> None:
    values = {
        "podLabels": {"a": 1},
        "workerLabels": {"b": 2},
        "scheduling": {"kai": {"queue": "team"}},
        "rdma": {"networks": ["x/y"]},
    }
    node = helm.replicas(helm.render(trainjob(**values)))["Node"]["template"]["metadata"]
    worker = helm.replicas(helm.render({**FOUR, **values}))["Worker"]["template"]["metadata"]
    assert node == worker
    assert node["labels"]["b"] == "2"


def test_a06_a07_a_pod_that_ended_by_itself_is_not_created_anew() -> None:
    """A Job by itself would try six times, whatever the exit code; without restarts it does not try at all."""
    found = job_of_nodes(helm.render(trainjob()))
    assert found["backoffLimit"] == 2**31 - 1
    disrupted, killed, ended = found["podFailurePolicy"]["rules"]
    assert disrupted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    codes = {"containerName": "node", "operator": "In", "values": list(range(128, 256))}
    assert killed == {"action": "Ignore", "onExitCodes": codes}
    assert ended == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "node", "operator": "NotIn", "values": [0]},
    }
    off = job_of_nodes(helm.render(trainjob(restart={"enabled": False})))
    assert off["backoffLimit"] == 0
    assert "podFailurePolicy" not in off


def test_the_run_policy_is_rendered_where_trainer_has_it() -> None:
    manifests = helm.render(trainjob(runPolicy={"activeDeadlineSeconds": 86400000, "suspend": True}))
    assert job_of_nodes(manifests)["activeDeadlineSeconds"] == 86400000
    assert helm.job(manifests)["spec"]["suspend"] is True
    assert "activeDeadlineSeconds" not in job_of_nodes(helm.render(trainjob()))


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"runPolicy": {"cleanPodPolicy": "All"}}, "runPolicy.cleanPodPolicy: got All;"),
        ({"runPolicy": {"ttlSecondsAfterFinished": 0}}, "runPolicy.ttlSecondsAfterFinished: got 0;"),
        (
            {"scheduling": {"schedulingPolicy": {"queue": "q"}, "schedulerName": "s"}},
            "scheduling.schedulingPolicy.queue: got q;",
        ),
        (
            {"scheduling": {"schedulingPolicy": {"priorityClass": "p"}, "schedulerName": "s"}},
            "scheduling.schedulingPolicy.priorityClass: got p;",
        ),
        ({"scheduling": {"schedulingPolicy": {"minAvailable": 4}}}, "scheduling.schedulerName: got nothing;"),
    ],
)
def test_what_trainer_has_no_counterpart_for_is_refused(more: dict[str, Any], key: str) -> None:
    (error,) = helm.render_fails(trainjob(**more))
    assert error.startswith(key)
    assert "with job.kind TrainJob" in error
    helm.render({**FOUR, **more})


def test_a14_the_gang_is_a_pod_group_of_trainer() -> None:
    values = trainjob(scheduling={"schedulingPolicy": {"minAvailable": 4}, "schedulerName": "gang"})
    manifests = helm.render(values)
    assert spec(manifests)["podGroupPolicy"] == {"coscheduling": {"scheduleTimeoutSeconds": 60}}
    assert helm.pod(manifests, "Node")["schedulerName"] == "gang"
    assert "podGroupPolicy" not in spec(helm.render(trainjob()))
    values["scheduling"]["schedulingPolicy"] = {"scheduleTimeoutSeconds": 10000000}
    assert spec(helm.render(values))["podGroupPolicy"]["coscheduling"]["scheduleTimeoutSeconds"] == 10000000


def test_a13_kueue_finds_the_job_by_its_label() -> None:
    queue = {"name": "lq", "priorityClass": "high", "topology": {"required": "a/rack"}}
    manifests = helm.render(trainjob(scheduling={"queue": queue}))
    labels = helm.job(manifests)["metadata"]["labels"]
    assert (labels["kueue.x-k8s.io/queue-name"], labels["kueue.x-k8s.io/priority-class"]) == ("lq", "high")
    assert "suspend" not in helm.job(manifests)["spec"]
    metadata = helm.replicas(manifests)["Node"]["template"]["metadata"]
    assert metadata["annotations"]["kueue.x-k8s.io/podset-required-topology"] == "a/rack"
    assert "kueue.x-k8s.io/podset-group-name" not in metadata["annotations"], "one pod set"
    assert "kueue.x-k8s.io/queue-name" not in metadata["labels"]


def test_a02_the_last_pod_has_a_host_name() -> None:
    """JobSet refuses a job whose longest pod name, with five random characters, is no DNS label."""
    values = trainjob(training={"nodes": 16384, "globalBatchSize": 256 * 16384}, run={"id": "i" * 17})
    name = helm.job(helm.render(values, release="r" * 17))["metadata"]["name"]
    assert len(f"{name}-node-0-16383-abcde") <= 63
    assert "must be at most 35" in helm.render_fails(values, release="r" * 18)[0]


def test_a11_what_the_runtime_says_names_the_job() -> None:
    def name(**more: Any) -> str:
        return str(helm.job(helm.render(trainjob(**more)))["metadata"]["name"])

    changes: list[dict[str, Any]] = [
        {"runPolicy": {"activeDeadlineSeconds": 60}},
        {"restart": {"enabled": False}},
        {"run": {"attempt": 2}},
        {"rendezvous": {"port": 23457}},
        {"podAnnotations": {"a": "b"}},
        {"training": {"nodes": 8, "globalBatchSize": 2048}},
    ]
    found = {name(), str(helm.job(helm.render(FOUR))["metadata"]["name"]), *(name(**change) for change in changes)}
    assert len(found) == 2 + len(changes)
    assert helm.render_text(trainjob()) == helm.render_text(trainjob())


def test_annotations_of_the_job_are_the_pytorchjobs() -> None:
    ours, theirs = (helm.job(helm.render(values))["metadata"] for values in (trainjob(), FOUR))
    assert ours["annotations"] == theirs["annotations"]
    assert ours["labels"] == theirs["labels"]


@pytest.mark.parametrize("name", ["PET_MASTER_PORT", "JOB_COMPLETION_INDEX", "NEVA_MASTER_PORT"])
def test_environment_that_trainer_or_the_chart_sets_is_refused(name: str) -> None:
    (error,) = helm.render_fails(trainjob(env={name: "1"}))
    assert error.startswith(f"env.{name}: got 1; must not be set here;")


@pytest.mark.parametrize("key", ["trainer.kubeflow.org/x", "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/x"])
def test_labels_that_others_own_are_refused(key: str) -> None:
    (error,) = helm.render_fails(trainjob(podLabels={key: "1"}))
    assert error.startswith(f"podLabels.{key}: got 1; must not be set here;")


def test_prepare_needs_no_trainer() -> None:
    values = trainjob(prepare={"enabled": True, "llm": {"source": "/models/preset/in"}})
    kinds = {manifest["kind"] for manifest in helm.render(values)}
    assert "Job" in kinds
    assert not {"TrainJob", "TrainingRuntime"} & kinds


def test_the_settings_are_json() -> None:
    data = helm.config_data(helm.render(trainjob()))
    assert json.loads(data["settings.json"])["training"]["nodes"] == 4
