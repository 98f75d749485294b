"""Measure cases: ``python -m benchmarks.neva_step [CASE ...]``.

Starts torchrun once for each layout of TP and DP, again after a case that broke it; writes each row at once, so a run
that is cut off keeps what it has.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from benchmarks.neva_step import cases, table
from benchmarks.neva_step.cases import OUT_OF_MEMORY, Case, Job

_ENVIRONMENT = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # as NVIDIA's launcher
    "NCCL_NVLS_ENABLE": "0",  # as NVIDIA's launcher; NVLink multicast off
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compilers for each rank
    "OMP_NUM_THREADS": "1",
}


def main() -> None:
    """Run the command."""
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = options.output / "rows.jsonl"
    rows.unlink(missing_ok=True)
    deadline = time.time() + options.seconds
    for (tp, dp), group in groupby(options.cases, key=lambda case: case.layout):
        _run(tp * dp, [str(case) for case in group], rows, deadline, options)
    text = table.markdown(table.read(rows))
    (options.output / "table.md").write_text(text)
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neva_step", description=cases.Case.__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: what is worth measuring on these GPUs")
    parser.add_argument("--output", type=Path, default=Path("build/neva_step"), help="folder for rows.jsonl, table.md")
    parser.add_argument("--seconds", type=float, default=86400, help="budget; cases that do not fit are not run")
    parser.add_argument("--iterations", type=int, default=60, help="timed steps of a case")
    parser.add_argument("--warmup", type=int, default=10, help="steps before them")
    # Hardly a step: a few random samples would soon be learnt, and vanishing gradients are cheaper to multiply.
    parser.add_argument("--learning-rate", type=float, default=1e-7, help="1e-3 shows how the profiles learn")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on CPU with gloo")
    options = parser.parse_args()
    try:
        options.cases = [Case.parse(text) for text in options.cases] or cases.default(_visible_gpus())
    except ValueError as error:
        parser.error(str(error))
    if not options.cases:
        parser.error("no GPU is visible, and no case is given")
    return options


def _visible_gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 0
    return len(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.splitlines())


def _run(gpus: int, left: list[str], rows: Path, deadline: float, options: argparse.Namespace) -> None:
    """Run cases on that many GPUs; a case that ends its processes gets a row that says so, and the rest a new start."""
    while left and time.time() < deadline:
        job = Job(left, str(rows), deadline, options.warmup, options.iterations, options.learning_rate, options.dry_run)
        before = len(table.read(rows))
        log = options.output / f"torchrun-{before}.log"
        code = _torchrun(gpus, job, log)
        left = left[len(table.read(rows)) - before :]
        if code == 0 or not left:
            return
        marker = rows.with_name(OUT_OF_MEMORY)
        status = "out of memory" if marker.exists() else "cut off: no time left" if code is None else _error(log)
        marker.unlink(missing_ok=True)
        with rows.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"case": left[0], "status": status}) + "\n")
        left = left[1:]


def _error(log: Path) -> str:
    """Return what a rank died of."""
    errors = re.findall(r"^\[rank\d+\]: (\w+(?:\.\w+)*: .*)$", log.read_text(), re.MULTILINE)
    return f"failed: {errors[-1] if errors else f'see {log.name}'}"


def _torchrun(gpus: int, job: Job, log: Path) -> int | None:
    """Return torchrun's exit code, or None when the time was over and it was stopped."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    command += ["-m", "benchmarks.neva_step.worker", json.dumps(asdict(job))]
    environment = os.environ | _ENVIRONMENT | ({"TORCH_COMPILE_DISABLE": "1"} if job.dry_run else {})
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            return process.wait(max(1.0, job.deadline - time.time()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None


if __name__ == "__main__":
    main()
