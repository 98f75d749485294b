"""What the fullest GPU of a run holds, in bytes, by part."""

from dataclasses import dataclass
from typing import NamedTuple

from neva_pretrain.model.hardware import GIB, Gpu
from neva_pretrain.plan.setup import BF16, FP32, INT64, Basis, Setup, Stage


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


_RESERVE = {"reference": 0.08, "fused": 0.07, "fp8": 0.14}
_RESERVE_RECOMPUTE = 0.45
_RESERVE_BASE = GIB // 4
_CONTEXT = int(1.3 * GIB)
_NCCL = int(2.0 * GIB)


def memory(setup: Setup) -> Memory:
    """Return the memory of the fullest GPU, in bytes: of the worse of the first and last stage.

    ``reserve`` is what the caching allocator holds beyond the tensors, because what comes and goes
    within a step leaves gaps: 0.25 GiB and a share of activations, logits and media, 8 % (reference
    kernels), 7 % (fused), 14 % (FP8, with its casts), 45 % (full recompute, whose tensors come and go
    most). ``context`` is the CUDA context with its libraries, 1.3 GiB, and 2 GiB for NCCL's buffers as
    soon as there are two GPUs.

    Source: calibration on H100 80GB SXM, 2026-11: reserved less allocated, and device use less
    reserved.
    """
    parts = max((_stage_memory(setup, stage) for stage in setup.stages), key=sum)
    return Memory(parts, _basis(setup))


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
        projector_and_optimizer=18 * setup.model.projector_parameters if stage.first else 0,
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

    With FP8, TransformerEngine keeps each matrix of the layers twice more, a byte a weight: itself and transposed,
    since Hopper multiplies FP8 in one order only.
    """
    llm, tp = setup.model.architecture, setup.tensor_parallel_size
    hidden = llm.hidden_size
    router = hidden * llm.num_experts if llm.num_experts > 1 else 0
    layer = llm.layer_matrix(llm.num_experts) // tp + router + 2 * hidden
    vocabulary = llm.padded_vocab_size(tp) // tp * hidden
    ends = vocabulary * (stage.first + stage.last) + hidden * stage.last
    fp8 = 2 * stage.layers * llm.layer_matrix(llm.num_experts) // tp if setup.kernels == "fp8" else 0
    return BF16 * (stage.layers * layer + ends) + fp8


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
    attention = BF16 * 2 * (hidden + llm.key_value_size) + FP32 * llm.num_attention_heads
    kept = (3 if setup.kernels == "reference" else 2) if llm.gated_mlp else 1
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


def _basis(setup: Setup) -> Basis:
    """Memory was measured for 640 to 1024 tokens per sample; those above 640 at TP 4 and 8 as shards on one GPU."""
    if setup.is_calibrated and 640 <= setup.tokens_per_sample <= 1024:
        return Basis.MEASURED
    return Basis.EXTRAPOLATED
