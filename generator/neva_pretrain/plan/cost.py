"""What one NeVa pretraining step costs a GPU: memory in bytes and time in ms, by part.

In NeVa pretraining only the projector trains. The language model is frozen, so it has no weight
gradients and no optimizer state, but the backward pass still runs through all of it, because the
projector sits in front of it.

The constants come from one calibration: Megatron-core and TransformerEngine on one and two H100
80GB SXM, 2026-11, with the 7B and 13B shapes, 640 to 1024 tokens a sample and tensor parallel
shards of 1, 2, 4 and 8. The test data folder has its rows, ``tests/bench/bench_planner.py`` prints
how well these formulas meet them. Everything is pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import log2
from typing import Literal, NamedTuple

from neva_pretrain.model.catalog import Architecture, Model, VisionEncoder
from neva_pretrain.model.hardware import GIB, H100, Gpu

Kernels = Literal["reference", "fused"]
"""``reference``: as in NVIDIA's presets. ``fused``: SwiGLU, rotary embedding, cuDNN attention."""
Recompute = Literal["none", "selective", "full"]
"""NeMo's ``activations_checkpoint_granularity``."""

BF16, FP32, INT64 = 2, 4, 8  # bytes of one number


class Basis(StrEnum):
    """How far a figure can be trusted."""

    MEASURED = "measured"  # inside the calibrated domain
    MODELLED = "modelled"  # calibrated compute, communication or kernels from a model
    EXTRAPOLATED = "extrapolated"  # another model, GPU or sequence length


@dataclass(frozen=True)
class Setup:
    """One complete way to run a model: everything that memory and time depend on.

    ``accumulation`` counts the micro batches of one optimizer step on one replica;
    ``checkpoint_interval`` the steps between two saves, None for a run that saves nothing.
    ``tokens_per_sample`` is the padded length: NeMo's collator
    (``neva_dataset.DataCollatorForSupervisedDataset``) pads to the longest sample of the micro
    batch in steps of 64, never to ``encoder_seq_length``; that is 640 for one image of 576 tokens
    and a caption of up to 62.
    """

    model: Model
    gpu: Gpu
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    micro_batch_size: int
    accumulation: int
    tokens_per_sample: int
    kernels: Kernels = "reference"
    sequence_parallel: bool = False
    recompute: Recompute = "none"
    gpus_per_node: int = 8
    checkpoint_interval: int | None = None

    @property
    def world_size(self) -> int:
        """GPUs of the job."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step."""
        return self.micro_batch_size * self.accumulation * self.data_parallel_size

    @property
    def tokens(self) -> int:
        """Tokens of one micro batch."""
        return self.micro_batch_size * self.tokens_per_sample


class Stage(NamedTuple):
    """One pipeline stage: where it stands and how many layers it has."""

    first: bool
    last: bool
    layers: int


def _stages(setup: Setup) -> list[Stage]:
    """Return the stages that can be the worst: the only one, or the first and the last.

    The first has the embedding, the vision tower, the projector and the most micro batches in
    flight, the last has the output layer and the loss; those between have less of everything.
    """
    layers = setup.model.architecture.num_layers // setup.pipeline_parallel_size
    if setup.pipeline_parallel_size == 1:
        return [Stage(True, True, layers)]
    return [Stage(True, False, layers), Stage(False, True, layers)]


# ------------------------------------------------------------------------ shapes


def _key_value_size(llm: Architecture) -> int:
    """Channels of the keys, and of the values: the hidden size, less with grouped queries."""
    return llm.num_query_groups * llm.head_size


def _layer_matrix(llm: Architecture, experts: int) -> int:
    """Matrix weights of one layer when ``experts`` of its MLPs count."""
    mlp = (3 if llm.gated_mlp else 2) * llm.hidden_size * llm.ffn_hidden_size
    attention = 2 * llm.hidden_size * (llm.hidden_size + _key_value_size(llm))
    return attention + experts * mlp


