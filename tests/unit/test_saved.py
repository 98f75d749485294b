"""K04: saved checkpoints that are whole or not, and how a run returns to a whole one; nothing is ever deleted."""

import io
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from neva_pod.findings import ProblemError
from neva_pod.inputs.saved import plan_recovery, problems, recover, resume_state, saved
from tests.unit.preflight_tools import DATA, FILES, write_saved

NAME = "neva--step={}-consumed_samples={}.0"
REAL = sorted(path.name for path in (DATA / "saved").iterdir())


def name(step: int, ending: str = "") -> str:
    return NAME.format(step, 8 * step) + ending


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A folder that two ranks of torch wrote."""
    path = tmp_path / "checkpoints" / name(50, "-last")
    write_saved(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "checkpoints"


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    return tmp_path / "damaged"


# Wholeness


def cut(file: str, size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / file, size)


def hole(file: str, start: int, end: int) -> Callable[[Path], None]:
    """Zeros for what was never written, as after a crash of the machine; of `end` 0, up to the end."""

    def damage(path: Path) -> None:
        data = bytearray((path / file).read_bytes())
        stop = end or len(data)
        data[start:stop] = bytes(stop - start)
        (path / file).write_bytes(data)

    return damage


def replaced(file: str, content: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        (path / file).write_bytes(content)

    return damage


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def described(**changes: object) -> Callable[[Path], None]:
    """Another metadata.json; None takes a key away."""
    given = json.loads((DATA / "saved" / "metadata.json").read_text()) | changes
    text = json.dumps({key: value for key, value in given.items() if value is not None})
    return replaced("metadata.json", text.encode())


def archive(name: str, content: bytes) -> bytes:
    """Return a zip of one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(name, content)
    return file.getvalue()


def fifo(path: Path) -> None:
    (path / "__1_0.distcp").unlink()
    os.mkfifo(path / "__1_0.distcp")


def unix_socket(path: Path) -> None:
    (path / "__1_0.distcp").unlink()
    with socket.socket(socket.AF_UNIX) as made, tempfile.TemporaryDirectory(dir="/tmp") as short:
        made.bind(f"{short}/s")  # its path may have 108 characters
        Path(short, "s").rename(path / "__1_0.distcp")


