"""How a plan is shown: plain text of at most 80 columns, or JSON."""

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from neva_pretrain import chart
from neva_pretrain.model.hardware import GIB
from neva_pretrain.plan import saving
from neva_pretrain.plan.candidate import Candidate, Refusal
from neva_pretrain.plan.explain import notes, requirements, slowdown, what_limits, why_it_loses
from neva_pretrain.plan.search import Result
from neva_pretrain.plan.setup import Basis
from neva_pretrain.plan.time import speedup, start_seconds

WIDTH = 80
FEW_WORKERS = 2
"""DataLoader workers that the start is compared with, the fewest that were measured."""
_HEAD = ("", "TP", "PP", "MBS", "ACC", "GiB", "SPARE", "SMP/S/GPU", "STEP", "TO END", "GPU-H", "MFU")


def text(result: Result, top: int) -> str:
    """Return the plan as text: the best candidates and the preset, then the reasons."""
    best = result.best
    shown = list(result.candidates[:top])
    if result.preset is not None and result.preset not in shown:
        shown.append(result.preset)
    lines = [*_title(result), "", *_table(shown, result), "", _legend(shown, result), ""]
    lines += _paragraph("Best:", _summary(result))
    lines += _paragraph("Limit:", what_limits(best))
    lines += _paragraph("Start:", _start())
    lines += _paragraph("Saves:", _saves(result))
    lines += _bullets("Needs:", requirements(best.setup))
    lines += _bullets("Others:", _others(shown, best))
    lines += _bullets("Refused:", [_refusal(r) for r in result.refused])
    lines += _bullets("Note:", notes(result.request))
    return "\n".join(lines) + "\n"


def _title(result: Result) -> list[str]:
    request = result.request
    gpus = f"{request.gpus} x {request.gpu.title} ({request.nodes} x {request.gpus_per_node})"
    return [
        f"{request.model.name} on {gpus}, {request.kernels} kernels",
        f"{request.samples} samples of {request.tokens_per_sample} tokens, "
        f"global batch {request.global_batch_size}: {result.best.steps} steps",
    ]