def projector_parameters(model: Model) -> int:
    """Trained parameters: everything else is frozen.

    Source: NeMo ``parallel_adapters.MultimodalProjectorAdapter``: a linear layer; two with GELU
    between for ``mlp2x_gelu``; the same behind a norm over 2x2 patches for ``mlp_downsample``.
    """
    vision, hidden = model.vision.hidden_size, model.architecture.hidden_size
    if model.projector == "linear":
        return vision * hidden + hidden
    if model.projector == "mlp_downsample":
        return 2 * 4 * vision + 4 * vision * hidden + hidden + hidden * hidden + hidden
    return vision * hidden + hidden + hidden * hidden + hidden


# ------------------------------------------------------------------------ memory


class MemoryParts(NamedTuple):
    """Memory of the fullest GPU in bytes, by what it holds."""

    weights: int
    projector_and_optimizer: int
    vision: int
    activations: int
    logits: int
    media: int
    reserve: int
    context: int


@dataclass(frozen=True)
class Memory:
    """Memory of the fullest GPU; the parts are the whole."""

    parts: MemoryParts
    basis: Basis

    @property
    def total(self) -> int:
        """Bytes that the GPU must have: tensors, allocator's overhead, CUDA context and NCCL."""
        return sum(self.parts)

    @property
    def peak(self) -> int:
        """Bytes of tensors at the fullest moment, ``torch.cuda.max_memory_allocated``."""
        return self.total - self.parts.reserve - self.parts.context

    def headroom(self, gpu: Gpu) -> int:
        """Bytes that stay free; negative when it does not fit."""
        return gpu.memory_bytes - self.total


_RESERVE = {"reference": 0.08, "fused": 0.07}
_RESERVE_RECOMPUTE = 0.45
_RESERVE_BASE = GIB // 4
_CONTEXT = int(1.3 * GIB)
_NCCL = int(2.0 * GIB)


def memory(setup: Setup) -> Memory:
    """Return the memory of the fullest GPU, in bytes: of the worse of the first and last stage.

    ``reserve`` is what the caching allocator holds beyond the tensors, because what comes and goes
    within a step leaves gaps: 0.25 GiB and a share of activations, logits and media, 8 % (reference
    kernels), 7 % (fused), 45 % (full recompute, whose tensors come and go most). ``context`` is the
    CUDA context with its libraries, 1.3 GiB, and 2 GiB for NCCL's buffers as soon as there are two
    GPUs.

    Source: calibration on H100 80GB SXM, 2026-11: reserved less allocated, and device use less
    reserved.
    """
    parts = max((_stage_memory(setup, stage) for stage in _stages(setup)), key=sum)
    return Memory(parts, _memory_basis(setup))


def _stage_memory(setup: Setup, stage: Stage) -> MemoryParts:
    """Return the memory of one stage when a backward pass begins, the fullest moment.

    A stage holds the activations of as many micro batches as it is stages from the end (1F1B
    schedule: Megatron-core ``schedules.forward_backward_pipelining_without_interleaving``).
    """
    in_flight = min(setup.pipeline_parallel_size if stage.first else 1, setup.accumulation)
    activations = int(in_flight * setup.tokens * stage.layers * _saved_per_layer(setup))
    logits = int(setup.tokens * _working_set(setup, stage))
    media = _media_bytes(setup, in_flight) if stage.first else 0
    share = _RESERVE_RECOMPUTE if setup.recompute == "full" else _RESERVE[setup.kernels]
    return MemoryParts(
        weights=_weight_bytes(setup, stage),
        projector_and_optimizer=18 * projector_parameters(setup.model) if stage.first else 0,
        vision=BF16 * setup.model.vision.parameters if stage.first else 0,
        activations=activations,
        logits=logits,
        media=media,
        reserve=int((activations + logits + media) * share) + _RESERVE_BASE,
        context=_CONTEXT + (_NCCL if setup.world_size > 1 else 0),
    )


def _weight_bytes(setup: Setup, stage: Stage) -> int:
    """Return the frozen bf16 weights, all but the norms split by TP.

    They have no gradients, no fp32 copies and no optimizer state. Only the projector has, 18 bytes
    a parameter on every GPU: NeMo ``MegatronNevaModel.setup_optimizer_param_groups`` takes what
    requires a gradient, ``MainParamsOptimizerWrapper`` makes fp32 parameters of those, unsharded.
    """
    llm, tp = setup.model.architecture, setup.tensor_parallel_size
    hidden = llm.hidden_size
    router = hidden * llm.num_experts if llm.num_experts > 1 else 0
    layer = _layer_matrix(llm, llm.num_experts) // tp + router + 2 * hidden
    vocabulary = llm.padded_vocab_size(tp) // tp * hidden
    ends = vocabulary * (stage.first + stage.last) + hidden * stage.last
    return BF16 * (stage.layers * layer + ends)


