"""Whether nodes of the cluster can take the pods: by what nodes offer and are labelled, not by what is free now."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple

from neva_pretrain import chart
from neva_pretrain.chart.access import Values, preparing, rdma_enabled, rdma_resources, section, text
from neva_pretrain.check.pods import quantity
from neva_pretrain.errors import Violation
from neva_pretrain.kubectl import Object, at, name_of, objects, word

SHOWN = 3
"""Labels and reasons that a sentence names."""


class Needs(NamedTuple):
    """What each pod of a release needs of its node.

    Attributes:
        nodes: how many nodes take a pod each.
        resources: amounts by resource.

    """

    nodes: int
    resources: Mapping[str, str]


def needs(values: Values) -> Needs:
    """Return what the pods need: those of training, else the one that prepares."""
    if preparing(values):
        asked = section(values, "prepare", "resources")
        return Needs(1, {name: text(asked[name]) for name in ("cpu", "memory")})
    asked, training = section(values, "resources"), section(values, "training")
    amounts = {name: text(asked[name]) for name in ("cpu", "memory")}
    amounts[asked["gpuResourceName"]] = text(training["gpusPerNode"])
    if rdma_enabled(values):
        amounts |= {name: text(count) for name, count in rdma_resources(values).items()}
    return Needs(int(training["nodes"]), amounts)


def check_nodes(values: Values, nodes: Sequence[Object]) -> Iterator[Violation]:
    """Enough nodes take a pod; what none offers or is labelled with is told by its own value."""
    wanted = needs(values)
    if not nodes:
        yield Violation("training.nodes", str(wanted.nodes), "must be nodes of the cluster, which has none", "add some")
        return
    if missing := list(_missing(values, wanted, nodes)):
        yield from missing
        return
    reasons = [reason for node in nodes if (reason := _unfit(values, wanted, node))]
    if (fit := len(nodes) - len(reasons)) >= wanted.nodes:
        return
    others = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common(SHOWN))
    yield Violation(
        "training.nodes",
        str(wanted.nodes),
        f"must be at most {fit}, the nodes of the cluster that can take a pod",
        f"use fewer, or see to the others: {others}" if others else "use fewer, or add nodes",
    )


def _missing(values: Values, wanted: Needs, nodes: Sequence[Object]) -> Iterator[Violation]:
    """Yield what no node has."""
    gpu = values["resources"]["gpuResourceName"]
    shares = chart.rules()["fractionalGpu"]
    rdma = "rdma.resources" if section(values, "rdma").get("resources") else "rdma.resourceName"
    for resource in wanted.resources:
        if "/" not in resource or any(_offered(node, resource) for node in nodes):
            continue
        key = "resources.gpuResourceName" if resource == gpu else rdma
        alike = f"{resource.partition('/')[0]}/"
        offered = (name for node in nodes for name in _allocatable(node))
        others = Counter(name for name in offered if name.startswith(alike) and not re.search(shares, name))
        fix = f"use {_most(others)}" if others else "install its device plugin, or name the resource that nodes offer"
        yield Violation(key, resource, "must be a resource that a node of the cluster offers", fix)
    kind = section(values, "scheduling", "gpuType")
    if not kind.get("values"):
        return
    asked = [node for node in nodes if preparing(values) or _offered(node, gpu)]
    found = Counter(label for node in asked if (label := _labels(node).get(kind["key"])) is not None)
    if asked and not found:
        yield Violation(
            "scheduling.gpuType.key",
            kind["key"],
            "must be a label of the nodes that have the GPUs",
            "use the label that names the GPU (kubectl get nodes --show-labels), or values []",
        )
    elif asked and not any(value in found for value in kind["values"]):
        rule = f"must have a value of the label {kind['key']} on the nodes that have the GPUs"
        yield Violation("scheduling.gpuType.values", ", ".join(kind["values"]), rule, f"use {_most(found)}")


def _most(found: Counter[str]) -> str:
    """Return what most nodes have, and how many."""
    return " or ".join(f"{name} ({count} nodes)" for name, count in found.most_common(SHOWN))


def _unfit(values: Values, wanted: Needs, node: Object) -> str:
    """Return why a node takes no pod, empty where it does."""
    scheduling, labels, spec = section(values, "scheduling"), _labels(node), at(node, "spec")
    for resource, amount in wanted.resources.items():
        if (offered := _offered(node, resource)) < _amount(amount):
            return f"with less than {amount} {resource}" if offered else f"without {resource}"
    kind = section(scheduling, "gpuType")
    if kind.get("values") and labels.get(kind["key"]) not in kind["values"]:
        return f"with another {kind['key']} (scheduling.gpuType)"
    for key, value in section(scheduling, "nodeSelector").items():
        if labels.get(key) != text(value):
            return f"without the label {key}={text(value)} (scheduling.nodeSelector)"
    for expression in scheduling.get("nodeExpressions") or []:
        if not _holds(expression, labels):
            return f"with another {expression['key']} (scheduling.nodeExpressions)"
    if name_of(node) in (scheduling.get("avoidNodes") or []):
        return "in scheduling.avoidNodes"
    if spec.get("unschedulable") is True:
        return "cordoned"
    for taint in objects(spec.get("taints")):
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not any(
            _tolerates(toleration, taint) for toleration in scheduling.get("tolerations") or []
        ):
            return f"with the taint {word(taint.get('key'))} (scheduling.tolerations)"
    return ""


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a node's labels meet an expression, as the scheduler takes it."""
    value, given = labels.get(expression["key"]), [text(each) for each in expression.get("values") or []]
    match expression["operator"]:
        case "In":
            return value in given
        case "NotIn":
            return value not in given
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            try:
                ours, bound = int(value or ""), int(given[0])
            except ValueError:
                return False
            return ours > bound if expression["operator"] == "Gt" else ours < bound


def _tolerates(toleration: Mapping[str, Any], taint: Object) -> bool:
    """Return whether a toleration covers a taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    exists = toleration.get("operator") == "Exists"
    return exists or (bool(toleration.get("key")) and text(toleration.get("value")) == word(taint.get("value")))


def _labels(node: Object) -> Mapping[str, str]:
    return {key: value for key, value in at(node, "metadata", "labels").items() if isinstance(value, str)}


def _allocatable(node: Object) -> Object:
    return at(node, "status", "allocatable")


def _offered(node: Object, resource: str) -> Decimal:
    """Return how much a node offers of a resource."""
    return _amount(_allocatable(node).get(resource))


def _amount(value: object) -> Decimal:
    """Return a quantity, also of thousandths of a CPU; what is none counts as nothing."""
    with suppress(ValueError, ArithmeticError):
        return quantity(text(value))
    return Decimal(0)