def linked(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to("gone")


def linked_inside(path: Path) -> None:
    (path / "__0_0.distcp").unlink()
    (path / "__0_0.distcp").symlink_to("gone")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        # the seven of the row
        (cut("__1_0.distcp", 0), "__1_0.distcp has 0 bytes"),
        (cut("__1_0.distcp", 2000), "__1_0.distcp has 2000 of 2838 bytes"),
        (empty, "is an empty folder"),
        (lambda path: (path / ".metadata").unlink(), ".metadata is missing"),
        (cut(".metadata", 700), ".metadata is cut or damaged"),
        (lambda path: (path / "__1_1.distcp").unlink(), "__1_1.distcp is missing"),
        (linked, "is a link to nothing"),
        # more
        (linked_inside, "__0_0.distcp is a link to nothing"),
        (cut("common.pt", 1000), "common.pt is cut or damaged (1000 bytes)"),
        (lambda path: (path / "common.pt").unlink(), "common.pt is missing"),
        (lambda path: (path / "metadata.json").unlink(), "metadata.json is missing"),
        (cut("metadata.json", 30), "metadata.json is cut or damaged"),
        (replaced("metadata.json", b"[]"), "metadata.json is no JSON object"),
        # what nothing loads, whatever its size
        (replaced("metadata.json", b"{}"), "metadata.json has no sharded_backend"),
        (described(sharded_backend="zarr"), "metadata.json names the sharded_backend zarr, but there is no .zarray"),
        (
            described(sharded_backend="tor\0h"),
            "metadata.json names the sharded_backend tor\\u0000h; must be torch_dist",
        ),
        (described(sharded_backend=["torch_dist"]), "metadata.json names the sharded_backend [torch_dist]"),
        (described(sharded_backend_version=2), "metadata.json names the sharded_backend_version 2; must be 1"),
        (described(common_backend="zarr"), "metadata.json names the common_backend zarr; must be torch"),
        (described(common_backend_version="1"), "metadata.json names the common_backend_version 1; must be 1"),
        (replaced("metadata.json", '{"sharded_backend": "torch_dist"}'.encode("utf-16")), "metadata.json is cut or"),
        (replaced("metadata.json", b'\xef\xbb\xbf{"sharded_backend": "torch_dist"}'), "metadata.json is cut or"),
        (replaced("common.pt", archive("hello.txt", b"x")), "common.pt holds no data.pkl"),
        (replaced("common.pt", archive("data.pkl", b"N.")), "common.pt holds no data.pkl"),
        (replaced("common.pt", archive("common/data.pkl", b"")), "common.pt has a damaged data.pkl"),
        (replaced("common.pt", archive("common/data.pkl", b"\x80\x02garbage")), "common.pt has a damaged data.pkl"),
        (replaced("common.pt", archive("common/data.pkl", b"\x80\x02}")), "common.pt has a damaged data.pkl"),
        (hole("__1_0.distcp", 0, 0), "__1_0.distcp has no data at byte 0"),
        (hole("__1_0.distcp", 2000, 0), "__1_0.distcp has no data before byte 2838"),
        (hole("__1_0.distcp", 1000, 2000), "__1_0.distcp has no data before byte 1261"),
        (hole("common.pt", 0, 100), "common.pt has no data at byte 0"),
        (hole(".metadata", 0, 0), ".metadata is cut or damaged"),
        (fifo, "__1_0.distcp is no file"),
        (unix_socket, "__1_0.distcp is no file"),
        (replaced(".metadata", b"\x80\x04}."), ".metadata is cut or damaged (no storage_data)"),
        (lambda path: (path.with_name(path.name + "-unfinished")).touch(), "is marked -unfinished"),
    ],
)
def test_k04_a_damaged_folder(one: Path, damage: Callable[[Path], None], words: str) -> None:
    assert problems(str(one)) == []
    damage(one)
    assert any(words in found for found in problems(str(one))), problems(str(one))


@pytest.mark.parametrize(
    "form",
    [
        described(sharded_backend_version=None, common_backend=None, common_backend_version=None),
        described(sharded_backend_version=1.0),
        replaced("common.pt", archive("any name/data.pkl", pickle.dumps({"step": 5, 3: [(), {1, 2}, b"x", 2**80]}, 2))),
        replaced("common.pt", archive("a/data.pkl", pickle.dumps(OrderedDict(a=Path("x"), b=slice(1), c=1j), 5))),
        replaced("common.pt", archive("a/data.pkl", pickle.dumps([defaultdict(list, {"a": [None]}), "é\ud800"], 0))),
    ],
)
def test_what_loads_is_whole_in_any_form(one: Path, form: Callable[[Path], None]) -> None:
    form(one)
    assert problems(str(one)) == []


@pytest.mark.slow
@example(file="__1_0.distcp", part=0.4453125, zeros=True)  # within the first four bytes of a tensor
@examples(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(REAL), part=st.floats(0, 1, exclude_max=True), zeros=st.booleans())
def test_k04_any_cut(one: Path, file: str, part: float, zeros: bool) -> None:
    """A file that ends anywhere before its end, or whose end was never written."""
    whole = (DATA / "saved" / file).read_bytes()
    size = min(int(part * len(whole)), len(whole) - (22 if zeros else 1))
    (one / file).write_bytes(whole[:size] + bytes(len(whole) - size if zeros else 0))
    assert problems(str(one))
    (one / file).write_bytes(whole)
    assert problems(str(one)) == []


@pytest.mark.parametrize("file", REAL)
def test_k04_any_file_missing(one: Path, file: str) -> None:
    (one / file).unlink()
    assert any(words.startswith(f"{file} is missing") for words in problems(str(one)))


def test_a_pickle_is_not_run(one: Path) -> None:
    """An index that would run a command is read as damaged."""
    (one / ".metadata").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert problems(str(one)) == [".metadata is cut or damaged (no storage_data)"]
    assert not Path("ran").exists()


