"""A release of this checkout: one version, signed by a key that the test makes."""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from neva_pretrain import chart
from tests import tools
from tests.tools import gpg, release
from tests.tools.gpg import Rings
from tests.tools.made import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.helm]

HOME = "https://git.example/neva-pretrain"


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Rings:
    return gpg.make(tmp_path_factory.mktemp("gpg") / "home")


@pytest.fixture(scope="module")
def files(rings: Rings, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dist")
    return release.make(folder, gpg.SIGNER, rings.secret, home=HOME, key_url=f"{HOME}/key.asc")


def show(package: Path) -> dict[str, Any]:
    """Chart.yaml as Helm reads it."""
    command = [str(tools.ensure("helm")[0]), "show", "chart", str(package)]
    return dict(yaml.safe_load(subprocess.run(command, check=True, capture_output=True).stdout))


def verify(package: Path, ring: Path) -> subprocess.CompletedProcess[str]:
    command = [str(tools.ensure("helm")[0]), "verify", str(package), "--keyring", str(ring)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_files_are_of_one_version(files: list[Path]) -> None:
    names = [file.name for file in files]
    version = names[0].split("-")[1]
    package = f"neva-pretrain-{version}.tgz"
    assert names == [f"neva_pretrain-{version}-py3-none-any.whl", package, f"{package}.prov", release.SUMS]
    assert sorted(names) == sorted(file.name for file in files[0].parent.iterdir())


def test_the_package_alone_says_where_it_is_from(files: list[Path], rings: Rings) -> None:
    packed = show(files[1])
    here = show(ROOT / chart.CHART)
    assert packed["home"] == HOME
    assert packed["sources"] == [HOME, *here["sources"]]
    key = yaml.safe_load(packed["annotations"].pop("artifacthub.io/signKey"))
    assert key == {"fingerprint": rings.fingerprint, "url": f"{HOME}/key.asc"}
    own = {"home", "sources"}
    assert {k: v for k, v in packed.items() if k not in own} == {k: v for k, v in here.items() if k not in own}


def test_an_index_shows_a_readme_whose_links_lead_to_this_version(files: list[Path]) -> None:
    with zipfile.ZipFile(files[0]) as wheel:
        (about,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        packed = yaml.safe_load(wheel.read("neva_pretrain/_shipped/charts/neva-pretrain/Chart.yaml"))
    version = files[0].name.split("-")[1]
    assert packed == show(files[1])
    assert f"Project-URL: Homepage, {HOME}\n" in about
    assert f"![The monitor in a terminal, with a run at 63% of its planned speed]({HOME}/raw/v{version}/docs/" in about
    links = re.findall(r"\]\(([^)]+)\)", about)
    here = [
        link.removeprefix(f"{HOME}/{kind}/v{version}/") for link in links for kind in ("blob", "raw") if kind in link
    ]
    assert len(here) == len(links) > 10
    assert all((ROOT / file).exists() for file in here)


def test_a_key_that_is_not_there_is_named(rings: Rings, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--key nobody: no such key in .*secret\.gpg"):
        release.make(tmp_path, "nobody", rings.secret, key_url=HOME)


def test_checksums_hold(files: list[Path]) -> None:
    done = subprocess.run(["sha256sum", "-c", release.SUMS], cwd=files[0].parent, capture_output=True, check=True)
    assert done.stdout.count(b": OK") == 3


def test_the_public_key_is_enough_to_verify(files: list[Path], rings: Rings) -> None:
    done = verify(files[1], rings.public)
    assert done.returncode == 0, done.stderr
    assert gpg.SIGNER in done.stdout


def test_a_changed_package_is_refused(files: list[Path], rings: Rings, tmp_path: Path) -> None:
    for file in files[1:3]:
        shutil.copy(file, tmp_path)
    with (tmp_path / files[1].name).open("ab") as package:
        package.write(b"x")
    assert "sha256 sum does not match" in verify(tmp_path / files[1].name, rings.public).stderr


def test_another_key_is_refused(files: list[Path], tmp_path: Path) -> None:
    done = verify(files[1], gpg.make(tmp_path / "other").public)
    assert done.returncode == 1
    assert "signature" in done.stderr
