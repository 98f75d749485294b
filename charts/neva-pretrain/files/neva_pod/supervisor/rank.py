"""Runs the training script of one rank, which then writes its stacks on SIGUSR2.

    torchrun ... rank.py ENTRYPOINT [ARGUMENT...]

No debugger has to attach, so no privilege is needed, and the stacks come even where Python's lock is held.
"""

import faulthandler
import os
import runpy
import signal
import sys


def main() -> None:
    """Become the script that the arguments name."""
    folder = os.environ.get("NEVA_STACKS_DIR", "")
    if folder:
        name = f"rank-{int(os.environ['RANK']):05d}.txt"
        # Kept open for the signal's handler, which cannot open a file.
        faulthandler.register(signal.SIGUSR2, file=open(os.path.join(folder, name), "w"), all_threads=True)  # noqa: SIM115
    sys.argv.pop(0)
    # The script's own folder comes first, as if Python had been given the script; this one must not be seen.
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
