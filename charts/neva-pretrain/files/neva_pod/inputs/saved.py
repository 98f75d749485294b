"""Checkpoints that a training saved: which NeMo resumes from, which are whole, and how a run returns to a whole one."""

import os
import re
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from neva_pod.findings import ProblemError, show, some
from neva_pod.inputs.checkpoint import rank_files
from neva_pod.inputs.files import ancestor, denied, need_folder, raised
from neva_pod.inputs.whole import file_problems, folder_problems

# What NeMo sees


RANK_FOLDERS = ("mp_rank", "tp_rank", "fsdp_shard")
"""Parts of a path by which NeMo knows a rank's own file."""


@dataclass(frozen=True)
class ResumeState:
    """What NeMo sees in a checkpoints folder, by name, and the path that it resumes from ("" for none)."""

    last: list[str]
    end: list[str]
    unfinished: list[str]
    chosen: str = ""


def resume_state(folder: str) -> ResumeState:
    """Look into a checkpoints folder, with the calls and in the order of NeMo.

    A distributed checkpoint is a folder ``*-last``; where there is none, a legacy one is ``*last.ckpt`` at any depth,
    once in each rank's folder. Source: NeMo r2.0.0rc1, exp_manager.check_resume and
    _filter_out_unfinished_checkpoints, NeMoModelCheckpoint.format_checkpoint_unfinished_marker_path.
    """
    place = Path(folder)
    folders = [d for d in place.glob("*") if d.is_dir()]

    def matching(word: str) -> list[Path]:
        found = [d for d in folders if d.match(f"*{word}")] or list(place.rglob(f"*{word}.ckpt"))
        return [c for c in found if not os.path.exists(_marker(str(c)))]

    end, last = matching("end"), matching("last")
    chosen = ""
    if last and not end and (len(last) == 1 or any(r in str(last[0]) for r in RANK_FOLDERS)):
        chosen = str(last[0]) if len(last) == 1 else without_rank(str(last[0]))
    markers = [m.name.removesuffix("-unfinished") for m in place.glob("*-unfinished") if m.is_file()]
    return ResumeState(sorted({c.name for c in last}), sorted({c.name for c in end}), sorted(markers), chosen)


def without_rank(path: str) -> str:
    """Return a checkpoint's path without the rank's folder. Source: model_utils.uninject_model_parallel_rank."""
    if not any(rank in path for rank in RANK_FOLDERS):
        return path
    return os.path.join(os.path.dirname(os.path.dirname(path)), os.path.basename(path))


def _marker(path: str) -> str:
    plain = without_rank(path)
    for ending in (".nemo", ".ckpt", "-EMA"):
        plain = plain.removesuffix(ending)
    return plain + "-unfinished"


def consumed_samples(path: str) -> int:
    """Return the samples that NeMo takes a checkpoint to have seen: by its path, 0 where that does not say.

    Source: NeMo r2.0.0rc1, megatron_base_model._extract_consumed_samples_from_ckpt.
    """
    try:
        return int(float(re.findall(r"consumed_samples\=([0-9]+.[0-9]+)", path)[0]))
    except (ValueError, IndexError, OverflowError):
        return 0


def step_of(path: str) -> int | None:
    """Return a checkpoint's step, by its name."""
    match = re.search(r"step=([0-9]{1,18})", os.path.basename(path))
    return int(match[1]) if match else None


# All of a folder


DAMAGED = "damaged"
"""Of a results folder: where checkpoints are set aside."""
UNFINISHED = "is marked -unfinished"


Parallel = tuple[int, int]
"""TP and PP of a run."""


def rank_folders(parallel: Parallel) -> list[str]:
    """Return the ranks' folders of a legacy checkpoint at a TP and PP; [] where it is one file."""
    return [os.path.dirname(file) for file in rank_files(*parallel).values() if "/" in file]


def problems(path: str, parallel: Parallel | None = None) -> list[str]:
    """Say what a saved checkpoint lacks; [] = whole.

    A folder is a distributed checkpoint, a file is torch's, and ``X.ckpt`` that is no file is that of every rank's
    folder: of those that are there, and of all that a TP and PP have. Sizes and indexes are read, never all the data.

    Raises:
        ProblemError: it cannot be read, so nothing is known about it.

    """
    ranks = [] if os.path.lexists(path) else _rank_folders(os.path.dirname(path))
    ranks += _absent(ranks, parallel)
    return _problems(path, [_in_rank(path, rank) for rank in ranks] or [path])


