"""The tar reader against Python's and GNU's tar, and that it never reads what members hold."""

import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neva_pod.findings import ProblemError
from neva_pod.inputs.tar import Member, TarStore, tar_members
from neva_pod.inputs.tokenizer import pieces
from neva_pod.prepare.llm import unpack
from tests.unit.preflight_tools import legacy, write_tar

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=150).filter(
    lambda n: n.strip(".") and len(n.encode()) <= 255
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def read(path: Path) -> dict[str, Member]:
    with path.open("rb") as file:
        return tar_members(file.fileno())


@pytest.mark.slow
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(files=st.dictionaries(PATHS, st.binary(max_size=1500), max_size=6))
def test_same_members_as_python(
    tmp_path_factory: pytest.TempPathFactory, form: Literal[0, 1, 2], files: dict[str, bytes]
) -> None:
    """Names of any length and script, in both formats: name, place and size."""
    assume(not any(name.startswith(f"{other}/") for name in files for other in files))  # both file and folder: refused
    path = write_tar(tmp_path_factory.mktemp("t") / "a.tar", files, form)
    found = read(path)
    with tarfile.open(path) as tar:
        wanted = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar if m.isfile()}
    assert {n: (m.offset, m.size) for n, m in found.items()} == wanted
    for name, content in files.items():
        with TarStore(str(path)).open(name) as file:
            assert file.read() == content


