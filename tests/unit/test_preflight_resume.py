"""What would be resumed, and whether NeMo can: held against NeMo's own functions."""

import abc
import json
import os
import re
import shutil
import sys
import types
from itertools import chain
from pathlib import Path
from shutil import move
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from neva_pod.inputs.saved import consumed_samples, recover, resume_state, without_rank
from neva_pod.preflight.checks.sampler import sampler_takes
from tests.tools import nemo
from tests.unit.preflight_tools import problems, run, world, write_saved

pytestmark = pytest.mark.slow

Settings = dict[str, Any]

SAMPLES = 56_000
"""Of the dataset: little more than the checkpoint has seen."""
STEP = "neva--step=50-consumed_samples=400.0"


class NotFoundError(Exception):
    """NeMo's."""


@pytest.fixture(scope="module")
def check_resume() -> Any:
    """NeMo's exp_manager.check_resume with what it calls; only logging and the rank are stand-ins."""
    silent = SimpleNamespace(warning=print, info=print)
    ranks = nemo.take("nemo/utils/model_utils.py", "uninject_model_parallel_rank", os=os)
    marks = nemo.take(
        "nemo/utils/callbacks/nemo_model_checkpoint.py",
        *("UNFINISHED_CHECKPOINT_SUFFIX", "format_checkpoint_unfinished_marker_path", "is_checkpoint_unfinished"),
        **ranks,
        Path=Path,
    )
    marks["NeMoModelCheckpoint"] = types.SimpleNamespace(
        UNFINISHED_CHECKPOINT_SUFFIX=marks["UNFINISHED_CHECKPOINT_SUFFIX"],
        format_checkpoint_unfinished_marker_path=marks["format_checkpoint_unfinished_marker_path"].__func__,
        is_checkpoint_unfinished=marks["is_checkpoint_unfinished"].__func__,
    )
    taken = nemo.take(
        "nemo/utils/exp_manager.py",
        *("check_resume", "_filter_out_unfinished_checkpoints"),
        **ranks,
        NeMoModelCheckpoint=marks["NeMoModelCheckpoint"],
        NotFoundError=NotFoundError,
        is_global_rank_zero=lambda: True,
        logging=silent,
        move=move,
        Path=Path,
    )
    paths = types.ModuleType("nemo.utils.s3_dirpath_utils")
    constants = ("S3_PATH_PREFIX", "is_s3_url")
    paths.__dict__.update(nemo.take("nemo/utils/s3_dirpath_utils.py", *constants, Path=Path))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nemo", "nemo.utils"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, "nemo.utils.s3_dirpath_utils", paths)
        yield taken["check_resume"]


NAMES = [
    *(f"{STEP}-last", f"{STEP}-end", STEP, "neva--step=60-consumed_samples=480.0-last", "last", "end", "-last", "Last"),
    *("blast", "weekend", "x-last-unfinished", ".hidden-last", "a-EMA", "last-EMA"),
]
PLACES = ["", "mp_rank_00/", "mp_rank_01/", "tp_rank_00_pp_rank_000/", "other/", f"{STEP}-last/", "deep/er/"]
ENTRIES = st.tuples(
    st.sampled_from(PLACES),
    st.sampled_from(NAMES),
    st.sampled_from(["/", "/", ".ckpt", ".ckpt", ".ckpt/", ".nemo", "-unfinished", "-unfinished/", "", "-EMA.ckpt"]),
    st.booleans(),
)