def _absent(ranks: Collection[str], parallel: Parallel | None) -> list[str]:
    """Return the ranks' folders that a TP and PP have and that are not there; none where others are, too.

    A folder of another TP or PP tells that the checkpoint was split for that one: then nothing of it is missing.
    """
    expected = rank_folders(parallel) if parallel and ranks else []
    return [rank for rank in expected if rank not in ranks] if expected and set(ranks) <= set(expected) else []


def _problems(path: str, parts: Sequence[str]) -> list[str]:
    try:
        if os.path.exists(_marker(path)):
            return [UNFINISHED]
        if os.path.isdir(path):
            return folder_problems(path)
        found = []
        for part in parts:
            prefix = "" if part == path else os.path.relpath(part, os.path.dirname(path)) + " "
            found += [prefix + words for words in file_problems(part)]
        return found
    except OSError as error:
        raise ProblemError.of(denied(str(error.filename or path), error)) from None


@dataclass(frozen=True)
class Saved:
    """A saved checkpoint; of a legacy one that has ranks, the path without their folder."""

    path: str
    parts: tuple[str, ...]
    """What it is made of: its folder or file, or each rank's file."""
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name."""
        return os.path.basename(self.path)

    @property
    def step(self) -> int | None:
        """The step after which it was saved, by its name."""
        return step_of(self.path)

    @property
    def consumed(self) -> int:
        """The samples that it has seen, by its name."""
        return consumed_samples(self.name)

    @property
    def is_last(self) -> bool:
        """Whether NeMo may resume from it."""
        return _stem(self.name).endswith("last")

    @property
    def is_end(self) -> bool:
        """Whether NeMo takes it for the end of the run."""
        return _stem(self.name).endswith("end")


def saved(folder: str, parallel: Parallel | None = None) -> list[Saved]:
    """Return the checkpoints of a folder, the newest first; a legacy one has all ranks of a TP and PP, if known.

    Raises:
        ProblemError: one cannot be read, so nothing is known about it.

    """
    try:
        found = [
            Saved(path, tuple(p for p in parts if os.path.lexists(p)), tuple(_problems(path, parts)))
            for (path, _), parts in _groups(folder, parallel).items()
        ]
        times = {c.parts: max(os.lstat(part).st_mtime for part in c.parts) for c in found}
    except OSError as error:
        raise ProblemError.of(denied(str(error.filename or folder), error)) from None
    return sorted(found, key=lambda c: (*_order(c), c.is_last, times[c.parts]), reverse=True)


def _order(checkpoint: Saved) -> tuple[int, int]:
    return (-1 if checkpoint.step is None else checkpoint.step, checkpoint.consumed)


Groups = dict[tuple[str, bool], list[str]]
"""Path of a checkpoint, and whether it lies in the ranks' folders -> what it is made of, with what is missing."""


def _groups(folder: str, parallel: Parallel | None) -> Groups:
    groups: Groups = {}
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            return groups
    except (FileNotFoundError, NotADirectoryError):
        return groups
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        # NeMo passes over a link to nothing; it may lead to another volume, and was a checkpoint.
        lost = os.path.islink(path) and not os.path.exists(path) and not name.endswith(".ckpt")
        if (lost or os.path.isdir(path)) and not name.startswith(RANK_FOLDERS) and _looks_saved(path):
            groups[path, False] = [path]
    for place, inner, names in os.walk(folder, onerror=raised):
        inner[:] = [name for name in inner if (os.path.join(place, name), False) not in groups]
        for name in (*inner, *names):
            path = os.path.join(place, name)
            if name.endswith(".ckpt"):
                plain = without_rank(path)
                groups.setdefault((plain, path != plain), []).append(path)
        inner[:] = [name for name in inner if not name.endswith(".ckpt")]
    for (path, ranks), parts in groups.items():
        if ranks:
            there = _rank_folders(os.path.dirname(path))
            every = (*there, *_absent(there, parallel))
            parts += [p for rank in every if (p := _in_rank(path, rank)) not in parts]
    return _rejoined(groups)


def _rejoined(groups: Groups) -> Groups:
    """Put a checkpoint together whose ranks' files were being renamed to ``-last`` when that was killed."""
    for path, ranks in list(groups):
        last, before = (path, ranks), (_renamed(path, _stem(path).removesuffix("-last")), ranks)
        if last == before or before not in groups or len(groups[last]) != len(groups[before]):
            continue
        pairs = list(zip(sorted(groups[last]), sorted(groups[before]), strict=True))
        if all(os.path.lexists(one) != os.path.lexists(other) for one, other in pairs):
            groups[last] = [one if os.path.lexists(one) else other for one, other in pairs]
            del groups[before]
    return groups


