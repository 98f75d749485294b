"""The checkpoints of a language model that NeMo loads are those that preflight passes."""

import contextlib
import json
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.nemo import tiny
from tests.nemo.environment import INSIDE, environment, python
from tests.unit.preflight_tools import problems

pytestmark = [pytest.mark.nemo, pytest.mark.helm]

ARCHITECTURE = {
    "numLayers": 2,
    "hiddenSize": 64,
    "ffnHiddenSize": 128,
    "numAttentionHeads": 4,
    "numQueryGroups": 2,
    "vocabSize": 408,
}
MADE: Mapping[str, Mapping[str, Any]] = {
    "whole": {},
    "shallow": {"num_layers": 1},
    "deep": {"num_layers": 4},
    "narrow": {"hidden_size": 32},
    "slim": {"ffn_hidden_size": 64},
}


def cut(file: Path) -> None:
    """Lose the second half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    """Lose all of a file."""
    file.write_bytes(b"")


def without(*files: Path) -> None:
    """Remove files and folders."""
    for file in files:
        shutil.rmtree(file) if file.is_dir() else file.unlink()


def moved_up(folder: Path) -> None:
    """Lose the folder of the weights."""
    for file in (folder / "model_weights").iterdir():
        file.rename(folder / file.name)


def ranks(folder: Path) -> list[Path]:
    """Return the files of a legacy checkpoint."""
    return sorted(folder.rglob("model_weights.ckpt"))


def largest(folder: Path) -> Path:
    """Return the file with most of the weights."""
    return max(folder.rglob("*.distcp"), key=lambda file: file.stat().st_size)


CHANGES: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    "no-metadata": ("whole", lambda f: without(f / "model_weights" / "metadata.json")),
    "no-index": ("whole", lambda f: without(f / "model_weights" / ".metadata")),
    "no-common": ("whole", lambda f: without(f / "model_weights" / "common.pt")),
    "no-shard": ("whole", lambda f: without(largest(f))),
    "cut-shard": ("whole", lambda f: cut(largest(f))),
    "empty-shard": ("whole", lambda f: emptied(largest(f))),
    "cut-index": ("whole", lambda f: cut(f / "model_weights" / ".metadata")),
    "no-weights": ("whole", lambda f: without(f / "model_weights")),
    "empty-weights": ("whole", lambda f: without(*(f / "model_weights").iterdir())),
    "inside": ("whole", moved_up),
    "cut-legacy": ("whole-legacy", lambda f: cut(ranks(f)[0])),
    "cut-last-rank": ("whole-legacy", lambda f: cut(ranks(f)[-1])),
    "empty-legacy": ("whole-legacy", lambda f: emptied(ranks(f)[-1])),
    "no-arrays": ("whole-zarr", lambda f: without(*(d for d in (f / "model_weights").iterdir() if d.is_dir()))),
    "no-array": ("whole-zarr", lambda f: without(next(f.rglob("*linear_proj.weight")))),
    "no-chunk": ("whole-zarr", lambda f: without(next(f.rglob("*linear_qkv.weight/0*")))),
}
STRICTER = {
    "gzip.nemo": "each rank would unpack it again",
    "deep-legacy": "num_layers is 4, must be 2",
    "four-ranks": "is split for TP 4",
}
"""What NeMo loads, and preflight refuses for a reason of its own: a part of a larger model, or of its ranks."""


class World:
    """A configuration, its checkpoints, and what NeMo says of each of them."""

    def __init__(self, folder: Path, tensor: int) -> None:
        self.folder, self.tensor, self.models = folder, tensor, folder / "models"
        self.models.mkdir()
        (folder / "tokenizer").write_bytes(tiny.sentencepieces())
        self.values = {
            "model": {
                "llmPath": str(folder),
                "tokenizer": "tokenizer",
                "visionEncoderPath": str(folder / "clip"),
                "architecture": ARCHITECTURE,
            },
            "training": {
                **{"gpusPerNode": tensor, "tensorParallelSize": tensor, "microBatchSize": 1, "globalBatchSize": 1},
                "sequenceParallel": False,
            },
            "storage": {"models": {"mountPath": str(folder)}},
        }
        (folder / "config.yaml").write_text(helm.config_data(helm.render(self.values))["neva_pretrain.yaml"])

    def judge(self) -> dict[str, str]:
        """Make checkpoints of all kinds, and spoil copies; return what NeMo cannot load, or does not, by name."""
        asked = {"tensor": self.tensor, "config": str(self.folder / "config.yaml"), "make": MADE}
        file = self.folder / "asked.json"
        file.write_text(json.dumps({**asked, "folder": str(self.models), "clip": str(self.folder / "clip")}))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": "0", "NODE_RANK": "0"}
        shared |= {"WORLD_SIZE": str(self.tensor), "LOCAL_WORLD_SIZE": str(self.tensor)}
        found = {}
        with contextlib.ExitStack() as stack:
            started: list[subprocess.Popen[str]] = []
            for rank in range(self.tensor):
                log = stack.enter_context((self.folder / f"{rank}.log").open("w"))
                env = environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank))
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log if rank else subprocess.PIPE}
                command = [str(python()), str(INSIDE / "checkpoints.py"), str(file)]
                process = subprocess.Popen(command, env=env, stderr=log, text=True, **pipes)
                started.append(stack.enter_context(process))
            first = started[0]
            assert first.stdin is not None
            assert first.stdout is not None
            for line in first.stdout:
                if line.startswith("MADE"):
                    self.spoil()
                    print(file=first.stdin, flush=True)
                elif line.startswith("JUDGED"):
                    name, said = json.loads(line.removeprefix("JUDGED "))
                    found[name] = said
        ended = [process.returncode for process in started]
        assert not any(ended), (self.folder / "0.log").read_text()[-4000:]
        return found

    def spoil(self) -> None:
        """Make the others."""
        for name, (source, change) in CHANGES.items():
            shutil.copytree(self.models / source, self.models / name)
            change(self.models / name)
        legacy = ranks(self.models / "whole-legacy")[0]
        for name, places in {
            "other-tp": ["."] if self.tensor > 1 else ["mp_rank_00", "mp_rank_01"],
            "one-rank": ["mp_rank_00"],
            "four-ranks": [f"mp_rank_{i:02}" for i in range(4)],
            "names-of-stages": [f"tp_rank_{i:02}_pp_rank_000" for i in range(self.tensor)],
        }.items():
            for place in places:
                (self.models / name / place).mkdir(parents=True)
                shutil.copy(legacy, self.models / name / place)
            shutil.copy(self.models / "whole" / "model_config.yaml", self.models / name)
        for name in ("whole", "whole-legacy", "whole-zarr", "no-shard", "no-chunk", "no-common"):
            with tarfile.open(self.models / f"{name}.nemo", "w:") as tar:
                tar.add(self.models / name, ".")
        with tarfile.open(self.models / "gzip.nemo", "w:gz") as tar:
            tar.add(self.models / "whole", ".")
        cut_file = self.models / "cut.nemo"
        shutil.copy(self.models / "whole.nemo", cut_file)
        cut(cut_file)
        (self.models / "empty").mkdir()
        (self.models / "empty.nemo").touch()
        (self.models / "text.nemo").write_text("no checkpoint")

    def refused(self, name: str) -> list[str]:
        """Return what preflight says against a checkpoint."""
        model = {**self.values["model"], "checkpoint": str(self.models / name)}  # type: ignore[dict-item]
        settings = Facts.of({**self.values, "model": model}).sheet
        return [
            message
            for check in ("checkpoint", "weights", "weight-files", "vocabulary")
            for message in problems(settings, check)
        ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tensor", [1, 2])
def test_checkpoints_that_nemo_loads(tmp_path: Path, tensor: int) -> None:
    """Whole and spoilt, of the right and of other sizes, distributed and legacy: what NeMo loads, and nothing else."""
    world = World(tmp_path, tensor)
    found = world.judge()
    right = {name for name, said in found.items() if not said} - {*STRICTER}
    whole = {"whole", "whole-zarr", "whole-legacy"}
    assert right == whole | {f"{name}.nemo" for name in whole}
    refused = {name: world.refused(name) for name in found}
    wrong = {name: (found[name], said) for name, said in refused.items() if bool(said) == (name in right)}
    assert wrong == {}
    for name, reason in STRICTER.items():
        assert reason in " ".join(refused[name])
