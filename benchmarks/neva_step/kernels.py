"""Kernels of the three profiles, where neither Megatron-core nor PyTorch has them under one name.

``reference`` is what NVIDIA's preset runs: flash attention 2, eager rotary embedding and SwiGLU. ``fused`` is cuDNN
attention, a fused rotary embedding and Megatron-core's fused SwiGLU. ``fp8`` is ``fused`` with the frozen matrices of
the layers in FP8, hybrid format, delayed scaling, as NeVa's keys ``fp8_*`` ask of TransformerEngine.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

try:
    import triton
    from triton import language as tl
except ImportError:  # a machine without GPUs
    triton = None

FROZEN_MATRICES = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
"""Megatron's names of the layers' matrices; embedding and output layer stay bf16, as in TransformerEngine."""

_E4M3, _E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
_LARGEST = {_E4M3: 448.0, _E5M2: 57344.0}
_HISTORY = 1024  # NeVa's fp8_amax_history_len


def attention_backend(kernels: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context that holds PyTorch to the profile's attention."""
    if device.type == "cpu":
        return nullcontext()
    backend = SDPBackend.FLASH_ATTENTION if kernels == "reference" else SDPBackend.CUDNN_ATTENTION
    context: AbstractContextManager[None] = sdpa_kernel(backend)
    return context


def attention(query: Tensor, key: Tensor, value: Tensor, kernels: str) -> Tensor:
    """Return causal attention of ``[s, b, heads, channels]`` as ``[s, b, hidden]``.

    For flash attention TransformerEngine copies to ``[b, s, heads, channels]`` and back
    (``FlashAttention.forward``); cuDNN takes any strides, but a value that is a view would keep query, key and value
    of before the rotary embedding alive until the backward pass.
    """
    s, b, grouped = query.size(0), query.size(1), query.size(2) != key.size(2)
    if kernels == "reference":
        q, k, v = (x.transpose(0, 1).contiguous().transpose(1, 2) for x in (query, key, value))
    else:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value.contiguous()))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    if kernels == "reference":
        return out.transpose(1, 2).reshape(b, s, -1).transpose(0, 1).contiguous()
    return out.permute(2, 0, 1, 3).reshape(s, b, -1)


def rotary(x: Tensor, frequencies: Tensor) -> Tensor:
    """Return the rotary embedding, op by op as Megatron-core's ``apply_rotary_pos_emb_bshd``."""
    cos, sin = frequencies.cos().to(x.dtype), frequencies.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


fused_rotary = torch.compile(rotary)
"""Stands in for apex's fused kernel, which the container has."""


