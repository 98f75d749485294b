"""N24: helm upgrade from chart 0.1.0, on a real API server, with both Helms and all ways to keep values."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.chart.helm import HELMS
from tests.chart.test_upgrade import MISSING, OLD, RENAMED
from tests.e2e.release import CHART, Release

pytestmark = pytest.mark.e2e

EXAMPLE = OLD / "examples" / "7b-bf16-128gpu.yaml"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A chart of the same name with the values of 0.1.0: what Helm remembers of a release is what matters here."""
    folder = tmp_path / "neva-pretrain"
    (folder / "templates").mkdir(parents=True)
    made = {"apiVersion": "v2", "name": "neva-pretrain", "version": "0.1.0"}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(made))
    shutil.copy(OLD / "defaults.yaml", folder / "values.yaml")
    configmap = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old"}}
    (folder / "templates" / "configmap.yaml").write_text(yaml.safe_dump(configmap))
    return folder


@pytest.mark.parametrize("release", HELMS, indirect=True)
def test_n24_values_of_0_1_0_are_kept_or_told(release: Release, old: Path) -> None:
    installed = release.helm("install", release.name, str(old), "-f", str(EXAMPLE), "--set", "restartPolicy=OnFailure")
    assert installed.returncode == 0, installed.stderr

    def upgrade(*args: str) -> list[str]:
        done = release.helm("upgrade", release.name, str(CHART), *args)
        return [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]

    set_by_the_user = [sentence.replace("got Never", "got OnFailure") for sentence in RENAMED]
    assert upgrade("--reuse-values") == MISSING + set_by_the_user
    assert upgrade("--reset-then-reuse-values") == set_by_the_user[1:]
    renamed = ("--set", "restartPolicy=null", "--set", "restart.enabled=true")
    assert upgrade("--reset-then-reuse-values", *renamed) == []
    replicas = release.job()["spec"]["pytorchReplicaSpecs"]
    assert replicas["Worker"]["replicas"] == 15
    assert replicas["Worker"]["restartPolicy"] == "ExitCode"
    assert upgrade("--reset-then-reuse-values") == []
    assert yaml.safe_load(release.helm("get", "values", release.name).stdout)["restart"] == {"enabled": True}
