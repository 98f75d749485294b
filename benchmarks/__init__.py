"""Benchmarks that need hardware which the tests do not."""