def _saved_per_layer(setup: Setup) -> float:
    """Return bytes a token that a layer keeps for the backward pass.

    That is what it needs in full, or with full recompute its input.
    """
    if setup.recompute == "full":
        return BF16 * setup.model.architecture.hidden_size / _spread(setup)
    return _layer_activations(setup)


def _spread(setup: Setup) -> int:
    """Return over how many ranks the residual stream is split: all of TP with sequence parallel."""
    return setup.tensor_parallel_size if setup.sequence_parallel else 1


def _layer_activations(setup: Setup) -> float:
    """Return bytes a token that the backward pass of one layer needs, in full.

    A frozen linear layer needs its weight, not its input (Megatron-core ``LinearWithFrozenWeight``,
    TransformerEngine ``_Linear`` and ``_LayerNormLinear``), so what stays is: the inputs of the two
    norms, flash attention's query, key, value, output and log-sums, and the tensors of the
    activation function: gate, up and, unless fused, silu(gate); without a gate its input. A mixture
    of experts keeps its experts' outputs too, because the weights that mix them depend on the
    input.
    """
    llm, tp, spread = setup.model.architecture, setup.tensor_parallel_size, _spread(setup)
    hidden, experts = llm.hidden_size, llm.experts_per_token
    norms = BF16 * 2 * hidden / spread + 2 * FP32
    attention = BF16 * 2 * (hidden + _key_value_size(llm)) + FP32 * llm.num_attention_heads
    kept = (2 if setup.kernels == "fused" else 3) if llm.gated_mlp else 1
    mlp = BF16 * kept * llm.ffn_hidden_size * experts
    mixed = BF16 * hidden * experts + FP32 * llm.num_experts if llm.num_experts > 1 else 0
    return norms + (attention + mlp) / tp + mixed / spread


def _working_set(setup: Setup, stage: Stage) -> float:
    """Return bytes a token beyond what layers keep: the loss, or one layer's gradients.

    The loss keeps an fp32 softmax of the logits and makes their bf16 gradient, both split by TP,
    beside input and gradient of the final norm (Megatron-core ``VocabParallelCrossEntropy``). With
    recompute one layer's activations come back, after the loss is gone.
    """
    llm, tp = setup.model.architecture, setup.tensor_parallel_size
    loss = (FP32 + BF16) * llm.padded_vocab_size(tp) / tp + BF16 * 2 * llm.hidden_size
    if not stage.last:
        return _layer_activations(setup)
    return max(loss, _layer_activations(setup)) if setup.recompute == "full" else loss


def _media_bytes(setup: Setup, in_flight: int) -> int:
    """Return the fp32 images and what the projector keeps of them.

    Per image token an int64 index of the hidden size
    (``NevaWordEmbeddingMixin.replace_media_embeddings`` scatters with it) and the projector's
    inputs. With a pipeline the loader hands out all micro batches of a step at once
    (``MegatronNevaModel.build_pretraining_data_loader``).
    """
    model, samples = setup.model, setup.micro_batch_size
    vision, hidden = model.vision.hidden_size, model.architecture.hidden_size
    if model.projector == "linear":
        inputs = vision
    elif model.projector == "mlp_downsample":
        inputs = 2 * 4 * vision + 2 * hidden
    else:
        inputs = vision + 2 * hidden
    features = model.image_tokens * (INT64 * hidden + BF16 * inputs)
    image = FP32 * 3 * model.vision.image_size**2
    loaded = setup.accumulation if setup.pipeline_parallel_size > 1 else 1
    return samples * (in_flight * features + loaded * image)


# ------------------------------------------------------------------------ time


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


