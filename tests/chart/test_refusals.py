"""U04, P5: whatever a value breaks, real Helm and `check` name the key and the rule in words."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.check import schema
from tests.chart import helm

SCHEMA = chart.schema()
WORDS = {"type", "enum", "minimum", "maximum", "exclusiveMinimum", "maxLength", "maxItems", "maxProperties"}
# Said in words by Helm; all else (not, anyOf, pattern, required ...) prints a keyword or an expression at best.
READABLE = WORDS | {"minProperties", "minLength", "uniqueItems", "additionalProperties"}
ANNOTATIONS = {"$schema", "title", "description", "properties", "items", "definitions", "$ref"}

Path = tuple[str, ...]


def parts(node: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    yield path, node
    for name, part in node.get("properties", {}).items():
        yield from parts(part, (*path, name))


def breaking(part: dict[str, Any], keyword: str) -> Any:
    """A value that breaks one keyword of a part."""
    limit = part[keyword]
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    values: dict[str, Callable[[], Any]] = {
        "type": lambda: [] if "array" not in kinds else True,
        "enum": lambda: "no-such-choice",
        "minimum": lambda: limit - 1,
        "maximum": lambda: limit * 2,
        "exclusiveMinimum": lambda: limit,
        "maxLength": lambda: "x" * (limit + 1),
        "maxItems": lambda: [f"x{at}" for at in range(limit + 1)],
        "maxProperties": lambda: {f"x{at}": "x" for at in range(limit + 1)},
    }
    return values[keyword]()


def nested(path: Path, value: Any) -> Any:
    return {path[0]: nested(path[1:], value)} if path else value


def test_the_schema_has_only_what_helm_says_in_words() -> None:
    def keywords(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from node
            for key, value in node.items():
                for below in value.values() if key in ("properties", "definitions") else [value]:
                    yield from keywords(below)

    assert set(keywords(SCHEMA)) <= READABLE | ANNOTATIONS


def test_u04_each_violation_of_the_schema_is_read_in_helms_refusal() -> None:
    """One keyword a leaf, as many as go together in one run of Helm, which reports them all."""
    todo = [(path, key) for path, part in parts(SCHEMA) if path for key in sorted(WORDS & set(part)) if "type" in part]
    todo = [(path, key) for path, key in todo if path[0] != "global"]
    assert len(todo) > 300
    while todo:
        together: dict[str, Any] = {}
        taken: list[tuple[Path, str]] = []
        for path, key in todo:
            if not any(path[: len(other)] == other or other[: len(path)] == path for other, _ in taken):
                part = dict(parts(SCHEMA))[path]
                together = values.merge(together, nested(path, breaking(part, key)))
                taken.append((path, key))
        todo = [entry for entry in todo if entry not in taken]
        lines = helm.render_fails(together)
        ours = [str(v) for v in schema.violations(values.complete(together))]
        for path, key in taken:
            pointer = "/".join(("", *path))
            said = [line for line in lines if f"'{pointer}'" in line]
            assert said, (path, key)
            assert re.search(r"got .*, want|must be one of", " ".join(said)), said
            assert any(line.startswith(f"{'.'.join(path)}: got ") and "; must " in line for line in ours), (path, key)
        assert not [line for line in ours if "as described" in line]


FORMATS: dict[str, Any] = {
    "nameOverride": "-a",
    "run": {"id": "a\u0001"},
    "model": {"llmPath": "relative", "checkpoint": "${a}", "visionEncoderPath": "a\nb"},
    "data": {"path": "/a/../b"},
    "storage": {
        "datasets": {"mountPath": "/a/../b", "subPath": "../x", "size": "5 TB"},
        "models": {"gpfs": {"nodePath": "gpfs"}, "mountPath": "models"},
        "results": {"gpfs": {"csi": {"volumeHandle": "x", "fsType": "XFS", "driver": "-"}, "nodeLabel": "a"}},
        "scratch": {"existingClaim": "A_b", "hostPath": "nvme"},
    },
    "image": {
        "repository": "https://a",
        "tag": "latest",
        "digest": "sha256:1",
        "pullSecrets": ["A"],
        "entrypoint": "x",
    },
    "resources": {"cpu": "80 cores", "memory": "800GB", "shmSize": "big", "gpuResourceName": "gpu"},
    "rdma": {"resourceName": "hca", "networks": ["a b"]},
    "env": {"A-B": "x"},
    "hf": {"home": "relative", "endpoint": "hub"},
    "secrets": {"huggingface": {"name": "A", "key": "a b"}, "env": {"A_TOKEN": {"name": "s", "key": "a/b"}}},
    "preflight": {"filesystems": {"data": {"type": "a b", "marker": "/x"}}},
    "prepare": {"llm": {"source": "a/b/c", "revision": "a b"}, "dataset": {"archiveFile": "../x"}},
    "scheduling": {
        "avoidNodes": ["Node_1"],
        "gpuType": {"key": "a b", "values": ["-"]},
        "tolerations": [{"key": "/", "value": "a b"}],
        "priorityClassName": "High",
        "queue": {"name": "No_Queue", "topology": {"required": "a/b/c"}},
        "kai": {"queue": "a b"},
    },
    "extraVolumes": [
        {"name": "models", "hostPath": {"path": "x"}},
        {"name": "A", "emptyDir": {"medium": "memory"}},
    ],
    "extraVolumeMounts": [{"name": "a", "mountPath": "x"}],
    "podSecurityContext": {"fsGroup": 1, "sysctls": [{"name": "Net", "value": "a\nb"}]},
    "securityContext": {
        "seccompProfile": {"localhostProfile": "/x"},
        "appArmorProfile": {"localhostProfile": "a\nb"},
        "capabilities": {"add": ["cap_x", "CAP_IPC_LOCK"], "drop": ["_"]},
    },
    "podAnnotations": {"a b": "x"},
    "wandb": {"project": "a b", "entity": "a b"},
    "tensorboard": {"image": "a:latest"},
    "monitoring": {"podMonitor": {"interval": "soon"}, "trainJobStatus": {"server": "http://trainer:10443"}},
    "networkPolicy": {
        "egress": {"Hub": {"to": [{"ipBlock": {"cidr": "10.0.0.1"}}, {"podSelector": {"matchLabels": {"a": "b c"}}}]}},
        "ingress": {"a": {"ports": [{"port": "a b"}]}},
    },
}


def leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, below in node.items():
            yield from leaves(below, f"{path}.{name}".removeprefix("."))
    elif isinstance(node, list):
        for index, below in enumerate(node):
            yield from leaves(below, f"{path}[{index}]")
    else:
        yield path


def test_u04_what_a_text_looks_like_is_said_with_an_example_by_both() -> None:
    lines = helm.render_fails(FORMATS)
    assert sorted(lines) == sorted(str(v) for v in schema.violations(values.complete(FORMATS)))
    for line in lines:
        assert re.match(r"[^:]+: got .+; must .+; (use|remove) .+", line), line
    keys = {line.split(": got ")[0] for line in lines}
    fine = {"secrets.env.A_TOKEN.name", "extraVolumeMounts[0].name"}
    named = {key for key in leaves(FORMATS) if not any(key.startswith(found) for found in keys)}
    assert named == fine
    tried = " ".join(lines)
    assert not [form["keys"] for form in chart.rules()["formats"] if form["rule"] not in tried]


def test_u04_quantities_may_be_numbers() -> None:
    given = {
        "resources": {"cpu": 128, "memory": 900000000000, "shmSize": 64000000000},
        "prepare": {"resources": {"cpu": 2}},
    }
    assert schema.violations(values.complete(given)) == []
    limits = helm.container(helm.render(given))["resources"]["limits"]
    assert (limits["cpu"], limits["memory"]) == ("128", "900000000000")


def test_k13_a_huge_list_is_refused_by_its_length_alone() -> None:
    huge = {"extraVolumes": [{"name": f"v{at}", "emptyDir": {}} for at in range(20_000)]}
    (line,) = [str(v) for v in schema.violations(values.complete(huge))]
    assert line.startswith("extraVolumes: got a list; must have at most ")
    assert any("/extraVolumes'" in found and "maxItems" in found for found in helm.render_fails(json.dumps(huge)))
