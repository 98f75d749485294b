"""Pods of odd clusters: launch.sh, supervisors and torchrun over IPv6 alone, and as a user without a name (N06)."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.survival.job import FILES, HERE, Job, running
from tests.unit.preflight_tools import hub_llama, tokenizer, world, write_folder, write_vision
from tests.unit.test_prepare import write_release

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ADD_UP = HERE.parent / "e2e" / "stand_in_training.py"
"""Gloo between the ranks, which finds each other by the addresses of their hosts."""

IPV6_ONLY = """set -e
ip link set lo up
ip -6 addr add fd00::1/128 dev lo
printf '127.0.0.1 localhost\\n::1 localhost\\nfd00::1 neva-master-0 pod\\n' >"$1"
mount --bind "$1" /etc/hosts
hostname pod
echo ready
exec sleep 1000
"""
"""What an IPv6-only cluster's pod is: its own name and the master's have one address each; localhost is as ever."""

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network namespace or becomes another user")


def added_up(job: Job) -> None:
    """All ranks have met and agree on the sum."""
    assert job.wait() == 0, job.tail()
    records = [json.loads(file.read_text()) for file in (job.folder / "out").glob("*.json")]
    assert sorted(record["rank"] for record in records) == [0, 1, 2, 3]
    assert {record["sum"] for record in records} == {6}


def job_of(folder: Path, master: str, runtime: tuple[str, ...] = ()) -> Job:
    (folder / "out").mkdir(parents=True)
    environment = {"PET_MASTER_ADDR": master, "NEVA_ENTRYPOINT": str(ADD_UP), "STAND_IN_OUTPUT": str(folder / "out")}
    return Job(folder, environment=environment, runtime=runtime)


def test_the_loopback_of_ipv6(tmp_path: Path) -> None:
    """Supervisors and torchrun's rendezvous over ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no ::1: {error}")
    with running(job_of(tmp_path, "::1")) as job:
        added_up(job)


@pytest.fixture
def ipv6_only(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A network of its own, whose only names with an address that others reach are of IPv6."""
    command = ["unshare", "--net", "--mount", "--uts", "bash", "-c", IPV6_ONLY, "-", str(tmp_path / "hosts")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as holder:
        assert holder.stdout is not None
        said = holder.stdout.readline()
        if said != "ready\n":
            holder.kill()
            pytest.skip(f"this machine lets no network be made: {said}")
        yield ("nsenter", "--net", "--mount", "--uts", f"--target={holder.pid}", "--")
        holder.kill()


@AS_ROOT
@pytest.mark.skipif(not shutil.which("nsenter"), reason="nsenter is of util-linux")
def test_an_ipv6_only_cluster(tmp_path: Path, ipv6_only: tuple[str, ...]) -> None:
    """The master's name has an IPv6 address alone, as has each pod's."""
    with running(job_of(tmp_path / "job", "neva-master-0", ipv6_only)) as job:
        added_up(job)


UID = 1000730000
"""A namespace's range begins at a number such as this; OpenShift's pods are in the group root."""
AS_UID = ("setpriv", f"--reuid={UID}", "--regid=0", "--clear-groups", "--bounding-set=-all", "--no-new-privs")


def python_of_others() -> tuple[str, str]:
    """A Python of this machine that other users may run, and the folder of torch: that of a root's home is none."""
    import torch  # not where tests are collected: unit tests run without

    packages = str(Path(torch.__file__).parents[1])
    trial = ("env", f"PYTHONPATH={packages}", "bash", "-c", 'exec "$0" -c "import torch"')
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([*AS_UID, *trial, python], capture_output=True, check=False).returncode == 0:
            return python, packages
    pytest.skip("other users cannot run a Python with torch")


@AS_ROOT
@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is of util-linux")
def test_n06_a_uid_of_openshifts_range() -> None:
    """No name, no home, no capability, and no file of its own but in folders of its group."""
    python, packages = python_of_others()
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        environment = {"PYTHONPATH": f"{HERE / 'fast'}:{packages}"}
        job = Job(Path(folder), environment=environment, runtime=AS_UID)
        for name, words in {"python3": "", "torchrun": "-m torch.distributed.run"}.items():
            (job.bin / name).write_text(f'#!/bin/sh\nexec {python} {words} "$@"\n')
            (job.bin / name).chmod(0o755)
        for each in (
            Path(folder),
            *(path for path in Path(folder).rglob("*") if path.is_dir() and not path.is_symlink()),
        ):
            each.chmod(0o770)
        with running(job):
            job.assert_survives()
        made = [file for file in job.results.rglob("*") if file.is_file()]
        assert made
        assert {file.stat().st_uid for file in made} == {UID}


@AS_ROOT
@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is of util-linux")
def test_n06_such_a_user_prepares_and_checks() -> None:
    """Without any environment of its own; what it made is its own, and preflight is content with it."""
    python, packages = python_of_others()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings, source, out = world(folder), folder / "source", folder / "out"
        write_release(source / "release")
        write_vision(source / "clip")
        write_folder(source / "llama", {**hub_llama(), "tokenizer.model": tokenizer()})
        settings["model"] |= {"visionEncoderPath": str(out / "clip"), "tokenizerPath": str(out / "tokenizer.model")}
        settings["data"] |= {"annotations": str(out / "data" / "blip.json"), "images": str(out / "data" / "images")}
        settings["prepare"] = {
            "tokenizer": {"enabled": True, "source": str(source / "llama")},
            "vision": {"enabled": True, "source": str(source / "clip")},
            "llm": {"enabled": False},
            "dataset": {"enabled": True, "source": str(source / "release")},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        out.mkdir()
        for each in (folder, *folder.rglob("*")):
            each.chmod(0o770 if each in (folder, out, folder / "results") else 0o750 if each.is_dir() else 0o640)
        environment = ("env", "-i", "PATH=/usr/bin:/bin", f"PYTHONPATH={FILES}:{packages}", "PYTHONDONTWRITEBYTECODE=1")
        for module in ("neva_pod.prepare", "neva_pod.preflight"):
            command = [*AS_UID, *environment, python, "-m", module, "--settings", str(folder / "settings.json")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        assert {file.stat().st_uid for file in out.rglob("*")} == {UID}
