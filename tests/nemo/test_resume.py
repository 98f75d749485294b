"""What NeMo resumes from, starts with or stops at, by its own exp_manager, and what preflight and launch make of it."""

import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from neva_pod.inputs.saved import consumed_samples, recover, resume_state, saved, without_rank
from tests.chart import helm
from tests.nemo.judge import ask
from tests.unit.preflight_tools import problems, write_saved

pytestmark = [pytest.mark.nemo, pytest.mark.helm]

STEP = "neva--step=50-consumed_samples=400.0"
NAMES = [
    *(f"{STEP}-last", f"{STEP}-end", STEP, "neva--step=60-consumed_samples=480.0-last", "last", "end", "-last", "Last"),
    *(
        "blast",
        "weekend",
        "x-last-unfinished",
        ".hidden-last",
        "a-EMA",
        "last-EMA",
        "neva--step=40-consumed_samples=320.0",
    ),
    *("neva--step=30-consumed_samples=240.0", "neva--step=60-consumed_samples=480.0"),
]
PLACES = ["", "", "", "mp_rank_00/", "mp_rank_01/", "tp_rank_00_pp_rank_000/", "other/", f"{STEP}-last/", "deep/er/"]
ENDINGS = ["/", "/", "/", ".ckpt", ".ckpt", ".ckpt/", ".nemo", "-unfinished", "-unfinished/", "", "-EMA.ckpt"]
ENTRIES = st.tuples(st.sampled_from(PLACES), st.sampled_from(NAMES), st.sampled_from(ENDINGS), st.booleans())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of the rendered configuration."""
    path = tmp_path_factory.mktemp("config") / "neva_pretrain.yaml"
    path.write_text(helm.config_data(helm.render({}))["neva_pretrain.yaml"])
    return str(path)


@example(entries=[("", f"{STEP}-last", ".ckpt", True), ("mp_rank_00/", f"{STEP}-last", ".ckpt", True)], require=False)
@example(entries=[("mp_rank_00/", f"{STEP}-last", e, e == ".ckpt") for e in (".ckpt/", ".ckpt")], require=False)
@examples(max_examples=60, deadline=None)
@given(entries=st.lists(ENTRIES, max_size=6), require=st.booleans())
def test_x16_starts_as_nemo_does(
    config: str, tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, str, bool]], require: bool
) -> None:
    """X16: folders and files, nested, unfinished, of ranks, whole and empty: the same checkpoint as NeMo.

    After what launch renames, NeMo stops at nothing but what preflight refuses, resumes from the checkpoint named, and
    what it removes at its start is neither that nor newer.
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
    said, recovery = problems(settings, "resume"), recover(str(folder), str(log / "damaged"))
    state, kept = resume_state(str(folder)), [c.path for c in saved(str(folder)) if not c.problems]
    begun = ask("start", config=config, log_dir=str(log), require=require)
    assert ("stops" in begun) == bool(said), (begun, said)
    if not said:
        assert without_rank(begun["resumes"]) == recovery.resumes
        assert begun["resumes"] == state.chosen
        left = {c.path for c in saved(str(folder)) if not c.problems}
        assert not recovery.resumes or recovery.resumes in left
        removed = [Path(path).name for path in kept if path not in left]
        assert not any(name.removesuffix(".ckpt").endswith("last") for name in removed), removed
    shutil.rmtree(log)


@pytest.mark.parametrize(
    "name",
    [
        *("neva--step=217-consumed_samples=55552.0-last", "neva--step=217-consumed_samples=55552-last"),
        *("neva--step=1-consumed_samples=8-last", "neva--step=1-consumed_samples=12e3-last.ckpt", "last"),
        "consumed_samples=16.0/neva--step=2-consumed_samples=32.0-last",
        "consumed_samples=1x2",
    ],
)
def test_r03_consumed_samples_as_nemo_reads_them(name: str) -> None:
    """R03: from the path, by NeMo's own expression."""
    assert consumed_samples(f"/r/{name}") == ask("consumed_samples", path=f"/r/{name}")


def test_x16_why_a_name_is_refused(config: str, tmp_path: Path) -> None:
    """X16: NeMo takes what follows the first `step` of a checkpoint's whole path for its step."""
    for run, stops in (("two-step", True), ("two", False)):
        log = tmp_path / run / "results"
        write_saved(log / "checkpoints" / f"{STEP}-last", log / "checkpoints" / STEP)
        assert ("stops" in ask("start", config=config, log_dir=str(log), require=True)) == stops
    assert any(
        "run.id: got two-step; must not contain step" in line for line in helm.render_fails({"run": {"id": "two-step"}})
    )
