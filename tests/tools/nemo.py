"""Single functions of NVIDIA's own NeMo, the container's version, taken out of its wheel.

The wheel (4 MB) is downloaded once into the cache of the tools. Its dependencies, torch among them, are not needed: a
function is compiled alone, in a namespace that the caller gives.
"""

from __future__ import annotations
import __future__

import ast
import fcntl
import subprocess
import sys
import warnings
import zipfile
from typing import Any

from tests.tools.build import cache_root

WHEEL = "nemo_toolkit-2.0.0rc1-py3-none-any.whl"


def source(path: str) -> str:
    """Return a file of the wheel."""
    folder = cache_root() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / WHEEL).exists():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
            subprocess.run([*command, "nemo_toolkit==2.0.0rc1", "--dest", str(folder)], check=True)
    with zipfile.ZipFile(folder / WHEEL) as wheel:
        return wheel.read(path).decode()


def take(path: str, *names: str, **namespace: Any) -> dict[str, Any]:
    """Return functions, methods or classes of one of NeMo's files by name, compiled in the namespace given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in its regular expressions
        tree = ast.parse(source(path))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and _names(node) & {*names}]
    module = ast.Module(body=found, type_ignores=[])
    code = compile(module, path, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
    exec(code, namespace)  # noqa: S102 (NVIDIA's code, of a pinned version)
    return namespace


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {t.id for t in node.targets if isinstance(t, ast.Name)} if isinstance(node, ast.Assign) else set()
