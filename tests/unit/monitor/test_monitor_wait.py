"""``--wait``, ``--until`` and ``--timeout``: when they end, and with which exit code."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neva_pretrain.cli import watching
from neva_pretrain.monitor import sources
from tests.unit.monitor.conftest import ROOT, Invoke
from tests.unit.monitor.fake_cluster import NO_ROOM, Cluster, job, master
from tests.unit.monitor.nemo_logs import bar

OOM = "[rank3]: torch.OutOfMemoryError: CUDA out of memory.\n"
TRAINS = [bar(n, total=100) for n in range(60)]
DONE = [*(bar(n, total=100) for n in range(100)), "`Trainer.fit` stopped: `max_steps=100` reached."]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(sources, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(watching, "_ASK_EVERY", 0.0)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster(tmp_path)
    monkeypatch.setenv("PATH", str(found.bin), prepend=":")
    return found


def later(what: Callable[[], object]) -> None:
    """Do it once the monitor has begun to look on."""
    threading.Timer(1.0, what).start()


@pytest.mark.parametrize(
    ("condition", "lines", "code", "status"),
    [
        ("Succeeded", DONE, 0, "finished"),
        ("Succeeded", None, 0, "finished"),
        ("Failed", [*TRAINS, OOM], 1, "failed"),
        ("Failed", TRAINS, 1, "failed"),
        ("Succeeded", TRAINS, 3, "ended early"),
    ],
    ids=["done", "its log may not be read", "failed", "failed without a word", "stopped early"],
)
def test_it_ends_with_the_job(
    cluster: Cluster, invoke: Invoke, condition: str, lines: list[str] | None, code: int, status: str
) -> None:
    """With the run's exit code."""
    cluster.has("pytorchjobs", job("neva-1", "neva"))
    cluster.has("pods", master("neva-1"))
    if lines is not None:
        cluster.logs("neva-1-master-0", *lines)
    later(lambda: cluster.has("pytorchjobs", job("neva-1", "neva", condition)))
    ended, out, err = invoke("neva", "--wait", "--timeout", 600, "-o", "json")
    told = json.loads(out)
    assert (ended, told["exitCode"], told["status"], err) == (code, code, status, "")


def test_a_job_that_is_deleted_has_not_succeeded(cluster: Cluster, invoke: Invoke) -> None:
    """Also before its first step: only a job that says so has."""
    cluster.has("pytorchjobs", job("neva-1", "neva"))
    cluster.has("pods", master("neva-1", **NO_ROOM))
    later(lambda: cluster.has("pytorchjobs"))
    ended, out, _ = invoke("neva", "--wait", "--timeout", 600, "-o", "json")
    told = json.loads(out)
    assert (ended, told["exitCode"], told["status"]) == (3, 3, "ended early")
    assert [j["evidence"] for j in told["judgements"]] == ["the pytorchjob neva-1 was deleted"]


def test_an_api_server_that_hangs_does_not_outlast_the_wait(cluster: Cluster, invoke: Invoke) -> None:
    (cluster.bin / "kubectl").write_text("#!/bin/sh\nexec sleep 1000\n")
    code, out, err = invoke("neva", "--wait", "--timeout", 0.5)
    assert (code, out, err) == (2, "", "ERROR: kubectl: no answer from the API server for 0.5 s\n")


@pytest.mark.parametrize(("options", "code"), [(["--wait"], 130), (["--until", "finished"], 130), ([], 0)])
def test_ctrl_c_is_no_end_of_what_is_waited_for(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int
) -> None:
    """What follows it in a script must not run."""
    log = tmp_path / "a.log"
    log.touch()

    def interrupted(*_: object) -> Iterator[sources.Chunk]:
        yield sources.Chunk("".join(TRAINS).encode(), time.time())
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "path", interrupted)
    ended, out, _ = invoke(log, *options)
    assert ended == code
    assert "training" in out


