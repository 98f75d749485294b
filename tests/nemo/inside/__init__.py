"""Run where NeMo is, in an environment of its own: see tests.nemo.environment."""
