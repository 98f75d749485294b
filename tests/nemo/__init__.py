"""NVIDIA's own NeVa code as the judge: NeMo's wheel from PyPI, run under the rendered configuration on CPU."""
