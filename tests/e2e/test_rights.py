"""A tenant with rights in one namespace and on one kind of job, under the API server's own authorization (N28, N30)."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from tests.e2e.release import CHART, KINDS, ROOT, Release, provide_storage
from tests.sandbox import Sandbox
from tests.tools import ensure, path
from tests.unit.monitor.nemo_logs import bar

pytestmark = pytest.mark.e2e

OTHER = {"PyTorchJob": "TrainJob", "TrainJob": "PyTorchJob"}
RULES = (
    (
        "",
        "pods pods/log events configmaps secrets serviceaccounts services persistentvolumeclaims",
    ),
    ("batch", "jobs"),
    ("apps", "deployments"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
)
OF_KIND = {
    "PyTorchJob": ("kubeflow.org", "pytorchjobs"),
    "TrainJob": ("trainer.kubeflow.org", "trainjobs trainingruntimes"),
}


@dataclass(frozen=True)
class Tenant:
    """A user of one namespace, with the environment in which programs act as this user."""

    release: Release
    env: dict[str, str]

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def helm(self, verb: str, *args: str) -> str:
        return self.run(*self.release.command(verb, self.release.name, *args))

    def helm_with_hook(self, verb: str, *args: str) -> None:
        self.release.helm_with_hook(verb, self.release.name, *args, env=self.env)

    def may(self, *what: str) -> bool:
        command = [str(path("kubectl")), "auth", "can-i", *what]
        return subprocess.run(command, env=self.env, capture_output=True, check=False).returncode == 0


@pytest.fixture(params=KINDS)
def tenant(full: Sandbox, room: str, tmp_path: Path, request: pytest.FixtureRequest) -> Tenant:
    rules = [
        {"apiGroups": [group], "resources": resources.split(), "verbs": ["*"]}
        for group, resources in (*RULES, OF_KIND[request.param])
    ]
    api, user = "rbac.authorization.k8s.io", f"tenant-of-{room}"
    meta = {"name": "tenant", "namespace": room}
    bound = {
        "roleRef": {"apiGroup": api, "kind": "Role", "name": "tenant"},
        "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
    }
    full.create(
        [
            {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": meta, "rules": rules},
            {"apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": meta, **bound},
        ]
    )
    config = yaml.safe_load(full.kubeconfig.read_text())
    for entry in config["users"]:
        entry["user"]["as"] = user
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").symlink_to(path("kubectl"))
    search = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**full.env, "KUBECONFIG": str(file), "PATH": search}
    return Tenant(Release(full, room, kind=request.param), env)


@pytest.mark.parametrize(("client", "volumes"), [("helm", "dynamic"), ("helm4", "existing")])
def test_one_namespace_and_one_kind_of_job_are_enough(
    tenant: Tenant, tmp_path: Path, client: str, volumes: str
) -> None:
    ensure(client)
    release = replace(tenant.release, client=client)
    tenant = replace(tenant, release=release)
    other = KINDS[OTHER[release.kind]].resource
    namespace = ("--namespace", release.namespace)
    assert tenant.may("create", KINDS[release.kind].resource, *namespace)
    assert not tenant.may("list", other, *namespace)
    assert not tenant.may("get", "persistentvolumes")

    mounted = ("datasets", "models", "results")
    storage = yaml.safe_load((ROOT / "values" / "dynamic.yaml").read_text())["storage"]
    if volumes == "existing":
        storage = {name: {"existingClaim": f"own-{name}", "gpfs": {"nodePath": None}} for name in mounted}
    values = {
        "job": {"kind": release.kind},
        "training": {"nodes": 2, "globalBatchSize": 512},
        "storage": storage,
    }
    provide_storage(release, values)
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    tenant.helm("install", str(CHART), "-f", str(file))
    release.sandbox.wait_for_phase("Running", 2, namespace=release.namespace)
    (first,) = (name for name in release.pods() if "-master-0" in name or "-node-0-0-" in name)
    release.sandbox.write_logs(bar(999), first, namespace=release.namespace)
    monitor = str(Path(sys.executable).with_name("neva-monitor"))
    report = json.loads(tenant.run(monitor, release.name, "-n", release.namespace, "--once", "-o", "json"))
    assert (report["step"], report["settings"]["gpus"]) == (1000, 16)
    (listed,) = json.loads(tenant.run(monitor, "-n", release.namespace, "-o", "json"))["runs"]
    assert (listed["name"], listed["kind"], listed["step"]) == (release.name, release.kind, 1000)

    first = release.job()["metadata"]
    tenant.helm("upgrade", str(CHART), "-f", str(file))
    assert release.job()["metadata"]["uid"] == first["uid"], "the same values change nothing"
    changed = ("upgrade", str(CHART), "-f", str(file), "--set", "training.maxSteps=500")
    with pytest.raises(AssertionError, match=f"must not replace the job {first['name']}, which has not ended"):
        tenant.helm(*changed)
    tenant.run("kubectl", "delete", KINDS[release.kind].resource, first["name"], *namespace)
    tenant.helm(*changed)
    assert release.job()["metadata"]["name"] != first["name"]
    tenant.helm_with_hook("rollback", "1")
    assert release.job()["metadata"]["name"] == first["name"]
    tenant.helm_with_hook("test")
    tenant.helm("uninstall")
    label = KINDS[release.kind].label
    release.sandbox.wait(lambda: not release.sandbox.pods(label, release.namespace), "the job's pods gone")
