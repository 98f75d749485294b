"""The chart, of which this package reads the catalog, facts of the rules, values and schema.

An installed wheel has chart and examples in ``neva_pretrain/_shipped``, laid out as in a checkout; an editable
install reads the checkout.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from neva_pretrain.chart import yamlfile

CHART = "charts/neva-pretrain"
"""Where the chart lies in a checkout, in the wheel and in a copy."""

SCHEMA = "values.schema.json"


def root() -> Path:
    """Return the folder that has the chart and the examples."""
    shipped = Path(str(files("neva_pretrain"))) / "_shipped"
    return shipped if shipped.is_dir() else Path(__file__).parents[3]


def path(name: str = "") -> Path:
    """Return where a file of the chart lies, by its name in there; without a name, the chart itself."""
    return root() / CHART / name


@cache
def models() -> dict[str, Any]:
    """Return the catalog, as parsed."""
    return _mapping("files/models.yaml")


@cache
def fabrics() -> dict[str, Any]:
    """Return the networks between nodes, by name."""
    found: dict[str, Any] = _mapping("files/fabrics.yaml")["fabrics"]
    return found


@cache
def rules() -> dict[str, Any]:
    """Return the facts that the cross-field rules need."""
    return _mapping("files/rules.yaml")


@cache
def hydra() -> dict[str, Any]:
    """Return the Hydra config that the chart merges over."""
    return _mapping("files/neva_pretrain.yaml")


@cache
def defaults() -> dict[str, Any]:
    """Return the chart's default values. Callers must not change them."""
    return _mapping("values.yaml")


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema (draft-07) of a values file."""
    parsed: dict[str, Any] = json.loads(path(SCHEMA).read_text("utf-8"))
    return parsed


def _mapping(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yamlfile.read(path(name)).content
    return parsed
