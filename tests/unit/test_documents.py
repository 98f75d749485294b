"""Every command of the documents and of --help runs as it is written, page by page, or the table says why it is not."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from neva_pretrain.check import rules
from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.unit.monitor.fake_cluster import Cluster, job, master
from tests.unit.monitor.nemo_logs import bar
from tests.unit.pages import PAGES, ROOT, block, blocks, commands, consoles, programs, text

QUICK_START = "needs a cluster: tests/e2e/test_quick_start.py runs it"
TESTED = "tests/unit/test_readme.py: the target exists"
NOT_RUN = {
    "make ": TESTED,
    "pip install .": "changes the machine: tests/unit/test_wheel.py installs the wheel",
    ".venv/bin/python -m pytest": "a test of tests",
    "UPDATE_GOLDENS=1": "changes the goldens: tests/chart/test_goldens.py",
    "export KUBECONFIG": "names what `make sandbox-up` printed",
    "gpg --export": "needs a key: tests/tools/test_release.py makes one",
    "kubectl apply --server-side -k": "fetches the operator: tests/e2e/test_sandbox.py has it",
    "kubectl create": "needs a cluster: tests/e2e/test_quick_start.py makes a namespace and Secrets",
    "kubectl wait": QUICK_START,
    "kubectl delete pytorchjob": QUICK_START,
    "kubectl get pytorchjob": QUICK_START,
    "kubectl get workloads": "needs Kueue, as tests/e2e/test_queues.py has it",
    "kubectl get trainjob": "needs Trainer: tests/e2e/test_trainjob.py reads these columns from this page",
    "kubectl logs -f -n training job/NAME": "names what helm install printed: tests/chart/test_notes.py",
    "kubectl exec POD": "needs a pod: tests/unit/test_preflight_command.py runs what is run in it",
    "helm test": QUICK_START,
    "helm uninstall": QUICK_START,
    "neva-values check values.yaml --cluster": QUICK_START,
    "PYTHONPATH=charts/neva-pretrain/files python3 -m neva_pod.monitor.exporter": (
        "does not end: tests/unit/monitor/test_monitor_exporter.py"
    ),
}
"""Lines that are not run here, by how they begin, and why."""

RUN = ("helm install", "helm template", "helm upgrade", "kubectl logs", "neva-monitor", "neva-values", "S=")

SHOWN = {page.relative_to(ROOT).as_posix(): list(commands(page)) for page in PAGES}
SHOWN |= {
    f"{name} --help": re.findall(r"^  ((?:helm|kubectl|neva-\w+) .*)$", command.epilog or "", re.MULTILINE)
    for name, command, _ in programs()
}

HELM = """#!/bin/sh
verb=$1
shift
case $verb in install | upgrade) verb=template ;; esac
for word; do
  shift
  case $word in --install | --reset-then-reuse-values | --server-side=false) ;; *) set -- "$@" "$word" ;; esac
