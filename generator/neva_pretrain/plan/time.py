"""What one optimizer step takes, in ms, by part, and the FLOPs that it is worth."""

from dataclasses import dataclass
from math import log2
from typing import NamedTuple

from neva_pretrain.model.catalog import Model, VisionEncoder
from neva_pretrain.model.hardware import H100, H200, Gpu
from neva_pretrain.plan.setup import BF16, FP32, Basis, Setup, Stage


class TimeParts(NamedTuple):
    """One optimizer step in milliseconds, by what the slowest stage spends it on."""

    gemm: float
    attention: float
    elementwise: float
    vision: float
    tp_communication: float
    idle: float
    pp_bubble: float
    dp_allreduce: float
    checkpoint: float


@dataclass(frozen=True)
class StepTime:
    """One optimizer step; the parts are the whole.

    Rate and ``mfu`` are of a step without its share of a checkpoint, as a trainer logs them.
    ``mfu`` is the useful FLOPs over what the GPU's data sheet allows in that time; at most 1.
    """

    parts: TimeParts
    samples_per_second_per_gpu: float
    mfu: float
    basis: Basis

    @property
    def total(self) -> float:
        """Milliseconds of one optimizer step."""
        return sum(self.parts)

    @property
    def working(self) -> float:
        """Milliseconds of a step that saves nothing."""
        return self.total - self.parts.checkpoint


# Calibration on H100 80GB and H200 SXM, 2026-11. The first four were fitted together on points that keep the
# GPU busy: their sum is what was measured, each alone is not physics.
_GEMM = 1.421  # ms per TFLOP: 704 TFLOP/s
_ATTENTION = 1 / 162.5  # ms per GFLOP of flash attention 2
_REPLICATED = 11.69  # ms per GB through norms and residuals, which each TP rank does whole
_SHARDED = 12.99  # ms per GB through rotary embedding and activation function
_FUSED_GEMM = 1.2  # fused kernels leave no pauses: at its power limit the GPU clocks lower
_FUSED_REST = 0.15  # what fused kernels and cuDNN attention leave of attention and elementwise work
_FP8_GEMM = 0.69  # FP8 over bf16, both at the power limit
_FP8_ELEMENTWISE = 0.51  # fused kernels' share, and the casts of what the matrices multiply
_FP8_CAST = 1.4  # ms per billion weights, once a step
_FP8_LAUNCH = 1.5  # TransformerEngine's scales are more kernels to launch
_RECOMPUTE_REST = 0.4  # share of the elementwise work that the forward pass does
_TP_WITH_POWER_LEFT = 4  # from here on; below it an H200 is no faster than an H100, both held by their 700 W
_VISION_COMPUTE = 1.03  # ms per image of CLIP ViT-L/14 at 336 pixels
_VISION_SOFTMAX = 1.94  # ms per image more with unfused attention, as transformers has it for CLIP
_VISION_FLOOR = 21 / 24  # ms per layer of the tower to launch its kernels
_CLIP = (303_507_456, 577, 24)  # parameters, tokens and layers of that tower
_LAUNCH, _LAUNCH_TP, _LAUNCH_BASE = 4.0, 5.0, 15.0  # ms per layer, with TP, and per micro batch
_ALLREDUCE = {2: (0.028, 315.0), 4: (0.032, 345.0), 8: (0.040, 356.0)}  # ms and GB/s over NVLink, multicast off
_ALLREDUCE_IN_STEP = 1.15  # an all-reduce inside a step, where ranks wait for the slowest, over one alone
_NETWORK_GB_S = 40.0  # 80 % of one 400 Gb/s adapter for each GPU
_NETWORK_HOP = 0.05  # ms
_SAVE_GB_S = 1.0  # one process writes a checkpoint


