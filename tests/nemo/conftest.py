"""What the tests with NeMo share: prepared inputs, and a run that nothing disturbed."""

from collections.abc import Iterator

import pytest

from tests.nemo.pod import Run, World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Inputs that the chart's own prepare Job has made."""
    made = World(tmp_path_factory.mktemp("nemo"))
    made.make()
    prepare = Run(made, "prepare")
    prepare.finish(prepare.start({"prepare": {"enabled": True}}))
    return made


@pytest.fixture(scope="session")
def trained(world: World) -> Iterator[Run]:
    """A run that came to its end undisturbed."""
    run = Run(world, "trained")
    try:
        run.finish(run.start())
        yield run
    finally:
        run.end()
