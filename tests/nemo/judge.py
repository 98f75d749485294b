"""NeMo's own classes as judges: one process, started at the first question, is asked many times what they do."""

import json
import subprocess
import tempfile
from functools import cache
from typing import IO, Any

from tests.nemo.environment import INSIDE, environment, python

Process = subprocess.Popen[str]


@cache
def _judges() -> tuple[Process, IO[str]]:
    """Start the process, which imports NeMo once and ends with this one; return it and what it prints."""
    words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
    command = [str(python()), str(INSIDE / "judges.py")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": words}
    return subprocess.Popen(command, env=environment(), text=True, bufsize=1, **pipes), words


def ask(judge: str, **arguments: Any) -> Any:
    """Return what a judge of inside/judges.py says."""
    process, words = _judges()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"judge": judge, **arguments}) + "\n")
    line = process.stdout.readline()
    if not line:
        words.seek(0)
        raise AssertionError(f"NeMo ended with {process.wait()}\n{words.read()[-4000:]}")
    return json.loads(line)
