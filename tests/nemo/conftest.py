"""What the tests with NeMo share: prepared inputs, and a run that nothing disturbed."""

from collections.abc import Iterator

import pytest

from tests.nemo.pod import Run, World
from tests.waiting import until


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Inputs that the chart's own prepare Job has made."""
    made = World(tmp_path_factory.mktemp("nemo"))
    made.make()
    prepare = Run(made, "prepare")
    process = prepare.start({"prepare": {"enabled": True}})
    until(lambda: process.poll() is not None, prepare.tail)
    assert process.returncode == 0, prepare.tail()
    return made


@pytest.fixture(scope="session")
def trained(world: World) -> Iterator[Run]:
    """A run that came to its end undisturbed."""
    run = Run(world, "trained")
    process = run.start()
    try:
        until(lambda: process.poll() is not None, run.tail)
        assert process.returncode == 0, run.tail()
        yield run
    finally:
        run.end()
