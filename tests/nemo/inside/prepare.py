"""Prepare in one process for many settings: `python prepare.py settings.json ...`, with neva_pod in PYTHONPATH."""

import sys

from neva_pod.prepare.__main__ import main

sys.exit(max(main(["--settings", path]) for path in sys.argv[1:]))
