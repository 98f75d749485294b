"""What pip installs: built for real, and run from where no checkout is."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip lays it out."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names))
        archive.extractall(out / "site")
    return out / "site"


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("cli.main", ["--gpus", "128"], "nodes: 16"),
        ("cli.main", ["plan", "--gpus", "8"], "TP"),
        ("cli.main", ["preflight", "--help"], "--dataset"),
        ("cli.monitor", ["--help"], "SOURCE"),
    ],
)
def test_the_wheel_runs_without_the_checkout(
    installed: Path, tmp_path: Path, module: str, arguments: list[str], said: str
) -> None:
    """The dependencies are those of this environment; the package comes first on the path."""
    script = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); sys.argv = {['neva', *arguments]!r}\n"
        f"from neva_pretrain.{module} import main; import neva_pretrain\n"
        f"assert neva_pretrain.__file__.startswith({str(installed)!r}); main()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_wheel_has_the_chart_s_files_once(installed: Path) -> None:
    chart = ROOT / "charts" / "neva-pretrain"
    for name in ("values.yaml", "values.schema.json"):
        assert (installed / "neva_pretrain" / "_chart" / name).read_bytes() == (chart / name).read_bytes()
    for file in (chart / "files" / "neva_pod").rglob("*.py"):
        assert (installed / file.relative_to(chart / "files")).read_bytes() == file.read_bytes()
