"""Steps: what each makes, where from, and where it works."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neva_pod.findings import ProblemError, show
from neva_pod.prepare.publish import beside, open_text, remove, write_record
from neva_pod.settings import Settings

Chooser = Callable[[Sequence[str]], list[str]]
"""Chooses the files that a step needs of those that a repository has."""


@dataclass(frozen=True)
class Step:
    """One thing to make: what is asked of one that is there, what is fetched, and how it is made in a work folder."""

    check: Callable[[Settings], str]
    wanted: Callable[[Settings], Chooser]
    make: Callable[[Settings, str], str]


PATHS = {
    "tokenizer": ("model.tokenizerPath",),
    "vision": ("model.visionEncoderPath",),
    "llm": ("model.checkpointPath",),
    "dataset": ("data.annotations", "data.images"),
}
"""Settings with the final names of what each step makes."""


def finals(settings: Settings, name: str) -> tuple[str, ...]:
    """Return the final names of what a step makes."""
    for key in PATHS[name]:
        path = settings.text(key)
        if not path.startswith("/"):
            raise ProblemError(
                f"{key}: got the hub id {show(path)}; must be an absolute path",
                f"name the folder to create; the hub id belongs in prepare.{name}.source",
            )
    return tuple(map(settings.text, PATHS[name]))


def work_folder(settings: Settings, name: str) -> str:
    """Return where a step works, and where it is found again after a restart."""
    return beside(settings.text(PATHS[name][0]), "work")


def source_step(settings: Settings, name: str) -> str:
    """Return the step whose source this one uses: the tokenizer comes with the model unless it has its own."""
    return "llm" if name == "tokenizer" and not settings.text("prepare.tokenizer.source", "") else name


def source_of(settings: Settings, name: str) -> str:
    """Return where a step's input comes from."""
    source = settings.text(f"prepare.{name}.source", "")
    if not source:
        raise ProblemError(f"prepare.{name}.source: is empty; must be an absolute path or a hub id", "name one")
    if not source.startswith("/") and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise ProblemError(
            f"prepare.{name}.source: got {show(source)}; must be an absolute path or a hub id", "begin a path with /"
        )
    return source


def begin(settings: Settings, name: str) -> str:
    """Return a step's work folder; what a killed run with other settings or another source left there is removed."""
    work, origin = work_folder(settings, name), source_step(settings, name)
    keys = (
        f"prepare.{name}",
        f"prepare.{origin}.source",
        f"prepare.{origin}.revision",
        "model",
    )
    source = source_of(settings, origin)
    state = fingerprint(source, deep=name != "dataset") if source.startswith("/") else ""
    record, now = os.path.join(work, "settings.json"), json.dumps([*map(settings.find, keys), state])
    if not os.path.exists(record) or open_text(record) != now:
        for place in (work, *(beside(final, "partial") for final in finals(settings, name))):
            remove(place)
        os.makedirs(work)
        write_record(record, now)
    return work


def fingerprint(source: str, deep: bool) -> str:
    """Return what changes when a local source does: name, size and time of its files."""
    files = [source] if os.path.isfile(source) else []
    for place, _, names in os.walk(source):
        files += [os.path.join(place, n) for n in names]
        if not deep:
            break
    state = hashlib.sha256()
    for file in sorted(files):
        with contextlib.suppress(OSError):
            found = os.stat(file)
            state.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()
