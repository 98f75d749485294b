"""Runs the steps that are enabled, all of them whatever fails."""

import os
import traceback
from collections.abc import Callable, Iterable, Sequence

from neva_pod.findings import ProblemError, UsageError, some
from neva_pod.prepare.dataset import DATASET
from neva_pod.prepare.errors import say, unwritten, words
from neva_pod.prepare.hub import pin
from neva_pod.prepare.llm import LLM
from neva_pod.prepare.lock import locked
from neva_pod.prepare.publish import leavings, make_parent, remove
from neva_pod.prepare.steps import begin, finals, source_of, source_step
from neva_pod.prepare.tokenizer import TOKENIZER
from neva_pod.prepare.vision import VISION
from neva_pod.settings import Settings

STEPS = {"tokenizer": TOKENIZER, "vision": VISION, "llm": LLM, "dataset": DATASET}
"""Cheap ones first."""


def run(settings: Settings, only: Sequence[str]) -> int:
    """Run the enabled steps, all of them whatever fails; return the number of failed ones."""
    unknown = [n for n in only if n not in STEPS]
    if unknown:
        raise UsageError(f"--only: got {some(unknown)}; must be among {', '.join(STEPS)}")
    chosen = [n for n in STEPS if (not only or n in only) and settings.flag(f"prepare.{n}.enabled", False)]
    left = [n for n in chosen if attempt(n, lambda n=n: start(settings, n))]  # type: ignore[misc]
    for name in list(left):
        if not attempt(name, lambda name=name: say(f"{name}: {perform(settings, name)}")):  # type: ignore[misc]
            left.remove(name)
    return len(chosen) - len(left)


def attempt(name: str, function: Callable[[], None]) -> bool:
    """Do a part of a step; whatever stops it is said, and stops nothing else."""
    try:
        function()
    except ProblemError as problem:
        message, fix = problem.finding.message, problem.finding.fix
    except OSError as error:
        found = unwritten(str(error.filename or "a file"), error).finding
        message, fix = found.message, found.fix
    except UsageError as error:
        message, fix = str(error), "correct the settings"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"stopped by {words(error)} in {os.path.basename(place.filename)}, line {place.lineno}"
        fix = "an input may be damaged: check the step's source; otherwise report this line"
    else:
        return True
    say(f"{name}: ERROR: {message}")
    say(f"{name}: fix: {fix}")
    return False


def all_there(finals: Iterable[str]) -> bool:
    """Whether a step has nothing left to make."""
    return all(map(os.path.lexists, finals))


def start(settings: Settings, name: str) -> None:
    """Choose the commit of a step that downloads, before any step takes its time."""
    places = finals(settings, name)
    if all_there(places) or source_of(settings, source_step(settings, name)).startswith("/"):
        return
    for place in places:
        make_parent(place)
    with locked(name, places):
        if not all_there(places):
            pin(settings, name, begin(settings, name), STEPS[name].wanted(settings))


def perform(settings: Settings, name: str) -> str:
    """Do a step, unless it is done; return what to say of it."""
    step, places = STEPS[name], finals(settings, name)
    if all_there(places) and not leavings(places):
        return f"already exists: {step.check(settings)}"
    for place in places:
        make_parent(place)
    with locked(name, places):
        if all_there(places):
            said = f"already exists: {step.check(settings)}"
        else:
            said = step.make(settings, begin(settings, name))
        for path in leavings(places):  # also those of a run that was killed at its very end
            if not path.endswith(".lock"):
                remove(path)
    return said
