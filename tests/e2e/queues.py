"""Kueue's objects on the local control plane: a flavor of simulated H100 nodes in racks, and queues with a quota."""

from collections.abc import Mapping
from typing import Any

FLAVOR: dict[str, Any] = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "kind": "ResourceFlavor",
    "metadata": {"name": "h100"},
    "spec": {
        "nodeLabels": {"scitix.ai/gpu-type": "h100nvlink80"},
        "topologyName": "racks",
        "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    },
}
TOPOLOGY = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "kind": "Topology",
    "metadata": {"name": "racks"},
    "spec": {"levels": [{"nodeLabel": "neva.test/rack"}, {"nodeLabel": "kubernetes.io/hostname"}]},
}
NODE = {"cpu": 80, "memory": "800Gi", "nvidia.com/gpu": 8, "rdma/hca_shared_devices_all": 1}


def quota(nodes: int) -> dict[str, int | str]:
    """What so many nodes of the chart's pods ask for; Kueue counts every resource."""
    amounts = {name: amount for name, amount in NODE.items() if isinstance(amount, int)}
    return {**{name: amount * nodes for name, amount in amounts.items()}, "memory": f"{800 * nodes}Gi"}


def queue(name: str, quota: Mapping[str, int | str]) -> list[dict[str, Any]]:
    """Make a queue ``gpus`` in the namespace of that name, with a quota of its own."""
    resources = [{"name": resource, "nominalQuota": amount} for resource, amount in quota.items()]
    group = {"coveredResources": list(quota), "flavors": [{"name": "h100", "resources": resources}]}
    api = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
    return [
        {
            **api,
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
        },
        {
            **api,
            "kind": "LocalQueue",
            "metadata": {"name": "gpus", "namespace": name},
            "spec": {"clusterQueue": name},
        },
    ]
