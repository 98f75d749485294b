"""Whether a chart's README is what helm-docs makes of its values.yaml: ``python -m tests.tools.docs CHART``."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.tools.build import path


def main(chart: str) -> int:
    """Return 0 when README.md is up to date, 1 with a hint when it is not."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / Path(chart).name
        shutil.copytree(chart, copy)
        subprocess.run(
            [str(path("helm-docs")), "--chart-search-root", scratch, "--log-level", "warning"],
            check=True,
        )
        if (copy / "README.md").read_text() == (Path(chart) / "README.md").read_text():
            return 0
    print(f"ERROR: {chart}/README.md: must follow values.yaml; run make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
