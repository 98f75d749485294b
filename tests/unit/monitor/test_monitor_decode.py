"""Logs as they are stored (N13): UTF-16 by PowerShell's ``>``, compressed, or no logs at all."""

import bz2
import codecs
import gzip
import json
import lzma
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neva_pretrain.errors import InputError
from neva_pretrain.monitor.decode import Decoder
from tests.unit.monitor.conftest import Invoke
from tests.unit.monitor.nemo_logs import bar

LOG = "loading 数据\n" + "\n".join(bar(step) for step in range(30)) + "\n"
DATA = LOG.encode()
STORED: dict[str, bytes] = {
    "plain": DATA,
    "utf-8 with a mark": codecs.BOM_UTF8 + DATA,
    "utf-16": LOG.encode("utf-16"),
    "utf-16 big": codecs.BOM_UTF16_BE + LOG.encode("utf-16-be"),
    "utf-16 no mark": LOG.encode("utf-16-le"),
    "utf-16 big no mark": LOG.encode("utf-16-be"),
    "utf-32": LOG.encode("utf-32"),
    "gzip": gzip.compress(DATA),
    "gzip of two": gzip.compress(DATA[:700]) + gzip.compress(DATA[700:]),
    "gzip padded": gzip.compress(DATA) + bytes(512),
    "bzip2": bz2.compress(DATA),
    "bzip2 of two": bz2.compress(DATA[:700]) + bz2.compress(DATA[700:]),
    "xz": lzma.compress(DATA),
    "gzip of utf-16": gzip.compress(LOG.encode("utf-16")),
    "a hole": bytes(4096) + DATA,
    "latin-1": "Gerät bereit\n".encode("latin-1") + DATA,
}


def decoded(data: bytes, cuts: list[int]) -> bytes:
    decoder, at, out = Decoder("x"), 0, b""
    for size in [*cuts, len(data)]:
        out += b"".join(decoder.feed(data[at : at + size]))
        at += size
    return out + b"".join(decoder.close())


@pytest.mark.parametrize("kind", STORED)
@settings(max_examples=15)
@given(st.lists(st.integers(1, 300), max_size=30))
def test_n13_every_way_gives_the_same_text_however_it_is_cut(kind: str, cuts: list[int]) -> None:
    text = decoded(STORED[kind], cuts)
    assert text.endswith(DATA)
    assert kind in ("a hole", "latin-1") or text == DATA


@pytest.mark.parametrize("text", ["", "x", "line\n", "Epoch 0:", "loading " * 3, "\x1b[1mbold\x1b[0m \x08\r\n"])
def test_n13_short_logs_are_text(text: str) -> None:
    assert decoded(text.encode(), []) == text.encode()


def test_n13_text_comes_at_once() -> None:
    """A line that is followed live does not wait for more."""
    assert b"".join(Decoder("x").feed(b"a line of the log\n")) == b"a line of the log\n"


def test_n13_much_in_little_is_given_in_pieces() -> None:
    """8 MiB of one byte are 8 KiB packed: never all at once."""
    decoder = Decoder("x")
    sizes = [len(text) for text in decoder.feed(gzip.compress(bytes(1 << 23), 9))]
    assert sum(sizes) == 1 << 23
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x28\xb5\x2f\xfd" + os.urandom(90), "zstd -d"),
        (b"\x04\x22\x4d\x18" + os.urandom(90), "lz4 -d"),
        (b"PK\x03\x04" + os.urandom(90), "is a zip file"),
        (gzip.compress(b"train.log".ljust(257, b"\0") + b"ustar\x0000" + bytes(300)), "is a tar file"),
        (gzip.compress(gzip.compress(DATA)), "compressed twice"),
        (gzip.compress(DATA)[:150] + b"\xff" * 400, "is damaged"),
        (gzip.compress(DATA)[:12], "ends before its first text"),
        (b"BZh9 is no bzip2 file\n" * 9, "is damaged"),
        (lzma.compress(DATA)[:20] + os.urandom(900), "is damaged"),
        (bytes(range(256)) * 9, "must be a text log, but is binary"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00\x01" * 99, "is binary"),
    ],
    ids=count(),  # bytes that chance made are no name
)
def test_n13_what_is_no_log_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"^x: .*{words}"):
        decoded(data, [])


def test_n13_a_log_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    assert DATA.startswith(found := decoded(gzip.compress(DATA)[:500], []))
    assert found


@pytest.mark.parametrize("kind", ["utf-16", "utf-16 no mark", "gzip", "xz", "gzip of utf-16"])
def test_n13_the_monitor_reads_files_and_folders(tmp_path: Path, invoke: Invoke, kind: str) -> None:
    (tmp_path / "train.log").write_bytes(STORED[kind])
    for source in (tmp_path, tmp_path / "train.log"):
        code, out, err = invoke(source, "--once", "-o", "json")
        assert (code, err, json.loads(out)["step"]) == (0, "", 30)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), [("utf-16", "- <{}"), ("gzip", "<{}"), ("utf-16 no mark", "<(cat {})")])
def test_n13_the_monitor_reads_pipes(tmp_path: Path, kind: str, way: str) -> None:
    """Standard input, named or not, and a shell's ``<(...)``."""
    log = tmp_path / "train.log"
    log.write_bytes(STORED[kind])
    command = f"{sys.executable} -c 'from neva_pretrain.cli.monitor import main; main()' --once -o json"
    done = subprocess.run(["bash", "-c", f"{command} {way.format(log)}"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["step"] == 30


def test_n13_a_folder_of_packed_logs_names_them(tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "train.log.gz").write_bytes(STORED["gzip"])
    assert invoke(tmp_path, "--once") == (
        2, "", f"ERROR: {tmp_path}: has compressed logs only; name one of them: train.log.gz\n"
    )  # fmt: skip
    assert invoke(tmp_path / "train.log.gz")[0] == 0, "it does not grow, so it is not waited for"
    assert "no such file" in invoke("none.log.gz")[2]


def test_n13_what_cannot_be_read_is_said(invoke: Invoke) -> None:
    code, _, err = invoke("/proc/self/mem", "--once")
    assert code == 2
    assert err == "ERROR: /proc/self/mem: cannot be read: Input/output error\n"
