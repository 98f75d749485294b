"""The GPU benchmark's dry run: real processes and collectives on CPU, tiny shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.e2e


def dry_run(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the command; return its rows."""
    path = [ROOT, ROOT / "generator", ROOT / "charts/neva-pretrain/files"]
    command = [sys.executable, "-m", "benchmarks.neva_step", "--dry-run", "--iterations=3", "--warmup=4"]
    done = subprocess.run(
        [*command, f"--output={folder}", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "table.md").read_text() in done.stdout
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_every_profile_alone_and_in_parallel_gives_a_time(tmp_path: Path) -> None:
    cases = ["7b:tp2:dp1:mbs2:reference", "7b:tp2:dp1:mbs2:fp8", "13b:tp1:dp2:mbs1:fused"]
    rows = dry_run(tmp_path, *cases)
    assert [row["case"] for row in rows] == cases
    assert [(row["status"], row["iterations"]) for row in rows] == [("measured", 3)] * len(cases)
    for row in rows:  # the log of the vocabulary is what a model that knows nothing pays
        assert row["ms_p10"] <= row["ms"] <= row["ms_p90"]
        assert all(6.0 < loss < 6.6 for loss in row["losses"])


def test_what_breaks_is_a_row_and_the_rest_still_runs(tmp_path: Path) -> None:
    broken, whole = "7b:tp1:dp1:mbs1:fused:tok8", "7b:tp1:dp1:mbs1:reference"  # an image has 16 tokens
    rows = dry_run(tmp_path, broken, whole)
    assert [row["case"] for row in rows] == [broken, whole]
    assert rows[0]["status"].startswith("failed: ")
    assert "Error: " in rows[0]["status"]
    assert "ms" not in rows[0]
    assert rows[1]["status"] == "measured"
