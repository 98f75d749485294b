"""What each rank runs: its cases one after another in one process group, a row of the results after each."""

import gc
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.neva_step import kernels as K  # noqa: N812
from benchmarks.neva_step.cases import OUT_OF_MEMORY, Case, Job
from benchmarks.neva_step.model import LLM, TOWER, Neva, Optimizer
from benchmarks.neva_step.parallel import Groups, make_groups
from benchmarks.neva_step.sensors import Sensors, driver

_LOSSES = 10  # of all steps, in a row of the results


@dataclass(frozen=True)
class Timing:
    """All timed steps of a case, on all ranks."""

    ms: list[float]
    losses: list[float]
    finite: bool
    allocated: int
    reserved: int
    device: int
    readings: dict[str, float]
    allreduce: dict[str, float]


def main() -> None:
    """Run the cases of the job in ``argv[1]``."""
    job = Job(**json.loads(sys.argv[1]))
    device = torch.device("cpu")
    if not job.dry_run:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if job.dry_run else "nccl", timeout=timedelta(seconds=120))
    versions = _versions(device)
    groups = make_groups(Case.parse(job.cases[0]).tensor_parallel_size)
    for text in job.cases:
        case = Case.parse(text)
        row = {"case": text, **versions} | {"kernels": case.kernels, "model": case.model}
        if not _in_time(case, job, device):
            row["status"] = "not run: no time left"
        else:
            row |= _measure(case, job, groups, device)
        if dist.get_rank() == 0:
            with Path(job.rows).open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")
        dist.barrier()
    dist.destroy_process_group()


def _in_time(case: Case, job: Job, device: torch.device) -> bool:
    """Let rank 0 decide for all whether the case still fits before the deadline."""
    seconds = 0.0 if job.dry_run else case.expected_seconds(_card(device), job.warmup + job.iterations)
    answer = torch.tensor([float(time.time() + seconds < job.deadline)], device=device)
    dist.broadcast(answer, 0)
    return bool(answer.item())


def _measure(case: Case, job: Job, groups: Groups, device: torch.device) -> dict[str, Any]:
    """Build, warm up, time; the row's figures."""
    try:
        timing = _time(case, job, groups, device)
    except torch.OutOfMemoryError:
        Path(job.rows).with_name(OUT_OF_MEMORY).touch()
        os._exit(1)
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    figures: dict[str, Any] = {
        "status": "measured" if timing.finite else "not finite",
        "losses": [round(loss, 4) for loss in timing.losses],
        "allocated_bytes": timing.allocated,
        "reserved_bytes": timing.reserved,
        "device_bytes": timing.device,
    }
    figures |= case.prediction(_card(device))
    if timing.finite:
        deciles = quantiles(timing.ms, n=10)
        ms = median(timing.ms)
        figures |= {
            "iterations": len(timing.ms),
            "ms": round(ms, 2),
            "ms_p10": round(deciles[0], 2),
            "ms_p90": round(deciles[-1], 2),
            "samples_per_s_per_gpu": round(case.samples / case.tensor_parallel_size / ms * 1000, 3),
        }
        if "predicted_ms" in figures:
            figures["error_ms"] = round(figures["predicted_ms"] / ms - 1, 4)
            figures["error_allocated"] = round(figures["predicted_allocated_bytes"] / timing.allocated - 1, 4)
            figures["error_device"] = round(figures["predicted_device_bytes"] / timing.device - 1, 4)
    return figures | timing.readings | timing.allreduce


def _time(case: Case, job: Job, groups: Groups, device: torch.device) -> Timing:
    """Run the steps one after another without a pause and return what they took, the slowest rank counting."""
    torch.compiler.reset()  # another case has other shapes: compile for them, not for any
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model = Neva(case.shapes(tiny=job.dry_run), case.kernels, groups, device)
    optimizer = Optimizer(model.projector, groups, job.learning_rate)
    generator = torch.Generator(device).manual_seed(groups.dp_rank)
    batches = [model.batch(case.micro_batch_size, generator) for _ in range(min(case.accumulation, 2))]
    finite = torch.ones((), dtype=torch.bool, device=device)
    steps = job.warmup + job.iterations
    marks = [_Mark(device) for _ in range(steps + 1)]
    sensors, losses = Sensors(), []
    with K.attention_backend(case.kernels, device), sensors:
        for step in range(steps):
            if step == job.warmup:
                dist.barrier()
                sensors.start()
            marks[step].set()
            model.begin_step()
            for micro in range(case.accumulation):
                loss = model(*batches[micro % len(batches)])
                (loss / case.accumulation).backward()
                finite &= loss.isfinite()
            norm = optimizer.step()
            finite &= norm.isfinite() & ((norm > 0) | (step < job.warmup))  # FP8 scales take steps to settle
            losses.append(loss.detach())
        marks[steps].set()
        marks[steps].wait()
    ms = torch.tensor([marks[i].until(marks[i + 1]) for i in range(job.warmup, steps)], device=device)
    worst = torch.tensor([*_memory(device), -float(finite)], dtype=torch.float64, device=device)
    dist.all_reduce(ms, dist.ReduceOp.MAX)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    allocated, reserved, used, failed = worst.tolist()
    return Timing(
        ms=ms.tolist(),
        losses=torch.stack(losses[:: max(1, steps // _LOSSES)]).tolist(),
        finite=failed < 0,
        allocated=int(allocated),
        reserved=int(reserved),
        device=int(used),
        readings=sensors.readings,
        allreduce=_allreduce(case, model, device) if case.tensor_parallel_size > 1 else {},
    )


def _allreduce(case: Case, model: Neva, device: torch.device) -> dict[str, float]:
    """Return the time of one of the step's all-reduces by itself: what the step spends more is waiting."""
    sizes = case.micro_batch_size, model.model.tokens_per_sample, model.model.architecture.hidden_size
    message = torch.zeros(sizes, dtype=torch.bfloat16, device=device)
    start, end = _Mark(device), _Mark(device)
    for times in (10, 50):
        start.set()
        for _ in range(times):
            dist.all_reduce(message, group=model.language.group)
        end.set()
        end.wait()
    return {"allreduce_bytes": message.nbytes, "allreduce_ms": round(start.until(end) / times, 4)}


class _Mark:
    """A point in time: on the GPU's own clock, so that the CPU may run ahead."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        self._seconds = 0.0

    def set(self) -> None:
        if self._event:
            self._event.record()
        self._seconds = time.perf_counter()

    def wait(self) -> None:
        if self._event:
            self._event.synchronize()

    def until(self, later: "_Mark") -> float:
        """Return the milliseconds up to a later mark."""
        if self._event:
            return float(self._event.elapsed_time(later._event))
        return (later._seconds - self._seconds) * 1000


def _memory(device: torch.device) -> tuple[int, int, int]:
    """Return peak allocated, peak reserved, and what the device now holds (the allocator keeps its peak)."""
    if device.type == "cpu":
        return 1, 1, 1
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), total - free


def _card(device: torch.device) -> str:
    return "CPU" if device.type == "cpu" else str(torch.cuda.get_device_name(device))


def _versions(device: torch.device) -> dict[str, Any]:
    """Return what ran: real code or stand-in, by name."""
    on_gpu = device.type == "cuda"
    return {
        "llm": LLM,
        "tower": TOWER,
        "card": _card(device),
        "driver": driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else None,
        "python": platform.python_version(),
        "gpus": dist.get_world_size(),
    }


if __name__ == "__main__":
    main()
