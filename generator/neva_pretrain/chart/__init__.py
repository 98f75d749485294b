"""Files that the chart owns and this package ships: the catalog, facts of the rules, values and schema.

An installed wheel has them in ``neva_pretrain/_chart``; an editable checkout reads the chart itself.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from neva_pretrain.chart import yamlfile

_IN_CHART = {
    "fabrics.yaml": "files/fabrics.yaml",
    "rules.yaml": "files/rules.yaml",
    "models.yaml": "files/models.yaml",
    "neva_pretrain.yaml": "files/neva_pretrain.yaml",
    "values.yaml": "values.yaml",
    "values.schema.json": "values.schema.json",
}


def path(name: str) -> Path:
    """Return where the chart's file of that name lies."""
    shipped = Path(str(files("neva_pretrain"))) / "_chart" / name
    if shipped.exists():
        return shipped
    return Path(__file__).parents[3] / "charts" / "neva-pretrain" / _IN_CHART[name]


@cache
def models() -> dict[str, Any]:
    """Return the catalog, as parsed."""
    return _mapping("models.yaml")


@cache
def fabrics() -> dict[str, Any]:
    """Return the networks between nodes, by name."""
    found: dict[str, Any] = _mapping("fabrics.yaml")["fabrics"]
    return found


@cache
def rules() -> dict[str, Any]:
    """Return the facts that the cross-field rules need."""
    return _mapping("rules.yaml")


@cache
def hydra() -> dict[str, Any]:
    """Return the Hydra config that the chart merges over."""
    return _mapping("neva_pretrain.yaml")


@cache
def defaults() -> dict[str, Any]:
    """Return the chart's default values. Callers must not change them."""
    return _mapping("values.yaml")


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema (draft-07) of a values file."""
    parsed: dict[str, Any] = json.loads(path("values.schema.json").read_text("utf-8"))
    return parsed


def _mapping(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yamlfile.read(path(name)).content
    return parsed
