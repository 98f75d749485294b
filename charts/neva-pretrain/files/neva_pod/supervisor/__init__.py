"""Runs torchrun on every node of the job, and starts it again on all of them after a fault."""
