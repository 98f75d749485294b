"""What a NeMo log says: parser, state of the run, findings, Prometheus exporter."""