def _looks_saved(path: str) -> bool:
    name = os.path.basename(path)
    inside = any(os.path.lexists(os.path.join(path, file)) for file in (".metadata", "metadata.json", "common.pt"))
    return inside or name.endswith(("last", "end", ".ckpt")) or step_of(name) is not None


def _rank_folders(folder: str) -> list[str]:
    """Return the folders of ranks; a checkpoint that one of them lacks is not whole."""
    try:
        return sorted(
            name
            for name in os.listdir(folder)
            if name.startswith(RANK_FOLDERS) and os.path.isdir(os.path.join(folder, name))
        )
    except OSError:
        return []


def _in_rank(path: str, rank: str) -> str:
    return os.path.join(os.path.dirname(path), rank, os.path.basename(path))


def _stem(name: str) -> str:
    return os.path.basename(name).removesuffix(".ckpt")


def _renamed(path: str, stem: str) -> str:
    """Return the path with another stem of its name."""
    return os.path.join(os.path.dirname(path), stem + (".ckpt" if path.endswith(".ckpt") else ""))


# Back to a whole one


@dataclass(frozen=True)
class Recovery:
    """How NeMo gets to a whole checkpoint: the renames, in an order that may end anywhere, and what they mean."""

    moves: tuple[tuple[str, str], ...]
    said: tuple[str, ...]
    resumes: str
    """The path that NeMo then resumes from, "" for none."""
    lost: int
    """Steps between the newest save that was begun and this one."""
    ended: tuple[str, ...] = ()
    """Names of whole checkpoints for which NeMo takes the run for ended: it resumes from none."""
    left: tuple[str, ...] = ()
    """What else is not whole and stays where it is: NeMo resumes from none of it."""
    split: str = ""
    """Why NeMo does not load what it resumes from: it was saved at another TP or PP."""


class _Plan:
    """Renames and sentences as they come together."""

    def __init__(self, folder: str, aside: str) -> None:
        self.folder, self.aside = folder, aside
        self.moves: list[tuple[str, str]] = []
        self.said: list[str] = []

    def move(self, path: str, target: str = "") -> None:
        """Rename to a target, or into the folder for what is set aside, under a name that is free."""
        if not target:
            target = free = os.path.join(self.aside, os.path.relpath(path, self.folder))
            number = 0
            while os.path.lexists(target) or any(target == other for _, other in self.moves):
                number += 1
                target = f"{free}.{number}"
        if path != target:
            self.moves.append((path, target))

    def set_aside(self, checkpoint: Saved) -> None:
        """Set a checkpoint aside, and after it NeMo's mark that it is unfinished."""
        mark = _marker(checkpoint.path)
        for part in (*checkpoint.parts, *([mark] if UNFINISHED in checkpoint.problems else [])):
            self.move(part)
        self.said.append(
            f"{show(checkpoint.name)} is not whole ({some(checkpoint.problems)}): set aside in {show(self.aside)}"
        )

    def demote(self, checkpoint: Saved) -> None:
        """Take the suffix from a whole checkpoint: NeMo refuses to choose between several."""
        stem = _stem(checkpoint.name).removesuffix("last").removesuffix("-") or "earlier"
        target = _renamed(checkpoint.path, stem)
        parts = [_renamed(part, stem) for part in checkpoint.parts]
        free = not any(map(os.path.lexists, (target, _marker(target), *parts)))
        for part, renamed in zip(checkpoint.parts, parts, strict=True):
            self.move(part, renamed if free else "")
        where = f"renamed to {show(os.path.basename(target))}" if free else f"set aside in {show(self.aside)}"
        self.said.append(f"{show(checkpoint.name)} is not the newest that matches *last: {where}")

    def promote(self, checkpoint: Saved, others: Sequence[Saved]) -> str:
        """Make a whole checkpoint the one that NeMo resumes from; return its path."""
        stem = _stem(checkpoint.name)
        stem += "" if checkpoint.is_last else "-last"
        path = _renamed(checkpoint.path, stem)
        mark = _marker(path)
        for other in others:
            # NeMo looks at no file while there is a folder *last, not even at an unfinished one.
            hides = os.path.isdir(other.path) and other.is_last and not os.path.isdir(checkpoint.path)
            if UNFINISHED in other.problems and (hides or _marker(other.path) == mark):
                self.set_aside(other)
        if os.path.lexists(mark) and not any(mark == source for source, _ in self.moves):
            self.move(mark)
        for part in checkpoint.parts:
            self.move(part, _renamed(part, stem))
        return path


