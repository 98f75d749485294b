"""NOTES.txt, which helm template leaves out: here it is rendered as the text of a ConfigMap in a copy of the chart."""

import re
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain.cluster.references import references
from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.chart.helm import notes

FOUR_NODES: dict[str, Any] = {"training": {"nodes": 4, "globalBatchSize": 1024}}


def test_notes_tell_what_was_rendered_and_what_comes_next(folder: Path) -> None:
    text = notes(folder, FOUR_NODES)
    name = helm.job(helm.render(FOUR_NODES))["metadata"]["name"]
    assert "llama2_7b_chat on 32 GPUs" in text
    assert "1 master and 3 worker(s)" in text
    for command in (
        f"kubectl logs -f {name}-master-0 -n default",
        f"kubectl describe pytorchjob {name}",
        "helm uninstall neva",
    ):
        assert command in text
    assert "<no value>" not in text
    assert "e+0" not in text


def test_notes_of_a_trainjob_find_its_pods_by_label(folder: Path) -> None:
    """Its pods' names end in random letters."""
    values = {**FOUR_NODES, "fabric": "tcp", "job": {"kind": "TrainJob"}, "scheduling": {"queue": {"name": "lq"}}}
    text = notes(folder, values)
    name = helm.job(helm.render(values))["metadata"]["name"]
    label = f"jobset.sigs.k8s.io/jobset-name={name}"
    for command in (
        f"kubectl get trainjob {name} -n default -w",
        f"kubectl get pods -n default -l {label} -o wide",
        f"kubectl logs -f -l {label},batch.kubernetes.io/job-completion-index=0 -c node --tail=-1 -n default",
        f"kubectl describe trainjob {name}",
        "kubectl get workloads.kueue.x-k8s.io -n default",
    ):
        assert command in text
    assert "pytorch" not in text
    assert "for the first one" in text
    assert "WARNING" not in text


def test_notes_warn_where_kueue_does_not_place_a_trainjob(folder: Path) -> None:
    topology = {"queue": {"name": "lq", "topology": {"required": "rack"}}}
    words = "Kueue before 0.17, or Trainer before 2.2, may not place the pods of a TrainJob"
    assert words in notes(folder, {"job": {"kind": "TrainJob"}, "scheduling": topology})
    assert words not in notes(folder, {"scheduling": topology})


def test_a09_a10_notes_name_the_init_container_and_the_wait(folder: Path) -> None:
    text = notes(folder, {**FOUR_NODES, "rendezvous": {"waitSeconds": 1200}})
    assert "--pytorch-init-container-image" in text
    assert "up to 1200 s for its preflight" in text
    assert "of the operator" not in notes(folder)


def test_notes_of_prepare_name_what_is_made_and_how_to_train(folder: Path) -> None:
    values = {"prepare": {"enabled": True, "llm": {"source": "/models/preset/in"}, "dataset": {"enabled": False}}}
    text = notes(folder, values)
    assert "kubectl logs -f job/neva-prepare-" in text
    assert "/Llama-2-7b-chat/tokenizer_neva.model" in text
    assert re.search(r"dataset +off", text)
    assert "--reset-then-reuse-values --set prepare.enabled=false" in text  # N24: the chart may be a newer one then
    assert "pytorchjob" not in text


def test_a08_notes_tell_who_gives_up_when(folder: Path) -> None:
    text = notes(folder, {**FOUR_NODES, "rendezvous": {"timeoutSeconds": 2000}, "restart": {"limit": 5}})
    assert "fails after 5 restarts in a row" in text
    assert re.search(r"hang is seen after 120 s .* after 1800 s, torchrun on a lost node after 2000 s", text, re.S)
    assert "The first failure ends the job" in notes(folder, {**FOUR_NODES, "restart": {"enabled": False}})


@pytest.mark.parametrize("where", ["securityContext", "podSecurityContext"])
def test_c02_notes_warn_of_rdma_without_root(folder: Path, where: str) -> None:
    said = notes(folder, {where: {"runAsUser": 1000}, "fabric": "ib"})
    assert "WARNING: as uid 1000 the capability IPC_LOCK" in said
    assert "WARNING" not in notes(folder, {where: {"runAsUser": 1000}, "fabric": "tcp"})
    assert "WARNING" not in notes(folder)


