"""``neva-values check --cluster`` against a real API server: what it says is what an install then meets."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.release import CHART, Release, provide_storage
from tests.tools import path

pytestmark = pytest.mark.e2e

VALUES: dict[str, Any] = {
    "training": {"nodes": 2, "globalBatchSize": 512},
    "scheduling": {"gpuType": {"key": "scitix.ai/gpu-type", "values": ["h100nvlink80"]}},
}


def check(release: Release, tmp_path: Path, *more: dict[str, Any], user: str = "") -> list[dict[str, Any]]:
    """What it says of values over those above, as JSON, in a shell whose kubectl is the sandbox's."""
    (tmp_path / "kubectl").unlink(missing_ok=True)
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\nexec "{path("kubectl")}" {f"--as={user}" if user else ""} "$@"\n')
    (tmp_path / "kubectl").chmod(0o755)
    files = []
    for number, values in enumerate(more):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(json.dumps({**VALUES, **values}))
    command = [str(Path(sys.executable).with_name("neva-values")), "check", *map(str, files), "--cluster", "-o", "json"]
    env = {**release.sandbox.env, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([*command, "-n", release.namespace], env=env, capture_output=True, text=True, check=False)
    said: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == (0 if all(document["ok"] for document in said) else 1), done.stderr
    assert "+ kubectl --namespace=" in done.stderr
    return said


def keys(document: dict[str, Any]) -> list[str]:
    return [error["key"] for error in document["errors"]]


def test_a_run_that_will_start_is_ok_and_others_are_told(release: Release, tmp_path: Path) -> None:
    names = ("datasets", "models", "results")
    claims = {"storage": {name: {"existingClaim": f"own-{name}"} for name in names}}
    enforced = "pod-security.kubernetes.io/enforce"
    before = release.sandbox.kubectl("get", "all,secrets,configmaps,pvc", "-n", release.namespace, "-o", "name")
    good, other, large, lost = check(
        release,
        tmp_path,
        {},
        {"job": {"kind": "TrainJob"}},
        {"training": {"nodes": 17, "globalBatchSize": 256 * 17}},
        {**claims, "secrets": {"env": {"A": {"name": "tokens", "key": "k"}}}},
    )
    assert (good["ok"], good["errors"], good["notChecked"]) == (True, [], [])
    assert keys(other) == ["job.kind"]
    assert other["errors"][0]["fix"].startswith("use PyTorchJob, which it has")
    assert keys(large) == ["training.nodes"]
    assert keys(lost) == ["secrets.env.A.name", *(f"storage.{name}.existingClaim" for name in names)]
    after = release.sandbox.kubectl("get", "all,secrets,configmaps,pvc", "-n", release.namespace, "-o", "name")
    assert after == before

    provide_storage(release, claims)
    release.sandbox.kubectl("create", "secret", "generic", "tokens", "--from-literal=k=x", "-n", release.namespace)
    release.sandbox.kubectl("label", "namespace", release.namespace, f"{enforced}=baseline")
    lacking = {"fabric": "ib", "secrets": {"env": {"A": {"name": "tokens", "key": "other"}}}}
    (lost,) = check(release, tmp_path, {**claims, **lacking})
    assert keys(lost) == ["rdma.enabled", "secrets.env.A.key"]
    (good,) = check(release, tmp_path, claims)
    assert good["ok"]
    file = tmp_path / "0.yaml"
    done = release.helm("install", release.name, str(CHART), "-f", str(file))
    assert done.returncode == 0, done.stderr
    release.sandbox.wait_for_phase("Running", 2, namespace=release.namespace)


def test_a_user_without_rights_is_told_which_and_what_was_not_checked(release: Release, tmp_path: Path) -> None:
    (said,) = check(release, tmp_path, {"image": {"pullSecrets": ["ngc"]}}, user="nobody")
    assert keys(said) == ["--namespace"]
    assert (
        "must have the right to create secrets, configmaps, serviceaccounts, persistentvolumes, "
        in (said["errors"][0]["message"])
    )
    assert said["notChecked"] == ["no right to get namespace", "no right to get secrets", "no right to get nodes"]
