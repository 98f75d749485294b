"""Plan, launch and watch NVIDIA NeMo NeVa (LLaVA) pretraining on Kubernetes."""
