"""``neva-values check``: what can be said of values files before a GPU is used."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from neva_pretrain.chart import values
from neva_pretrain.check.verdict import Verdict, judge, saves
from neva_pretrain.cli import options
from neva_pretrain.cli.options import FILE
from neva_pretrain.errors import InputError
from neva_pretrain.facts import Facts
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.output import say

EPILOG = """\b
Examples:
  neva-values check values.yaml
  neva-values check values/*.yaml --gpu h200-141gb
  neva-values --gpus 128 | neva-values check - -o json
"""


@click.command("check", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@options.gpu(show_default="training.gpu")
@options.output()
@click.pass_context
def check(ctx: click.Context, files: Sequence[Path], output: str, gpu: str | None) -> None:
    """Check values files as Helm would see them: schema, rules between values, GPU memory.

    Exits 1 when one of them breaks a rule.
    """
    documents = []
    for file in files:
        verdict, unreadable, words = Verdict(), list[str](), list[str]()
        try:
            given, words = values.read_document(file)
            facts = Facts.of(given)
            verdict = judge(facts, GPUS[gpu] if gpu else None)
            words += () if verdict.violations else saves(facts)
        except InputError as error:
            unreadable = [error.reason]
        warnings = [*words, *verdict.warnings]
        messages = [*unreadable, *map(str, verdict.violations)]
        documents.append(
            {
                "file": str(file),
                "ok": not messages,
                "errors": [{"message": m} for m in unreadable]
                + [{**v._asdict(), "message": str(v)} for v in verdict.violations],
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
