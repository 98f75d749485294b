"""What all tests share: how a run ends, which tests are the quick ones, which examples property tests take."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent

# The same examples in every run, or a change would be blamed for what chance found; `make fuzz` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", print_blob=True, deadline=None)
settings.load_profile("new" if os.environ.get("NEVA_FUZZ") else "same")


def pytest_configure() -> None:
    """Let a termination end the run as Ctrl-C does: fixtures stop what they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what renders the chart; a unit test that does says so itself."""
    for item in items:
        if item.path.is_relative_to(HERE / "chart"):
            item.add_marker(pytest.mark.helm)


@pytest.fixture(autouse=True)
def _no_helm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse Helm and its relatives to a test without the mark: ``make quick`` runs before they are built."""
    if not any(request.node.get_closest_marker(name) for name in ("helm", "e2e", "nemo")):
        monkeypatch.setattr("tests.chart.helm.tool", _refuse)


def _refuse(name: str) -> str:
    raise AssertionError(f"needs {name}: mark it with pytest.mark.helm")
