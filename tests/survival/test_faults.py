"""What a job survives (K02), one fault at a time; docs/explanation/survival.md has the table."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.survival.job import STEPS, Job, marked, running, signal_all
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job of 2 nodes x 2 ranks that is at work."""
    made = Job(tmp_path)
    with running(made):
        made.at_step(7)
        yield made


def fault(job: Job, name: str) -> None:
    """Plan a fault of the training script."""
    (job.faults / name).touch()


def test_without_a_fault(job: Job) -> None:
    job.assert_survives()
    (attempt,) = job.attempts()
    assert (attempt["reason"], attempt["step"], attempt["failures"]) == ("done", STEPS, 0)
    until(lambda: all(p.process.poll() == 0 for p in job.pods.values()), "all pods end with 0")
    lease = json.loads(sorted((job.results / "lease").glob("*.json"))[-1].read_text())
    assert lease["released"]


@pytest.mark.parametrize("name", ["exit", "kill"])
def test_a_rank_dies(job: Job, name: str) -> None:
    """By itself (exit), or killed by the kernel for want of memory (kill)."""
    fault(job, f"{name}-17")
    job.assert_survives()
    first, second = job.attempts()
    assert (first["step"], first["failures"]) == (17, 1)
    assert (second["resumed"], second["reason"]) == (15, "done")
    assert job.restarts == 0, "the pods stayed"
    assert "torchrun ended with 1; torchrun is stopped on all nodes" in job.said()


def test_a_rank_is_frozen(job: Job) -> None:
    fault(job, "freeze-17")
    job.assert_survives()
    assert "rank 3 (PID" in job.said()
    assert "has been stopped for" in job.said()
    assert "state T" in job.said(1)


def test_a_rank_hangs_and_the_stacks_tell_where(job: Job) -> None:
    fault(job, "sleep-17")
    job.assert_survives()
    assert "no new step for 2" in job.said()
    assert "after step 17 (limit 25 s)" in job.said()
    assert "in _hang" in job.said(1), "rank 3 is in its sleep"
    assert "in gather" in job.said(), "the others wait for it"
    assert "in _hang" in (job.results / "logs" / "node-00001.log").read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_is_killed(job: Job, rank: int) -> None:
    os.kill(job.pods[rank].torchrun(), signal.SIGKILL)
    job.assert_survives()
    assert f"node {rank} (" in job.attempts()[0]["reason"]
    assert "torchrun ended with -9" in job.attempts()[0]["reason"]


