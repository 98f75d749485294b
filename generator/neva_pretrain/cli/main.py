"""Command line of ``neva-values``. YAML goes to stdout, notes to stderr; 0 ok, 1 refused, 2 wrong usage."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import click

from neva_pretrain import __version__
from neva_pretrain.chart import images, values
from neva_pretrain.errors import InputError
from neva_pretrain.output import Boundary, say

GPU_KINDS = ("h100-80gb", "h200-141gb", "a100-80gb")
POSITIVE = click.IntRange(min=1)
FILE = click.Path(dir_okay=False, path_type=Path)

EPILOG = """\b
Examples:
  neva-values --gpus 128 > values.yaml
  neva-values --gpus 8 --model llama2_13b_chat --site site.yaml --output values.yaml
  neva-values --gpus 128 --optimize
  neva-values plan --gpus 128
  neva-values check values/*.yaml
\b
Completion for bash (zsh and fish alike):
  eval "$(_NEVA_VALUES_COMPLETE=bash_source neva-values)"
"""


class _Group(Boundary, click.Group):
    """The command with its subcommands."""

    # Imported when first used: --help and completion stay fast.
    lazy: ClassVar[dict[str, str]] = {
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
            command: click.Command = getattr(__import__(module, fromlist=[name]), name)
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


@click.group(
    cls=_Group,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--gpus", type=POSITIVE, metavar="N", help="GPUs of the job: the only option that is required.")
@click.option("--model", default="llama2_7b_chat", show_default=True, metavar="NAME", help="A model of the catalog.")
@click.option("--gpus-per-node", type=POSITIVE, default=8, show_default=True, metavar="N", help="GPUs of each node.")
@click.option("--tensor-parallel", "--tp", type=POSITIVE, metavar="N", help="Tensor parallel size. [default: preset]")
@click.option("--pipeline-parallel", "--pp", type=POSITIVE, metavar="N", help="Pipeline size. [default: preset]")
@click.option("--micro-batch", type=POSITIVE, metavar="N", help="Micro batch size. [default: preset, or less]")
@click.option("--global-batch", type=POSITIVE, metavar="N", help="Global batch size. [default: by the batch policy]")
@click.option(
    "--batch-policy",
    type=click.Choice(["per-node", "fixed"]),
    default="per-node",
    show_default=True,
    help="Global batch: 256 for each node, or 256 in all. The samples seen stay the same.",
)
@click.option("--max-steps", type=POSITIVE, metavar="N", help="Optimizer steps. [default: one epoch]")
@click.option("--epochs", type=POSITIVE, metavar="N", help="Passes over the dataset, instead of --max-steps.")
@click.option("--save-every", type=POSITIVE, metavar="N", help="Steps between checkpoints. [default: 1/10 run]")
@click.option("--kernels", type=click.Choice(["reference", "fused"]), help="Kernels. [default: reference]")
@click.option("--gpu", type=click.Choice(GPU_KINDS), help=f"Kind of GPU. [default: {GPU_KINDS[0]}]")
@click.option("--optimize", is_flag=True, help="Take the planner's best parallelism and micro batch.")
@click.option("--image", metavar="REPOSITORY:TAG", help="Container image.")
@click.option("--site", type=FILE, metavar="FILE", help="Partial values of your site, merged over the result.")
@click.option("--output", type=FILE, metavar="FILE", help="Write here, whole or not at all. [default: stdout]")
@click.option("-v", "--verbose", is_flag=True, help="Print each warning, not only what to look at.")
@click.version_option(__version__)
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Write consistent values for the neva-pretrain chart from a number of GPUs."""
    if ctx.invoked_subcommand is not None:
        given = [n for n in options if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise click.UsageError(f"{option} stands before {ctx.invoked_subcommand}: put it after.")
        return
    if options["gpus"] is None:
        raise click.UsageError("Missing option '--gpus'. Try: neva-values --gpus 128")
    if options["max_steps"] and options["epochs"]:
        raise click.UsageError("--max-steps and --epochs say the same thing: give one of them.")
    assert isinstance(ctx.command, _Group)  # noqa: S101 (it is this one)
    ctx.command.writes_values = options["output"] is None
    from neva_pretrain.generate import generate

    if options["image"]:
        options["image"] = _image(options["image"])
    content, warnings = generate(options, _command_line())
    output: Path | None = options["output"]
    for warning in warnings if options["verbose"] else _summary(warnings, output):
        say(f"warning: {warning}", err=True)
    if output is None:
        say(content, nl=False)
    else:
        values.write(output, content)
        say(f"wrote {output}", err=True)


def _summary(warnings: Sequence[str], output: Path | None) -> list[str]:
    """Return one line that names what to look at."""
    topics = dict.fromkeys(warning.partition(": ")[0] for warning in warnings)
    return [f"look at {', '.join(topics)}; -v or neva-values check {output or 'FILE'} says why"] if topics else []


def _image(reference: str) -> dict[str, str]:
    image = images.split(reference)
    if image and len(image) > 1:
        return image
    rule = "must be REPOSITORY:TAG or REPOSITORY@DIGEST, without a scheme, such as nvcr.io/nvidia/nemo:24.07"
    rule = "must have a tag or a digest" if image else rule
    raise click.BadParameter(f"got {reference}; {rule}", param_hint="--image")


@main.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form.")
@click.option("--gpu", type=click.Choice(GPU_KINDS), help="Kind of GPU. [default: training.gpu]")
@click.pass_context
def check(ctx: click.Context, files: Sequence[Path], output: str, gpu: str | None) -> None:
    """Check values files as Helm would see them: schema, rules between values, GPU memory.

    Exits 1 when one of them breaks a rule.
    """
    from neva_pretrain.check.verdict import Verdict, judge

    documents = []
    for file in files:
        verdict, unreadable, words = Verdict(), list[str](), list[str]()
        try:
            given, words = values.read_document(file)
            verdict = judge(given, gpu)
        except InputError as error:
            unreadable = [error.reason]
        warnings = [*words, *verdict.warnings]
        messages = [*unreadable, *map(str, verdict.violations)]
        documents.append(
            {
                "file": str(file),
                "ok": not messages,
                "errors": [{"message": m} for m in unreadable]
                + [{**vars(v), "message": str(v)} for v in verdict.violations],
                "warnings": warnings,
            }
        )
        if output == "text":
            for message in messages:
                say(f"{file}: ERROR: {message}")
            for warning in warnings:
                say(f"{file}: warning: {warning}")
            if not messages:
                say(f"{file}: ok")
    if output == "json":
        say(json.dumps(documents, indent=2))
    if not all(document["ok"] for document in documents):
        ctx.exit(1)


def _command_line() -> str:
    return shlex.join(["neva-values", *sys.argv[1:]])
