"""N24: values of chart 0.1.0 mean what they did, or each key that is gone names the one that replaced it."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.check import rules
from neva_pretrain.facts import Facts
from tests.chart import batch, helm

OLD = helm.ROOT / "tests" / "data" / "values-0.1.0"
DEFAULTS = values.read(OLD / "defaults.yaml")
EXAMPLES = {path.stem: values.read(path) for path in sorted((OLD / "examples").glob("*.yaml"))}
SITE = values.read(helm.ROOT / "values" / "sites" / "scitix.yaml")

RENAMED = [
    "prepare.nemoPath: got /opt/NeMo; must not be set, since prepare.llm has replaced it; "
    "remove it: prepare converts without NeMo",
    "restartPolicy: got Never; must not be set, since restart.enabled has replaced it; "
    "use restart.enabled: true for OnFailure, false for Never",
]
NEW = ["preflight.timeoutSeconds", "restart", "rollbackGuard", "terminationGracePeriodSeconds", "training.gpu"]
MISSING = [
    f"{key}: got nothing; must be set; leave the default, or set it (with helm upgrade: --reset-then-reuse-values)"
    for key in NEW
]
# Defaults of 0.1.0 that are empty now and mean the same.
UNSAID = {f"storage.{volume}.gpfs.nodePath" for volume in ("datasets", "models", "results")} | {
    "networkPolicy.dns.namespaceLabels.kubernetes.io/metadata.name",
    "networkPolicy.dns.podLabels.k8s-app",
    "monitoring.dashboard.labels.grafana_dashboard",
}
GONE = {"prepare.nemoPath", "restartPolicy"}


def sections(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every top key, and every map below."""
    for key, below in node.items():
        if not path or isinstance(below, dict):
            yield (*path, key)
        if isinstance(below, dict):
            yield from sections(below, (*path, key))


def without(complete: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(complete)
    node = changed
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return changed


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, below in node.items():
        if isinstance(below, dict) and below:
            yield from leaves(below, f"{path}{key}.")
        else:
            yield f"{path}{key}", below


def test_files_of_0_1_0_render() -> None:
    assert len(EXAMPLES) >= 9
    for name, text in zip(EXAMPLES, batch.renders([values.complete(v) for v in EXAMPLES.values()]), strict=True):
        assert "ERROR" not in text, (name, text)
        assert "\nkind: PyTorchJob" in text or "\nkind: TrainJob" in text, name


def test_with_scitix_site_file_below_the_old_defaults_hold() -> None:
    now = dict(leaves(values.complete(SITE)))
    old = {key for key, was in leaves(DEFAULTS) if was not in (None, "", [], {}) and now.get(key) != was}
    assert old == UNSAID | GONE


def test_all_old_defaults_in_a_file_are_told_what_is_gone() -> None:
    assert helm.render_fails(DEFAULTS) == RENAMED
    assert [str(v) for v in rules.violations(Facts(values.complete(DEFAULTS)))] == RENAMED


def test_all_old_defaults_in_place_of_the_new_are_told_what_is_missing_too(tmp_path: Path) -> None:
    """As ``--reuse-values`` does it: the old release's values replace the new chart's defaults."""
    folder = tmp_path / "neva-pretrain"
    shutil.copytree(helm.CHART, folder)
    shutil.copy(OLD / "defaults.yaml", folder / "values.yaml")
    assert helm.render_fails(chart=folder) == MISSING + RENAMED
    assert [str(v) for v in rules.violations(Facts(DEFAULTS))] == MISSING + RENAMED


def test_what_is_renamed_is_all_that_must_be_changed() -> None:
    assert "kind: PyTorchJob" in helm.render_text({**DEFAULTS, "restartPolicy": None, "prepare": {"nemoPath": None}})


@pytest.mark.parametrize("complete", [DEFAULTS, chart.defaults()], ids=["0.1.0", "now"])
def test_each_section_may_be_missing_and_is_then_a_default_or_a_sentence(complete: dict[str, Any]) -> None:
    paths = list(sections(complete))
    cases = [without(complete, path) for path in paths]
    assert len(cases) > 70
    for path, case, text in zip(paths, cases, batch.renders(cases), strict=True):
        said = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
        assert said == [str(v) for v in rules.violations(Facts(case))], path
        assert said or "kind: PyTorchJob" in text, path
