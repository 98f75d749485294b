"""Megatron Core's language model: its tensors, and the blocks that a checkpoint of it is written in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neva_pod.findings import ProblemError, brief, show, some

Size = tuple[int, ...]
Place = tuple[tuple[int, int], ...]
"""Where a tensor is among its like: (layer, layers), then (expert, experts)."""


@dataclass(frozen=True)
class Part:
    """A tensor of the source, or some of its rows."""

    file: str
    name: str
    shape: Size
    rows: tuple[int, int] | None = None

    @property
    def size(self) -> Size:
        """Return the shape of what is taken of it."""
        return self.shape if self.rows is None else (self.rows[1] - self.rows[0], *self.shape[1:])


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor of the checkpoint, and what it is made of.

    Of several parts, the rows of each group follow one another: of attention, a group's queries, its key, its value.
    """

    key: str
    shape: Size
    offset: Size
    size: Size
    parts: tuple[Part, ...]
    groups: int = 1


def block(
    key: str, place: Place, parts: Sequence[Part], groups: int = 1, *, of: Size | None = None, at: Size | None = None
) -> Chunk:
    """Return parts, joined by rows, as a block ``at`` an offset ``of`` a tensor: by default, all of it."""
    first = parts[0].size
    size = (sum(p.size[0] for p in parts), *first[1:])
    return Chunk(
        f"model.{key}",
        (*(count for _, count in place), *(of or size)),
        (*(index for index, _ in place), *(at or (0,) * len(size))),
        (*(1 for _ in place), *size),
        tuple(parts),
        groups,
    )


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

    def layer(self) -> Iterator[tuple[str, Size, int | None]]:
        """Return what each layer has, by Megatron Core's names: shape, and the axis that TP splits, None for none."""
        h, q, kv = self.hidden, self.heads * self.channels, self.groups * self.channels
        yield from self._linear("self_attention.linear_qkv", q + 2 * kv, h, 0)
        yield from self._linear("self_attention.linear_proj", h, q, 1)
        yield from self._norm("self_attention.linear_qkv.layer_norm_")
        if self.dense:
            yield from self._norm("mlp.linear_fc1.layer_norm_")
            yield from ((f"mlp.{name}", size, axis) for name, size, axis in self.mlp())
        else:
            yield from self._norm("pre_mlp_layernorm.")
            yield "mlp.router.weight", (self.experts, h), None

    def mlp(self) -> Iterator[tuple[str, Size, int | None]]:
        """Return what an MLP, or an expert, has."""
        yield from self._linear("linear_fc1", self.ffn * (1 + self.gated), self.hidden, 0)
        yield from self._linear("linear_fc2", self.hidden, self.ffn, 1)

    def final_norm(self) -> Iterator[tuple[str, Size, int | None]]:
        """Return what follows the last layer."""
        yield from self._norm("decoder.final_layernorm.")

    def _linear(self, name: str, rows: int, columns: int, axis: int) -> Iterator[tuple[str, Size, int | None]]:
        yield f"{name}.weight", (rows, columns), axis
        if self.bias:
            yield f"{name}.bias", (rows,), 0 if axis == 0 else None

    def _norm(self, prefix: str) -> Iterator[tuple[str, Size, int | None]]:
        yield f"{prefix}weight", (self.hidden,), None
        if self.norm_bias:
            yield f"{prefix}bias", (self.hidden,), None

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


INSTEAD = "copy it again; if it is complete, name the model that it is (model.name)"


class Tensors:
    """The tensors of a source; each is taken once, of the shape that it must have, and none may be left."""

    def __init__(self, source: str, found: Mapping[str, tuple[str, Size]], prefix: str = "") -> None:
        self._source, self._left, self._prefix = source, dict(found), prefix

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._left

    def shape(self, name: str) -> Size:
        """Return the shape of a tensor."""
        return self._found(name)[1]

    def take(self, name: str, *shape: int) -> Part:
        """Return a tensor."""
        file, found = self._found(name)
        if found != shape:
            raise ProblemError(
                f"{show(file)}: tensor {show(name)} has shape {brief(found)}; must be {brief(shape)}", INSTEAD
            )
        del self._left[self._prefix + name]
        return Part(file, self._prefix + name, shape)

    def _found(self, name: str) -> tuple[str, Size]:
        if name not in self:
            raise ProblemError(f"{show(self._source)}: has no tensor {show(name)}", INSTEAD)
        return self._left[self._prefix + name]

    def drop(self, name: str) -> None:
        """Pass over a tensor that says nothing new."""
        self._left.pop(self._prefix + name, None)

    def end(self) -> None:
        """Refuse what the model has no place for: without it, it would be another one."""
        if self._left:
            file = next(iter(self._left.values()))[0]
            raise ProblemError(
                f"{show(file)}: the model has no place for tensor {some(sorted(self._left))}",
                "name weights of plain Llama, Mistral or Mixtral layers, or a NeMo checkpoint",
            )
