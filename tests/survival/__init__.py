"""A whole job here: real launch.sh, supervisor and torchrun; stand-ins for NeMo, kubelet and the operator."""