def step_time(setup: Setup) -> StepTime:
    """Return one optimizer step in ms, by part.

    The slowest stage works ``accumulation`` micro batches; a pipeline of ``p`` stages adds ``p -
    1`` of its micro batches to fill and drain. No step is faster than its useful FLOPs at the GPU's
    peak: what the parts lack to that limit, or to the time the CPU needs to launch the kernels, is
    ``idle``. So a claim beyond the physical limit cannot be made. Not in it: loading of images, the
    hops between pipeline stages, and the up to 6 % that a GPU loses when it has run hot.

    Source: calibration on H100 80GB and H200 SXM, 2026-11.
    """
    stage = max((_micro_batch(setup, stage) for stage in setup.stages), key=sum)
    work = TimeParts(*(part * setup.accumulation for part in stage))
    bubble = (setup.pipeline_parallel_size - 1) * sum(stage)
    elementwise = work.elementwise + _fp8_cast(setup)
    parts = work._replace(elementwise=elementwise, pp_bubble=bubble, dp_allreduce=_dp_allreduce(setup))

    flops = useful_flops(setup.model, setup.tokens_per_sample) * setup.global_batch_size
    limit = flops / setup.world_size / setup.gpu.peak_tflops / 1e9
    parts = parts._replace(idle=parts.idle + max(0.0, limit - sum(parts)))
    total = sum(parts)
    return StepTime(
        parts=parts._replace(checkpoint=_checkpoint(setup)),
        samples_per_second_per_gpu=setup.global_batch_size / total * 1000 / setup.world_size,
        mfu=min(1.0, limit / total),
        basis=_basis(setup),
    )


def speedup(ours: StepTime, theirs: StepTime) -> str:
    """Return how many times as fast as theirs ours is, after the sign of the less certain of the two."""
    ratio = ours.samples_per_second_per_gpu / theirs.samples_per_second_per_gpu
    return f"{max(ours.basis, theirs.basis, key=list(Basis).index).sign}{ratio:.2f}x"


def launch_floor(setup: Setup) -> float:
    """Return the ms that the CPU needs to launch one micro batch, however small it is.

    4 ms a layer, 5 with TP (its all-reduces are launched too), and 15; half as much again with FP8. It depends on
    the host.

    Source: calibration on H100 80GB SXM, 2026-11, rows with few tokens.
    """
    layers = setup.model.architecture.num_layers / setup.pipeline_parallel_size
    floor = layers * (_LAUNCH_TP if setup.tensor_parallel_size > 1 else _LAUNCH) + _LAUNCH_BASE
    return floor * (_FP8_LAUNCH if setup.kernels == "fp8" else 1.0)


def _micro_batch(setup: Setup, stage: Stage) -> TimeParts:
    """Return forward and backward of one micro batch on one stage, in ms.

    GEMMs: 4 FLOP a weight and token (forward 2, gradient of the input 2, none for the frozen
    weight). Flash
    attention: 7 x tokens x sequence x hidden FLOP (causal: 2 forward, 5 backward). Elementwise work
    is bound by memory, so counted in bytes; sequence parallel was measured not to change it. Memory
    faster than the H100's gains nothing where the GPU runs at its power limit: the faster these kernels
    end, the lower it clocks the matrix products. Full
    recompute runs the forward pass once more; selective runs attention's.
    """
    llm, tp, gpu = setup.model.architecture, setup.tensor_parallel_size, setup.gpu
    hidden, tokens = llm.hidden_size, setup.tokens
    compute, stream = H100.peak_tflops / gpu.peak_tflops, H100.memory_tb_s / gpu.memory_tb_s
    if tp < _TP_WITH_POWER_LEFT:
        stream = max(1.0, stream)

    matrices = stage.layers * llm.layer_matrix(llm.experts_per_token)
    matrices += hidden * llm.padded_vocab_size(tp) * stage.last
    gemm = _GEMM * compute * 4 * tokens * matrices / tp / 1e12
    flash = 7 * tokens * setup.tokens_per_sample * hidden * stage.layers / tp / 1e9
    attention = _ATTENTION * compute * flash
    replicated = BF16 * tokens * stage.layers * hidden / 1e9
    activation = llm.ffn_hidden_size * llm.experts_per_token * (1 if llm.gated_mlp else 2 / 3)
    sharded = BF16 * tokens * stage.layers * (hidden + llm.key_value_size + activation) / tp / 1e9
    elementwise = stream * (_REPLICATED * replicated + _SHARDED * sharded)
    if setup.kernels == "fused":
        gemm, attention, elementwise = _FUSED_GEMM * gemm, _FUSED_REST * attention, _FUSED_REST * elementwise
    elif setup.kernels == "fp8":
        gemm, attention, elementwise = _FP8_GEMM * gemm, _FUSED_REST * attention, _FP8_ELEMENTWISE * elementwise
    if setup.recompute == "full":
        gemm, elementwise = gemm * 1.5, elementwise * (1 + _RECOMPUTE_REST)
    if setup.recompute != "none":
        attention *= 1 + 2 / 7

    vision = _vision_time(setup.model.vision, setup.micro_batch_size, compute, stream)
    parts = TimeParts(
        gemm=gemm,
        attention=attention,
        elementwise=elementwise,
        vision=vision if stage.first else 0.0,
        tp_communication=_tp_communication(setup, stage),
        idle=0.0,
        pp_bubble=0.0,
        dp_allreduce=0.0,
        checkpoint=0.0,
    )
    return parts._replace(idle=max(0.0, launch_floor(setup) - sum(parts)))


