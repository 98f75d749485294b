"""For import only."""

cast_to_fp8 = None
