"""Draw the README's pictures with the product itself: ``python -m tests.tools.pictures``.

The plan is what ``neva-values plan --gpus 128 --plot plan.png`` draws, with fewer colours; the monitor is what
``neva-monitor`` shows on a terminal, fed with a log in NeMo's format that nobody's GPUs wrote.
"""

import io
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from tqdm import tqdm

from neva_pod.monitor.judge import judge, status
from neva_pod.monitor.limits import Limits
from neva_pod.monitor.parser import LogParser
from neva_pod.monitor.run import Run
from neva_pretrain.monitor import settings, view
from tests.tools.made import ROOT

FOLDER = ROOT / "docs" / "images"
WIDTH = 92
STEPS, SHOWN = 136, 88
SECONDS = 3.64


def plan() -> None:
    """Draw the plan of 128 GPUs."""
    command = [str(Path(sys.executable).with_name("neva-values")), "plan", "--gpus", "128", "--plot"]
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "plan.png"
        subprocess.run([*command, str(drawn)], check=True, capture_output=True)
        few = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(FOLDER / "plan.png", optimize=True)


def monitor() -> None:
    """Draw the live view of a run that is slower than its plan."""
    values = ROOT / "values" / "7b-bf16-128gpu.yaml"
    run = Run(settings.chosen({}, settings.Options(values), "neva"))
    parser, now = LogParser(), 1_700_000_000.0
    for step in range(SHOWN):
        now += SECONDS
        saved = f"\nEpoch 0, global step {step + 1}: 'step' reached {step + 1}.0, saving model to 'neva.ckpt'\n"
        run.update(parser.feed((_bar(step) + saved * (step % 13 == 12)).encode()), now)
    judgements = judge(run, now, Limits())
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(view.render(run, judgements, status(run, judgements), WIDTH))
    svg = console.export_svg(title="neva-monitor neva -n training", unique_id="monitor")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # a picture fetches nothing
    (FOLDER / "monitor.svg").write_text(svg.replace("Fira Code, ", ""), "utf-8")


def _bar(step: int) -> str:
    """Write a step as nemo:24.07's bar does."""
    loss = 2.1 + 4.5 * math.exp(-step / 12) + 0.06 * math.sin(step * 1.7)
    postfix = f"reduced_train_loss={loss:.3f}, global_step={step}.0, train_step_timing in s={SECONDS}"
    form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    elapsed = 20 + SECONDS * step
    return "\r" + tqdm.format_meter(step + 1, STEPS, elapsed, prefix="Epoch 0: ", bar_format=form, postfix=postfix)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    plan()
    monitor()
