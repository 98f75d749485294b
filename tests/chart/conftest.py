"""Fixtures of the chart's tests."""

import shutil
from pathlib import Path

import pytest

from tests.chart import helm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the chart that shows its notes."""
    copy = tmp_path_factory.mktemp("chart") / "neva-pretrain"
    shutil.copytree(helm.CHART, copy)
    notes = (copy / "templates" / "NOTES.txt").read_text()
    manifest = 'kind: Notes\ntext: {{ include "notes" . | toJson }}\n'
    (copy / "templates" / "shown.yaml").write_text(f'{{{{- define "notes" }}}}{notes}{{{{ end }}}}{manifest}')
    return copy
