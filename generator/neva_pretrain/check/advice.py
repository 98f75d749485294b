"""What is allowed and likely a mistake, in the order and words of the chart's ``templates/_warnings.tpl``."""

from neva_pretrain.chart.access import Values, preparing, rdma_enabled, rdma_resources, section
from neva_pretrain.check import engine

NETWORKS = "k8s.v1.cni.cncf.io/networks"


def warnings(values: Values) -> list[str]:
    """Return what a user should look at again in complete values that obey the rules.

    Each sentence begins with the key to change.
    """
    said = []
    fabric, rdma = values["fabric"], section(values, "rdma")
    if not preparing(values) and rdma_enabled(values) and values["training"]["nodes"] > 1:
        attached = rdma.get("networks") or section(values, "podAnnotations").get(NETWORKS)
        if fabric == "roce" and not values.get("hostNetwork") and not attached:
            said.append(
                "rdma.networks: none with fabric roce; RoCE v2 runs over IP, and a pod without the rails' interfaces "
                "fails at its first connection: name their networks (Multus), or use hostNetwork"
            )
        if fabric == "efa" and not rdma.get("count") and not rdma.get("resources"):
            (count,) = rdma_resources(values).values()
            said.append(
                f"rdma.count: {count}, as a p5.48xlarge has; pods that request more than their node has stay "
                "Pending: set it for other instances"
            )
    return said + engine.warnings(values)
