"""Real torchrun on this machine, as the pods of a release would start it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.release import Release, mount, process_environment
from tests.sandbox.process import free_port_pair
from tests.waiting import PATIENCE


def train_for_real(release: Release, folder: Path) -> list[dict[str, Any]]:
    """Install 4 nodes x 2 processes, run launch.sh of the ConfigMap with the env of the real pods, return all ranks.

    Not there on one machine without GPUs: cluster DNS (the master is 127.0.0.1), nvidia-smi and NeMo's script (named
    stand-ins), and the mounts (folders of the test).
    """
    sandbox = release.sandbox
    port = free_port_pair()
    plan = {"nodes": 4, "gpusPerNode": 2, "tensorParallelSize": 2, "microBatchSize": 2, "globalBatchSize": 8}
    values = {
        **{"training": plan, "rendezvous": {"port": port}, "fabric": "tcp", "job": {"kind": release.kind}},
        **{"preflight": {"enabled": False}, "storage": {"results": {"mountPath": str(folder / "results")}}},
    }
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    release.install("-f", str(folder / "values.yaml"))
    sandbox.wait_for_phase("Running", 4, namespace=release.namespace)
    pods = release.pods()
    config = folder / "etc"
    mount(release, next(iter(pods.values())), "config", config)
    stand_ins = folder / "bin"
    stand_ins.mkdir()
    smi = stand_ins / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'GPU 0: stand-in\\nGPU 1: stand-in\\n'\n")
    smi.chmod(0o755)
    output, results = folder / "output", folder / "results" / release.name
    output.mkdir()

    running = []
    for name, pod in pods.items():
        here = folder / name
        moved = {
            "NEVA_CONFIG_DIR": str(config),
            "NEVA_ENTRYPOINT": str(Path(__file__).with_name("stand_in_training.py")),
            "NEVA_WORK_DIR": str(here / "work"),
            "TMPDIR": str(here / "tmp"),
            "HF_HOME": str(here / "hf"),
            "MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "STAND_IN_OUTPUT": str(output),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{stand_ins}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        environment = process_environment(pod) | moved
        command = ["bash", str(config / "launch.sh")]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    for process in running:
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said

    records = sorted((json.loads(f.read_text()) for f in output.glob("*.json")), key=lambda r: r["rank"])
    assert [r["rank"] for r in records] == list(range(8)), "every global rank once"
    assert {(r["world"], r["sum"]) for r in records} == {(8, 28)}
    for record in records:
        assert record["local"] == record["rank"] % 2
        assert f"--config-path={config}" in record["arguments"]
        assert Path(record["folder"]).name == "work"
    run = json.loads((results / "run.json").read_text())
    assert run["training"]["nodes"] == 4
    assert sorted(f.name for f in (results / "logs").iterdir()) == [f"node-0000{i}.log" for i in range(4)]
    return records
