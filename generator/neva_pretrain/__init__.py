"""Plan, launch and watch NVIDIA NeMo NeVa (LLaVA) pretraining on Kubernetes."""

from importlib.metadata import version

__version__ = version("neva-pretrain")
