"""The images that the samples name: they exist, and Pillow can decode them."""

import contextlib
import errno
import os
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from neva_pod.findings import Finding, UsageError, failed, note, show, skipped, some, warning
from neva_pod.inputs.files import NotAFileError, open_file
from neva_pod.preflight.registry import Context, Level, check
from neva_pod.progress import Progress


@check(
    Level.FULL,
    "data.annotations",
    "data.images",
    cost="lists each folder once, without a stat per file (656 folders for 558K images)",
    prevents="FileNotFoundError in a DataLoader worker when a missing image is drawn",
)
def check_images(context: Context) -> Iterator[Finding]:
    """Every image that a sample names exists."""
    folder, wanted = context.settings.text("data.images"), list(dict.fromkeys(context.image_names))
    started = time.perf_counter()
    missing, odd, folders = missing_images(folder, wanted, context.progress)
    seconds = max(time.perf_counter() - started, 1e-6)
    if missing:
        yield failed(
            f"{show(folder)}: {len(missing)} of {len(wanted)} images are missing: {some(missing)}",
            _where_images_are(folder, missing[0]),
        )
    if odd:
        yield failed(
            f"{show(folder)}: {len(odd)} of {len(wanted)} images are not files (folders, pipes, devices): {some(odd)}",
            "unzip images.zip again (prepare.dataset), or remove their samples from the JSON",
        )
    found = len(wanted) - len(missing) - len(odd)
    yield note(f"{found} images in {folders} folders, listed in {seconds:.1f} s ({len(wanted) / seconds:.0f}/s)")


def missing_images(folder: str, wanted: Sequence[str], progress: Progress) -> tuple[list[str], list[str], int]:
    """Return the images that are not below the folder, those that are no files, and the number of folders looked into.

    The listing tells files apart from other things; a link counts as what it should lead to.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in wanted:
        by_folder[os.path.dirname(path)].append(os.path.basename(path))
    missing: list[str] = []
    odd: list[str] = []
    done = 0
    for place, names in by_folder.items():
        there: dict[str, bool] = {}
        try:
            with os.scandir(os.path.join(folder, place)) as entries:
                there = {e.name: e.is_file(follow_symlinks=False) or e.is_symlink() for e in entries}
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
            pass
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
                raise
        missing += [os.path.join(place, name) for name in names if name not in there]
        odd += [os.path.join(place, name) for name in names if not there.get(name, True)]
        done += len(names)
        progress.step("images", done, len(wanted))
    return missing, odd, len(by_folder)


def _where_images_are(folder: str, example: str) -> str:
    """Look for an image one level below or above, where unzip may have put it."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir() and os.path.exists(os.path.join(entry.path, example)):
                return f"they are one level deeper: set data.images to {show(entry.path)}"
    above = os.path.dirname(folder.rstrip("/"))
    if os.path.exists(os.path.join(above, example)):
        return f"they are one level higher: set data.images to {show(above)}"
    return "unzip images.zip again (prepare.dataset); downloading images one by one loses about 15%"


@check(
    Level.FULL,
    "data.annotations",
    "data.images",
    cost="decodes preflight.sample images (1000), evenly spread; with preflight.decode=all every "
    "one, about 2,000/s per core",
    prevents="an empty, truncated, flat or malicious image kills the run when it is drawn",
)
def check_decode(context: Context) -> Iterator[Finding]:
    """By content, not by name; any exception of Pillow is a finding."""
    mode = context.settings.text("preflight.decode", "sample")
    if mode not in ("none", "sample", "all"):
        raise UsageError(f"settings: preflight.decode: got {mode!r}; must be none, sample or all")
    folder, names = context.settings.text("data.images"), list(dict.fromkeys(context.image_names))
    if mode == "none" or not names:
        yield skipped("nothing to decode" if mode != "none" else "preflight.decode is none")
        return
    if mode == "sample":
        names = names[:: max(1, len(names) // max(1, context.settings.integer("preflight.sample", 1000)))]
    if not pillow():
        yield warning("Pillow is not installed: only the first bytes of images are checked", "use the NeMo image")
    started = time.perf_counter()
    bad, renamed, decoded = decode(folder, names, context.progress)
    seconds = max(time.perf_counter() - started, 1e-6)
    if bad:
        yield failed(
            f"{len(bad)} of {len(names)} images cannot be used: "
            + some([f"{name} ({problem})" for name, problem in bad.items()]),
            "unzip them again (prepare.dataset), or remove their samples from the JSON",
        )
    if renamed:
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(renamed.values()).items())
        yield warning(
            f"{len(renamed)} images are not of the type that their names say ({kinds}): {some(list(renamed))}",
            "none needed: Pillow goes by content",
        )
    yield note(f"{decoded} images decoded in {seconds:.1f} s ({len(names) / seconds:.0f}/s)")


def pillow() -> Any:
    """Return Pillow's Image module, or None."""
    try:
        from PIL import Image
    except ImportError:
        return None
    return Image


def decode(folder: str, names: Sequence[str], progress: Progress) -> tuple[dict[str, str], dict[str, str], int]:
    """Return problems of images by name, true kinds of wrongly named ones, and the decoded.

    Missing images are left to the check that counts them.
    """
    bad, renamed, decoded = {}, {}, 0
    threads = min(32, 2 * len(os.sched_getaffinity(0)))
    found = in_threads(lambda n: decode_one(os.path.join(folder, n)), names, threads)
    for done, (name, (problem, kind)) in enumerate(found, 1):
        decoded += bool(kind)
        if problem:
            bad[name] = problem
        elif kind and kind not in _kinds_of(name):
            renamed[name] = kind
        progress.step("decode", done, len(names))
    return {n: bad[n] for n in names if n in bad}, {n: renamed[n] for n in names if n in renamed}, decoded


R = TypeVar("R")


def in_threads(work: Callable[[str], R], items: Sequence[str], count: int) -> Iterator[tuple[str, R]]:
    """Yield items and their results as they come; no one waits for a thread that a file system holds."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, R]] = queue.SimpleQueue()

    def go_on() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                item = todo.get_nowait()
                done.put((item, work(item)))

    for item in items:
        todo.put(item)
    for _ in range(min(count, len(items))):
        threading.Thread(target=go_on, daemon=True).start()
    for _ in items:
        yield done.get()


SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"RIFF": "WEBP", b"BM": "BMP"}


def _kinds_of(name: str) -> tuple[str, ...]:
    ending = os.path.splitext(name)[1].lower()
    return {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO")}.get(ending, (ending[1:].upper(),))


def decode_one(path: str) -> tuple[str, str]:
    """Return (problem, kind) of one image, decoded as NeMo does: open, convert to RGB.

    NeMo's image processor finds the colors by their number: an axis of 1 or 3, the first one before the last.
    A missing one has neither. Pillow raises anything: OSError, ValueError, SyntaxError ...
    """
    try:
        with open_file(path) as file:
            head = file.read(16)
            if not head:
                return "empty", ""
            image_module = pillow()
            if image_module is None:
                kind = next((k for s, k in SIGNATURES.items() if head.startswith(s)), "")
                return ("" if kind else "not an image"), kind
            file.seek(0)
            with image_module.open(file) as image:
                image.convert("RGB")
                flat = f"height {image.height}: NeMo takes its rows for colors" if image.height in (1, 3) else ""
                return flat, str(image.format)
    except FileNotFoundError:
        return ("a dangling link" if os.path.islink(path) else ""), ""
    except NotAFileError:
        return "not a regular file", ""
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0], ""
