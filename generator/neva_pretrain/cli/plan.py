"""``neva-values plan``: which configurations fit a number of GPUs, and which is best."""

import json
from pathlib import Path

import click

from neva_pretrain.cli import options
from neva_pretrain.cli.options import POSITIVE
from neva_pretrain.errors import RefusedError
from neva_pretrain.model import catalog, hydra
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.output import say
from neva_pretrain.plan.plan import BatchPolicy
from neva_pretrain.plan.search import SearchRequest, search
from neva_pretrain.plan.setup import Kernels
from neva_pretrain.plan.split import check_activation
from neva_pretrain.plan.table import document, text


@click.command("plan")
@click.option("--gpus", type=POSITIVE, required=True, help="GPUs of the job.")
@options.model
@options.gpus_per_node
@click.option("--gpu", type=click.Choice(list(GPUS)), default="h100-80gb", show_default=True, help="GPU type.")
@click.option(
    "--batch-policy",
    type=click.Choice(["per-node", "fixed"]),
    help="Global batch: 256 per node (default), or 256 in total.",
)
@click.option("--global-batch", type=POSITIVE, metavar="N", help="Global batch size.")
@click.option(
    "--kernels",
    type=click.Choice(["reference", "fused"]),
    default="reference",
    show_default=True,
    help="As in NVIDIA's presets, or fused SwiGLU, RoPE and cuDNN attention.",
)
@click.option(
    "--tokens-per-sample",
    type=POSITIVE,
    metavar="N",
    help="Padded length of a sample. Default: an image and a short caption.",
)
@click.option("--tensor-parallel", type=POSITIVE, metavar="N", help="Only this TP.")
@click.option("--pipeline-parallel", type=POSITIVE, metavar="N", help="Only this PP.")
@click.option("--micro-batch", type=POSITIVE, metavar="N", help="Only this MBS.")
@click.option("--top", type=POSITIVE, default=8, show_default=True, help="Rows to show.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="Output format."
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|svg",
    help="Also draw throughput and memory over micro batch size and GPUs.",
)
def plan(
    gpus: int,
    model: str,
    gpus_per_node: int,
    gpu: str,
    batch_policy: BatchPolicy | None,
    global_batch: int | None,
    kernels: Kernels,
    tokens_per_sample: int | None,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    micro_batch: int | None,
    top: int,
    output: str,
    plot: Path | None,
) -> None:
    """Show the configurations that fit, best first, and why.

    Memory and time are those of a cost model that was calibrated on H100 and H200: figures without a sign
    are from its measured domain, with ~ modelled, with ? extrapolated.
    """
    if batch_policy and global_batch:
        raise click.UsageError("--batch-policy and --global-batch exclude each other")
    if plot is not None and plot.suffix not in {".png", ".svg"}:
        raise click.BadParameter("must end in .png or .svg", param_hint="--plot")
    found = catalog.get(model)
    if broken := list(check_activation(found.architecture, hydra.own_activation(found), kernels)):
        raise RefusedError(broken)
    result = search(
        SearchRequest(
            model=found,
            gpus=gpus,
            gpu=GPUS[gpu],
            gpus_per_node=gpus_per_node,
            batch_policy=batch_policy or "per-node",
            fixed_global_batch_size=global_batch,
            kernels=kernels,
            tokens=tokens_per_sample,
            tensor_parallel_size=tensor_parallel,
            pipeline_parallel_size=pipeline_parallel,
            micro_batch_size=micro_batch,
            saves=True,
        )
    )
    if plot is not None:
        from neva_pretrain.plan.plot import draw

        draw(result, plot)
        say(f"plot: {plot}", err=True)
    if output == "json":
        say(json.dumps(document(result), indent=2))
    else:
        say(text(result, top), nl=False)
