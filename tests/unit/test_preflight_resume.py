"""What would be resumed, and whether NeMo can."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from neva_pod.inputs.saved import consumed_samples
from tests.unit.preflight_tools import problems, run, world, write_saved

pytestmark = pytest.mark.slow

Settings = dict[str, Any]

SAMPLES = 56_000
"""Of the dataset: little more than the checkpoint has seen."""


@pytest.mark.parametrize(
    ("name", "consumed"),
    [
        ("neva--step=217-consumed_samples=55552.0-last", 55552),
        ("neva--step=217-consumed_samples=55552-last", 55552),
        ("neva--step=1-consumed_samples=8-last", 0),
        ("neva--step=1-consumed_samples=12e3-last.ckpt", 12000),
        ("last", 0),
        ("consumed_samples=16.0/neva--step=2-consumed_samples=32.0-last", 16),
    ],
)
def test_r03_consumed_samples_are_in_the_path(name: str, consumed: int) -> None:
    """R03: from the path, as tests/nemo sees NeMo do."""
    assert consumed_samples(f"/r/{name}") == consumed


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run of one 8-GPU node, MBS 32, GBS 256, at step 217 of 2170, now on 8 nodes as neva-values plans it."""
    made = world(tmp_path)
    made["training"].update(
        *({"nodes": 8, "tensorParallelSize": 4, "microBatchSize": 32, "globalBatchSize": 2048, "maxSteps": 272},)
    )
    checkpoint = Path(made["results"]["checkpointsDir"]) / "neva--step=217-consumed_samples=55552.0-last"
    write_saved(checkpoint)
    record = {**made, "training": {**made["training"], "nodes": 1, "globalBatchSize": 256, "maxSteps": 2170}}
    (Path(made["results"]["path"]) / "run.json").write_text(json.dumps(record))
    Path(made["data"]["annotations"]).write_text(f"[{', '.join(['{}'] * SAMPLES)}]")
    return made


def test_r03_another_size_than_the_samplers_is_refused(settings: Settings) -> None:
    """R03: 55,552 samples are no multiple of 32 x 16; what is named works, and what is not does not."""
    (message,) = problems(settings, "resume")
    assert "samples, not a multiple of 512 (MBS x data parallel size 16): NeMo's sampler stops" in message
    assert "has seen 55552 samples" in message
    assert "set training.microBatchSize=16 or 8 or 4; or set training.nodes=4 or 2 or 1" in message
    for change in ({"microBatchSize": 16}, {"nodes": 4}, {"globalBatchSize": 256, "microBatchSize": 16}):
        assert not problems({**settings, "training": {**settings["training"], **change}}, "resume"), change


def test_r03_the_datasets_length_decides_in_later_epochs(settings: Settings) -> None:
    """R03: an epoch is N - N mod (MBS x data parallel size); a multiple alone is not needed, and always enough."""
    checkpoint = Path(settings["results"]["checkpointsDir"]) / "neva--step=217-consumed_samples=55552.0-last"
    active = SAMPLES - SAMPLES % 512
    for consumed, right in (
        (active + 512, True),
        (active + 256, False),
        (SAMPLES, False),
        (active, True),
        (1024, True),
    ):
        moved = checkpoint.with_name(f"neva--step=217-consumed_samples={consumed}.0-last")
        checkpoint = checkpoint.rename(moved)
        assert (not problems(settings, "resume")) == right, consumed


def test_r03_without_the_dataset_it_is_said(settings: Settings) -> None:
    """R03: never a silent pass, and no dataset is read where it does not matter."""
    Path(settings["data"]["annotations"]).unlink()
    assert "the dataset's length, which is unknown" in problems(settings, "resume", "warning")[0]
    del settings["data"]["annotations"]
    assert "the dataset's length, which is unknown" in problems(settings, "resume", "warning")[0]
    settings["training"]["nodes"] = 4
    assert not any("sampler" in m for m in problems(settings, "resume", "warning"))
    settings["training"]["nodes"] = 8
    settings["samples"] = {"loader": "single"}
    assert not any("sampler" in m for m in problems(settings, "resume", "warning"))


def test_r03_the_loader_single_has_one_epoch(settings: Settings) -> None:
    """R03: NeMo ends without a step, and without an error, where less than a global batch is left."""
    settings["samples"] = {"loader": "single"}
    (message,) = problems(settings, "resume")
    assert "448 of 56000 samples are left, fewer than a global batch (2048): NeMo trains nothing" in message
    assert "use a dataset of 57600 samples or more" in message
    settings["training"]["globalBatchSize"] = 256
    assert problems(settings, "resume") == []


def test_r03_with_a_pipeline_a_pass_is_the_global_batch(settings: Settings) -> None:
    """R03: NeVa's loader gives each replica its share of the global batch at once."""
    settings["training"].update(pipelineParallelSize=2, microBatchSize=8)
    (message, other) = problems(settings, "resume")
    assert "training.pipelineParallelSize was 1, is 2" in other
    assert "not a multiple of 2048" in message
    assert "training.microBatchSize" not in message
    good = int(message.split("training.globalBatchSize=")[1].split()[0])
    settings["training"]["globalBatchSize"] = good
    assert len(problems(settings, "resume")) == 1


