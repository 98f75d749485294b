"""A comparison of runs as one HTML page that needs nothing else."""

from html import escape

from neva_pretrain.monitor.compare import Comparison
from neva_pretrain.monitor.curves import Line, svg
from neva_pretrain.monitor.page import filled

TITLE = "NeVa pretraining: runs compared"


def html(found: Comparison, written: str) -> str:
    """Return the page; ``written`` says when it was made."""
    over = f"over {found.axis}"
    if found.common is not None:
        over += f", of which all runs have done {found.common:,.0f}"
    header = f'<header><h1>{TITLE}</h1><p class="quiet">{over} · {escape(written)}</p></header>'
    losses = [Line(each.name, found.losses(each), noisy=True) for each in found.runs]
    speeds = [Line(each.name, found.speeds(each), noisy=True) for each in found.runs]
    return filled(
        TITLE,
        [
            header,
            _runs(found),
            svg("Loss", "reduced_train_loss", losses, from_zero=False, axis=found.axis, top=found.top),
            f'<p class="quiet">Note: {escape(found.note)}.</p>' if found.note else "",
            svg("Speed", found.rate, speeds, axis=found.axis),
            _differences(found),
        ],
    )


def _runs(found: Comparison) -> str:
    at = "" if found.common is None else f" at {found.common:,.0f}"
    names = ("Run", "State", "Step", f"Loss{at}", "Step time", "Samples/s/GPU", "Of plan")
    heads = "".join(f"<th>{name}</th>" for name in names)
    rows = map(found.figures, found.runs)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return _card("Runs", f"<tr>{heads}</tr>{body}")


def _differences(found: Comparison) -> str:
    heads = "".join(f"<th>{escape(each.name)}</th>" for each in found.runs)
    body = "".join(
        f"<tr><th>{escape(key)}</th>" + "".join(f"<td>{escape(said)}</td>" for said in row) + "</tr>"
        for key, row in found.differences.items()
    )
    return _card("What differs", f"<tr><th></th>{heads}</tr>{body}") if body else ""


def _card(title: str, rows: str) -> str:
    return f'<section class="card"><h2>{title}</h2><div class="wide"><table>{rows}</table></div></section>'
