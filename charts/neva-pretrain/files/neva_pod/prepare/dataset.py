"""The dataset: the JSON, and of images.zip what it names."""

import contextlib
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from neva_pod.findings import Outcome, ProblemError, gib, show, some
from neva_pod.inputs.files import inside, is_lfs_pointer, read_json
from neva_pod.inputs.samples import images_of
from neva_pod.preflight.checks.dataset import sample_findings
from neva_pod.preflight.checks.images import missing_images
from neva_pod.prepare.errors import reading
from neva_pod.prepare.hub import fetched, named
from neva_pod.prepare.publish import (
    CHUNK,
    Meter,
    beside,
    chunks_of,
    copy_file,
    exists,
    need_file,
    need_space,
    publish,
    size_below,
    write,
)
from neva_pod.prepare.steps import Chooser, Step, finals
from neva_pod.progress import Progress
from neva_pod.settings import Settings

IMAGE_LIMIT = 64 * 2**20
"""Bytes of one image. The images of LLaVA-Pretrain have 48 KB on average."""
RATIO_LIMIT = 100
"""Bytes of all images for a byte of the zip. JPEG does not compress: LLaVA-Pretrain's images.zip has 1.0."""
TOTAL_FLOOR = 2**30
"""Bytes of all images that are no bomb, whatever the ratio."""


def _check(settings: Settings) -> str:
    return ", ".join(finals(settings, "dataset"))


def _names(settings: Settings) -> tuple[str, str]:
    return (
        settings.text("prepare.dataset.annotationsFile", "blip_laion_cc_sbu_558k.json"),
        settings.text("prepare.dataset.archiveFile", "images.zip"),
    )


def _wanted(settings: Settings) -> Chooser:
    return named(*_names(settings))


def _make(settings: Settings, work: str) -> str:
    """Get the JSON and the images; only images.zip, never single downloads."""
    annotations, images = finals(settings, "dataset")
    folder = fetched(settings, "dataset", work, _wanted(settings))
    origin, archive = (os.path.join(folder, n) for n in _names(settings))
    need_file(origin)
    with reading(origin):
        wanted = wanted_images(origin, settings)
    if os.path.exists(images):  # of another release, or of a run that was killed here
        with reading(images):
            missing, odd, _ = missing_images(images, wanted, Progress())
            missing += odd
        if missing:
            raise ProblemError(
                f"{show(images)}: lacks {len(missing)} of {len(wanted)} images of the JSON: {some(missing)}",
                "remove it, or name another data.images",
            )
    else:
        temporary = beside(images, "partial")
        need_file(archive)
        with reading(archive):
            unzip(archive, wanted, temporary)
        publish(temporary, images)
    temporary = beside(annotations, "partial")
    copy_file(origin, temporary, Meter("dataset: copy", os.path.getsize(origin)))
    publish(temporary, annotations)
    return f"made {annotations} and {images}: {len(wanted)} images"


DATASET = Step(_check, _wanted, _make)


def wanted_images(path: str, settings: Settings) -> list[str]:
    """Return the images that a JSON of samples names, once the samples are what the run can take."""
    samples = read_json(path)
    if not isinstance(samples, list) or not all(isinstance(s, Mapping) for s in samples):
        raise ProblemError(f"{show(path)}: must be a JSON list of samples", "name the right file")
    if not samples:
        raise ProblemError(f"{show(path)}: has no samples", "download the JSON again, or name the right file")
    bad = next((f for f in sample_findings(settings, samples) if f.outcome is Outcome.FAILED), None)
    if bad:
        raise ProblemError(f"{show(path)}: {bad.message}", "download the JSON again")
    wanted = list(dict.fromkeys(i for s in samples for i in images_of(s)))
    outside = [n for n in wanted if not inside(n)]
    if outside:
        raise ProblemError(f"images {some(outside)} lie outside the folder", "do not use this JSON")
    strange = [n for n in wanted if not _is_name(n)]
    if strange:
        raise ProblemError(f"images {some(strange)} are not valid file names", "do not use this JSON")
    return wanted


def _is_name(name: str) -> bool:
    """Whether a file can have this name."""
    with contextlib.suppress(UnicodeEncodeError):
        return "\0" not in name and all(len(part) <= 255 for part in os.fsencode(name).split(b"/"))
    return False


