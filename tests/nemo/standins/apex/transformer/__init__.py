"""For import only."""
