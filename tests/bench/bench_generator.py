"""What a render and the generator cost, as ratios of CPU time; exits 1 when one misses its target.

Run with ``python -m tests.bench.bench_generator``. The two sides of a ratio run in turns, each as processes of its own,
and their medians are compared, so that a busy machine slows both.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.chart import helm

TURNS = 15
NEVA_VALUES = [sys.executable, "-c", "from neva_pretrain.cli.main import main; main()"]
IMPORTS = [sys.executable, "-c", "import click, jsonschema, yaml"]
NUMBER = re.compile(r"\d+")
HASH = re.compile(r"-[0-9a-f]{8}\b")


def main() -> int:
    """Print each ratio with its target."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = (_template(folder / f"{gpus}.yaml", gpus) for gpus in (8, 16_384))
        plan, help_ = [*NEVA_VALUES, "plan", "--gpus", "16384"], [*NEVA_VALUES, "--help"]
        met = [
            _judge("helm template, 16,384 GPUs over 8 GPUs", _ratio(large, small), 1.15),
            _same_but_for_numbers(large, small),
            _judge("neva-values --gpus 128 over its imports", _ratio([*NEVA_VALUES, "--gpus", "128"], IMPORTS), 1.5),
            _judge("plan --gpus 16384 over --help + 100 ms", _ratio(plan, help_, more=0.1), 1.5),
        ]
    return 0 if all(met) else 1


def _template(file: Path, gpus: int) -> list[str]:
    """Return the helm command that renders a job of so many GPUs; 8 GPUs on 2 nodes of 4, so that both have workers."""
    per_node = ["--gpus-per-node", "4"] if gpus == 8 else []
    command = [*NEVA_VALUES, "--gpus", str(gpus), *per_node, "--output", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return [helm.tool("helm"), "template", "neva", str(helm.CHART), "--kube-version", helm.KUBERNETES, "-f", str(file)]


def _same_but_for_numbers(large: Sequence[str], small: Sequence[str]) -> bool:
    """Print whether two renders are the same lines but for the digits in them (and the hash in the job's name)."""
    texts = [subprocess.run(c, check=True, capture_output=True, text=True).stdout for c in (large, small)]
    first, second = (NUMBER.sub("0", HASH.sub("-0", text)) for text in texts)
    different = sum(a != b for a, b in zip(*(text.splitlines() for text in texts), strict=False))
    met = first == second
    print(f"{'the renders differ in numbers only':42} {different:3} lines differ        {_word(met)}")
    return met


def _ratio(one: Sequence[str], other: Sequence[str], more: float = 0.0) -> float:
    """Return the median CPU time of one command over that of another plus some seconds, run in turns."""
    ours, theirs = [], []
    for turn in range(TURNS + 1):
        first, second = _cpu_seconds(one), _cpu_seconds(other)
        if turn:  # the first one warms the caches
            ours.append(first)
            theirs.append(second)
    return median(ours) / (median(theirs) + more)


def _cpu_seconds(command: Sequence[str]) -> float:
    """Return user and system time of a command."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # bytecode is kept, as where it is installed
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime


def _judge(title: str, ratio: float, target: float) -> bool:
    print(f"{title:42} {ratio:.2f} (at most {target:.2f})    {_word(ratio <= target)}")
    return ratio <= target


def _word(met: bool) -> str:
    return "PASS" if met else "MISS"


if __name__ == "__main__":
    sys.exit(main())
