"""Command line of the sandbox."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tests.sandbox.cluster import COMPONENTS, Sandbox, SandboxError, default_folder
from tests.sandbox.process import find, interrupt_once, stop
from tests.tools import ToolError

WHERE: list[Callable[[Any], Any]] = [
    click.option("--name", default="neva", show_default=True, help="Which sandbox."),
    click.option(
        "--dir",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="State folder, instead of one named after the sandbox in the cache.",
    ),
]


def where(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which sandbox is meant."""
    for option in reversed(WHERE):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Run a real Kubernetes control plane with simulated GPU nodes on this machine."""


@main.command()
@where
@click.option("--nodes", type=click.IntRange(1), default=16, show_default=True)
@click.option("--gpus-per-node", type=click.IntRange(0), default=8, show_default=True)
@click.option(
    "--with",
    "components",
    default="",
    help=f"Comma-separated extras: {', '.join(COMPONENTS)}.",
)
def up(name: str, folder: Path | None, nodes: int, gpus_per_node: int, components: str) -> None:
    """Bring a sandbox up; its kubeconfig's path is the only line on stdout."""
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"sandbox: {time.monotonic() - started:5.1f} s  {text}", err=True)

    wanted = [word.strip() for word in components.split(",") if word.strip()]
    box = Sandbox.up(
        name=name,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        components=wanted,
        folder=folder,
        say=say,
    )
    say("up")
    click.echo(box.kubeconfig)


@main.command()
@where
def down(name: str, folder: Path | None) -> None:
    """Stop every process of a sandbox and remove its state; fine when it is down already."""
    place = (folder or default_folder(name)).absolute()
    try:
        stopped = Sandbox.open(folder=place).down()
    except SandboxError:
        stopped = stop(place)  # state gone, processes perhaps not
    click.echo(f"sandbox: stopped {len(stopped)} processes", err=True)


@main.command()
@where
def status(name: str, folder: Path | None) -> None:
    """List the processes of a sandbox; exit code 1 when there are none."""
    place = (folder or default_folder(name)).absolute()
    processes = find(place)
    for process in processes:
        click.echo(f"{process.pid:8} {process.command}")
    if not processes:
        click.echo(f"sandbox: {place} is down", err=True)
        sys.exit(1)
    click.echo(f"kubeconfig {Sandbox.open(folder=place).kubeconfig}")


if __name__ == "__main__":
    interrupt_once()
    try:
        main(prog_name="python -m tests.sandbox")
    except (SandboxError, ToolError) as error:
        click.echo(f"ERROR: {error}", err=True)
        sys.exit(1)
