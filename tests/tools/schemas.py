"""Write the JSON schemas that kubeconform needs offline: ``python -m tests.tools.schemas``.

Sources are the OpenAPI document of Kubernetes itself and the CRDs of the operators, each fetched
as a Go module at a pinned version into a temporary module cache that is deleted afterwards.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.tools.build import ToolError
from tests.tools.table import GROUPS, KUBERNETES

Schema = dict[str, Any]

KINDS = (
    ("v1", "ConfigMap"),
    ("v1", "Namespace"),
    ("v1", "PersistentVolume"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("scheduling.k8s.io/v1", "PriorityClass"),
    ("storage.k8s.io/v1", "StorageClass"),
)


@dataclass(frozen=True)
class Crds:
    """CRD files of one module."""

    module: str
    version: str
    folder: str
    files: tuple[str, ...]


CRDS = (
    Crds(
        GROUPS["training-operator"].module,
        GROUPS["training-operator"].version,
        "manifests/base/crds",
        ("kubeflow.org_pytorchjobs.yaml",),
    ),
    Crds(
        GROUPS["trainer"].module,
        GROUPS["trainer"].version,
        "manifests/base/crds",
        (
            "trainer.kubeflow.org_clustertrainingruntimes.yaml",
            "trainer.kubeflow.org_trainingruntimes.yaml",
            "trainer.kubeflow.org_trainjobs.yaml",
        ),
    ),
    Crds(
        GROUPS["kueue"].module,
        GROUPS["kueue"].version,
        "config/components/crd/bases",
        (
            "kueue.x-k8s.io_clusterqueues.yaml",
            "kueue.x-k8s.io_localqueues.yaml",
            "kueue.x-k8s.io_resourceflavors.yaml",
            "kueue.x-k8s.io_topologies.yaml",
            "kueue.x-k8s.io_workloadpriorityclasses.yaml",
        ),
    ),
    Crds(
        GROUPS["scheduler-plugins"].module,
        GROUPS["scheduler-plugins"].version,
        "config/crd/bases",
        ("scheduling.x-k8s.io_podgroups.yaml",),
    ),
    Crds(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml"),
    ),
)

# The definition of a quantity as controller-gen writes it into CRDs.
QUANTITY: Schema = {
    "type": ["integer", "number", "string"],
    "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
}
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
SPECIAL: dict[str, Schema] = {"io.k8s.apimachinery.pkg.api.resource.Quantity": QUANTITY}

# Keywords that say something about a value; the rest is prose or hints for the API server.
PLAIN_KEYWORDS = (
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "required",
)


def convert(node: Schema, *, closed: bool = True) -> Schema:
    """Turn one OpenAPI schema into a strict JSON schema without prose.

    ``closed`` forbids unknown fields; it is off below ``anyOf`` and its like, whose branches name
    only some of the fields.
    """
    if "$ref" in node:
        return {"$ref": node["$ref"].replace("io.k8s.", "", 1)}
    if node.get("x-kubernetes-int-or-string") or node.get("format") == "int-or-string":
        keep = {key: node[key] for key in ("pattern",) if key in node}
        # A quantity is an int-or-string with a pattern, and 1.5 is one.
        number = "number" if keep else "integer"
        return {"type": [number, "string"], **keep}
    out: Schema = {key: node[key] for key in PLAIN_KEYWORDS if key in node}
    if node.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in node:
            out[key] = [convert(branch, closed=False) for branch in node[key]]
    if "not" in node:
        out["not"] = convert(node["not"], closed=False)
    if "items" in node:
        out["items"] = convert(node["items"], closed=closed)
    if "properties" in node:
        out["properties"] = {name: convert(value, closed=closed) for name, value in node["properties"].items()}
    extra = node.get("additionalProperties")
    if isinstance(extra, dict):
        out["additionalProperties"] = convert(extra, closed=closed)
    elif closed and "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def with_definitions(root: Schema, definitions: dict[str, Schema]) -> Schema:
    """Add the definitions that ``root`` refers to, directly or not, and no others."""
    needed: dict[str, Schema] = {}
    open_ends = [root]
    while open_ends:
        for name in _references(open_ends.pop()):
            if name not in needed:
                full = f"io.k8s.{name}"
                needed[name] = SPECIAL.get(full) or convert(definitions[full])
                open_ends.append(needed[name])
    ordered = {name: needed[name] for name in sorted(needed)}
    return {**root, "definitions": ordered} if ordered else root


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"].removeprefix("#/definitions/")] if "$ref" in node else []
        return own + [name for value in node.values() for name in _references(value)]
    if isinstance(node, list):
        return [name for value in node for name in _references(value)]
    return []


def resource(schema: Schema, api_version: str, kind: str) -> Schema:
    """Convert a whole resource as a chart writes it: no status, its own kind, real metadata."""
    out = convert(schema)
    out["properties"].pop("status", None)
    out["properties"]["apiVersion"] = {"const": api_version}
    out["properties"]["kind"] = {"const": kind}
    meta = OBJECT_META.removeprefix("io.k8s.")
    out["properties"]["metadata"] = {"$ref": f"#/definitions/{meta}"}
    required = set(out.get("required", [])) - {"status"}
    out["required"] = sorted(required | {"apiVersion", "kind", "metadata"})
    return {"$schema": "http://json-schema.org/draft-07/schema#", **out}


def kubernetes_schemas(definitions: dict[str, Schema]) -> dict[str, Schema]:
    """Schemas of the built-in kinds, keyed by kubeconform's file name."""
    by_kind = {
        (f"{gvk['group']}/{gvk['version']}".lstrip("/"), gvk["kind"]): schema
        for schema in definitions.values()
        for gvk in schema.get("x-kubernetes-group-version-kind", [])
        if "properties" in schema
    }
    out = {}
    for api_version, kind in KINDS:
        suffix = "-".join(part.partition(".")[0] for part in api_version.split("/"))
        schema = resource(by_kind[api_version, kind], api_version, kind)
        out[f"{kind.lower()}-{suffix}.json"] = with_definitions(schema, definitions)
    return out


