"""Megatron Core's language model: the tensors that a checkpoint of it has."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from neva_pod.findings import ProblemError, brief, show

Size = tuple[int, ...]
Place = tuple[tuple[int, int], ...]
"""Where a tensor is among its like: (layer, layers), then (expert, experts)."""
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"


class Tensor(NamedTuple):
    """A tensor of a layer, or of what follows the last one."""

    name: str
    """In a rank's file, in the layer."""
    size: Size
    axis: int | None = None
    """That TP splits."""
    shared: str = ""
    """Its name in a distributed checkpoint where it is another: experts are an axis there."""
    place: Place = ()

    @property
    def key(self) -> str:
        """Return its name in a distributed checkpoint."""
        return self.shared or self.name

    def local(self, tensor: int) -> Size:
        """Return its shape in a rank's file."""
        return tuple(n // tensor if i == self.axis else n for i, n in enumerate(self.size))


@dataclass(frozen=True)
class Model:
    """What the tensors' shapes follow from."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    channels: int
    experts: int
    gated: bool
    bias: bool
    norm_bias: bool
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str, gated: bool) -> "Model":
        """Read a configuration in Megatron's names."""

        def size(name: str, default: int | None = None) -> int:
            value = config.get(name)
            value = default if value is None else value
            if type(value) is not int or not 0 < value < 2**24:
                raise ProblemError(f"{show(where)}: {name} is {brief(value)}; must be a size", "copy it again")
            return value

        heads = size("num_attention_heads")
        return cls(
            layers=size("num_layers"),
            hidden=size("hidden_size"),
            ffn=size("ffn_hidden_size"),
            heads=heads,
            groups=size("num_query_groups", heads),
            channels=size("kv_channels", size("hidden_size") // heads),
            experts=size("num_moe_experts", 1),
            gated=gated,
            bias=config.get("bias") is True,
            norm_bias=config.get("normalization") != "rmsnorm",
            tied=config.get("share_embeddings_and_output_weights") is True,
        )

    @property
    def dense(self) -> bool:
        """Whether each layer has one MLP, not experts."""
        return self.experts == 1

    def layer(self) -> Iterator[Tensor]:
        """Return what each layer has."""
        h, q, kv = self.hidden, self.heads * self.channels, self.groups * self.channels
        yield from self._linear("self_attention.linear_qkv", q + 2 * kv, h, 0)
        yield from self._linear("self_attention.linear_proj", h, q, 1)
        yield from self._norm("self_attention.linear_qkv.layer_norm_")
        if self.dense:
            yield from self._norm("mlp.linear_fc1.layer_norm_")
            yield from self._mlp("mlp.")
        else:
            yield from self._norm("pre_mlp_layernorm.")
            yield Tensor("mlp.router.weight", (self.experts, h))
            for expert in range(self.experts):
                for tensor in self._mlp(f"mlp.experts.local_experts.{expert}."):
                    key = tensor.name.replace(f"local_experts.{expert}", "experts")
                    yield tensor._replace(shared=key, place=((expert, self.experts),))

    def final_norm(self) -> Iterator[Tensor]:
        """Return what follows the last layer."""
        yield from self._norm("decoder.final_layernorm.")

    def _mlp(self, prefix: str) -> Iterator[Tensor]:
        yield from self._linear(f"{prefix}linear_fc1", self.ffn * (1 + self.gated), self.hidden, 0)
        yield from self._linear(f"{prefix}linear_fc2", self.hidden, self.ffn, 1)

    def _linear(self, name: str, rows: int, columns: int, axis: int) -> Iterator[Tensor]:
        yield Tensor(f"{name}.weight", (rows, columns), axis)
        if self.bias:
            yield Tensor(f"{name}.bias", (rows,), 0 if axis == 0 else None)

    def _norm(self, prefix: str) -> Iterator[Tensor]:
        yield Tensor(f"{prefix}weight", (self.hidden,))
        if self.norm_bias:
            yield Tensor(f"{prefix}bias", (self.hidden,))

    def whole(self, rows: int) -> dict[str, Size]:
        """Return name and shape of all tensors of a distributed checkpoint: layers and experts are axes."""
        found = {
            f"decoder.layers.{t.key}": (self.layers, *(count for _, count in t.place), *t.size) for t in self.layer()
        }
        return found | dict(self._ends(rows, first=True, last=True))

    def of_rank(self, rows: int, tensor: int, pipeline: int, stage: int) -> dict[str, Size]:
        """Return those of a rank's file of a legacy checkpoint, at this TP and PP."""
        found = {
            f"decoder.layers.{layer}.{t.name}": t.local(tensor)
            for layer in range(self.layers // pipeline)
            for t in self.layer()
        }
        return found | dict(self._ends(rows, first=stage == 0, last=stage == pipeline - 1))

    def _ends(self, rows: int, first: bool, last: bool) -> Iterator[tuple[str, Size]]:
        """Return what is before and after the layers; rows are those of the vocabulary."""
        if first:
            yield EMBEDDING, (rows, self.hidden)
        if last:
            yield from ((t.name, t.size) for t in self.final_norm())
            if not self.tied:
                yield HEAD, (rows, self.hidden)

    def extra_states(self) -> Iterator[str]:
        """Return the keys of TransformerEngine's FP8 states: NeMo asks for them also where they are empty.

        Versions differ in which part of the attention has one.
        """
        attention = ("core_attention", "core_attention.fused_attention", "linear_qkv", "linear_proj")
        for layer in range(self.layers):
            for name in attention:
                yield f"model.decoder.layers.self_attention.{name}._extra_state/shard_{layer}_{self.layers}"
            for name in ("linear_fc1", "linear_fc2"):
                if self.dense:
                    yield f"model.decoder.layers.mlp.{name}._extra_state/shard_{layer}_{self.layers}"
                else:
                    for expert in range(self.experts):
                        at = f"shard_{layer}.{expert}_{self.layers}.{self.experts}"
                        yield f"model.decoder.layers.mlp.experts.experts.{name}._extra_state/{at}"
