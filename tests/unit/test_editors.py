"""What an editor shows of values files, by the real yaml-language-server (U05)."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.editor import Editor, opened
from tests.unit.pages import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = sorted((ROOT / "values").rglob("*.yaml"))


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with opened() as found:
        yield found


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_example_has_no_error_and_a_planted_one_is_found(editor: Editor, file: Path) -> None:
    assert editor.complaints(file) == []
    planted = file.read_text("utf-8") + "\ntrainig: {}\n"
    assert editor.complaints(file, planted) == ["Property trainig is not allowed."]


def test_a_file_written_elsewhere_is_checked(editor: Editor, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    program = Path(sys.executable).with_name("neva-values")
    command = [str(program), "--gpus", "8", "--output", "values.yaml"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert editor.complaints(file) == []
    wrong = file.read_text("utf-8").replace("nodes: 1", "nodes: one")
    assert editor.complaints(file, wrong) == ['Incorrect type. Expected "integer".']
