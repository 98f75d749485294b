"""Log text as NeMo writes it: the samples of the field, and a writer of whole runs."""

from collections.abc import Mapping

from tqdm import tqdm

from neva_pod.monitor.parser import LogParser
from neva_pod.monitor.records import Event, RunSettings, StepRecord
from neva_pod.monitor.run import Run

SAMPLES = {
    # 1.x launcher (NeMo-Framework-Launcher#55): no train_step_timing, hours past 24
    "S1": "Epoch 0:   1%|  | 795/77225 [9:07:58<878:01:48, 41.36s/it, loss=3.1, v_num=, "
    "reduced_train_loss=3.090, global_step=794.0, consumed_samples=1.63e+6]",
    # 24.0x, first steps
    "S2": "Epoch 0: :   2%|_| 2/128 [00:47<49:46, reduced_train_loss=10.60, global_step=1.0, "
    "consumed_samples=256, train_step_timing in s=23.7]",
    # 24.07, metrics one behind, lossy samples
    "S3": "Epoch 0: :  45%|###| 58/128 [1:14:05<1:29:25, reduced_train_loss=6.820, "
    "global_step=56.00, consumed_samples=1.19e+5, train_step_timing in s=74.40]",
    # 24.0x, round step, others' text glued to it
    "S4": "Epoch 0: : 100%|###| 2000/2000 [43:24:54<00:00, reduced_train_loss=0.139, "
    "global_step=2e+3, consumed_samples=2.56e+5, train_step_timing in s=68.70, val_loss=0.212]"
    "[NeMo I 2024-01-01 00:00:00 nlp_overrides:480] Removing checkpoint: /r/x.ckpt",
    # 23.x with the rest of a validation bar
    "S5": "Epoch 0: :   0%|  | 2000/603000 [1:03:17<317:00:58, v_num=, reduced_train_loss=2.600, "
    "global_step=2e+3, consumed_samples=1.28e+6, train_step_timing in s=1.900, val_loss=2.800]"
    "dation DataLoader 0: : 51it [00:20,  2.53it/s]",
    # cursor codes and another rank's line
    "S6": "\x1b[A\rEpoch 0: :  60%|##| 6024/10000 [4:26:54<2:56:09, v_num=0, "
    "reduced_train_loss=0.0252, global_step=6023.0, consumed_samples=96384.0, "
    "train_step_timing in s=2.590, val_loss=0.0917]"
    "[rank: 1] Monitored metric val_loss did not improve ...",
    # a public SDK's adapter: prefix, no total, extra fields, glued text
    "S7": "[pod-1] [2025-01-01 00:00:00,000] [INFO] Epoch 1: : 1it [00:04,  4.36s/it, v_num=d3c7, "
    "reduced_train_loss=0.674, global_step=1.000, consumed_samples=128.0, "
    "train_step_timing in s=3.370, batch_time=4.400, samples/sec=14.60]   "
    "2025-01-01 [INFO] - nlp_overrides.py:552 - Time elapsed",
    # 2.x, the next message glued to it
    "S8": "Training epoch 0, iteration 199/3999 | lr: 2.999e-05 | consumed_samples: 4800 | "
    "global_batch_size: 24 | global_step: 199 | reduced_train_loss: 10.85 | "
    "train_step_timing in s: 1.085Epoch 0, global step 199: 'val_loss' was not in top 10",
    # 2.x with validation
    "S9": "Training epoch 0, iteration 121/149 | lr: 3e-05 | consumed_samples: 122 | "
    "global_batch_size: 1 | global_step: 121 | reduced_train_loss: 1.288 | "
    "train_step_timing in s: 0.03163 | val_loss: 4.106",
    # harmless (NeMo#12936)
    "S10": "[NeMo E 2025-01-01 00:00:00 exp_manager:833] You are running multi-node training "
    "without SLURM handling the processes. Please note that this is not tested in NeMo and "
    "could result in errors.",
}

