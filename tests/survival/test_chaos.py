"""Random faults at random times: whatever their order, the run ends, and no sample is lost or counted twice.

NEVA_CHAOS says how many schedules are tried (`make chaos` tries 500); a schedule is made from its number alone, so a
failure is repeated by `pytest tests/survival/test_chaos.py -k "[NUMBER]"`.
"""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.survival.job import Job, running
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCHEDULES = int(os.environ.get("NEVA_CHAOS", "10"))
STEPS = 30


def _plan(name: str) -> Callable[[Job, int, random.Random], None]:
    def fault(job: Job, step: int, _: random.Random) -> None:
        (job.faults / f"{name}-{step + 2}").touch()

    return fault


def _torchrun(number: signal.Signals) -> Callable[[Job, int, random.Random], None]:
    def fault(job: Job, _: int, chance: random.Random) -> None:
        os.kill(job.pods[chance.randrange(job.nodes)].torchrun(), number)

    return fault


def _kill_pod(job: Job, _: int, chance: random.Random) -> None:
    job.replace(chance.randrange(job.nodes))


def _freeze_pod(job: Job, _: int, chance: random.Random) -> None:
    job.pods[chance.randrange(job.nodes)].freeze()


def _delete_pod(job: Job, _: int, chance: random.Random) -> None:
    job.delete(chance.randrange(job.nodes))


def _die_in_save(job: Job, _: int, __: random.Random) -> None:
    (job.faults / "die-in-save").touch()


FAULTS = {
    "a rank exits": _plan("exit"),
    "a rank is killed": _plan("kill"),
    "a rank is frozen": _plan("freeze"),
    "a rank hangs": _plan("sleep"),
    "torchrun is killed": _torchrun(signal.SIGKILL),
    "torchrun is frozen": _torchrun(signal.SIGSTOP),
    "a pod is killed": _kill_pod,
    "a pod is frozen": _freeze_pod,
    "a pod is deleted": _delete_pod,
    "rank 0 is killed while it saves": _die_in_save,
}


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_random_faults(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    times = sorted(chance.randrange(1, STEPS - 5) for _ in range(chance.randint(1, 3)))
    schedule = [(step, chance.choice(list(FAULTS))) for step in times]
    print(f"schedule {seed}: {schedule}")
    job = Job(tmp_path, processes=1, settings={"training.maxSteps": STEPS, "restart.limit": 4})
    with running(job):
        for step, name in schedule:
            job.at_step(step)
            # A fault in the middle of a restart finds nobody to hit.
            until(lambda: job.is_training() or job.code is not None, job.tail)
            if job.code is None:
                FAULTS[name](job, step, chance)
        assert job.wait() == 0, job.tail()
    job.assert_nothing_lost()
