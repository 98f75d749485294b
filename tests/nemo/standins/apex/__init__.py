"""Stand-in for NVIDIA's apex, which PyPI does not have: an optimizer and three kernels, by torch, on any device."""
