"""The demo as a reader runs it: from nothing to a running job, and no process left after down or Ctrl-C."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests import demo, tools
from tests.e2e.release import ROOT
from tests.sandbox import Sandbox, process
from tests.sandbox.cluster import default_folder
from tests.waiting import PATIENCE

pytestmark = pytest.mark.e2e


@pytest.fixture
def name() -> Iterator[str]:
    """Name a sandbox that nobody else has; it is gone afterwards, whatever happened."""
    name = f"test-{uuid4().hex[:8]}"
    yield name
    down(name)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def down(name: str) -> None:
    subprocess.run(command("tests.sandbox", "down", "--name", name), cwd=ROOT, check=True, capture_output=True)


def test_demo_gets_128_gpus_to_running_and_down_leaves_nothing(name: str) -> None:
    done = subprocess.run(
        command("tests.demo", "--name", name),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "$ neva-values --gpus 128 > values.yaml" in lines
    assert "$ helm install neva ./charts/neva-pretrain -f values.yaml" in lines
    assert sum(line.split()[1:3] == ["1/1", "Running"] for line in lines) == 16, done.stdout
    assert "WORLD_SIZE=128" in lines
    assert "PET_NNODES=16" in lines
    assert f"make sandbox-down NAME={name}" in lines

    (exported,) = (line.removeprefix("export KUBECONFIG=") for line in lines if line.startswith("export KUBECONFIG="))
    asked = [str(tools.path("kubectl")), "--kubeconfig", exported, "get", "pods", "-o", "name"]
    assert len(subprocess.check_output(asked, text=True).split()) == 16

    box = Sandbox.open(name=name)
    assert demo.trouble(box) == "", "a second demo reuses it"
    (scheduler,) = (one for one in box.processes() if one.command == "kube-scheduler")
    subprocess.run(["kill", "-KILL", str(scheduler.pid)], check=True)
    box.wait(lambda: demo.trouble(box) == "kube-scheduler not running", "seen as broken, to be replaced")

    down(name)
    assert process.find(default_folder(name)) == []
    assert not default_folder(name).exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_no_process(name: str, sent: signal.Signals) -> None:
    running = subprocess.Popen(
        command("tests.demo", "--name", name), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with running:
        assert running.stdout
        said = ""
        for line in running.stdout:
            said += line
            if "nodes: 16" in line:  # the cluster's processes are there, the operator's not yet
                assert process.find(default_folder(name))
                running.send_signal(sent)
    assert running.returncode == 130, said
    assert "Interrupted: the control plane of this run is stopped, no process is left." in said
    assert process.find(default_folder(name)) == []
    assert not default_folder(name).exists()


def test_an_error_is_a_sentence() -> None:
    done = subprocess.run(
        command("tests.demo", "--name", "../x"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "ERROR: --name: got '../x'; must be letters, digits, dots and dashes\n"
