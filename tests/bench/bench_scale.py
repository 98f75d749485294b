"""A job of 2,048 nodes against one of 16 on the same control plane: time to Running, and peak memory.

Run with ``python -m tests.bench.bench_scale`` (``make bench-scale``). Ratios are printed, never judged; exits 1 when
the job does not get to Running. The volumes are bound beforehand, by a job that is not measured: the controller looks
for them every 15 s, which would be most of a small job's time.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import click

from tests import tools
from tests.e2e.release import CHART, Release
from tests.sandbox import Sandbox, SandboxError, process
from tests.sandbox.cluster import default_folder

NAME = "bench-scale"
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
        """Install a job of so many nodes and wait until it runs."""
        values = self.box.folder / f"values-{nodes}.yaml"
        neva_values = [str(Path(sys.executable).parent / "neva-values"), "--gpus", str(nodes * GPUS_PER_NODE)]
        _checked(subprocess.run([*neva_values, "--write", str(values)], capture_output=True, text=True, check=False))
        release = Release(self.box, "default")
        self.say(f"{nodes:,} nodes: helm install")
        pids = self._pids()
        for pid in pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is that of this job
        begun = monotonic()
        _checked(release.helm("install", release.name, str(CHART), "-f", str(values)))
        installed = monotonic() - begun
        job_running, pods_running = self._await_running(release, nodes, begun)
        memory = {name: _peak(pid) for name, pid in pids.items()}
        self.say(f"{nodes:,} nodes: all Running after {pods_running:.1f} s")
        return Cost(installed, job_running, pods_running, memory)

    def remove(self) -> None:
        """Remove the job and wait until its pods are gone."""
        release = Release(self.box, "default")
        _checked(release.helm("uninstall", release.name, "--wait"))
        self.box.wait(lambda: self._count() == 0, "pods gone", timeout=180)

    def _await_running(self, release: Release, nodes: int, begun: float) -> tuple[float, float]:
        """Return when the job's condition held and when all of its pods ran."""
        job = pods = None
        told = begun
        while job is None or pods is None:
            now = monotonic()
            if now - begun > 300 + nodes:
                raise SandboxError(f"{nodes} nodes: not Running after {now - begun:.0f} s; logs: {self.box.folder}")
            with suppress(SandboxError, subprocess.TimeoutExpired):  # a busy API server: ask again
                if job is None and release.has_condition("Running"):
                    job = monotonic() - begun
                if pods is None and self._count() == nodes and not self._first(NOT_RUNNING)["items"]:
                    pods = monotonic() - begun
                if now - told > 10:
                    told = now
                    replicas = release.job().get("status", {}).get("replicaStatuses", {}).values()
                    active = sum(replica.get("active", 0) for replica in replicas)
                    self.say(f"{nodes:,} nodes: {self._count():,} pods, {active:,} of them known to run")
            sleep(0.1)
        return job, pods

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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--nodes", type=click.IntRange(REFERENCE), default=2048, show_default=True, help="Nodes of the large job."
)
def main(nodes: int) -> None:
    """Measure a large job against one of 16 nodes on a control plane of its own, which is gone afterwards."""
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
    click.echo(f"{'':34}{REFERENCE:>6} nodes{nodes:>8,} nodes{'ratio':>9}   (nodes: {nodes / REFERENCE:.0f})")
    _row("helm install", small.installed, large.installed, "s")
    _row("install to job Running", small.job_running, large.job_running, "s")
    _row("install to all pods Running", small.pods_running, large.pods_running, "s")
    for name, peak in small.memory.items():
        _row(f"peak memory, {name}", peak / 1e6, large.memory[name] / 1e6, "MB")


def _row(title: str, small: float, large: float, unit: str) -> None:
    digits = 0 if unit == "MB" else 1
    first, second = (f"{value:,.{digits}f} {unit}" for value in (small, large))
    click.echo(f"{title:34}{first:>12}{second:>14}{large / small:9.2f}")


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
