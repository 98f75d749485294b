"""What a network policy must admit, and the form of its rules."""

from collections.abc import Iterator

from neva_pretrain.chart.access import Values, preparing, section, text
from neva_pretrain.errors import Violation
from neva_pretrain.facts import Facts


def check_network(facts: Facts) -> Iterator[Violation]:
    """A policy admits what the release downloads, and the way to Weights & Biases; the API takes its rules."""
    values = facts.shaped
    if preparing(values):
        why = ["prepare downloads"] if downloads(values) else []
    else:
        why = ["hf.online is true"] if section(values, "hf").get("online") else []
        wandb = section(values, "wandb")
        why += ["wandb.mode is online"] if wandb.get("enabled") and wandb.get("mode") == "online" else []
    policy = section(values, "networkPolicy")
    if policy.get("enabled") and why and not policy.get("egress"):
        yield Violation(
            "networkPolicy.egress",
            "nothing",
            f"must allow internet hosts, since {' and '.join(why)}",
            "use a rule such as internet: {ports: [{port: 443}]}",
        )
    for direction, side in (("egress", "to"), ("ingress", "from")):
        for name, rule in sorted(section(policy, direction).items()):
            here = f"networkPolicy.{direction}.{name}"
            for index, peer in enumerate((rule or {}).get(side) or []):
                yield from _peer(f"{here}.{side}[{index}]", peer)
            for index, port in enumerate((rule or {}).get("ports") or []):
                yield from _port(f"{here}.ports[{index}]", port)


def _peer(here: str, peer: Values) -> Iterator[Violation]:
    """Yield what the API would refuse of a peer."""
    given = sorted(kind for kind, value in peer.items() if value is not None)
    if not given:
        rule = "must be an ipBlock, a namespaceSelector or a podSelector"
        yield Violation(here, "nothing", rule, "use one, such as podSelector: {} for all pods")
    if "ipBlock" in given and len(given) > 1:
        yield Violation(here, " and ".join(given), "must be an ipBlock or selectors, not both", "use two peers")
    if "ipBlock" in given and not peer["ipBlock"].get("cidr"):
        yield Violation(f"{here}.ipBlock.cidr", "nothing", "must be set", "use one such as 10.0.0.0/8")
    for kind in ("namespaceSelector", "podSelector"):
        for index, expression in enumerate(section(peer, kind).get("matchExpressions") or []):
            key, operator = f"{here}.{kind}.matchExpressions[{index}]", expression.get("operator") or "nothing"
            values = expression.get("values") or []
            for part in ("key", "operator"):
                if not expression.get(part):
                    yield Violation(f"{key}.{part}", "nothing", "must be set", "use a label, and In, NotIn or Exists")
            if operator in ("In", "NotIn") and not values:
                rule = f"must not be empty with operator {operator}"
                yield Violation(f"{key}.values", "nothing", rule, "use values of the label")
            if operator in ("Exists", "DoesNotExist") and values:
                rule = f"must not be set with operator {operator}"
                yield Violation(f"{key}.values", ", ".join(values), rule, "remove it")


def _port(here: str, given: Values) -> Iterator[Violation]:
    """Yield what the API would refuse of a port."""
    port, end = given.get("port"), given.get("endPort")
    if isinstance(port, str) and port.isdecimal():
        yield Violation(f"{here}.port", port, "must be a number without quotes, or a name with a letter", f"use {port}")
    elif end is not None and (port is None or isinstance(port, str) or port > end):
        got, rule = text(port) or "nothing", f"must be a number up to endPort ({text(end)})"
        yield Violation(f"{here}.port", got, rule, "use the first port of the range")


def downloads(values: Values) -> bool:
    """Return whether prepare downloads from the hub: a source that is no folder."""
    steps = values["prepare"]
    vision = steps["vision"]["enabled"] and not steps["vision"]["source"].startswith("/")
    others = (steps[name] for name in ("tokenizer", "llm", "dataset"))
    return vision or any(s["enabled"] and s["source"] and not s["source"].startswith("/") for s in others)
