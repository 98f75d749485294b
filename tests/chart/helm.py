"""The real helm and kubeconform on the chart, as functions."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.tools import build, table

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "neva-pretrain"
KUBERNETES = table.KUBERNETES[-1]
HELMS = ("helm", "helm4")

Manifest = dict[str, Any]


@cache
def tool(name: str) -> str:
    """Path of a binary, built when it is missing."""
    return str(build.ensure(name)[0])


def parse(text: str) -> list[Manifest]:
    """All objects of a YAML stream, those of a List among them."""
    documents = [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]
    return [m for document in documents for m in (document["items"] if document["kind"] == "List" else [document])]


def template(
    values: Manifest | str | Path | None = None,
    *args: str,
    release: str = "neva",
    namespace: str = "default",
    chart: Path = CHART,
    kubernetes: str = KUBERNETES,
    client: str = "helm",
) -> subprocess.CompletedProcess[str]:
    """Run helm template; values are a map, the text of a values file or its path."""
    with tempfile.TemporaryDirectory() as folder:
        command = [tool(client), "template", release, str(chart), "--namespace", namespace]
        command += ["--kube-version", kubernetes]
        if values is not None and not isinstance(values, Path):
            file = Path(folder) / "values.yaml"
            text = values if isinstance(values, str) else json.dumps(values)  # PyYAML leaves "1e-3" unquoted
            file.write_text(text, encoding="utf-8")
            values = file
        command += ["-f", str(values)] if values else []
        return subprocess.run([*command, *args], capture_output=True, text=True, check=False)


def render_text(values: Manifest | str | Path | None = None, *args: str, **options: Any) -> str:
    """What helm template writes; a failure fails the test with helm's own words."""
    done = template(values, *args, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(values: Manifest | str | Path | None = None, *args: str, **options: Any) -> list[Manifest]:
    """The rendered manifests."""
    return parse(render_text(values, *args, **options))


def render_fails(values: Manifest | str | Path | None = None, *args: str, **options: Any) -> list[str]:
    """Lines of the refusal: the chart's ERROR lines, else what the schema says ("- at '/x': ...")."""
    done = template(values, *args, **options)
    assert done.returncode != 0, "helm accepted the values"
    assert "nil pointer" not in done.stderr, done.stderr
    lines = [line.strip() for line in done.stderr.splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return errors or [line.removeprefix("- ") for line in lines if line.startswith("- ")] or lines


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The manifests of one kind, without the hooks of a rollback."""
    return [manifest for manifest in manifests if manifest["kind"] == kind and not of_rollback(manifest)]


def pods_config_maps(manifests: list[Manifest]) -> list[Manifest]:
    """The ConfigMaps that are made for pods: all but the record of the job's kind."""
    return [each for each in of_kind(manifests, "ConfigMap") if set(each["data"]) != {"kind"}]


def of_rollback(manifest: Manifest) -> bool:
    """Whether Helm makes it for a rollback only."""
    hook = (manifest.get("metadata", {}).get("annotations") or {}).get("helm.sh/hook")
    return bool(hook == "pre-rollback")


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only manifest of a kind."""
    (manifest,) = of_kind(manifests, kind)
    return manifest


def job(manifests: list[Manifest]) -> Manifest:
    """The PyTorchJob or the TrainJob."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] in ("PyTorchJob", "TrainJob")]
    return found


def replicas(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The replica specs of a PyTorchJob by role; of a TrainJob its one template."""
    if job(manifests)["kind"] == "TrainJob":
        (node,) = one(manifests, "TrainingRuntime")["spec"]["template"]["spec"]["replicatedJobs"]
        return {"Node": node["template"]["spec"]}
    specs: dict[str, Manifest] = job(manifests)["spec"]["pytorchReplicaSpecs"]
    return specs


def pod(manifests: list[Manifest], role: str = "Master") -> Manifest:
    """The pod spec of a role."""
    spec: Manifest = replicas(manifests)[role]["template"]["spec"]
    return spec


def container(manifests: list[Manifest], role: str = "Master") -> Manifest:
    """The training container of a role."""
    (found,) = [c for c in pod(manifests, role)["containers"] if c["name"] in ("pytorch", "node")]
    return dict(found)


def config_data(manifests: list[Manifest]) -> dict[str, str]:
    """The files that the pod sees in /etc/neva."""
    maps = {m["metadata"]["name"]: m["data"] for m in of_kind(manifests, "ConfigMap")}
    pods = (pod["spec"] for pod in pod_templates([m for m in manifests if not of_rollback(m)]))
    volume = next(v for pod in pods for v in pod.get("volumes", ()) if v["name"] == "config")
    return {key: said for source in sources(volume) for key, said in maps[source["name"]].items()}


def sources(volume: Manifest) -> list[Manifest]:
    """The ConfigMaps of a volume."""
    parts = volume["projected"]["sources"] if "projected" in volume else [volume]
    return [part["configMap"] for part in parts if "configMap" in part]


def pod_templates(manifests: list[Manifest]) -> list[Manifest]:
    """Whatever has the spec of a pod, wherever it lies: with its metadata."""

    def walk(node: Any) -> Iterator[Manifest]:
        if isinstance(node, dict):
            if isinstance(node.get("spec"), dict) and isinstance(node["spec"].get("containers"), list):
                yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    return list(walk(manifests))


def project(volume: Manifest, data: Callable[[str], Mapping[str, str]], folder: Path) -> None:
    """Write the files of a volume's ConfigMaps, whose data is asked for by name."""
    for source in sources(volume):
        texts = data(source["name"])
        for item in source["items"]:
            path = folder / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[item["key"]], encoding="utf-8")


def mount(pod: Manifest, manifests: list[Manifest], volume: str, folder: Path) -> None:
    """Write a ConfigMap's files into a folder as the kubelet does: links to a dated folder that has the files."""
    (found,) = [v for v in pod["volumes"] if v["name"] == volume]
    maps = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    dated = folder / "..2026_01_01"
    project(found, maps.__getitem__, dated)
    (folder / "..data").symlink_to(dated.name)
    for path in dated.iterdir():
        (folder / path.name).symlink_to(Path("..data") / path.name)


def raw_env(manifests: list[Manifest], role: str = "Master") -> dict[str, str]:
    """Environment as the manifest has it; fields of the pod are left out."""
    return _raw_env_of(container(manifests, role))


def _raw_env_of(container: Manifest) -> dict[str, str]:
    pairs = [(entry["name"], entry["value"]) for entry in container["env"] if "value" in entry]
    assert len(pairs) == len(dict(pairs)), "a name is set twice"
    return dict(pairs)


def env(manifests: list[Manifest], role: str = "Master") -> dict[str, str]:
    """Environment as the process sees it."""
    return env_of(container(manifests, role))


def env_of(container: Manifest) -> dict[str, str]:
    """Environment as the process of a container sees it."""
    seen: dict[str, str] = {}
    for name, value in _raw_env_of(container).items():
        seen[name] = expand(value, seen)
    return seen


def expand(text: str, known: dict[str, str]) -> str:
    """The kubelet's expansion: $(NAME) of a known name, $$ is one $, everything else stays."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "$" and text[at + 1 : at + 2] == "$":
            out, at = out + "$", at + 2
        elif text.startswith("$(", at) and (end := text.find(")", at)) > 0 and text[at + 2 : end] in known:
            out, at = out + known[text[at + 2 : end]], end + 1
        else:
            out, at = out + text[at], at + 1
    return out


def notes(folder: Path, values: dict[str, Any] | None = None) -> str:
    """The notes and nothing else."""
    return str(one(render(values, chart=folder), "Notes")["text"])
