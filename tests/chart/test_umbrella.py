"""The chart below another one, under an alias, with both Helms (N15)."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart import helm
from tests.chart.helm import HELMS, Manifest

PARENT = {
    "apiVersion": "v2",
    "name": "platform",
    "version": "1.0.0",
    "dependencies": [{"name": "neva-pretrain", "alias": "pretrain", "version": ">=0.1.0", "condition": "pretrain.on"}],
}
CLAIMS = {"storage": {name: {"existingClaim": name} for name in ("datasets", "models", "results")}}
NULLS = {"gpfs": None, "hostPath": None, "size": None}
SOURCES: dict[str, Manifest] = {
    "a source is enough": CLAIMS,
    "nulls that Helm may lose": {"storage": {name: {"existingClaim": name, **NULLS} for name in CLAIMS["storage"]}},
    "nothing in place of a path": {
        "storage": {name: {"existingClaim": name, "gpfs": {"nodePath": ""}} for name in CLAIMS["storage"]}
    },
}


@pytest.fixture(params=HELMS)
def umbrella(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    shutil.copytree(helm.CHART, tmp_path / "charts" / "neva-pretrain")
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(PARENT), encoding="utf-8")
    return request.param, tmp_path


def template(umbrella: tuple[str, Path], values: Manifest, *args: str) -> subprocess.CompletedProcess[str]:
    client, folder = umbrella
    (folder / "values.yaml").write_text(yaml.safe_dump({"pretrain": values}), encoding="utf-8")
    return helm.template(None, *args, chart=folder, client=client)


def render(umbrella: tuple[str, Path], values: Manifest, *args: str) -> list[Manifest]:
    done = template(umbrella, values, *args)
    assert done.returncode == 0, done.stderr
    return helm.parse(done.stdout)


@pytest.mark.parametrize("again", [False, True], ids=["", "by -f as well"])
@pytest.mark.parametrize("values", SOURCES.values(), ids=SOURCES)
def test_n15_a_source_of_the_parent_replaces_the_default(
    umbrella: tuple[str, Path], values: Manifest, again: bool
) -> None:
    kinds = [found["kind"] for found in render(umbrella, values, *(("-f", f"{umbrella[1]}/values.yaml") * again))]
    assert "PyTorchJob" in kinds
    assert not [kind for kind in kinds if kind.startswith("PersistentVolume")]


def test_the_run_is_that_of_the_chart_alone(umbrella: tuple[str, Path]) -> None:
    """Name, containers and volumes; labels tell the alias, as Helm has it."""

    def job(manifests: list[Manifest]) -> Manifest:
        (found,) = (one for one in manifests if one["kind"] == "PyTorchJob")
        master = found["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
        return {part: master[part] for part in ("containers", "volumes")} | {"name": found["metadata"]["name"]}

    sizes = ("training.nodes=2", "training.globalBatchSize=512")
    alone = helm.parse(helm.render_text(CLAIMS, *(word for size in sizes for word in ("--set", size))))
    below = render(umbrella, CLAIMS, *(word for size in sizes for word in ("--set", f"pretrain.{size}")))
    assert job(below) == job(alone)
    assert not [one for one in render(umbrella, CLAIMS, "--set", "pretrain.on=false") if one["kind"] == "PyTorchJob"]


def test_what_is_wrong_is_refused_in_the_same_words(umbrella: tuple[str, Path]) -> None:
    wrong = {"training": {"nodes": 3, "globalBatchSize": 1000}}
    alone = helm.template(wrong).stderr
    (refusal,) = (line for line in alone.splitlines() if line.startswith("ERROR: training.globalBatchSize: got 1000"))
    done = template(umbrella, wrong)
    assert done.returncode != 0
    assert refusal in done.stderr.splitlines()
