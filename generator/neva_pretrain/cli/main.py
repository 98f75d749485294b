"""Command line of ``neva-values``. YAML goes to stdout, notes to stderr; 0 ok, 1 refused, 2 wrong usage."""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from neva_pretrain.chart import images, values
from neva_pretrain.cli import options
from neva_pretrain.cli.options import FILE, GPU_KINDS, POSITIVE, Number, exclude
from neva_pretrain.errors import InputError
from neva_pretrain.output import at, say

if TYPE_CHECKING:  # --help does not wait for these
    from neva_pretrain.plan.plan import BatchPolicy
    from neva_pretrain.plan.setup import Kernels
    from neva_pretrain.sweep import Axis

EPILOG = f"""\b
Examples:
  neva-values --gpus 128 > values.yaml
  neva-values --nodes 1 --model llama2_13b_chat --site site.yaml > values.yaml
  neva-values --gpus 128 --optimize
  neva-values --gpus 64 --sweep training.learningRate=1e-3,2e-3 --output sweep
  neva-values plan --gpus 128
  neva-values check values/*.yaml
  helm install neva $(neva-values chart) -f values.yaml

\b
Exit codes:
  0  success
  1  refused, or a check failed
  2  wrong usage

{options.completion("neva-values")}"""


class _Group(options.Command, click.Group):
    """The command with its subcommands."""

    # Imported when first used: --help and completion stay fast.
    lazy: ClassVar[dict[str, str]] = {
        "chart": "neva_pretrain.cli.chart:chart",
        "check": "neva_pretrain.cli.check:check",
        "models": "neva_pretrain.cli.models:models",
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
        try:
            found = super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            raise click.UsageError(
                f"{error.message} Did you mean {near[0]!r}?" if near else error.message, ctx
            ) from None
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
                    ("chart", "Print where the chart lies, for Helm; or copy it."),
                    ("check", "Check values files: schema, rules between values, GPU memory."),
                    ("models", "List the catalog's models."),
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
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has one
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
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


def _axes(_context: click.Context, _option: click.Parameter, said: tuple[str, ...]) -> list[Axis]:
    """Return what --sweep says; few commands have it, so the others do not wait for its module."""
    if not said:
        return []
    from neva_pretrain.sweep import Axis

    try:
        axes = [Axis.parse(words) for words in said]
    except ValueError as error:
        raise click.BadParameter(
            f"got {error}; must be KEY=VALUE,VALUE, such as training.learningRate=1e-3,2e-3"
        ) from None
    keys = [axis.key for axis in axes]
    if twice := [key for at, key in enumerate(keys) if key in keys[:at]]:
        raise click.BadParameter(f"names {twice[0]} twice; give all its values at once")
    return axes


_SAYS = {
    "gpus": "training.nodes",
    "nodes": "training.nodes",
    "gpus_per_node": "training.gpusPerNode",
    "gpu": "training.gpu",
    "model": "model.name",
    "tensor_parallel": "training.tensorParallelSize",
    "pipeline_parallel": "training.pipelineParallelSize",
    "micro_batch": "training.microBatchSize",
    "global_batch": "training.globalBatchSize",
    "batch_policy": "training.globalBatchSize",
    "max_steps": "training.maxSteps",
    "epochs": "training.maxSteps",
    "samples": "training.maxSteps",
    "learning_rate": "training.learningRate",
    "save_every": "checkpoint.everyNSteps",
    "no_checkpoint": "checkpoint.everyNSteps",
    "kernels": "training.kernels",
}
"""Keys that options decide."""


def _exclude_swept(ctx: click.Context, keys: list[str]) -> None:
    """Refuse to sweep what an option says."""
    for parameter in options.given(ctx):
        key = _SAYS.get(parameter.name or "")
        if key in keys:
            raise click.UsageError(f"{parameter.opts[0]} and --sweep {key} exclude each other.")


@click.group(
    "neva-values",
    cls=_Group,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={**options.SETTINGS, "max_content_width": 100},
)
@options.gpus()
@options.nodes()
@options.gpus_per_node()
@options.gpu(show_default=GPU_KINDS[0])
@options.model(default="llama2_7b_chat", show_default=True)
@options.tensor_parallel(show_default="the preset's")
@options.pipeline_parallel(show_default="the preset's")
@options.micro_batch(show_default="the preset's, or less")
@options.global_batch(show_default="by the batch policy")
@options.batch_policy()
@options.max_steps(show_default="one epoch")
@click.option("--epochs", type=POSITIVE, metavar="N", help="Passes over the dataset, in place of --max-steps.")
@options.samples()
@click.option(
    "--learning-rate",
    type=Number(0, 1, min_open=True),
    metavar="RATE",
    show_default="0.001",
    help="Peak learning rate.",
)
@click.option("--save-every", type=POSITIVE, metavar="N", show_default="as planned", help="Steps between checkpoints.")
@click.option("--no-checkpoint", is_flag=True, help="Save no checkpoints.")
@options.kernels()
@click.option("--optimize", is_flag=True, help="Use the planner's best parallelism and micro batch.")
@click.option("--run-id", metavar="ID", show_default="the release's name", help="Names the results folder.")
@click.option("--image", metavar="REPOSITORY:TAG", callback=_image, help="Container image.")
@click.option(
    "--site",
    type=FILE,
    metavar="FILE",
    envvar="NEVA_SITE",
    show_envvar=True,
    show_default="Scitix",
    help="Partial values of your site, merged over the plan's.",
)
@click.option(
    "--sweep",
    multiple=True,
    callback=_axes,
    shell_complete=options.keys,
    metavar="KEY=A,B",
    help="A run for each of these values of a key of the chart; several make all combinations.",
)
@options.output(show_default="stdout")
@click.option("-v", "--verbose", is_flag=True, help="Print every warning in full.")
@click.version_option(package_name="neva-pretrain")
@click.pass_context
def main(
    ctx: click.Context,
    gpus: int | None,
    nodes: int | None,
    gpus_per_node: int,
    gpu: str | None,
    model: str,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    micro_batch: int | None,
    global_batch: int | None,
    batch_policy: BatchPolicy | None,
    max_steps: int | None,
    epochs: int | None,
    samples: int | None,
    learning_rate: float | None,
    save_every: int | None,
    no_checkpoint: bool,
    kernels: Kernels | None,
    optimize: bool,
    run_id: str | None,
    image: dict[str, str] | None,
    site: Path | None,
    sweep: list[Axis],
    target: Path | None,
    verbose: bool,
) -> None:
    """Write consistent values for the neva-pretrain chart from a number of GPUs.

    It reads and writes local files: nothing is sent anywhere. Only check --cluster asks a cluster, by kubectl.
    """
    if ctx.invoked_subcommand is not None:
        if early := next(options.given(ctx), None):
            raise click.UsageError(f"{early.opts[0]} must follow {ctx.invoked_subcommand}.")
        return
    keys = [axis.key for axis in sweep]
    _exclude_swept(ctx, keys)
    total = gpus_per_node if "training.nodes" in keys else options.size(gpus, nodes, gpus_per_node)
    exclude(max_steps=max_steps, epochs=epochs)
    exclude(max_steps=max_steps, samples=samples)
    exclude(batch_policy=batch_policy, global_batch=global_batch)
    exclude(save_every=save_every, no_checkpoint=no_checkpoint)
    if sweep and target is None:
        raise click.UsageError("--sweep needs --output DIR, the folder of its files.")
    if target and at(target) and target.is_dir() != bool(sweep):
        kind = "is no folder, and --sweep writes into one" if sweep else "is a directory"
        raise click.BadParameter(f"{str(target)!r} {kind}.", ctx, param_hint="'--output'")
    if isinstance(ctx.command, _Group):
        ctx.command.writes_values = target is None
    if site and not site.exists() and ctx.get_parameter_source("site") is click.core.ParameterSource.ENVIRONMENT:
        raise InputError("cannot be read: No such file or directory", f"NEVA_SITE: {site}")
    # Here, so that --help does not wait for them.
    from neva_pretrain.cli.generate import write, write_sweep
    from neva_pretrain.generate import Options
    from neva_pretrain.plan.plan import SAMPLES_PER_EPOCH, Request

    request = Request(
        gpus=total,
        model=model,
        gpus_per_node=gpus_per_node,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        micro_batch=micro_batch,
        global_batch=global_batch,
        max_steps=max_steps,
        epochs=epochs,
        samples=samples or SAMPLES_PER_EPOCH,
        batch_policy=batch_policy or "per-node",
    )
    said = Options(
        save_every=save_every,
        checkpoint=not no_checkpoint,
        learning_rate=learning_rate,
        run_id=run_id,
        kernels=kernels,
        gpu=gpu,
        image=image,
        site=site,
        optimize=optimize,
    )
    if sweep and target:
        write_sweep(sweep, request, said, target, verbose=verbose)
    else:
        write(request, said, target, verbose=verbose)
