"""Where NeVa's own data loader can begin, and what preflight says of it."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from neva_pod.preflight.checks.sampler import length_problems, sampler_problems
from neva_pod.settings import Settings
from tests.nemo.judge import ask

pytestmark = pytest.mark.nemo


def refused(samples: int, consumed: int, replicas: int, pipeline: int, model: dict[str, Any]) -> list[str]:
    """Return what preflight says against it."""
    training = {"nodes": replicas, "gpusPerNode": pipeline, "tensorParallelSize": 1, "pipelineParallelSize": pipeline}
    sizes = {"microBatchSize": model["micro_batch_size"], "globalBatchSize": model["global_batch_size"]}
    loader = {"loader": model["data"]["dataloader_type"]}
    settings = Settings({"training": {**training, **sizes}, "samples": loader, "data": {"annotations": "/a.json"}})
    context: Any = SimpleNamespace(settings=settings, samples=lambda: [{}] * samples)
    found = [*length_problems(settings, samples), *sampler_problems(context, "x", consumed)]
    return [finding.message for finding in found if finding.outcome == "failed"]


@examples(max_examples=500, deadline=None)
@given(
    samples=st.integers(1, 300),
    passes=st.integers(0, 60),
    more=st.sampled_from([0, 0, 0, 1, 4, 8]),
    replicas=st.sampled_from([1, 2, 4, 6]),
    micro=st.sampled_from([1, 2, 3, 8]),
    accumulation=st.sampled_from([1, 2, 5]),
    pipeline=st.sampled_from([1, 1, 2]),
    loader=st.sampled_from(["cyclic", "cyclic", "single"]),
)
def test_r03_begins_where_nemos_loader_does(
    samples: int,
    passes: int,
    more: int,
    replicas: int,
    micro: int,
    accumulation: int,
    pipeline: int,
    loader: str,
) -> None:
    """R03: in any epoch, at any batch sizes, with a pipeline, with either loader; more: saved at other sizes."""
    batch = micro * replicas * accumulation
    model = {
        "micro_batch_size": micro,
        "global_batch_size": batch,
        "data": {"dataloader_type": loader, "num_workers": 0},
    }
    case = {
        "samples": samples,
        "consumed": passes * micro * replicas + more,
        "replicas": replicas,
        "pipeline": pipeline,
    }
    said = refused(**case, model=model)
    assert ask("begins", **case, model=model) == (not said), said
