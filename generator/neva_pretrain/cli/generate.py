"""``neva-values --gpus N``: write a values file."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from neva_pretrain.chart import values
from neva_pretrain.generate import Options, generate
from neva_pretrain.output import say
from neva_pretrain.plan.plan import Request


def write(request: Request, options: Options, output: Path | None, *, verbose: bool) -> None:
    """Write the values of a request to a file or to stdout, and what to review to stderr."""
    content, warnings = generate(request, options, shlex.join(["neva-values", *sys.argv[1:]]), output)
    for warning in warnings if verbose else _summary(warnings, output):
        say(f"warning: {warning}", err=True)
    if output is None:
        say(content, nl=False)
    else:
        values.write(output, content)
        say(f"wrote {output}", err=True)


def _summary(warnings: Sequence[str], output: Path | None) -> list[str]:
    """Return one line that names what to review."""
    topics = dict.fromkeys(warning.partition(": ")[0] for warning in warnings)
    return [f"review {', '.join(topics)}; -v or neva-values check {output or 'FILE'} explains why"] if topics else []