def test_c02_the_containers_user_wins_over_the_pods(folder: Path) -> None:
    for pod, container, warned in ((1000, 0, False), (0, 5, True)):
        users = {"podSecurityContext": {"runAsUser": pod}, "securityContext": {"runAsUser": container}}
        assert ("WARNING" in notes(folder, {**users, "fabric": "ib"})) is warned


def test_d13_notes_say_that_a_checkpoint_is_the_projector_only(folder: Path) -> None:
    assert "projector only" in notes(folder)
    assert "no checkpoint is saved" in notes(folder, {"checkpoint": {"enabled": False}})


def test_u10_notes_name_what_must_be_there_and_warn_of_what_is_not(folder: Path) -> None:
    """A render without a cluster finds nothing. What a tenant may have no right to read is named and not looked up."""
    values = {
        "image": {"pullSecrets": ["ngc"]},
        "secrets": {"env": {"A_TOKEN": {"name": "tokens", "key": "a"}, "B_TOKEN": {"name": "tokens", "key": "b"}}},
        "storage": {
            "datasets": {"existingClaim": "data"},
            "models": {"storageClassName": "fast"},
            "scratch": {"existingClaim": "neva-results"},
        },
        "extraVolumes": [
            {"name": "a", "secret": {"secretName": "certs"}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "more"}},
        ],
        "scheduling": {"priorityClassName": "high", "queue": {"name": "lq", "priorityClass": "first"}},
        "serviceAccount": {"create": False, "name": "trainer"},
    }
    looked = "secret/ngc, secret/tokens, secret/certs, persistentvolumeclaim/data, persistentvolumeclaim/more"
    others = "serviceaccount/trainer localqueues.kueue.x-k8s.io/lq"
    for more in ({}, {"prepare": {"enabled": True, "llm": {"source": "a/b"}}}):
        text = notes(folder, {**values, **more})
        assert f"WARNING: not in namespace default, and pods do not start without: {looked}\n" in text
        assert f"  kubectl get -n default {looked.replace(',', '')} {others}\n" in text
        clusters = "storageclass/fast workloadpriorityclasses.kueue.x-k8s.io/first priorityclass/high"
        assert f"  kubectl get {clusters}\n" in text


def test_u10_claims_are_looked_up_only_where_helm_reads_claims_anyway(folder: Path) -> None:
    """A forbidden lookup fails the install: of a release without claims of its own none is read."""
    names = ("datasets", "models", "results")
    text = notes(folder, {"storage": {name: {"existingClaim": name} for name in names}})
    assert "not in namespace" not in text
    assert "  kubectl get -n default persistentvolumeclaim/datasets persistentvolumeclaim/models" in text
    assert "Must be there" not in notes(folder)
    assert "secret/" not in notes(folder, {"secrets": {"wandb": {"name": "w"}, "huggingface": {"name": "h"}}}), (
        "not used"
    )
    used = {"wandb": {"enabled": True}, "secrets": {"wandb": {"name": "w"}, "huggingface": {"name": "h"}}}
    assert "secret/w secret/h" in notes(folder, {**used, "hf": {"online": True}})


def test_check_of_a_cluster_looks_for_what_the_notes_name(folder: Path) -> None:
    values: dict[str, Any] = {
        "image": {"pullSecrets": ["ngc"]},
        "secrets": {"env": {"A": {"name": "s", "key": "a"}}, "wandb": {"name": "w"}, "huggingface": {"name": "h"}},
        "wandb": {"enabled": True},
        "hf": {"online": True},
        "storage": {"datasets": {"existingClaim": "data"}, "models": {"storageClassName": "fast"}},
        "extraVolumes": [
            {"name": "a", "secret": {"secretName": "certs"}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "more"}},
            {"name": "c", "configMap": {"name": "c"}},
            {"name": "d", "configMap": {"name": "d", "optional": True}},
            {"name": "e", "secret": {"secretName": "e", "optional": True}},
        ],
        "scheduling": {"priorityClassName": "high", "queue": {"name": "lq", "priorityClass": "first"}},
        "serviceAccount": {"create": False, "name": "trainer"},
    }
    _, _, must = notes(folder, values).partition("Must be there before pods can start:\n")
    named = {each for line in must.splitlines()[:2] for each in line.split() if "/" in each}
    assert {str(each) for each in references(Facts.of(values).shaped)} == named
    assert len(named) == 13
