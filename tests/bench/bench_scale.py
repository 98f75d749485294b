"""A job of 2,048 nodes against a bare PyTorchJob of that size, and one of 16 nodes: time to Running, and peak memory.

Run with ``python -m tests.bench.bench_scale`` (``make bench-scale``). Ratios are printed, never judged; exits 1 when
a job does not get to Running. All are on one control plane. The volumes are bound beforehand, by a job that is not
measured, which the bare one, without any, would not wait for.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import click

from tests import tools
from tests.e2e.release import CHART, Release, has_condition
from tests.sandbox import Sandbox, SandboxError, process
from tests.sandbox.cluster import default_folder

NAME = "bench-scale"
BARE = "bare"
REFERENCE = 16
GPUS_PER_NODE = 8
NOT_RUNNING = "/api/v1/namespaces/default/pods?fieldSelector=status.phase%21%3DRunning&limit=1"
ANY = "/api/v1/namespaces/default/pods?limit=1"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cost:
    """What one job took, in seconds since ``helm install`` began and in bytes."""

    installed: float
    job_running: float
    pods_running: float
    memory: dict[str, int]


@dataclass(frozen=True)
class Bench:
    """The control plane under load, and how to say what happens."""

    box: Sandbox
    say: Say

    def run(self, nodes: int) -> Cost:
        """Install a job of so many nodes by the chart and wait until it runs."""
        values = self.box.folder / f"values-{nodes}.yaml"
        neva_values = [str(Path(sys.executable).parent / "neva-values"), "--gpus", str(nodes * GPUS_PER_NODE)]
        _checked(subprocess.run([*neva_values, "--output", str(values)], capture_output=True, text=True, check=False))
        release = Release(self.box, "default")
        install = partial(release.helm, "install", release.name, str(CHART), "-f", str(values))
        return self._measure("helm install", nodes, lambda: _checked(install()), release.job)

    def run_bare(self, nodes: int) -> Cost:
        """Create a PyTorchJob of so many nodes that has nothing but a container and its GPUs."""
        return self._measure("bare job", nodes, lambda: self.box.create([_bare(nodes)]), self._bare_job)

    def remove(self) -> None:
        """Remove the chart's job and wait until its pods are gone."""
        release = Release(self.box, "default")
        _checked(release.helm("uninstall", release.name, "--wait"))
        self._await_none()

    def remove_bare(self) -> None:
        """Remove the bare job and wait until its pods are gone."""
        self.box.kubectl("delete", "pytorchjob", BARE)
        self._await_none()

    def _await_none(self) -> None:
        self.box.wait(lambda: self._count() == 0, "pods gone", timeout=900)

    def _bare_job(self) -> dict[str, Any]:
        return self.box.get("pytorchjob", BARE)

    def _measure(self, what: str, nodes: int, start: Callable[[], None], job: Callable[[], dict[str, Any]]) -> Cost:
        self.say(f"{nodes:,} nodes: {what}")
        pids = self._pids()
        for pid in pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is that of this job
        begun = monotonic()
        start()
        installed = monotonic() - begun
        job_running, pods_running = self._await_running(job, nodes, begun)
        memory = {name: _peak(pid) for name, pid in pids.items()}
        self.say(f"{nodes:,} nodes: all Running after {pods_running:.1f} s")
        return Cost(installed, job_running, pods_running, memory)

    def _await_running(self, job: Callable[[], dict[str, Any]], nodes: int, begun: float) -> tuple[float, float]:
        """Return when the job's condition held and when all of its pods ran."""
        running = pods = None
        told = begun
        while running is None or pods is None:
            now = monotonic()
            if now - begun > 300 + nodes:
                raise SandboxError(f"{nodes} nodes: not Running after {now - begun:.0f} s; logs: {self.box.folder}")
            with suppress(SandboxError, subprocess.TimeoutExpired):  # a busy API server: ask again
                if running is None and has_condition(job(), "Running"):
                    running = monotonic() - begun
                if pods is None and self._count() == nodes and not self._first(NOT_RUNNING)["items"]:
                    pods = monotonic() - begun
                if now - told > 10:
                    told = now
                    replicas = job().get("status", {}).get("replicaStatuses", {}).values()
                    active = sum(replica.get("active", 0) for replica in replicas)
                    self.say(f"{nodes:,} nodes: {self._count():,} pods, {active:,} of them known to run")
            sleep(0.1)
        return running, pods

    def _count(self) -> int:
        """Return the number of pods without fetching them."""
        listed = self._first(ANY)
        return len(listed["items"]) + int(listed["metadata"].get("remainingItemCount", 0))

    def _first(self, path: str) -> dict[str, Any]:
        return dict(json.loads(self.box.kubectl("get", "--raw", path)))

    def _pids(self) -> dict[str, int]:
        operator = tools.path("training-operator").name
        wanted = {"kube-apiserver": "kube-apiserver", "etcd": "etcd", operator: "training operator"}
        return {wanted[one.command]: one.pid for one in self.box.processes() if one.command in wanted}


