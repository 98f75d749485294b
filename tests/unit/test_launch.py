"""launch.sh and the supervisor for real, between stand-ins of nvidia-smi and torchrun."""

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.process import free_ports
from tests.unit.preflight_tools import write_saved
from tests.waiting import PATIENCE, ended, until

pytestmark = pytest.mark.slow

FILES = Path(__file__).parents[2] / "charts" / "neva-pretrain" / "files"
LAUNCH = FILES / "launch.sh"

NVIDIA_SMI = """#!/bin/bash
for ((i = 0; i < ${FAKE_GPUS:-8}; i++)); do echo "GPU $i: stand-in (UUID: GPU-$i)"; done
"""

MIG = """#!/bin/bash
for i in 0 1 2 3 4 5 6 7; do
  echo "GPU $i: NVIDIA H100 80GB HBM3 (UUID: GPU-0000000$i)"
  echo "  MIG 3g.40gb     Device  0: (UUID: MIG-0000000$i)"
done
"""

# Writes what it was given, then does what FAKE_DO says.
TORCHRUN = """#!/usr/bin/env python3
import json, os, signal, sys, time
rank = os.environ.get("PET_NODE_RANK", os.environ.get("RANK", "0"))
report = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}
json.dump(report, open(os.path.join(os.environ["FAKE_OUT"], f"report-{rank}.json"), "w"))
do = os.environ.get("FAKE_DO", "")
if do == "wait":
    def stop(number, frame):
        print("stand-in: told to stop", flush=True)
        time.sleep(0.5)
        print("stand-in: stopped", flush=True)
        sys.exit(7)
    signal.signal(signal.SIGTERM, stop)
    print("stand-in: ready", flush=True)
    signal.pause()
elif do == "talk":
    for i in range(100000):
        print(f"line {i}")
    print("the last line", file=sys.stderr)
elif do == "bar":
    for i in range(3):
        print(f"\\rEpoch 0: {i}/3", end="", flush=True)
    signal.pause()
elif do == "orphan":
    import subprocess
    subprocess.Popen(["sleep", "infinity"])
print(f"stand-in: rank {rank}")
sys.exit(int(os.environ.get("FAKE_EXIT", "0")))
"""


