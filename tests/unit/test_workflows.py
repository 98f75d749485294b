"""GitHub's workflows: no right that a job does not ask for, actions pinned by commit, only targets that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.pages import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def read(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
class TestWorkflow:
    def test_no_right_but_to_read_the_repository(self, file: Path) -> None:
        workflow = read(file)
        assert workflow["permissions"] == {}
        assert all(job["permissions"] == {"contents": "read"} for job in workflow["jobs"].values())

    def test_every_job_has_a_time_limit(self, file: Path) -> None:
        assert all(job["timeout-minutes"] for job in read(file)["jobs"].values())

    def test_actions_are_pinned_by_commit(self, file: Path) -> None:
        used = re.findall(r"uses: (.+)", file.read_text(encoding="utf-8"))
        assert used
        assert [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)] == []

    def test_make_targets_exist(self, file: Path) -> None:
        for target in re.findall(r"make ([a-z0-9-]+)", file.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target

    def test_a_run_is_not_a_fork_s_with_rights(self, file: Path) -> None:
        assert "pull_request_target" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_issue_forms_are_whole(file: Path) -> None:
    form = read(file)
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
