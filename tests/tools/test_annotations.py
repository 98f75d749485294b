"""What Artifact Hub is told of the chart."""

import re

import yaml

from neva_pretrain import chart
from tests.tools import annotations
from tests.tools.made import ROOT

CHANGELOG = """# Changelog

## Unreleased

### Added

- Not yet.

## 0.2.0 - 2026-12-01

### Added

- One thing,
  in two lines. `And` more of it.

### Fixed

- Versions 1.9 and 2: read.

## [0.1.0] - 2026-11-26

### Added

- All.
"""


def told() -> dict[str, str]:
    return dict(yaml.safe_load(annotations.FILE.read_text("utf-8"))["annotations"])


def test_it_is_up_to_date() -> None:
    assert annotations.FILE.read_text("utf-8") == annotations.made()


def test_changes_are_those_of_the_version() -> None:
    assert list(annotations.changes(CHANGELOG, "0.2.0")) == [
        {"kind": "added", "description": "One thing, in two lines."},
        {"kind": "fixed", "description": "Versions 1.9 and 2: read."},
    ]
    assert list(annotations.changes(CHANGELOG, "0.1.0")) == [{"kind": "added", "description": "All."}]
    assert list(annotations.changes(CHANGELOG, "0.3.0")) == []


def test_the_changelog_has_versions_and_keeps_its_form() -> None:
    """https://keepachangelog.com/en/1.1.0: what is unreleased, then each version, newest first, by kind of change."""
    text = annotations.CHANGELOG.read_text("utf-8")
    unreleased, *released = re.findall(r"^## (.+)", text, re.MULTILINE)
    assert unreleased == "Unreleased"
    versions = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - (\d{4}-\d\d-\d\d)", heading) for heading in released]
    assert all(versions), released
    numbers = [tuple(map(int, found.groups()[:3])) for found in versions if found]
    dates = [found[4] for found in versions if found]
    assert numbers
    assert numbers == sorted(set(numbers), reverse=True)
    assert dates == sorted(dates, reverse=True)
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.+)", section, re.MULTILINE)
        assert found
        assert set(found) <= set(kinds)
        assert len(set(found)) == len(found)
    chart_is = tuple(map(int, str(yaml.safe_load(annotations.FILE.read_text("utf-8"))["version"]).split(".")))
    assert chart_is >= numbers[0]


def test_images_are_those_of_the_defaults() -> None:
    image = chart.defaults()["image"]
    (listed,) = yaml.safe_load(told()["artifacthub.io/images"])
    assert listed == {"name": "nemo", "image": f"{image['repository']}:{image['tag']}"}


def test_resources_that_are_needed_are_those_that_the_chart_is_tested_with() -> None:
    listed = yaml.safe_load(told()["artifacthub.io/crds"])
    assert [crd["kind"] for crd in listed] == ["PyTorchJob", "TrainJob"]
    for crd in listed:
        group = crd["name"].partition(".")[2]
        assert (ROOT / "schemas" / "crds" / group / f"{crd['kind'].lower()}_{crd['version']}.json").is_file()
