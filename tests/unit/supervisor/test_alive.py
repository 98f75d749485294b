"""The liveness probe, as kubelet runs it."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from neva_pod.supervisor import alive


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("POD_NAME", f"test-{uuid.uuid4().hex}")
    made = Path(alive.path())
    yield made
    made.unlink(missing_ok=True)


@pytest.mark.parametrize(("age", "code"), [(None, 0), (0, 0), (59, 0), (70, 1), (-86400, 0)])
def test_the_probe(file: Path, age: int | None, code: int) -> None:
    """No file: launch.sh's own limits hold. A file of the future: the node's clock went back."""
    if age is not None:
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))
    command = [sys.executable, "-I", "-S", alive.__file__]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (done.returncode, bool(done.stdout)) == (code, code == 1), done.stderr
