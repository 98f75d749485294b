"""The offline schemas accept what the API server accepts and refuse what people get wrong."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tools import ensure
from tests.tools.schemas import KINDS, convert
from tests.tools.table import KUBERNETES

pytestmark = pytest.mark.helm

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
LOCATIONS = (
    f"{SCHEMAS}/kubernetes/{{{{.NormalizedKubernetesVersion}}}}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
    f"{SCHEMAS}/crds/{{{{.Group}}}}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json",
)

POD = """
spec:
  containers:
    - name: pytorch
      image: example.com/nemo:24.07
      resources: {limits: {nvidia.com/gpu: 8, cpu: "80", memory: 800Gi, rdma/hca: 1.5}}
"""
PYTORCH_JOB: dict[str, Any] = {
    "apiVersion": "kubeflow.org/v1",
    "kind": "PyTorchJob",
    "metadata": {"name": "neva", "labels": {"app.kubernetes.io/name": "neva"}},
    "spec": {
        "nprocPerNode": "8",
        "runPolicy": {"cleanPodPolicy": "Running", "schedulingPolicy": {"minAvailable": 2}},
        "pytorchReplicaSpecs": {
            "Master": {"replicas": 1, "restartPolicy": "OnFailure", "template": yaml.safe_load(POD)}
        },
    },
}


def kubeconform(resource: dict[str, Any], version: str = KUBERNETES[0]) -> dict[str, Any]:
    """Run kubeconform as ``make lint`` does and return its verdict on one resource."""
    (binary,) = ensure("kubeconform")
    command = [str(binary), "-strict", "-output", "json", "-verbose"]
    command += ["-kubernetes-version", version]
    for location in LOCATIONS:
        command += ["-schema-location", location]
    text = yaml.safe_dump(resource)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    (verdict,) = json.loads(done.stdout)["resources"]
    return dict(verdict)


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_good_job_is_valid_and_never_skipped(version: str) -> None:
    assert kubeconform(PYTORCH_JOB, version)["status"] == "statusValid"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize(("api_version", "kind"), KINDS)
def test_every_builtin_kind_has_a_schema(version: str, api_version: str, kind: str) -> None:
    """An unknown field is refused by name, so the schema was found and is closed."""
    resource = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "sepc": {}}
    verdict = kubeconform(resource, version)
    assert verdict["status"] == "statusInvalid"
    assert "sepc" in verdict["msg"]


def _int_nproc(job: dict[str, Any]) -> None:
    job["spec"]["nprocPerNode"] = 8


def _unknown_field(job: dict[str, Any]) -> None:
    job["spec"]["nprocPerNodes"] = "8"


def _unknown_pod_field(job: dict[str, Any]) -> None:
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    template["spec"]["containers"][0]["volumeMount"] = []


def _bad_quantity(job: dict[str, Any]) -> None:
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    template["spec"]["containers"][0]["resources"]["limits"]["memory"] = "800GB"


def _bad_label(job: dict[str, Any]) -> None:
    job["metadata"]["labels"]["gpus"] = 8


@pytest.mark.parametrize("spoil", [_int_nproc, _unknown_field, _unknown_pod_field, _bad_quantity, _bad_label])
def test_a_mistake_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    job = copy.deepcopy(PYTORCH_JOB)
    spoil(job)
    assert kubeconform(job)["status"] == "statusInvalid"


def test_a_kind_without_schema_is_an_error_not_a_skip() -> None:
    resource = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "x"}}
    assert kubeconform(resource)["status"] == "statusError"


def test_branches_of_any_of_stay_open() -> None:
    """A branch names only some fields; closing it would refuse the others."""
    node = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "anyOf": [{"properties": {"a": {"minLength": 1}}}],
    }
    converted = convert(node)
    assert converted["additionalProperties"] is False
    assert "additionalProperties" not in converted["anyOf"][0]
