"""Language model and vision tower in plain PyTorch, where Megatron-core or transformers is not installed.

The same matrices, saved tensors and collectives as Megatron-core's with frozen weights: in each layer two all-reduces
of ``[s, b, h]`` forward and two backward, one more for the embedding and the output layer each.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.neva_step import kernels as K  # noqa: N812
from benchmarks.neva_step.parallel import Groups
from neva_pretrain.model.catalog import Architecture, VisionEncoder


class _FrozenLinear(torch.autograd.Function):
    """Saves only the weight; ``group`` is what the input's gradient is reduced over, or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, group: Any) -> Tensor:
        ctx.weight, ctx.group = weight, group
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        out = gradient @ ctx.weight
        if ctx.group is not None:
            dist.all_reduce(out, group=ctx.group)
        return out, None, None


class _Reduce(torch.autograd.Function):
    """Sums over a group forward, passes the gradient on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _SwiGlu(torch.autograd.Function):
    """Keeps gate and up only, as Megatron-core's ``SwiGLUFunction``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _swiglu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _swiglu_back(gradient, *ctx.saved_tensors)


@torch.compile
def _swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


@torch.compile
def _swiglu_back(gradient: Tensor, x: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    on = torch.sigmoid(gate)
    return torch.cat((gradient * on * (1 + gate * (1 - on)) * up, gradient * F.silu(gate)), -1)


class _CrossEntropy(torch.autograd.Function):
    """Cross entropy over logits split by vocabulary; keeps the fp32 softmax."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, groups: Groups) -> Tensor:
        wide = logits.float()
        top = wide.amax(dim=-1)
        dist.all_reduce(top, dist.ReduceOp.MAX, group=groups.tp)
        wide -= top.unsqueeze(-1)
        local = labels - groups.tp_rank * wide.size(-1)
        outside = (local < 0) | (local >= wide.size(-1))
        local = local.masked_fill(outside, 0)
        wanted = wide.gather(-1, local.unsqueeze(-1)).squeeze(-1).masked_fill(outside, 0.0)
        dist.all_reduce(wanted, group=groups.tp)
        total = torch.exp(wide, out=wide).sum(dim=-1)
        dist.all_reduce(total, group=groups.tp)
        wide.div_(total.unsqueeze(-1))
        ctx.save_for_backward(wide, local, outside)
        return total.log() - wanted

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        softmax, local, outside = ctx.saved_tensors
        softmax.scatter_add_(-1, local.unsqueeze(-1), (outside.float() - 1.0).unsqueeze(-1))
        return softmax.mul_(gradient.unsqueeze(-1)), None, None


class _Linear(nn.Module):
    """One rank's part of a matrix: rows of it (``column`` parallel) or columns, whose products are summed."""

    def __init__(self, inputs: int, outputs: int, groups: Groups, column: bool) -> None:
        super().__init__()
        self.column, self.group = column, groups.tp if groups.tp_size > 1 else None
        part = (outputs // groups.tp_size, inputs) if column else (outputs, inputs // groups.tp_size)
        self.weight = nn.Parameter(torch.empty(part))

    def forward(self, x: Tensor) -> Tensor:
        function = K.Fp8FrozenLinear if hasattr(self.weight, "frozen8") else _FrozenLinear
        out: Tensor = function.apply(x, self.weight, self.group if self.column else None)
        return out if self.column or self.group is None else _Reduce.apply(out, self.group)


class _Layer(nn.Module):
    def __init__(self, llm: Architecture, profile: str, groups: Groups) -> None:
        super().__init__()
        hidden, self.head, self.profile = llm.hidden_size, llm.head_size, profile
        self.input_layernorm, self.pre_mlp_layernorm = K.RMSNorm(hidden, 1e-5), K.RMSNorm(hidden, 1e-5)
        self.linear_qkv = _Linear(hidden, hidden + 2 * llm.key_value_size, groups, column=True)
        self.linear_proj = _Linear(hidden, hidden, groups, column=False)
        self.linear_fc1 = _Linear(hidden, 2 * llm.ffn_hidden_size, groups, column=True)
        self.linear_fc2 = _Linear(llm.ffn_hidden_size, hidden, groups, column=False)
        self.ratio = llm.num_attention_heads // llm.num_query_groups

    def forward(self, x: Tensor, frequencies: Tensor) -> Tensor:
        mixed = self.linear_qkv(self.input_layernorm(x))
        mixed = mixed.view(*x.shape[:2], -1, (self.ratio + 2) * self.head)
        q, k, v = mixed.split([self.ratio * self.head, self.head, self.head], dim=-1)
        q = q.reshape(*x.shape[:2], -1, self.head)
        turn = K.rotary if self.profile == "reference" else K.fused_rotary
        x = x + self.linear_proj(K.attention(turn(q, frequencies), turn(k, frequencies), v, self.profile))
        wide = self.linear_fc1(self.pre_mlp_layernorm(x))
        if self.profile == "reference":
            gate, up = wide.chunk(2, dim=-1)
            return x + self.linear_fc2(F.silu(gate) * up)
        return x + self.linear_fc2(_SwiGlu.apply(wide))


class LanguageModel(nn.Module):
    """Llama with the interface of ``megatron_llm.LanguageModel``."""

    made_by = "stand-in"

    def __init__(self, llm: Architecture, tokens: int, profile: str, groups: Groups, device: torch.device) -> None:
        super().__init__()
        if profile.startswith("te-"):
            raise ImportError(f"{profile}: Megatron-core is not installed")
        self.groups, self.group = groups, groups.tp
        part = llm.padded_vocab_size(groups.tp_size) // groups.tp_size
        self.first = groups.tp_rank * part
        with device:
            self.word_embeddings = nn.Parameter(torch.empty(part, llm.hidden_size, dtype=torch.bfloat16))
            layers = [_Layer(llm, profile, groups).bfloat16() for _ in range(llm.num_layers)]
            self.layers = nn.ModuleList(layers)
            self.final_layernorm = K.RMSNorm(llm.hidden_size, 1e-5).bfloat16()
            self.output_layer = _Linear(llm.hidden_size, part * groups.tp_size, groups, column=True).bfloat16()
            step = torch.arange(0, llm.head_size, 2).float() / llm.head_size
            angles = torch.outer(torch.arange(tokens).float(), 10000.0**-step)
            self.frequencies = torch.cat((angles, angles), dim=-1)[:, None, None, :]

    def begin_step(self) -> None:
        """Do nothing: there is no TransformerEngine here."""

    def embed(self, ids: Tensor) -> Tensor:
        """Return the word embeddings ``[b, s, h]``."""
        if self.groups.tp_size == 1:
            return F.embedding(ids, self.word_embeddings)
        local = ids - self.first
        outside = (local < 0) | (local >= self.word_embeddings.size(0))
        words = F.embedding(local.masked_fill(outside, 0), self.word_embeddings)
        words[outside] = 0.0
        reduced: Tensor = _Reduce.apply(words, self.groups.tp)
        return reduced

    def losses(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return each token's loss ``[b, s]`` from embeddings ``[s, b, h]``."""
        x = embeddings
        for layer in self.layers:
            x = layer(x, self.frequencies)
        logits = self.output_layer(self.final_layernorm(x))
        losses: Tensor = _CrossEntropy.apply(logits, labels.t().contiguous(), self.groups)
        return losses.t().contiguous()


class Tower(nn.Module):
    """A ViT of CLIP's shape with eager attention; returns the features that NeVa takes (the last layer but one)."""

    def __init__(self, vision: VisionEncoder) -> None:
        super().__init__()
        width, self.heads = vision.hidden_size, 16
        self.patches = nn.Conv2d(3, width, vision.patch_size, vision.patch_size, bias=False)
        self.start = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, vision.patches + 1, width) * 0.02)
        blocks = [_Block(width, self.heads) for _ in range(vision.num_layers)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``[b, 1 + patches, width]``."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.start.expand(x.size(0), -1, -1), x), dim=1) + self.positions
        features = x
        for block in self.blocks:
            features, x = x, block(x)
        return features


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, s, width = x.shape
        y = self.first(x)
        q, k, v = (m(y).view(b, s, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5).softmax(dim=-1, dtype=torch.float32)
        x = x + self.out((weights.to(q.dtype) @ v).transpose(1, 2).reshape(b, s, width))
        wide = self.up(self.second(x))
        return x + self.down(wide * torch.sigmoid(1.702 * wide))
