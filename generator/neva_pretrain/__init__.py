"""Plan, launch and watch NVIDIA NeMo NeVa (LLaVA) pretraining on Kubernetes."""

__version__ = "0.1.0"