def _fp8_cast(setup: Setup) -> float:
    """Return the ms in which the frozen weights are cast to FP8, in each step anew.

    Megatron-core's schedule asks for it (``set_is_first_microbatch``), whether they have changed or not.
    """
    if setup.kernels != "fp8":
        return 0.0
    llm, stage = setup.model.architecture, max(setup.stages, key=lambda stage: stage.layers)
    weights = stage.layers * llm.layer_matrix(llm.num_experts) / setup.tensor_parallel_size
    return _FP8_CAST * H100.memory_tb_s / setup.gpu.memory_tb_s * weights / 1e9


def _vision_time(tower: VisionEncoder, images: int, compute: float, stream: float) -> float:
    """Return the tower's forward pass over a micro batch in ms; each TP rank does it whole.

    Linear in images above the time to launch its kernels. Other towers: matrices scale with
    parameters x tokens, the softmax of unfused attention with layers x tokens^2 (both have 16
    heads).

    Source: calibration on H100 80GB SXM, 2026-11, CLIP alone with and without fused attention.
    """
    parameters, clip_tokens, clip_layers = _CLIP
    tokens = tower.patches + tower.class_tokens
    matrices = tower.parameters * tokens / (parameters * clip_tokens)
    softmax = tower.num_layers * tokens**2 / (clip_layers * clip_tokens**2)
    image = _VISION_COMPUTE * compute * matrices + _VISION_SOFTMAX * stream * softmax
    return max(_VISION_FLOOR * tower.num_layers, image * images)


def _ring(size: int, message: float, gpu: Gpu) -> float:
    """Return the ms of one all-reduce of ``message`` bytes between ``size`` GPUs of a node."""
    latency, gb_s = _ALLREDUCE[next((n for n in _ALLREDUCE if n >= size), 8)]
    gb_s *= gpu.nvlink_gb_s / H100.nvlink_gb_s
    return latency + 2 * (size - 1) / size * message / gb_s / 1e6


def _tp_communication(setup: Setup, stage: Stage) -> float:
    """Return the all-reduces of one micro batch between TP ranks, in ms.

    Two forward and two backward in each layer, one for the embedding and one for the output layer,
    bf16 tokens x hidden (Megatron-core ``mappings._reduce``, ``LinearWithFrozenWeight.backward``);
    two more in each layer with full recompute. Sequence parallel moves the same bytes as
    reduce-scatter and all-gather.

    Source: NCCL all-reduce over NVLink with multicast off, calibration 2026-11: two H100, four and
    eight H200, whose links are the same.
    """
    tp, llm = setup.tensor_parallel_size, setup.model.architecture
    if tp == 1:
        return 0.0
    per_layer = 6 if setup.recompute == "full" else 4
    count = per_layer * stage.layers + stage.first + stage.last
    message = BF16 * setup.tokens * llm.hidden_size
    return _ALLREDUCE_IN_STEP * count * _ring(tp, message, setup.gpu)


