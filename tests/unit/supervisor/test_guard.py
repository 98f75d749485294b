"""N19: a rollback ends while a run of the release writes results, and only then."""

import os
import time
from pathlib import Path

import pytest

from neva_pod.supervisor.guard import main, refusal, run_folders
from neva_pod.supervisor.lease import Files, Identity, Times, take

RUN = Identity("team-a", "neva", "neva-master-0", "uid-1", "node-1", "abc123")
TIMES = Times(renew=0.05, ttl=0.3)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results with a run, its logs, and something else."""
    for folder in ("run-1/logs/deep/er", "other/a/b/c"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_n19_a_living_run_refuses(results: Path) -> None:
    take(str(results / "run-1"), RUN, print)
    words = refusal(str(results), "neva", "team-a")
    assert words.startswith("helm rollback neva: got a run that writes results, the lease of pod neva-master-0 (")
    assert "renewed 0 s ago); must not replace a job that runs; wait for it, or end it first" in words
    assert main([f"--results={results}", "--release=neva", "--namespace=team-a"]) == 1


@pytest.mark.parametrize(("release", "namespace"), [("neva", "team-b"), ("neva-2", "team-a")])
def test_another_releases_run_does_not(results: Path, release: str, namespace: str) -> None:
    take(str(results / "run-1"), RUN, print)
    assert refusal(str(results), release, namespace) == ""


def test_nor_one_that_has_ended(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take(str(results / "run-1"), RUN, print).release()
    assert main([f"--results={results}", "--release=neva", "--namespace=team-a"]) == 0
    assert "no run of this release writes results" in capsys.readouterr().err


def test_nor_one_that_died(results: Path) -> None:
    lease = take(str(results / "run-1"), RUN, print)
    os.utime(Files(str(results / "run-1")).file(lease.generation), (time.time() - 3600,) * 2)
    assert refusal(str(results), "neva", "team-a", times=TIMES) == ""


def test_where_runs_are(results: Path) -> None:
    for folder in ("run-1", "other/a", "other/a/b/c"):
        (results / folder / "lease").mkdir(exist_ok=True)
    assert sorted(run_folders(str(results))) == [str(results / "other/a"), str(results / "run-1")]


def test_results_that_cannot_be_read_refuse(results: Path) -> None:
    words = refusal(str(results / "none"), "neva", "team-a")
    assert "none: got No such file or directory as uid" in words
    assert "helm rollback --no-hooks where nothing runs" in words
