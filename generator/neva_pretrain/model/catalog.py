"""The catalog of models: NVIDIA's NeVa presets as typed, read-only records.

The facts live in the chart's ``files/models.yaml``; this module only gives them names and types.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar

from neva_pretrain import chart
from neva_pretrain.errors import RefusedError, Violation

T = TypeVar("T")

VOCAB_DIVISOR = 128
"""NeMo's ``make_vocab_size_divisible_by``."""


@dataclass(frozen=True)
class Architecture:
    """Shape of the language model, in Megatron's terms (counts, no units)."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    vocab_size: int
    encoder_seq_length: int
    gated_mlp: bool = True
    num_experts: int = 1
    experts_per_token: int = 1

    def padded_vocab_size(self, tensor_parallel_size: int) -> int:
        """Vocabulary rounded up to a multiple of 128 x TP.

        Source: NeMo ``MegatronBaseModel._vocab_size_with_padding``.
        """
        multiple = VOCAB_DIVISOR * tensor_parallel_size
        return -(-self.vocab_size // multiple) * multiple

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_size(self) -> int:
        """Channels of the keys, and of the values: the hidden size, less with grouped queries."""
        return self.num_query_groups * self.head_size

    def layer_matrix(self, experts: int) -> int:
        """Matrix weights of one layer when ``experts`` of its MLPs count."""
        mlp = (3 if self.gated_mlp else 2) * self.hidden_size * self.ffn_hidden_size
        return 2 * self.hidden_size * (self.hidden_size + self.key_value_size) + experts * mlp

    @property
    def parameters(self) -> int:
        """Weights of the language model with its unpadded vocabulary: embedding, layers, final norm, output layer."""
        hidden = self.hidden_size
        router = hidden * self.num_experts if self.num_experts > 1 else 0
        layer = self.layer_matrix(self.num_experts) + router + 2 * hidden
        return self.num_layers * layer + 2 * self.vocab_size * hidden + hidden


@dataclass(frozen=True)
class VisionEncoder:
    """The frozen image tower, one whole copy on each GPU (sizes in pixels, channels and parameters)."""

    name: str
    path: str
    architectures: tuple[str, ...]
    hidden_size: int
    num_layers: int
    image_size: int
    patch_size: int
    class_tokens: int
    parameters: int

    @property
    def patches(self) -> int:
        """Patches of one image: side over patch size, squared."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class Preset:
    """NVIDIA's parallelism for a model; a legacy checkpoint is split for it."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    micro_batch_size: int
    sequence_parallel: bool = False


@dataclass(frozen=True)
class Model:
    """One NeVa model: language model, vision tower and projector."""

    name: str
    model_type: str
    preset: Preset
    architecture: Architecture
    vision: VisionEncoder
    projector: str
    tokenizer_library: str
    extra_tokens: int
    folder: str
    checkpoint_name: str
    tokenizer_name: str
    tokens_per_sample: int
    hydra: Mapping[str, Any] = field(repr=False)

    @property
    def image_tokens(self) -> int:
        """Tokens that one image takes in the language model's sequence.

        Source: NeMo ``neva_dataset.preprocess_multimodal``: patches, a quarter of them for ``mlp_downsample``
        (whose sides are first rounded up to even).
        """
        if self.projector != "mlp_downsample":
            return self.vision.patches
        side = self.vision.image_size // self.vision.patch_size
        return ((side + 1) // 2) ** 2

    @property
    def projector_parameters(self) -> int:
        """Trained parameters: everything else is frozen.

        Source: NeMo ``parallel_adapters.MultimodalProjectorAdapter``: a linear layer; two with GELU between for
        ``mlp2x_gelu``; the same behind a norm over 2x2 patches for ``mlp_downsample``.
        """
        vision, hidden = self.vision.hidden_size, self.architecture.hidden_size
        if self.projector == "linear":
            return vision * hidden + hidden
        if self.projector == "mlp_downsample":
            return 2 * 4 * vision + 4 * vision * hidden + hidden + hidden * hidden + hidden
        return vision * hidden + hidden + hidden * hidden + hidden


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def _record(cls: type[T], data: Mapping[str, Any], **more: Any) -> T:
    values = {_snake(k): tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # all callers pass dataclasses
    return cls(**{k: v for k, v in values.items() if k in known}, **more)


def architecture_from(values: Mapping[str, Any]) -> Architecture:
    """Build an :class:`Architecture` from its camelCase form in a values file."""
    return _record(Architecture, values)


@cache
def _load() -> dict[str, Model]:
    data = chart.models()
    towers = {n: _record(VisionEncoder, v, name=n) for n, v in data["visionEncoders"].items()}
    return {
        name: Model(
            name=name,
            model_type=m["modelType"],
            preset=_record(Preset, m["preset"]),
            architecture=architecture_from(m["architecture"]),
            vision=towers[m["visionEncoder"]],
            projector=m["projector"],
            tokenizer_library=m["tokenizer"]["library"],
            extra_tokens=m["tokenizer"]["extraTokens"],
            folder=m["checkpoint"]["folder"],
            checkpoint_name=m["checkpoint"]["name"],
            tokenizer_name=m["checkpoint"]["tokenizer"],
            tokens_per_sample=m["tokensPerSample"],
            hydra=m["hydra"],
        )
        for name, m in data["models"].items()
    }


def names() -> list[str]:
    """Names of all models, in the catalog's order."""
    return list(_load())


def get(name: str) -> Model:
    """Return the model of that name; ``-`` stands for ``_`` as on NVIDIA's pages.

    Raises:
        RefusedError: no such model; the message lists those there are.
    """
    known = _load()
    model = known.get(name.replace("-", "_"))
    if model is None:
        raise RefusedError(
            [Violation("model.name", name, "must be a model in the catalog", f"use one of {', '.join(known)}")]
        )
    return model
