"""What a NeMo log says: parser, state of the run, judgement, Prometheus exporter."""
