"""The layers."""

import contextlib
import io

import torch
from torch import nn

from transformer_engine.pytorch import distributed, module  # noqa: F401 (looked up by name)


class _State:
    """TransformerEngine writes an extra state with every layer but the norms; without FP8 it is empty."""

    def get_extra_state(self):
        """Return the state in TransformerEngine's form."""
        data = io.BytesIO()
        torch.save(None, data)
        return data

    def set_extra_state(self, _state):
        """Accept it."""


def _to_weight(hidden_size, params_dtype, device):
    return nn.Parameter(torch.ones(hidden_size, dtype=params_dtype, device=device or "cpu"))


class RMSNorm(nn.Module):
    """Root mean square norm, computed in fp32."""

    def __init__(
        self, hidden_size, eps=1e-5, sequence_parallel=False, params_dtype=None, zero_centered_gamma=False, device=None
    ):
        super().__init__()
        self.eps, self.shift = eps, 1.0 if zero_centered_gamma else 0.0
        self.weight = _to_weight(hidden_size, params_dtype, device)
        self.weight.sequence_parallel = sequence_parallel

    def forward(self, x):
        """Normalize the last dimension."""
        return rms_norm(x, self.weight, self.eps, self.shift)


def rms_norm(x, weight, eps, shift):
    """Normalize the last dimension by its root mean square."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * (weight.float() + shift)).to(x.dtype)


class LayerNorm(RMSNorm):
    """Layer norm: a bias besides."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.bias = nn.Parameter(torch.zeros_like(self.weight))
        self.bias.sequence_parallel = self.weight.sequence_parallel

    def forward(self, x):
        """Normalize the last dimension."""
        return nn.functional.layer_norm(x, x.shape[-1:], self.weight + self.shift, self.bias, self.eps)


class Linear(_State, nn.Module):
    """Linear layer, its weight split over tensor parallel ranks by columns (outputs) or rows (inputs)."""

    def __init__(
        self,
        in_features,
        out_features,
        *,
        tp_size=1,
        init_method=None,
        get_rng_state_tracker=None,
        bias=True,
        return_bias=False,
        params_dtype=None,
        parallel_mode=None,
        device=None,
        sequence_parallel=False,
        **_kernels,
    ):
        super().__init__()
        if sequence_parallel:
            raise NotImplementedError("the stand-in has no sequence parallelism")
        self.mode, self.returns_bias = parallel_mode if tp_size > 1 else None, return_bias
        shape = [out_features, in_features]
        if self.mode:
            shape[0 if self.mode == "column" else 1] //= tp_size
        self.weight = nn.Parameter(torch.empty(shape, dtype=params_dtype, device=device))
        self.weight.tensor_model_parallel = bool(self.mode)
        self.weight.partition_dim, self.weight.partition_stride = 0 if self.mode == "column" else 1, 1
        with get_rng_state_tracker().fork() if get_rng_state_tracker else contextlib.nullcontext():
            init_method(self.weight)
        self.bias = nn.Parameter(torch.zeros(shape[0], dtype=params_dtype, device=device)) if bias else None

    def set_tensor_parallel_group(self, _group):
        """Accept the group: megatron-core's own is used."""

    def forward(self, x, is_first_microbatch=None):
        """Multiply, with the collective that the split asks for."""
        from megatron.core.tensor_parallel import mappings  # it imports this package

        if self.mode == "column":
            x = mappings.copy_to_tensor_model_parallel_region(x)
        out = nn.functional.linear(x, self.weight)
        if self.mode == "row":
            out = mappings.reduce_from_tensor_model_parallel_region(out)
        if self.returns_bias:
            return out, self.bias
        return out if self.bias is None else out + self.bias


class LayerNormLinear(Linear):
    """Norm and linear layer, one after the other."""

    def __init__(
        self, in_features, out_features, *, eps=1e-5, normalization="LayerNorm", zero_centered_gamma=False, **rest
    ):
        rest.pop("return_layernorm_output", None)
        super().__init__(in_features, out_features, **rest)
        self.eps, self.shift = eps, 1.0 if zero_centered_gamma else 0.0
        self.layer_norm_weight = _to_weight(in_features, rest.get("params_dtype"), rest.get("device"))
        self.layer_norm_bias = (
            nn.Parameter(torch.zeros_like(self.layer_norm_weight)) if normalization == "LayerNorm" else None
        )

    def forward(self, x, is_first_microbatch=None):
        """Normalize and multiply."""
        if self.layer_norm_bias is None:
            x = rms_norm(x, self.layer_norm_weight, self.eps, self.shift)
        else:
            x = nn.functional.layer_norm(
                x, x.shape[-1:], self.layer_norm_weight + self.shift, self.layer_norm_bias, self.eps
            )
        return super().forward(x, is_first_microbatch)


class DotProductAttention(_State, nn.Module):
    """Attention by torch's scaled_dot_product_attention."""

    def __init__(self, num_attention_heads, kv_channels, *, attn_mask_type="causal", attention_dropout=0.0, **_rest):
        super().__init__()
        if attention_dropout:
            raise NotImplementedError("the stand-in has no dropout")
        self.mask_type = attn_mask_type

    def forward(self, query, key, value, attention_mask=None, attn_mask_type=None, **_packed):
        """Attend; [s, b, heads, channels] to [s, b, heads * channels]."""
        if (attn_mask_type or self.mask_type) not in ("causal", "no_mask"):
            raise NotImplementedError(attn_mask_type)
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        repeats = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
        causal = (attn_mask_type or self.mask_type) == "causal"
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return out.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)


class TransformerLayer(nn.Module):
    """NeMo derives a class of its own from it, which the chart does not use."""


@contextlib.contextmanager
def fp8_autocast(enabled=False, **_recipe):
    """Do nothing: FP8 needs a GPU."""
    if enabled:
        raise NotImplementedError("the stand-in has no FP8")
    yield
