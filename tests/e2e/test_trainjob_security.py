"""A TrainJob in namespaces that enforce Pod Security, on the real admission, Trainer and JobSet."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.release import ROOT, Release, provide_storage
from tests.sandbox import Sandbox

pytestmark = pytest.mark.e2e

TRAINJOB: dict[str, Any] = {
    "job": {"kind": "TrainJob"},
    "podSecurity": {"operatorInitContainer": False},
    "monitoring": {"exporter": {"enabled": True}},
}


def test_restricted_accepts_the_example_as_a_trainjob(full: Sandbox, room: str, tmp_path: Path) -> None:
    """No operator adds an init container, so that nothing of the cluster has to be changed first."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    full.kubectl("label", "namespace", room, label)
    example = ROOT / "values" / "restricted.yaml"
    values = yaml.safe_load(example.read_text())
    release = Release(full, room, "neva", "TrainJob")
    provide_storage(release, values)
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump(TRAINJOB))
    said = release.install("-f", str(example), "-f", str(more))
    assert "meets restricted" in said
    full.wait_for_phase("Running", values["training"]["nodes"], namespace=room)
    pods = release.pods().values()
    assert {c["name"] for pod in pods for c in pod["spec"]["initContainers"]} == {"exporter"}
    (policy,) = full.get("networkpolicies", namespace=room)["items"]
    for pod in pods:
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (exporter,) = (c for c in pod["spec"]["initContainers"] if c["name"] == "exporter")
        index = next(e for e in exporter["env"] if e["name"] == "JOB_COMPLETION_INDEX")
        assert index["valueFrom"]["fieldRef"]["fieldPath"].startswith("metadata.")
    full.complete("--all", namespace=room)
    release.wait_for("Complete")
    release.uninstall()
    for claim in ("datasets", "models", "results"):
        full.kubectl("delete", "pv", f"{room}-{claim}", "--wait=false")
