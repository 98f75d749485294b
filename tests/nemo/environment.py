"""An environment of its own for NeMo, made once and kept beside the tools: PyPI only, every version pinned."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.tools.build import ToolError, cache_root
from tests.tools.progress import Heartbeat, say

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
"""Scripts that run where NeMo is."""
REQUIREMENTS = HERE / "requirements.txt"
STAND_INS = HERE / "standins"
CONTAINERS = {
    "24.07": (),
    "24.09": ("nemo_toolkit==2.0.0", "megatron_core==0.9.0"),
    "24.12": ("nemo_toolkit==2.1.0", "megatron_core==0.10.0", "lightning==2.4.0"),
    "25.02": ("nemo_toolkit==2.2.0", "megatron_core==0.11.0", "lightning==2.4.0"),
}
"""Tag of NVIDIA's image -> its packages over those of REQUIREMENTS, which are 24.07's."""
PYTHONS = ((3, 11), (3, 12))
"""Those that the wheels of torch 2.3 are for, the release nearest to the container's."""

ENVIRONMENT = {
    "NVIDIA_PYTORCH_VERSION": "24.02",  # the container sets it; NeMo asks for it
    "PYTHONWARNINGS": "ignore",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # the compiler's kernels take longer than all tests
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
    folder = cache_root() / "nemo" / "24.07" / f"{sys.version_info.major}.{sys.version_info.minor}-{state}"
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
    _pip(folder / "bin" / "python", "--requirement", str(REQUIREMENTS))
    (folder / "done").touch()


def overlay(container: str) -> Path:
    """Return the folder of what a later container has in place of 24.07's packages, made first if it is not there.

    Raises:
        ToolError: the installation failed.
    """
    packages = CONTAINERS[container]
    state = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    folder = cache_root() / "nemo" / container / f"{sys.version_info.major}.{sys.version_info.minor}-{state}"
    base = python()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _pip(base, "--target", str(folder), *packages)
            (folder / "done").touch()
    return folder


def _pip(base: Path, *what: str) -> None:
    pip = [str(base), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with Heartbeat("nemo: pip install"):
        done = subprocess.run([*pip, *what], check=False)
    if done.returncode:
        raise ToolError(f"NeMo: pip could not install {' '.join(what)}; see its words above")


def environment(container: str = "24.07", **more: str) -> dict[str, str]:
    """Return the environment of a process inside, with the packages of a container of NVIDIA's."""
    first = [STAND_INS, *([overlay(container)] if CONTAINERS[container] else [])]
    path = f"{python().parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "PYTHONPATH": ":".join(map(str, first)), **ENVIRONMENT, **more}


def run(script: str, *arguments: str) -> str:
    """Run a script of the folder `inside`; return what it printed.

    Raises:
        AssertionError: it failed, with its last words.
    """
    command = [str(python()), str(INSIDE / script), *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


if __name__ == "__main__":
    print(python())
