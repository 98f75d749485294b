"""The bar that NeMo's training draws, by Lightning's own code, through the monitor's parser (no control plane)."""

import io
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neva_pod.monitor.judge import judge
from tests.unit.monitor.nemo_logs import padded, run_of, steps

pytestmark = pytest.mark.e2e

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
"""NeMo's CustomProgressBar sets this format on Lightning's bar (tag r2.0.0rc1)."""

NUMBERS = st.floats(-1e300, 1e300) | st.sampled_from(
    [math.nan, math.inf, -math.inf, 1e-5, 2e-5, -0.0, 1e22, 123456.0, 1000.0]
)


@pytest.fixture(scope="module")
def bars() -> type[Any]:
    """Return Lightning's tqdm; it needs torch, so it is imported where the tests run only."""
    from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

    found: type[Any] = Tqdm
    return found


def draw(bars: type[Any], n: int, total: int | None, metrics: dict[str, object]) -> str:
    """Draw one bar as Lightning's TQDMProgressBar does after a batch."""
    screen = io.StringIO()
    bar = bars(desc="Epoch 0: ", total=total, file=screen, dynamic_ncols=True, smoothing=0, bar_format=FORMAT)
    bar.n = n
    bar.set_postfix(metrics)
    bar.disable = True  # no last drawing
    return screen.getvalue()


@settings(deadline=None)
@given(value=NUMBERS)
def test_x01_the_unit_tests_pad_as_lightning_does(bars: type[Any], value: float) -> None:
    """X01: what the tests that need no torch are written with is what is printed."""
    assert padded(value) == bars.format_num(value)


@settings(deadline=None)
@given(
    loss=NUMBERS,
    step=st.integers(1, 10**6),
    samples=NUMBERS,
    grad_norm=NUMBERS,
    total=st.sampled_from([None, 5, 10**7]),
)
def test_x01_whatever_lightning_prints_is_read(
    bars: type[Any], loss: float, step: int, samples: float, grad_norm: float, total: int | None
) -> None:
    """X01: every number comes back within the three digits that tqdm keeps."""
    metrics = {"v_num": "", "reduced_train_loss": loss, "global_step": float(step), "consumed_samples": samples}
    found = steps(draw(bars, step + 1, total, {**metrics, "grad norm [损失]": grad_norm, "tokens": step}))[-1]
    assert abs(found.global_step - step) <= found.step_error
    for read, logged in ((found.loss, loss), (found.consumed_samples, samples)):
        assert read is not None
        assert read == logged or (math.isnan(read) and math.isnan(logged)) or math.isclose(read, logged, rel_tol=6e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["reduced_train_loss", "grad_norm"])
def test_x01_a_loss_that_is_not_finite_is_judged(bars: type[Any], name: str, bad: float) -> None:
    """X01: three steps in a row are a failure; a gradient norm alone is none."""
    metrics: dict[str, object] = {"reduced_train_loss": 2.5, "grad_norm": 1.0, name: bad}
    run = run_of("".join(draw(bars, n + 1, 100, {**metrics, "global_step": float(n)}) for n in range(3)))
    assert run.completed == 3
    assert [j.code for j in judge(run, 1.0)] == (["nan"] if name == "reduced_train_loss" else [])
