"""A Helm release on the local control plane, for tests and the demo."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.chart import helm
from tests.sandbox import Sandbox, SandboxError
from tests.tools import path
from tests.waiting import until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "neva-pretrain"

NO_RUNTIME = "must be created before the TrainJob is created|runtime '[^']+' not found"
"""What is said of a TrainJob whose runtime is not yet seen: by Trainer's webhook, or by Kueue's, whoever is first."""


class Kind(NamedTuple):
    """What a kind of job is called, and which label its pods carry."""

    resource: str
    label: str


KINDS = {
    "PyTorchJob": Kind("pytorchjobs", "training.kubeflow.org/job-name"),
    "TrainJob": Kind("trainjobs", "jobset.sigs.k8s.io/jobset-name"),
}


@dataclass(frozen=True)
class Release:
    """One release of the chart in a namespace."""

    sandbox: Sandbox
    namespace: str
    name: str = "neva"
    kind: str = "PyTorchJob"
    client: str = "helm"
    """``helm`` is Helm 3, ``helm4`` Helm 4."""

    def command(self, *args: str) -> list[str]:
        """Return a call of helm in the release's namespace."""
        return [str(path(self.client)), *args, "--namespace", self.namespace]

    def helm(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run helm in the release's namespace; never raises."""
        return subprocess.run(self.command(*args), env=self.sandbox.env, capture_output=True, text=True, check=False)

    def helm_with_hook(self, *args: str, env: Mapping[str, str] | None = None) -> str:
        """Run helm while the pods of its hooks end by themselves, and return what it said; the job's pods run on."""
        of_no_job = ",".join(f"!{kind.label}" for kind in KINDS.values())
        with subprocess.Popen(
            self.command(*args), env=env or self.sandbox.env, stdout=-1, stderr=subprocess.STDOUT, text=True
        ) as running:

            def ended() -> bool:
                complete_unless_gone(self.sandbox, names(self.sandbox.pods(of_no_job, self.namespace)), self.namespace)
                return running.poll() is not None

            until(ended, f"helm {args[0]}", pause=0.5)
            said, _ = running.communicate()
        assert running.returncode == 0, said
        return str(said)

    def apply(self, verb: str, *args: str) -> str:
        """Install or upgrade; return helm's output, notes included."""
        done = self.helm(verb, self.name, str(CHART), *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, *args: str) -> str:
        """Install; of a TrainJob once more where Trainer had not yet seen its runtime (docs/how-to/trainjob.md)."""
        done = self.helm("upgrade", "--install", self.name, str(CHART), *args)
        if self.kind == "TrainJob" and re.search(NO_RUNTIME, done.stderr):
            done = self.helm("upgrade", "--install", self.name, str(CHART), *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def uninstall(self) -> None:
        """Remove the release."""
        done = self.helm("uninstall", self.name, "--wait")
        assert done.returncode == 0, done.stderr

    def job(self) -> dict[str, Any]:
        """Return the release's one job."""
        selector = f"app.kubernetes.io/instance={self.name}"
        (job,) = self.sandbox.get(KINDS[self.kind].resource, "-l", selector, namespace=self.namespace)["items"]
        return dict(job)

    def has_condition(self, kind: str) -> bool:
        """Return whether the job's condition of that kind holds."""
        return has_condition(self.job(), kind)

    def wait_for(self, kind: str) -> None:
        """Wait until the job's condition of that kind holds."""
        self.sandbox.wait(lambda: self.has_condition(kind), f"job {kind}")

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the job's pods by name."""
        selector = f"{KINDS[self.kind].label}={self.job()['metadata']['name']}"
        return {p["metadata"]["name"]: p for p in self.sandbox.pods(selector, self.namespace)}

    def placed(self) -> list[str]:
        """Return the nodes of the job's pods that have one."""
        return [p["spec"]["nodeName"] for p in self.pods().values() if p["spec"].get("nodeName")]


def has_condition(job: Mapping[str, Any], kind: str) -> bool:
    """Return whether a job's condition of that kind holds."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def process_environment(pod: dict[str, Any]) -> dict[str, str]:
    """Return the environment of the pod's training process, as the kubelet would make it.

    The last of a name wins; ``$$`` is a literal ``$``. The chart never refers to another variable.
    """
    (container,) = (c for c in pod["spec"]["containers"] if c["name"] in ("pytorch", "node"))
    return container_environment(pod, container)


def mount(release: Release, pod: dict[str, Any], volume: str, folder: Path) -> None:
    """Write what the kubelet mounts of a pod's ConfigMaps into a folder."""
    (found,) = (v for v in pod["spec"]["volumes"] if v["name"] == volume)

    def data(name: str) -> dict[str, str]:
        return dict(release.sandbox.get("configmap", name, namespace=release.namespace)["data"])

    helm.project(found, data, folder)


def container_environment(pod: dict[str, Any], container: dict[str, Any]) -> dict[str, str]:
    """Return the environment of one of the pod's containers."""
    metadata = pod["metadata"]
    fields = {"spec.nodeName": pod["spec"].get("nodeName", "")}
    fields |= {f"metadata.{key}": metadata[key] for key in ("name", "namespace", "uid")}
    for part in ("labels", "annotations"):
        fields |= {f"metadata.{part}['{key}']": value for key, value in metadata.get(part, {}).items()}
    environment = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        environment[variable["name"]] = fields[source] if source else variable.get("value", "").replace("$$", "$")
    return environment


def provide_storage(release: Release, values: Mapping[str, Any]) -> list[str]:
    """Make what a values file expects of its cluster: claims that it names, and volumes of its storage classes.

    Returns the names of all claims that are there once the release is.
    """
    found = []
    for name, volume in {"datasets": {}, "models": {}, "results": {}, **values.get("storage", {})}.items():
        existing, storage_class = volume.get("existingClaim"), volume.get("storageClassName", "")
        if name == "scratch" and not existing and not storage_class and "gpfs" not in volume:
            continue
        claim = existing or f"{release.name}-{name}"
        found.append(claim)
        if not existing and not storage_class:
            continue
        spec = {"accessModes": ["ReadWriteMany"], "storageClassName": storage_class}
        made = static_volume(f"{release.namespace}-{claim}", release.namespace, claim, storage_class)
        wanted = {**spec, "volumeName": made["metadata"]["name"], "resources": {"requests": {"storage": "1Ti"}}}
        objects = [made]
        if existing:
            meta = {"name": claim, "namespace": release.namespace}
            objects.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wanted})
        release.sandbox.create(objects)
    return sorted(found)


