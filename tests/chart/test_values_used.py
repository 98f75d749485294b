"""Every value is used: flipped, it changes the render. Every value that a template uses exists."""

import copy
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.chart.access import VOLUMES
from neva_pretrain.check import schema
from tests.chart import batch, helm

TEMPLATES = "\n".join(
    file.read_text()
    for file in sorted((helm.CHART / "templates").rglob("*"))
    if file.suffix in (".tpl", ".yaml", ".txt")
)
SCRIPTS = "\n".join(file.read_text() for file in sorted((helm.CHART / "files").rglob("*.py")))
SCHEMA: dict[str, Any] = json.loads((helm.CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((helm.CHART / "values.yaml").read_text())

Path = tuple[str, ...]

CSI = {"volumeHandle": "0;2;7118073361626808055;0A0B0C0D:5D36FE8D;;d;/gpfs/d"}
ENABLED = {"enabled": True}
ANYWHERE = {"all": {"ports": [{"port": 443}]}}
LOCAL = {"type": "Localhost", "localhostProfile": "a"}
# Releases in which each value has something to say.
SCENES: list[dict[str, Any]] = [
    {"training": {"nodes": 2, "globalBatchSize": 512}},
    {
        "storage": {
            **{name: {"gpfs": {"csi": {**CSI, "volumeHandle": f"{CSI['volumeHandle']}/{name}"}}} for name in VOLUMES},
        },
        "hf": {"online": True},
        "secrets": {"huggingface": {"name": "hf"}, "wandb": {"name": "wandb"}},
        "wandb": ENABLED,
        "networkPolicy": {**ENABLED, "egress": ANYWHERE, "ingress": ANYWHERE},
        "tensorboard": ENABLED,
        "serviceAccount": {"create": True},
        "scheduling": {"queue": {"name": "q"}},
        "monitoring": dict.fromkeys(("exporter", "podMonitor", "prometheusRule", "dashboard"), ENABLED),
    },
    {
        "prepare": {**ENABLED, "llm": {"source": "org/llm"}},
        "hf": {"online": True},
        "secrets": {"huggingface": {"name": "hf"}},
    },
    dict.fromkeys(
        ("podSecurityContext", "securityContext"), dict.fromkeys(("appArmorProfile", "seccompProfile"), LOCAL)
    ),
    {"job": {"kind": "TrainJob"}, "rdma": ENABLED, "monitoring": {"exporter": ENABLED}},
    {
        "scheduling": {"schedulerName": "kai-scheduler", "kai": {"queue": "k"}, "gpuType": {"values": ["A"]}},
        "rendezvous": {"port": 24000},
    },
    {"model": {"name": "mixtral_8x7b_instruct"}, "training": {"tensorParallelSize": 8}},
]
# What only rules read: one other fact of a run decides it, or what a cluster admits.
JUDGED = {("model", "architecture", "gatedMlp"), ("podSecurity", "enforce"), ("podSecurity", "operatorInitContainer")}
REFUSED = {("podSecurityContext", "fsGroup")}
RENAMED = {tuple(key.split(".")) for key in chart.rules()["renamed"]}
# Where the next value of its type is no right one, or means the same.
FLIPS: dict[str, Any] = {
    "*.cpu": "3",
    "*.memory": "9Gi",
    "extraVolumes": [{"name": "qa", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "shm", "mountPath": "/qa"}],
    "hf.endpoint": "https://hub.example.com",
    "hf.home": "/scratch/qa",
    "image.digest": f"sha256:{'a' * 64}",
    "hostNetwork": True,
    "model.architecture.encoderSeqLength": 2048,
    "model.architecture.ffnHiddenSize": 11264,
    "model.architecture.hiddenSize": 8192,
    "model.architecture.numAttentionHeads": 64,
    "model.architecture.numExperts": 8,
    "model.architecture.numQueryGroups": 8,
    "model.name": "llama3_8b_chat",
    "monitoring.podMonitor.enabled": False,
    "rdma.count": 2,
    "resources.shmSize": "64Gi",
    "storage.*.readOnly": False,
    "storage.datasets.mountPath": "/datasets",
    "storage.models.mountPath": "/models",
    "training.globalBatchSize": 1024,
    "training.gpusPerNode": 4,
    "training.microBatchSize": 16,
    "training.tensorParallelSize": 8,
    "model.architecture": {"vocabSize": 64000},
    "monitoring.podMonitor.interval": "15s",
    "monitoring.trainJobStatus.server": "https://trainer.example.com",
    "networkPolicy.egress": {"hub": {"ports": [{"port": 443}]}},
    "networkPolicy.ingress": {"a": {"from": [{"namespaceSelector": {}}]}},
    "podSecurityContext.sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}],
    "preflight.filesystems": {"/datasets/preset": {"type": "gpfs"}},
    "podDisruptionBudget.enabled": True,
    "preflight.skip": ["vision"],
    "rdma.resourceName": "rdma/qa",
    "rdma.resources": {"rdma/qa": 2},
    "scheduling.nodeExpressions": [{"key": "a", "operator": "Exists"}],
    "scheduling.schedulingPolicy": {"minAvailable": 2},
    "scheduling.tolerations": [{"key": "a", "operator": "Exists"}],
    "scheduling.topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}],
    "secrets.env": {"QA_TOKEN": {"name": "s", "key": "k"}},
    "podSecurityContext.supplementalGroups": [1000],
    "podSecurityContext": {"runAsGroup": 1000},
    "securityContext": {"runAsGroup": 1000},
    "securityContext.seccompProfile.type": "Unconfined",
    "securityContext.capabilities.*": ["CHOWN"],
    "storage.*.existingClaim": "qa",
    "storage.*.gpfs.csi.volumeHandle": CSI["volumeHandle"],
    "storage.*.gpfs.nodeLabel": "a=b",
    "storage.*.gpfs.nodePath": "/qa",
    "storage.*.hostPath": "/qa",
    "storage.*.storageClassName": "qa",
    "tensorboard.image": "a/b:1",
}
RECORDED = re.compile(
    r'^ *neva-pretrain/(?:training|checkpoint|plan|architecture):[^\n]*$|^ *"training": \{.*?\}', re.M | re.S
)


def leaves(node: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of the values that have no values inside."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def schema_leaves(node: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Paths of the schema's properties that have no properties inside, and their schemas."""
    while "$ref" in node:
        node = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
    if "properties" not in node:
        yield path, node
        return
    for key, value in node["properties"].items():
        yield from schema_leaves(value, (*path, key))


LEAVES = dict(schema_leaves(SCHEMA))


def flipped(path: Path, now: Any) -> Any:
    """Another value that the schema takes."""
    part = LEAVES.get(path, {})
    for pattern, value in FLIPS.items():
        if fnmatch(".".join(path), pattern):
            return value
    if others := [choice for choice in part.get("enum", []) if choice not in (now, None, "")]:
        return others[0]
    kinds = part.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(now, str) and now:
        return f"{now}a"
    if isinstance(now, bool) or "boolean" in kinds:
        return not now
    if isinstance(now, int) or "integer" in kinds:
        return (now or 0) + 1
    if isinstance(now, float) or "number" in kinds:
        return (now or 1) / 2
    if "array" in kinds:
        return ["qa"]
    if "object" in kinds or isinstance(now, dict):
        return {"qa": "b"}
    return f"{now or ''}qa"


def get(node: Any, path: Path) -> Any:
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def put(node: dict[str, Any], path: Path, value: Any) -> None:
    for key in path[:-1]:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[path[-1]] = value


def seen(text: str) -> str:
    """A render without names that hash it all, and without the record of what was asked."""
    return RECORDED.sub("", re.sub(r"neva-[0-9a-f]{8,10}\b", "JOB", text))


def test_every_value_changes_the_render() -> None:
    """P7: in one of the scenes the flipped value makes another render, and no rule refuses it."""
    left = dict.fromkeys(sorted({*LEAVES, *leaves(DEFAULTS)} - {("global",), *JUDGED, *REFUSED, *RENAMED}), "")
    for scene in SCENES:
        base = values.complete(scene)
        cases = {path: copy.deepcopy(base) for path in left}
        for path, case in cases.items():
            put(case, path, flipped(path, get(base, path)))
            assert schema.violations(case) == [], path
        plain, *others = batch.renders([base, *cases.values()])
        assert not plain.startswith("ERROR"), plain
        told = {path: text if text.startswith("ERROR") else "" for path, text in zip(cases, others, strict=True)}
        same = {path for path, text in zip(cases, others, strict=True) if seen(text) == seen(plain)}
        left = {path: told[path] for path in left if path in same or told[path]}
    assert not left, "\n".join(f"{'.'.join(path)}: {said or 'same'}" for path, said in left.items())


def in_schema(path: Path) -> bool:
    """Whether the schema knows the path; what lies in a free map is known."""
    node: dict[str, Any] = SCHEMA
    for key in path:
        while "$ref" in node:
            node = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
        if "properties" not in node:
            return True
        if key not in node["properties"]:
            return False
        node = node["properties"][key]
    return True


def test_every_value_is_in_the_schema() -> None:
    assert not [".".join(path) for path in leaves(DEFAULTS) if not in_schema(path)]


def used() -> set[Path]:
    """Paths below .Values in the templates; `$v` is .Values and `$t` .Values.training by convention."""
    found = set()
    for prefix, tail in re.findall(r"(\.Values|\$v|\$t)((?:\.[A-Za-z]+)+)", TEMPLATES):
        path = tuple(tail[1:].split("."))
        found.add(("training", *path) if prefix == "$t" else path)
    return found


def test_every_value_that_a_template_uses_exists() -> None:
    assert not [".".join(path) for path in sorted(used()) if not in_schema(path)]
    assert len(used()) > 40


def test_the_letters_mean_what_this_file_thinks() -> None:
    for name, meaning in (("v", r"\S*\.Values"), ("t", r"(\$v|\S*\.Values)\.training")):
        assigned = re.findall(rf"(?<!, )\${name} := ([^}}]+?) -?}}}}", TEMPLATES)
        assert assigned
        assert not [text for text in assigned if not re.fullmatch(meaning, text)]


@pytest.mark.parametrize("section", ["preflight", "prepare"])
def test_pods_read_what_is_handed_to_them_whole(section: str) -> None:
    """settings.json has these sections as they are: a change in them is no use yet."""
    ours = ("enabled", "resources", "backoffLimit")  # the chart reads these
    handed = {path[-1] for path in {*LEAVES} - RENAMED if path[0] == section and path[1] not in ours}
    assert not [name for name in handed if not re.search(rf'["\.]{name}\b', SCRIPTS)]
