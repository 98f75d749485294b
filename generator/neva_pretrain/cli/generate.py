"""``neva-values --gpus N``: write a values file."""

import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click

from neva_pretrain import sweep
from neva_pretrain.chart import values
from neva_pretrain.generate import Options, generate
from neva_pretrain.output import say, table
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
        say(f"wrote {file}{'' if options.site else ' for Scitix; --site FILE names another site'}", err=True)


def write_sweep(axes: Sequence[sweep.Axis], request: Request, options: Options, folder: Path, *, verbose: bool) -> None:
    """Write the values of a sweep's runs into a folder, and to stderr what to review and how to start them."""
    runs = sweep.plan(axes, request, options, lambda words: _command(options.site, words), folder)
    sweep.write(runs, folder)
    warnings = list(dict.fromkeys(warning for run in runs for warning in run.warnings))
    for warning in warnings if verbose else _summary(warnings, f"{shlex.quote(folder.as_posix())}/*.yaml"):
        say(f"warning: {warning}", err=True)
    say(f"wrote {len(runs)} {'run' if len(runs) == 1 else 'runs'} to {folder}", err=True)
    say(f"{_table(axes, runs)}\n", err=True)
    say(_loop([run.id for run in runs], folder), err=True)


def _table(axes: Sequence[sweep.Axis], runs: Sequence[sweep.Run]) -> str:
    rows = [["RUN", *(axis.name.upper() for axis in axes)], *([run.id, *run.words.values()] for run in runs)]
    return "\n".join(table(rows))


def _loop(ids: Sequence[str], folder: Path) -> str:
    """Return the commands that install each run as a release of its name."""
    names = textwrap.wrap(" ".join(ids), 72, break_long_words=False, break_on_hyphens=False)
    file = f"{shlex.quote(folder.as_posix())}/$run.yaml"
    return "\n".join(
        [
            f"for run in {(' ' + chr(92) + chr(10) + '    ').join(names)}; do",
            f"  helm install $run $(neva-values chart) -f {file}",
            "done",
        ]
    )


def _command(site: Path | None, swept: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the command that writes the same again, also where the environment names no site file.

    Args:
        site: the site's file.
        swept: the values of one run of a sweep, in place of all of it.
    """
    source = click.get_current_context().get_parameter_source("site")
    named = ["--site", str(site)] if source is click.core.ParameterSource.ENVIRONMENT else []
    given, words = list[str](), iter(sys.argv[1:])
    for word in words:
        if word == "--sweep":
            next(words)
        elif not word.startswith("--sweep="):
            given.append(word)
    for key, word in swept.items():
        given += ["--sweep", f"{key}={_escaped(word)}"]
    return shlex.join(["neva-values", *given, *named])


def _escaped(word: str) -> str:
    return re.sub(r"([\\,])", r"\\\1", word)


def _summary(warnings: Sequence[str], file: Path | str | None) -> list[str]:
    """Return one line that names what to review."""
    topics = dict.fromkeys(warning.partition(": ")[0] for warning in warnings)
    # A check of the file knows no options, so it would not speak of --optimize.
    check = "" if any(topic.startswith("--") for topic in topics) else f" or neva-values check {file or 'FILE'}"
    return [f"review {', '.join(topics)}; -v{check} explains why"] if topics else []
