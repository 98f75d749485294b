"""One complete way to run a model: what the cost model is a function of.

In NeVa pretraining only the projector trains. The language model is frozen, so it has no weight
gradients and no optimizer state, but the backward pass still runs through all of it, because the
projector sits in front of it.

The constants come from one calibration, 2026-11, with the 7B and 13B shapes: Megatron-core and
TransformerEngine on one and two H100 80GB SXM with 640 to 1024 tokens per sample and tensor parallel
shards of 1, 2, 4 and 8; Megatron-core on four and eight H200 SXM with NCCL; FP8 by Megatron-core and
TransformerEngine on one H100 and two H200. The test data folder has the rows,
``tests/bench/bench_planner.py`` prints how well these formulas meet them. Everything is pure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from neva_pretrain.model.catalog import Model
from neva_pretrain.model.hardware import H100, H200, Gpu

Kernels = Literal["reference", "fused", "fp8"]
"""``reference``: as in NVIDIA's presets. ``fused``: SwiGLU, rotary embedding, cuDNN attention. ``fp8``: those, and the
frozen matrices of the layers in FP8 (TransformerEngine, hybrid format, delayed scaling)."""
Recompute = Literal["none", "selective", "full"]
"""NeMo's ``activations_checkpoint_granularity``."""

BF16, FP32, INT64 = 2, 4, 8  # bytes of one number

_CALIBRATED = {(4096, 11008, 32, 32, 32008), (5120, 13824, 40, 40, 32008)}


class Basis(StrEnum):
    """How far a figure can be trusted."""

    MEASURED = "measured"  # inside the calibrated domain
    MODELLED = "modelled"  # calibrated compute, communication or kernels from a model
    EXTRAPOLATED = "extrapolated"  # another model, GPU or sequence length

    @property
    def sign(self) -> str:
        """What stands before a figure."""
        return {"measured": "", "modelled": "~", "extrapolated": "?"}[self]


class Stage(NamedTuple):
    """One pipeline stage: where it stands and how many layers it has."""

    first: bool
    last: bool
    layers: int


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

    @property
    def stages(self) -> list[Stage]:
        """The pipeline stages that can be the worst: the only one, or the first and the last.

        The first has the embedding, the vision tower, the projector and the most micro batches in flight, the last
        has the output layer and the loss; those between have less of everything.
        """
        layers = self.model.architecture.num_layers // self.pipeline_parallel_size
        if self.pipeline_parallel_size == 1:
            return [Stage(True, True, layers)]
        return [Stage(True, False, layers), Stage(False, True, layers)]

    @property
    def is_calibrated(self) -> bool:
        """Whether this model's shapes were run, on this GPU, without a pipeline."""
        llm, model = self.model.architecture, self.model
        shape = (llm.hidden_size, llm.ffn_hidden_size, llm.num_attention_heads, llm.num_query_groups, llm.vocab_size)
        return (
            shape in _CALIBRATED
            and llm.num_experts == 1
            and llm.gated_mlp
            and model.vision.name == "clip-vit-large-patch14-336"
            and model.projector == "mlp2x_gelu"
            and self.pipeline_parallel_size == 1
            and self.gpu.name in (H100.name, H200.name)
        )
