"""``neva-values --gpus N``: write a values file."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from neva_pretrain.chart import values
from neva_pretrain.generate import Options, generate
from neva_pretrain.output import say
from neva_pretrain.plan.plan import Request


def write(request: Request, options: Options, file: Path | None, *, verbose: bool) -> None:
    """Write the values of a request to a file or to stdout, and what to review to stderr."""
    content, warnings = generate(request, options, _command(options.site), file)
    for warning in warnings if verbose else _summary(warnings, file):
        say(f"warning: {warning}", err=True)
    if file is None:
        say(content, nl=False)
    else:
        values.write(file, content)
        say(f"wrote {file}", err=True)


def _command(site: Path | None) -> str:
    """Return the command that writes the same again, also where the environment names no site file."""
    source = click.get_current_context().get_parameter_source("site")
    named = ["--site", str(site)] if source is click.core.ParameterSource.ENVIRONMENT else []
    return shlex.join(["neva-values", *sys.argv[1:], *named])


def _summary(warnings: Sequence[str], file: Path | None) -> list[str]:
    """Return one line that names what to review."""
    topics = dict.fromkeys(warning.partition(": ")[0] for warning in warnings)
    return [f"review {', '.join(topics)}; -v or neva-values check {file or 'FILE'} explains why"] if topics else []
