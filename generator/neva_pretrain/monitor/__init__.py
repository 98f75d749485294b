"""neva-monitor: watch a run by its log."""
