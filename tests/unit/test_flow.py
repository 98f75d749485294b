"""Data flows one way: request, plan, values, facts, verdict, text. Nothing is derived twice in a command."""

import json
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import click
import pytest
from click.testing import CliRunner

from neva_pretrain.chart.values import complete
from neva_pretrain.cli.main import main
from neva_pretrain.cli.monitor import command as monitor
from neva_pretrain.plan import recorded
from neva_pretrain.plan.plan import Plan

DERIVE = {
    complete.__code__: "complete",
    Plan.from_values.__func__.__code__: "plan",  # type: ignore[attr-defined]  # of a class method
    recorded.setup.__code__: "setup",
}
SITE = "monitoring: {exporter: {enabled: true}}\nrun: {id: run-1}\n"


def derived(command: click.Command, *arguments: str) -> Counter[str]:
    """Run a command and count what it derives, by the functions' own code: however they are imported."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in DERIVE:
            counted[DERIVE[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        result = CliRunner().invoke(command, arguments, standalone_mode=False)
    finally:
        sys.setprofile(before)
    assert result.exception is None, result.output
    return counted


@pytest.fixture
def site(tmp_path: Path) -> str:
    file = tmp_path / "site.yaml"
    file.write_text(SITE)
    return str(file)


@pytest.mark.parametrize("more", [[], ["--optimize"]], ids=["preset", "optimized"])
def test_a_request_becomes_values_once(site: str, more: list[str]) -> None:
    assert derived(main, "--gpus", "16", "--site", site, *more) == {"complete": 1, "plan": 1, "setup": 1}


def test_a_file_is_checked_once(site: str) -> None:
    found = derived(main, "check", "--gpu", "h200-141gb", site)
    assert found == {"complete": 1, "plan": 1, "setup": 1}
    assert derived(main, "check", site, site) == {key: 2 * times for key, times in found.items()}


def test_preflight_needs_no_setup(site: str, tmp_path: Path) -> None:
    assert derived(main, "preflight", "-f", site, "--only", "dataset", "--dataset", str(tmp_path)) == {
        "complete": 1,
        "plan": 1,
    }


def test_a_values_file_replaces_the_record_of_a_run(site: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("")
    (tmp_path / "run.json").write_text(json.dumps({"model": {"name": "llama2_7b_chat"}, "training": {"nodes": 1}}))
    assert derived(monitor, str(tmp_path), "--once", "-f", site) == {"complete": 1, "plan": 1, "setup": 1}
