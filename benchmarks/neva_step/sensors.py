"""Clocks, power and temperature of the GPUs while they are timed, by nvidia-smi."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

_FIELDS = {
    "sm_mhz": "clocks.sm",
    "watts": "power.draw",
    "celsius": "temperature.gpu",
}


class Sensors:
    """Samples all visible GPUs five times a second from ``start`` on; reads nothing where there is no nvidia-smi."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="neva-step-")
        self._file = Path(self._folder.name, "samples")
        self._process: subprocess.Popen[bytes] | None = None
        self._columns: list[tuple[str, ...]] = []

    def __enter__(self) -> Self:
        return self

    def start(self) -> None:
        """Begin to sample."""
        if not shutil.which("nvidia-smi"):
            return
        only = os.environ.get("CUDA_VISIBLE_DEVICES")
        command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS.values())}", "--format=csv,noheader,nounits"]
        with self._file.open("wb") as out:
            self._process = subprocess.Popen([*command, "-lms", "200", *(["-i", only] if only else [])], stdout=out)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            rows = [line.split(", ") for line in self._file.read_text().splitlines()]
            self._columns = list(zip(*(row for row in rows if len(row) == len(_FIELDS)), strict=True))
        self._folder.cleanup()

    @property
    def readings(self) -> dict[str, float]:
        """Median, least and largest of each over all GPUs and samples."""
        found: dict[str, float] = {}
        for name, column in zip(_FIELDS, self._columns, strict=False):
            numbers = [float(text) for text in column if text.replace(".", "").isdigit()]
            if numbers:
                found |= {name: median(numbers), f"{name}_min": min(numbers), f"{name}_max": max(numbers)}
        return found


def driver() -> str | None:
    """Return the driver's version."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0]
