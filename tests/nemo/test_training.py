"""NVIDIA's own NeVa code under the rendered configuration, launch.sh and the supervisor: it trains, and it survives."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neva_pod.inputs.saved import plan_recovery, saved
from tests.nemo.pod import EVERY, PATIENCE, STEPS, Run, World
from tests.waiting import until

pytestmark = [pytest.mark.nemo, pytest.mark.timeout(3 * PATIENCE)]


def watched(run: Run) -> dict[str, Any]:
    """Return what neva-monitor says of a run that has ended."""
    monitor = "import sys; from neva_pretrain.cli.monitor import main; sys.exit(main())"
    command = [sys.executable, "-c", monitor, str(run.results), "--once", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def losses(run: Run) -> dict[int, float]:
    """Return step -> loss, the last attempt's where there were two."""
    return {point["step"]: point["loss"] for point in watched(run)["points"]}


def test_it_trains_the_projector_and_nothing_else(trained: Run) -> None:
    found = losses(trained)
    assert sorted(found) == list(range(1, STEPS + 1))
    assert found[STEPS] < found[1] - 0.3
    for rank in (0, 1):
        before, after = trained.sums(rank)
        assert (before["step"], after["step"]) == (0, STEPS)
        assert before["projector"] != after["projector"]
        assert (before["llm"], before["vision"]) == (after["llm"], after["vision"])
    assert trained.sums(0) == trained.sums(1), "data parallel ranks stay the same"


def test_it_saves_what_preflight_takes_for_whole(trained: Run) -> None:
    found = saved(str(trained.checkpoints))
    assert [(c.step, c.consumed, c.problems, c.is_last) for c in found] == [
        (STEPS, 4 * STEPS, (), True),
        (STEPS, 4 * STEPS, (), False),
        (STEPS - EVERY, 4 * (STEPS - EVERY), (), False),
    ]
    recovery = plan_recovery(str(trained.checkpoints), str(trained.results / "damaged"))
    assert (Path(recovery.resumes).name, recovery.moves) == (found[0].name, ())


def test_the_monitor_reads_its_log(trained: Run) -> None:
    state = watched(trained)
    assert (state["status"], state["step"], state["maxSteps"], state["worldSize"]) == ("finished", STEPS, STEPS, 2)
    assert state["consumedSamples"] == 4 * STEPS
    assert (state["checkpoint"]["count"], state["checkpoint"]["step"]) == (STEPS // EVERY, STEPS)
    assert [j["code"] for j in state["judgements"]] == ["finished"]


def in_a_step(run: Run) -> bool:
    """Two steps after the first checkpoint."""
    return f"global_step={EVERY + 1}" in run.said()


def in_a_save(run: Run) -> bool:
    """While NeMo's mark says that the second checkpoint is not finished."""
    return any(f"step={2 * EVERY}-" in path.name for path in run.checkpoints.glob("*-unfinished"))


def due(when: Callable[[Run], bool], run: Run, process: "subprocess.Popen[bytes]") -> bool:
    """Whether it is time, or never will be."""
    return when(run) or process.poll() is not None


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint_and_no_more(world: World, trained: Run) -> None:
    """The supervisor starts all ranks again; NeMo comes to the same losses and the same projector, bit for bit."""
    run = Run(world, "killed")
    process = run.start()
    try:
        for when in (in_a_step, in_a_save):
            until(partial(due, when, run, process), run.tail, pause=0.002, patience=PATIENCE)
            os.kill(run.ranks()[0], signal.SIGKILL)
        run.finish(process)
    finally:
        run.end()
    assert losses(run) == losses(trained)
    assert (watched(run)["status"], watched(run)["restarts"]) == ("finished", 2)
    assert [line["step"] for line in run.sums(1)] == [0, EVERY, EVERY, STEPS]
    assert run.sums(1)[1] == run.sums(1)[2], "the save that was killed is not resumed from"
    assert run.sums(1)[-1] == trained.sums(1)[-1]
    attempts = [json.loads(line) for line in (run.results / "restarts.jsonl").read_text().splitlines()]
    assert [(a["resumed"], a["reason"] == "done") for a in attempts] == [(0, False), (EVERY, False), (EVERY, True)]