SOURCE_DOCUMENT = (
    "Epoch 0: :   2%|▏         | 54/2170 [00:31<20:44, reduced_train_loss=1.600, "
    "global_step=2169.0, consumed_samples=2.22e+6, train_step_timing in s=0.540]"
)
"""The line that the README of the examples shows."""


def padded(value: float) -> str:
    """Write a float as Lightning's progress bar does: tqdm's three digits if shorter, padded to five characters.

    tests/e2e/test_progress_bar.py holds it equal to Lightning's own.
    """
    text = tqdm.format_num(value)
    if "e" in text:
        return text
    return (text if "." in text or len(text) >= 5 else text + ".").ljust(5, "0")


def clock(seconds: float) -> str:
    """Write a time as tqdm does."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m:02}:{s:02}"


def bar(
    step: int,
    *,
    n: int | None = None,
    total: int = 2170,
    loss: float = 2.5,
    seconds: float = 0.54,
    batch: int = 256,
    epoch: int = 0,
) -> str:
    """Write the bar of nemo:24.07 at 0-based ``step``, after a carriage return."""
    n = step + 1 if n is None else n
    return (
        f"\rEpoch {epoch}: : {100 * n // total:3d}%|{'█' * (10 * n // total):10}| {n}/{total} "
        f"[{clock(20 + n * seconds)}<{clock((total - n) * seconds)}, "
        f"reduced_train_loss={padded(loss)}, global_step={padded(float(step))}, "
        f"consumed_samples={padded(float((step + 1) * batch))}, "
        f"train_step_timing in s={padded(seconds)}]"
    )


def ranks(world: int, of: int | None = None) -> str:
    """Write how the ranks of a process group start."""
    lines = [
        f"[rank{r}]: Initializing distributed: GLOBAL_RANK: {r}, MEMBER: {r + 1}/{of or world}\n" for r in range(world)
    ]
    return "".join(lines)


def drawn(n: int, total: int | None, metrics: Mapping[str, str], *, epoch: int = 0, elapsed: float = 13.0) -> str:
    """Draw a bar by tqdm itself, in the format of NeMo's CustomProgressBar (r2.0.0rc1), after a carriage return."""
    return "\r" + tqdm.format_meter(
        n,
        total,  # type: ignore[arg-type]  # None is unknown
        elapsed,
        prefix=f"Epoch {epoch}: ",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        postfix=", ".join(f"{name}={text.strip()}" for name, text in metrics.items()),
    )


HYDRA = """Error executing job with overrides: []
Traceback (most recent call last):
  File "/opt/NeMo/examples/multimodal/multimodal_llm/neva/neva_pretrain.py", line 51, in main
    trainer.fit(model)
{}

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
"""What a rank prints that fails with this exception."""

TORCHRUN = """\
E1125 10:00:11.0 140 torch/distributed/elastic/multiprocessing/api.py:826] failed (exitcode: {code}) local_rank: {rank}\
 (pid: 206) of binary: /usr/bin/python
Traceback (most recent call last):
  File "/usr/local/bin/torchrun", line 33, in <module>
    sys.exit(load_entry_point('torch', 'console_scripts', 'torchrun')())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
neva_pretrain.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-25_10:00:12
  host      : neva-master-0
  rank      : 7 (local_rank: 7)
  exitcode  : 1 (pid: 208)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-25_10:00:10
  host      : neva-master-0
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: 206)
  error_file: <N/A>
  traceback : {signal}
============================================================
"""
"""How torchrun sums up: what failed later comes first."""


REGISTERED = "All distributed processes registered. Starting with {} processes\n"


def parse(text: str | bytes) -> list[Event]:
    """Return all events of a log."""
    parser = LogParser()
    return parser.feed(text.encode() if isinstance(text, str) else text) + parser.close()


def steps(text: str | bytes) -> list[StepRecord]:
    """Return all steps of a log."""
    return [event for event in parse(text) if isinstance(event, StepRecord)]


def run_of(text: str, now: float = 0.0, **settings: object) -> Run:
    """Return the state after a log."""
    run = Run(RunSettings(**settings))  # type: ignore[arg-type]
    run.update(parse(text), now)
    return run
