"""Simulated GPU nodes: what the scheduler sees of a machine with eight H100s."""

from typing import Any

NODES_PER_RACK = 8
RACKS_PER_BLOCK = 4


def node(index: int, gpus: int) -> dict[str, Any]:
    """Describe one node; racks and blocks are there for topology-aware scheduling."""
    name = f"gpu-{index:04d}"
    rack = index // NODES_PER_RACK
    capacity = {
        "cpu": "128",
        "memory": "2Ti",
        "pods": "110",
        "ephemeral-storage": "4Ti",
        "nvidia.com/gpu": str(gpus),
        "rdma/hca_shared_devices_all": "63",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node-role.kubernetes.io/worker": "",
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                "scitix.ai/gpu-type": "h100nvlink80",
                "neva.test/rack": f"rack-{rack:03d}",
                "neva.test/block": f"block-{rack // RACKS_PER_BLOCK:02d}",
            },
        },
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def nodes(count: int, gpus: int) -> list[dict[str, Any]]:
    """Describe ``count`` equal nodes."""
    return [node(index, gpus) for index in range(count)]