def _other_split(checkpoint: Saved, parallel: Parallel) -> str:
    """Say why NeMo does not load a legacy checkpoint at a TP and PP, "" for none or a distributed one.

    Source: NeMo r2.0.0rc1, nlp_overrides.NLPDDPStrategy.load_checkpoint, model_utils.inject_model_parallel_rank.
    """
    place, expected = os.path.dirname(checkpoint.path), set(rank_folders(parallel))
    have = {os.path.dirname(os.path.relpath(part, place)) for part in checkpoint.parts} - {""}
    if have == expected or os.path.isdir(checkpoint.path) or any("fsdp" in rank for rank in have):
        return ""
    held, read = (f"in {some(sorted(ranks))}" if ranks else "as one file" for ranks in (have, expected))
    return f"was saved {held}; NeMo reads it {read} at TP {parallel[0]} PP {parallel[1]}"


def need_folders(folder: str, aside: str) -> None:
    """Refuse what is no folder in the place of the checkpoints' folder, or of that for what is set aside.

    NeMo and this code would make them; what is there instead holds no checkpoint, and none can be written.

    Raises:
        ProblemError: with what is there.

    """
    need_folder(folder, "for checkpoints")
    need_folder(aside, "for checkpoints that are set aside")


def plan_recovery(folder: str, aside: str, parallel: Parallel | None = None) -> Recovery:
    """Decide what must be renamed so that NeMo resumes from the newest whole checkpoint; nothing is touched.

    A legacy checkpoint is whole only with all ranks of the run's TP and PP, where these are known.

    A whole ``*-last`` stays what it is while no newer one was begun: then a newer checkpoint is there by intent.

    Raises:
        ProblemError: a checkpoint cannot be read, so nothing is known about it.

    """
    found = saved(folder, parallel)
    plan = _Plan(folder, aside)
    broken = [c for c in found if c.problems]
    whole = [c for c in found if not c.problems and not c.is_end]
    lasts = [c for c in whole if c.is_last]
    ended = tuple(c.name for c in found if c.is_end and not c.problems)
    left = []
    for checkpoint in broken:
        if UNFINISHED in checkpoint.problems:
            continue
        if checkpoint.is_last or checkpoint.is_end:
            plan.set_aside(checkpoint)
        else:
            left.append(f"{show(checkpoint.name)} ({some(checkpoint.problems)})")
    begun = [c for c in broken if c.is_last]
    chosen = whole[0] if whole else None
    if lasts and not any(_order(c) > _order(lasts[0]) for c in begun):
        chosen = lasts[0]
    if ended:
        return Recovery(tuple(plan.moves), tuple(plan.said), "", 0, ended, tuple(left))
    for other in lasts:
        if other is not chosen:
            plan.demote(other)
    resumes = plan.promote(chosen, broken) if chosen else ""
    lost = max([0, *(c.step - (chosen.step or 0 if chosen else 0) for c in broken if c.step is not None)])
    if plan.moves or (begun and not chosen):
        outcome = f"training resumes from {show(os.path.basename(resumes))}"
        if not chosen:
            outcome = "no whole checkpoint is left: training starts from step 0"
        plan.said.append(outcome + (f"; {lost} steps are lost" if lost else ""))
    split = _other_split(chosen, parallel) if chosen and parallel else ""
    return Recovery(tuple(plan.moves), tuple(plan.said), resumes, lost, (), tuple(left), split)


def recover(folder: str, aside: str, parallel: Parallel | None = None) -> Recovery:
    """Set damaged checkpoints aside, so that NeMo resumes from the newest whole one; nothing is ever deleted.

    Only the holder of the results folder's lease may call it. Each rename is whole by itself, and what a killed process
    left undone is done by the next.

    Raises:
        ProblemError: a checkpoint cannot be read, or a name not be changed.

    """
    recovery = plan_recovery(folder, aside, parallel)
    for source, target in recovery.moves:
        place = os.path.dirname(target)
        need_folder(place, "for checkpoints that are set aside")
        try:
            os.makedirs(place, exist_ok=True)
        except OSError as error:
            raise ProblemError.of(denied(ancestor(place), error)) from None
        try:
            os.rename(source, target)
        except OSError as error:
            folders = (os.path.dirname(source), place)
            closed = next((f for f in folders if not os.access(f, os.W_OK | os.X_OK, effective_ids=True)), source)
            raise ProblemError.of(denied(closed, error)) from None
    return recovery