# Calibration on H100 80GB SXM, 2026-11. The first four were fitted together on points that keep the
# GPU busy: their sum is what was measured, each alone is not physics.
_GEMM = 1.421  # ms per TFLOP: 704 TFLOP/s
_ATTENTION = 1 / 162.5  # ms per GFLOP of flash attention 2
_REPLICATED = 11.69  # ms per GB through norms and residuals, which each TP rank does whole
_SHARDED = 12.99  # ms per GB through rotary embedding and activation function
_FUSED_GEMM = 1.2  # fused kernels leave no pauses: at its power limit the GPU clocks lower
_FUSED_REST = 0.15  # what fused kernels and cuDNN attention leave of attention and elementwise work
_RECOMPUTE_REST = 0.4  # share of the elementwise work that the forward pass does
_VISION_COMPUTE = 1.03  # ms per image of CLIP ViT-L/14 at 336 pixels
_VISION_SOFTMAX = 1.94  # ms per image more with unfused attention, as transformers has it for CLIP
_VISION_FLOOR = 21 / 24  # ms per layer of the tower to launch its kernels
_CLIP = (303_507_456, 577, 24)  # parameters, tokens and layers of that tower
_LAUNCH, _LAUNCH_TP, _LAUNCH_BASE = 4.0, 5.0, 15.0  # ms per layer, with TP, and per micro batch
_ALLREDUCE = {
    2: (0.028, 315.0),
    4: (0.040, 337.0),
    8: (0.050, 343.0),
}  # ms and GB/s; only 2 was measured
_ALLREDUCE_IN_STEP = 1.12  # an all-reduce inside a step over one alone
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

    Source: calibration on H100 80GB SXM, 2026-11.
    """
    stage = max((_micro_batch(setup, stage) for stage in _stages(setup)), key=sum)
    work = TimeParts(*(part * setup.accumulation for part in stage))
    bubble = (setup.pipeline_parallel_size - 1) * sum(stage)
    parts = work._replace(pp_bubble=bubble, dp_allreduce=_dp_allreduce(setup))

    flops = useful_flops(setup.model, setup.tokens_per_sample) * setup.global_batch_size
    limit = flops / setup.world_size / setup.gpu.peak_tflops / 1e9
    parts = parts._replace(idle=parts.idle + max(0.0, limit - sum(parts)))
    total = sum(parts)
    return StepTime(
        parts=parts._replace(checkpoint=_checkpoint(setup)),
        samples_per_second_per_gpu=setup.global_batch_size / total * 1000 / setup.world_size,
        mfu=min(1.0, limit / total),
        basis=_time_basis(setup),
    )


def launch_floor(setup: Setup) -> float:
    """Return the ms that the CPU needs to launch one micro batch, however small it is.

    4 ms a layer, 5 with TP (its all-reduces are launched too), and 15. It depends on the host.

    Source: calibration on H100 80GB SXM, 2026-11, rows with few tokens.
    """
    layers = setup.model.architecture.num_layers / setup.pipeline_parallel_size
    return layers * (_LAUNCH_TP if setup.tensor_parallel_size > 1 else _LAUNCH) + _LAUNCH_BASE


def _micro_batch(setup: Setup, stage: Stage) -> TimeParts:
    """Return forward and backward of one micro batch on one stage, in ms.

    GEMMs: 4 FLOP a weight and token (forward 2, gradient of the input 2, none for the frozen
    weight). Flash
    attention: 7 x tokens x sequence x hidden FLOP (causal: 2 forward, 5 backward). Elementwise work
    is bound by memory, so counted in bytes; sequence parallel was measured not to change it. Full
    recompute runs the forward pass once more; selective runs attention's.
    """
    llm, tp, gpu = setup.model.architecture, setup.tensor_parallel_size, setup.gpu
    hidden, tokens = llm.hidden_size, setup.tokens
    compute, stream = H100.peak_tflops / gpu.peak_tflops, H100.memory_tb_s / gpu.memory_tb_s

    matrices = stage.layers * _layer_matrix(llm, llm.experts_per_token)
    matrices += hidden * llm.padded_vocab_size(tp) * stage.last
    gemm = _GEMM * compute * 4 * tokens * matrices / tp / 1e12
    flash = 7 * tokens * setup.tokens_per_sample * hidden * stage.layers / tp / 1e9
    attention = _ATTENTION * compute * flash
    replicated = BF16 * tokens * stage.layers * hidden / 1e9
    activation = llm.ffn_hidden_size * llm.experts_per_token * (1 if llm.gated_mlp else 2 / 3)
    sharded = BF16 * tokens * stage.layers * (hidden + _key_value_size(llm) + activation) / tp / 1e9
    elementwise = stream * (_REPLICATED * replicated + _SHARDED * sharded)
    if setup.kernels == "fused":
        gemm, attention, elementwise = (
            _FUSED_GEMM * gemm,
            _FUSED_REST * attention,
            _FUSED_REST * elementwise,
        )
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

    Source: NCCL all-reduce on two H100 over NVLink, calibration 2026-11; four and eight GPUs are
    modelled from it.
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
    message = FP32 * projector_parameters(setup.model)
    nodes = setup.world_size / setup.gpus_per_node
    if nodes <= 1:
        return _ring(size, message, setup.gpu)
    return 2 * (size - 1) / size * message / _NETWORK_GB_S / 1e6 + _NETWORK_HOP * log2(nodes)


def _checkpoint(setup: Setup) -> float:
    """Return a step's share of saving a checkpoint in ms.

    The frozen model is not in it: the projector's weight (bf16), main parameter and two moments
    (fp32), 14 bytes a parameter, while all GPUs wait. 1 GB/s for one writer is an assumption, not
    measured: it depends on the file system.

    Source: NeMo r2.0.0rc1, ``MegatronNevaModel.get_keys_to_keep``.
    """
    if setup.checkpoint_interval is None:
        return 0.0
    return 14 * projector_parameters(setup.model) / _SAVE_GB_S / 1e6 / setup.checkpoint_interval


_START = 50.0  # s until the first step without DataLoader workers: imports, loading, building of the model
_START_WORKER = 17.5  # s more for each worker of a process: NeMo spawns them, and each imports NeMo by itself


def start_seconds(workers: int) -> float:
    """Return the seconds before the first step, which are in no other figure.

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
    weights = llm.num_layers * _layer_matrix(llm, llm.experts_per_token)
    weights += llm.vocab_size * llm.hidden_size
    attention = 6 * tokens_per_sample * llm.hidden_size * llm.num_layers
    patches = vision.patches + vision.class_tokens
    tower = 2 * vision.parameters * patches
    tower += 4 * patches**2 * vision.hidden_size * vision.num_layers
    projector = 6 * projector_parameters(model) * model.image_tokens
    return tokens_per_sample * (4 * weights + attention) + tower + projector


