"""Rendered manifests against the schemas of Kubernetes and the operator; values against values.schema.json."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.chart import helm
from tests.tools.table import KUBERNETES

FILES = sorted((helm.ROOT / "values").glob("*.yaml"))
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "multi-node": {
        "training": {"nodes": 16, "globalBatchSize": 4096},
        "fabric": "roce",
        "podDisruptionBudget": {"enabled": True},
    },
    "efa": {"training": {"nodes": 2, "globalBatchSize": 512}, "fabric": "efa", "commonLabels": {"a": 1, "b": True}},
    "claims": {
        "storage": {
            "datasets": {"existingClaim": "d", "subPath": "a b"},
            "models": {"existingClaim": "m", "readOnly": False},
            "results": {"gpfs": {"nodeLabel": "scale=true"}, "size": "5Ti"},
            "scratch": {"existingClaim": "s"},
        }
    },
    "trainjob": {
        "job": {"kind": "TrainJob"},
        "training": {"nodes": 4, "globalBatchSize": 1024},
        "runPolicy": {"activeDeadlineSeconds": 100000000, "suspend": True},
        "hostNetwork": True,
        "rendezvous": {"port": 24000},
        "scheduling": {
            "schedulerName": "mine",
            "schedulingPolicy": {"minAvailable": 4, "scheduleTimeoutSeconds": 10000000},
            "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 10000000, "effect": "NoExecute"}],
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"},
            ],
        },
    },
    "volumes-and-policies": {
        "storage": {
            "datasets": {
                "gpfs": {
                    "csi": {"volumeHandle": "0;0;1;0A0B0C0D:5D36FE8D;;;/a b", "volumeAttributes": {"x": 1}},
                }
            },
            "models": {"storageClassName": "fast"},
            "results": {"hostPath": "/r"},
            "scratch": {"gpfs": {"nodePath": "/s", "nodeLabel": "scale="}},
        },
        "networkPolicy": {
            "enabled": True,
            "egress": {"hub": {"ports": [{"port": 443}]}},
            "ingress": {"metrics": {"from": [{"namespaceSelector": {}}], "ports": [{"port": 9400}]}},
        },
        "secrets": {"env": {"A_TOKEN": {"name": "a", "key": "b"}}},
    },
    "everything": {
        "training": {"nodes": 4, "globalBatchSize": 1024, "kernels": "fused", "recompute": "full"},
        "hostNetwork": True,
        "rendezvous": {"port": 24000},
        "restart": {"enabled": False},
        "runPolicy": {
            "ttlSecondsAfterFinished": 86400000,
            "activeDeadlineSeconds": 100000000,
        },
        "scheduling": {
            "nodeSelector": {"n/a": True},
            "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 10000000, "effect": "NoExecute"}],
            "avoidNodes": ["n1", "n2"],
            "nodeExpressions": [{"key": "health", "operator": "NotIn", "values": ["bad"]}],
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"},
                {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            ],
            "priorityClassName": "high",
            "schedulerName": "mine",
            "schedulingPolicy": {
                "minAvailable": 4,
                "queue": "q",
                "priorityClass": "p",
                "scheduleTimeoutSeconds": 10000000,
            },
            "queue": {"name": "lq"},
        },
        "podAnnotations": {"x": 1},
        "podLabels": {"y": False},
        "workerLabels": {"z": 0.5},
        "podSecurityContext": {"runAsUser": 2000000, "supplementalGroups": [3000000]},
        "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"add": ["SYS_PTRACE"]}},
        "serviceAccount": {"annotations": {"role": "a"}},
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["a", "b"]},
        "resources": {"shmSize": "64Gi"},
        "extraVolumes": [{"name": "x", "emptyDir": {"sizeLimit": "1Gi"}}],
        "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
        "env": {"A": 1, "B": "true", "C": None, "D": "$(X)"},
        "config": {"model": {"extra": {"deep": [1, 2.5, None]}}},
    },
}


def kubeconform(text: str, version: str) -> dict[str, Any]:
    """Kubeconform's summary and its messages; nothing is fetched."""
    schemas = helm.ROOT / "schemas"
    command = [helm.tool("kubeconform"), "-strict", "-summary", "-output", "json", "-kubernetes-version", version]
    for location in (
        "kubernetes/{{.NormalizedKubernetesVersion}}/{{.ResourceKind}}{{.KindSuffix}}.json",
        "crds/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json",
    ):
        command += ["-schema-location", f"{schemas}/{location}"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    found["code"] = done.returncode
    return found


def assert_valid(text: str) -> None:
    """Valid in every supported version, and really looked at."""
    count = len(helm.parse(text))
    for version in KUBERNETES:
        found = kubeconform(text, version)
        assert found["summary"] == {"valid": count, "invalid": 0, "errors": 0, "skipped": 0}, (version, found)
        assert count > 0
        assert found["code"] == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_renders_are_valid_in_every_kubernetes_version(name: str) -> None:
    assert_valid(helm.render_text(OPTIONS[name]))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_values_files_are_valid_in_every_kubernetes_version(file: Path) -> None:
    assert_valid(helm.render_text(file))


def test_the_values_folder_holds_values_files() -> None:
    assert not (helm.ROOT / "values").is_dir() or FILES


@pytest.mark.parametrize("version", KUBERNETES)
def test_helm_accepts_every_supported_kubernetes_version(version: str) -> None:
    assert helm.render_text(kubernetes=version) == helm.render_text()


def test_an_older_kubernetes_is_refused() -> None:
    assert "1.30" in helm.template(kubernetes="1.29.9").stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('nprocPerNode: "8"', "nprocPerNode: 8"),
        ("cleanPodPolicy:", "cleanPodPolice:"),
        ("imagePullPolicy:", "imagePulPolicy:"),
        ("apiVersion: kubeflow.org/v1", "apiVersion: kubeflow.org/v9"),
    ],
)
def test_h09_a_wrong_manifest_is_no_pass(old: str, new: str) -> None:
    text = helm.render_text()
    assert old in text
    found = kubeconform(text.replace(old, new), helm.KUBERNETES)
    assert found["summary"]["invalid"] + found["summary"]["errors"] >= 1
    assert found["summary"]["skipped"] == 0
    assert found["code"] != 0