@example(entries=[("", f"{STEP}-last", ".ckpt", True), ("mp_rank_00/", f"{STEP}-last", ".ckpt", True)], require=False)
@example(entries=[("mp_rank_00/", f"{STEP}-last", e, e == ".ckpt") for e in (".ckpt/", ".ckpt")], require=False)
@examples(max_examples=200, deadline=None)
@given(entries=st.lists(ENTRIES, max_size=5), require=st.booleans())
def test_x16_decides_as_nemo_does(
    check_resume: Any,
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, str, str, bool]],
    require: bool,
) -> None:
    """X16: folders and files, nested, unfinished, of ranks, whole and empty: the same checkpoint as NeMo.

    After what launch would rename, NeMo raises nothing but what preflight refuses.
    """
    log = tmp_path_factory.mktemp("log")
    folder = log / "checkpoints"
    for place, name, ending, whole in entries:
        path = folder / f"{place}{name}{ending}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if whole and ending in ("/", ".ckpt"):
                write_saved(path)
            else:
                path.mkdir(exist_ok=True) if ending.endswith("/") else path.touch()
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    settings = {"results": {"checkpointsDir": str(folder)}, "resume": "require" if require else "auto", "preflight": {}}
    trainer = SimpleNamespace(ckpt_path=None)

    def stopped() -> bool:
        try:
            check_resume(trainer, str(log), resume_if_exists=True, resume_ignore_no_checkpoint=not require)
        except (ValueError, NotFoundError):
            return True
        return False

    stopped()
    assert resume_state(str(folder)).chosen == (trainer.ckpt_path or "")
    said, trainer.ckpt_path = problems(settings, "resume"), None
    recovery = recover(str(folder), str(log / "damaged"))
    assert stopped() == bool(said)
    assert without_rank(trainer.ckpt_path or "") == recovery.resumes
    assert bool(problems(settings, "resume")) == bool(said)
    shutil.rmtree(log)


def sampler() -> Any:
    """NeMo's sampler of NeVa's cyclic loader; of torch only a permutation is needed."""
    torch = SimpleNamespace(
        Generator=lambda: SimpleNamespace(manual_seed=lambda _: None),
        randperm=lambda n, generator: SimpleNamespace(tolist=lambda: range(n)),
    )
    quiet = SimpleNamespace(info=lambda _: None)
    base = ("BaseMegatronSampler", "MegatronPretrainingRandomSampler")
    taken = nemo.take(
        "nemo/collections/nlp/data/language_modeling/megatron/data_samplers.py",
        *base,
        torch=torch,
        logging=quiet,
        abc=abc,
        chain=chain,
        RandomSeedDataset=type("RandomSeed", (), {}),
    )
    name = "MegatronVisionPretrainingRandomSampler"
    return nemo.take("nemo/collections/vision/data/megatron/data_samplers.py", name, **taken)[name]


def test_r03_the_rule_is_the_samplers() -> None:
    """R03: dies when what was consumed in this epoch is no whole number of passes."""
    made = sampler()
    seen = set()
    for samples in (1, 7, 64, 100, 558):
        for consumed in (0, 1, 32, 48, 64, 96, 100, 200, 557, 558, 1000):
            for micro, replicas in ((1, 1), (2, 4), (4, 8), (32, 1), (5, 20)):
                one = made(None, samples, consumed, micro, 0, replicas, data_sharding=False)
                try:
                    next(iter(one), None)
                    taken = True
                except (AssertionError, ZeroDivisionError):
                    taken = False
                assert sampler_takes(samples, consumed, micro * replicas) == taken, (samples, consumed, micro)
                seen.add(taken)
    assert seen == {True, False}


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
def test_r03_consumed_samples_as_nemo_reads_them(name: str, consumed: int) -> None:
    """R03: from the path, by NeMo's own expression."""
    quiet = SimpleNamespace(warning=lambda _: None)
    path = "nemo/collections/nlp/models/language_modeling/megatron_base_model.py"
    theirs = nemo.take(path, "_extract_consumed_samples_from_ckpt", re=re, logging=quiet)
    assert theirs["_extract_consumed_samples_from_ckpt"](None, f"/r/{name}") == consumed
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
        (folder / "mp_rank_00").mkdir(parents=True, exist_ok=True)
        write_saved(folder / "mp_rank_00" / name)
    assert problems(settings, "resume") == []
    message = problems(settings, "resume", "warning")[0]
    assert "-last.ckpt is not the newest that matches *last: renamed to" in message
    assert "training resumes from" in message