def _table(shown: Sequence[Candidate], result: Result) -> list[str]:
    rows = [_HEAD, *(_row(candidate, result) for candidate in shown)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return [" ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(candidate: Candidate, result: Result) -> tuple[str, ...]:
    setup, time = candidate.setup, candidate.time
    mark = (">" if candidate is result.best else "") + ("P" if candidate == result.preset else "")
    flags = ("S" if setup.sequence_parallel else "") + ("R" if setup.recompute == "full" else "")
    return (
        mark,
        str(setup.tensor_parallel_size),
        str(setup.pipeline_parallel_size),
        f"{setup.micro_batch_size}{flags}",
        str(setup.accumulation),
        f"{candidate.memory.total / GIB:.1f}",
        f"{'!' if candidate.is_tight else ''}{candidate.headroom / GIB:.1f}",
        _rate(candidate),
        f"{time.working / 1000:.2f}s",
        duration(candidate.seconds),
        _short(candidate.gpu_hours),
        f"{time.mfu:.0%}",
    )


def _legend(shown: Sequence[Candidate], result: Result) -> str:
    """Explain the signs that the table uses, no others."""
    signs = ["> best"]
    if result.preset is not None:
        signs.append("P NVIDIA's preset")
    bases = {c.time.basis for c in shown}
    signs += ["~ modelled"] if Basis.MODELLED in bases else []
    signs += ["? extrapolated"] if Basis.EXTRAPOLATED in bases else []
    signs += ["! tight"] if any(c.is_tight for c in shown) else []
    signs += ["S sequence parallel"] if any(c.setup.sequence_parallel for c in shown) else []
    signs += ["R full recompute"] if any(c.setup.recompute == "full" for c in shown) else []
    return "\n".join(wrap("; ".join(signs), WIDTH))


def _summary(result: Result) -> str:
    said = f"{_name(result.best)}, {_rate(result.best)} samples/s/GPU"
    preset = result.preset
    if preset is None:
        return f"{said}; the preset does not fit or does not divide the batch"
    if preset == result.best:
        return f"{said}; this is the preset's parallelism"
    return f"{said}: {speedup(result.best.time, preset.time)} the preset ({_name(preset)}, {_rate(preset)})"


def _rate(candidate: Candidate) -> str:
    """Return samples/s/GPU after the sign of its basis."""
    return f"{candidate.time.basis.sign}{_short(candidate.rate)}"


def _start() -> str:
    """Say what a run takes before its first step, with the chart's DataLoader workers."""
    workers = chart.defaults()["data"]["workers"]
    return (
        f"about {duration(start_seconds(workers))} of TO END pass before the first step: each of {workers} DataLoader "
        f"workers imports NeMo; {duration(start_seconds(FEW_WORKERS))} with data.workers {FEW_WORKERS} "
        "(one GPU, 16 cores)"
    )


def _saves(result: Result) -> str:
    """Say how often the best saves, why, and what both bounds come to."""
    setup, steps = result.best.setup, result.request.steps
    found, every = saving.bounds(setup), saving.interval(setup, steps)
    share = found.save / (every * found.step)
    return (
        f"every {every} steps ({duration(every * found.step)}): {saving.why(setup, steps)}; "
        f"here {share:.2%} ({found.save:#.2g} s a save, assumed)"
    )


def _name(candidate: Candidate) -> str:
    setup = candidate.setup
    parts = [f"TP {setup.tensor_parallel_size}"]
    if setup.pipeline_parallel_size > 1:
        parts.append(f"PP {setup.pipeline_parallel_size}")
    parts.append(f"MBS {setup.micro_batch_size}")
    if setup.recompute == "full":
        parts.append("recompute")
    return " ".join(parts)


def _others(shown: Iterable[Candidate], best: Candidate) -> list[str]:
    """Return one line for each tensor parallel size and reason."""
    groups: dict[tuple[int, str], list[Candidate]] = {}
    for candidate in shown:
        if candidate is not best:
            key = candidate.setup.tensor_parallel_size, why_it_loses(candidate, best)
            groups.setdefault(key, []).append(candidate)
    return [_other(group, reason, best) for (_, reason), group in groups.items()]


def _other(group: Sequence[Candidate], reason: str, best: Candidate) -> str:
    ratios = sorted({f"{slowdown(candidate, best):.2f}" for candidate in group})
    span = ratios[0] if len(ratios) == 1 else f"{ratios[0]} to {ratios[-1]}"
    sizes = ", ".join(str(candidate.setup.micro_batch_size) for candidate in group)
    slower = f" ({span}x slower)" if ratios[-1] > "1.02" else ""
    return f"TP {group[0].setup.tensor_parallel_size} MBS {sizes}{slower}: {reason}"


def _refusal(refusal: Refusal) -> str:
    parallelism = f"TP {refusal.tensor_parallel_size}"
    if refusal.pipeline_parallel_size > 1:
        parallelism += f" PP {refusal.pipeline_parallel_size}"
    if refusal.micro_batch_size is None:
        return f"{parallelism}: {refusal.reason}"
    more = " and more" if refusal.micro_batch_size > 1 else ""
    return f"{parallelism} MBS {refusal.micro_batch_size}{more}: {refusal.reason.rule}"


def _paragraph(title: str, said: str, bullet: str = "") -> list[str]:
    return wrap(
        said,
        WIDTH,
        initial_indent=f"{title:9}{bullet}",
        subsequent_indent=" " * (9 + len(bullet)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _bullets(title: str, items: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for item in items:
        lines += _paragraph("" if lines else title, item, bullet="- ")
    return lines


def _short(number: float) -> str:
    """Return a number with three digits, or all of its whole ones."""
    return f"{number:#.3g}".rstrip(".") if number < 999.5 else f"{number:.0f}"


def duration(seconds: float) -> str:
    """Return seconds, minutes and hours as people write them: ``40s``, ``12m03s``, ``8h26m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def document(result: Result) -> dict[str, Any]:
    """Return the plan as plain data for JSON; bytes, milliseconds, seconds."""
    request = result.request
    return {
        "request": {
            "model": request.model.name,
            "gpus": request.gpus,
            "gpusPerNode": request.gpus_per_node,
            "gpu": request.gpu.name,
            "globalBatchSize": request.global_batch_size,
            "samples": request.samples,
            "tokensPerSample": request.tokens_per_sample,
            "kernels": request.kernels,
        },
        "best": _document(result.best, result),
        "preset": _document(result.preset, result) if result.preset else None,
        "gain": result.gain,
        "limit": what_limits(result.best),
        "checkpointEveryNSteps": saving.interval(result.best.setup, request.steps),
        "startSeconds": start_seconds(chart.defaults()["data"]["workers"]),
        "requirements": list(requirements(result.best.setup)),
        "notes": list(notes(request)),
        "candidates": [_document(candidate, result) for candidate in result.candidates],
        "refused": [
            {
                "tensorParallelSize": refusal.tensor_parallel_size,
                "pipelineParallelSize": refusal.pipeline_parallel_size,
                "microBatchSize": refusal.micro_batch_size,
                "reason": str(refusal.reason),
            }
            for refusal in result.refused
        ],
    }


def _document(candidate: Candidate, result: Result) -> dict[str, Any]:
    setup, memory, time = candidate.setup, candidate.memory, candidate.time
    return {
        "tensorParallelSize": setup.tensor_parallel_size,
        "pipelineParallelSize": setup.pipeline_parallel_size,
        "dataParallelSize": setup.data_parallel_size,
        "microBatchSize": setup.micro_batch_size,
        "accumulation": setup.accumulation,
        "sequenceParallel": setup.sequence_parallel,
        "recompute": setup.recompute,
        "memory": {
            "basis": memory.basis.value,
            "totalBytes": memory.total,
            "headroomBytes": candidate.headroom,
            "tight": candidate.is_tight,
            "parts": memory.parts._asdict(),
        },
        "step": {"basis": time.basis.value, "totalMs": time.total, "parts": time.parts._asdict()},
        "samplesPerSecondPerGpu": candidate.rate,
        "mfu": time.mfu,
        "steps": candidate.steps,
        "seconds": candidate.seconds,
        "gpuHours": candidate.gpu_hours,
        "why": None if candidate is result.best else why_it_loses(candidate, result.best),
    }
