"""What a refusal advises: the nearest values that hold, and nothing that follows from another broken value."""

from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from neva_pretrain.chart import values
from neva_pretrain.check import rules
from neva_pretrain.cli.main import main
from neva_pretrain.facts import Facts
from neva_pretrain.plan import split
from tests.chart import batch

FOLLOW_ON: list[tuple[dict[str, Any], list[str]]] = [
    ({"training": {"nodes": 16, "tensorParallelSize": 3}}, ["training.tensorParallelSize"]),
    ({"training": {"pipelineParallelSize": 7}}, ["training.pipelineParallelSize"]),
    (
        {"model": {"architecture": {"numAttentionHeads": 31, "numQueryGroups": 4}}},
        ["model.architecture.numAttentionHeads"],
    ),
    (
        {
            "training": {"nodes": 3, "tensorParallelSize": 8, "pipelineParallelSize": 2},
            "scheduling": {"schedulingPolicy": {"minAvailable": 9}},
        },
        ["training.nodes"],
    ),
    ({"model": {"checkpointFormat": "legacy"}, "training": {"tensorParallelSize": 6}}, ["training.tensorParallelSize"]),
    (
        {"scheduling": {"queue": {"name": "q"}, "kai": {"queue": "k"}, "schedulerName": "volcano"}},
        ["scheduling.kai.queue"],
    ),
    (
        {"networkPolicy": {"enabled": True}, "monitoring": {"podMonitor": {"enabled": True}}},
        ["monitoring.podMonitor.enabled"],
    ),
]


@pytest.mark.helm
def test_u04_advice_that_follows_from_another_broken_value_is_dropped() -> None:
    """By chart and generator; `--tp 3` no longer advises other nodes too."""
    cases = [values.complete(partial) for partial, _ in FOLLOW_ON]
    theirs = batch.violations(cases)
    for case, sentences, (_, keys) in zip(cases, theirs, FOLLOW_ON, strict=True):
        assert [str(v) for v in rules.violations(Facts(case))] == sentences
        assert [sentence.split(": got ")[0] for sentence in sentences] == keys


def test_u04_the_command_line_drops_it_too() -> None:
    done = CliRunner().invoke(main, ["--gpus", "128", "--tensor-parallel", "3"])
    assert [line.split(": got ")[0] for line in done.stderr.splitlines()] == ["ERROR: training.tensorParallelSize"]


def test_independent_mistakes_still_come_together() -> None:
    partial = {"training": {"tensorParallelSize": 3, "warmupSteps": 5000}, "fabric": "none", "env": {"RANK": "1"}}
    keys = [v.key for v in rules.violations(Facts.of(partial))]
    assert keys == ["training.tensorParallelSize", "training.warmupSteps", "env.RANK"]


@settings(max_examples=200)
@given(limit=st.integers(1, 300), numbers=st.lists(st.integers(1, 2**20), min_size=1, max_size=4))
def test_divisors_are_those_that_counting_finds(limit: int, numbers: list[int]) -> None:
    found = split.divisors(limit, numbers)
    assert found == [d for d in range(1, limit + 1) if not any(n % d for n in numbers)]


LARGE = [2**20, 2**20 - 1, 720720, 1048573, 65536, 4096]


@pytest.mark.helm
@pytest.mark.parametrize("key", ["hiddenSize", "numLayers", "ffnHiddenSize"])
def test_k13_large_sizes_are_judged_at_once_and_alike(key: str) -> None:
    """Nothing counts to n: sentences of large numbers, primes among them, cost what small ones do."""
    cases = [
        values.complete(
            {
                "model": {"architecture": {key: size, "numAttentionHeads": 7, "numQueryGroups": 7}},
                "training": {"tensorParallelSize": 7, "pipelineParallelSize": 1023, "gpusPerNode": 64},
            }
        )
        for size in LARGE
    ]
    assert batch.violations(cases) == [[str(v) for v in rules.violations(Facts(case))] for case in cases]
