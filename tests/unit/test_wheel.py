"""What pip installs: built for real, installed into an environment of its own, and run from where no checkout is."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import tools
from tests.chart.helm import KUBERNETES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "neva-pretrain"
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"]
CLUSTER = f"--kube-version {KUBERNETES}"
BIN = "Scripts" if os.name == "nt" else "bin"

Run = Callable[..., str]


def shipped(*parts: str) -> dict[str, bytes]:
    """The files of the checkout that git knows or would add, by name."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *parts]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as pip builds it."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; what it depends on is read from this one, so that nothing is fetched."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    python = folder / BIN / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
        "--disable-pip-version-check",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (own / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Run a command line in an empty folder, with the environment's programs and Helm alone."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "helm").symlink_to(tools.ensure("helm")[0])
    empty = tmp_path / "empty"
    empty.mkdir()
    path = os.pathsep.join(map(str, (environment / BIN, tmp_path / "bin", "/usr/bin", "/bin")))

    def call(line: str, *, code: int = 0) -> str:
        variables = {"PATH": path, "HOME": str(tmp_path)}
        done = subprocess.run(["sh", "-c", line], cwd=empty, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call


def test_the_chart_and_the_examples_are_in_it_once(wheel: Path) -> None:
    prefix = "neva_pretrain/_shipped/"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names))
        there = {name.removeprefix(prefix): archive.read(name) for name in names if name.startswith(prefix)}
        assert there == shipped("charts", "values")
        for file in (CHART / "files" / "neva_pod").rglob("*.py"):
            assert archive.read(file.relative_to(CHART / "files").as_posix()) == file.read_bytes()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("neva-values plan --gpus 8", "TP"),
        ("neva-values plan --gpus 128 --plot plan.png && head -c 8 plan.png | od -c | head -1", "211   P   N   G"),
        ("neva-values preflight --help", "--dataset"),
        ("neva-values check $(neva-values chart)/../../values/kueue.yaml", "ok"),
        ("neva-monitor --help", "SOURCE"),
        ("neva-values --version", f"version {VERSION}"),
        ("neva-monitor --version", f"version {VERSION}"),
    ],
)
def test_the_commands_run(run: Run, line: str, said: str) -> None:
    assert said in run(line)


@pytest.mark.helm
def test_u06_from_nothing_to_a_job(run: Run, environment: Path) -> None:
    """What the quick start does, without a cluster."""
    run("neva-values --gpus 16 --output values.yaml")
    assert run("neva-values chart").startswith(str(environment))
    manifests = list(yaml.safe_load_all(run(f"helm template neva $(neva-values chart) -f values.yaml {CLUSTER}")))
    (job,) = [found for found in manifests if found and found["kind"] == "PyTorchJob"]
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 1


@pytest.mark.helm
def test_helm_sees_no_file_that_pip_compiled(run: Run, environment: Path) -> None:
    """The pods' code is Python, and pip compiles what Python a wheel brings."""
    assert list(environment.rglob("neva_pretrain/_shipped/**/*.pyc"))
    installed = run(f"helm template neva $(neva-values chart) {CLUSTER}")
    assert installed == run(f"helm template neva {CHART} {CLUSTER}")


def test_u05_editors_find_the_schema(run: Run) -> None:
    schema = run("neva-values --gpus 8 2> /dev/null | head -1").strip()
    address = schema.removeprefix("# yaml-language-server: $schema=file://")
    assert Path(address).read_bytes() == (CHART / "values.schema.json").read_bytes()


class TestCopy:
    """U06: the folder is then laid out as a checkout, so that what the pages show works there."""

    def test_it_is_the_checkout_s(self, run: Run, tmp_path: Path) -> None:
        assert run("neva-values chart --output here") == "here/charts/neva-pretrain\n"
        copied = (file for file in (tmp_path / "empty" / "here").rglob("*") if file.is_file())
        there = {file.relative_to(tmp_path / "empty" / "here").as_posix(): file.read_bytes() for file in copied}
        assert there == shipped("charts", "values")
        assert run("cd here; neva-values --gpus 8").startswith("# yaml-language-server: $schema=charts/")

    def test_again_is_nothing_new_and_other_files_stay(self, run: Run, tmp_path: Path) -> None:
        run("neva-values chart --output .")
        mine = tmp_path / "empty" / "values" / "mine.yaml"
        mine.write_text("{}", encoding="utf-8")
        run("neva-values chart --output .")
        assert mine.read_text(encoding="utf-8") == "{}"

    @pytest.mark.parametrize(
        "name", ["values/kueue.yaml", "charts/neva-pretrain/templates/mine.yaml", "charts/neva-pretrain/files"]
    )
    def test_what_is_not_its_own_is_not_overwritten(self, run: Run, tmp_path: Path, name: str) -> None:
        mine = tmp_path / "empty" / name
        mine.parent.mkdir(parents=True)
        mine.write_text("mine", encoding="utf-8")
        said = run("neva-values chart --output .", code=1)
        assert said.startswith(
            f"ERROR: --output: got .; must have no other file where chart and examples go, has {name}"
        )
        assert [file for file in (tmp_path / "empty").rglob("*") if file.is_file()] == [mine]
