"""Stand-in for NeMo's neva_pretrain.py: trains nothing, but saves, resumes, prints and hangs as NeMo does.

Its checkpoint is a folder in NeMo's form (see NeMoModelCheckpoint of r2.0.0rc1: marker `-unfinished` while it is
written, `-last` in the name, top k by step) around a real checkpoint of torch.distributed.checkpoint, with one more
file that says which samples the model has seen. Its collective is a line to rank 0: where a rank is gone or frozen the
others wait for ever, as NCCL does.

Environment: STAND_IN_STEP_SECONDS, STAND_IN_CHECKPOINT (a real one to copy), STAND_IN_LEDGER (what was trained, when),
STAND_IN_FAULTS (a folder; a file there is a fault that happens once, or always: see _fault).
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
SETTINGS = json.loads((Path(os.environ["NEVA_CONFIG_DIR"]) / "settings.json").read_text())
FOLDER = Path(SETTINGS["results"]["checkpointsDir"])
STEPS, EVERY = SETTINGS["training"]["maxSteps"], SETTINGS["checkpoint"]["everyNSteps"]
BATCH = SETTINGS["training"]["globalBatchSize"]
SECONDS = float(os.environ["STAND_IN_STEP_SECONDS"])
LEDGER = Path(os.environ["STAND_IN_LEDGER"])
FAULTS = Path(os.environ["STAND_IN_FAULTS"])


class Ring:
    """The collective of all ranks: every rank's word, at every rank, or nothing for ever."""

    def __init__(self) -> None:
        where = FAULTS.parent / f"ring-{os.environ['MASTER_PORT']}-{os.environ['TORCHELASTIC_RUN_ID']}.port"
        if RANK == 0:
            server = socket.create_server(("127.0.0.1", 0))
            where.with_suffix(".new").write_text(str(server.getsockname()[1]))
            where.with_suffix(".new").replace(where)
            self._lines = [server.accept()[0].makefile("rw") for _ in range(WORLD - 1)]
            where.unlink()
        else:
            while True:
                try:
                    self._lines = [socket.create_connection(("127.0.0.1", int(where.read_text()))).makefile("rw")]
                    break
                except (OSError, ValueError):
                    time.sleep(0.02)

    def gather(self, word: str) -> list[str]:
        """Return what all ranks said."""
        if RANK == 0:
            words = [word, *(self._hear(line) for line in self._lines)]
            for line in self._lines:
                self._say(line, json.dumps(words))
            return words
        (line,) = self._lines
        self._say(line, word)
        answer: list[str] = json.loads(self._hear(line))
        return answer

    @staticmethod
    def _say(line: Any, text: str) -> None:
        try:
            line.write(text + "\n")
            line.flush()
        except OSError:
            _hang()

    @staticmethod
    def _hear(line: Any) -> str:
        try:
            text: str = line.readline()
        except OSError:
            text = ""
        return text.rstrip("\n") if text else _hang()


def _hang() -> Any:
    while True:
        time.sleep(60)


def _fault(name: str) -> bool:
    """Tell whether a fault is planned here: NAME happens once, NAME.always at each pass."""
    if (FAULTS / f"{name}.always").exists():
        return True
    try:
        (FAULTS / name).unlink()
    except FileNotFoundError:
        return False
    return True


def _newest() -> Path | None:
    """Return what NeMo's exp_manager.check_resume takes; it refuses to choose among several."""
    last = [c for c in FOLDER.glob("*") if c.is_dir() and c.match("*last") and not _marker(c).exists()]
    if len(last) > 1:
        raise SystemExit(f"Multiple checkpoints {last} that matches *last.ckpt.")
    return last[0] if last else None


def _marker(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}-unfinished")


def _save(step: int, seen: list[int], last: bool) -> None:
    name = f"neva--step={step}-consumed_samples={step * BATCH}.0"
    target = FOLDER / (f"{name}-last" if last else name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    _marker(target).touch()
    target.mkdir(exist_ok=True)
    (target / "seen.json").write_text(json.dumps(seen))
    for number, file in enumerate(sorted(Path(os.environ["STAND_IN_CHECKPOINT"]).iterdir())):
        if number == 1 and _fault("die-in-save"):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 1 and _fault("full-in-save"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        if number == 1 and _fault("read-only-in-save"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
        if number == 1 and _fault("stall-in-save"):
            _hang()
        shutil.copy(file, target)
    _marker(target).unlink()
    for old in FOLDER.glob("neva--step=*-last" if last else "neva--step=*.0"):
        step_of = int(re.findall(r"step=(\d+)", old.name)[0])
        if old != target and (last or step_of < step - EVERY):
            shutil.rmtree(old, ignore_errors=True)


def _say(**fields: object) -> None:
    with LEDGER.open("a") as file:
        file.write(json.dumps({"time": time.time(), "pod": os.environ.get("POD_UID"), **fields}) + "\n")


def main() -> None:
    """Train."""
    told = []
    if RANK == 0:
        signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ring = Ring()
    if RANK == 0:
        for marker in FOLDER.glob("*-unfinished"):  # as NeMo does at its start
            shutil.rmtree(marker.with_name(marker.name.removesuffix("-unfinished")), ignore_errors=True)
            marker.unlink()
    ring.gather("ready")
    newest = _newest()
    seen = json.loads((newest / "seen.json").read_text()) if newest else []
    step = len(seen) // BATCH
    if RANK == 0:
        _say(event="begin", step=step)
    while step < STEPS:
        if RANK == WORLD - 1:
            if _fault(f"exit-{step}"):
                sys.exit(3)
            if _fault(f"kill-{step}"):
                os.kill(os.getpid(), signal.SIGKILL)
            if _fault(f"freeze-{step}"):
                os.kill(os.getpid(), signal.SIGSTOP)
            if _fault(f"sleep-{step}"):
                _hang()
        time.sleep(SECONDS)
        words = ring.gather("stop" if told else "go")
        seen += list(range(step * BATCH, (step + 1) * BATCH))
        step += 1
        if RANK == 0:
            _say(event="step", step=step)
            loss = "nan" if _fault(f"nan-{step}") else f"{1 / step:.3f}"
            bar = f"{step}/{STEPS} [00:01<00:01, reduced_train_loss={loss}, global_step={step - 1:.3f}, "
            bar += f"consumed_samples={step * BATCH:.1f}, train_step_timing in s={SECONDS:.3f}]"
            print(f"\rEpoch 0: :  50%|#####     | {bar}", end="", flush=True)
            if step % EVERY == 0 or step == STEPS or "stop" in words:
                if not (step % EVERY and step != STEPS):
                    _save(step, seen, last=False)
                _save(step, seen, last=True)
        ring.gather("saved")
        if "stop" in words:
            break
    if RANK == 0:
        _say(event="end", step=step)
        if step == STEPS:
            (FOLDER / "nemo_neva.nemo").write_text("stand-in")


main()
