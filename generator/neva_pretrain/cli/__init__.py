"""The commands neva-values and neva-monitor."""
