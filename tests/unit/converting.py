"""Prepare where there is no torch: what it would write of ``hub_llama`` is in tests/data; tests/nemo judge that.

python -m tests.unit.converting --settings settings.json
"""

import json
import os
import runpy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neva_pod.prepare import llm
from tests.unit.preflight_tools import DATA


def copied(folder: str, chunks: Sequence[Any], states: Sequence[str], precision: str) -> None:
    """Stand in for ``write_distributed``: log the call, write piece by piece."""
    with Path(os.environ["CONVERTED_LOG"]).open("a") as log:
        log.write(json.dumps([chunks[0].parts[0].file, len(chunks), len(states), precision]) + "\n")
    Path(folder).mkdir(parents=True)
    for file in sorted((DATA / "converted").iterdir()):
        content = file.read_bytes()
        with (Path(folder) / file.name).open("wb") as target:
            for start in range(0, len(content), 4096):
                target.write(content[start : start + 4096])
                target.flush()
                time.sleep(float(os.environ.get("CONVERTED_PAUSE", 0)))


if __name__ == "__main__":
    setattr(llm, "write_distributed", copied)  # noqa: B010 (it is no name of llm's)
    runpy.run_module("neva_pod.prepare", run_name="__main__", alter_sys=True)
