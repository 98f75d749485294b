"""N19: the hook that guards a running job from helm rollback."""

from typing import Any

import pytest

from tests.chart import helm

PREPARE = {"prepare": {"enabled": True, "llm": {"source": "org/llm"}}, "hf": {"online": True}}


def guard(partial: dict[str, Any]) -> list[helm.Manifest]:
    return [m for m in helm.render(partial) if helm.of_rollback(m)]


@pytest.mark.parametrize("partial", [{}, PREPARE, {"job": {"kind": "TrainJob"}}])
def test_n19_a_rollback_first_asks_whether_the_release_trains(partial: dict[str, Any]) -> None:
    """Whatever the revision to go back to makes, its hook runs while the newer one's job is there."""
    config, job = guard({**partial, "storage": {"results": {"subPath": "team", "existingClaim": "qa"}}})
    assert (config["kind"], job["kind"]) == ("ConfigMap", "Job")
    assert int(config["metadata"]["annotations"]["helm.sh/hook-weight"]) < 0, "the pod mounts it"
    for manifest in (config, job):
        policy = manifest["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert policy == "before-hook-creation,hook-succeeded", (
            "a refusal can be read, and the next rollback tries anew"
        )
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"] < 300) == (0, True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert container["args"] == ["--results=/results", "--release=neva", "--namespace=default"]
    assert {e["name"]: e.get("value") for e in container["env"]}["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == "/results")
    assert (mount["readOnly"], mount["subPath"]) == (True, "team")
    assert {v.get("configMap", {}).get("name") for v in pod["volumes"]} == {config["metadata"]["name"], None}


def test_n19_it_waits_in_no_queue() -> None:
    """A rollback may not wait for GPUs: no queue's label, no scheduler of gangs, no topology, no priority."""
    scheduling = {"queue": {"name": "q"}, "priorityClassName": "high"}
    _, job = guard({"scheduling": scheduling})
    labels = job["metadata"]["labels"] | job["spec"]["template"]["metadata"]["labels"]
    assert not [name for name in labels if "kueue" in name]
    assert not {"priorityClassName", "schedulerName", "hostNetwork"} & set(job["spec"]["template"]["spec"])


def test_n19_it_can_be_switched_off() -> None:
    assert guard({"rollbackGuard": {"enabled": False}}) == []


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_u13_argo_cd_deletes_no_job_by_itself(kind: str) -> None:
    """U13: with other values the job has another name, and an automatic prune would delete the one that runs."""
    (job,) = (m for m in helm.render({"job": {"kind": kind}}) if m["kind"] == kind)
    assert job["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=confirm"