# ------------------------------------------------------------------------ basis

_CALIBRATED = {(4096, 11008, 32, 32, 32008), (5120, 13824, 40, 40, 32008)}


def _is_calibrated(setup: Setup) -> bool:
    """Return whether this model's shapes were run, on this GPU, without a pipeline."""
    llm, model = setup.model.architecture, setup.model
    shape = (
        llm.hidden_size,
        llm.ffn_hidden_size,
        llm.num_attention_heads,
        llm.num_query_groups,
        llm.vocab_size,
    )
    return (
        shape in _CALIBRATED
        and llm.num_experts == 1
        and llm.gated_mlp
        and model.vision.name == "clip-vit-large-patch14-336"
        and model.projector == "mlp2x_gelu"
        and setup.pipeline_parallel_size == 1
        and setup.gpu.name == H100.name
    )


def _memory_basis(setup: Setup) -> Basis:
    """Memory was measured for 640 to 1024 tokens a sample; TP 4 and 8 as shards on one GPU."""
    if _is_calibrated(setup) and 640 <= setup.tokens_per_sample <= 1024:
        return Basis.MEASURED
    return Basis.EXTRAPOLATED


def _time_basis(setup: Setup) -> Basis:
    """Time was measured for TP 1 and 2 and 640 to 704 tokens; fused or recompute at TP 1 only."""
    if not _is_calibrated(setup) or not 640 <= setup.tokens_per_sample <= 704:
        return Basis.EXTRAPOLATED
    plain = setup.kernels == "reference"
    measured = {
        1: setup.recompute == "none" or (plain and setup.recompute == "full"),
        2: setup.recompute == "none" and plain,
    }
    return Basis.MEASURED if measured.get(setup.tensor_parallel_size) else Basis.MODELLED
