"""Stand-in for NVIDIA's TransformerEngine, which needs a GPU: the layers that megatron-core's NeVa uses, by torch.

The parameters have TransformerEngine's names, shapes and shards; a checkpoint of one is a checkpoint of the other.
"""

from transformer_engine import common, pytorch

__all__ = ["__version__", "common", "pytorch"]
__version__ = "1.8"
