"""What a user adds by hand: environment, secrets, keys of the Hydra config."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from neva_pretrain import chart
from neva_pretrain.chart.access import Values, mapping, section, text
from neva_pretrain.chart.secrecy import HIDDEN, LEVELS, is_secret, is_secret_name, show, walk
from neva_pretrain.check.formats import entries
from neva_pretrain.errors import Violation
from neva_pretrain.facts import Facts


def reserved(name: str, kind: str) -> str | None:
    """Return who sets a name, or what to say in its place; None where it is free."""
    rules = chart.rules()
    owner: str | None = rules[kind].get(name)
    for prefix, reason in rules[f"{kind}Prefixes"].items():
        if name.startswith(prefix):
            owner = reason
    return owner


def check_environment(facts: Facts) -> Iterator[Violation]:
    """The environment that the operator and the chart own is not set a second time."""
    values = facts.shaped
    for name, value in sorted((values.get("env") or {}).items()):
        owner = reserved(name, "reservedEnv")
        if owner and value is not None:
            shown = HIDDEN if is_secret_name(name) else show(value)
            yield Violation(f"env.{name}", shown, "must not be set here", owner)
        elif isinstance(value, bool):
            word = "true" if value else "false"
            yield Violation(
                f"env.{name}",
                word,
                "must be text or a number, since YAML reads words such as on, off, yes and no as booleans",
                f'quote what is meant, such as "{word}"',
            )
    for name, secret in sorted(section(values, "secrets", "env").items()):
        owner = reserved(name, "reservedEnv")
        if name in section(values, "env"):
            owner = "remove it here or in env"
        if owner and secret:
            yield Violation(f"secrets.env.{name}", secret["name"], "must not be set here", owner)


def check_secrets(facts: Facts) -> Iterator[Violation]:
    """Secrets come by reference: all who read the job, the release or the file would see them."""
    values = facts.shaped
    for entry in entries(values):
        if entry.deep:
            yield Violation(entry.path, "a tree", f"must be at most {LEVELS} levels deep", "flatten it")
        elif isinstance(entry.node, Mapping | list) or not is_secret(entry.name, entry.node):
            continue
        elif not entry.path.startswith("env."):
            yield in_clear(entry.path)
        elif not reserved(entry.name, "reservedEnv"):
            yield in_clear(entry.path, f"use secrets.env.{entry.name} with the name and key of a Secret")


def in_clear(path: str, fix: str = "use an existing Secret, through secrets.env") -> Violation:
    """Return the refusal of a secret, which does not show it."""
    return Violation(path, HIDDEN, "must not hold a secret, which everyone who reads the job would see", fix)


def check_config(facts: Facts) -> Iterator[Violation]:
    """``config`` says only what no value says, in the config's own keys."""
    values = facts.shaped
    config = values.get("config") or {}
    for entry in walk(config, "config"):
        if re.search(r"^[+~]|[.]", entry.name) and entry.path.endswith(f".{entry.name}"):
            yield Violation(
                entry.path.removesuffix(f".{entry.name}"),
                f"the key {entry.name}",
                "must have plain keys, since only a command line reads dots, + and ~",
                "use nested maps",
            )
    owned = chart.rules()["ownedConfig"]
    parts = [path.split(".") for path in owned]
    sections = {".".join(keys[:depth]) for keys in parts for depth in range(1, len(keys))}
    for path in sorted(sections):
        *parents, last = path.split(".")
        parent = mapping(config, *parents)
        if last in parent and not isinstance(parent[last], Mapping):
            yield Violation(
                f"config.{path}",
                show(parent[last]),
                "must be a map, or it would replace the whole section",
                "name its keys",
            )
    for path, owner in sorted(owned.items()):
        node: Any = config
        for key in path.split("."):
            if not isinstance(node, Mapping) or key not in node:
                break
            node = node[key]
        else:
            yield Violation(f"config.{path}", show(node), "must not be set here, since a value owns it", f"use {owner}")
    monitor = str(mapping(config, "exp_manager", "checkpoint_callback_params").get("monitor") or "")
    if monitor.startswith("val") and _number(mapping(config, "trainer").get("limit_val_batches")) == 0:
        yield Violation(
            "config.exp_manager.checkpoint_callback_params.monitor",
            monitor,
            "must not be a validation metric while no validation runs, or nothing is saved",
            "use step or reduced_train_loss",
        )
    model = mapping(config, "model")
    if values["training"]["kernels"] == "fp8" and text(model.get("transformer_engine", True)) != "true":
        yield Violation(
            "config.model.transformer_engine",
            show(model["transformer_engine"]),
            "must be true with training.kernels fp8, which is TransformerEngine's",
            "leave it out",
        )
    bar = mapping(config, "trainer").get("enable_progress_bar")
    if bar is not None and text(bar) != "true":
        yield Violation(
            "config.trainer.enable_progress_bar",
            show(bar),
            "must be true, since the steps that the bar shows tell a hang from training",
            "leave it out",
        )


def unread(values: Values) -> Iterator[str]:
    """Say which sections of ``config`` NVIDIA's script has not, so that a slip of the pen is not lost in silence."""
    for key in section(values, "config"):
        if key not in chart.hydra():
            yield f"config.{key}: NeVa's configuration has no such section, only {', '.join(chart.hydra())}"


def _number(value: object) -> float:
    """Return a value as the chart's ``float64`` reads it: what is no number is 0."""
    try:
        return float(value) if isinstance(value, str | int | float) else 0.0
    except ValueError:
        return 0.0
