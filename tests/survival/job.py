"""The pods of a job as processes of this machine.

Real: launch.sh, the supervisor, torchrun, signals, files. Stand-ins, named so: the training script (training.py),
nvidia-smi, kubelet (a container is the processes that carry its pod's mark; its liveness probe) and the operator (a pod
whose container ended with 128 or more, or that was deleted, is made again; 1 to 127 ends the job). The real operators
do so in tests/e2e/test_faults.py.
"""

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neva_pod.supervisor import alive, processes
from tests.sandbox.process import free_ports
from tests.waiting import until

HERE = Path(__file__).parent
FILES = HERE.parents[1] / "charts" / "neva-pretrain" / "files"
CHECKPOINT = HERE.parent / "data" / "checkpoints" / "saved"
MARK = "POD_UID"
LIVENESS_SECONDS = 2.0
LIVENESS_FAILURES = 2
PROBE_SECONDS = 20.0
STEPS = 80
"""Four seconds and more: a fault after step 7 must find the job at work, though this process was held up."""

NVIDIA_SMI = '#!/bin/sh\ni=0\nwhile [ $i -lt $NEVA_GPUS_PER_NODE ]; do echo "GPU $i: stand-in"; i=$((i+1)); done\n'


def marked(uid: str) -> list[int]:
    """Return the processes of a pod."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if processes.variable(pid, MARK) == uid]


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Signal processes that may be gone."""
    for pid in pids:
        processes.send(pid, number)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Pod:
    """One container's processes."""

    def __init__(
        self, rank: int, name: str, environment: Mapping[str, str], output: Path, runtime: Sequence[str] = ()
    ) -> None:
        self.rank, self.name, self.uid = rank, name, uuid.uuid4().hex
        self.output = output
        self._environment = {**environment, MARK: self.uid, "POD_NAME": name}
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [*runtime, "bash", str(FILES / "launch.sh")],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._failed_probes = 0

    def kill(self) -> None:
        """End all processes at once: the node is off, or the kernel ran out of memory."""
        while pids := marked(self.uid):
            signal_all(pids, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()
        Path(alive.path(self._environment)).unlink(missing_ok=True)  # a pod's /dev/shm goes with it

    def freeze(self) -> None:
        """Stop all processes, as a hung node does."""
        signal_all(marked(self.uid), signal.SIGSTOP)

    def ranks(self) -> list[int]:
        """Return the training processes."""
        return [p for p in marked(self.uid) if b"training.py" in command_of(p)]

    def torchruns(self) -> list[int]:
        """Return torchrun's process, if there is one now."""
        return [p for p in marked(self.uid) if b"--nproc-per-node" in command_of(p)]

    def torchrun(self) -> int:
        """Return torchrun's process."""
        (pid,) = self.torchruns()
        return pid

    def probe(self) -> bool:
        """Run the liveness probe; False once it has failed too often."""
        command = [sys.executable, str(FILES / "neva_pod" / "supervisor" / "alive.py")]
        try:
            code = subprocess.run(
                command, env=self._environment, capture_output=True, check=False, timeout=PROBE_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:  # frozen with the pod
            code = 1
        self._failed_probes = self._failed_probes + 1 if code else 0
        return self._failed_probes < LIVENESS_FAILURES


@dataclass
class Job:
    """A job of some nodes with their folders; one to each test."""

    folder: Path
    nodes: int = 2
    processes: int = 2
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    namespace: str = "ns"
    name: str = field(default_factory=lambda: f"neva-{uuid.uuid4().hex[:8]}")
    """Of its own: /dev/shm, where the sign of life is, is a pod's own in a cluster, and shared here."""
    runtime: Sequence[str] = ()
    """What starts a pod's first process: as another user, or in another network."""
    step_seconds: float = 0.05
    results: Path = Path()
    pods: dict[int, Pod] = field(default_factory=dict)
    restarts: int = 0
    code: int | None = None
    """The job's end: 0, or the final code of a pod."""

    def __post_init__(self) -> None:
        self.results = self.results if self.results != Path() else self.folder / "results"
        self.ledger, self.faults = self.folder / "ledger.jsonl", self.folder / "faults"
        self.config, self.bin = self.folder / "config", self.folder / "bin"
        for folder in (self.faults, self.config, self.bin):
            folder.mkdir(parents=True)
        port, control = free_ports(2)
        settings: dict[str, Any] = {
            "run": {"id": "run", "release": "neva", "namespace": self.namespace},
            "training": {"nodes": self.nodes, "maxSteps": STEPS, "globalBatchSize": 4},
            "checkpoint": {"enabled": True, "everyNSteps": 5},
            "resume": "auto",
            "results": {"path": str(self.results), "checkpointsDir": str(self.results / "results" / "checkpoints")},
            "restart": {
                **{"enabled": True, "limit": 3, "port": control, "graceSeconds": 60, "waitSeconds": 200},
                **{"stallSeconds": 25, "startSeconds": 120, "saveSeconds": 40},
            },
        }
        for key, value in self.settings.items():
            section, _, name = key.partition(".")
            settings[section] = {**settings[section], name: value} if name else value
        self.settings = settings
        (self.config / "settings.json").write_text(json.dumps(settings))
        (self.config / "neva_pretrain.yaml").write_text("name: stand-in\n")
        (self.config / "neva_pod").symlink_to(FILES / "neva_pod")
        (self.bin / "nvidia-smi").write_text(NVIDIA_SMI)
        (self.bin / "nvidia-smi").chmod(0o755)
        self.environment = {
            "PATH": f"{self.bin}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(HERE / "fast"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
            "NEVA_CONFIG_DIR": str(self.config),
            "NEVA_NODES": str(self.nodes),
            "NEVA_GPUS_PER_NODE": str(self.processes),
            "NEVA_RESULTS_DIR": str(self.results),
            "NEVA_ENTRYPOINT": str(HERE / "training.py"),
            "NEVA_RDMA": "0",
            "NEVA_WAIT_SECONDS": "200",
            "POD_NAMESPACE": self.namespace,
            "STAND_IN_STEP_SECONDS": str(self.step_seconds),
            "STAND_IN_CHECKPOINT": str(CHECKPOINT),
            "STAND_IN_LEDGER": str(self.ledger),
            "STAND_IN_FAULTS": str(self.faults),
            **self.environment,
        }
        self._stop = threading.Event()
        self._operator = threading.Thread(target=self._operate, daemon=True)
        self._lock = threading.RLock()

    def pod(self, rank: int) -> Pod:
        """Make the pod of a rank."""
        name = f"{self.name}-master-0" if rank == 0 else f"{self.name}-worker-{rank - 1}"
        scratch = self.folder / f"scratch-{rank}"
        own = {
            "PET_NODE_RANK": str(rank),
            "PET_NNODES": str(self.nodes),
            "NEVA_WORK_DIR": str(scratch / "work"),
            "TMPDIR": str(scratch / "tmp"),
            "HF_HOME": str(scratch / "huggingface"),
            "HOME": str(scratch / "home"),
            "NODE_NAME": f"node-{rank}",
        }
        return Pod(rank, name, {**self.environment, **own}, self.folder / f"pod-{rank}.log", self.runtime)

    def start(self) -> None:
        """Make all pods, and look after them."""
        for rank in range(self.nodes):
            self.pods[rank] = self.pod(rank)
        self.operate()

    def operate(self) -> None:
        """Look after the pods as the operator and kubelet do."""
        self._operator.start()

    def _operate(self) -> None:
        probed = time.monotonic()
        while not self._stop.wait(0.1):
            probe = time.monotonic() - probed > LIVENESS_SECONDS
            probed = time.monotonic() if probe else probed
            with self._lock:
                for rank, pod in self.pods.items():
                    code = pod.process.poll()
                    if code is None:
                        if probe and not pod.probe():
                            pod.kill()
                        continue
                    pod.kill()
                    code = 128 - code if code < 0 else code
                    if code >= 128:
                        self.restarts += 1
                        self.pods[rank] = self.pod(rank)
                    elif rank == 0 or code != 0:
                        self.code = code if not self.code else self.code
                if self.code is not None:
                    return

    def delete(self, rank: int) -> Pod:
        """Delete a pod as kubectl, drain and preemption do: SIGTERM, and the operator makes it again."""
        pod = self.pods[rank]
        signal_all([pod.process.pid], signal.SIGTERM)
        return pod

    def replace(self, rank: int) -> None:
        """Lose a node: its processes are gone, and the pod comes again elsewhere."""
        with self._lock:
            self.pods[rank].kill()

    def wait(self) -> int:
        """Return the job's code once it has ended."""
        until(lambda: self.code is not None, lambda: f"the job ends; {self.tail()}")
        assert self.code is not None
        return self.code

    def events(self) -> list[dict[str, Any]]:
        """Return the ledger: what rank 0 began, trained and ended."""
        return [json.loads(line) for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def is_training(self) -> bool:
        """Tell whether all pods have a torchrun and rank 0 has begun in this attempt."""
        with self._lock:
            running = all(pod.process.poll() is None and pod.torchruns() for pod in self.pods.values())
        return running and len([e for e in self.events() if e["event"] == "begin"]) > len(self.attempts())

    def at_step(self, step: int) -> None:
        """Wait until a step is trained."""
        until(lambda: any(e["step"] >= step for e in self.events()), lambda: f"step {step}; {self.tail()}")

    def said(self, rank: int = 0) -> str:
        """Return what a pod, and those before it, printed."""
        return (self.folder / f"pod-{rank}.log").read_text(errors="replace")

    def tail(self) -> str:
        """Return the last words of all pods."""
        return "\n".join(f"--- pod {r}\n{self.said(r)[-3000:]}" for r in self.pods)

    def attempts(self) -> list[dict[str, Any]]:
        """Return the record of attempts."""
        path = self.results / "restarts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end(self) -> None:
        """End all processes."""
        self._stop.set()
        if self._operator.is_alive():
            self._operator.join()
        for pod in self.pods.values():
            pod.kill()

    def assert_survives(self) -> None:
        """The job ends well, and nothing is lost."""
        assert self.wait() == 0, self.tail()
        self.assert_nothing_lost()

    def assert_nothing_lost(self) -> None:
        """No step lost beyond the interval, no sample left out or counted twice in the line that was kept."""
        steps = self.settings["training"]["maxSteps"]
        batch, every = self.settings["training"]["globalBatchSize"], self.settings["checkpoint"]["everyNSteps"]
        (last,) = (self.results / "results" / "checkpoints").glob("*-last")
        assert json.loads((last / "seen.json").read_text()) == list(range(steps * batch)), self.tail()
        trained = 0
        for event in self.events():
            if event["event"] == "begin":
                assert trained - event["step"] <= every, f"lost {trained - event['step']} steps\n{self.tail()}"
                trained = event["step"]
            elif event["event"] == "step":
                assert event["step"] == trained + 1
                trained = event["step"]


@contextmanager
def running(job: Job) -> Iterator[Job]:
    """Start a job, and leave nothing of it."""
    try:
        job.start()
        yield job
    finally:
        job.end()
