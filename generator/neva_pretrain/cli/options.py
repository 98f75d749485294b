"""The options of all commands: one name has one meaning, and the same words, wherever it is taken.

An option that only one command takes is said there. ``-o`` is the form of what is printed, as with kubectl; files are
named by ``--output``, ``--plot`` and ``--html``.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from neva_pretrain.output import Boundary

GPU_KINDS = ("h100-80gb", "h200-141gb", "a100-80gb")
"""The keys of ``hardware.GPUS``, said again because --help does not wait for the chart's files."""

KERNELS = ("reference", "fused", "fp8")
"""Those of ``plan.setup``, likewise."""

OLD = {"gpu-type": "gpu", "global-batch-size": "global-batch"}
"""Names of 0.1.0, which are still taken."""


def _current(name: str) -> str:
    return OLD.get(name, name)


SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "token_normalize_func": _current}
"""Of every command."""

POSITIVE = click.IntRange(min=1)
FILE = click.Path(dir_okay=False, path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])


class Option:
    """A row of the table: what a command takes as ``@options.name(default=...)``."""

    def __init__(self, *names: str, **facts: Any) -> None:
        self._names = names
        self._facts = facts

    def __call__(self, **own: Any) -> Callable[[F], F]:
        """Return the decorator; a command has a say in the default alone."""
        return click.option(*self._names, **self._facts, **own)


class Number(click.FloatRange):
    """A number in a range; of NaN click says that it is in each."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class _Picture(click.Path):
    name = "picture"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix.lower() not in (".png", ".svg", ".pdf"):
            self.fail("must end in .png, .svg or .pdf", param, ctx)
        return path


class Command(Boundary):
    """A command of this package: what is printed of a refusal has no secret."""

    @staticmethod
    def clean(sentence: str) -> str:
        """Return a sentence without what looks like a secret."""
        from neva_pretrain.chart.secrecy import scrubbed

        return scrubbed(sentence)


def _models(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    """Complete the name of a model."""
    from neva_pretrain.model import catalog

    return [name for name in catalog.names() if name.startswith(typed.replace("-", "_"))]


def checks(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    """Complete the last of some checks' names, with commas between them."""
    from neva_pod.preflight.checks import CHECKS, NODE

    before, comma, start = typed.rpartition(",")
    names = (name for name in CHECKS if name not in NODE and name not in before.split(","))
    return [f"{before}{comma}{name}" for name in names if name.startswith(start)]


def keys(_context: click.Context, _option: click.Parameter, typed: str) -> list[str]:
    """Complete a key of the chart's values, or its short name, up to its values."""
    from neva_pretrain import chart
    from neva_pretrain.sweep import SHORT

    def leaves(node: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, below in node.get("properties", {}).items():
            yield from leaves(below, f"{path}{name}.") if "properties" in below else [f"{path}{name}="]

    names = [*(f"{short}=" for short in SHORT), *leaves(chart.schema())]
    return [name for name in names if name.startswith(typed)]


gpus = Option("--gpus", type=POSITIVE, metavar="N", help="GPUs of the job.")
nodes = Option("--nodes", type=POSITIVE, metavar="N", help="Nodes of the job, in place of --gpus.")
gpus_per_node = Option(
    "--gpus-per-node", type=POSITIVE, metavar="N", default=8, show_default=True, help="GPUs of each node."
)
gpu = Option("--gpu", type=click.Choice(GPU_KINDS), help="Kind of GPU.")
model = Option("--model", shell_complete=_models, metavar="NAME", help="Model of the catalog; see neva-values models.")
tensor_parallel = Option("--tensor-parallel", "--tp", type=POSITIVE, metavar="N", help="Tensor parallel size.")
pipeline_parallel = Option("--pipeline-parallel", "--pp", type=POSITIVE, metavar="N", help="Pipeline parallel size.")
micro_batch = Option("--micro-batch", "--mbs", type=POSITIVE, metavar="N", help="Micro batch size.")
global_batch = Option("--global-batch", "--gbs", type=POSITIVE, metavar="N", help="Global batch size.")
batch_policy = Option(
    "--batch-policy",
    type=click.Choice(["per-node", "fixed"]),
    show_default="per-node",
    help="Global batch: 256 per node, or 256 in total. The samples seen stay the same.",
)
samples = Option(
    "--samples",
    type=POSITIVE,
    metavar="N",
    show_default="555520, 2170 steps of 256",
    help="Samples of one epoch.",
)
max_steps = Option("--max-steps", type=POSITIVE, metavar="N", help="Optimizer steps of the run.")
kernels = Option(
    "--kernels",
    type=click.Choice(KERNELS),
    show_default="reference",
    help="As in NVIDIA's presets; fused SwiGLU, RoPE and cuDNN attention; those with FP8 matrices (H100, H200).",
)
values = Option("-f", "--values", type=FILE, metavar="FILE", help="Values file of the run.")
plot = Option(
    "--plot",
    type=_Picture(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also draw it, as .png, .svg or .pdf; needs pip install 'neva-pretrain[plot]'.",
)
namespace = Option("-n", "--namespace", metavar="NS", help="Namespace of the job.")
context = Option("--context", metavar="NAME", help="Context of the kubeconfig.")
output = Option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write here, atomically: a file; with chart and --sweep, a folder.",
)
form = Option(
    "-o",
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of what is printed.",
)


def exclude(**given: object) -> None:
    """Refuse options that say the same thing; they are named by their parameters."""
    said = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(said) > 1:
        raise click.UsageError(f"{' and '.join(said)} exclude each other.")


def size(gpus: int | None, nodes: int | None, gpus_per_node: int) -> int:
    """Return the GPUs of the job, however they were counted."""
    exclude(gpus=gpus, nodes=nodes)
    if nodes:
        return nodes * gpus_per_node
    if gpus is None:
        path = click.get_current_context().command_path
        raise click.UsageError(f"Missing option '--gpus'. Try: {path} --gpus 128")
    return gpus


def given(context: click.Context) -> Iterator[click.Parameter]:
    """Yield what the command line itself names, not the environment or a default."""
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE:
            yield parameter


def completion(program: str) -> str:
    """Return what a program's --help says of completion."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    return f"""\b
Completion of options and their values, for the shell's startup file:
  bash  eval "$({variable}=bash_source {program})"
  zsh   eval "$({variable}=zsh_source {program})"
  fish  {variable}=fish_source {program} | source
"""