def test_until_training(cluster: Cluster, invoke: Invoke) -> None:
    """It waits, then it trains: 0, while the job goes on; slow or not."""
    cluster.has("pytorchjobs", job("neva-1", "neva", told={"plan": '{"stepSeconds": 0.01}'}))
    cluster.has("pods", master("neva-1", **NO_ROOM))

    def start() -> None:
        cluster.logs("neva-1-master-0", *TRAINS)
        cluster.has("pods", master("neva-1"))

    later(start)
    code, out, _ = invoke("neva", "--until", "training", "--stall-after", 10**10, "--timeout", 600)
    assert code == 0
    assert out.splitlines()[0] == "waiting  step ?/100"
    assert "training  step 60/100" in out
    assert "WARNING: 2% of planned speed" in out


def test_until_training_ends_with_a_job_that_never_trains(cluster: Cluster, invoke: Invoke) -> None:
    cluster.has("pytorchjobs", job("neva-1", "neva", "Failed"))
    code, out, _ = invoke("neva", "--until", "training")
    assert code == 1
    assert out.splitlines()[0] == "failed  step ?/100"


@pytest.mark.parametrize("option", ["--wait", "--until=training"])
def test_time_is_up(cluster: Cluster, invoke: Invoke, option: str) -> None:
    """With where it stands, why, and an exit code of its own."""
    cluster.has("pytorchjobs", job("neva-1", "neva", "Created"))
    cluster.has("pods", master("neva-1", **NO_ROOM))
    code, out, err = invoke("neva", option, "--timeout", "0.5")
    assert code == 124
    assert "WARNING: cannot be scheduled" in out
    assert err.startswith("ERROR: --timeout: not ")
    assert err.endswith(" after 0.5 s\n")
    code, out, _ = invoke("neva", option, "--timeout", "0.5", "-o", "json")
    assert (code, json.loads(out)["exitCode"]) == (124, 124)


def test_time_is_up_for_a_log_that_never_pauses(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at between its lines, not only when it is silent."""
    log = tmp_path / "a.log"
    log.write_text("".join(TRAINS))
    endless = iter(lambda: sources.Chunk(b"x\n", time.time()), None)
    monkeypatch.setattr(sources, "path", lambda *_: endless)
    assert invoke(log, "--wait", "--timeout", "0.5")[0] == 124


def test_a_job_that_is_not_there_is_not_waited_for(cluster: Cluster, invoke: Invoke) -> None:
    """A mistyped name."""
    cluster.has("pytorchjobs")
    assert invoke("nave", "--wait")[0] == 2


def test_a_log_file_ends_when_the_run_has_failed_and_is_silent(tmp_path: Path, invoke: Invoke) -> None:
    """No job tells its end; without --wait it is followed on, since a supervisor may restart it."""
    log = tmp_path / "a.log"
    log.write_text("".join(TRAINS) + "\n" + OOM)
    began = time.monotonic()
    code, out, _ = invoke(log, "--wait", "--stall-after", "1.5", "--timeout", 600)
    assert time.monotonic() - began >= 1.5
    assert code == 1
    assert "FAILED: a GPU ran out of memory (rank 3)" in out


def test_a_log_file_ends_when_the_trainer_does(tmp_path: Path, invoke: Invoke) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(TRAINS))

    def finish() -> None:
        with log.open("a") as file:
            file.write("".join(DONE[60:100]) + "\n" + DONE[100] + "\n")

    later(finish)
    assert invoke(log, "--wait", "--timeout", 600)[0] == 0


@pytest.mark.parametrize("page", ["commands.md", "monitor.md"])
def test_exit_codes_are_documented(invoke: Invoke, page: str) -> None:
    """Each of ``--help``."""
    listed = re.findall(r"^ +(\d+) +\S", invoke("--help")[1].partition("Exit codes:")[2], re.M)
    assert {"0", "3", str(watching.TIME_UP), str(watching.INTERRUPTED)} <= {*listed}
    section = (ROOT / "docs" / "reference" / page).read_text().partition("Exit codes")[2]
    assert [code for code in listed if not re.search(rf"\b{code}\b", section)] == []
