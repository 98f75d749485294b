"""Kubeflow's training operator: PyTorchJob and its webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sandbox.operators.base import Object, WebhookOperator, files
from tests.sandbox.operators.gang import SCHEDULER

if TYPE_CHECKING:
    from tests.sandbox.cluster import Sandbox


class TrainingOperator(WebhookOperator):
    """The real operator, with every scheme on, as its own manifests deploy it."""

    name = "training-operator"
    tools = ("training-operator",)
    group = "training-operator"
    namespace = "kubeflow"
    service = "training-operator"
    secret = "training-operator-webhook-cert"  # noqa: S105 - the name of a Secret

    def crds(self) -> list[Object]:
        """Return the CRDs of all its job kinds."""
        return files(self.manifests("manifests", "base", "crds"), "kubeflow.org_*.yaml")

    def webhooks(self, box: Sandbox) -> list[Object]:
        """Return the validating webhooks of all its job kinds."""
        return self.kustomize(box, "manifests", "base", "webhook")

    def run(self, box: Sandbox, *, webhook: int, probe: int) -> None:
        """Start it; the raised client limits matter from some hundred pods on."""
        box.start(
            "training-operator",
            "--metrics-bind-address=0",
            f"--health-probe-bind-address=127.0.0.1:{probe}",
            f"--webhook-server-port={webhook}",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
            "--controller-threads=4",
            *([f"--gang-scheduler-name={SCHEDULER}"] if "gang" in box.components else []),
            env={**self.env(box), "MY_POD_NAMESPACE": self.namespace},
        )
