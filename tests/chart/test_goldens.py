"""Rendered manifests against files in tests/goldens; UPDATE_GOLDENS=1 writes them anew."""

import os
from typing import Any

import pytest
import yaml

from tests.chart import helm

FOLDER = helm.ROOT / "tests" / "goldens"
CASES: dict[str, dict[str, Any] | None] = {
    "defaults": None,
    "16-nodes": {
        "training": {"nodes": 16, "globalBatchSize": 4096, "maxSteps": 136, "warmupSteps": 4},
        "checkpoint": {"everyNSteps": 13},
        "fabric": "ib",
    },
    "trainjob": {"job": {"kind": "TrainJob"}, "training": {"nodes": 2, "globalBatchSize": 512}, "fabric": "ib"},
    "prepare": {"prepare": {"enabled": True, "llm": {"source": "meta-llama/Llama-2-7b-chat-hf"}}},
}


class Dumper(yaml.SafeDumper):
    """Long texts as blocks, so that a change shows as the lines that changed."""


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def golden(values: dict[str, Any] | None) -> str:
    """The manifests, sorted, as YAML; a file that is delivered as it is stands there by its name."""
    manifests = sorted(helm.render(values), key=lambda manifest: (manifest["kind"], manifest["metadata"]["name"]))
    files = [path for path in (helm.CHART / "files").rglob("*.*") if path.suffix in (".py", ".sh", ".yaml")]
    delivered = {file.read_text("utf-8").strip(): f"({file.relative_to(helm.CHART)})" for file in files}
    for manifest in (m for m in manifests if m["kind"] == "ConfigMap"):
        manifest["data"] = {name: delivered.get(text.strip(), text) for name, text in manifest["data"].items()}
    return "---\n".join(yaml.dump(manifest, Dumper=Dumper, sort_keys=True, width=120) for manifest in manifests)


@pytest.mark.parametrize("name", CASES)
def test_render_equals_its_golden(name: str) -> None:
    file = FOLDER / f"{name}.yaml"
    text = golden(CASES[name])
    assert helm.parse(text), "a dump that reads back"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.exists(), "no golden; UPDATE_GOLDENS=1 writes it"
    assert text == file.read_text(encoding="utf-8"), "the render changed; UPDATE_GOLDENS=1 accepts it"
