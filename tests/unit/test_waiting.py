"""The tests' own waits hold on a loaded machine (U16)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SHORTEST = 120
WAITING = {"wait", "communicate", "join", "result", "run", "urlopen", "kubectl", "wait_for", "wait_for_phase"}


def short_waits(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that give up after less than ``SHORTEST`` seconds; what a lambda asks is asked again."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WAITING:
            limits = [k.value for k in node.keywords if k.arg == "timeout"]
            limits += node.args if node.func.attr == "wait" else []
            for limit in limits:
                if isinstance(limit, ast.Constant) and isinstance(limit.value, int | float) and limit.value < SHORTEST:
                    yield node.lineno
        yield from short_waits(node)


@pytest.mark.parametrize("file", sorted(TESTS.glob("**/test_*.py")), ids=lambda file: file.stem)
def test_u16_no_wait_is_too_short_for_a_slow_machine(file: Path) -> None:
    assert list(short_waits(ast.parse(file.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("process.wait(20)", [1]),
        ("process.wait(timeout=5.5)", [1]),
        ("subprocess.run(x, timeout=60)", [1]),
        ("box.wait(lambda: urllib.request.urlopen(x, timeout=1), 'up')", []),
        ("process.wait(PATIENCE)", []),
        ("process.wait(120)", []),
    ],
)
def test_short_waits_are_found(source: str, found: list[int]) -> None:
    assert list(short_waits(ast.parse(source))) == found
