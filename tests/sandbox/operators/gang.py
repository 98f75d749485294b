"""Gang scheduling: the coscheduling plugin as a second scheduler, beside the default one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tests import tools
from tests.sandbox import process
from tests.sandbox.operators.base import Object, Operator, files

if TYPE_CHECKING:
    from tests.sandbox.cluster import Sandbox

SCHEDULER = "scheduler-plugins-scheduler"


class Gang(Operator):
    """The scheduler and the PodGroup controller of scheduler-plugins.

    The training operator is told its name, so it makes a PodGroup for each job and gives the pods
    to this scheduler, which binds all of a gang or none.
    """

    name = "scheduler-plugins"
    tools = (SCHEDULER, "scheduler-plugins-controller")

    def crds(self) -> list[Object]:
        """Return the CRDs of PodGroup and ElasticQuota."""
        return files(tools.manifests("scheduler-plugins") / "config" / "crd" / "bases")

    def launch(self, box: Sandbox) -> None:
        """Start both programs."""
        secure, probe = process.free_ports(2)
        config = box.folder / "operators" / f"{SCHEDULER}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(_scheduler_config(str(box.kubeconfig))), encoding="utf-8")
        box.start(
            SCHEDULER,
            f"--config={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={secure}",
            f"--cert-dir={config.parent}",
            # The coscheduling plugin is not told when pods end; a waiting gang is tried again after this, else 5 min.
            "--pod-max-in-unschedulable-pods-duration=10s",
        )
        box.start(
            "scheduler-plugins-controller",
            "--metricsAddr=0",
            f"--probeAddr=127.0.0.1:{probe}",
            "--enableLeaderElection=false",
        )

    def mount(self, box: Sandbox) -> None:
        """Mount nothing: no webhooks, no certificate."""

    def await_ready(self, box: Sandbox) -> None:
        """Wait until the scheduler has taken its lease, which is when it begins to schedule."""

        def leads() -> bool:
            lease = box.get("lease", SCHEDULER, namespace="kube-system")
            return bool(lease["spec"].get("holderIdentity"))

        self.wait(box, leads, "scheduling")


def _scheduler_config(kubeconfig: str) -> Object:
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        # On a machine that stands still for a while the usual 10 s would end it.
        "leaderElection": {
            "leaderElect": True,
            "resourceName": SCHEDULER,
            "leaseDuration": "2h",
            "renewDeadline": "1h",
        },
        "clientConnection": {"kubeconfig": kubeconfig, "qps": 1000, "burst": 2000},
        "profiles": [
            {
                "schedulerName": SCHEDULER,
                "plugins": {
                    "queueSort": {"enabled": [{"name": "Coscheduling"}], "disabled": [{"name": "*"}]},
                    "multiPoint": {"enabled": [{"name": "Coscheduling"}]},
                },
                "pluginConfig": [
                    {"name": "Coscheduling", "args": {"permitWaitingTimeSeconds": 30}},
                ],
            }
        ],
    }
