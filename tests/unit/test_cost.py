"""The cost model against the calibration, against its own formulas, and against physics."""

from dataclasses import replace
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import A100, GIB, GPUS, H100, H200
from neva_pretrain.plan.memory import memory
from neva_pretrain.plan.setup import Basis, Setup
from neva_pretrain.plan.time import launch_floor, step_time, useful_flops
from tests.calibration import runs

RUNS = list(runs())


def setup_of(name: str = "llama2_7b_chat", **changes: object) -> Setup:
    base = Setup(
        model=catalog.get(name),
        gpu=H100,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        data_parallel_size=8,
        micro_batch_size=8,
        accumulation=4,
        tokens_per_sample=catalog.get(name).tokens_per_sample,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """Draw any setup of the catalog that the rules allow."""
    model = catalog.get(draw(st.sampled_from(catalog.names())))
    tensor = draw(st.sampled_from([1, 2, 4, 8]))
    return Setup(
        model=model,
        gpu=draw(st.sampled_from(list(GPUS.values()))),
        tensor_parallel_size=tensor,
        pipeline_parallel_size=draw(st.sampled_from([1, 2, 4])),
        data_parallel_size=draw(st.sampled_from([1, 2, 8, 1024])),
        micro_batch_size=draw(st.integers(1, 64)),
        accumulation=draw(st.integers(1, 16)),
        tokens_per_sample=64 * draw(st.integers(12, 32)),
        kernels=draw(st.sampled_from(["reference", "fused", "fp8"])),
        sequence_parallel=tensor > 1 and draw(st.booleans()),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
    )


class TestCalibration:
    def test_memory_of_every_run(self) -> None:
        """Mean error at most 1 %, none above 4 %, over all runs that fitted."""
        errors = [abs(memory(run.setup).peak / run.peak_bytes - 1) for run in RUNS if not run.ran_out_of_memory]
        assert len(errors) == 212
        assert mean(errors) <= 0.01
        assert max(errors) <= 0.04

    def test_every_run_out_of_memory_is_predicted(self) -> None:
        lost = [run for run in RUNS if run.ran_out_of_memory]
        assert len(lost) == 4
        assert all(memory(run.setup).headroom(H100) < 0 for run in lost)

    def test_refused_runs_that_fitted_had_nothing_to_spare(self) -> None:
        """The reserve refuses four runs that fitted, each with less than 1.3 GiB left."""
        fitted = [run for run in RUNS if not run.ran_out_of_memory]
        refused = [run for run in fitted if memory(run.setup).headroom(run.setup.gpu) < 0]
        assert len(refused) == 4
        assert all(run.used_bytes and H100.memory_bytes - run.used_bytes < 1.3 * GIB for run in refused)

    def test_total_covers_what_the_device_used(self) -> None:
        """Whatever a run held, allocator and NCCL included, is at most 1.5 GiB above the total.

        The excess is NCCL's: processes that made several communicators, one for each test.
        """
        fitted = [run for run in RUNS if not run.ran_out_of_memory]
        excess = [run.used_bytes - memory(run.setup).total for run in fitted if run.used_bytes is not None]
        assert len(excess) == 193
        assert max(excess) <= 1.5 * GIB
        assert mean(excess) < 0

    def test_time_of_runs_in_the_domain(self) -> None:
        """Mean error at most 2 %, none above 6 %.

        The domain is in ``Run.is_timed``: the kernels profiles, 640 to 704 tokens, any TP, at
        least 10 % above the launch floor. Left out are 24 rows with NaN data and 4 out of memory,
        31 with kernels that are no profile, 2 of 1024 tokens, and 24 that the CPU paced.
        """
        errors = [abs(run.predicted_ms / run.ms - 1) for run in RUNS if run.is_timed]
        assert len(errors) == 131
        assert mean(errors) <= 0.02
        assert max(errors) <= 0.06

    @pytest.mark.parametrize(("kernels", "bias"), [("reference", 0.01), ("fused", 0.01), ("fp8", 0.02)])
    def test_time_has_little_bias(self, kernels: str, bias: float) -> None:
        errors = [r.predicted_ms / r.ms - 1 for r in RUNS if r.is_timed and r.profile == kernels]
        assert abs(mean(errors)) <= bias

    def test_source_log(self) -> None:
        """The launcher's published log: 7B at TP 4 and MBS 32, 0.54 s a step of 1024 samples.

        2.22e6 samples after 2169 steps give the batch. It does not name the GPUs: with the 128 of
        its example command the model agrees; with 32 it would beat the peak of an H100.
        """
        setup = setup_of(tensor_parallel_size=4, data_parallel_size=32, micro_batch_size=32, accumulation=1)
        assert (setup.world_size, setup.global_batch_size) == (128, 1024)
        assert step_time(setup).total == pytest.approx(540, rel=0.06)
        assert useful_flops(setup.model, 640) * 1024 / 32 / 0.54 > H100.peak_tflops * 1e12


class TestCalibratedFormulas:
    """For the calibrated shapes the general formulas are the calibration's own."""

    @pytest.mark.parametrize(
        ("name", "h", "f", "n", "layers"),
        [
            ("llama2_7b_chat", 4096, 11008, 32, 32),
            ("llama2_13b_chat", 5120, 13824, 40, 40),
        ],
    )
    @pytest.mark.parametrize("tp", [1, 2, 4, 8])
    @pytest.mark.parametrize(("kernels", "u"), [("reference", 6), ("fused", 4)])
    @pytest.mark.parametrize("sp", [False, True])
    def test_memory(
        self,
        name: str,
        h: int,
        f: int,
        n: int,
        layers: int,
        tp: int,
        kernels: str,
        u: int,
        sp: bool,
    ) -> None:
        mbs, seq = 16, 640
        tokens = mbs * seq
        v = -(-32008 // (128 * tp)) * 128 * tp
        weights = 2 * (layers * ((4 * h * h + 3 * h * f) // tp + 2 * h) + 2 * v * h // tp + h)
        trained = 18 * (1024 * h + h + h * h + h)
        kept = 4 * h / (tp if sp else 1) + (8 * h + u * f) / tp + 8 + 4 * n / tp
        media = mbs * (576 * (8 * h + 2048 + 4 * h) + 3 * 336 * 336 * 4)
        logits = tokens * (6 * v / tp + 4 * h)
        expected = weights + 2 * 303_507_456 + trained + tokens * layers * kept + media + logits

        setup = setup_of(
            name,
            tensor_parallel_size=tp,
            micro_batch_size=mbs,
            kernels=kernels,
            sequence_parallel=sp,
        )
        assert memory(setup).peak == pytest.approx(expected, abs=2)

    def test_time(self) -> None:
        """7B, TP 2, MBS 16: each term of the calibrated sum."""
        h, f, layers, tp, tokens, seq = 4096, 11008, 32, 2, 16 * 640, 640
        v = 32256
        parts = step_time(setup_of(tensor_parallel_size=2, micro_batch_size=16, accumulation=1)).parts
        tflop = tokens * (4 * layers * (4 * h * h + 3 * h * f) + 4 * h * v) / tp / 1e12
        assert parts.gemm == pytest.approx(1.421 * tflop)
        assert parts.attention == pytest.approx(7 * tokens * seq * h * layers / tp / 1e9 / 162.5)
        norms = 2 * tokens * layers * h / 1e9
        rest = 2 * tokens * layers * (2 * h + f) / tp / 1e9
        assert parts.elementwise == pytest.approx(11.69 * norms + 12.99 * rest)
        assert parts.vision == pytest.approx(2.97 * 16)
        ring = 0.028 + 2 * tokens * h / 315e6
        assert parts.tp_communication == pytest.approx(1.15 * 130 * ring)
        assert parts.idle == 0

    def test_vision_has_a_launch_floor(self) -> None:
        """CLIP alone takes 21 ms for up to four images, measured."""
        assert step_time(setup_of(micro_batch_size=4, accumulation=1)).parts.vision == 21.0


class TestGeneralModels:
    def test_grouped_queries_keep_and_weigh_less(self) -> None:
        whole = setup_of("llama3_8b_chat")
        llm = replace(whole.model.architecture, num_query_groups=32)
        every = replace(whole, model=replace(whole.model, architecture=llm))
        assert memory(whole).parts.activations < memory(every).parts.activations
        assert memory(whole).parts.weights < memory(every).parts.weights
        assert step_time(whole).parts.gemm < step_time(every).parts.gemm
        assert step_time(whole).parts.attention == step_time(every).parts.attention

    def test_experts_all_weigh_but_few_compute(self) -> None:
        mixtral = setup_of("mixtral_8x7b_instruct")
        dense = setup_of("mistral_7b_instruct")
        assert 6 < memory(mixtral).parts.weights / memory(dense).parts.weights < 7
        assert 1.5 < step_time(mixtral).parts.gemm / step_time(dense).parts.gemm < 2

    def test_weights_are_the_catalogs(self) -> None:
        """On one GPU two bytes for each parameter, but for the vocabulary's padding."""
        for name in catalog.names():
            model = catalog.get(name)
            weights = memory(setup_of(name)).parts.weights
            assert weights == pytest.approx(2 * model.architecture.parameters, rel=0.002)

    @pytest.mark.parametrize(
        ("name", "millions"),
        [("llama2_7b_chat", 21), ("llama2_13b_chat", 31.5), ("nemotron4_340b_chat", 21.3)],
    )
    def test_projector(self, name: str, millions: float) -> None:
        assert catalog.get(name).projector_parameters / 1e6 == pytest.approx(millions, rel=0.01)

    def test_downsampling_projector_takes_four_patches(self) -> None:
        model = catalog.get("mistral_7b_instruct")
        assert model.image_tokens == 144
        assert model.projector_parameters == 2 * 4096 + 4096 * 4096 * 2 + 2 * 4096

    def test_pipeline_halves_weights_but_not_activations(self) -> None:
        """Two stages: half the layers each, two micro batches in flight on the first."""
        one = setup_of("nemotron4_340b_chat", tensor_parallel_size=8, micro_batch_size=1)
        two = replace(one, pipeline_parallel_size=2, data_parallel_size=4)
        assert memory(two).parts.weights == pytest.approx(memory(one).parts.weights / 2, rel=0.03)
        assert memory(two).parts.activations == memory(one).parts.activations

    def test_pipeline_bubble_is_one_micro_batch(self) -> None:
        two = setup_of("nemotron4_340b_chat", tensor_parallel_size=8, pipeline_parallel_size=2)
        parts = step_time(two).parts
        work = sum(parts) - parts.pp_bubble - parts.dp_allreduce
        assert parts.pp_bubble == pytest.approx(work / two.accumulation)

    def test_a_save_is_shared_by_the_steps_between_two(self) -> None:
        """Projector only: 14 bytes for each of its 21 million parameters, at 1 GB/s."""
        plain = setup_of()
        often, seldom = (step_time(replace(plain, checkpoint_interval=n)) for n in (10, 100))
        assert step_time(plain).parts.checkpoint == 0
        assert often.parts.checkpoint == pytest.approx(10 * seldom.parts.checkpoint)
        assert 0.2 < often.parts.checkpoint * 10 / 1000 < 0.4
        assert often.working == pytest.approx(step_time(plain).total)
        assert often.samples_per_second_per_gpu == step_time(plain).samples_per_second_per_gpu

    def test_full_recompute_trades_memory_for_time(self) -> None:
        """1.42 times slower at 7B, measured, and most activations gone."""
        plain = setup_of(micro_batch_size=16)
        full = replace(plain, recompute="full")
        assert step_time(full).total / step_time(plain).total == pytest.approx(1.42, abs=0.02)
        assert memory(full).parts.activations < memory(plain).parts.activations / 10

    def test_other_gpus_scale_with_their_data_sheets(self) -> None:
        h100, h200, a100 = (
            step_time(setup_of(gpu=gpu, tensor_parallel_size=4, micro_batch_size=32)) for gpu in GPUS.values()
        )
        assert h200.parts.gemm == h100.parts.gemm
        assert h200.parts.elementwise == pytest.approx(h100.parts.elementwise * 3.35 / 4.8)
        assert a100.parts.gemm == pytest.approx(h100.parts.gemm * 989.4 / 312)
        assert a100.total > h100.total > h200.total

    @pytest.mark.parametrize("tp", [1, 2])
    def test_faster_memory_is_no_gain_at_the_power_limit(self, tp: int) -> None:
        h100, h200 = (step_time(setup_of(gpu=gpu, tensor_parallel_size=tp)) for gpu in (H100, H200))
        assert h200.total == h100.total


class TestBasis:
    @pytest.mark.parametrize(
        ("changes", "time", "used"),
        [
            ({}, Basis.MEASURED, Basis.MEASURED),
            ({"kernels": "fused"}, Basis.MEASURED, Basis.MEASURED),
            ({"tensor_parallel_size": 2}, Basis.MEASURED, Basis.MEASURED),
            ({"tensor_parallel_size": 4}, Basis.MODELLED, Basis.MEASURED),
            ({"tensor_parallel_size": 2, "kernels": "fused"}, Basis.MODELLED, Basis.MEASURED),
            ({"kernels": "fp8"}, Basis.MEASURED, Basis.MEASURED),
            ({"tensor_parallel_size": 2, "kernels": "fp8"}, Basis.MODELLED, Basis.MEASURED),
            ({"gpu": H200, "kernels": "fp8"}, Basis.MODELLED, Basis.MEASURED),
            ({"recompute": "full"}, Basis.MEASURED, Basis.MEASURED),
            ({"recompute": "selective"}, Basis.MODELLED, Basis.MEASURED),
            ({"tokens_per_sample": 1024}, Basis.EXTRAPOLATED, Basis.MEASURED),
            ({"tokens_per_sample": 2048}, Basis.EXTRAPOLATED, Basis.EXTRAPOLATED),
            ({"pipeline_parallel_size": 2}, Basis.EXTRAPOLATED, Basis.EXTRAPOLATED),
            ({"gpu": H200}, Basis.MEASURED, Basis.MEASURED),
            ({"gpu": H200, "tensor_parallel_size": 8, "kernels": "fused"}, Basis.MEASURED, Basis.MEASURED),
            ({"gpu": H200, "recompute": "full"}, Basis.MODELLED, Basis.MEASURED),
            ({"gpu": H200, "tensor_parallel_size": 2, "sequence_parallel": True}, Basis.MODELLED, Basis.MEASURED),
            ({"gpu": H200, "tokens_per_sample": 704}, Basis.EXTRAPOLATED, Basis.MEASURED),
            ({"gpu": A100}, Basis.EXTRAPOLATED, Basis.EXTRAPOLATED),
        ],
    )
    def test_by_setup(self, changes: dict[str, object], time: Basis, used: Basis) -> None:
        setup = replace(setup_of(), **changes)  # type: ignore[arg-type]
        assert step_time(setup).basis == time
        assert memory(setup).basis == used

    @pytest.mark.parametrize("name", catalog.names()[2:])
    def test_other_models_are_extrapolated(self, name: str) -> None:
        assert step_time(setup_of(name)).basis == Basis.EXTRAPOLATED


class TestProperties:
    @given(setups())
    def test_parts_are_the_whole(self, setup: Setup) -> None:
        used, time = memory(setup), step_time(setup)
        assert used.total == sum(used.parts)
        assert used.peak + used.parts.reserve + used.parts.context == used.total
        assert used.headroom(setup.gpu) == setup.gpu.memory_bytes - used.total
        assert time.total == sum(time.parts)
        assert min(used.parts) >= 0
        assert min(time.parts) >= 0

    @given(setups())
    def test_no_step_beats_physics(self, setup: Setup) -> None:
        """A step takes at least its useful FLOPs at the GPU's peak, and as long as its launches."""
        time = step_time(setup)
        flops = useful_flops(setup.model, setup.tokens_per_sample) * setup.global_batch_size
        peak = setup.gpu.peak_tflops * 1e12 * setup.world_size
        assert time.total / 1000 >= flops / peak * (1 - 1e-9)
        assert 0 < time.mfu <= 1
        assert time.total >= launch_floor(setup) * setup.accumulation * (1 - 1e-9)

    @given(setups(), st.floats(1e-3, 1))
    def test_a_gpu_too_slow_for_its_constants_still_obeys(self, setup: Setup, share: float) -> None:
        """The limit holds by construction, not because the constants happen to be slow."""
        weak = replace(setup.gpu, peak_tflops=setup.gpu.peak_tflops * share, memory_tb_s=1e6)
        assert step_time(replace(setup, gpu=weak)).mfu <= 1

    @given(setups().filter(lambda s: s.tensor_parallel_size <= 4))
    def test_twice_the_tensor_parallel_halves_what_it_splits(self, setup: Setup) -> None:
        """Matrices, attention and their tensors halve; the tower, projector and norms do not."""
        setup = replace(setup, pipeline_parallel_size=1, sequence_parallel=False)
        if setup.tensor_parallel_size == 2 and setup.gpu == H200:
            setup = replace(setup, gpu=H100)  # from TP 4 on an H200 also gains from its memory
        twice = replace(setup, tensor_parallel_size=setup.tensor_parallel_size * 2)
        ours, theirs = memory(setup).parts, memory(twice).parts
        assert ours.weights / 2 * 0.999 <= theirs.weights < ours.weights * 0.53
        assert theirs.vision == ours.vision
        assert theirs.projector_and_optimizer == ours.projector_and_optimizer
        assert theirs.media == ours.media
        assert ours.activations / 2 <= theirs.activations + 1
        assert theirs.activations <= ours.activations
        one, two = step_time(setup).parts, step_time(twice).parts
        assert two.attention == pytest.approx(one.attention / 2)
        assert two.gemm == pytest.approx(one.gemm / 2, rel=0.01)
        assert one.elementwise / 2 < two.elementwise < one.elementwise
        assert two.vision == one.vision

    @given(setups().filter(lambda s: s.micro_batch_size < 64))
    def test_memory_grows_with_the_micro_batch(self, setup: Setup) -> None:
        more = replace(setup, micro_batch_size=setup.micro_batch_size + 1)
        assert memory(more).total > memory(setup).total

    @given(setups().filter(lambda s: s.tensor_parallel_size > 1))
    def test_sequence_parallel_saves_memory_and_no_time(self, setup: Setup) -> None:
        off, on = (replace(setup, sequence_parallel=flag) for flag in (False, True))
        assert memory(on).total <= memory(off).total
        assert step_time(on).total == step_time(off).total

    @given(setups())
    def test_fp8_needs_two_bytes_a_weight_of_the_layers_more(self, setup: Setup) -> None:
        fused = replace(setup, kernels="fused", pipeline_parallel_size=1)
        fp8 = replace(fused, kernels="fp8")
        llm = setup.model.architecture
        weights = llm.num_layers * llm.layer_matrix(llm.num_experts) // setup.tensor_parallel_size
        assert memory(fp8).peak - memory(fused).peak == pytest.approx(2 * weights, abs=4)

    @given(setups())
    def test_accumulation_shares_the_cast_to_fp8(self, setup: Setup) -> None:
        one, two = (replace(setup, kernels="fp8", accumulation=n, pipeline_parallel_size=1) for n in (1, 2))
        assert step_time(two).total <= 2 * step_time(one).total

    @given(setups())
    def test_fused_kernels_never_need_more(self, setup: Setup) -> None:
        plain, fused = (replace(setup, kernels="reference"), replace(setup, kernels="fused"))
        assert memory(fused).total <= memory(plain).total
