"""How values are read, by rules and by all else that judges them: a null key counts as missing."""

from collections.abc import Mapping
from typing import Any

from neva_pretrain import chart

Values = Mapping[str, Any]

VOLUMES = ("datasets", "models", "results", "scratch")
READ_ONLY_VOLUMES = ("datasets", "models")


def text(value: object) -> str:
    """Return a scalar as the chart prints it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def section(values: Values, *path: str) -> Any:
    """Return a nested value, or an empty mapping where a part of the path is missing or null."""
    node: Any = values
    for key in path:
        node = (node or {}).get(key)
    return {} if node is None else node


def mapping(values: Values, *path: str) -> Mapping[str, Any]:
    """Return a nested mapping, empty where it is missing or something else."""
    node: Any = values
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def without_nulls(values: Values) -> dict[str, Any]:
    """Return values without what is null, at any depth but in the free maps, where null takes away the chart's own."""
    free = chart.rules()["freeMaps"]
    return _dropped({key: value for key, value in values.items() if key not in free}) | {
        key: values[key] for key in free if values.get(key) is not None
    }


def _dropped(values: Values) -> dict[str, Any]:
    return {
        key: _dropped(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def preparing(values: Values) -> bool:
    """Return whether the release prepares data and models in place of training."""
    return bool(section(values, "prepare").get("enabled"))


def fabric(values: Values) -> str:
    """Return the network between nodes; where none is named, ib if ``rdma`` names devices or is enabled, else tcp."""
    rdma = section(values, "rdma")
    named = any(rdma.get(key) for key in ("enabled", "resourceName", "count", "resources", "networks"))
    return values["fabric"] or ("ib" if named and rdma.get("enabled") is not False else "tcp")


def rdma_resources(values: Values) -> Mapping[str, int]:
    """Return the RDMA devices that a pod asks for while RDMA is on, by resource: ``rdma``'s, else the fabric's."""
    given, usual = section(values, "rdma"), chart.fabrics()[fabric(values)]["rdma"]
    named: Mapping[str, int] = section(given, "resources")
    return named or {given.get("resourceName") or usual["resourceName"]: given.get("count") or usual["count"]}


def read_only(values: Values, volume: str) -> bool:
    """Return whether pods only read a volume."""
    return (
        not preparing(values) and volume in READ_ONLY_VOLUMES and values["storage"][volume].get("readOnly") is not False
    )


def rdma_enabled(values: Values) -> bool:
    """Return whether pods ask for RDMA devices: as ``rdma.enabled`` says, else as the fabric does."""
    said = section(values, "rdma").get("enabled")
    return bool(chart.fabrics()[fabric(values)]["rdma"]["enabled"] if said is None else said)
