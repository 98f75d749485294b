"""Activation checkpoints by megatron-core's own, which TransformerEngine's follow."""


def checkpoint(function, *args, distribute_saved_activations=False, get_rng_state_tracker=None, tp_group=None, **_rest):
    """Run a function whose activations are computed again in the backward pass."""
    from megatron.core.tensor_parallel import random  # it imports this package

    return random.checkpoint(function, distribute_saved_activations, *args)


class CudaRNGStatesTracker:
    """Base of a class of megatron-core 0.9 and later, which uses it with CUDA graphs only."""


def gather_along_first_dim(*_, **__):
    """For import only, by megatron-core 0.10: its own LLaVA, which NeVa is not."""
    raise NotImplementedError("the stand-in has no sequence parallelism")
