"""Activation checkpoints by megatron-core's own, which TransformerEngine's follow."""

from megatron.core.tensor_parallel.random import checkpoint as _checkpoint


def checkpoint(function, *args, distribute_saved_activations=False, get_rng_state_tracker=None, tp_group=None, **_rest):
    """Run a function whose activations are computed again in the backward pass."""
    return _checkpoint(function, distribute_saved_activations, *args)
