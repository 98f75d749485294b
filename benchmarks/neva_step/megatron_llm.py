"""The language model by Megatron-core's own GPTModel and tensor parallel layers.

NVIDIA's: the model, its parallel layers with frozen weights and their collectives, rotary embedding, SwiGLU, the
vocabulary-parallel cross entropy; in the profiles ``te-*`` also TransformerEngine's layers, norms, attention and FP8.
Stand-ins where the other profiles would ask for them, and for apex' fused rotary kernel (``kernels.py``).
"""

import os
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import megatron.core
import torch
from megatron.core import parallel_state
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.common.embeddings import rotary_pos_embedding
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import HAVE_TE, get_gpt_layer_with_transformer_engine_spec
from megatron.core.tensor_parallel import layers
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor, nn

try:
    from transformer_engine.pytorch import fp8_model_init
except ImportError:
    fp8_model_init = nullcontext

from benchmarks.neva_step import kernels as K  # noqa: N812
from benchmarks.neva_step.parallel import Groups
from neva_pretrain.model.catalog import Architecture


class Attention(MegatronModule):
    """What TransformerEngine's ``DotProductAttention`` is to Megatron-core."""

    def __init__(self, config: TransformerConfig, **_: object) -> None:
        super().__init__(config=config)
        self.profile = "fused" if config.apply_rope_fusion else "reference"

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: object = None, **_: object) -> Tensor:
        """Attend causally; the mask is implied."""
        return K.attention(query, key, value, self.profile)


class LanguageModel(nn.Module):
    """GPTModel as NeVa uses it: embeddings first, then the loss of embeddings that hold the images."""

    made_by = f"megatron-core {megatron.core.__version__}"
    if HAVE_TE:
        made_by += f", TransformerEngine {version('transformer-engine')} in te-*"

    def __init__(self, llm: Architecture, tokens: int, profile: str, groups: Groups, device: torch.device) -> None:
        super().__init__()
        if not parallel_state.model_parallel_is_initialized():  # once: NCCL's memory of groups let go stays
            parallel_state.initialize_model_parallel(tensor_model_parallel_size=groups.tp_size)
        if device.type == "cpu":
            torch.cuda.current_device = lambda: device  # the rotary embedding asks for it without need
        engine, fused = profile.startswith("te-"), profile != "reference"
        if engine and not HAVE_TE:
            raise ImportError(f"{profile}: TransformerEngine is not installed")
        fp8 = {"fp8": "hybrid", "fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}  # NVIDIA's presets
        os.environ |= {"NVTE_FUSED_ATTN": "1", "NVTE_FLASH_ATTN": "0"}  # cuDNN's, as the chart asks for
        config = TransformerConfig(
            num_layers=llm.num_layers,
            hidden_size=llm.hidden_size,
            ffn_hidden_size=llm.ffn_hidden_size,
            num_attention_heads=llm.num_attention_heads,
            num_query_groups=llm.num_query_groups,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            add_bias_linear=False,
            gated_linear_unit=True,
            activation_func=nn.functional.silu,
            normalization="RMSNorm",
            bias_activation_fusion=fused,
            apply_rope_fusion=fused,
            params_dtype=torch.bfloat16,
            bf16=True,
            tensor_model_parallel_size=groups.tp_size,
            use_cpu_initialization=device.type == "cpu",
            perform_initialization=False,
            **(fp8 if profile.startswith("te-fp8") else {}),
        )
        rotary_pos_embedding.HAVE_APPLY_ROPE_FUSION = True
        rotary_pos_embedding.fused_apply_rotary_pos_emb = lambda t, freqs, **_: K.fused_rotary(t, freqs)
        layers.linear_with_frozen_weight = _frozen_linear
        # NeMo's fp8_params: no bf16 weights beside those in FP8.
        with fp8_model_init() if profile == "te-fp8-params" else nullcontext():
            self.gpt = GPTModel(
                config=config,
                transformer_layer_spec=(
                    get_gpt_layer_with_transformer_engine_spec()
                    if engine
                    else TransformerBlockSubmodules([_layer()] * llm.num_layers, K.RMSNorm)
                ),
                vocab_size=llm.padded_vocab_size(groups.tp_size),
                max_sequence_length=tokens,
                position_embedding_type="rope",
            )
        self.gpt.to(device, torch.bfloat16)
        self.group = parallel_state.get_tensor_model_parallel_group()

    def begin_step(self) -> None:
        """Let TransformerEngine cast the weights to FP8 anew, as Megatron's schedule does in each step."""
        self.gpt.set_is_first_microbatch()

    def embed(self, ids: Tensor) -> Tensor:
        """Return the word embeddings ``[b, s, h]``."""
        embeddings: Tensor = self.gpt.embedding.word_embeddings(ids)
        return embeddings

    def losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return each token's loss ``[b, s]`` from embeddings ``[s, b, h]``."""
        losses: Tensor = self.gpt(None, None, None, decoder_input=embeddings, labels=labels)
        return losses


_megatron_frozen_linear = layers.linear_with_frozen_weight


def _frozen_linear(input: Tensor, weight: Tensor, *args: Any, allreduce_dgrad: bool, **kwargs: Any) -> Tensor:
    """Send FP8 weights to their own function, others to Megatron-core's."""
    if not hasattr(weight, "frozen8"):
        linear: Tensor = _megatron_frozen_linear(input, weight, *args, allreduce_dgrad=allreduce_dgrad, **kwargs)
        return linear
    group = parallel_state.get_tensor_model_parallel_group() if allreduce_dgrad else None
    out: Tensor = K.Fp8FrozenLinear.apply(input, weight, group)
    return out


def _layer() -> ModuleSpec:
    """Return Megatron-core's local layer with RMSNorm and fast attention."""
    column, row = layers.ColumnParallelLinear, layers.RowParallelLinear
    attention = SelfAttentionSubmodules(linear_qkv=column, core_attention=Attention, linear_proj=row)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=K.RMSNorm,
            self_attention=ModuleSpec(
                module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=K.RMSNorm,
            mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=column, linear_fc2=row)),
            mlp_bda=get_bias_dropout_add,
        ),
    )
