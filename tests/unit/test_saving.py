"""How often a run saves: at most 1 % of the time in saves, at most 15 minutes of work lost."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from neva_pretrain.cli.main import main
from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import H100
from neva_pretrain.plan import saving
from neva_pretrain.plan.plan import Request, make_plan
from neva_pretrain.plan.setup import Setup
from neva_pretrain.plan.time import save_seconds, step_time


def setup_of(name: str, micro: int = 1, accumulation: int = 1, data: int = 1, hidden: int | None = None) -> Setup:
    """A setup at the preset's parallelism; the projector, and with it a save, grows with the square of hidden."""
    model = catalog.get(name)
    if hidden:
        model = replace(model, architecture=replace(model.architecture, hidden_size=hidden))
    preset = model.preset
    return Setup(
        model,
        H100,
        tensor_parallel_size=preset.tensor_parallel_size,
        pipeline_parallel_size=preset.pipeline_parallel_size,
        data_parallel_size=data,
        micro_batch_size=micro,
        accumulation=accumulation,
        tokens_per_sample=model.tokens_per_sample,
    )


SETUPS = st.builds(
    setup_of,
    st.sampled_from(catalog.names()),
    micro=st.sampled_from([1, 8, 32]),
    accumulation=st.sampled_from([1, 16, 512]),
    data=st.sampled_from([1, 64]),
)


@given(setup=SETUPS, max_steps=st.integers(1, 100_000))
def test_both_bounds_hold_for_every_model_of_the_catalog(setup: Setup, max_steps: int) -> None:
    """As far as steps are whole and the run goes: a step that takes longer than 15 minutes is lost whole."""
    steps = saving.interval(setup, max_steps)
    step, save = step_time(setup).working / 1000, save_seconds(setup)
    assert save < 9
    assert 1 <= steps <= max_steps
    assert steps * step <= 900 or steps == 1
    assert save / (steps * step) <= 0.01 or steps == max_steps
    assert list(saving.warnings(replace(setup, checkpoint_interval=steps), max_steps)) == []


def test_where_both_cannot_hold_at_most_15_minutes_are_lost() -> None:
    setup = setup_of("llama2_7b_chat", micro=32, hidden=65536)
    found = saving.bounds(setup)
    assert found.save > 9
    assert found.least > found.most
    assert saving.interval(setup, 10_000) == found.most
    assert saving.why(setup, 10_000) == "at most 15 minutes of work lost"


@pytest.mark.parametrize(
    ("accumulation", "max_steps", "why"),
    [
        (1, 2170, "a tenth of the run"),
        (512, 2170, "at most 15 minutes of work lost"),
        (1, 1360, "at most 1% of the time for saves"),
        (1, 3, "at the end, since the run has no more steps"),
    ],
)
def test_what_decides_is_said(accumulation: int, max_steps: int, why: str) -> None:
    assert saving.why(setup_of("llama2_7b_chat", 8, accumulation), max_steps) == why


def test_a_hand_written_interval_is_warned_of_with_one_that_would_do(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    written = yaml.safe_load(CliRunner().invoke(main, ["--gpus", "8", "--model", "llama2_13b_chat"]).stdout)
    better = written["checkpoint"]["everyNSteps"]
    assert better < make_plan(Request(8, "llama2_13b_chat")).max_steps // 10, "the 15 minutes decide"
    for steps, words in (
        (2170, f"2170 steps are 190 minutes, which a fault may lose; at most 15 would be lost with {better}"),
        (1, f"1 spends 8.4% of the time in saves; at most 1% with {better}"),
        (better, ""),
        (50, ""),
    ):
        file.write_text(yaml.safe_dump({**written, "checkpoint": {"everyNSteps": steps}}))
        said = CliRunner().invoke(main, ["check", str(file)]).stdout
        assert (words in said) if words else ("everyNSteps" not in said), said
    said = CliRunner().invoke(main, ["--gpus", "8", "--model", "llama2_13b_chat", "--save-every", "1", "-v"]).stderr
    assert "checkpoint.everyNSteps: 1 spends" in said
