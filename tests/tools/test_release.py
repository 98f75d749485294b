"""A release of this checkout: one version, signed by a key that the test makes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import tools
from tests.tools import gpg, release
from tests.tools.gpg import Rings

pytestmark = [pytest.mark.slow, pytest.mark.helm]


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Rings:
    return gpg.make(tmp_path_factory.mktemp("gpg") / "home")


@pytest.fixture(scope="module")
def files(rings: Rings, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return release.make(tmp_path_factory.mktemp("dist"), gpg.SIGNER, rings.secret)


def verify(package: Path, ring: Path) -> subprocess.CompletedProcess[str]:
    command = [str(tools.ensure("helm")[0]), "verify", str(package), "--keyring", str(ring)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_files_are_of_one_version(files: list[Path]) -> None:
    names = [file.name for file in files]
    version = names[0].split("-")[1]
    package = f"neva-pretrain-{version}.tgz"
    assert names == [f"neva_pretrain-{version}-py3-none-any.whl", package, f"{package}.prov", release.SUMS]
    assert sorted(names) == sorted(file.name for file in files[0].parent.iterdir())


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
