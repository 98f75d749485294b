"""Makes what a NeVa pretraining run is given: tokenizer, vision encoder, language model, dataset.

Reads ``settings.json`` (the chart renders it): where a run looks for its inputs, and under
``prepare`` where they come from. Each step leaves its final name only by a rename of something
whole, takes up what a killed run left, and does nothing where the final name is there and right.
A step that fails never hides what the others have to say.

    python3 -m neva_pod.prepare --settings /etc/neva/settings.json [--only tokenizer,vision,llm,dataset]

A source is an absolute path, or an id of the Hugging Face hub (HF_ENDPOINT, HF_TOKEN and HF_HOME as
its client reads them). Exit codes: 0 everything exists, 1 a step failed, 2 wrong usage or settings.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from neva_pod.findings import UsageError
from neva_pod.prepare.run import STEPS, run
from neva_pod.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    made = argparse.ArgumentParser(prog="neva_pod.prepare", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--settings", required=True, help="settings.json as the chart renders it")
    made.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(STEPS)}")
    options = made.parse_args(arguments)
    try:
        settings = load_settings(options.settings)
        # A fresh scratch volume is empty, and tempfile would fall back to the root disk.
        for name in ("TMPDIR", "HOME"):
            if os.environ.get(name):
                os.makedirs(os.environ[name], exist_ok=True)
        return 1 if run(settings, [n for n in options.only.split(",") if n]) else 0
    except UsageError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2


def _stop(*_: object) -> None:
    """End at SIGTERM: as a container's first process it would be ignored."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
