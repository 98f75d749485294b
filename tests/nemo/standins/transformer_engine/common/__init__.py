"""What is not of torch."""

from transformer_engine.common import recipe

__all__ = ["recipe"]
