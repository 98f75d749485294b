"""Volumes under the real API server and PersistentVolume controller: bound, kept, adopted, never quietly another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.release import CHART, ROOT, Release, names, provide_storage, static_volume
from tests.sandbox import Sandbox

pytestmark = pytest.mark.e2e

Manifest = dict[str, Any]


def write(folder: Path, values: Manifest) -> str:
    file = folder / "more.yaml"
    file.write_text(json.dumps(values))
    return str(file)


def claims(release: Release) -> dict[str, Manifest]:
    items = release.sandbox.get("persistentvolumeclaims", namespace=release.namespace)["items"]
    return {claim["metadata"]["name"]: claim for claim in items}


def await_bound(release: Release, wanted: Sequence[str]) -> None:
    """Wait until these claims, and no others, are bound."""

    def bound() -> bool:
        phases = {name: claim["status"].get("phase") for name, claim in claims(release).items()}
        return phases == dict.fromkeys(wanted, "Bound")

    release.sandbox.wait(bound, f"claims {', '.join(wanted)} bound")


@pytest.mark.parametrize("file", ["scitix-cks", "storage-scale-csi"])
def test_static_volumes_bind_to_their_claims(sandbox: Sandbox, release: Release, file: str) -> None:
    path = ROOT / "values" / f"{file}.yaml"
    release.apply("install", "-f", str(path))
    await_bound(release, ["neva-datasets", "neva-models", "neva-results"])
    storage = yaml.safe_load(path.read_text())["storage"]
    for name in ("datasets", "models", "results"):
        claim = claims(release)[f"neva-{name}"]
        made = f"{release.namespace}.neva.{name}"
        assert claim["spec"]["volumeName"] == made
        spec = sandbox.get("persistentvolume", made)["spec"]
        assert spec["persistentVolumeReclaimPolicy"] == "Retain"
        assert (spec["claimRef"]["name"], spec["claimRef"]["uid"]) == (f"neva-{name}", claim["metadata"]["uid"])
        if csi := storage[name]["gpfs"].get("csi"):
            assert spec["csi"]["volumeHandle"] == csi["volumeHandle"]
            assert (spec["csi"]["driver"], spec["csi"]["fsType"]) == ("spectrumscale.csi.ibm.com", "gpfs")
        else:
            assert spec["hostPath"] == {"path": storage[name]["gpfs"]["nodePath"], "type": "Directory"}
    release.wait_for("Running")


def test_the_server_keeps_read_only_all_the_way_down(release: Release) -> None:
    """The operator's API and the pod's both know recursiveReadOnly; nothing drops it on the way."""
    release.apply("install")
    release.wait_for("Running")
    (pod,) = release.pods().values()
    mounts = {m["name"]: m for m in pod["spec"]["containers"][0]["volumeMounts"]}
    for name in ("datasets", "models"):
        assert (mounts[name]["readOnly"], mounts[name]["recursiveReadOnly"]) == (True, "IfPossible")


def test_a_dynamic_claim_waits_for_its_class_and_binds_to_what_it_makes(sandbox: Sandbox, release: Release) -> None:
    """Nothing provisions here: the test makes what a provisioner would."""
    release.apply("install", "-f", str(ROOT / "values" / "dynamic.yaml"))
    made = claims(release)
    assert {c["status"]["phase"] for c in made.values()} == {"Pending"}
    assert {c["spec"]["storageClassName"] for c in made.values()} == {"scale-fileset"}
    assert {n: c["spec"]["resources"]["requests"]["storage"] for n, c in made.items()} == {
        "neva-datasets": "500Gi",
        "neva-models": "500Gi",
        "neva-results": "5Ti",
    }
    sandbox.create(
        static_volume(f"{release.namespace}-{n}", release.namespace, n, c["spec"]["storageClassName"])
        for n, c in made.items()
    )
    await_bound(release, sorted(made))
    release.wait_for("Running")


def test_a_claim_of_somebody_else_is_used_and_left_alone(release: Release, tmp_path: Path) -> None:
    storage = {"models": {"existingClaim": "theirs"}}
    assert provide_storage(release, {"storage": storage}) == ["neva-datasets", "neva-results", "theirs"]
    release.apply("install", "-f", write(tmp_path, {"storage": storage}))
    await_bound(release, ["neva-datasets", "neva-results", "theirs"])
    release.wait_for("Running")
    release.uninstall()
    assert "theirs" in claims(release)


def test_a_folder_of_the_node_needs_no_claim(release: Release, tmp_path: Path) -> None:
    storage = {"scratch": {"hostPath": "/nvme/scratch"}, "results": {"hostPath": "/r"}}
    release.apply("install", "-f", write(tmp_path, {"storage": storage}))
    release.wait_for("Running")
    (pod,) = release.pods().values()
    found = {v["name"]: v.get("hostPath") for v in pod["spec"]["volumes"]}
    assert found["scratch"] == {"path": "/nvme/scratch", "type": "Directory"}
    assert found["results"] == {"path": "/r", "type": "Directory"}
    assert sorted(claims(release)) == ["neva-datasets", "neva-models"]


def test_two_releases_of_crossed_names_have_their_own_volumes(sandbox: Sandbox, namespace: str, tmp_path: Path) -> None:
    """Namespace a-b with release c, and namespace a with release b-c."""
    other = f"{namespace}-b"
    sandbox.kubectl("create", "namespace", other)
    try:
        values = write(tmp_path, {"resources": {"gpuResourceName": "example.com/none"}})
        for release in (Release(sandbox, other, "c"), Release(sandbox, namespace, "b-c")):
            release.apply("install", "-f", values)
            await_bound(release, [f"{release.name}-{name}" for name in ("datasets", "models", "results")])
    finally:
        sandbox.kubectl("delete", "namespace", other, "--wait=false")
        left = names(sandbox.get("persistentvolumes")["items"])
        sandbox.kubectl("delete", "pv", *[n for n in left if n.startswith(namespace)], "--wait=false")


def test_a_kept_volume_never_changes_its_source_in_silence(release: Release, tmp_path: Path) -> None:
    release.apply("install")
    await_bound(release, ["neva-datasets", "neva-models", "neva-results"])
    release.uninstall()
    release.apply("install")  # adopts what was kept
    release.uninstall()
    name = f"{release.namespace}.neva.results"
    changes: list[tuple[Manifest, str, str]] = [
        ({"gpfs": {"nodePath": "/elsewhere"}}, "got /elsewhere", "/data/scitix/results"),
        ({"storageClassName": "fast"}, "got storageClassName fast", f"volume {name}"),
    ]
    for source, words, kept in changes:
        done = release.helm("install", "neva", str(CHART), "-f", write(tmp_path, {"storage": {"results": source}}))
        assert done.returncode != 0
        assert f"ERROR: storage.results: {words}; must match the kept claim neva-results" in done.stderr
        assert f"({kept})" in done.stderr
    release.sandbox.kubectl("delete", "pvc", "neva-results", "-n", release.namespace)
    phase = release.sandbox.get
    release.sandbox.wait(lambda: phase("pv", name)["status"]["phase"] == "Released", "volume released")
    done = release.helm("install", "neva", str(CHART))
    assert f"ERROR: storage.results: got the kept volume {name}, whose claim was deleted" in done.stderr
    assert f"use kubectl delete pv {name} first" in done.stderr
    release.sandbox.kubectl("delete", "pv", name)
    release.apply("install")
    await_bound(release, ["neva-datasets", "neva-models", "neva-results"])