def test_r03_an_unfinished_run_on_more_nodes(settings: Settings) -> None:
    """R03: NeMo goes on counting steps; the number that sees the samples that are left is said."""
    settings["training"].update(nodes=4, globalBatchSize=4096, maxSteps=136)
    (message,) = problems(settings, "resume")
    assert "is at step 217 of 136: the run is finished" in message
    assert "raise training.maxSteps (to 340 for the remaining samples" in message
    settings["training"].update(globalBatchSize=1024, maxSteps=543)
    assert problems(settings, "resume") == []
    (message,) = problems(settings, "resume", "warning")
    assert "at this global batch training.maxSteps=706 sees the same samples" in message
    settings["training"].update(globalBatchSize=256, microBatchSize=32, maxSteps=2170)
    assert run(settings, "resume")["resume"].outcome == "warning", "only the nodes"
    assert "maxSteps=" not in problems(settings, "resume", "warning")[0]


def test_x16_an_ended_run_is_refused_in_words(settings: Settings) -> None:
    """X16: *-end without *-last, which NeMo takes for a finished run."""
    folder = Path(settings["results"]["checkpointsDir"])
    (folder / "neva--step=217-consumed_samples=55552.0-last").rename(folder / "neva--step=272-end")
    (message,) = problems(settings, "resume")
    assert "neva--step=272-end marks the run as ended; NeMo refuses to resume it | choose another run.id" in message
    settings["resume"] = "never"
    assert problems(settings, "resume") == []
    assert "mixes its files" in problems(settings, "resume", "warning")[0]


def test_x16_ranks_that_name_different_checkpoints(settings: Settings) -> None:
    """X16: NeMo does not stop at several names in ranks' folders, each rank takes one: launch leaves it one."""
    folder = Path(settings["results"]["checkpointsDir"])
    shutil.rmtree(folder)
    for name in ("a-last.ckpt", "b-last.ckpt"):
        write_saved(*(folder / f"mp_rank_{rank:02}" / name for rank in range(4)))
    assert problems(settings, "resume") == []
    message = problems(settings, "resume", "warning")[0]
    assert "-last.ckpt is not the newest that matches *last: renamed to" in message
    assert "training resumes from" in message


@pytest.mark.parametrize("mode", ["auto", "never", "require"])
@pytest.mark.parametrize("kind", ["file", "fifo", "link"])
@pytest.mark.parametrize("place", ["results/checkpoints", "results", "damaged"])
def test_x16_no_folder_for_checkpoints(settings: Settings, place: str, kind: str, mode: str) -> None:
    """X16: no checkpoint can be read there, nor written: that is no run that starts from step 0."""
    path = Path(settings["results"]["path"]) / place
    if path.exists():
        shutil.rmtree(path)
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("gone/there")
    settings["resume"] = mode
    (message,) = problems(settings, "resume")
    words = "is a link to nothing" if kind == "link" else "is no folder"
    assert f"{path}: {words}; must be a folder, for checkpoints" in message


def test_x16_a_ranks_folder_that_is_missing(settings: Settings) -> None:
    """X16: TP 4 with folders of three ranks: launch sets that aside, and training starts from step 0."""
    settings["training"].update(globalBatchSize=256, maxSteps=2170, nodes=1)
    folder = Path(settings["results"]["checkpointsDir"])
    last = next(folder.iterdir())
    shutil.rmtree(last)
    write_saved(*(folder / f"mp_rank_{rank:02}" / f"{last.name}.ckpt" for rank in range(3)))
    (message,) = problems(settings, "resume", "warning")
    assert f"mp_rank_03/{last.name}.ckpt is missing): set aside in" in message
    assert "no whole checkpoint is left: training starts from step 0" in message
    assert problems(settings, "resume") == []


def test_x16_a_tp_that_was_raised_does_not_start_anew(settings: Settings) -> None:
    """X16: the ranks of the new TP are missing, but run.json has the old one: no run starts from step 0 then."""
    settings["training"].update(globalBatchSize=256, maxSteps=2170, nodes=1, tensorParallelSize=8)
    folder = Path(settings["results"]["checkpointsDir"])
    last = next(folder.iterdir())
    shutil.rmtree(last)
    write_saved(*(folder / f"mp_rank_{rank:02}" / f"{last.name}.ckpt" for rank in range(4)))
    (message,) = problems(settings, "resume")
    assert "training.tensorParallelSize was 4, is 8" in message


def test_x16_a_legacy_checkpoint_of_another_tp(settings: Settings) -> None:
    """X16: NeMo finds no rank's file, or takes those of ranks that held another part."""
    settings["training"].update(globalBatchSize=256, microBatchSize=16, maxSteps=2170, nodes=1, tensorParallelSize=2)
    folder = Path(settings["results"]["checkpointsDir"])
    last = next(folder.iterdir())
    shutil.rmtree(last)
    write_saved(*(folder / f"mp_rank_{rank:02}" / f"{last.name}.ckpt" for rank in range(4)))
    (folder.parents[1] / "run.json").unlink()
    (message,) = problems(settings, "resume")
    assert f"{last.name}.ckpt was saved in mp_rank_00, mp_rank_01, mp_rank_02, mp_rank_03; NeMo reads" in message
