"""Build the tools with the machine's Go, once, into a cache outside the checkout."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.tools.progress import Heartbeat, go_build, say
from tests.tools.table import GROUPS, TOOLS, Group


class ToolError(Exception):
    """A tool cannot be had; the message says what to do."""


def cache_root() -> Path:
    """Folder of everything that is built once: NEVA_CACHE, else the user's cache folder."""
    base = os.environ.get("NEVA_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "neva-pretrain"


def path(name: str) -> Path:
    """Where the binary of a tool lies once it is built."""
    return cache_root() / "bin" / f"{name}-{_group_of(name).version}"


def manifests(group_name: str) -> Path:
    """Copy of a module's manifests in the cache; built together with the group's binaries."""
    group = GROUPS[group_name]
    return cache_root() / "manifests" / f"{group.name}-{group.version}"


def ensure(*names: str) -> list[Path]:
    """Build what is missing of these tools and return their paths, in the order asked for."""
    missing = [group for group in _in_build_order(names) if _missing(group)]
    for number, group in enumerate(missing, 1):
        with _lock(group):
            if _missing(group):  # another process may have built it while we waited
                _build(group, f"{number} of {len(missing)}")
    return [path(name) for name in names]


def _group_of(name: str) -> Group:
    try:
        return TOOLS[name]
    except KeyError:
        raise ToolError(f"{name}: no such tool; known are {', '.join(sorted(TOOLS))}") from None


def _in_build_order(names: Iterable[str]) -> list[Group]:
    wanted = {_group_of(name).name for name in names}
    return [group for group in GROUPS.values() if group.name in wanted]


def _missing(group: Group) -> bool:
    absent = [tool.name for tool in group.tools if not path(tool.name).exists()]
    return bool(absent) or (bool(group.manifests) and not manifests(group.name).is_dir())


@contextlib.contextmanager
def _lock(group: Group) -> Iterator[None]:
    """Hold the group's build lock; released by the kernel even when we are killed."""
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{group.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build of {group.name}")
            with Heartbeat(f"{group.name}: another build has not ended"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(group: Group, place: str) -> None:
    if shutil.which("go") is None:
        raise ToolError(
            f"go: not on PATH; needed once to build {group.name} {group.version} from source; "
            "install Go 1.26 or newer (https://go.dev/dl) and run this again"
        )
    names = ", ".join(tool.name for tool in group.tools)
    say(f"{place}: building {group.name} {group.version} ({names}); the first time takes minutes")
    started = time.monotonic()
    target = cache_root() / "bin"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache_root()) as scratch:
        if not _go_build(group, Path(scratch)):
            # The first download of a large module can time out; what came is kept.
            say(f"{group.name}: the build failed; trying once more")
            if not _go_build(group, Path(scratch)):
                raise ToolError(f"{group.name} {group.version}: go build failed, see above")
        if group.manifests:
            _copy_manifests(group, Path(scratch))
        for tool in group.tools:
            (Path(scratch) / tool.go_name).replace(path(tool.name))
    say(f"built {group.name} {group.version} in {time.monotonic() - started:.0f} s")


def _go_env() -> dict[str, str]:
    # GOWORK and GOFLAGS of the user's shell must not change what is built.
    # GOGC is the compiler's: it takes 7 % less time with more memory.
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "", "GOGC": "400"}


def _go_build(group: Group, output: Path) -> bool:
    command = ["go", "build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false"]
    command += ["-ldflags", group.ldflags, "-o", f"{output}/"]
    if group.patches:
        with Heartbeat(f"{group.name}: fetching and patching"):
            command += [f"-modfile={_patched(group, output)}"]
    command += [tool.package for tool in group.tools]
    return go_build(group.name, command, group.folder, _go_env())


def _patched(group: Group, scratch: Path) -> Path:
    """Patch a copy of the module and return a go.mod that builds from the copy."""
    copy = scratch / "module"
    shutil.rmtree(copy, ignore_errors=True)
    _copy_writable(_module_folder(group), copy)
    for patch in group.patches:
        file = copy / patch.file
        text = file.read_text(encoding="utf-8")
        if text.count(patch.old) != 1:
            raise ToolError(
                f"{group.name} {group.version}: {patch.file} has {text.count(patch.old)} times "
                f"{patch.old!r}, expected once; adapt the patch in tests/tools/table.py"
            )
        file.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
    modfile = scratch / "go.mod"
    own = (group.folder / "go.mod").read_text(encoding="utf-8")
    modfile.write_text(f"{own}\nreplace {group.module} => {copy}\n", encoding="utf-8")
    shutil.copyfile(group.folder / "go.sum", scratch / "go.sum")
    return modfile


def _copy_writable(source: Path, target: Path) -> None:
    """Copy a folder of Go's read-only module cache so that it can be changed and removed."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for entry in [target, *target.rglob("*")]:
        entry.chmod(0o755 if entry.is_dir() else 0o644)


def _module_folder(group: Group) -> Path:
    command = ["go", "mod", "download", "-json", f"{group.module}@{group.version}"]
    done = subprocess.run(command, cwd=group.folder, env=_go_env(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(f"{group.name} {group.version}: {done.stderr.strip() or done.stdout}")
    return Path(json.loads(done.stdout)["Dir"])


def _copy_manifests(group: Group, scratch: Path) -> None:
    module = _module_folder(group)
    copy = scratch / "manifests"
    for folder in group.manifests:
        _copy_writable(module / folder, copy / folder)
    target = manifests(group.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    copy.replace(target)
