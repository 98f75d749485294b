"""The algebra of a plan: nothing is dropped or rounded, whatever the number of GPUs."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neva_pretrain import generate
from neva_pretrain.chart import values
from neva_pretrain.check import rules
from neva_pretrain.errors import RefusedError
from neva_pretrain.facts import Facts
from neva_pretrain.model import catalog
from neva_pretrain.plan.plan import (
    SAMPLES_PER_EPOCH,
    BatchPolicy,
    Plan,
    Request,
    make_plan,
    micro_batch_for,
    nearest_multiples,
    nodes_for,
    steps_for,
    use,
    warmup_for,
)

NAMES = catalog.names()
POLICIES: list[BatchPolicy] = ["per-node", "fixed"]
counts = st.integers(1, 16384)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Whole nodes of a preset, with any batch policy and length."""
    model = catalog.get(draw(st.sampled_from(NAMES)))
    size = model.preset.tensor_parallel_size * model.preset.pipeline_parallel_size
    nodes = draw(st.integers(1, 2048)) * max(1, size // 8)
    return Request(
        gpus=nodes * 8,
        model=model.name,
        batch_policy=draw(st.sampled_from(POLICIES)),
        epochs=draw(st.none() | st.integers(1, 20)),
    )


def broken(plan: Plan, model: str) -> list[str]:
    """Keys of the rules that a plan breaks."""
    partial = generate.from_plan(plan, catalog.get(model), {})
    return [violation.key for violation in rules.violations(Facts.of(partial))]


class TestPlans:
    @given(request=requests())
    def test_gpus_are_data_x_tensor_x_pipeline(self, request: Request) -> None:
        plan = make_plan(request)
        assert plan.gpus == request.gpus == plan.nodes * plan.gpus_per_node
        assert plan.data_parallel_size * plan.tensor_parallel_size * plan.pipeline_parallel_size == request.gpus
        assert plan.workers + 1 == plan.nodes

    @pytest.mark.slow
    @given(request=requests())
    def test_a_batch_is_whole_micro_batches_or_refused(self, request: Request) -> None:
        """Only when there are more replicas than samples in a batch, or the share is no whole number."""
        plan = make_plan(request)
        exact = plan.accumulation_steps * plan.micro_batch_size * plan.data_parallel_size == plan.global_batch_size
        divides = plan.global_batch_size % plan.data_parallel_size == 0
        assert exact == divides
        assert broken(plan, request.model) == ([] if exact else ["training.globalBatchSize"])
        if exact:
            assert plan.accumulation_steps >= 1

    @given(request=requests())
    def test_a_run_sees_its_epochs_and_less_than_a_batch_more(self, request: Request) -> None:
        plan = make_plan(request)
        wanted = SAMPLES_PER_EPOCH * (request.epochs or 1)
        assert wanted <= plan.samples < wanted + plan.global_batch_size

    @given(request=requests())
    def test_the_same_samples_whatever_the_gpus(self, request: Request) -> None:
        """The source's fixed 2170 steps are 16 epochs on 128 GPUs; here twice the GPUs are half the steps."""
        plan = make_plan(request)
        double = make_plan(Request(**{**vars(request), "gpus": request.gpus * 2}))
        if request.batch_policy == "per-node":
            assert double.max_steps == -(-plan.max_steps // 2) or double.max_steps * 2 in (
                plan.max_steps,
                plan.max_steps + 1,
            )
        else:
            assert double.max_steps == plan.max_steps

    @given(request=requests())
    def test_values_hold_the_plan(self, request: Request) -> None:
        plan = make_plan(request)
        assert Plan.from_values(values.complete({"training": plan.training_values()})) == plan

    @given(request=requests(), steps=st.integers(1, 100_000), batch=counts, micro=st.integers(1, 64))
    def test_what_is_said_is_taken(self, request: Request, steps: int, batch: int, micro: int) -> None:
        said = {"max_steps": steps, "global_batch": batch, "micro_batch": micro, "epochs": None}
        plan = make_plan(Request(**{**vars(request), **said}))
        assert (plan.max_steps, plan.global_batch_size, plan.micro_batch_size) == (steps, batch, micro)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_preset_on_its_own_nodes_is_nvidias(self, name: str) -> None:
        preset = catalog.get(name).preset
        nodes = 4 if name == "nemotron4_340b_chat" else 1
        plan = make_plan(Request(gpus=8 * nodes, model=name, batch_policy="fixed"))
        assert (plan.tensor_parallel_size, plan.pipeline_parallel_size) == (
            preset.tensor_parallel_size,
            preset.pipeline_parallel_size,
        )
        assert plan.micro_batch_size == preset.micro_batch_size
        assert (plan.global_batch_size, plan.max_steps, plan.warmup_steps) == (256, 2170, 70)
        assert plan.sequence_parallel == (name == "mixtral_8x7b_instruct")

    def test_sequence_parallelism_needs_tensor_parallelism(self) -> None:
        assert make_plan(Request(gpus=8, model="mixtral_8x7b_instruct", tensor_parallel=1)).sequence_parallel is False

    def test_an_unknown_model_is_refused(self) -> None:
        with pytest.raises(RefusedError, match="llama9"):
            make_plan(Request(gpus=8, model="llama9"))


class TestNodes:
    @given(nodes=counts, per_node=st.integers(1, 16))
    def test_whole_nodes_are_counted(self, nodes: int, per_node: int) -> None:
        assert nodes_for(nodes * per_node, per_node) == nodes

    @given(gpus=st.integers(1, 200_000), per_node=st.integers(2, 16))
    def test_a_rest_is_refused_with_the_nearest_numbers(self, gpus: int, per_node: int) -> None:
        assume(gpus % per_node)
        with pytest.raises(RefusedError) as caught:
            nodes_for(gpus, per_node)
        (violation,) = caught.value.violations
        assert (violation.key, violation.got) == ("--gpus", str(gpus))
        for near in nearest_multiples(gpus, per_node):
            assert abs(near - gpus) < per_node
            assert str(near) in violation.fix
            assert nodes_for(near, per_node) * per_node == near
        assert (f"--gpus-per-node {gpus}" in violation.fix) == (gpus < per_node)

    def test_12_gpus(self) -> None:
        with pytest.raises(RefusedError, match=r"use 8 or 16$"):
            nodes_for(12, 8)

    @pytest.mark.parametrize("gpus", [0, -8])
    def test_no_gpus_are_no_nodes(self, gpus: int) -> None:
        with pytest.raises(RefusedError):
            nodes_for(gpus, 8)


class TestSteps:
    @given(samples=st.integers(1, 10**9), batch=counts)
    def test_steps_see_at_least_the_samples(self, samples: int, batch: int) -> None:
        steps = steps_for(samples, batch)
        assert (steps - 1) * batch < samples <= steps * batch

    @given(steps=st.integers(1, 10**7))
    def test_warm_up_ends_before_the_run_and_keeps_its_share(self, steps: int) -> None:
        warmup = warmup_for(steps)
        assert 0 <= warmup < steps
        assert abs(warmup - steps * 70 / 2170) <= 1

    def test_the_reference_and_the_sources_scales(self) -> None:
        assert [(steps_for(SAMPLES_PER_EPOCH, 256 * n), n) for n in (1, 4, 16)] == [(2170, 1), (543, 4), (136, 16)]
        assert [warmup_for(steps) for steps in (2170, 543, 136, 1)] == [70, 18, 4, 0]


class TestMicroBatch:
    @given(name=st.sampled_from(NAMES), batch=counts, replicas=st.integers(1, 4096))
    def test_it_is_the_largest_that_divides_a_replicas_share(self, name: str, batch: int, replicas: int) -> None:
        model = catalog.get(name)
        preset = model.preset.micro_batch_size
        micro = micro_batch_for(model, batch, replicas)
        assert 1 <= micro <= preset
        if batch % replicas:
            assert micro == preset
        else:
            share = batch // replicas
            assert share % micro == 0
            assert not any(share % larger == 0 for larger in range(micro + 1, min(preset, share) + 1))


class TestWords:
    @given(value=st.integers(1, 10**6), multiple=st.integers(2, 10**4))
    def test_neighbours_are_positive_multiples_on_both_sides(self, value: int, multiple: int) -> None:
        assume(value % multiple)
        found = nearest_multiples(value, multiple)
        assert found
        assert all(m > 0 and m % multiple == 0 and abs(m - value) < multiple for m in found)
        assert found[-1] > value

    def test_a_fix_is_said_in_words(self) -> None:
        assert use([8, 16]) == "use 8 or 16"
        assert use([8]) == "use 8"
