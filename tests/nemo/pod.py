"""A rendered job on this machine: folders are its mounts, processes its container, NVIDIA's code is inside."""

import json
import os
import signal
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chart import helm
from tests.nemo import environment
from tests.sandbox.process import free_ports, is_free
from tests.waiting import until

NVIDIA_SMI = '#!/bin/sh\ni=0\nwhile [ $i -lt $NEVA_GPUS_PER_NODE ]; do echo "GPU $i: stand-in"; i=$((i+1)); done\n'
MARK = "NEVA_TEST_POD"
TINY = {"numLayers": 2, "hiddenSize": 256, "ffnHiddenSize": 512, "numAttentionHeads": 4, "numQueryGroups": 2}
"""The Llama of inside/inputs.py."""
PIECES = 1024
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
                "architecture": {**TINY, "vocabSize": PIECES + 8},
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


def _port() -> int:
    """Return a free port; the supervisor takes the one after it."""
    return next(port for port in iter(lambda: free_ports(1)[0], None) if is_free(port + 1))


@dataclass
class Run:
    """A release of the chart, as its one pod."""

    world: World
    name: str
    values: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=_port)

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
        seen: dict[str, str] = {}
        for entry in container["env"]:
            if "value" in entry:
                seen[entry["name"]] = helm.expand(entry["value"], seen)
        inside = environment.environment(**seen)
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
        command = [word.replace("/etc/neva", str(etc)) for word in container["command"]]
        with self.output.open("ab") as file:
            return subprocess.Popen(
                command,
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
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    words = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if f"{MARK}={self.uid}".encode() in variables and b"rank.py" in words and b"--nproc" not in words:
                    rank = next((v for v in variables if v.startswith(b"RANK=")), None)
                    if rank:
                        found[int(rank[5:])] = int(entry.name)
        return found

    def end(self) -> None:
        """Kill what is left of the container."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if f"{MARK}={self.uid}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)
                except OSError:
                    continue

    def sums(self, rank: int = 0) -> list[dict[str, Any]]:
        """Return the checksums that rank wrote at each start and end of training."""
        return [json.loads(line) for line in (self.folder / f"sums-{rank}").read_text().splitlines()]