def static_volume(name: str, namespace: str, claim: str, storage_class: str = "") -> dict[str, Any]:
    """Return a volume that somebody else made for a claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "10Ti"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": storage_class,
            "csi": {"driver": "csi.example.com", "volumeHandle": name},
            "claimRef": {"namespace": namespace, "name": claim},
        },
    }


def drop_volumes(sandbox: Sandbox, namespace: str) -> None:
    """Delete the volumes of a namespace's claims: they are the cluster's, and kept ones outlive it."""
    for volume in sandbox.get("persistentvolumes")["items"]:
        if volume["spec"].get("claimRef", {}).get("namespace") == namespace:
            sandbox.kubectl("delete", "pv", volume["metadata"]["name"], "--wait=false")


def check_pod(pod: Mapping[str, Any]) -> None:
    """Check what every training pod of the examples has: its GPUs, and mounts that only read what is shared."""
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]}
    wanted = {"/etc/neva": True, "/datasets/preset": True, "/models/preset": True, "/results": False}
    assert {path: mounts[path] for path in wanted} == wanted
    assert {"/dev/shm", "/scratch"} <= set(mounts)
    assert not any("serviceaccount" in path for path in mounts)


def complete_unless_gone(sandbox: Sandbox, pods: Sequence[str], namespace: str) -> None:
    """Let pods of hooks succeed; Helm may have deleted one since it was seen."""
    for pod in pods:
        with suppress(SandboxError):
            sandbox.complete(pod, namespace=namespace)


def names(items: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of objects, sorted."""
    return sorted(item["metadata"]["name"] for item in items)
