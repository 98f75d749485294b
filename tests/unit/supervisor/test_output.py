"""A file system that does not answer holds up neither training nor the pod's log."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neva_pod.supervisor import output
from neva_pod.supervisor.background import Background
from neva_pod.supervisor.output import LogFile
from tests.waiting import until


def test_a_stalled_log_is_said_once_and_waited_for_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a FIFO waits for its reader, as a stalled file system lets everyone wait."""
    monkeypatch.setattr(output, "END_SECONDS", 0.1)
    log, said = tmp_path / "node-00000.log", list[str]()
    os.mkfifo(log)
    file = LogFile(str(log), said.append)
    began = time.monotonic()
    for _ in range(2 * output.WAITING_CHUNKS):
        file.write(b"a line\n")
    file.close()
    assert time.monotonic() - began < 60
    assert said == [f"{log}: does not take the log; lines are left out of it, not of the pod's log"]


def test_a_full_log_is_said_once_and_written_again_once_there_is_room(tmp_path: Path) -> None:
    place, said = tmp_path / "logs", list[str]()
    place.write_text("in the way")
    file = LogFile(str(place / "node.log"), said.append)
    for number in range(3):
        file.write(f"{number}\n".encode())
    until(lambda: said, "it says so")
    place.unlink()
    place.mkdir()

    def written() -> bool:
        file.write(b"later\n")
        return (place / "node.log").exists()

    until(written, "it is written")
    file.close()
    assert said == [f"{place}/node.log: cannot be written (Not a directory); the pod's log has all lines"]
    assert "later" in (place / "node.log").read_text()


PUMP = """
import subprocess, sys
from neva_pod.supervisor.output import Pump
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
seen = []
pump = Pump(process.stdout, None, seen.append)
pump.join(60)
sys.stderr.write(repr(b"".join(seen)))
"""


@pytest.mark.parametrize(
    ("printed", "shown"),
    [(b"a\rb\rc", b"a\nb\nc\n"), (b"a\n", b"a\n"), (b"", b""), (b"\xff\xfe\0", b"\xff\xfe\0\n"), (b"\r\r", b"\n\n")],
)
def test_a_bar_becomes_lines_and_the_watch_sees_it_as_it_was(printed: bytes, shown: bytes) -> None:
    code = f"import sys; sys.stdout.buffer.write({printed!r})"
    done = subprocess.run([sys.executable, "-c", PUMP, code], capture_output=True, check=True)
    assert done.stdout == shown
    assert done.stderr == repr(printed).encode()


def test_background_raises_where_it_is_asked() -> None:
    work = Background(lambda: 1 // 0)
    until(lambda: work.done, "it ends")
    with pytest.raises(ZeroDivisionError):
        work.result()
