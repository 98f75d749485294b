"""K22, N24: a section or a value that is null or missing is a sentence or as good as its default, never a crash."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.check import rules
from neva_pretrain.facts import Facts
from tests.chart import batch

Path = tuple[str, ...]
ALL_ON: dict[str, Any] = {
    "secrets": {"huggingface": {"name": "a"}},
    "wandb": {"enabled": True, "mode": "offline"},
    "tensorboard": {"enabled": True},
    "monitoring": {key: {"enabled": True} for key in ("exporter", "podMonitor", "prometheusRule", "dashboard")},
    "prepare": {"enabled": True, "llm": {"source": "/models/preset/a"}, "vision": {"enabled": False}},
}


def properties(node: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    for name, part in node.get("properties", {}).items():
        yield (*path, name)
        yield from properties(part, (*path, name))


def without(complete: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """Complete values in which a path is missing, as null leaves it; None where it already is."""
    changed: dict[str, Any] = copy.deepcopy(complete)
    *parents, last = path
    node = changed
    for name in parents:
        node = node.get(name) or {}
    return changed if node.pop(last, None) is not None else None


@pytest.mark.slow
def test_k22_what_is_missing_is_judged_and_never_crashes() -> None:
    for partial in ({}, ALL_ON):
        complete = values.complete(partial)
        for path in properties(chart.schema()):
            if (case := without(complete, path)) is not None:
                found = [str(v) for v in rules.violations(Facts(case))]
                assert all(": got " in sentence for sentence in found), (path, found)


@pytest.mark.helm
def test_k22_the_chart_says_the_same_of_every_section() -> None:
    complete = values.complete(ALL_ON)
    sections = [path for path in properties(chart.schema()) if len(path) == 1 or path[1:] == ("resources",)]
    cases = [case for path in sections if (case := without(complete, path)) is not None]
    assert len(cases) > 30
    assert batch.violations(cases) == [[str(v) for v in rules.violations(Facts(case))] for case in cases]


def test_k22_the_sentences() -> None:
    partial = {"preflight": None, "fabric": None, "training": {"nodes": None}, "prepare": {"llm": None}, "wandb": None}
    assert [str(v).split("; must")[0] for v in rules.violations(Facts.of(partial))] == [
        "fabric: got nothing",
        "preflight: got nothing",
        "prepare.llm: got nothing",
        "training.nodes: got nothing",
    ]


def test_required_holds_every_default_that_is_something() -> None:
    """What has a default that templates rely on is in the list, or may be null."""
    facts = chart.rules()
    listed = {f"{part}.{key}".removeprefix(".") for part, keys in facts["required"].items() for key in keys.split()}
    free = ("env", "podAnnotations", "workerLabels", "networkPolicy", "scheduling", "monitoring.dashboard.labels")
    # Their templates say what they are without: a fallback, or off.
    others = {"image.pullPolicy", "serviceAccount.create", "secrets.huggingface.key", "secrets.wandb.key"}
    others |= {"run.attempt"}

    def leaves(node: Any, path: str = "") -> Iterator[str]:
        if isinstance(node, dict):
            for name, below in node.items():
                yield from leaves(below, f"{path}.{name}".removeprefix("."))
        elif node not in (None, "", []) and node is not False:
            yield path

    missing = [path for path in leaves(chart.defaults()) if path not in listed and not path.startswith(free)]
    assert set(missing) - others == set()


def test_each_section_is_required_or_has_a_shape() -> None:
    """What templates read a key of is a map: a required section, or one that files/rules.yaml makes an empty map."""
    facts = chart.rules()
    free, order = facts["freeMaps"], facts["optional"]["sections"]

    def sections(node: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, below in node.items():
            if isinstance(below, dict):
                yield f"{path}.{name}".removeprefix(".")
                if name not in free:
                    yield from sections(below, f"{path}.{name}")

    shaped = {*facts["required"], *order} | {"storage", "preflight.filesystems"}  # nobody reads a key of the last one
    assert set(sections(chart.defaults())) - shaped == set()
    for path in order:
        outer = path.rpartition(".")[0]
        assert not outer or outer in facts["required"] or outer in order[: order.index(path)], path
