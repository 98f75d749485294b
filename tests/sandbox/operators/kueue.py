"""Kueue: queues, quotas and topology-aware admission of whole jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sandbox.operators.base import Object, WebhookOperator, files, rename

if TYPE_CHECKING:
    from tests.sandbox.cluster import Sandbox


class Kueue(WebhookOperator):
    """The real controller; topology-aware scheduling is on by default in this version."""

    name = "kueue"
    tools = ("kueue",)
    group = "kueue"
    namespace = "kueue-system"
    service = "kueue-webhook-service"
    secret = "kueue-webhook-server-cert"  # noqa: S105 - the name of a Secret

    def crds(self) -> list[Object]:
        """Return all CRDs of Kueue."""
        return files(self.manifests("config", "components", "crd", "bases"))

    def webhooks(self, box: Sandbox) -> list[Object]:
        """Return its mutating and validating webhooks, with the prefix that it looks for."""
        return rename(self.kustomize(box, "config", "components", "webhook"), "kueue-")

    def conversions(self) -> list[Object]:
        """Return the patches of its kustomization that convert CRDs between v1beta1 and v1beta2."""
        folder = self.manifests("config", "components", "crd")
        (kustomization,) = files(folder, "kustomization.yaml")
        return [document for patch in kustomization["patches"] for document in files(folder, patch["path"])]

    def run(self, box: Sandbox, *, webhook: int, probe: int) -> None:
        """Start it for the job kinds that this sandbox has."""
        frameworks = ["batch/job", "kubeflow.org/pytorchjob"]
        if "trainer" in box.components:
            frameworks += ["jobset.x-k8s.io/jobset", "trainer.kubeflow.org/trainjob"]
        config = self.write_config(
            box,
            {
                "apiVersion": "config.kueue.x-k8s.io/v1beta2",
                "kind": "Configuration",
                "health": {"healthProbeBindAddress": f"127.0.0.1:{probe}"},
                "metrics": {"bindAddress": "0"},
                "webhook": {"host": "127.0.0.1", "port": webhook, "certDir": str(self.certificates(box))},
                "leaderElection": {"leaderElect": False},
                "clientConnection": {"qps": 1000, "burst": 2000},
                "integrations": {"frameworks": frameworks},
                # Its server of pending workloads would listen on all interfaces.
                "featureGates": {"VisibilityOnDemand": False},
            },
        )
        box.start("kueue", f"--config={config}", env=self.env(box))
