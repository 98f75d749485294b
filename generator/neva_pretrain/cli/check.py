"""``neva-values check``: what can be said of values files before a GPU is used."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from neva_pretrain.chart import values
from neva_pretrain.chart.secrecy import scrubbed
from neva_pretrain.check.verdict import Verdict, judge, saves
from neva_pretrain.cli import options
from neva_pretrain.cli.options import FILE
from neva_pretrain.cluster import checks
from neva_pretrain.cluster.reader import Cluster
from neva_pretrain.errors import InputError
from neva_pretrain.facts import Facts
from neva_pretrain.kubectl import ClusterError
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.output import say

EPILOG = """\b
Examples:
  neva-values check values.yaml
  neva-values check values/*.yaml --gpu h200-141gb
  neva-values --gpus 128 | neva-values check - -o json
  neva-values check values.yaml --cluster -n training
"""


@click.command("check", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@options.gpu(show_default="training.gpu")
@click.option("--cluster", "of_cluster", is_flag=True, help="Also check what an install would meet in the cluster.")
@options.namespace()
@options.context()
@options.form()
@click.pass_context
def check(
    ctx: click.Context,
    files: Sequence[Path],
    form: str,
    gpu: str | None,
    of_cluster: bool,
    namespace: str | None,
    context: str | None,
) -> None:
    """Check values files as Helm would see them: schema, rules between values, GPU memory.

    With --cluster also what would fail or wait once installed, by what kubectl may read: it changes nothing and prints
    its commands. Exits 1 when a file breaks a rule or the cluster lacks what it needs.
    """
    if not of_cluster and (namespace or context):
        raise click.UsageError("--namespace and --context need --cluster.")
    cluster = Cluster(namespace, context, lambda call: say(f"+ {call}", err=True)) if of_cluster else None
    unreachable = ""
    documents = []
    for file in files:
        verdict, unreadable, words = Verdict(), list[str](), list[str]()
        unchecked: tuple[str, ...] = ()
        try:
            given, words = values.read_document(file)
            facts = Facts.of(given)
            verdict = judge(facts, GPUS[gpu] if gpu else None)
            words += () if verdict.violations else saves(facts)
            if cluster and not unreachable and not verdict.violations:
                found = checks.against(facts, cluster)
                verdict = Verdict(found.violations, (*verdict.warnings, *found.warnings))
                unchecked = found.unchecked
        except InputError as error:
            unreadable = [scrubbed(error.reason)]
        except ClusterError as error:
            unreachable = str(error)
        if unreachable and not unreadable and not verdict.violations:
            unreadable = [unreachable]
        warnings = [*map(scrubbed, words), *verdict.warnings]
        messages = [*unreadable, *map(str, verdict.violations)]
        documents.append(
            {
                "file": str(file),
                "ok": not messages,
                "errors": [{"message": m} for m in unreadable]
                + [{**v._asdict(), "message": str(v)} for v in verdict.violations],
                "warnings": warnings,
                **({"notChecked": unchecked} if cluster else {}),
            }
        )
        if form == "text":
            for message in messages:
                say(f"{file}: ERROR: {message}")
            for warning in warnings:
                say(f"{file}: warning: {warning}")
            for refused in unchecked:
                say(f"{file}: not checked: {refused}")
            if not messages:
                say(f"{file}: ok")
    if form == "json":
        say(json.dumps(documents, indent=2))
    if not all(document["ok"] for document in documents):
        ctx.exit(1)