class RMSNorm(nn.Module):
    """PyTorch's fused RMSNorm with the arguments of Megatron's norms; stands in for TransformerEngine's."""

    def __init__(self, hidden_size: int, eps: float, **_: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize over the last dimension."""
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Scaling:
    """Delayed scaling of all FP8 tensors of a model: this step's scale follows from the peaks of earlier steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._largest: list[float] = []
        self._steps = 0

    def register(self, dtype: torch.dtype) -> int:
        """Return the slot of one more tensor; cuBLAS wants scales at multiples of 16 bytes."""
        self._largest += [_LARGEST[dtype]] * 4
        return len(self._largest) - 4

    def start(self) -> None:
        """Allocate, once all tensors are known."""
        self.largest = torch.tensor(self._largest, device=self._device)
        self.scale = torch.ones_like(self.largest)
        self.inverse = torch.ones_like(self.largest)
        self.peak = torch.zeros_like(self.largest)
        self.history = torch.zeros(_HISTORY, len(self._largest), device=self._device)

    def step(self) -> None:
        """Take this step's peaks into the history, and set the scales of the next."""
        self.history[self._steps % _HISTORY].copy_(self.peak)
        self.peak.zero_()
        self._steps += 1
        top = self.history.amax(dim=0)
        self.scale.copy_(torch.where(top > 0, self.largest / top, self.scale))
        self.inverse.copy_(self.scale.reciprocal())


@dataclass(frozen=True)
class Frozen8:
    """What a frozen FP8 weight carries: itself transposed (Hopper multiplies only so), its scale, two slots."""

    transposed: Tensor
    inverse: Tensor
    scaling: Scaling
    input: int
    gradient: int


def freeze_to_fp8(llm: nn.Module, device: torch.device) -> Scaling:
    """Replace the layers' matrices by FP8 ones, in place: two bytes a weight, as before."""
    scaling = Scaling(device)
    for name, module in llm.named_modules():
        if name.rpartition(".")[2] not in FROZEN_MATRICES:
            continue
        weight = module.weight.detach()
        scale = _LARGEST[_E4M3] / weight.abs().max().float()
        small = (weight.float() * scale).to(_E4M3)
        module.weight = nn.Parameter(small, requires_grad=False)
        module.weight.frozen8 = Frozen8(
            transposed=small.t().contiguous(),
            inverse=scale.reciprocal(),
            scaling=scaling,
            input=scaling.register(_E4M3),
            gradient=scaling.register(_E5M2),
        )
    scaling.start()
    return scaling


class Fp8FrozenLinear(torch.autograd.Function):
    """Megatron-core's ``LinearWithFrozenWeight`` in FP8: saves the weight only, gives no weight gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, group: Any) -> Tensor:
        """Multiply; ``group`` is what the input's gradient is reduced over, or None."""
        ctx.weight, ctx.group = weight, group
        state: Frozen8 = weight.frozen8
        return _multiply(x, _E4M3, state.scaling, state.input, weight, state.inverse, fast=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the input."""
        state: Frozen8 = ctx.weight.frozen8
        out = _multiply(gradient, _E5M2, state.scaling, state.gradient, state.transposed, state.inverse, fast=False)
        if ctx.group is not None:
            torch.distributed.all_reduce(out, group=ctx.group)
        return out, None, None


def _multiply(
    x: Tensor, dtype: torch.dtype, scaling: Scaling, slot: int, matrix: Tensor, inverse: Tensor, fast: bool
) -> Tensor:
    """Return ``x`` cast to ``dtype`` times the transposed ``matrix``; only the forward pass accumulates fast, as TE."""
    flat = x.reshape(-1, x.size(-1))
    small = _cast(flat, dtype, scaling, slot)
    if x.is_cuda:
        out = torch._scaled_mm(
            small,
            matrix.t(),
            scale_a=scaling.inverse[slot],
            scale_b=inverse,
            out_dtype=x.dtype,
            use_fast_accum=fast,
        )
    else:
        out = ((small.float() * scaling.inverse[slot]) @ (matrix.float() * inverse).t()).to(x.dtype)
    return out.view(*x.shape[:-1], -1)


def _cast(x: Tensor, dtype: torch.dtype, scaling: Scaling, slot: int) -> Tensor:
    """Return ``x`` times the slot's scale in FP8, and note its peak: one pass."""
    out = torch.empty_like(x, dtype=dtype)
    if x.is_cuda:
        grid = (triton.cdiv(x.numel(), _BLOCK),)
        _cast_kernel[grid](x, out, scaling.scale[slot:], scaling.peak[slot:], x.numel(), _LARGEST[dtype], _BLOCK)
        return out
    wide = x.float()
    scaling.peak[slot] = torch.maximum(scaling.peak[slot], wide.abs().max())
    return out.copy_((wide * scaling.scale[slot]).clamp(-_LARGEST[dtype], _LARGEST[dtype]))


_BLOCK = 8192

if triton is not None:

    @triton.jit
    def _cast_kernel(x, out, scale, peak, count, largest, block: tl.constexpr):  # type: ignore[no-untyped-def]
        at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = at < count
        wide = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tl.atomic_max(peak, tl.max(tl.abs(wide)))
        scaled = tl.minimum(tl.maximum(wide * tl.load(scale), -largest), largest)
        tl.store(out + at, scaled.to(out.dtype.element_ty), mask=inside)