def test_names_outside_are_not_followed(one: Path) -> None:
    index = (one / ".metadata").read_bytes()
    (one / ".metadata").write_bytes(index.replace(b"__0_0.distcp", b"../../passwd"))
    assert problems(str(one)) == [".metadata is cut or damaged (storage_data of another form)"]


@pytest.mark.parametrize("size", [None, 0, 1, 3000])
def test_k04_one_file(tmp_path: Path, size: int | None) -> None:
    path = tmp_path / name(50, "-last.ckpt")
    write_saved(path)
    assert problems(str(path)) == []
    if size is None:
        path.unlink()
    else:
        os.truncate(path, size)
    words = {None: "is missing", 0: "has 0 bytes"}
    assert problems(str(path)) == [words.get(size, f"is cut or damaged ({size} bytes)")]


def test_k04_a_rank_is_missing(tmp_path: Path) -> None:
    paths = [tmp_path / f"mp_rank_{rank:02}" / name(50, "-last.ckpt") for rank in range(3)]
    write_saved(*paths)
    assert problems(str(tmp_path / name(50, "-last.ckpt"))) == []
    paths[1].unlink()
    os.truncate(paths[2], 9)
    assert problems(str(tmp_path / name(50, "-last.ckpt"))) == [
        f"mp_rank_01/{name(50, '-last.ckpt')} is missing",
        f"mp_rank_02/{name(50, '-last.ckpt')} is cut or damaged (9 bytes)",
    ]


TP4, TP2_PP2 = (4, 1), (2, 2)
PLACES = {
    TP4: [f"mp_rank_{rank:02}" for rank in range(4)],
    TP2_PP2: [f"tp_rank_{t:02}_pp_rank_{p:03}" for t in range(2) for p in range(2)],
}


@pytest.mark.parametrize("parallel", [TP4, TP2_PP2])
@pytest.mark.parametrize("lost", [(0,), (3,), (1, 2), (0, 1, 2)])
def test_k04_a_ranks_folder_is_missing(
    folder: Path, aside: Path, parallel: tuple[int, int], lost: tuple[int, ...]
) -> None:
    """Where its folder is gone, too, only the run's sizes tell that a rank's file is missing."""
    last, older = name(50, "-last.ckpt"), folder / name(40)
    write_saved(older, *(folder / place / last for place in PLACES[parallel]))
    assert problems(str(folder / last), parallel) == []
    assert recover(str(folder), str(aside), parallel).moves == ()
    for rank in lost:
        shutil.rmtree(folder / PLACES[parallel][rank])
    missing = [f"{PLACES[parallel][rank]}/{last} is missing" for rank in lost]
    assert problems(str(folder / last), parallel) == missing
    recovery = recover(str(folder), str(aside), parallel)
    assert recovery.resumes == resume_state(str(folder)).chosen == f"{older}-last"
    assert all(words in recovery.said[0] for words in missing)


def test_a_run_of_unknown_sizes_counts_the_folders_that_are_there(folder: Path, aside: Path) -> None:
    write_saved(*(folder / place / name(50, "-last.ckpt") for place in PLACES[TP4][:3]))
    assert recover(str(folder), str(aside)).moves == ()


@pytest.mark.parametrize(
    ("places", "parallel", "words"),
    [
        (PLACES[TP4], (2, 1), "in mp_rank_00, mp_rank_01, mp_rank_02, mp_rank_03; NeMo reads it in mp_rank_00, mp_ra"),
        (PLACES[TP4], (1, 1), "was saved in mp_rank_00, mp_rank_01, mp_rank_02, mp_rank_03; NeMo reads it as one file"),
        (PLACES[TP2_PP2], TP4, "tp_rank_01_pp_rank_001; NeMo reads it in mp_rank_00, mp_rank_01"),
        ([""], (2, 1), "was saved as one file; NeMo reads it in mp_rank_00, mp_rank_01 at TP 2 PP 1"),
        ([""], (1, 1), ""),
        (["mp_rank_00_fsdp_shard_00000", "mp_rank_00_fsdp_shard_00001"], (2, 1), ""),
    ],
)
@pytest.mark.parametrize("ending", ["-last.ckpt", ".ckpt"])
def test_what_another_tp_or_pp_split_is_not_called_damaged(
    folder: Path, aside: Path, places: list[str], parallel: tuple[int, int], words: str, ending: str
) -> None:
    """Setting it aside would start from step 0; it is whole, and loads at its own TP and PP."""
    write_saved(*(folder / place / name(50, ending) for place in places))
    recovery = recover(str(folder), str(aside), parallel)
    assert recovery.resumes == str(folder / name(50, "-last.ckpt"))
    assert words in recovery.split
    assert bool(words) == bool(recovery.split)
    assert not aside.exists()


