"""No module is one of them: the model's norms are TransformerEngine's."""


class FusedLayerNorm:
    """Not used."""


class MixedFusedLayerNorm:
    """Not used."""


class MixedFusedRMSNorm:
    """Not used."""


class FusedLayerNormAffineFunction:
    """Not used."""
