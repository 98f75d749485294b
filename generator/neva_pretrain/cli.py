"""Command line of ``neva-values``. YAML goes to stdout, notes to stderr; 0 ok, 1 refused, 2 wrong usage."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import click

from neva_pretrain import __version__, catalog, facts, images, rules, values
from neva_pretrain.errors import InputError, RefusedError
from neva_pretrain.hardware import Gpu
from neva_pretrain.output import Boundary, say
from neva_pretrain.plan import Plan, Request, make_plan, save_interval, warmup_for

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
        "plan": "neva_pretrain.plan_command:plan",
        "preflight": "neva_pretrain.preflight_command:preflight",
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


def generate(options: dict[str, Any], command: str) -> tuple[str, list[str]]:
    """Return the text of a values file for the options, and warnings.

    Raises:
        RefusedError: a rule is broken; all that are.
        InputError: the site's file cannot be read.
    """
    from neva_pretrain.verdict import judge, possible_gain, setup_of, with_prediction

    request = Request(
        gpus=options["gpus"],
        model=options["model"],
        gpus_per_node=options["gpus_per_node"],
        tensor_parallel=options["tensor_parallel"],
        pipeline_parallel=options["pipeline_parallel"],
        micro_batch=options["micro_batch"],
        global_batch=options["global_batch"],
        max_steps=options["max_steps"],
        epochs=options["epochs"],
        batch_policy=options["batch_policy"],
    )
    site, words = values.read_document(options["site"]) if options["site"] else ({}, [])
    plan, refused = _plan_or_rest(request)
    model = catalog.get(request.model)
    more: dict[str, Any] = {}
    if options["save_every"]:
        more["checkpoint"] = {"everyNSteps": options["save_every"]}
    if options["image"]:
        more["image"] = _image(options["image"])
    training = {name: options[name] for name in ("kernels", "gpu") if options[name]}
    if training:
        more["training"] = training
    notes: list[str] = []
    if options["optimize"] and not refused:
        kind = facts.gpu(values.overlay(more, site))
        plan, chosen, notes = _optimize(plan, request, model, kind, options)
        more = values.merge(more, chosen)
    result = values.overlay(values.from_plan(plan, model, more), site)
    verdict = judge(result)
    broken = list(verdict.violations)
    if refused:  # nodes were rounded to judge the rest
        broken = rules.without_followers([*refused.violations, *broken])
    if broken:
        raise RefusedError(broken)
    warnings, complete = [*words, *verdict.warnings], values.complete(result)
    if not options["optimize"]:
        warnings += possible_gain(setup_of(complete))
    result = with_prediction(result, complete)
    return values.emit(result, command, notes, options["output"]), warnings


def _plan_or_rest(request: Request) -> tuple[Plan, RefusedError | None]:
    """Return the plan; for GPUs that are not whole nodes, the refusal and a plan to judge all else on."""
    try:
        return make_plan(request), None
    except RefusedError as error:
        if error.violations[0].key != "--gpus":
            raise
        nodes = max(1, request.gpus // request.gpus_per_node)
        return make_plan(replace(request, gpus=nodes * request.gpus_per_node)), error


def _image(reference: str) -> dict[str, str]:
    image = images.split(reference)
    if image and len(image) > 1:
        return image
    rule = "must be REPOSITORY:TAG or REPOSITORY@DIGEST, without a scheme, such as nvcr.io/nvidia/nemo:24.07"
    rule = "must have a tag or a digest" if image else rule
    raise click.BadParameter(f"got {reference}; {rule}", param_hint="--image")


def _optimize(
    plan: Plan, request: Request, model: catalog.Model, gpu: Gpu, options: dict[str, Any]
) -> tuple[Plan, dict[str, Any], list[str]]:
    """Return the planner's best plan for the same GPUs and global batch, its values, and what it needs."""
    from neva_pretrain import planner, reasons

    found = planner.search(
        planner.Request(
            model,
            request.gpus,
            gpu=gpu,
            gpus_per_node=request.gpus_per_node,
            fixed_global_batch_size=plan.global_batch_size,
            kernels=options["kernels"] or "reference",
            tensor_parallel_size=request.tensor_parallel,
            pipeline_parallel_size=request.pipeline_parallel,
            micro_batch_size=request.micro_batch,
            checkpoint_interval=options["save_every"] or save_interval(plan.max_steps),
        )
    )
    setup = found.best.setup
    best = replace(
        plan,
        tensor_parallel_size=setup.tensor_parallel_size,
        pipeline_parallel_size=setup.pipeline_parallel_size,
        micro_batch_size=setup.micro_batch_size,
        sequence_parallel=setup.sequence_parallel,
        warmup_steps=warmup_for(plan.max_steps),
    )
    chosen: dict[str, Any] = {}
    if setup.recompute != "none":
        chosen["training"] = {"recompute": setup.recompute}
    if setup.tensor_parallel_size != model.preset.tensor_parallel_size:
        chosen["model"] = {"checkpointFormat": "distributed"}
    notes = [f"  planner: {found.best.rate:#.3g} samples/s/GPU"]
    if found.gain:
        notes[0] += f", {found.gain:.2f}x the preset's"
    return best, chosen, notes + [f"  {needs}" for needs in reasons.requirements(setup)]


@main.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form.")
@click.option("--gpu", type=click.Choice(GPU_KINDS), help="Kind of GPU. [default: training.gpu]")
@click.pass_context
def check(ctx: click.Context, files: Sequence[Path], output: str, gpu: str | None) -> None:
    """Check values files as Helm would see them: schema, rules between values, GPU memory.

    Exits 1 when one of them breaks a rule.
    """
    from neva_pretrain.verdict import Verdict, judge

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