def crd_schemas(crd: Schema, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """Schemas of every served version of one CRD, keyed by path below ``crds``."""
    group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
    out = {}
    for version in crd["spec"]["versions"]:
        if version["served"]:
            name = version["name"]
            schema = resource(version["schema"]["openAPIV3Schema"], f"{group}/{name}", kind)
            out[f"{group}/{kind.lower()}_{name}.json"] = with_definitions(schema, definitions)
    return out


def fetch(module: str, version: str, cache: Path) -> Path:
    """Download one module into ``cache`` and return its folder."""
    print(f"schemas: fetching {module} {version}", file=sys.stderr, flush=True)
    command = ["go", "mod", "download", "-json", f"{module}@{version}"]
    env = {**os.environ, "GOMODCACHE": str(cache), "GOFLAGS": "-modcacherw", "GOWORK": "off"}
    done = subprocess.run(command, cwd=cache, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(f"{module} {version}: {done.stderr.strip() or done.stdout.strip()}")
    return Path(json.loads(done.stdout)["Dir"])


def openapi(version: str) -> dict[str, Schema]:
    """Definitions in the OpenAPI document of one Kubernetes version."""
    with tempfile.TemporaryDirectory(prefix="neva-schemas-") as cache:
        module = fetch("k8s.io/kubernetes", f"v{version}", Path(cache))
        text = (module / "api/openapi-spec/swagger.json").read_text(encoding="utf-8")
    definitions: dict[str, Schema] = json.loads(text)["definitions"]
    return definitions


def write(folder: Path, schemas: dict[str, Schema]) -> None:
    """Write compact files, one a schema."""
    for name, schema in schemas.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(schema, separators=(",", ":"), sort_keys=False)
        target.write_text(text + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write all schemas below the given folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.schemas", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("schemas"))
    folder = parser.parse_args(argv).folder
    try:
        definitions: dict[str, Schema] = {}
        for version in KUBERNETES:
            definitions = openapi(version)
            write(folder / "kubernetes" / f"v{version}", kubernetes_schemas(definitions))
        with tempfile.TemporaryDirectory(prefix="neva-schemas-") as cache:
            for source in CRDS:
                module = fetch(source.module, source.version, Path(cache))
                for file in source.files:
                    text = (module / source.folder / file).read_text(encoding="utf-8")
                    write(folder / "crds", crd_schemas(yaml.safe_load(text), definitions))
    except ToolError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
