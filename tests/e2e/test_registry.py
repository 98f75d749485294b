"""The chart from a real registry: pushed as a release is, verified, and installed from there (U06)."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import tools
from tests.chart.helm import HELMS
from tests.e2e.release import CHART, Release
from tests.sandbox.process import free_ports
from tests.tools import gpg
from tests.tools import release as tool
from tests.waiting import ended, until

pytestmark = pytest.mark.e2e

VERSION = str(yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"])
PACKAGE = f"neva-pretrain-{VERSION}.tgz"


def listens(port: int) -> bool:
    """Return whether anybody takes connections there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Run a registry of the test's own, on this machine only; yields the address of its charts."""
    (port,) = free_ports(1)
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(tools.ensure("registry")[0]), "serve", str(tmp_path / "registry.yaml")]
    with (tmp_path / "registry.log").open("wb") as log:
        environment = os.environ | {"OTEL_TRACES_EXPORTER": "none"}  # else it looks for a collector
        with ended(subprocess.Popen(command, env=environment, stdout=log, stderr=log)):
            until(lambda: listens(port), "the registry listens")
            yield f"oci://localhost:{port}/charts"


@pytest.mark.parametrize("release", HELMS, indirect=True)
def test_a_release_is_pushed_verified_and_installed(registry: str, release: Release, tmp_path: Path) -> None:
    rings = gpg.make(tmp_path / "gpg")
    sign = ["--key", gpg.SIGNER, "--keyring", str(rings.secret)]
    tool.main(["--folder", str(tmp_path / "dist"), *sign, "--push", registry, "--plain-http"])
    chart = [f"{registry}/neva-pretrain", "--version", VERSION, "--plain-http"]

    pulled = release.helm("pull", *chart, "-d", str(tmp_path), "--verify", "--keyring", str(rings.public))
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / PACKAGE).read_bytes() == (tmp_path / "dist" / PACKAGE).read_bytes()

    tried = release.helm("install", release.name, *chart, "--dry-run=server")
    assert tried.returncode == 0, tried.stderr
    assert "kind: PyTorchJob" in tried.stdout
    installed = release.helm("install", release.name, *chart)
    assert installed.returncode == 0, installed.stderr
    job = release.job()["metadata"]["name"]
    release.apply("upgrade")  # what was packaged is what lies here: the job runs on
    assert release.job()["metadata"]["name"] == job