def unzip(path: str, wanted: Sequence[str], folder: str) -> None:
    """Unzip the images named; everything is checked before the first one is written."""
    with open_zip(path) as archive:
        members = _zip_members(path, archive, wanted)
        os.makedirs(folder, exist_ok=True)
        _case_problem(path, members, folder)
        need_space(folder, sum(m.file_size for m in members.values()) - size_below(folder))
        for place in sorted({os.path.dirname(n) for n in members}):
            os.makedirs(os.path.join(folder, place), exist_ok=True)
        progress, names = Progress(), list(members)
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(names), 1000):
                batch = names[start : start + 1000]
                for _ in pool.map(lambda n: _unzip_one(archive, members[n], os.path.join(folder, n)), batch):
                    pass
                progress.step("prepare: dataset: unzip", start + len(batch), len(names))
        progress.clear()


def open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip that is whole; say what another file is."""
    again = "download or copy it again"
    with open(path, "rb") as file:
        head = file.read(4)
    if is_lfs_pointer(path):
        raise ProblemError(f"{show(path)} is a git LFS pointer, not the file", again)
    if head != b"PK\x03\x04":
        raise ProblemError(f"{show(path)} is not a zip: begins with {head!r}", again)
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        size = os.path.getsize(path)
        raise ProblemError(f"{show(path)}: {error}: truncated at {size} bytes?", again) from None


def _zip_members(path: str, archive: zipfile.ZipFile, wanted: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """Find each image in the zip, at its top or below one folder, by its place; nothing else is unpacked."""
    files = [m for m in archive.infolist() if not m.is_dir()]
    outside = [m.filename for m in files if not inside(m.filename)]
    if outside:
        raise ProblemError(f"{show(path)}: has files outside the folder: {some(outside)}", "do not use this file")
    listed = [(os.path.normpath(m.filename), m) for m in files]
    there, times = dict(listed), Counter(name for name, _ in listed)
    places = [os.path.normpath(n) for n in wanted]
    tops = {n.split("/")[0] + "/" for n in there if "/" in n}
    first = places[0] if places else ""
    prefix = next((p for p in ("", *sorted(tops)) if p + first in there), "")
    missing = [n for n in places if prefix + n not in there]
    if missing:
        raise ProblemError(
            f"{show(path)}: {len(missing)} of {len(wanted)} images of the JSON are not in it: {some(missing)}",
            "use JSON and images.zip of one release (liuhaotian/LLaVA-Pretrain)",
        )
    members = {n: there[prefix + n] for n in places}
    wrong: dict[str, list[str]] = {
        "more than once": [n for n in members if times[prefix + n] > 1],
        "not as files (links, devices)": [n for n, m in members.items() if not _is_regular(m)],
        "encrypted": [n for n, m in members.items() if m.flag_bits & 1],
        "compressed by a method other than deflate": [
            n for n, m in members.items() if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        ],
        "of 0 bytes": [n for n, m in members.items() if not m.file_size],
        f"larger than {gib(IMAGE_LIMIT)}": [n for n, m in members.items() if m.file_size > IMAGE_LIMIT],
    }
    fix = "pack the images again, as plain files (zip -r)"
    for how, names in wrong.items():
        if names:
            raise ProblemError(f"{show(path)}: has {len(names)} images {how}: {some(names)}", fix)
    total, packed = sum(m.file_size for m in members.values()), os.path.getsize(path)
    if total > max(TOTAL_FLOOR, RATIO_LIMIT * packed):
        raise ProblemError(
            f"{show(path)}: {gib(packed)} unpack to {gib(total)}; must be at most {RATIO_LIMIT} times as much",
            "do not use this file, or pack the images as JPEG",
        )
    return members


def _is_regular(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a plain file; zips from other systems than Unix have no type."""
    return stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)


def _case_problem(path: str, names: Iterable[str], folder: str) -> None:
    """Refuse names that are one on a file system that knows no case."""
    above, name = os.path.split(folder)
    if exists(above, name.swapcase()) and name.swapcase() != name:
        times = Counter(n.casefold() for n in names)
        twice = [n for n in names if times[n.casefold()] > 1]
        if twice:
            raise ProblemError(
                f"{show(path)}: images {some(twice)} differ only in case, and {show(above)} is case-insensitive",
                "use a case-sensitive file system",
            )


def _unzip_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: str) -> None:
    """Unzip one image; one that is there is kept if it is this one."""
    if os.path.exists(target) and os.path.getsize(target) == member.file_size and _crc(target) == member.CRC:
        return
    write(target, _zip_chunks(archive, member), durable=False)


def _zip_chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(member) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ProblemError(f"image {show(member.filename)}: {error}", "download the zip again") from None


def _crc(path: str) -> int:
    crc = 0
    with open(path, "rb") as file:
        for chunk in chunks_of(file, path):
            crc = zlib.crc32(chunk, crc)
    return crc