# values.schema.json


def schema() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((helm.CHART / "values.schema.json").read_text())
    return read


def parts(node: Any, where: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """All subschemas with their paths."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from parts(value, f"{where}.{key}")


def test_the_schema_is_draft_07() -> None:
    assert schema()["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema())


def test_every_property_has_a_description() -> None:
    missing = [
        f"{where}.{name}"
        for where, node in parts(schema())
        if isinstance(properties := node.get("properties"), dict) and "type" in node
        for name, value in properties.items()
        if not value.get("description")
    ]
    assert not missing


def test_every_object_with_properties_is_closed() -> None:
    """Unless it says that it is open: parts of a Pod, which are Kubernetes' to check."""
    open_ones = [
        where
        for where, node in parts(schema())
        if isinstance(node.get("properties"), dict) and "type" in node and "additionalProperties" not in node
    ]
    assert not open_ones


def kubernetes(kind: str) -> dict[str, Any]:
    """Fields of a part of a Pod in the newest Kubernetes."""
    newest = max(KUBERNETES, key=lambda version: [int(part) for part in version.split(".")])
    file = helm.ROOT / "schemas" / "kubernetes" / f"v{newest}" / "pod-v1.json"
    fields: dict[str, Any] = json.loads(file.read_text())["definitions"][f"api.core.v1.{kind}"]["properties"]
    return fields


@pytest.mark.parametrize(
    ("path", "kind", "without"),
    [
        ("podSecurityContext", "PodSecurityContext", {"windowsOptions"}),
        ("securityContext", "SecurityContext", {"windowsOptions"}),
        ("extraVolumes.items", "Volume", set()),
        # Kubernetes 1.37 has it behind a feature gate, and drops it.
        ("extraVolumeMounts.items", "VolumeMount", {"bindMountOptions"}),
        ("extraVolumes.items.properties.secret", "SecretVolumeSource", {"defaultUser"}),
        ("extraVolumes.items.properties.configMap", "ConfigMapVolumeSource", {"defaultUser"}),
        ("extraVolumes.items.properties.projected", "ProjectedVolumeSource", {"defaultUser"}),
        ("extraVolumes.items.properties.downwardAPI", "DownwardAPIVolumeSource", {"defaultUser"}),
        ("extraVolumes.items.properties.emptyDir", "EmptyDirVolumeSource", {"mode"}),
        ("extraVolumes.items.properties.hostPath", "HostPathVolumeSource", set()),
        ("extraVolumes.items.properties.csi", "CSIVolumeSource", set()),
        ("extraVolumes.items.properties.nfs", "NFSVolumeSource", set()),
        ("extraVolumes.items.properties.image", "ImageVolumeSource", set()),
        ("extraVolumes.items.properties.ephemeral", "EphemeralVolumeSource", set()),
        ("extraVolumes.items.properties.persistentVolumeClaim", "PersistentVolumeClaimVolumeSource", set()),
        ("securityContext.properties.capabilities", "Capabilities", set()),
        ("securityContext.properties.seccompProfile", "SeccompProfile", set()),
        ("securityContext.properties.appArmorProfile", "AppArmorProfile", set()),
        ("securityContext.properties.seLinuxOptions", "SELinuxOptions", set()),
    ],
)
def test_parts_of_a_pod_have_kubernetes_fields(path: str, kind: str, without: set[str]) -> None:
    node = schema()["properties"]
    for key in path.split("."):
        node = node[key]
    assert set(node["properties"]) == set(kubernetes(kind)) - without


BAD: list[tuple[dict[str, Any], str]] = [
    ({"trainig": {}}, "trainig"),
    ({"training": {"node": 2}}, "node"),
    ({"storage": {"model": {}}}, "model"),
    ({"model": {"architecture": {"layers": 2}}}, "layers"),
    ({"scheduling": {"gpuType": {"value": "x"}}}, "value"),
    ({"training": {"nodes": 0}}, "nodes"),
    ({"training": {"nodes": "2"}}, "nodes"),
    ({"training": {"nodes": 1.5}}, "nodes"),
    ({"training": {"nodes": 16385}}, "nodes"),
    ({"training": {"maxSteps": -1}}, "maxSteps"),
    ({"training": {"precision": "fp16"}}, "precision"),
    ({"training": {"learningRate": 0}}, "learningRate"),
    ({"checkpoint": {"enabled": "true"}}, "enabled"),
    ({"checkpoint": {"resume": "yes"}}, "resume"),
    ({"image": {"tag": "latest"}}, "tag"),
    ({"image": {"tag": 24.07}}, "tag"),
    ({"image": {"digest": "sha256:abc"}}, "digest"),
    ({"image": {"repository": "Nvcr.io/NeMo"}}, "repository"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"resources": {"memory": "800GB"}}, "memory"),
    ({"resources": {"cpu": "80 cores"}}, "cpu"),
    ({"fabric": "infiniband"}, "fabric"),
    ({"env": {"A-B": "x"}}, "A-B"),
    ({"env": {"A": ["x"]}}, "env"),
    ({"hf": {"home": "relative"}}, "hf"),
    ({"rendezvous": {"port": 50000}}, "port"),
    ({"restart": {"limit": -1}}, "limit"),
    ({"runPolicy": {"cleanPodPolicy": "none"}}, "cleanPodPolicy"),
    ({"podSecurityContext": {"fsGroup": 1}}, "podSecurityContext"),
    ({"podSecurityContext": {"privileged": True}}, "privileged"),
    ({"podSecurityContext": {"runAsuser": 1}}, "runAsuser"),
    ({"podSecurityContext": {"fsGroupChangePolicy": "always"}}, "fsGroupChangePolicy"),
    ({"podSecurityContext": {"supplementalGroupsPolicy": "strict"}}, "supplementalGroupsPolicy"),
    ({"podSecurityContext": {"supplementalGroups": [-1]}}, "supplementalGroups"),
    ({"podSecurityContext": {"windowsOptions": {}}}, "windowsOptions"),
    ({"securityContext": {"fsGroup": 1}}, "fsGroup"),
    ({"extraVolumes": [{"name": "a", "emptydir": {}}]}, "emptydir"),
    ({"extraVolumes": [{"name": "a", "secret": {"name": "s"}}]}, "name"),
    ({"extraVolumes": [{"name": "a", "hostPath": {"path": "/x", "type": "Dir"}}]}, "type"),
    ({"extraVolumes": [{"name": "a", "emptyDir": {"sizeLimit": "big"}}]}, "sizeLimit"),
    ({"extraVolumeMounts": [{"name": "shm", "mountPath": "/x", "readonly": True}]}, "readonly"),
    ({"extraVolumeMounts": [{"name": "shm", "mountPath": "/x", "mountPropagation": "Host"}]}, "mountPropagation"),
    ({"extraVolumeMounts": [{"name": "shm", "mountPath": "/x", "subPathExpr": "../x"}]}, "subPathExpr"),
    ({"securityContext": {"procMount": "Unmasked"}}, "procMount"),
    ({"securityContext": {"readOnlyRootFileSystem": True}}, "readOnlyRootFileSystem"),
    ({"securityContext": {"seccompProfile": {"type": "runtime/default"}}}, "seccompProfile"),
    ({"securityContext": {"appArmorProfile": {"profile": "x"}}}, "appArmorProfile"),
    ({"storage": {"models": {"mountPath": "models"}}}, "mountPath"),
    ({"storage": {"models": {"mountPath": "/a/../b"}}}, "mountPath"),
    ({"storage": {"models": {"subPath": "/abs"}}}, "subPath"),
    ({"model": {"llmPath": "relative"}}, "llmPath"),
    ({"training": None}, "training"),
    ({"job": None}, "job"),
    ({"job": {"kind": "MPIJob"}}, "kind"),
    ({"job": {"king": "TrainJob"}}, "king"),
    ({"rdma": {"networks": "a"}}, "networks"),
    ({"rdma": {"networks": ["a\n"]}}, "networks"),
    ({"scheduling": {"queue": {"name": "No_Queue"}}}, "name"),
    ({"scheduling": {"queue": {"topology": {"required": "a/b/c"}}}}, "required"),
    ({"scheduling": {"queue": {"topology": {"unconstrained": "true"}}}}, "unconstrained"),
    ({"scheduling": {"kai": {"queue": "a b"}}}, "kai"),
    ({"training": {"nodes": None}}, "nodes"),
]


@pytest.mark.parametrize(("values", "key"), BAD, ids=[json.dumps(values) for values, _ in BAD])
def test_bad_values_fail_and_name_the_key(values: dict[str, Any], key: str) -> None:
    errors = helm.render_fails(values)
    assert any(key in error for error in errors), errors
    assert not any("executing" in error for error in errors), errors
