"""What is there to resume, and whether the run can go on from it."""

import json
import os
from collections.abc import Iterator
from typing import Any

from neva_pod.findings import Finding, Outcome, ProblemError, brief, failed, note, show, some, warning
from neva_pod.inputs.files import read_json
from neva_pod.inputs.saved import DAMAGED, consumed_samples, need_folders, plan_recovery, resume_state, step_of
from neva_pod.preflight.checks.sampler import sampler_problems
from neva_pod.preflight.registry import Context, Level, check
from neva_pod.settings import Settings


@check(
    Level.FULL,
    "results.checkpointsDir",
    cost="lists the run's checkpoints folder, reads the checkpoints' indexes and sizes, run.json; the dataset's length "
    "where the batch sizes changed",
    prevents="training silently starts from 0, resumes a damaged checkpoint or another run, ends at once, or dies in "
    "NeMo's sampler",
)
def check_resume(context: Context) -> Iterator[Finding]:
    """As NeMo's exp_manager.check_resume decides, once launch has set aside what is not whole; nothing is renamed."""
    folder, mode = context.settings.text("results.checkpointsDir"), context.settings.text("resume", "auto")
    volume = os.path.dirname(context.settings.text("results.path", folder))
    if not os.path.isdir(volume):
        raise ProblemError(f"{show(volume)}: is no folder; it must hold the run's", "mount the results volume")
    damaged = os.path.join(context.settings.text("results.path", folder), DAMAGED)
    need_folders(folder, damaged)
    state = resume_state(folder)
    where = show(folder)
    if state.unfinished:
        yield warning(f"{where}: {some(state.unfinished)} are incomplete; NeMo removes them", "none needed")
    if mode == "never":
        if state.last or state.end:
            yield warning(
                f"{where}: has {some(state.last + state.end)} while checkpoint.resume is never: the new run mixes its "
                "files with them",
                "choose another run.id",
            )
        return
    recovery = plan_recovery(folder, damaged, context.settings.parallel)
    if recovery.said:
        yield warning(f"{where}: at launch: {'; '.join(recovery.said)}", "none needed; nothing is deleted")
    if recovery.left:
        yield warning(
            f"{where}: not whole: {'; '.join(recovery.left)}",
            "none needed: NeMo resumes from none of them; remove them",
        )
    if recovery.ended:
        yield failed(
            f"{where}: {some(recovery.ended)} marks the run as ended; NeMo refuses to resume it",
            "choose another run.id",
        )
    elif not recovery.resumes:
        yield from _nothing_to_resume(context, folder, mode)
        if recovery.said:  # a changed TP or PP looks like ranks that are lost
            yield from (f for f in other_run(context.settings, "") if f.outcome is Outcome.FAILED)
        return
    else:
        if recovery.split:
            yield failed(
                f"{show(os.path.basename(recovery.resumes))} {recovery.split}",
                "go back to the training.tensorParallelSize and training.pipelineParallelSize that it was saved with, "
                "or choose another run.id",
            )
        yield from continuation_problems(context, recovery.resumes)
    yield from other_run(context.settings, recovery.resumes)
    if recovery.resumes:
        yield note(f"resumes from {show(recovery.resumes)}")


def _nothing_to_resume(context: Context, folder: str, mode: str) -> Iterator[Finding]:
    if mode != "require":
        yield note(f"no checkpoint in {show(folder)}: starts from step 0")
        return
    others = _other_checkpoints(os.path.dirname(context.settings.text("results.path", folder)), folder)
    hint = f"; there are some in {some(others)}: set run.id to theirs" if others else ""
    yield failed(
        f"no checkpoint that matches *last in {show(folder)}, and checkpoint.resume is require",
        f"check run.id and storage.results, or set checkpoint.resume=auto{hint}",
    )


def steps_for_the_rest(settings: Settings, chosen: str) -> int | None:
    """Return the maxSteps with which a run whose global batch has changed sees all of its samples.

    NeMo goes on counting steps: those before the checkpoint had another size.
    """
    step, consumed = step_of(chosen), consumed_samples(chosen)
    steps, batch = settings.find("training.maxSteps"), settings.find("training.globalBatchSize")
    if step is None or not consumed or not isinstance(steps, int) or not isinstance(batch, int) or batch < 1:
        return None
    left = steps * batch - consumed
    return step - (-left // batch) if left > 0 and consumed != step * batch else None


def continuation_problems(context: Context, chosen: str) -> Iterator[Finding]:
    """Compare a checkpoint's step and samples with the run's steps and batch sizes."""
    name = show(os.path.basename(chosen))
    step, steps = step_of(chosen), context.settings.find("training.maxSteps")
    if step is not None and steps is not None and step >= steps:
        rest = steps_for_the_rest(context.settings, chosen)
        more = f" (to {rest} for the remaining samples at this global batch)" if rest else ""
        yield failed(
            f"{name} is at step {step} of {steps}: the run is finished",
            f"choose another run.id, or raise training.maxSteps{more}",
        )
    yield from sampler_problems(context, name, consumed_samples(chosen))


def _other_checkpoints(results: str, folder: str) -> list[str]:
    """Return checkpoints folders of other runs, or deeper ones, that have something to resume."""
    found = []
    for place, inner, _ in os.walk(results):
        depth = os.path.relpath(place, results).count("/")
        if os.path.basename(place) == "checkpoints":
            inner[:] = []
            if os.path.normpath(place) != os.path.normpath(folder) and resume_state(place).last:
                found.append(place)
        elif depth > 3:
            inner[:] = []
    return sorted(found)


FIXED = (
    *("model.name", "model.projector", "architecture", "vision"),
    *("training.tensorParallelSize", "training.pipelineParallelSize"),
)
"""Settings whose change a checkpoint does not survive."""

WATCHED = (
    *(f"training.{k}" for k in ("globalBatchSize", "microBatchSize", "precision", "seed")),
    *("training.learningRate", "training.maxSteps", "training.nodes", "data.annotations", "data.images"),
    *("model.checkpointPath", "model.tokenizerPath", "model.visionEncoderPath", "image"),
)
"""Settings whose change bends the curve of a resumed run."""


def other_run(settings: Settings, chosen: str) -> Iterator[Finding]:
    """Compare with run.json, which the first launch of this run wrote beside its results."""
    path = os.path.join(settings.text("results.path", "/"), "run.json")
    if not os.path.exists(path):
        yield warning(
            f"{show(path)}: is missing, so the checkpoint's settings are unknown", "check that they are this run's"
        )
        return
    before, rest = Settings(read_json(path)), steps_for_the_rest(settings, chosen)
    more = f"; at this global batch training.maxSteps={rest} sees the same samples" if rest else ""
    for keys, make, fix in (
        (FIXED, failed, "choose another run.id, or go back to those settings"),
        (WATCHED, warning, f"none if intended; otherwise go back to those settings{more}"),
    ):
        changed = [k for k in keys if settings.find(k) is not None and before.find(k) != settings.find(k)]
        if changed:
            said = "; ".join(f"{k} was {shown(before.find(k))}, is {shown(settings.find(k))}" for k in changed)
            yield make(f"{show(path)}: the run to resume had other settings: {said}", fix)


def shown(value: Any) -> str:
    """Return a setting as short JSON."""
    return json.dumps(value) if isinstance(value, str) and len(value) < 300 else brief(value)
