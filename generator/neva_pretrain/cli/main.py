"""Command line of ``neva-values``. YAML goes to stdout, notes to stderr; 0 ok, 1 refused, 2 wrong usage."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from neva_pretrain import __version__
from neva_pretrain.chart import images, values
from neva_pretrain.cli import options
from neva_pretrain.cli.options import FILE, GPU_KINDS, POSITIVE
from neva_pretrain.output import Boundary, say

if TYPE_CHECKING:  # --help does not wait for these
    from neva_pretrain.plan.plan import BatchPolicy
    from neva_pretrain.plan.setup import Kernels

EPILOG = """\b
Examples:
  neva-values --gpus 128 > values.yaml
  neva-values --gpus 8 --model llama2_13b_chat --site site.yaml --output values.yaml
  neva-values --gpus 128 --optimize
  neva-values plan --gpus 128
  neva-values check values/*.yaml
\b
Completion for bash (likewise zsh and fish):
  eval "$(_NEVA_VALUES_COMPLETE=bash_source neva-values)"
"""


class _Group(Boundary, click.Group):
    """The command with its subcommands."""

    # Imported when first used: --help and completion stay fast.
    lazy: ClassVar[dict[str, str]] = {
        "check": "neva_pretrain.cli.check:check",
        "plan": "neva_pretrain.cli.plan:plan",
        "preflight": "neva_pretrain.cli.preflight:preflight",
    }

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.writes_values = True
        """Whether what this run is for goes to stdout as values."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        self.writes_values = False
        return found

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit; whoever ends this early gets a refusal in place of values."""
        self.writes_values = True
        with _ended_as_by_ctrl_c():
            return super().main(*args, **extra)

    def failed(self, sentences: list[str]) -> None:
        """Leave no empty file behind ``>``: it would install the chart's defaults (U01)."""
        if self.writes_values and sys.stdout is not None and not sys.stdout.isatty():
            say(values.refusal(sentences), nl=False)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.lazy])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.lazy:
            module, _, name = self.lazy[cmd_name].partition(":")
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    ("check", "Check values files: schema, rules between values, GPU memory."),
                    ("plan", "Compare configurations for a number of GPUs."),
                    ("preflight", "Check data, models and results folders on this machine."),
                ]
            )


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Let a termination or a closed terminal end the command as the user's Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _image(_context: click.Context, _option: click.Parameter, reference: str | None) -> dict[str, str] | None:
    image = images.split(reference) if reference else {}
    if image is None or len(image) == 1:
        rule = "must be REPOSITORY:TAG or REPOSITORY@DIGEST, without a scheme, such as nvcr.io/nvidia/nemo:24.07"
        raise click.BadParameter(f"got {reference}; {'must have a tag or a digest' if image else rule}")
    return image


@click.group(
    cls=_Group,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--gpus", type=POSITIVE, metavar="N", help="Number of GPUs; the only required option.")
@options.model
@options.gpus_per_node
@click.option("--tensor-parallel", "--tp", type=POSITIVE, metavar="N", help="Tensor parallel size. [default: preset]")
@click.option("--pipeline-parallel", "--pp", type=POSITIVE, metavar="N", help="Pipeline size. [default: preset]")
@click.option("--micro-batch", type=POSITIVE, metavar="N", help="Micro batch size. [default: preset, or less]")
@click.option("--global-batch", type=POSITIVE, metavar="N", help="Global batch size. [default: by the batch policy]")
@click.option(
    "--batch-policy",
    type=click.Choice(["per-node", "fixed"]),
    default="per-node",
    show_default=True,
    help="Global batch: 256 per node, or 256 in total. The samples seen stay the same.",
)
@click.option("--max-steps", type=POSITIVE, metavar="N", help="Optimizer steps. [default: one epoch]")
@click.option("--epochs", type=POSITIVE, metavar="N", help="Passes over the dataset, instead of --max-steps.")
@click.option("--save-every", type=POSITIVE, metavar="N", help="Steps between checkpoints. [default: as planned]")
@click.option("--kernels", type=click.Choice(["reference", "fused"]), help="Kernels. [default: reference]")
@click.option("--gpu", type=click.Choice(GPU_KINDS), help=f"GPU type. [default: {GPU_KINDS[0]}]")
@click.option("--optimize", is_flag=True, help="Use the planner's best parallelism and micro batch.")
@click.option("--image", metavar="REPOSITORY:TAG", callback=_image, help="Container image.")
@click.option("--site", type=FILE, metavar="FILE", help="Partial values of your site, merged over the result.")
@click.option("--output", type=FILE, metavar="FILE", help="Write here, atomically. [default: stdout]")
@click.option("-v", "--verbose", is_flag=True, help="Print every warning in full.")
@click.version_option(__version__)
@click.pass_context
def main(
    ctx: click.Context,
    gpus: int | None,
    model: str,
    gpus_per_node: int,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    micro_batch: int | None,
    global_batch: int | None,
    batch_policy: BatchPolicy,
    max_steps: int | None,
    epochs: int | None,
    save_every: int | None,
    kernels: Kernels | None,
    gpu: str | None,
    optimize: bool,
    image: dict[str, str] | None,
    site: Path | None,
    output: Path | None,
    verbose: bool,
) -> None:
    """Write consistent values for the neva-pretrain chart from a number of GPUs."""
    if ctx.invoked_subcommand is not None:
        given = [n for n in ctx.params if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise click.UsageError(f"{option} must follow {ctx.invoked_subcommand}.")
        return
    if gpus is None:
        raise click.UsageError("Missing option '--gpus'. Try: neva-values --gpus 128")
    if max_steps and epochs:
        raise click.UsageError("--max-steps and --epochs exclude each other.")
    if isinstance(ctx.command, _Group):
        ctx.command.writes_values = output is None
    # Here, so that --help does not wait for them.
    from neva_pretrain.cli.generate import write
    from neva_pretrain.generate import Options
    from neva_pretrain.plan.plan import Request

    request = Request(
        gpus=gpus,
        model=model,
        gpus_per_node=gpus_per_node,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        micro_batch=micro_batch,
        global_batch=global_batch,
        max_steps=max_steps,
        epochs=epochs,
        batch_policy=batch_policy,
    )
    write(request, Options(save_every, kernels, gpu, image, site, optimize), output, verbose=verbose)