done
exec {helm} $verb --kube-version {kubernetes} "$@"
"""
"""A release as a render, without what only an upgrade takes."""

STEPS = 2170
LOG = [*(bar(step) for step in range(STEPS - 50, STEPS)), f"`Trainer.fit` stopped: `max_steps={STEPS}` reached.\n"]

Run = Callable[[str], subprocess.CompletedProcess[str]]


def reasons(line: str) -> list[str]:
    return [why for begins, why in NOT_RUN.items() if line.startswith(begins)]


def to_run(lines: list[str]) -> list[str]:
    return [line for line in lines if not reasons(line)]


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """Run a line in a folder that has what the pages assume: a checkout, files of a site, logs, a cluster's runs."""
    cluster = Cluster(tmp_path)
    for name in ("neva-monitor", "neva-values"):
        (cluster.bin / name).symlink_to(Path(sys.executable).with_name(name))
    if request.node.get_closest_marker("helm"):
        (cluster.bin / "helm").write_text(HELM.format(helm=helm.tool("helm"), kubernetes=helm.KUBERNETES))
        (cluster.bin / "helm").chmod(0o755)
    for name in ("charts", "values"):
        (tmp_path / name).symlink_to(ROOT / name)
    logs = [tmp_path / name for name in ("a.log", "b.log", "train.log")]
    logs += [tmp_path / "results" / name / "logs" / "node-00000.log" for name in ("a", "b", "neva", "run-1")]
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(LOG), encoding="utf-8")
    runs = ("lr-1", "lr-2", "neva")
    told = {"max-steps": str(STEPS)}
    cluster.has(
        "pytorchjobs", *(job(f"{name}-1a", name, "Succeeded", namespace="training", told=told) for name in runs)
    )
    cluster.has("trainjobs")
    pods = [master(f"{name}-1a", namespace="training") for name in runs]
    for name, pod in zip(runs, pods, strict=True):
        pod["metadata"]["labels"]["app.kubernetes.io/instance"] = name  # as the chart's template of the pod has it
        cluster.logs(pod["metadata"]["name"], *LOG)
    cluster.has("pods", *pods)

    def call(line: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{cluster.bin}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    (tmp_path / "site.yaml").write_text(block("tutorial/quick-start.md", "# site.yaml\n"), encoding="utf-8")
    assert call("neva-values --gpus 8 --site site.yaml --output values.yaml").returncode == 0
    return call


def test_each_line_runs_or_has_a_reason_not_to() -> None:
    """A line of a new kind wants a decision; a reason that no line has any more goes."""
    lines = [line for shown in SHOWN.values() for line in shown]
    assert [line for line in lines if len(reasons(line)) + line.startswith(RUN) == 0] == []
    assert [begins for begins in NOT_RUN if not any(line.startswith(begins) for line in lines)] == []
    named = {file for why in NOT_RUN.values() for file in re.findall(r"tests/[\w/]+\.py", why)}
    assert [file for file in named if not (ROOT / file).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.helm] if any("helm " in line for line in to_run(lines)) else [])
        for page, lines in SHOWN.items()
        if to_run(lines)
    ],
)
def test_commands_work_as_they_are_written(page: str, run: Run) -> None:
    """Preflight is to find that the files are not there, and not to leave out what it is asked for."""
    for line in to_run(SHOWN[page]):
        done = run(line if shutil.which("jq") else line.partition("| jq")[0])
        said = f"{line}\n{done.stdout}{done.stderr}"
        if line.startswith("neva-values preflight"):
            assert done.returncode in (0, 1), said
            assert "\npreflight: " in done.stdout or ("--results" in line and "is no folder" in done.stderr), said
            assert "--only" not in line or " not given" not in done.stdout, said
        else:
            assert done.returncode == 0, said


@pytest.mark.slow
@pytest.mark.parametrize(("line", "shown"), [found for page in PAGES for found in consoles(page)])
def test_what_a_command_says_is_what_is_shown(line: str, shown: str, run: Run) -> None:
    done = run(line)
    assert done.returncode == (1 if shown.startswith("ERROR: ") else 0)
    assert " ".join(shown.split()) in " ".join((done.stderr or done.stdout).split())


def manifests(kind: str) -> dict[str, Any]:
    """Return the manifest of a kind of docs/how-to/gitops.md."""
    shown = [each for _, body in blocks("how-to/gitops.md") for each in yaml.safe_load_all(body)]
    (found,) = [each for each in shown if each["kind"] == kind]
    return dict(found)


@pytest.mark.helm
def test_argo_cd_s_application_renders() -> None:
    """No automated sync: a commit would make a second job beside the one that runs."""
    application = manifests("Application")
    assert application["apiVersion"] == "argoproj.io/v1alpha1"
    source = application["spec"]["source"]
    folder = ROOT / source["path"]
    (values,) = source["helm"]["valueFiles"]
    assert helm.job(helm.render(folder / values, chart=folder, release=source["helm"]["releaseName"]))
    assert "syncPolicy" not in application["spec"]


@pytest.mark.helm
def test_flux_s_release_renders() -> None:
    source, release = manifests("GitRepository"), manifests("HelmRelease")
    assert (source["apiVersion"], release["apiVersion"]) == (
        "source.toolkit.fluxcd.io/v1",
        "helm.toolkit.fluxcd.io/v2",
    )
    chart, spec = release["spec"]["chart"]["spec"], release["spec"]
    assert chart["sourceRef"] == {"kind": source["kind"], "name": source["metadata"]["name"]}
    assert source["metadata"]["namespace"] == release["metadata"]["namespace"]
    assert helm.job(helm.render(spec["values"], chart=ROOT / chart["chart"], release=spec["releaseName"]))
    assert rules.violations(Facts.of(spec["values"])) == []
    assert spec["upgrade"] == {"remediation": {"retries": 0}}


def test_the_keys_of_fine_tuning_are_nemo_s() -> None:
    config = yaml.safe_load((ROOT / "charts/neva-pretrain/files/neva_pretrain.yaml").read_text(encoding="utf-8"))
    table = text("how-to/results.md").partition("## Fine-tune")[2]
    keys = re.findall(r"`([\w.]+)=\w+`", table)
    assert len(keys) >= 10
    for key in keys:
        assert reduce(lambda node, name: node.get(name, {}), key.split("."), config) != {}, key
