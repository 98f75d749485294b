"""Reads what a run is given: tar files, NeMo checkpoints, tokenizers, samples; never weights."""
