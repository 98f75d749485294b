"""The quick start, top to bottom: each command of the page as it stands there, in a shell of its own (U03)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.e2e.release import KINDS, ROOT, complete_unless_gone, drop_volumes
from tests.sandbox import Sandbox
from tests.unit.monitor.nemo_logs import bar
from tests.unit.pages import DOCS, block, commands
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.e2e

PAGE = DOCS / "tutorial" / "quick-start.md"
NAMESPACE = "training"
ELSEWHERE = ("pip install .", "kubectl apply --server-side -k ")
"""Done before: the package is installed, the operator runs. The latter would be fetched."""
STEPS = 2170
LOG = bar(STEPS - 2) + bar(STEPS - 1) + f"\n`Trainer.fit` stopped: `max_steps={STEPS}` reached.\n"


@pytest.fixture
def folder(sandbox: Sandbox, tmp_path: Path) -> Iterator[Path]:
    """A folder with the programs, the chart, and the files that the reader brings along."""
    (tmp_path / "bin").mkdir()
    for name in ("kubectl", "helm"):
        (tmp_path / "bin" / name).symlink_to(tools.path(name))
    for name in ("neva-values", "neva-monitor"):
        (tmp_path / "bin" / name).symlink_to(Path(sys.executable).with_name(name))
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    (tmp_path / "site.yaml").write_text(block("tutorial/quick-start.md", "# site.yaml\n"), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"nvcr.io": {"auth": "eDp5"}}}), encoding="utf-8")
    (tmp_path / "token.txt").write_text("hf", encoding="utf-8")
    yield tmp_path
    sandbox.kubectl("delete", "pytorchjobs,jobs,pods", "--all", "-n", NAMESPACE)
    drop_volumes(sandbox, NAMESPACE)
    sandbox.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def pods(sandbox: Sandbox, training: bool) -> list[str]:
    """Return the names of the training job's pods, or of all others."""
    label = KINDS["PyTorchJob"].label
    return [pod["metadata"]["name"] for pod in sandbox.pods(label if training else f"!{label}", NAMESPACE)]


def run(sandbox: Sandbox, folder: Path, line: str) -> str:
    """Run a line; meanwhile the pods of prepare and of `helm test` do their work, as the kubelet's would."""
    environment = {**sandbox.env, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "output").open("w+", encoding="utf-8") as output:
        done = subprocess.Popen(
            ["sh", "-c", line], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )

        def ended() -> bool:
            if line.startswith(("kubectl wait", "helm test")) and (others := pods(sandbox, training=False)):
                complete_unless_gone(sandbox, others, NAMESPACE)
            return done.poll() is not None

        with done:
            try:
                until(ended, line, pause=0.5)
            finally:
                done.kill()
        said = (folder / "output").read_text(encoding="utf-8")
        assert done.returncode == 0, f"{line}\n{said}"
    return said


def test_every_command_works(sandbox: Sandbox, folder: Path) -> None:
    sandbox.write_logs("all checks passed")
    lines = [line for line in commands(PAGE) if not line.startswith(ELSEWHERE)]
    said: dict[str, str] = {}
    for line in lines:
        if line.startswith("neva-monitor"):
            sandbox.wait_for_phase("Running", 1, KINDS["PyTorchJob"].label, NAMESPACE)
            (master,) = pods(sandbox, training=True)
            sandbox.write_logs(LOG, master, namespace=NAMESPACE)
            sandbox.complete(master, namespace=NAMESPACE)
        if line.startswith("helm uninstall"):
            sandbox.wait_for_phase("Running", 2, KINDS["PyTorchJob"].label, NAMESPACE)
        said[line] = run(sandbox, folder, line)
    (watched,) = (text for line, text in said.items() if line.startswith("neva-monitor"))
    assert f"\nfinished  step {STEPS:,}/{STEPS:,}" in watched
    sandbox.wait(lambda: pods(sandbox, training=True) == [], "pods gone after helm uninstall", PATIENCE)
    kept = sandbox.get("persistentvolumeclaims", namespace=NAMESPACE)["items"]
    assert {claim["metadata"]["name"] for claim in kept} == {"neva-datasets", "neva-models", "neva-results"}


def test_what_is_left_out_is_on_the_page() -> None:
    lines = list(commands(PAGE))
    assert [sum(line.startswith(start) for line in lines) for start in ELSEWHERE] == [1, 1]
