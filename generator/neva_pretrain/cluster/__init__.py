"""A run against the cluster that it is meant for, before it is installed."""
