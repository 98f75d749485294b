"""Kubeflow Trainer: TrainJob and its runtimes, on top of JobSet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tests.sandbox import process
from tests.sandbox.operators.base import Object, WebhookOperator, files, rename

if TYPE_CHECKING:
    from tests.sandbox.cluster import Sandbox


class JobSet(WebhookOperator):
    """The controller that makes Jobs from the JobSets that Trainer makes."""

    name = "jobset"
    tools = ("jobset",)
    group = "jobset"
    namespace = "jobset-system"
    service = "jobset-webhook-service"
    secret = "jobset-webhook-server-cert"  # noqa: S105 - the name of a Secret

    def crds(self) -> list[Object]:
        """Return the CRD of JobSet."""
        return files(self.manifests("config", "components", "crd", "bases"))

    def webhooks(self, box: Sandbox) -> list[Object]:
        """Return its mutating and validating webhooks, with the prefix that it looks for."""
        return rename(self.kustomize(box, "config", "components", "webhook"), "jobset-")

    def run(self, box: Sandbox, *, webhook: int, probe: int) -> None:
        """Start it."""
        config = self.write_config(
            box,
            {
                "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
                "kind": "Configuration",
                "health": {"healthProbeBindAddress": f"127.0.0.1:{probe}"},
                "metrics": {"bindAddress": "0"},
                "webhook": {"host": "127.0.0.1", "port": webhook},
                "leaderElection": {"leaderElect": False},
                "internalCertManagement": {"enable": True},
                "clientConnection": {"qps": 1000, "burst": 2000},
            },
        )
        box.start("jobset", f"--config={config}", env=self.env(box))


class Trainer(WebhookOperator):
    """The controller of TrainJob and TrainingRuntime."""

    name = "trainer"
    tools = ("trainer-controller-manager",)
    group = "trainer"
    namespace = "kubeflow-system"
    service = "kubeflow-trainer-controller-manager"
    secret = "kubeflow-trainer-webhook-cert"  # noqa: S105 - the name of a Secret

    @staticmethod
    def status_server(box: Sandbox) -> str:
        """Return the address of its status server, which a pod would find by this name."""
        port = yaml.safe_load((box.folder / "operators" / Trainer.name / "config.yaml").read_text())["statusServer"][
            "port"
        ]
        return f"https://{Trainer.service}.{Trainer.namespace}.svc:{port}"

    def crds(self) -> list[Object]:
        """Return the CRDs of TrainJob and its runtimes."""
        return files(self.manifests("manifests", "base", "crds"), "trainer.kubeflow.org_*.yaml")

    def webhooks(self, box: Sandbox) -> list[Object]:
        """Return its validating webhooks."""
        return self.kustomize(box, "manifests", "base", "webhook")

    def run(self, box: Sandbox, *, webhook: int, probe: int) -> None:
        """Start it, with its status server, which finds the API server by a token of its own."""
        (status,) = process.free_ports(1)
        token = self.folder(box) / "serviceaccount" / "token"
        token.parent.mkdir()

        def issued() -> bool:
            token.write_text(box.kubectl("create", "token", "default", "-n", self.namespace), encoding="utf-8")
            return True

        box.wait(issued, f"{self.name}: token")
        config = self.write_config(
            box,
            {
                "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
                "kind": "Configuration",
                "health": {"healthProbeBindAddress": f"127.0.0.1:{probe}"},
                "metrics": {"bindAddress": "0", "secureServing": False},
                "webhook": {"host": "127.0.0.1", "port": webhook},
                "leaderElection": {"leaderElect": False},
                "certManagement": {
                    "enable": True,
                    "webhookServiceName": self.service,
                    "webhookSecretName": self.secret,
                },
                "clientConnection": {"qps": 1000, "burst": 2000},
                "featureGates": {"TrainJobStatus": True},
                "statusServer": {"port": status},
            },
        )
        box.start("trainer-controller-manager", f"--config={config}", env=self.env(box))
