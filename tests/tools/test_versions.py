"""The documents name the versions that are built and tested, and no others."""

import re
from pathlib import Path

import pytest

from tests.tools.table import GROUPS, KUBERNETES

ROOT = Path(__file__).resolve().parents[2]
MATRIX = ROOT / "docs" / "reference" / "tested-with.md"
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(page for page in (ROOT / "docs").rglob("*.md") if "adr" not in page.parts),
    *(ROOT / name for name in ("Makefile", "schemas/README.md", ".github/workflows/ci.yml")),
]
CALLED = {
    "Kubernetes": ("kubernetes",),
    "training operator": ("training-operator",),
    "Trainer": ("trainer",),
    "JobSet": ("jobset",),
    "Kueue": ("kueue",),
    "scheduler-plugins": ("scheduler-plugins",),
    "Helm": ("helm", "helm4"),
}

DEMO = ("kubernetes", "helm", "helm4", "kwok", "training-operator")
"""A cold ``make demo`` builds these; helm4 lies with helm."""


def version(group: str) -> str:
    return GROUPS[group].version.removeprefix("v")


def minor(text: str) -> str:
    return ".".join(text.split(".")[:2])


def test_the_matrix_is_of_what_is_built() -> None:
    text = MATRIX.read_text(encoding="utf-8")
    oldest, first, *_, last = map(minor, KUBERNETES)
    rows = [f"| Kubernetes | {oldest} and {first} to {last} | "]
    rows += [f"| Kubernetes | {version('kubernetes')} | ", f"| training operator | {version('training-operator')} | "]
    rows += [f"| Helm | {version('helm')} and {version('helm4')} | "]
    rows += [f"| kubectl | {version('kubernetes')} | ", f"| OCI registry | distribution {version('registry')} | "]
    rows += [f"| PyTorchJob, training operator {version('training-operator')} | "]
    rows += [f"| TrainJob, Trainer {version('trainer')}, JobSet {version('jobset')} | "]
    rows += [f"| | runs | Kueue {version('kueue')}, quota | Kueue {version('kueue')}, topology | "]
    assert [row for row in rows if row not in text] == []
    assert f"scheduler-plugins {version('scheduler-plugins')}, gang" in text


@pytest.mark.parametrize("name", CALLED)
def test_no_document_names_another_version(name: str) -> None:
    """Three numbers are what was run; two are a line of versions, and free."""
    named = re.compile(rf"\b{name},? (?:\| )?v?(\d+\.\d+\.\d+)\b")
    built = {version(group) for group in CALLED[name]}
    found = {(page.name, text) for page in DOCUMENTS for text in named.findall(page.read_text(encoding="utf-8"))}
    assert {one for one in found if one[1] not in built} == set()


def test_sources_of_schemas_are_those_of_the_table() -> None:
    text = (ROOT / "schemas" / "README.md").read_text(encoding="utf-8")
    assert f"| k8s.io/kubernetes | {', '.join('v' + one for one in KUBERNETES)} | " in text
    for name in ("training-operator", "trainer", "kueue", "scheduler-plugins"):
        assert f"| {GROUPS[name].module} | {GROUPS[name].version} | " in text
    assert {one.name for one in (ROOT / "schemas" / "kubernetes").iterdir()} == {f"v{one}" for one in KUBERNETES}


def test_the_chart_accepts_no_older_kubernetes_than_is_checked_and_runs_on_the_newest() -> None:
    oldest = minor(KUBERNETES[0])
    chart = (ROOT / "charts" / "neva-pretrain" / "Chart.yaml").read_text(encoding="utf-8")
    assert f'kubeVersion: ">={oldest}.0-0"' in chart
    for page in ("README.md", "docs/tutorial/quick-start.md"):
        words = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"Kubernetes {oldest} or newer" in words
    assert minor(version("kubernetes")) == minor(KUBERNETES[-1])


def test_commands_name_what_is_tested() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = re.findall(r"--kube-version (\S+)", workflow + makefile)
    assert set(asked) == {KUBERNETES[-1]}
    workflows = "".join(file.read_text(encoding="utf-8") for file in (ROOT / ".github" / "workflows").glob("*.yml"))
    assert "python -m tests.tools build helm4" in workflows
    assert re.findall(r"go (?:install|run) \S+@v", workflows) == [], "a version of its own"
    quick_start = (ROOT / "docs/tutorial/quick-start.md").read_text(encoding="utf-8")
    assert f'?ref={GROUPS["training-operator"].version}"' in quick_start


def test_what_groups_share_is_compiled_once() -> None:
    """Groups of one minor version of Kubernetes' libraries have them, and what these need, at one version."""
    pinned = {
        name: dict(re.findall(r"^\s+(\S+) (v\S+)", (group.folder / "go.mod").read_text(), re.M))
        for name, group in GROUPS.items()
    }
    for together in (DEMO, ("trainer", "jobset", "kueue")):
        for module in ("k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go", "google.golang.org/protobuf"):
            assert len({pinned[name][module] for name in together}) == 1, module