def test_torchrun_is_frozen(job: Job) -> None:
    """Training would go on to its end, and the pods would then hold their GPUs for ever."""
    os.kill(job.pods[1].torchrun(), signal.SIGSTOP)
    job.assert_survives()
    assert "torchrun (PID" in job.attempts()[0]["reason"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pod_is_killed(job: Job, rank: int) -> None:
    """The container ran out of memory, or its node lost power; rank 0 is the master."""
    job.replace(rank)
    job.assert_survives()
    assert job.restarts == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pod_is_frozen(job: Job, rank: int) -> None:
    """The supervisor too: the liveness probe ends the container."""
    job.pods[rank].freeze()
    job.assert_survives()
    assert job.restarts == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pod_is_told_to_go(job: Job, rank: int) -> None:
    """Drain, eviction and preemption (K14): rank 0 saves first, so no step is lost."""
    job.delete(rank)
    job.assert_survives()
    begins = [e["step"] for e in job.events() if e["event"] == "begin"]
    ends = [e["step"] for e in job.events() if e["event"] == "end"]
    assert len(begins) == 2
    assert begins[1] == ends[0] > 0, "it goes on where it ended"
    assert job.attempts()[0]["failures"] == 0


def test_all_pods_are_told_to_go(job: Job) -> None:
    """By kubectl delete, helm uninstall and Kueue's preemption of the whole job."""
    for rank in job.pods:
        job.delete(rank)
    until(lambda: job.restarts >= 2, job.tail)
    job.assert_survives()
    assert job.attempts()[0]["reason"].endswith("was told to go")


def test_killed_while_it_saves(job: Job) -> None:
    """The checkpoint stays half written, with its marker."""
    fault(job, "die-in-save")
    job.assert_survives()
    assert len(job.attempts()) == 2


@pytest.mark.parametrize("name", ["full", "read-only"])
def test_the_results_take_no_checkpoint_for_a_while(job: Job, name: str) -> None:
    fault(job, f"{name}-in-save")
    job.assert_survives()
    assert job.attempts()[0]["failures"] == 1


def test_the_results_stay_full(job: Job) -> None:
    """No GPU trains for hours on what it cannot keep; the reason is in the log."""
    fault(job, "full-in-save.always")
    assert job.wait() == 70
    assert "No space left on device" in job.said()
    assert "3 attempts in a row made no progress" in job.said()


def test_the_results_stall_in_a_save(job: Job) -> None:
    fault(job, "stall-in-save")
    job.assert_survives()
    assert "(limit 40 s)" in job.said(), "restart.saveSeconds"


@pytest.mark.parametrize("damage", ["cut", "missing", "empty"])
def test_the_last_checkpoint_is_damaged(job: Job, damage: str) -> None:
    """It is set aside, and training goes on from the one before."""
    fault(job, "freeze-17")
    job.at_step(17)
    (last,) = (job.results / "results" / "checkpoints").glob("*-last")
    data = last / "__0_0.distcp"
    if damage == "cut":
        os.truncate(data, data.stat().st_size // 2)
    elif damage == "missing":
        (last / ".metadata").unlink()
    else:
        os.truncate(data, 0)
    assert job.wait() == 0, job.tail()
    assert [p.name for p in (job.results / "damaged").iterdir()] == [last.name]
    assert last.name in job.said()
    assert job.attempts()[1]["resumed"] in (10, 15)


def test_the_same_step_fails_three_times(job: Job) -> None:
    fault(job, "exit-17.always")
    assert job.wait() == 70
    assert [a["failures"] for a in job.attempts()] == [1, 2, 3]
    assert "3 attempts in a row made no progress (restart.limit 3); the last came from step 15 to 17" in job.said()
    until(lambda: all(p.process.poll() == 70 for p in job.pods.values()), "all pods end for good")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pod_that_comes_again_after_the_end_has_nothing_to_do(job: Job, rank: int) -> None:
    """It was deleted just as the run ended; the others' pods are there no more, and are not made again."""
    job.assert_survives()
    again = job.pod(rank)
    until(lambda: again.process.poll() is not None, job.tail)
    assert again.process.returncode == 0, job.tail()
    assert f"this run has ended already, at step {STEPS} (attempt 1, 20" in job.said(rank)
    assert "or use a new run.id" in job.said(rank)
    assert len(job.attempts()) == 1


def test_a_run_that_moves_forward_is_never_given_up(job: Job) -> None:
    for step in (12, 17, 22, 27, 32):
        fault(job, f"exit-{step}")
    job.assert_survives()
    assert [a["failures"] for a in job.attempts()] == [1, 1, 1, 1, 1, 0]


def test_the_loss_is_not_a_number(tmp_path: Path) -> None:
    """No restart would mend it, and no GPU trains on it for hours."""
    job = Job(tmp_path, step_seconds=1.0)  # the master ends it before the next step, also where it is slow
    for step in range(5, 41):
        fault(job, f"nan-{step}")
    with running(job):
        assert job.wait() == 65, job.tail()
    assert "the loss has not been a number for 10 steps, the last is 14" in job.said()
    assert [a["step"] for a in job.attempts()] == [14]


def test_restarts_switched_off(tmp_path: Path) -> None:
    job = Job(tmp_path, settings={"restart.enabled": False})
    fault(job, "exit-7")
    with running(job):
        assert job.wait() == 70, job.tail()
    assert "restart.enabled is false" in job.said()


def test_a_worker_never_comes(tmp_path: Path) -> None:
    job = Job(tmp_path, environment={"NEVA_WAIT_SECONDS": "5"})
    pod = job.pod(0)
    try:
        assert pod.process.wait(PATIENCE) == 69
    finally:
        pod.kill()
    assert "nodes 1 of 2: not here after" in job.said()
    assert "(limit rendezvous.waitSeconds 5)" in job.said()


def test_the_master_comes_late(tmp_path: Path) -> None:
    """Its image is large, or its name is not in DNS yet."""
    job = Job(tmp_path)
    early = job.pod(1)
    until(lambda: "waiting for the master" in job.said(1), lambda: job.said(1))
    try:
        job.pods = {0: job.pod(0), 1: early}
        job.operate()
        assert job.wait() == 0, job.tail()
    finally:
        job.end()
    job.assert_nothing_lost()


def test_two_pods_of_one_rank(job: Job) -> None:
    """The older one ends for good; only a job that was edited has two."""
    twin = job.pod(1)
    try:
        until(lambda: job.pods[1].process.poll() is not None, job.tail)
        assert job.wait() == 64
        assert "rank 1: also claimed by node 1" in job.said(1)
    finally:
        twin.kill()


def test_a_second_run_in_the_folder_is_refused(job: Job, tmp_path: Path) -> None:
    """K01: another namespace, the same run.id and storage."""
    other = Job(tmp_path / "other", namespace="other", name="neva-9876", results=job.results)
    with running(other):
        assert other.wait() == 64, other.tail()
    assert "namespace ns" in other.said()
    assert "since 20" in other.said()
    assert other.events() == []
    assert not (job.results / "logs" / "other").exists()
    job.assert_survives()


def test_the_log_file_cannot_be_written(job: Job) -> None:
    """It says so, and training goes on: the pod's log has all lines."""
    log = job.results / "logs" / "node-00000.log"
    log.unlink()
    log.mkdir()
    os.kill(job.pods[1].torchrun(), signal.SIGKILL)
    job.assert_survives()
    assert f"{log}: got no regular file" in job.said()


def test_the_supervisor_alone_is_frozen(job: Job) -> None:
    os.kill(job.pods[1].process.pid, signal.SIGSTOP)
    job.assert_survives()
    assert job.restarts == 1


def test_nothing_of_an_attempt_outlives_it(job: Job) -> None:
    """Ranks run in sessions of their own, and writers of checkpoints outlive them."""
    before = job.pods[0].ranks()
    fault(job, "exit-17")
    until(lambda: len(job.attempts()) == 1, job.tail)
    until(lambda: not set(before) & set(marked(job.pods[0].uid)), "the ranks of the first attempt are gone")
    assert job.wait() == 0, job.tail()


def test_the_supervisor_ends_at_once_while_it_waits(tmp_path: Path) -> None:
    job = Job(tmp_path)
    pod = job.pod(1)
    try:
        until(lambda: "waiting for the master" in job.said(1), lambda: job.said(1))
        signal_all([pod.process.pid], signal.SIGTERM)
        assert pod.process.wait(120) == 143, "not after the 200 s that it would wait"
    finally:
        pod.kill()
    shutil.rmtree(tmp_path / "results", ignore_errors=True)
