"""Rows as a Markdown table."""

import json
from pathlib import Path
from typing import Any

_HEAD = ["case", "ms (p10 to p90)", "samples/s/GPU", "planner", "error", "GiB allocated", "error", "reserved", "device"]
_HEAD += ["MHz", "W"]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a results file, which may not be there yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table, with what ran it above."""
    ran = sorted({_environment(row) for row in rows if "card" in row})
    lines = [*ran, "", _line(_HEAD), _line(["---"] * len(_HEAD))]
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)]) + "\n"


def _environment(row: dict[str, Any]) -> str:
    return (
        f"{row['gpus']} x {row['card']}, driver {row['driver']}, torch {row['torch']}, CUDA {row['cuda']}, "
        f"NCCL {row['nccl']}. Language model: {row['llm']}; vision tower: {row['tower']}."
    )


def _cells(row: dict[str, Any]) -> list[str]:
    if "ms" not in row:
        return [row["case"], row["status"], *[""] * (len(_HEAD) - 2)]
    return [
        row["case"],
        f"{row['ms']:.1f} ({row['ms_p10']:.1f} to {row['ms_p90']:.1f})",
        f"{row['samples_per_s_per_gpu']:.1f}",
        f"{row['predicted_ms']:.1f}" if "predicted_ms" in row else "",
        _percent(row.get("error_ms")),
        _gib(row["allocated_bytes"]),
        _percent(row.get("error_allocated")),
        _gib(row["reserved_bytes"]),
        _gib(row["device_bytes"]),
        f"{row.get('sm_mhz', 0):.0f}",
        f"{row.get('watts', 0):.0f}",
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
