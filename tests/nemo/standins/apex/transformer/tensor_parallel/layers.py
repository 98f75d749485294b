"""apex's and megatron-core's are the same."""

from megatron.core.tensor_parallel import set_defaults_if_not_set_tensor_model_parallel_attributes

__all__ = ["set_defaults_if_not_set_tensor_model_parallel_attributes"]
