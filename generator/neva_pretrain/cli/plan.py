"""``neva-values plan``: which configurations fit a number of GPUs, and which is best."""

import json
from pathlib import Path

import click

from neva_pretrain.cli import options
from neva_pretrain.cli.options import GPU_KINDS, POSITIVE, exclude
from neva_pretrain.errors import RefusedError
from neva_pretrain.model import catalog, hydra
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.output import say
from neva_pretrain.plan.plan import SAMPLES_PER_EPOCH, BatchPolicy
from neva_pretrain.plan.search import SearchRequest, search
from neva_pretrain.plan.setup import Kernels
from neva_pretrain.plan.split import check_activation
from neva_pretrain.plan.table import document, text

EPILOG = """\b
Examples:
  neva-values plan --gpus 128
  neva-values plan --nodes 8 --model llama2_13b_chat --kernels fused --tp 4
  neva-values plan --gpus 128 --gpu h200-141gb -o json
"""


@click.command("plan", epilog=EPILOG)
@options.gpus()
@options.nodes()
@options.gpus_per_node()
@options.gpu(default=GPU_KINDS[0], show_default=True)
@options.model(default="llama2_7b_chat", show_default=True)
@options.tensor_parallel(show_default="all that fit")
@options.pipeline_parallel(show_default="the preset's")
@options.micro_batch(show_default="all that fit")
@options.global_batch(show_default="by the batch policy")
@options.batch_policy()
@options.samples()
@click.option(
    "--tokens-per-sample",
    type=POSITIVE,
    metavar="N",
    show_default="an image and a short caption",
    help="Padded length of a sample.",
)
@options.kernels()
@click.option("--top", type=POSITIVE, metavar="N", default=8, show_default=True, help="Rows to show.")
@options.plot()
@options.form()
def plan(
    gpus: int | None,
    nodes: int | None,
    gpus_per_node: int,
    gpu: str,
    model: str,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    micro_batch: int | None,
    global_batch: int | None,
    batch_policy: BatchPolicy | None,
    samples: int | None,
    tokens_per_sample: int | None,
    kernels: Kernels | None,
    top: int,
    plot: Path | None,
    form: str,
) -> None:
    """Show the configurations that fit, best first, and why.

    Memory and time are those of a cost model that was calibrated on H100 and H200: figures without a sign
    are from its measured domain, with ~ modelled, with ? extrapolated.
    """
    total = options.size(gpus, nodes, gpus_per_node)
    exclude(batch_policy=batch_policy, global_batch=global_batch)
    found = catalog.get(model)
    if broken := list(check_activation(found.architecture, hydra.own_activation(found), kernels or "reference")):
        raise RefusedError(broken)
    result = search(
        SearchRequest(
            model=found,
            gpus=total,
            gpu=GPUS[gpu],
            gpus_per_node=gpus_per_node,
            batch_policy=batch_policy or "per-node",
            fixed_global_batch_size=global_batch,
            samples=samples or SAMPLES_PER_EPOCH,
            kernels=kernels or "reference",
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
    if form == "json":
        say(json.dumps(document(result), indent=2))
    else:
        say(text(result, top), nl=False)
