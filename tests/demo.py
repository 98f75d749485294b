"""The quick start on this machine, nothing simulated but the nodes: ``python -m tests.demo``, or ``make demo``."""

import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from tests import tools
from tests.sandbox import Sandbox, SandboxError, process
from tests.sandbox.cluster import default_folder
from tests.sandbox.operators import chosen

ROOT = Path(__file__).parents[1]
CLUSTER = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok-controller")
GPUS_PER_NODE = 8
INSTANCE = "app.kubernetes.io/instance=neva"
TORCHRUN = "'^(MASTER_|PET_N|RANK|WORLD)'"
EXAMPLES = """\b
Examples:
  make demo                   16 nodes, 128 GPUs
  make demo NODES=64          64 nodes, 512 GPUs
  make demo NAME=second       beside the first
  make sandbox-down           stop it
"""


class DemoError(Exception):
    """The demo cannot go on; one sentence."""


@dataclass(frozen=True)
class Shell:
    """Shows command lines and runs them in the demo's folder, as a reader would."""

    box: Sandbox

    @property
    def folder(self) -> Path:
        """Where values.yaml is, and links to the programs and the chart."""
        return self.box.folder / "demo"

    def prepare(self) -> None:
        """Put the programs under their plain names into the demo's bin, and the checkout's charts beside it."""
        here = Path(sys.executable).parent
        links = {name: tools.path(name) for name in ("kubectl", "helm")}
        links |= {name: here / name for name in ("neva-values", "neva-monitor")}
        for name, target in links.items():
            if not target.exists():
                raise DemoError(f"{target}: not there; run make install")
            _link(self.folder / "bin" / name, target)
        _link(self.folder / "charts", ROOT / "charts")

    def run(self, line: str) -> None:
        """Show a line and run it."""
        click.secho(f"$ {line}", bold=True)
        done = subprocess.run(["sh", "-c", line], cwd=self.folder, env=self._environment(), check=False)
        if done.returncode:
            raise DemoError(f"exit code {done.returncode} of: {line}")

    def ask(self, line: str) -> str:
        """Return what a line prints, showing nothing."""
        done = subprocess.run(
            ["sh", "-c", line], cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"{line}: {' '.join(done.stderr.split())}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        # What a user's shell may hold for another cluster has no say here.
        foreign = ("HELM_KUBE", "HELM_NAMESPACE", "HELM_DRIVER")
        kept = {name: value for name, value in self.box.env.items() if not name.startswith(foreign)}
        return {**kept, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--name", default="neva", show_default=True, help="Which sandbox: reused when it is up.")
@click.option("--nodes", type=click.IntRange(1), default=16, show_default=True, help="Nodes of the job, 8 GPUs each.")
def main(name: str, nodes: int) -> None:
    """From a GPU count to a running job on a control plane of this machine.

    API server, scheduler, training operator and its webhook are real, the nodes are simulated. The first run builds
    them from source.
    """
    ours = False  # whether this run started the control plane
    try:
        try:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", name):
                raise DemoError(f"--name: got {name!r}; must be letters, digits, dots and dashes")
            if sys.platform != "linux":
                raise DemoError(f"{sys.platform}: the control plane runs on Linux only")
            _tools()
            box = _up_already(name, nodes)
            if box is None:
                ours = True
                box = _bring_up(name, nodes)
            _show(Shell(box), name, nodes)
        except KeyboardInterrupt:
            click.echo()
            if ours:
                _down(name)
                click.echo("Interrupted: the control plane of this run is stopped, no process is left.")
            else:
                click.echo("Interrupted: this run has started no process that stays.")
            sys.exit(130)
    except (DemoError, SandboxError, tools.ToolError, OSError, subprocess.SubprocessError) as error:
        click.echo(f"ERROR: {error}", err=True)
        if process.find(default_folder(name)):
            click.echo(f"The control plane stays up; {_make('sandbox-down', name)} stops it.", err=True)
        sys.exit(1)


def trouble(box: Sandbox) -> str:
    """Return what is wrong with a sandbox that should be up; empty when it is healthy."""
    wanted = {*CLUSTER, *(tools.path(tool).name for operator in chosen(box.components) for tool in operator.tools)}
    if gone := sorted(wanted - {one.command for one in box.processes()}):
        return f"{', '.join(gone)} not running"
    ready = 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'
    try:
        box.kubectl("get", "--raw", "/readyz", timeout=60)
        count = box.kubectl("get", "nodes", "-o", ready, timeout=60).split().count("True")
    except subprocess.TimeoutExpired:
        return "the API server does not answer"
    except SandboxError as error:
        return str(error)
    return "" if count == box.nodes else f"{count} of {box.nodes} nodes ready"


def _tools() -> None:
    wanted = ["helm", "kubectl", "kwok", "etcd", "training-operator"]  # a group is built whole
    if missing := [name for name in wanted if not tools.path(name).exists()]:
        _say(f"Building from source, once, about 12 minutes on two cores: {', '.join(missing)}")
    tools.ensure(*wanted)


def _up_already(name: str, nodes: int) -> Sandbox | None:
    """Return the sandbox of that name if it is healthy; remove what is left of one that is not."""
    if not process.find(default_folder(name)):
        return None
    try:
        box = Sandbox.open(name=name)
        wrong = trouble(box)
    except (SandboxError, ValueError) as error:
        wrong = str(error)
    if wrong:
        _say(f"The control plane {name} is broken ({wrong}): starting a new one")
        _down(name)
        return None
    if box.nodes < nodes or box.gpus_per_node != GPUS_PER_NODE:
        raise DemoError(
            f"{name}: is up with {box.nodes} nodes of {box.gpus_per_node} GPUs, the demo needs {nodes} of "
            f"{GPUS_PER_NODE}; stop it first: {_make('sandbox-down', name)}"
        )
    _say(f"Control plane: {name} is up already, with {box.nodes} simulated {GPUS_PER_NODE}-GPU nodes")
    return box


def _bring_up(name: str, nodes: int) -> Sandbox:
    _say(f"Control plane: real API server, scheduler and operator, {nodes} simulated {GPUS_PER_NODE}-GPU nodes")
    begun = time.monotonic()
    return Sandbox.up(
        name=name,
        nodes=nodes,
        gpus_per_node=GPUS_PER_NODE,
        say=lambda text: click.echo(f"{time.monotonic() - begun:6.1f} s  {text}"),
    )


def _show(shell: Shell, name: str, nodes: int) -> None:
    box, gpus = shell.box, nodes * GPUS_PER_NODE
    shell.prepare()
    if "neva" in shell.ask("helm list --all --short").split():
        _say("The job of an earlier demo goes first")
        shell.run("helm uninstall neva --wait")
        box.wait(lambda: not box.pods(INSTANCE), "pods of the old job gone")

    _say(f"Values for {gpus} GPUs")
    shell.run(f"neva-values --gpus {gpus} > values.yaml")
    shell.run("cat values.yaml")

    _say("The chart of this checkout")
    shell.run("helm install neva ./charts/neva-pretrain -f values.yaml")
    begun = time.monotonic()
    (job,) = shell.ask(f"kubectl get pytorchjob -l {INSTANCE} -o name").split()
    job = job.partition("/")[2]

    _say("Running: volumes bound, pods admitted and scheduled")
    shell.run(f"kubectl wait --for=condition=Running pytorchjob/{job} --timeout={120 + nodes}s")
    box.wait_for_phase("Running", nodes, INSTANCE)
    seconds = time.monotonic() - begun
    shell.run(f"kubectl get pytorchjob {job}")
    shell.run("kubectl get pods")

    pod = f"{job}-worker-0" if nodes > 1 else f"{job}-master-0"
    _say(f"What the operator tells torchrun in {pod}")
    shell.run(f"kubectl set env pod/{pod} -c pytorch --list | grep -E {TORCHRUN}")

    _say(f"{gpus} GPUs Running in {nodes} pods, {seconds:.0f} s after helm install. It stays; look around:")
    click.echo(f"export KUBECONFIG={shlex.quote(str(box.kubeconfig))}")
    click.echo(f"export PATH={shlex.quote(str(shell.folder / 'bin'))}:$PATH")
    click.echo(f"kubectl describe pod {pod}")
    click.echo("kubectl annotate pods --all neva.test/complete=true   # training ends: job Succeeded")
    _say("Stop it, nothing stays:")
    click.echo(_make("sandbox-down", name))


def _down(name: str) -> None:
    """Stop a sandbox, whatever is left of it."""
    try:
        Sandbox.open(name=name).down()
    except (SandboxError, ValueError):  # state gone, processes perhaps not
        process.stop(default_folder(name))


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _make(target: str, name: str) -> str:
    return f"make {target}" + ("" if name == "neva" else f" NAME={shlex.quote(name)}")


def _say(text: str) -> None:
    click.secho(f"\n# {text}", fg="green")


if __name__ == "__main__":
    process.interrupt_once()
    main(prog_name="python -m tests.demo")
