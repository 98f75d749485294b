"""Pinned Go tools of the tests, built once from source into the user's cache.

Versions live in one place: the ``go.mod`` beside this file in each group's folder.
"""

from tests.tools.build import ToolError, cache_root, ensure, manifests, path
from tests.tools.table import GROUPS, TOOLS, Group, Tool

__all__ = [
    "GROUPS",
    "TOOLS",
    "Group",
    "Tool",
    "ToolError",
    "cache_root",
    "ensure",
    "manifests",
    "path",
]
