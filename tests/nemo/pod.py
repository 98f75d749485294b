"""A rendered job on this machine: folders are its mounts, processes its container, NVIDIA's code is inside."""

import json
import signal
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neva_pod.supervisor import processes
from tests.chart import helm
from tests.nemo import environment
from tests.sandbox.process import free_port_pair
from tests.survival.job import MARK, NVIDIA_SMI, command_of, marked, signal_all
from tests.waiting import until

ARCHITECTURE = {
    **{"numLayers": 2, "hiddenSize": 256, "ffnHiddenSize": 512, "numAttentionHeads": 4, "numQueryGroups": 2},
    "vocabSize": 1024 + 8,
}
"""The Llama of inside/inputs.py, with NeVa's pieces."""
PATIENCE = 1800.0
"""Seconds for a whole run, which takes two minutes where nothing else runs."""
STEPS, EVERY = 20, 5
"""Of a run, and between its checkpoints."""


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return values with what the other says, section by section, as Helm merges."""
    both = dict(base)
    for key, value in over.items():
        inner = isinstance(value, dict) and isinstance(base.get(key), dict)
        both[key] = merged(base[key], value) if inner else value
    return both


@dataclass(frozen=True)
class World:
    """The folders that every job here mounts."""

    folder: Path

    def make(self) -> None:
        """Make the folders, with a Llama, a CLIP and captions in the form of the hubs."""
        for name in ("datasets", "models", "results", "scratch"):
            (self.folder / name).mkdir(parents=True)
        environment.run("inputs.py", str(self.folder / "models"))
        (self.folder / "models" / "captions").rename(self.folder / "datasets" / "captions")

    @property
    def values(self) -> dict[str, Any]:
        """Values of a tiny run on two processes; its learning rate is for a model that was never trained."""
        models, datasets = self.folder / "models", self.folder / "datasets"
        return {
            "model": {
                **{
                    "llmPath": str(models / "ready"),
                    "checkpoint": "llm",
                    "visionEncoderPath": str(models / "ready/clip"),
                },
                "architecture": ARCHITECTURE,
            },
            "data": {"path": str(datasets / "ready"), "workers": 1},
            "training": {
                **{"gpusPerNode": 2, "tensorParallelSize": 1, "microBatchSize": 2, "globalBatchSize": 4},
                **{"maxSteps": STEPS, "warmupSteps": 1, "learningRate": 0.02, "logEveryNSteps": 1},
            },
            "checkpoint": {"everyNSteps": EVERY},
            "storage": {k: {"mountPath": str(self.folder / k)} for k in ("datasets", "models", "results", "scratch")},
            "fabric": "tcp",
            "preflight": {"skip": ["read-only"]},  # folders of this machine are no mounts
            "image": {"entrypoint": str(environment.INSIDE / "train.py")},
            "prepare": {
                "llm": {"source": str(models / "llama")},
                "vision": {"source": str(models / "clip")},
                "dataset": {"source": str(datasets / "captions")},
            },
        }


@dataclass
class Run:
    """A release of the chart, as its one pod."""

    world: World
    name: str
    values: dict[str, Any] = field(default_factory=dict)
    image: str = "24.07"
    port: int = field(default_factory=free_port_pair)

    def __post_init__(self) -> None:
        self.folder = self.world.folder / self.name
        self.results = self.world.folder / "results" / self.name
        self.checkpoints = self.results / "results" / "checkpoints"
        self.output, self.uid = self.folder / "output", uuid.uuid4().hex
        (self.folder / "bin").mkdir(parents=True)
        smi = self.folder / "bin" / "nvidia-smi"
        smi.write_text(NVIDIA_SMI)
        smi.chmod(0o755)

    def start(self, changes: dict[str, Any] | None = None) -> subprocess.Popen[bytes]:
        """Start the container of the job that the values make, as operator and kubelet do."""
        own = {"run": {"id": self.name}, "rendezvous": {"port": self.port}}
        values = merged(merged(merged(self.world.values, own), self.values), changes or {})
        manifests = helm.render(values)
        prepares = values["prepare"].get("enabled", False)
        name = f"{helm.job(manifests)['metadata']['name']}-master-0" if not prepares else "prepare"
        spec = helm.one(manifests, "Job")["spec"]["template"]["spec"] if prepares else helm.pod(manifests)
        container = next(c for c in spec["containers"] if c["name"] in ("prepare", "pytorch"))
        etc = self.folder / f"etc-{len(list(self.folder.glob('etc-*')))}"
        helm.mount(spec, manifests, "config", etc)
        inside = environment.environment(self.image, **helm.env_of(container))
        pod = {
            **{"PATH": f"{self.folder / 'bin'}:{inside['PATH']}", "NEVA_CONFIG_DIR": str(etc), MARK: self.uid},
            **{"POD_NAME": name, "POD_NAMESPACE": "ns", "POD_UID": self.uid, "NODE_NAME": "node-0"},
            **{
                "PET_NNODES": "1",
                "PET_NODE_RANK": "0",
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(self.port),
            },
            **{"GLOO_SOCKET_IFNAME": "lo", "NEVA_SUMS": str(self.folder / "sums"), "PYTHONDONTWRITEBYTECODE": "1"},
        }
        words = [word.replace("/etc/neva", str(etc)) for word in container["command"]]
        with self.output.open("ab") as file:
            return subprocess.Popen(
                words,
                cwd=etc,
                env={**inside, **pod},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def finish(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until the container has ended, well."""
        until(lambda: process.poll() is not None, self.tail, patience=PATIENCE)
        assert process.returncode == 0, self.tail()

    def said(self) -> str:
        """Return what the container printed."""
        return self.output.read_text(errors="replace")

    def tail(self) -> str:
        """Return its last words."""
        return self.said()[-6000:]

    def ranks(self) -> dict[int, int]:
        """Return rank -> process of those that train."""
        found = {}
        for pid in marked(self.uid):
            rank = processes.variable(pid, "RANK")
            if rank and b"rank.py" in (words := command_of(pid)) and b"--nproc" not in words:
                found[int(rank)] = pid
        return found

    def end(self) -> None:
        """Kill what is left of the container."""
        signal_all(marked(self.uid), signal.SIGKILL)

    def sums(self, rank: int = 0) -> list[dict[str, Any]]:
        """Return the checksums that rank wrote at each start and end of training."""
        return [json.loads(line) for line in (self.folder / f"sums-{rank}").read_text().splitlines()]
