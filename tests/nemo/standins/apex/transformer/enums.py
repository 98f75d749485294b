"""The names that NeMo asks for."""

import enum


class AttnMaskType(enum.Enum):
    """Kinds of attention masks."""

    padding = 1
    causal = 2
    no_mask = 3


class AttnType(enum.Enum):
    """Kinds of attention."""

    self_attn = 1
    cross_attn = 2


class ModelType(enum.Enum):
    """Kinds of models."""

    encoder_or_decoder = 1
    encoder_and_decoder = 2
