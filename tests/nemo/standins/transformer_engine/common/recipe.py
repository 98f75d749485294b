"""Recipes of FP8, for import only: FP8 needs a GPU."""


class DelayedScaling:
    """Not used."""


class Format:
    """Not used."""
