"""Building: once, whole or not at all, with errors that say what to do. Go is played by a script."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools import GROUPS, TOOLS, ToolError, ensure, path, progress
from tests.waiting import PATIENCE

FAKE_GO = """#!/bin/sh
echo run >> "$LOG"
echo 'go: downloading example.org/a v1.2.3' >&2
echo example.org/a >&2
[ -z "$UNTIL" ] || until [ -e "$UNTIL" ]; do sleep 0.05; done
[ "$(wc -l < "$LOG")" -gt "$FAILURES" ] || echo 'a.go:3: undefined: b' >&2
[ "$(wc -l < "$LOG")" -gt "$FAILURES" ] || exit 1
sleep 0.3
for word in "$@"; do
  if [ "$previous" = -o ]; then output=$word; fi
  previous=$word
done
echo '#!/bin/sh' > "$output/kubeconform"
"""

FakeGo = Callable[[int], Path]


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    """Put a Go first on PATH that fails so many times; returns the file that counts its runs."""

    def install(failures: int) -> Path:
        script = tmp_path / "bin" / "go"
        script.parent.mkdir()
        script.write_text(FAKE_GO, encoding="utf-8")
        script.chmod(0o755)
        log = tmp_path / "runs"
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("LOG", str(log))
        monkeypatch.setenv("FAILURES", str(failures))
        monkeypatch.setenv("NEVA_CACHE", str(tmp_path / "cache"))
        return log

    return install


def test_u15_a_long_build_says_how_far_it_is(
    fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The stand-in's build ends only once a line of progress has been seen."""
    fake_go(0)
    go_on, said = tmp_path / "go-on", []

    def told(text: str) -> None:
        said.append(text)
        if "compiled" in text:
            go_on.touch()

    monkeypatch.setenv("UNTIL", str(go_on))
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    monkeypatch.setattr(progress, "say", told)
    ensure("kubeconform")
    assert any("kubeconform: 1 packages compiled, now example.org/a, " in text for text in said)


def test_what_the_compiler_said_is_shown_on_failure(fake_go: FakeGo, capfd: pytest.CaptureFixture[str]) -> None:
    fake_go(2)
    with pytest.raises(ToolError):
        ensure("kubeconform")
    said = capfd.readouterr().err
    assert "a.go:3: undefined: b" in said
    assert "downloading" not in said
    assert "tools: 1 of 1: building kubeconform" in said


@pytest.mark.parametrize("group", GROUPS.values(), ids=lambda group: group.name)
def test_every_group_pins_its_module(group: object) -> None:
    assert getattr(group, "version", "").startswith("v")


def test_names_do_not_collide() -> None:
    assert len(TOOLS) == sum(len(group.tools) for group in GROUPS.values())


def test_a_built_tool_is_reused(fake_go: FakeGo) -> None:
    log = fake_go(0)
    ensure("kubeconform")
    ensure("kubeconform")
    assert log.read_text(encoding="utf-8").splitlines() == ["run"]
    assert path("kubeconform").name == f"kubeconform-{GROUPS['kubeconform'].version}"


def test_a_first_failure_is_retried_once(fake_go: FakeGo) -> None:
    log = fake_go(1)
    ensure("kubeconform")
    assert len(log.read_text(encoding="utf-8").splitlines()) == 2


def test_a_second_failure_is_an_error_and_leaves_nothing(fake_go: FakeGo, tmp_path: Path) -> None:
    fake_go(2)
    with pytest.raises(ToolError, match=r"kubeconform v.*: go build failed"):
        ensure("kubeconform")
    assert list((tmp_path / "cache" / "neva-pretrain" / "bin").iterdir()) == []


def test_two_builds_at_once_build_once(fake_go: FakeGo) -> None:
    log = fake_go(0)
    command = [sys.executable, "-m", "tests.tools", "build", "kubeconform"]
    first, second = (subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2))
    told = [process.communicate(timeout=PATIENCE)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(log.read_text(encoding="utf-8").splitlines()) == 1
    assert any("waiting for another build" in text for text in told)


def test_a_missing_go_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NEVA_CACHE", str(tmp_path))
    with pytest.raises(ToolError, match="go: not on PATH; needed once to build kubeconform"):
        ensure("kubeconform")


def test_an_unknown_tool_is_named_with_those_that_exist() -> None:
    with pytest.raises(ToolError, match=r"helmm: no such tool; known are .*helm, "):
        ensure("helmm")
