"""K04: what torch wrote and what it can load, held against what is judged without torch."""

import json
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from neva_pod.inputs.saved import problems

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.e2e

TORCH_DIST = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}


def write_rank(rank: int, folder: str, port: int) -> None:
    """Write one rank's part of a checkpoint, as mcore's torch_dist strategy does."""
    from torch import distributed
    from torch.distributed import checkpoint
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    state = {
        "model.mm_projector.0.weight": DTensor.from_local(torch.arange(8.0).reshape(2, 4) + rank, mesh, [Shard(0)]),
        "optimizer.state.exp_avg": DTensor.from_local(torch.ones(3) * rank, mesh, [Shard(0)]),
        "rng": {"seed": 1},
    }
    checkpoint.save(state, storage_writer=checkpoint.FileSystemWriter(folder, thread_count=2))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that two processes of this machine's torch wrote."""
    from tests.sandbox.process import free_ports

    folder = tmp_path_factory.mktemp("saved") / "neva--step=50-consumed_samples=400.0-last"
    folder.mkdir()
    (port,) = free_ports(1)
    torch.multiprocessing.spawn(write_rank, (str(folder), port), nprocs=2)
    torch.save({"global_step": 50}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(TORCH_DIST))
    return folder


@pytest.mark.filterwarnings("ignore")  # of torch about itself
def loads(folder: Path) -> bool:
    """Whether torch loads all of it, in one process, to other shards than were saved."""
    from torch.distributed import checkpoint

    state: dict[str, Any] = {
        "model.mm_projector.0.weight": torch.zeros(4, 4),
        "optimizer.state.exp_avg": torch.zeros(6),
        "rng": {"seed": 0},
    }
    try:
        with (folder / "metadata.json").open() as file:
            json.load(file)
        torch.load(folder / "common.pt", weights_only=False)
        checkpoint.load(state, storage_reader=checkpoint.FileSystemReader(str(folder)), no_dist=True)
    except (
        *(OSError, ValueError, RuntimeError, EOFError, KeyError, AttributeError, TypeError, IndexError),
        *(pickle.UnpicklingError, zipfile.BadZipFile, checkpoint.CheckpointException),
    ):
        return False
    return True


@pytest.mark.filterwarnings("ignore")
def test_k04_what_torch_loads_is_whole_and_what_it_does_not_is_not(written: Path, tmp_path: Path) -> None:
    """100 random cuts, holes at an end and missing files."""
    assert problems(str(written)) == []
    assert loads(written)
    source, seen = random.Random(4), set()  # noqa: S311 (damage, not secrets)
    names = sorted(path.name for path in written.iterdir())
    for number in range(100):
        copy = tmp_path / f"{number}-last"
        shutil.copytree(written, copy)
        file, form = copy / source.choice(names), source.choice(["cut", "hole", "missing", "none"])
        data = file.read_bytes()
        start = source.randrange(len(data) - 22)
        if form == "missing":
            file.unlink()
        elif form != "none":
            file.write_bytes(data[:start] + bytes(len(data) - start if form == "hole" else 0))
        assert (problems(str(copy)) == []) == loads(copy), (number, file.name, form, start, problems(str(copy)))
        seen.add((form, loads(copy)))
        shutil.rmtree(copy)
    assert {("cut", False), ("hole", False), ("missing", False), ("none", True)} <= seen