def _bare(nodes: int) -> dict[str, Any]:
    """Make the least job of that size."""
    gpus = {"limits": {"nvidia.com/gpu": GPUS_PER_NODE}}
    pod = {"spec": {"containers": [{"name": "pytorch", "image": "nvcr.io/nvidia/nemo:24.07", "resources": gpus}]}}
    replicas = {"Master": 1, "Worker": nodes - 1}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": BARE},
        "spec": {"pytorchReplicaSpecs": {role: {"replicas": n, "template": pod} for role, n in replicas.items()}},
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--nodes", type=click.IntRange(REFERENCE), default=2048, show_default=True, help="Nodes of the large job."
)
def main(nodes: int) -> None:
    """Measure a large job against a bare one on a control plane of their own, which is gone afterwards."""
    begun = monotonic()

    def say(text: str) -> None:
        click.echo(f"{monotonic() - begun:6.1f} s  {text}")

    try:
        tools.ensure("helm", "kubectl", "kwok", "etcd", "training-operator")
        started = monotonic()
        box = Sandbox.up(name=NAME, nodes=nodes, gpus_per_node=GPUS_PER_NODE, say=say)
        up = monotonic() - started
        bench = Bench(box, say)
        bench.run(REFERENCE)  # binds the volumes
        bench.remove()
        small = bench.run(REFERENCE)
        bench.remove()
        bare = bench.run_bare(nodes)
        bench.remove_bare()
        large = bench.run(nodes)
        box.down()
    except KeyboardInterrupt:
        with suppress(SandboxError):
            Sandbox.open(name=NAME).down()
        click.echo("Interrupted: the control plane is stopped.", err=True)
        sys.exit(130)
    except (SandboxError, tools.ToolError, OSError, subprocess.SubprocessError) as error:
        click.echo(f"ERROR: {error}", err=True)
        sys.exit(1)
    finally:
        process.stop(default_folder(NAME))  # after an error the logs stay, until the next run
    click.echo(f"\n{f'control plane of {nodes:,} nodes up':34}{up:10.1f} s")
    click.echo(f"{'':34}{REFERENCE:>6} nodes{nodes:>8,} nodes{'bare job':>14}{'over bare':>11}")
    _row("install, or create", "s", small.installed, large.installed, bare.installed)
    _row("install to job Running", "s", small.job_running, large.job_running, bare.job_running)
    _row("install to all pods Running", "s", small.pods_running, large.pods_running, bare.pods_running)
    for name in small.memory:
        _row(f"peak memory, {name}", "MB", *(cost.memory[name] / 1e6 for cost in (small, large, bare)))


def _row(title: str, unit: str, small: float, large: float, bare: float) -> None:
    digits = 0 if unit == "MB" else 1
    first, second, third = (f"{value:,.{digits}f} {unit}" for value in (small, large, bare))
    click.echo(f"{title:34}{first:>12}{second:>14}{third:>14}{large / bare:11.2f}")


def _peak(pid: int) -> int:
    """Return the most memory that a process had, in bytes."""
    (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _checked(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise SandboxError(f"{Path(done.args[0]).name} {done.args[1]}: {done.stderr.strip()}")


if __name__ == "__main__":
    process.interrupt_once()
    main(prog_name="python -m tests.bench.bench_scale")
