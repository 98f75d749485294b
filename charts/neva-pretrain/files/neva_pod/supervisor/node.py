"""What this node is, as launch.sh and the chart tell it."""

import hashlib
import os
from dataclasses import dataclass

from neva_pod.settings import Settings, load_settings
from neva_pod.supervisor.watch import Limits

DONE = 0
NOT_FINITE = 65
"""Exit code: the loss is not a number any more."""
WRONG = 64
"""Exit code: something that another start would meet again."""
UNREACHABLE = 69
"""Exit code: a node did not come, or the master did not answer."""
GAVE_UP = 70
"""Exit code: too many failures without progress."""
STOPPED = 143
"""Exit code: SIGTERM. Codes of 128 and more ask the operator for a new pod, lower ones end the job."""


@dataclass(frozen=True)
class Node:
    """One pod of the job."""

    rank: int
    nodes: int
    processes: int
    results: str
    work: str
    entrypoint: str
    config: str
    master: str
    port: int
    wait: float
    """Seconds that nodes may take to come together."""
    namespace: str
    pod: str
    uid: str
    name: str
    """Name of the Kubernetes node."""
    settings: Settings
    digest: str
    """Of the settings: pods of one run have the same."""

    @classmethod
    def of_environment(cls, environment: "os._Environ[str]") -> "Node":
        """Read what launch.sh has checked.

        Raises:
            UsageError: the settings file is not right.
        """
        config = environment.get("NEVA_CONFIG_DIR", "/etc/neva")
        file = os.path.join(config, "settings.json")
        settings = load_settings(file)
        with open(file, "rb") as text:
            digest = hashlib.sha256(text.read()).hexdigest()[:8]
        return cls(
            rank=int(environment["NEVA_NODE_RANK"]),
            nodes=int(environment["NEVA_NODES"]),
            processes=int(environment["NEVA_GPUS_PER_NODE"]),
            results=environment["NEVA_RESULTS_DIR"],
            work=environment["NEVA_WORK_DIR"],
            entrypoint=environment["NEVA_ENTRYPOINT"],
            config=config,
            master=environment.get("NEVA_MASTER_HOST", "") if environment["NEVA_NODE_RANK"] != "0" else "127.0.0.1",
            port=settings.integer("restart.port", 23457),
            wait=float(environment.get("NEVA_WAIT_SECONDS", "900")),
            namespace=environment.get("POD_NAMESPACE", ""),
            pod=environment.get("POD_NAME", ""),
            uid=environment.get("POD_UID", ""),
            name=environment.get("NODE_NAME", ""),
            settings=settings,
            digest=digest,
        )

    @property
    def resumes(self) -> bool:
        """Whether an attempt goes on from the newest checkpoint."""
        return self.settings.text("resume", "auto") != "never"

    @property
    def max_steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.integer("training.maxSteps", 2**53)

    @property
    def wait_again(self) -> float:
        """Seconds that a lost pod may take to come again: it may have to find a node and pull the image."""
        return float(self.settings.integer("restart.waitSeconds", 3600))

    @property
    def job(self) -> str:
        """Name of the job, for which attempts are counted."""
        for middle in ("-master-", "-node-", "-worker-"):
            if middle in self.pod:
                return self.pod.rpartition(middle)[0]
        return self.pod or self.digest

    @property
    def logs(self) -> str:
        """Folder of the nodes' logs: beside the results, outside NeMo's log folder, whose files NeMo moves."""
        return os.path.join(self.results, "logs")

    @property
    def log(self) -> str:
        """The log of this node."""
        return os.path.join(self.logs, f"node-{self.rank:05d}.log")

    @property
    def limits(self) -> Limits:
        """How long steps may take."""
        restart = "restart.{}Seconds".format
        return Limits(
            start=float(self.settings.integer(restart("start"), 1800)),
            stall=float(self.settings.integer(restart("stall"), 120)),
            save=float(self.settings.integer(restart("save"), 900)),
        )

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL, of which torchrun takes the last 30."""
        return float(self.settings.integer("restart.graceSeconds", 120))

    def command(self) -> list[str]:
        """Return the command line of torchrun; the rest is in its environment, PET_*."""
        return [
            "torchrun",
            f"--nnodes={self.nodes}",
            f"--node-rank={self.rank}",
            f"--nproc-per-node={self.processes}",
            os.path.join(os.path.dirname(os.path.abspath(__file__)), "rank.py"),
            self.entrypoint,
            f"--config-path={self.config}",
            "--config-name=neva_pretrain.yaml",
            # Hydra writes into its run folder: never the container's working folder, never a read-only one.
            f"hydra.run.dir={self.work}",
            "hydra.output_subdir=null",
        ]
