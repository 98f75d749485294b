"""Options that several commands have."""

from pathlib import Path

import click

GPU_KINDS = ("h100-80gb", "h200-141gb", "a100-80gb")
"""The keys of ``hardware.GPUS``, said again because --help does not wait for the chart's files."""

POSITIVE = click.IntRange(min=1)
FILE = click.Path(dir_okay=False, path_type=Path)

model = click.option(
    "--model", default="llama2_7b_chat", show_default=True, metavar="NAME", help="Model in the catalog."
)
gpus_per_node = click.option(
    "--gpus-per-node", type=POSITIVE, default=8, show_default=True, metavar="N", help="GPUs of each node."
)
