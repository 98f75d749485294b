"""What a NeMo log says: parser, state of the run, judgement, Prometheus exporter.

Standard library only and Python 3.10, since the exporter runs beside the training process, in any
Python image, from a ConfigMap. The same files are ``neva_pretrain.monitor.core``.
"""