def zarr(path: Path) -> Path:
    """Write a folder as mcore's zarr strategy does: every chunk, uncompressed, objects in files of torch."""
    array = '{"shape": [4, 5], "chunks": [2, 5], "dtype": "<f4", "compressor": null, "filters": null}'
    for tensor, text in (("weight", array), ("bf16", array.replace("<f4", "bfloat16"))):
        (path / tensor).mkdir(parents=True)
        (path / tensor / ".zarray").write_text(text)
        for chunk in ("0.0", "1.0"):
            (path / tensor / chunk).write_bytes(bytes(40 if tensor == "weight" else 20))
    (path / "rng_state").mkdir()
    for file in ("common.pt", "rng_state/shard_0_1.pt"):
        shutil.copy(DATA / "saved" / "common.pt", path / file)
    (path / "metadata.json").write_text('{"sharded_backend": "zarr"}')
    return path


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / "weight" / "1.0").unlink(), "weight has 1 of 2 chunks"),
        (cut("weight/1.0", 39), "weight chunk 1.0 has 39 of 40 bytes"),
        (cut("bf16/0.0", 0), "bf16 chunk 0.0 has 0 bytes"),
        (cut("weight/.zarray", 9), "weight/.zarray is cut or damaged"),
        (replaced("weight/.zarray", b'{"shape": "x"}'), "weight has a .zarray of another form"),
        (lambda path: (path / "weight" / ".zarray").unlink(), "weight has no .zarray"),
        (cut("rng_state/shard_0_1.pt", 99), "rng_state/shard_0_1.pt is cut or damaged"),
        (lambda path: (path / "rng_state/shard_0_1.pt").unlink(), "rng_state has no .zarray"),
    ],
)
def test_k04_zarr(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    path = zarr(tmp_path / name(50, "-last"))
    assert problems(str(path)) == []
    damage(path)
    assert any(words in found for found in problems(str(path))), problems(str(path))


def test_k04_zarr_that_is_called_torch_dist(tmp_path: Path) -> None:
    path = zarr(tmp_path / name(50, "-last"))
    (path / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    assert problems(str(path)) == [".metadata is missing"]


def test_what_cannot_be_read_is_not_called_damaged(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the file system says nothing about the checkpoint: setting it aside would lose it."""

    def fail(*_: object) -> object:
        raise OSError(5, "Input/output error", "x")

    monkeypatch.setattr("neva_pod.inputs.whole.open_file", fail)
    for function in (lambda: problems(str(one)), lambda: saved(str(one.parent)), lambda: recover(str(one.parent), "x")):
        with pytest.raises(ProblemError, match="Input/output error"):
            function()


# All of a folder


def test_the_newest_comes_first(folder: Path) -> None:
    ranks = [f"mp_rank_{rank:02}/{name(30)}.ckpt" for rank in range(2)]
    write_saved(*(folder / n for n in (name(9), name(100, "-last"), name(100), name(20, ".ckpt"), *ranks, "last.ckpt")))
    (folder / name(50)).mkdir()
    (folder / "notes").mkdir()
    (folder / "nemo_neva.nemo").touch()
    found = saved(str(folder))
    assert [c.name for c in found] == [
        *(name(100, "-last"), name(100), name(50), name(30, ".ckpt"), name(20, ".ckpt"), name(9), "last.ckpt")
    ]
    assert [(c.step, c.consumed, c.is_last, bool(c.problems)) for c in found[1:3]] == [
        (100, 800, False, False),
        (50, 400, False, True),
    ]
    assert len(found[3].parts) == 2
    assert saved(str(folder / "none")) == []


# Back to a whole one


def damage(path: Path) -> None:
    """Cut what a folder or file holds."""
    os.truncate(path / "__0_0.distcp" if path.is_dir() else path, 100)


def scene_damaged_last(folder: Path) -> str:
    write_saved(*(folder / name(step) for step in (30, 40)), folder / name(50, "-last"))
    damage(folder / name(50, "-last"))
    return name(40, "-last")


def scene_killed_in_a_save(folder: Path) -> str:
    """The older last is whole; the newer one has NeMo's mark, and the folder of the same step is whole."""
    write_saved(folder / name(40, "-last"), folder / name(50), folder / name(50, "-last"))
    (folder / name(50, "-last-unfinished")).touch()
    return name(50, "-last")


def scene_no_last(folder: Path) -> str:
    write_saved(folder / name(30), folder / name(40))
    return name(40, "-last")


def scene_several_last(folder: Path) -> str:
    write_saved(folder / name(30), *(folder / name(step, "-last") for step in (30, 40, 50, 60)))
    damage(folder / name(60, "-last"))
    return name(50, "-last")


def scene_ranks(folder: Path) -> str:
    for rank in range(3):
        place = folder / f"mp_rank_{rank:02}"
        write_saved(*(place / name(step, ".ckpt") for step in (30, 40)), place / name(50, "-last.ckpt"))
    (folder / "mp_rank_01" / name(50, "-last.ckpt")).unlink()
    return name(40, "-last.ckpt")


def scene_a_file_behind_a_folder(folder: Path) -> str:
    """NeMo looks at no file while there is a folder *last, not even at an unfinished one."""
    write_saved(folder / name(40, ".ckpt"), folder / name(50, "-last"))
    (folder / name(50, "-last-unfinished")).touch()
    return name(40, "-last.ckpt")


def scene_a_damaged_end(folder: Path) -> str:
    write_saved(folder / name(40, "-last"), folder / name(50, "-end"))
    damage(folder / name(50, "-end"))
    return name(40, "-last")


def scene_a_link_to_nothing(folder: Path) -> str:
    """As where the volume that it leads to is not mounted."""
    write_saved(folder / name(40))
    (folder / name(50, "-last")).symlink_to("gone/there")
    return name(40, "-last")


def scene_nothing_whole(folder: Path) -> str:
    write_saved(folder / name(40), folder / name(50, "-last"))
    damage(folder / name(40))
    damage(folder / name(50, "-last"))
    return ""


SCENES = [value for key, value in dict(globals()).items() if key.startswith("scene_")]


def contents(*roots: Path) -> list[bytes]:
    return sorted(p.read_bytes() for root in roots for p in root.rglob("*") if p.is_file())


@pytest.mark.parametrize("scene", SCENES)
def test_k04_the_newest_whole_one_is_resumed(folder: Path, aside: Path, scene: Callable[[Path], str]) -> None:
    """Whatever rename a kill came after; what was there is still there, and NeMo takes what is said."""
    expected = scene(folder)
    expected = str(folder / expected) if expected else ""
    original = folder.with_name("original")
    shutil.copytree(folder, original, symlinks=True)
    before = contents(folder)
    moves = plan_recovery(str(folder), str(aside)).moves
    assert moves
    for done in range(len(moves) + 1):
        shutil.rmtree(folder)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(original, folder, symlinks=True)
        for source, target in moves[:done]:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(source).rename(target)
        recovery = recover(str(folder), str(aside))
        assert recovery.resumes == expected
        assert resume_state(str(folder)).chosen == expected
        assert contents(folder, aside) == before
        again = recover(str(folder), str(aside))
        assert (again.moves, again.resumes) == ((), expected)


def test_k04_it_is_said_what_was_lost(folder: Path, aside: Path) -> None:
    scene_damaged_last(folder)
    recovery = recover(str(folder), str(aside))
    last = name(50, "-last")
    assert recovery.said == (
        f"{last} is not whole (__0_0.distcp has 100 of 1577 bytes): set aside in {aside}",
        f"training resumes from {name(40, '-last')}; 10 steps are lost",
    )
    assert recovery.lost == 10
    assert (aside / last / "__0_0.distcp").stat().st_size == 100
    write_saved(folder / last)
    damage(folder / last)
    recover(str(folder), str(aside))
    assert sorted(path.name for path in aside.iterdir()) == [last, f"{last}.1"]


def test_k04_nothing_is_left(folder: Path, aside: Path) -> None:
    scene_nothing_whole(folder)
    recovery = recover(str(folder), str(aside))
    assert recovery.said[-1] == "no whole checkpoint is left: training starts from step 0; 50 steps are lost"
    assert recovery.left == (f"{name(40)} (__0_0.distcp has 100 of 1577 bytes)",)


def test_a_whole_last_stays_what_it_is(folder: Path, aside: Path) -> None:
    """A newer checkpoint beside it is there by intent: who goes back to an older one renames that."""
    write_saved(folder / name(40, "-last"), folder / name(50))
    recovery = recover(str(folder), str(aside))
    assert (recovery.moves, recovery.said, recovery.resumes) == ((), (), str(folder / name(40, "-last")))


def test_an_ended_run_is_left_alone(folder: Path, aside: Path) -> None:
    write_saved(folder / name(40), folder / name(50, "-end"))
    recovery = recover(str(folder), str(aside))
    assert (recovery.moves, recovery.resumes, recovery.ended) == ((), "", (name(50, "-end"),))


def test_a_name_that_is_taken(folder: Path, aside: Path) -> None:
    """The suffix is taken from a second last only where that hides nothing."""
    write_saved(folder / name(40, "-last"), folder / name(40), folder / name(50, "-last"))
    recovery = recover(str(folder), str(aside))
    assert recovery.said[0] == f"{name(40, '-last')} is not the newest that matches *last: set aside in {aside}"
    assert sorted(path.name for path in folder.iterdir()) == [name(40), name(50, "-last")]


def test_another_file_system_stops_it(folder: Path, aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene_damaged_last(folder)

    def rename(source: str, _: str) -> None:
        raise OSError(18, "Invalid cross-device link", source)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(ProblemError, match="cross-device"):
        recover(str(folder), str(aside))


def test_the_folder_that_refuses_is_named(folder: Path, aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene_damaged_last(folder)
    aside.write_text("x")
    with pytest.raises(ProblemError, match=f"^{aside}: is no folder; must be a folder, for checkpoints that are set"):
        recover(str(folder), str(aside))
    aside.unlink()
    monkeypatch.setattr(os, "access", lambda path, *_, **__: path != str(aside))

    def rename(source: str, _: str) -> None:
        raise PermissionError(13, "Permission denied", source)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(ProblemError, match=f"^{aside}: permission denied"):
        recover(str(folder), str(aside))


def test_a_folder_that_cannot_be_looked_into_is_not_called_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run would start from step 0."""
    stat = os.stat

    def closed(path: str, **options: bool) -> os.stat_result:
        if path == str(folder):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", closed)
    with pytest.raises(ProblemError, match="permission denied"):
        saved(str(folder))


KILLED = """
import os, signal, sys
from neva_pod.inputs.saved import recover
rename, left = os.rename, [int(sys.argv[3])]
def counted(*paths):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(*paths)
os.rename = counted
recover(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_k04_a_process_killed_between_renames(folder: Path, aside: Path) -> None:
    expected = scene_ranks(folder)
    before = contents(folder)
    killed = 0
    for _ in range(10):  # each gets one rename further
        command = [sys.executable, "-c", KILLED, str(folder), str(aside), "1"]
        code = subprocess.run(command, env={"PYTHONPATH": str(FILES)}, check=False).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
    assert killed > 2
    assert resume_state(str(folder)).chosen == str(folder / expected)
    assert problems(str(folder / expected)) == []
    assert contents(folder, aside) == before
