"""What leaves the package: text that a terminal only shows, and files that are whole."""

import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from neva_pretrain.cli.main import main
from neva_pretrain.errors import InputError
from neva_pretrain.output import printable, write

HOSTILE = [
    "\x1b]52;c;cm0gLXJmIC8=\x07",  # sets the clipboard (xterm)
    "\x1bc",  # resets the terminal
    "\x9b31m",  # CSI as one character
    "\x9d52;c;eA==\x9c",
    "a\rb\x08\x7f\x00\x0b\x0c",
    "\u202egpj.exe\u2066",
    "\udcff\udc80",  # bytes of a name that is no UTF-8
    "\u2028\u2029",
]


@given(st.text(st.characters(), max_size=80))
def test_k17_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    """Each character for itself, so what comes in two parts is no other; all that is harmless stays."""
    shown = printable(text)
    assert len(shown) == len(text)
    shown.encode()
    for before, after in zip(text, shown, strict=True):
        if before.isprintable() or before in "\n\t":
            assert after == before or before in "\ufffd"
        assert after in "\n\t" or not (ord(after) < 32 or 127 <= ord(after) < 160)
    assert printable(shown) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_k17_names_and_arguments_are_shown_only(tmp_path: Path, text: str) -> None:
    """File names, options that click refuses by itself, values in a refusal and in a comment of the YAML."""
    name = text.replace("/", "").replace("\x00", "")
    file = tmp_path / f"a{name}.yaml"
    file.write_text("training: {nodes: [1, 2}")
    for arguments in (
        ["check", str(file)],
        ["check", str(tmp_path / f"{name}none.yaml")],
        ["plan", "--gpus", text],
        [f"--{text}"],
        ["--gpus", "8", "--image", f"{text}:x", "--model", text],
        ["--gpus", "8", "--site", str(file)],
        ["preflight", "--only", text],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code in (1, 2), result.output
        for said in (result.stdout, result.stderr):
            assert said == printable(said)
            assert "Traceback" not in said


def test_k17_values_on_stdout_stay_what_they_are(tmp_path: Path) -> None:
    """Controls of direction in a value are escaped as YAML does, not replaced."""
    import yaml

    site = tmp_path / "site.yaml"
    site.write_text('env: {A: "\u202ecba"}\npodAnnotations: {b: "数据"}\n', "utf-8")
    said = CliRunner().invoke(main, ["--gpus", "8", "--site", str(site)]).stdout
    assert said == printable(said)
    assert yaml.safe_load(said)["env"] == {"A": "\u202ecba"}


# K22, K07: files


def test_k07_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            write(tmp_path / f"{mask}", b"x")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_k07_a_file_keeps_its_mode_and_owner(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("old")
    file.chmod(mode)
    if os.geteuid() == 0:
        os.chown(file, 4242, 4343)
    before = file.stat()
    write(file, "new ü")
    after = file.stat()
    assert file.read_text("utf-8") == "new ü"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert list(tmp_path.iterdir()) == [file]


def test_k07_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    """Also a chain of links, one into another folder, and one to what is not there yet."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "real").write_text("old")
    (tmp_path / "second").symlink_to("folder/real")
    (tmp_path / "first").symlink_to(tmp_path / "second")
    (tmp_path / "new").symlink_to("folder/made")
    write(tmp_path / "first", b"1")
    write(tmp_path / "new", b"2")
    assert (folder / "real").read_bytes() == b"1"
    assert (folder / "made").read_bytes() == b"2"
    assert all((tmp_path / name).is_symlink() for name in ("first", "second", "new"))
    assert sorted(p.name for p in folder.iterdir()) == ["made", "real"]


def test_k07_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    fifo, data, got = tmp_path / "fifo", os.urandom(300_000), []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    write(fifo, data)
    reader.join(120)
    assert got == [data]
    assert fifo.is_fifo()


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_k07_a_device_stays_one(device: str) -> None:
    before = Path(device).stat()
    write(Path(device), b"x")
    assert Path(device).stat().st_ino == before.st_ino
    assert Path(device).is_char_device()


WRITE_TWICE = """
import sys
from pathlib import Path
from neva_pretrain.output import write
print("before")
write(Path(sys.argv[1]), "written\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/stderr"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_k07_standard_streams_are_written_in_their_place(tmp_path: Path, name: str, kind: str) -> None:
    """``--output /dev/stdout`` in a pipe, and into a file that has text already."""
    target = tmp_path / "out"
    target.write_text("first\n")
    with target.open("ab") as file:
        into = file if kind == "file" else subprocess.PIPE
        done = subprocess.run(
            [sys.executable, "-c", WRITE_TWICE, name], stdout=into, stderr=subprocess.STDOUT, check=True
        )
    said = target.read_text() if kind == "file" else "first\n" + done.stdout.decode()
    assert said == "first\nbefore\nwritten\nafter\n"
    assert Path("/dev/stdout").is_symlink()


def test_k22_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on file sizes (EFBIG) stops the write half way, as a full disk does (ENOSPC)."""
    file = tmp_path / "report.html"
    file.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match=r"--html .*report\.html: cannot be written: File too large"):
            write(file, b"x" * 5000, "--html")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_k22_a_full_device_is_said() -> None:
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left on device"):
        write(Path("/dev/full"), b"x")


def test_k22_a_full_file_system_leaves_the_old_file(tmp_path: Path) -> None:
    """For real, where file systems may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount")
    try:
        write(place / "report.html", b"old")
        with pytest.raises(InputError, match="No space left on device"):
            write(place / "report.html", b"x" * 200_000)
        assert (place / "report.html").read_bytes() == b"old"
        assert len(list(place.iterdir())) == 1
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".", "Is a directory"),
        ("none/x", "No such file or directory"),
        ("file/x", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("socket", "No such device or address"),
    ],
)
def test_k22_what_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    import socket

    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as end:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        end.bind("socket")
        with pytest.raises(InputError, match=f": cannot be written: {words}"):
            write(tmp_path / name, b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop", "socket"]


def test_k07_output_is_written_by_it(tmp_path: Path) -> None:
    """--output follows a link and keeps a mode; the plots and neva-monitor's page are tested with their commands."""
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    assert CliRunner().invoke(main, ["--gpus", "8", "--output", str(tmp_path / "link")]).exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o600
    assert "nodes: 1" in (tmp_path / "real").read_text()
