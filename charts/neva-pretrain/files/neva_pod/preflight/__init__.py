"""Proves, before a GPU is used, that the inputs and the node of a run are right."""
