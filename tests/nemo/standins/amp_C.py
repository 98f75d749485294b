"""Stand-in for apex's kernels over lists of tensors, as NeMo calls them."""

import torch


def multi_tensor_scale(_chunk, overflow, lists, scale):
    """Copy the first list into the second, scaled; tell of values that are not finite."""
    for source, target in zip(*lists, strict=True):
        target.copy_(source.to(target.dtype) * scale)
        if not torch.isfinite(source).all():
            overflow.fill_(1)


def multi_tensor_l2norm(_chunk, _overflow, lists, _each=False):
    """Return the norm of all tensors together."""
    norms = torch.stack([tensor.float().norm() for tensor in lists[0]])
    return norms.norm().reshape(1), None


multi_tensor_unscale_l2norm = None
"""NeMo imports it for megatron_fused_adam, which the chart does not use."""
