"""``neva-values chart``: where Helm finds the chart."""

from pathlib import Path

import click

from neva_pretrain import chart as shipped
from neva_pretrain.chart.copying import copy
from neva_pretrain.output import say

EPILOG = """\b
Examples:
  helm install neva $(neva-values chart) -f values.yaml
  neva-values chart --copy .
"""


@click.command("chart", epilog=EPILOG)
@click.option(
    "--copy",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write charts/neva-pretrain and the examples of values/ into this folder; print where the chart then lies.",
)
def chart(folder: Path | None) -> None:
    """Print where the chart of this version lies, for Helm."""
    say(str(copy(folder) if folder else shipped.path()))
