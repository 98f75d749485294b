"""Names of norms: NeMo asks whether a module is one of them."""

from apex.normalization.fused_layer_norm import FusedLayerNorm, MixedFusedLayerNorm, MixedFusedRMSNorm

__all__ = ["FusedLayerNorm", "MixedFusedLayerNorm", "MixedFusedRMSNorm"]