def _dp_allreduce(setup: Setup) -> float:
    """Return the all-reduce of the projector's fp32 gradients in ms, once a step.

    Inside a node NVLink; between nodes one 400 Gb/s adapter for each GPU at 80 %, and a hop's
    latency for each doubling of the nodes. Modelled: less than 1 % of a step.
    """
    size = setup.data_parallel_size
    if size == 1:
        return 0.0
    message = FP32 * setup.model.projector_parameters
    nodes = setup.world_size / setup.gpus_per_node
    if nodes <= 1:
        return _ring(size, message, setup.gpu)
    return 2 * (size - 1) / size * message / _NETWORK_GB_S / 1e6 + _NETWORK_HOP * log2(nodes)


def save_seconds(setup: Setup) -> float:
    """Return the seconds that saving a checkpoint takes.

    The frozen model is not in it: the projector's weight (bf16), main parameter and two moments
    (fp32), 14 bytes a parameter, while all GPUs wait. 1 GB/s for one writer is an assumption, not
    measured: it depends on the file system.

    Source: NeMo r2.0.0rc1, ``MegatronNevaModel.get_keys_to_keep``.
    """
    return 14 * setup.model.projector_parameters / _SAVE_GB_S / 1e9


def _checkpoint(setup: Setup) -> float:
    """Return a step's share of saving a checkpoint in ms."""
    return save_seconds(setup) * 1000 / setup.checkpoint_interval if setup.checkpoint_interval else 0.0


_START = 50.0  # s until the first step without DataLoader workers: imports, loading, building of the model
_START_WORKER = 17.5  # s more for each worker of a process: NeMo spawns them, and each imports NeMo by itself


def start_seconds(workers: int) -> float:
    """Return the seconds before the first step.

    A line through two runs of NeMo's own code on one H100 with 16 CPU cores: about 85 s with 2 workers, 190 s with 8.
    More processes on a node share its cores and its file system, which no run has measured.

    Args:
        workers: DataLoader workers of each GPU's process (``data.workers``).
    """
    return _START + _START_WORKER * workers


def useful_flops(model: Model, tokens_per_sample: int) -> float:
    """Return the FLOPs of one sample that no implementation can leave out.

    Forward and gradient of the input through each frozen weight (4 a token), causal attention
    without the recompute that flash attention adds (6 x tokens x hidden a token and layer), the
    vision tower forward, the projector in full.
    """
    llm, vision = model.architecture, model.vision
    weights = llm.num_layers * llm.layer_matrix(llm.experts_per_token)
    weights += llm.vocab_size * llm.hidden_size
    attention = 6 * tokens_per_sample * llm.hidden_size * llm.num_layers
    patches = vision.patches + vision.class_tokens
    tower = 2 * vision.parameters * patches
    tower += 4 * patches**2 * vision.hidden_size * vision.num_layers
    projector = 6 * model.projector_parameters * model.image_tokens
    return tokens_per_sample * (4 * weights + attention) + tower + projector


def _basis(setup: Setup) -> Basis:
    """Time was measured for TP 1 and 2 and 640 to 704 tokens; fused, FP8 or recompute at TP 1 only.

    On H200 for 640 tokens at any TP and with both kernel profiles, without recompute or sequence parallelism.
    """
    if not setup.is_calibrated or not 640 <= setup.tokens_per_sample <= (704 if setup.gpu == H100 else 640):
        return Basis.EXTRAPOLATED
    if setup.gpu == H200:
        plain = setup.recompute == "none" and not setup.sequence_parallel
        return Basis.MEASURED if plain and setup.kernels != "fp8" else Basis.MODELLED
    plain = setup.kernels == "reference"
    measured = {
        1: setup.recompute == "none" or (plain and setup.recompute == "full"),
        2: setup.recompute == "none" and plain,
    }
    return Basis.MEASURED if measured.get(setup.tensor_parallel_size) else Basis.MODELLED
