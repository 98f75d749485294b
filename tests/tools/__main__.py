"""Command line of the tools: ``python -m tests.tools build|path|list``."""

import argparse
import sys
from collections.abc import Sequence

from tests.tools.build import ToolError, ensure, path
from tests.tools.table import GROUPS, TOOLS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 ok, 1 a tool could not be had, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what is missing")
    build.add_argument("names", nargs="+", metavar="NAME", help="a tool, a group or 'all'")
    where = commands.add_parser("path", help="print where a tool lies, building nothing")
    where.add_argument("name", metavar="TOOL")
    commands.add_parser("list", help="print every tool, its version and whether it is built")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "build":
            ensure(*_expand(arguments.names))
        elif arguments.command == "path":
            print(path(arguments.name))
        else:
            for name, group in TOOLS.items():
                state = "built" if path(name).exists() else "missing"
                print(f"{name:30} {group.version:10} {state}")
    except ToolError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


def _expand(names: Sequence[str]) -> list[str]:
    tools: list[str] = []
    for name in names:
        if name == "all":
            tools += TOOLS
        elif name in GROUPS:
            tools += [tool.name for tool in GROUPS[name].tools]
        else:
            tools.append(name)
    return tools


if __name__ == "__main__":
    sys.exit(main())
