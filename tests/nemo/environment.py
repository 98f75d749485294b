"""An environment of its own for NeMo, made once and kept beside the tools: PyPI only, every version pinned."""

import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.tools.build import ToolError, cache_root
from tests.tools.progress import Heartbeat, say

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
"""Scripts that run where NeMo is."""
REQUIREMENTS = HERE / "requirements.txt"
STAND_INS = HERE / "standins"
PYTHONS = ((3, 11), (3, 12))
"""Those that the wheels of torch 2.4 are for."""

ENVIRONMENT = {
    "NVIDIA_PYTORCH_VERSION": "24.02",  # the container sets it; NeMo asks for it
    "PYTHONPATH": str(STAND_INS),
    "PYTHONWARNINGS": "ignore",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
"""What NeMo's processes get in place of the container's environment."""


def python() -> Path:
    """Return the Python that has NeMo, made first if it is not there.

    Raises:
        ToolError: this Python is too new, or the installation failed.
    """
    if sys.version_info[:2] not in PYTHONS:
        raise ToolError(f"NeMo: got Python {sys.version_info.major}.{sys.version_info.minor}; must be 3.11 or 3.12")
    state = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = cache_root() / "nemo" / f"{sys.version_info.major}.{sys.version_info.minor}-{state}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _install(folder)
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    say("nemo: installing NeMo and torch (5 GiB) into the cache; the first time takes some minutes")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with Heartbeat("nemo: pip install"):
        done = subprocess.run([*pip, "--no-deps", "--requirement", str(REQUIREMENTS)], check=False)
    if done.returncode:
        raise ToolError(f"NeMo: pip could not install {REQUIREMENTS}; see its words above")
    (folder / "done").touch()


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process inside."""
    return {"PATH": f"{python().parent}:/usr/local/bin:/usr/bin:/bin", **ENVIRONMENT, **more}


def run(script: str, *arguments: str) -> str:
    """Run a script of the folder `inside`; return what it printed.

    Raises:
        AssertionError: it failed, with its last words.
    """
    command = [str(python()), str(INSIDE / script), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


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