def test_same_members_as_gnu_tar(tmp_path: Path) -> None:
    """GNU tar's own defaults, with a name of more than 100 characters."""
    long = tmp_path / "in" / ("a" * 90) / ("b" * 90)
    long.parent.mkdir(parents=True)
    long.write_bytes(b"123")
    subprocess.run(["tar", "-cf", str(tmp_path / "x.tar"), "-C", str(tmp_path / "in"), "."], check=True)
    assert list(read(tmp_path / "x.tar")) == [f"{'a' * 90}/{'b' * 90}"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_beyond_8_gib(tmp_path: Path, form: Literal[0, 1, 2]) -> None:
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
    with pytest.raises(ProblemError, match=f"is damaged at byte {place}"):
        read(path)


GNU_TAR = {
    "sparse, GNU": ("-S", "--format=gnu", "hole"),
    "sparse, pax 1.0": ("-S", "--format=pax", "hole"),
    "sparse, pax 0.1": ("-S", "--format=pax", "--sparse-version=0.1", "hole"),
    "sparse, pax 0.0": ("-S", "--format=pax", "--sparse-version=0.0", "hole"),
    "symbolic link": ("--format=gnu", "plain", "soft"),
    "pipe": ("--format=gnu", "plain", "pipe"),
    "device": ("--format=gnu", "-P", "plain", "/dev/null"),
    "volume": ("--format=gnu", "-M", "-L", "20", *(f"-f../v{i}" for i in range(2, 9)), "hole"),
    "increment": ("--format=gnu", "-g", "snapshot", "folder"),
    "label": ("--format=gnu", "-V", "label", "plain"),
    "absolute": ("--format=gnu", "-P", "{}/plain"),
    "above": ("--format=gnu", "-P", "../in/plain"),
    "a link before its file": ("--format=gnu", "--transform=s,^plain$,other,H", "plain", "hard"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with every kind of file."""
    folder = tmp_path / "in"
    (folder / "folder").mkdir(parents=True)
    (folder / "plain").write_bytes(b"content")
    os.link(folder / "plain", folder / "hard")
    os.link(folder / "plain", folder / "folder" / ("long" * 40))
    (folder / "soft").symlink_to("plain")
    os.mkfifo(folder / "pipe")
    with (folder / "hole").open("wb") as file:
        file.truncate(100_000)
        file.seek(50_000)
        file.write(b"data")
    return folder


@pytest.mark.parametrize("case", GNU_TAR)
def test_k05_what_is_not_read_is_refused(tree: Path, tmp_path: Path, case: str) -> None:
    """K05: never a listing without it, by GNU tar's own files; the way out is said."""
    command = ["tar", "-cf", str(tmp_path / "x.tar"), *(a.format(tree) for a in GNU_TAR[case])]
    subprocess.run(command, cwd=tree, check=False, capture_output=True, stdin=subprocess.DEVNULL)
    with pytest.raises(ProblemError, match="the tar ") as raised:
        read([tmp_path / "x.tar", *sorted(tmp_path.glob("v*"))][-1])  # of volumes the last one
    assert "tar -xf FILE" in raised.value.finding.fix or "do not use this file" in raised.value.finding.fix


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_k05_hard_links_are_the_file(tree: Path, tmp_path: Path, form: str) -> None:
    """K05: every name of a file that is packed once."""
    names = ["folder", "hard", "plain"] if form != "ustar" else ["hard", "plain"]
    subprocess.run(["tar", f"--format={form}", "-cf", tmp_path / "x.tar", *names], cwd=tree, check=True)
    store = TarStore(str(tmp_path / "x.tar"))
    assert set(store.sizes) == {"hard", "plain"} | ({"folder/" + "long" * 40} if form != "ustar" else set())
    assert set(store.sizes.values()) == {7}
    for name in store.sizes:
        with store.open(name) as file:
            assert file.read() == b"content"
    unpack(str(tmp_path / "x.tar"), str(tmp_path / "out"))
    assert (tmp_path / "out" / "hard").read_bytes() == (tmp_path / "out" / "plain").read_bytes() == b"content"


FORMS = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
KINDS = [*(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE) * 3]
KINDS += [tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"V", b"D", b"M", b"N", b"9"]
LONG = "x" * 120
MEMBERS = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(["a", "./a", "b", "d", "d/", "d/a", "d//b", "d/./b", "d/../b", "../x", "/etc/x", "", ".", LONG]),
    st.sampled_from(["a", "b", "d/a", "./b", "nowhere"]),
    st.binary(max_size=20),
    st.sampled_from([{}, {}, {}, {"path": "p"}, {"size": "3"}, {"GNU.sparse.major": "1"}, {"comment": "x"}]),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(members=st.lists(MEMBERS, min_size=1, max_size=5), form=st.sampled_from(FORMS))
def test_k05_what_is_listed_is_what_unpacks(
    tmp_path_factory: pytest.TempPathFactory, members: list[Any], form: Literal[0, 1, 2]
) -> None:
    """K05: a tar is refused, or listed as NeMo's unpacking (Python's, member by member) makes it."""
    folder = tmp_path_factory.mktemp("t")
    with (folder / "x.tar").open("wb") as file:
        for kind, name, target, content, pax in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = len(content) if kind in (*tarfile.REGULAR_TYPES, b"9") else 0
            member.pax_headers = pax if form == tarfile.PAX_FORMAT else {}
            file.write(member.tobuf(form) + content[: member.size].ljust(-(-member.size // 512) * 512, b"\0"))
        file.write(bytes(1024))
    try:
        store = TarStore(str(folder / "x.tar"))
    except ProblemError:
        return
    with tarfile.open(folder / "x.tar", "r:") as tar:
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)  # Python before 3.11.4 has none
        for found in tar.getmembers():
            tar.extract(found, folder / "out")
    out = folder / "out"
    unpacked = {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()} if out.exists() else {}
    assert {name: read_member(store, name) for name in store.sizes} == unpacked


def read_member(store: TarStore, name: str) -> bytes:
    with store.open(name) as file:
        return bytes(file.read())


FIELDS = st.tuples(
    st.sampled_from([(0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)]),
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"x", b"g", b"L", b"K", b"1", b"S"]),
        st.sampled_from([b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000001536", b"77777777777"]),
    ),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(blocks=st.lists(st.tuples(st.lists(FIELDS, max_size=3), st.binary(max_size=40)), max_size=6))
def test_k11_any_header_ends(blocks: list[Any]) -> None:
    """K11: headers with a right checksum and anything else; each read moves on, bounded by the file's length."""
    data = b""
    for fields, content in blocks:
        header = bytearray(tarfile.TarInfo("a").tobuf())
        for (place, length), value in fields:
            header[place : place + length] = value[:length].ljust(length, b"\0")
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
        data += bytes(header) + (content.ljust(512, b"\0") if content else b"")
    steps: list[Any] = []
    with os.fdopen(os.memfd_create("x"), "wb+") as file, pytest.MonkeyPatch.context() as patch:
        file.write(data + bytes(1024))
        file.flush()
        real = os.pread

        def counted(*arguments: Any) -> bytes:
            steps.append(arguments)
            return real(*arguments)

        patch.setattr(os, "pread", counted)
        with contextlib.suppress(ProblemError):
            assert tar_members(file.fileno()) is not None
    assert len(steps) <= 2 * (len(data) // 512 + 2)


@pytest.mark.parametrize(
    "records",
    [
        b"20 size=-1536\n123456",
        b"14 size=-1536\n",
        b"0 path=x\n",
        b"-5 path=x\n",
        b"11 path=x\n",
        b"9999999 path=x\n",
        b"9 path=x\n9 path=",
        b"8 path=\n",
        b"10 size= 1\n",
        b"13 size=1_000\n",
        b"27 size=99999999999999999999\n"[:27] + b"\n",
        b"no number",
        b"12 path=a\0b\n",
        b"11 path=..\n",
    ],
)
@pytest.mark.parametrize("kind", [b"x", b"g"])
def test_k11_pax_headers(tmp_path: Path, records: bytes, kind: bytes) -> None:
    """K11: size=-1536 was read over and over; lengths of 0, below 0 and too long."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = kind, len(records)
    file = tarfile.TarInfo("a")
    data = header.tobuf() + records.ljust(512, b"\0") + file.tobuf() + bytes(1024)
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ProblemError):
        read(tmp_path / "x.tar")


@given(content=st.binary(max_size=4000))
def test_any_bytes_are_a_tar_or_a_problem(content: bytes) -> None:
    """Never another exception, never without end."""
    with io.BytesIO(content), os.fdopen(os.memfd_create("x"), "wb+") as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(ProblemError):
            assert tar_members(file.fileno()) is not None


@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_tokenizer_or_a_value_error(content: bytes) -> None:
    """Protobuf's wire format has no magic number."""
    try:
        pieces(content)
    except ValueError:
        return
