"""NVIDIA's code of later containers than 24.07: what docs/reference/containers.md says of each. NEVA_CONTAINERS=1."""

import os

import pytest

from tests.nemo.environment import CONTAINERS
from tests.nemo.pod import Run, World
from tests.nemo.test_training import losses
from tests.waiting import until

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not os.environ.get("NEVA_CONTAINERS"), reason="NEVA_CONTAINERS is not set"),
]

NEEDS = {"25.02": {"config": {"model": {"attention_backend": "flash"}}}}
"""Container -> the values without which it stops."""
SHORT = {"checkpoint": {"everyNSteps": 2}, "restart": {"enabled": False}}


def run_to(run: Run, steps: int) -> int:
    """Start a run, without a second attempt, and return its exit status once it has ended."""
    process = run.start({"training": {"maxSteps": steps}})
    try:
        until(lambda: process.poll() is not None, run.tail, patience=1800)
        return process.returncode
    finally:
        run.end()


def resumed(world: World, container: str) -> Run:
    """Return a run of two steps, and a third after a resume."""
    run = Run(world, f"in-{container.replace('.', '-')}", {**SHORT, **NEEDS.get(container, {})}, container)
    assert run_to(run, 2) == 0, run.tail()
    assert run_to(run, 3) == 0, run.tail()
    return run


@pytest.fixture(scope="module")
def reference(world: World) -> Run:
    """The same with 24.07."""
    return resumed(world, "24.07")


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "24.07"])
def test_it_loads_trains_saves_and_resumes(world: World, reference: Run, container: str) -> None:
    """From the weights that 24.07 loads it comes to the same projector, bit for bit, and goes on from what it saved."""
    run = resumed(world, container)
    assert losses(run) == losses(reference)
    sums = run.sums()
    assert sums == reference.sums()
    assert [line["step"] for line in sums] == [0, 2, 2, 3]
    assert sums[1] == sums[2], "it resumed"
    assert len({line["projector"] for line in sums}) == 3
    assert len({(line["llm"], line["vision"]) for line in sums}) == 1


@pytest.mark.parametrize("container", NEEDS)
def test_it_stops_without_the_values_that_it_needs(world: World, container: str) -> None:
    """Megatron Core 0.11 refuses NVTE_FUSED_ATTN=0, NVIDIA's own setting, unless told to use another attention."""
    run = Run(world, f"stops-{container.replace('.', '-')}", SHORT, container)
    assert run_to(run, 2) != 0
    assert "AssertionError: NVTE_FUSED_ATTN set to 0, but expected 1 for attention backend type auto" in run.said()
