"""NeMo's own classes as judges: a process that is asked, many times, what they do."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from tests.nemo.environment import INSIDE, environment, python

Ask = Callable[..., Any]
"""A judge by name, and its arguments -> what it says."""


@contextlib.contextmanager
def judges(script: str) -> Iterator[Ask]:
    """Start a script of the folder `inside` that answers questions: NeMo is imported once for all of them."""
    command = [str(python()), str(INSIDE / script)]
    with (
        tempfile.TemporaryFile("w+") as words,
        subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True
        ) as process,
    ):
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        def ask(judge: str, **arguments: Any) -> Any:
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps({"judge": judge, **arguments}), file=questions, flush=True)
            line = answers.readline()
            if not line:
                words.seek(0)
                raise AssertionError(f"{script} ended with {process.wait()}\n{words.read()[-4000:]}")
            return json.loads(line)

        yield ask
