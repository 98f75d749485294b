"""Kernels over lists of tensors."""


def multi_tensor_applier(kernel, overflow, lists, *args):
    """Call a kernel of amp_C."""
    return kernel(65536, overflow, lists, *args)