class World:
    """A node's file system and environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = contextlib.ExitStack()
        self.bin = root / "bin"
        self.config = root / "config"
        self.results = root / "results" / "run"
        self.out = root / "out"
        self.cwd = root / "cwd"
        for folder in (self.bin, self.config, self.results.parent, self.out, self.cwd):
            folder.mkdir(parents=True)
        for name, text in (("nvidia-smi", NVIDIA_SMI), ("torchrun", TORCHRUN)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        (self.port,) = free_ports(1)
        (self.config / "neva_pod").symlink_to(FILES / "neva_pod")
        self.set()
        (self.config / "neva_pretrain.yaml").write_text("name: nemo_neva\n")

    def set(self, tensor: int = 1, **restart: Any) -> None:
        """Write the settings, with a TP; the first failure ends the job."""
        restart = {"enabled": True, "limit": 1, "port": self.port, **restart}
        training = {"nodes": 1, "tensorParallelSize": tensor, "pipelineParallelSize": 1}
        settings = {"run": {"id": "first"}, "training": training, "restart": restart}
        (self.config / "settings.json").write_text(json.dumps(settings))

    def env(self, rank: int | None = None, nodes: int = 1, **more: str | None) -> dict[str, str]:
        """Environment as the chart and the operator set it; None takes a name away."""
        env: dict[str, str | None] = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.root),
            "FAKE_OUT": str(self.out),
            "TMPDIR": str(self.root / "scratch" / "tmp"),
            "HF_HOME": str(self.root / "scratch" / "huggingface"),
            "NEVA_NODES": str(nodes),
            "NEVA_GPUS_PER_NODE": "8",
            "NEVA_RESULTS_DIR": str(self.results),
            "NEVA_WORK_DIR": str(self.root / "scratch" / f"work-{rank or 0}"),
            "NEVA_CONFIG_DIR": str(self.config),
            "NEVA_ENTRYPOINT": "/opt/neva_pretrain.py",
            "NEVA_RDMA": "0",
            "NEVA_WAIT_SECONDS": "5",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if shutil.which("python3", path=f"{self.bin}:/usr/bin:/bin") is None:
            (self.bin / "python3").symlink_to(sys.executable)
        if rank is not None:
            env |= {"PET_NODE_RANK": str(rank), "RANK": str(rank), "PET_NNODES": str(nodes)}
        env |= more
        return {name: value for name, value in env.items() if value is not None}

    def run(
        self, env: dict[str, str], *prefix: str, arguments: Sequence[str] = (), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the script to its end."""
        options = {"cwd": self.cwd, "timeout": PATIENCE, **options}
        command = [*prefix, "/bin/bash", str(LAUNCH), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, **options)

    def start(self, env: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
        """Start the script in a process group of its own, which ends with the test."""
        return self.keep(["/bin/bash", str(LAUNCH)], env, output, start_new_session=True)

    def keep(
        self, command: Sequence[str], env: dict[str, str], output: Path, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command that ends with the test."""
        with output.open("wb") as file:
            process = subprocess.Popen(command, env=env, cwd=self.cwd, stdout=file, stderr=file, **options)
        return self.processes.enter_context(ended(process))

    def report(self, rank: int = 0) -> dict[str, Any]:
        """What the stand-in of torchrun saw."""
        seen: dict[str, Any] = json.loads((self.out / f"report-{rank}.json").read_text())
        return seen

    def started(self) -> bool:
        return any(self.out.iterdir())

    def log(self, rank: int) -> str:
        return (self.results / "logs" / f"node-{rank:05d}.log").read_text()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.processes:
        yield made


class StandInMaster:
    """A coordinator that starts each node at once, without its peers, and ends it with its torchrun."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    @staticmethod
    def _talk(connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as line, contextlib.suppress(OSError):
            assert json.loads(line.readline())["kind"] == "hello"
            line.write('{"kind": "start", "attempt": 1}\n')
            line.flush()
            for text in line:
                message = json.loads(text)
                if message.get("attempt") == 1 and not message["running"]:
                    line.write(json.dumps({"kind": "end", "code": message["code"]}) + "\n")
                    line.flush()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def master(world: World) -> Iterator[dict[str, str | None]]:
    """A master that answers, as environment."""
    made = StandInMaster(world.port)
    yield {"MASTER_ADDR": "127.0.0.1", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "23456"}
    made.close()


def test_shellcheck_is_content() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    command = [str(shellcheck) if shellcheck.exists() else "shellcheck", str(LAUNCH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("end", "code"), [("kill -KILL $$", 64), ("kill -SEGV $$", 64), ("exit 1", 1)])
def test_a_preflight_that_is_killed_is_final(world: World, end: str, code: int) -> None:
    """The operator makes a pod that ended with 128 or more again, and again."""
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    (world.bin / "python3").unlink(missing_ok=True)
    (world.bin / "python3").write_text(f'#!/bin/bash\n[[ $* != *preflight* ]] || {end}\nexec {python} "$@"\n')
    (world.bin / "python3").chmod(0o755)
    done = world.run(world.env(0, NEVA_PREFLIGHT="quick"))
    assert done.returncode == code, done.stderr
    assert ("ERROR: preflight: killed by signal" in done.stderr) == (code == 64)
    assert not world.started()


@pytest.mark.parametrize("world_size", ["128", "16"])
def test_a04_nodes_come_from_the_configuration(world: World, master: dict[str, str | None], world_size: str) -> None:
    done = world.run(world.env(3, 16, WORLD_SIZE=world_size, **master))
    assert done.returncode == 0, done.stderr
    assert world.report(3)["argv"] == [
        "--nnodes=16",
        "--node-rank=3",
        "--nproc-per-node=8",
        f"{world.config}/neva_pod/supervisor/rank.py",
        "/opt/neva_pretrain.py",
        f"--config-path={world.config}",
        "--config-name=neva_pretrain.yaml",
        f"hydra.run.dir={world.root}/scratch/work-3",
        "hydra.output_subdir=null",
    ]


def test_a04_other_replicas_than_the_configuration_are_refused(world: World) -> None:
    done = world.run(world.env(3, 16, PET_NNODES="8"))
    assert done.returncode == 64
    assert "PET_NNODES: got 8;" in done.stderr
    assert "16" in done.stderr
    assert not world.started()


@pytest.mark.parametrize("gpus", ["0", "7", "9"])
def test_a05_another_number_of_gpus_is_refused(world: World, gpus: str) -> None:
    done = world.run(world.env(0, FAKE_GPUS=gpus, NODE_NAME="node-a"))
    assert done.returncode == 64
    assert f"GPUs: got {gpus} visible on node-a;" in done.stderr
    assert "(8)" in done.stderr
    assert not world.started()


def test_a05_a_node_without_nvidia_smi_is_refused(world: World) -> None:
    (world.bin / "nvidia-smi").unlink()
    done = world.run(world.env(0))
    assert done.returncode == 64
    assert "GPUs: got 0" in done.stderr


def test_b01_the_wait_for_a_name_is_bounded(world: World) -> None:
    done = world.run(world.env(1, 2, MASTER_ADDR="no-such.invalid", NEVA_WAIT_SECONDS="3"))
    assert done.returncode == 69
    assert f"ERROR: no-such.invalid:{world.port}: not reachable after" in done.stderr
    assert "limit rendezvous.waitSeconds 3" in done.stderr
    assert not world.started()
    assert not world.results.exists(), "a worker writes nothing before its master has the lease"


def test_b01_the_port_may_open_later_than_the_worker_starts(world: World, tmp_path: Path) -> None:
    where = {"MASTER_ADDR": "127.0.0.1", "NEVA_WAIT_SECONDS": str(int(PATIENCE))}
    process = world.start(world.env(1, 2, **where), tmp_path / "output")
    until(lambda: "waiting for the master" in (tmp_path / "output").read_text(), "the worker waits")
    assert process.poll() is None
    assert not world.started()
    late = StandInMaster(world.port)
    assert process.wait(PATIENCE) == 0
    late.close()


def test_b01_the_operators_address_wins(world: World, master: dict[str, str | None]) -> None:
    done = world.run(world.env(1, 2, **{**master, "MASTER_ADDR": "no-such.invalid"}))
    assert done.returncode == 0, done.stderr


def test_b04_a_node_without_rank_does_not_become_rank_0(world: World) -> None:
    done = world.run(world.env(None, 2))
    assert done.returncode == 64
    assert "PET_NODE_RANK: not set" in done.stderr
    assert not world.started()


@pytest.mark.parametrize(
    "rank",
    ["2", "-1", "x", "1; touch /tmp/never", "01", "08", "+1", " 1", "1 ", "0x1", "9999999999999999999", "n[$(id)]"],
)
def test_b04_a_rank_outside_the_job_is_refused(world: World, rank: str) -> None:
    """K21: bash would take 08 and what overflows for rank 0, and run what stands in brackets."""
    done = world.run(world.env(0, 2, PET_NODE_RANK=rank))
    assert done.returncode == 64
    assert f"PET_NODE_RANK: got {rank};" in done.stderr
    assert not world.started()


@pytest.mark.parametrize("nodes", [1, 2])
def test_k21_an_empty_rank_is_no_rank(world: World, nodes: int) -> None:
    done = world.run(world.env(0, nodes, PET_NODE_RANK=""))
    assert done.returncode == 64
    assert "PET_NODE_RANK: got nothing; must be a decimal number" in done.stderr


@pytest.mark.parametrize("name", ["NEVA_NODES", "NEVA_GPUS_PER_NODE", "NEVA_WAIT_SECONDS"])
@pytest.mark.parametrize("value", ["", "08", "18446744073709551617"])
def test_k21_every_number_is_decimal(world: World, name: str, value: str) -> None:
    env = world.env(1, 2, MASTER_ADDR="127.0.0.1", MASTER_PORT="1", NEVA_WAIT_SECONDS="0")
    done = world.run({**env, name: value})
    assert done.returncode == 64, done.stderr
    assert f"{name}: got {value or 'nothing'}; must be a decimal number" in done.stderr
    assert not world.started()


@pytest.mark.parametrize(
    "name",
    ["NEVA_NODES", "NEVA_GPUS_PER_NODE", "NEVA_RESULTS_DIR", "NEVA_WORK_DIR", "NEVA_ENTRYPOINT", "MASTER_ADDR"],
)
def test_k21_a_missing_variable_is_named(world: World, name: str) -> None:
    done = world.run(world.env(1, 2, **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", name: None}))
    assert done.returncode == 64, done.stderr
    assert f"ERROR: {name}: got nothing; must be" in done.stderr
    assert not world.started()


def test_b04_one_node_needs_no_rank(world: World) -> None:
    done = world.run(world.env(None, 1))
    assert done.returncode == 0, done.stderr
    assert "--node-rank=0" in world.report()["argv"]


def test_the_charts_port_wins_over_trainers(world: World, master: dict[str, str | None]) -> None:
    """Trainer always sets 29500."""
    done = world.run(world.env(1, 2, **{**master, "PET_MASTER_PORT": "29500", "NEVA_MASTER_PORT": "23456"}))
    assert done.returncode == 0, done.stderr
    assert world.report(1)["env"]["PET_MASTER_PORT"] == "23456"


def test_b04_rank_alone_is_enough(world: World, master: dict[str, str | None]) -> None:
    done = world.run(world.env(3, 4, PET_NODE_RANK=None, **master))
    assert done.returncode == 0, done.stderr
    assert "--node-rank=3" in world.report(3)["argv"]


@contextlib.contextmanager
def world_of_a_user() -> Iterator[tuple[World, dict[str, Any]]]:
    """A world that belongs to a user other than root, and options to run as that user."""
    options: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        world = World(Path(folder))
        if os.getuid() == 0:
            options = {"user": 65534, "group": 65534, "extra_groups": []}
            for path in [Path(folder), *Path(folder).rglob("*")]:
                os.chown(path, 65534, 65534, follow_symlinks=False)
            for parent in LAUNCH.parents:
                if not parent.stat().st_mode & 0o001:
                    pytest.skip(f"{parent} is closed to other users")
        yield world, options


LIMITED = ("/bin/bash", "-c", 'ulimit -l 64 && exec "$@"', "_")


def test_c02_a_finite_memlock_limit_of_a_user_is_refused_with_rdma() -> None:
    with world_of_a_user() as (world, user):
        done = world.run(world.env(0, NEVA_RDMA="1"), *LIMITED, **user)
        assert done.returncode == 64, done.stderr
        assert "memlock limit: 64" in done.stderr
        assert "memlock: got 64 KiB as uid" in done.stderr
        assert not world.started()


def test_c02_without_rdma_the_limit_does_not_matter() -> None:
    with world_of_a_user() as (world, user):
        done = world.run(world.env(0, NEVA_RDMA="0"), *LIMITED, **user)
        assert done.returncode == 0, done.stderr
        assert "memlock limit: 64" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="IPC_LOCK works for root")
def test_c02_root_may_have_a_finite_limit(world: World) -> None:
    done = world.run(world.env(0, NEVA_RDMA="1"), *LIMITED)
    assert done.returncode == 0, done.stderr


def test_g04_a_results_folder_that_cannot_be_made_is_told() -> None:
    with world_of_a_user() as (world, user):
        world.results.parent.chmod(0o555)
        done = world.run(world.env(0), **user)
        assert done.returncode == 64
        assert f"{world.results}: cannot be created as uid" in done.stderr


def test_k21_a_results_folder_that_cannot_be_written_is_told() -> None:
    """K21: by rank 0 and by the others, which write their logs there."""
    with world_of_a_user() as (world, user):
        world.results.mkdir(0o555)
        if user:
            os.chown(world.results, 65534, 65534)
        world.results.chmod(0o555)
        for rank in (0, 1):
            master = StandInMaster(world.port) if rank else None
            done = world.run(world.env(rank, 2, MASTER_ADDR="127.0.0.1"), **user)
            if master:
                master.close()
            assert done.returncode == 64, done.stderr
            assert f"{world.results}: cannot be written as uid" in done.stderr
            assert "Permission denied" in done.stderr
        assert not world.started()


@pytest.mark.parametrize("place", ["results", "results/run", "results/run/logs", "scratch", "scratch/tmp"])
def test_k21_a_file_in_place_of_a_folder(world: World, place: str) -> None:
    path = world.root / place
    if path.is_dir():
        path.rmdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    done = world.run(world.env(0))
    assert done.returncode == 64, done.stderr
    assert f"ERROR: {path}" in done.stderr
    assert not world.started()


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop"])
def test_k21_a_log_that_is_no_file(world: World, kind: str) -> None:
    """K06: opening a FIFO would wait for a reader."""
    log = world.results / "logs" / "node-00000.log"
    log.parent.mkdir(parents=True)
    if kind == "folder":
        log.mkdir()
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.symlink_to(log.name)
    done = world.run(world.env(0))
    assert done.returncode == 64, done.stderr
    assert f"ERROR: {log}: " in done.stderr
    assert not world.started()


def test_k21_a_record_that_is_a_folder(world: World) -> None:
    (world.results / "run.json").mkdir(parents=True)
    done = world.run(world.env(0))
    assert done.returncode == 64, done.stderr
    assert f"{world.results}/run.json: cannot be replaced" in done.stderr
    assert [path.name for path in world.results.iterdir() if path.name.startswith(".")] == []


def make(path: Path, kind: str) -> Path:
    """Put something that is no file and no folder of this run where one should be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("gone/there")
    else:
        path.write_text("x")
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("restarts.jsonl", "attempt.json") for kind in ("folder", "fifo")),
        ("attempt.json.new", "folder"),
    ],
)
def test_k21_a_record_of_attempts_that_is_no_file(world: World, name: str, kind: str) -> None:
    path = make(world.results / name, kind)
    done = world.run(world.env(0))
    assert done.returncode == 64, done.stderr
    assert f"ERROR: {path}: got no regular file; must be this run's record of attempts" in done.stderr
    assert "Traceback" not in done.stderr
    assert not world.started()


@pytest.mark.parametrize(("name", "mode"), [("restarts.jsonl", 0o444), ("restarts.jsonl", 0), ("attempt.json", 0)])
def test_k21_a_record_of_attempts_of_another_user(name: str, mode: int) -> None:
    with world_of_a_user() as (world, user):
        path = make(world.results / name, "file")
        if user:
            os.chown(world.results, 65534, 65534)
        path.chmod(mode)
        done = world.run(world.env(0), **user)
        assert done.returncode == 64, done.stderr
        assert f"ERROR: {path}: cannot be read and written as uid" in done.stderr
        assert "Permission denied" in done.stderr
        assert "Traceback" not in done.stderr
        assert not world.started()


@pytest.mark.parametrize("kind", ["file", "fifo", "link"])
def test_k21_what_a_killed_master_left_is_replaced(world: World, kind: str) -> None:
    """K21: opening a FIFO would wait for a reader, and what another user left cannot be written."""
    make(world.results / "attempt.json.new", kind)
    done = world.run(world.env(0))
    assert done.returncode == 0, done.stderr
    assert "cannot be written" not in done.stderr
    assert json.loads((world.results / "attempt.json").read_text())["number"] == 1


@pytest.mark.parametrize("kind", ["file", "fifo", "link"])
@pytest.mark.parametrize("place", ["results/checkpoints", "results", "damaged"])
def test_k21_no_folder_for_checkpoints(world: World, place: str, kind: str) -> None:
    """K21: what is no folder holds no checkpoint, but does not mean that there is none."""
    path = make(world.results / place, kind)
    done = world.run(world.env(0))
    assert done.returncode == 64, done.stderr
    words = "is a link to nothing" if kind == "link" else "is no folder"
    assert f"ERROR: {path}: {words}; must be a folder, for checkpoints" in done.stderr
    assert "Traceback" not in done.stderr
    assert not world.started()


@pytest.mark.parametrize("ranks", [range(4), range(3), range(1, 4)])
def test_k04_ranks_are_counted_by_the_runs_tp(world: World, ranks: range) -> None:
    """K04: a rank's folder that is gone leaves no trace beside the others."""
    world.set(tensor=4)
    last = "neva--step=8-consumed_samples=64.0-last.ckpt"
    folder = world.results / "results" / "checkpoints"
    write_saved(*(folder / f"mp_rank_{rank:02}" / last for rank in ranks))
    done = world.run(world.env(0))
    assert done.returncode == 0, done.stderr
    assert (f"{last} is not whole (" in done.stderr) == (len(ranks) < 4)
    assert ("training starts from step 0; 8 steps are lost" in done.stderr) == (len(ranks) < 4)


@pytest.mark.parametrize("settings", [None, "", "[1]", "{", '{"a": "\\ud800"}'])
def test_k21_settings_that_cannot_be_read(world: World, settings: str | None) -> None:
    file = world.config / "settings.json"
    file.unlink() if settings is None else file.write_text(settings)
    done = world.run(world.env(0))
    assert done.returncode == (0 if settings and "ud800" in settings else 64), done.stderr
    assert "Traceback" not in done.stderr


def test_k21_a_full_disk(world: World) -> None:
    """K21: files may grow to 0 bytes here."""
    done = world.run(world.env(0), "/bin/bash", "-c", 'ulimit -f 0 && exec "$@"', "_")
    assert done.returncode == 64, done.stderr
    assert f"ERROR: {world.results}" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(world.results.glob(".*")) == []


@pytest.mark.parametrize("tool", ["python3", "torchrun"])
def test_k21_an_image_without_the_tools(world: World, tool: str, tmp_path: Path) -> None:
    """K21: bash's own 127 is no code of this script."""
    bin_ = tmp_path / "few"
    bin_.mkdir()
    for name in ("bash", "mkdir", "mktemp", "rm", "sleep", "python3", "torchrun"):
        if name != tool:
            found = shutil.which(name, path=f"{world.bin}:/usr/bin:/bin") or sys.executable
            (bin_ / name).symlink_to(found)
    done = world.run(world.env(0, PATH=str(bin_)))
    assert done.returncode == 64
    assert f"{tool}: not found on PATH" in done.stderr


def test_n10_mig_slices_are_no_gpus(world: World) -> None:
    """N10: eight slices of eight GPUs are eight GPU lines, and a process sees one slice."""
    (world.bin / "nvidia-smi").write_text(MIG)
    done = world.run(world.env(0, NODE_NAME="node-a"))
    assert done.returncode == 64
    assert "GPUs: got 8 MIG slices visible on node-a; must be whole GPUs" in done.stderr
    assert not world.started()


@pytest.mark.parametrize(
    ("name", "uuid", "shares"),
    [
        ("GRID H100-10C", "GPU-$i", 8),
        ("NVIDIA A100-4-20C", "GPU-$i", 8),
        ("NVIDIA H100 80GB HBM3", "GPU-0", 7),
        ("NVIDIA A100-SXM4-80GB", "GPU-$i", 0),
        ("NVIDIA H200-3e", "GPU-$i", 0),
    ],
)
def test_n10_shares_of_gpus_are_none(world: World, name: str, uuid: str, shares: int) -> None:
    """N10: processes that share a GPU, by vGPU or time slicing."""
    line = f'echo "GPU $i: {name} (UUID: {uuid})"'
    (world.bin / "nvidia-smi").write_text(f"#!/bin/bash\nfor i in 0 1 2 3 4 5 6 7; do {line}; done\n")
    done = world.run(world.env(0, NODE_NAME="node-a"))
    assert done.returncode == (64 if shares else 0), done.stderr
    said = f"GPUs: got {shares} vGPUs, or GPUs listed again, visible on node-a; must be whole GPUs"
    assert (said in done.stderr) == bool(shares)
    assert world.started() == (not shares)


def test_k06_a_signal_ends_the_wait_for_a_hung_driver(world: World, tmp_path: Path) -> None:
    """K06: bash obeys a signal only between commands; nvidia-smi never ends here."""
    (world.bin / "nvidia-smi").write_text(f"#!/bin/bash\ntouch {world.out}/asked\nexec sleep 300\n")
    output = tmp_path / "output"
    with ended(world.start(world.env(0), output)) as process:
        until((world.out / "asked").exists, output.read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143


@pytest.mark.parametrize("value", ["^ibs,lo", "=eth0", "mlx5_0:1,mlx5_3:1", "$(x) `y` \"z\" 'w' \\ ;#", ""])
def test_c03_the_environment_reaches_the_training_process(world: World, value: str) -> None:
    done = world.run(world.env(0, NCCL_SOCKET_IFNAME=value))
    assert done.returncode == 0, done.stderr
    assert world.report()["env"]["NCCL_SOCKET_IFNAME"] == value


def test_h08_values_are_never_run(world: World) -> None:
    name = "a b $(touch never) `touch never` ; touch never #"
    world.results = world.root / "results" / name
    done = world.run(world.env(0, NEVA_ENTRYPOINT=f"/opt/{name}"))
    assert done.returncode == 0, done.stderr
    assert f"/opt/{name}" in world.report()["argv"]
    assert not list(world.root.rglob("never"))
    assert (world.results / "run.json").exists()


def test_d16_the_working_folder_may_be_read_only() -> None:
    with world_of_a_user() as (world, user):
        world.cwd.chmod(0o555)
        done = world.run(world.env(0), **user)
        assert done.returncode == 0, done.stderr
        assert world.report()["cwd"] == str(world.root / "scratch" / "work-0")
        assert not any(world.cwd.iterdir())


def test_g04_sixteen_nodes_start_in_one_folder(world: World, tmp_path: Path) -> None:
    shared = {
        **{"NEVA_WORK_DIR": str(tmp_path / "scratch" / "work"), "NEVA_WAIT_SECONDS": str(int(PATIENCE))},
        **{"MASTER_ADDR": "127.0.0.1"},
    }
    outputs = [tmp_path / f"output-{rank}" for rank in range(16)]
    running = [world.start(world.env(rank, 16, **shared), outputs[rank]) for rank in range(16)]
    assert [process.wait(PATIENCE) for process in running] == [0] * 16, [o.read_text() for o in outputs]
    names = ["attempt.json", "lease", "logs", "restarts.jsonl", "run.json"]
    assert sorted(path.name for path in world.results.iterdir()) == names
    assert sorted(path.name for path in (world.results / "logs").iterdir()) == [f"node-{r:05d}.log" for r in range(16)]
    for rank in range(16):
        assert world.log(rank) == f"stand-in: rank {rank}\n"
        assert f"--node-rank={rank}" in world.report(rank)["argv"]


def test_the_record_is_written_by_node_0_only(world: World, master: dict[str, str | None]) -> None:
    assert world.run(world.env(1, 2, **master)).returncode == 0
    assert not (world.results / "run.json").exists()
    assert world.run(world.env(0)).returncode == 0
    record = json.loads((world.results / "run.json").read_text())
    assert record["run"] == {"id": "first"}
    assert set(record["versions"]) >= {"python", "torch", "nemo_toolkit"}
    assert not [path for path in world.results.iterdir() if path.name.startswith(".")]


def test_the_record_can_be_read_by_others(world: World) -> None:
    assert world.run(world.env(0), umask=0o022).returncode == 0
    assert (world.results / "run.json").stat().st_mode & 0o777 == 0o644


def test_a_later_run_appends_to_the_log_and_replaces_the_record(world: World) -> None:
    for _ in range(2):
        assert world.run(world.env(0)).returncode == 0
    assert world.log(0) == "stand-in: rank 0\n" * 2
    json.loads((world.results / "run.json").read_text())


@pytest.mark.parametrize("code", [1, 3, 137])
def test_the_code_of_torchrun_is_told(world: World, code: int) -> None:
    """It is no code of the pod: 137 would ask the operator for a new one."""
    done = world.run(world.env(0, FAKE_EXIT=str(code)))
    assert done.returncode == 70
    assert f"torchrun ended with {code}" in done.stderr


def test_torchrun_sees_no_flags_of_another_rendezvous(world: World) -> None:
    world.run(world.env(0))
    assert not [argument for argument in world.report()["argv"] if "rdzv" in argument or "master" in argument]


def test_the_log_is_whole_when_the_container_ends(world: World, tmp_path: Path) -> None:
    process = world.start(world.env(0, FAKE_DO="talk", FAKE_EXIT="1"), tmp_path / "output")
    assert process.wait(PATIENCE) == 70
    # The end of process 1 is the end of every process of a container.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for text in (world.log(0), (tmp_path / "output").read_text()):
        assert "line 99999\n" in text
        assert "the last line\n" in text
        assert "stand-in: rank 0\n" in text


def test_a_progress_bar_is_seen_while_it_moves(world: World, tmp_path: Path) -> None:
    """Its carriage returns are ends of lines, at once; the trainer is still at work."""
    output = tmp_path / "output"
    process = world.start(world.env(FAKE_DO="bar"), output)
    until(lambda: b"Epoch 0: 1/3\n" in output.read_bytes(), output.read_text)
    assert process.poll() is None
    assert b"\r" not in output.read_bytes()


def test_an_orphan_of_torchrun_does_not_hold_the_pod(world: World, tmp_path: Path) -> None:
    """It lives on for ever: that the script ends at all says that nobody waits for it."""
    process = world.start(world.env(0, FAKE_DO="orphan", FAKE_EXIT="4"), tmp_path / "output")
    assert process.wait(PATIENCE) == 70
    assert "stand-in: rank 0" in world.log(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_torchrun_and_waits_for_it(world: World, tmp_path: Path, number: signal.Signals) -> None:
    """At the end of the grace period, since there is no rank 0 that could save before."""
    world.set(graceSeconds=42)
    output = tmp_path / "output"
    process = world.start(world.env(0, FAKE_DO="wait"), output)
    until(lambda: "stand-in: ready" in output.read_text(), output.read_text)
    process.send_signal(number)
    assert process.wait(PATIENCE) == 143
    assert "stand-in: stopped" in world.log(0)


def test_a_signal_ends_the_wait_for_the_master_even_for_pid_1(world: World, tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to make a PID namespace")
    output = tmp_path / "output"
    env = world.env(1, 2, MASTER_ADDR="127.0.0.1", MASTER_PORT="1", NEVA_WAIT_SECONDS="100000")
    process = world.keep([*unshare, "/bin/bash", str(LAUNCH)], env, output)
    until(lambda: "waiting for the master" in output.read_text(), output.read_text)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert process.wait(PATIENCE) == 143


# RoCE


def adapters(root: Path, *ports: dict[int, tuple[str, str]], local: Sequence[str] = ("10.1.2.3",)) -> Path:
    """A root folder with RDMA adapters, each with one port: index to type and address of its GIDs."""
    for number, gids in enumerate(ports):
        port = root / "sys" / "class" / "infiniband" / f"mlx5_{number}" / "ports" / "1"
        (port / "gids").mkdir(parents=True)
        (port / "gid_attrs" / "types").mkdir(parents=True)
        (port / "link_layer").write_text("Ethernet\n")
        for index in range(16):
            kind, address = gids.get(index, ("", ""))
            gid = f"::ffff:{address}" if "." in address else address or "fe80::a288:c2ff:fe3b:506a"
            gid = ipaddress.IPv6Address(gid).exploded
            (port / "gids" / str(index)).write_text(f"{gid}\n")
            if kind:  # of an empty entry the kernel says EINVAL
                (port / "gid_attrs" / "types" / str(index)).write_text(f"{kind}\n")
    trie = "".join(f"           |-- {each}\n              /32 host LOCAL\n" for each in local if "." in each)
    (root / "proc" / "net").mkdir(parents=True)
    # Scope 20 is link-local, 10 the loopback's.
    inet6 = ["fe80::a288:c2ff:fe3b:506a 20", "::1 10", *(f"{each} 00" for each in local if ":" in each)]
    lines = (f"{ipaddress.IPv6Address(a).packed.hex()} 02 40 {scope} 80 eth0\n" for a, scope in map(str.split, inet6))
    (root / "proc" / "net" / "if_inet6").write_text("".join(lines))
    # A route to another pod, and a longer address that begins alike.
    routes = "     |-- 10.9.9.9\n        /32 link UNICAST\n     |-- 10.1.2.30\n        /32 host LOCAL\n"
    (root / "proc" / "net" / "fib_trie").write_text(f"Main:\n{routes}{trie}")
    return root


V1, V2 = "IB/RoCE v1", "RoCE v2"
VF = {0: (V1, ""), 1: (V2, ""), 2: (V1, "10.1.2.3"), 3: (V2, "10.1.2.3")}
MACVLAN = {0: (V2, ""), 3: (V2, "10.9.9.9"), 9: (V1, "10.1.2.3"), 11: (V2, "10.1.2.3")}
NODES_ONLY = {0: (V1, ""), 1: (V2, ""), 2: (V1, "10.9.9.9"), 3: (V2, "10.9.9.9")}


@pytest.mark.parametrize(
    ("ports", "index"),
    [
        ([VF], "3"),
        ([MACVLAN, MACVLAN], "11"),
        ([NODES_ONLY, MACVLAN], "11"),
        ([VF, MACVLAN], ""),
        ([NODES_ONLY], ""),
        ([{3: (V2, "10.1.2.30"), 5: (V2, "10.1.2.3")}], "3"),
        ([], ""),
    ],
)
def test_n25_the_gid_of_roce_is_found_in_the_pod(
    world: World, tmp_path: Path, ports: list[dict[int, tuple[str, str]]], index: str
) -> None:
    """RoCE v2 over an address of this pod; none where the adapters differ, which NCCL 2.21 sorts out by itself."""
    root = adapters(tmp_path / "root", *ports)
    done = world.run(world.env(), arguments=["gid-index", str(root)])
    assert (done.returncode, done.stdout) == (0, index), done.stderr


SIX = "2001:db8:0:7::a1"
SIX_ONLY = {0: (V1, ""), 1: (V2, ""), 2: (V1, SIX), 4: (V2, "2001:db8:0:7::ff"), 5: (V2, SIX)}


@pytest.mark.parametrize(
    ("ports", "local", "index"),
    [
        ([SIX_ONLY], (SIX,), "5"),
        ([SIX_ONLY, SIX_ONLY], (SIX,), "5"),
        ([SIX_ONLY, {3: (V2, SIX)}], (SIX,), ""),
        ([SIX_ONLY], ("2001:db8::9",), ""),
        ([{**SIX_ONLY, 7: (V2, "10.1.2.3")}], (SIX, "10.1.2.3"), "7"),
    ],
)
def test_n25_an_ipv6_only_pod_has_its_own_gid(
    world: World, tmp_path: Path, ports: list[dict[int, tuple[str, str]]], local: tuple[str, ...], index: str
) -> None:
    """Not the link-local one, which is not routed; IPv4 goes first where both are there."""
    root = adapters(tmp_path / "root", *ports, local=local)
    done = world.run(world.env(), arguments=["gid-index", str(root)])
    assert (done.returncode, done.stdout) == (0, index), done.stderr


def test_n25_infiniband_has_no_gid_to_find(world: World, tmp_path: Path) -> None:
    root = adapters(tmp_path / "root", VF, VF)
    (root / "sys/class/infiniband/mlx5_0/ports/1/link_layer").write_text("InfiniBand\n")
    assert world.run(world.env(), arguments=["gid-index", str(root)]).stdout == ""


def test_n25_a_gid_index_of_the_user_stays(world: World) -> None:
    done = world.run(world.env(NEVA_RDMA="1", NCCL_IB_GID_INDEX="5"))
    assert done.returncode == 0, done.stderr
    assert world.report()["env"]["NCCL_IB_GID_INDEX"] == "5"
