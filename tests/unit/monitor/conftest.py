"""``neva-monitor`` as a user runs it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neva_pretrain.cli import monitor as cli

ROOT = Path(__file__).parents[3]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Run the command in this process; return its exit code, stdout and stderr."""

    def call(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["neva-monitor", *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call
