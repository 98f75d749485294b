"""The tar reader against Python's and GNU's tar, and that it never reads what members hold."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.preflight_tools import inputs, legacy, write_tar

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=150).filter(
    lambda n: n.strip(".") and len(n.encode()) <= 255
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def read(path: Path) -> dict[str, inputs.Member]:
    with path.open("rb") as file:
        return inputs.tar_members(file.fileno())


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(files=st.dictionaries(PATHS, st.binary(max_size=1500), max_size=6))
def test_same_members_as_python(tmp_path_factory: pytest.TempPathFactory, form: int, files: dict[str, bytes]) -> None:
    """Names of any length and script, in both formats: name, place and size."""
    path = write_tar(tmp_path_factory.mktemp("t") / "a.tar", files, form)
    found = read(path)
    with tarfile.open(path) as tar:
        wanted = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar if m.isfile()}
    assert {n: (m.offset, m.size) for n, m in found.items()} == wanted
    for name, content in files.items():
        with inputs.TarStore(str(path)).open(name) as file:
            assert file.read() == content


def test_same_members_as_gnu_tar(tmp_path: Path) -> None:
    """GNU tar's own defaults, with a name of more than 100 characters."""
    long = tmp_path / "in" / ("a" * 90) / ("b" * 90)
    long.parent.mkdir(parents=True)
    long.write_bytes(b"123")
    subprocess.run(["tar", "-cf", str(tmp_path / "x.tar"), "-C", str(tmp_path / "in"), "."], check=True)
    assert list(read(tmp_path / "x.tar")) == [f"{'a' * 90}/{'b' * 90}"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_beyond_8_gib(tmp_path: Path, form: int) -> None:
    """A rank of a large model: sizes that octal digits do not hold."""
    path = tmp_path / "large.nemo"
    size = 9 * 2**30 + 1
    with path.open("wb") as file:
        for name in ("./mp_rank_00/model_weights.ckpt", "./last"):
            member = tarfile.TarInfo(name)
            member.size = size
            file.write(member.tobuf(form))
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        file.write(bytes(1024))
    assert {n: m.size for n, m in read(path).items()} == {
        "mp_rank_00/model_weights.ckpt": size,
        "last": size,
    }


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """13 GB are judged without reading 13 GB: bytes read are bounded by the number of members."""
    path = write_tar(tmp_path / "a.nemo", {f"f{i}": bytes(100_000) for i in range(50)})
    read_bytes = 0
    real = os.pread

    def counting(fd: int, count: int, offset: int) -> bytes:
        nonlocal read_bytes
        read_bytes += count
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", counting)
    assert len(read(path)) == 50
    assert read_bytes <= 512 * (50 + 2)


def test_damage_in_the_middle_is_seen(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.nemo", legacy(4))
    place = read(path)["mp_rank_02/model_weights.ckpt"].offset - 512
    data = bytearray(path.read_bytes())
    data[place + 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(inputs.ProblemError, match=f"is damaged at byte {place}"):
        read(path)


@given(content=st.binary(max_size=4000))
def test_any_bytes_are_a_tar_or_a_problem(content: bytes) -> None:
    """Never another exception, never without end."""
    with io.BytesIO(content), os.fdopen(os.memfd_create("x"), "wb+") as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(inputs.ProblemError):
            assert inputs.tar_members(file.fileno()) is not None


@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_tokenizer_or_a_value_error(content: bytes) -> None:
    """Protobuf's wire format has no magic number."""
    try:
        inputs.pieces(content)
    except ValueError:
        return
