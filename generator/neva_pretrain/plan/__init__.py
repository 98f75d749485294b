"""From a number of GPUs to a configuration: sizes, memory, time, and which one is best."""
