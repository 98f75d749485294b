"""``neva-values chart``: where Helm finds the chart."""

from pathlib import Path

import click

from neva_pretrain import chart as shipped
from neva_pretrain.chart.copying import copy
from neva_pretrain.cli import options
from neva_pretrain.output import at, say

EPILOG = """\b
Examples:
  helm install neva $(neva-values chart) -f values.yaml
  neva-values chart --output .
"""


@click.command("chart", epilog=EPILOG)
@options.output()
def chart(target: Path | None) -> None:
    """Print where the chart of this version lies, for Helm.

    With --output, charts/neva-pretrain and the examples of values/ are first written into that folder.
    """
    if target and at(target) and not target.is_dir():
        raise click.BadParameter(f"{str(target)!r} is no folder.", param_hint="'--output'")
    say(str(copy(target) if target else shipped.path()))
