"""A kubectl double that answers from files as the API server would: by kind, namespace, selector and rights."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

Object = dict[str, Any]

KUBECTL = """#!{python}
import json, pathlib, sys
home = pathlib.Path({home!r})
with (home / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
options, words, left = {{}}, [], sys.argv[1:]
while left:
    word = left.pop(0)
    if word in ("-n", "-l", "-c"):
        options[{{"-n": "namespace", "-l": "selector", "-c": "container"}}[word]] = left.pop(0)
    elif word.startswith("-"):
        options.update([word.lstrip("-").partition("=")[::2]])
    else:
        words.append(word)
def selected(thing):
    meta = thing["metadata"]
    if "all-namespaces" not in options and meta.get("namespace", "team") != options.get("namespace", "team"):
        return False
    for term in filter(None, options.get("selector", "").split(",")):
        key, _, value = term.partition("=")
        if key not in meta.get("labels", {{}}) or value not in ("", meta["labels"][key]):
            return False
    field, _, value = options.get("field-selector", "").partition("=")
    return field != "metadata.name" or meta["name"] == value
if words[0] == "logs":
    by_label = "selector" in options
    names = [p["metadata"]["name"] for p in json.loads((home / "pods.json").read_text()) if by_label and selected(p)]
    if by_label and not names:
        sys.exit("No resources found")
    log = home / f"{{(names or words[1:])[0]}}.log"
    if not log.exists():
        sys.exit("Error from server (Forbidden): pods/log is forbidden")
    lines = log.read_text().splitlines(keepends=True)
    sys.stdout.write("".join(lines[-int(options.get("tail", 10 if by_label else len(lines) or 1)):]))
    sys.exit()
kind = words[1].split(".")[0]
file = home / f"{{kind}}.json"
if not file.exists():
    sys.exit(f"error: the server doesn't have a resource type \\"{{kind}}\\"")
answer = json.loads(file.read_text())
if isinstance(answer, str):
    sys.exit(answer)
print(json.dumps({{"items": [thing for thing in answer if selected(thing)]}}))
"""


class Cluster:
    """The files behind the double."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "cluster"
        self.bin = folder / "bin"
        for each in (self.home, self.bin):
            each.mkdir()
        script = self.bin / "kubectl"
        script.write_text(KUBECTL.format(python=sys.executable, home=str(self.home)))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.has("pods")
        self.has("events")

    def has(self, kind: str, *things: Object) -> None:
        """Make these all objects of a kind."""
        (self.home / f"{kind}.json").write_text(json.dumps(things))

    def refuses(self, kind: str) -> None:
        """Let nobody list a kind."""
        said = f'Error from server (Forbidden): {kind}.x is forbidden: User "ann" cannot list resource "{kind}"'
        (self.home / f"{kind}.json").write_text(json.dumps(said))

    def logs(self, pod: str, *lines: str) -> None:
        """Give a pod's log, each line written at some time of New Year's Day 2026."""
        text = "".join(f"2026-01-01T00:00:00.{n:09}Z {line.strip()}\n" for n, line in enumerate(lines))
        (self.home / f"{pod}.log").write_text(text)

    @property
    def calls(self) -> list[str]:
        """What kubectl was asked for."""
        file = self.home / "calls"
        return file.read_text().splitlines() if file.exists() else []


def job(name: str, release: str, condition: str = "Running", kind: str = "pytorchjob", **more: Any) -> Object:
    """A job as the chart makes it."""
    training = {"nodes": 1, "gpusPerNode": 8, "tensorParallelSize": 4, "pipelineParallelSize": 1,
                "microBatchSize": 32, "globalBatchSize": 256, "maxSteps": 100}  # fmt: skip
    told = {"model": "llama2_7b_chat", "gpus": "8", "max-steps": "100", "global-batch-size": "256",
            "tokens-per-sample": "640", "training": json.dumps(training | more.pop("training", {})),
            "plan": '{"stepSeconds": 0.5}', "image": "nemo:24.07"} | more.pop("told", {})  # fmt: skip
    return {
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": more.pop("namespace", "team"),
            "uid": name,
            "creationTimestamp": more.pop("created", "2026-01-01T00:00:00Z"),
            "labels": {"helm.sh/chart": "neva-pretrain-0.1.0", "app.kubernetes.io/instance": release},
            "annotations": {f"neva-pretrain/{key}": text for key, text in told.items()},
        },
        "spec": more,
        "status": {"conditions": [{"type": condition, "status": "True", "message": "said"}]},
    }


def master(of: str, kind: str = "pytorchjob", namespace: str = "team", **status: Any) -> Object:
    """The first pod of a job; running unless its status is given."""
    labels = {
        "pytorchjob": {"training.kubeflow.org/job-name": of, "training.kubeflow.org/replica-type": "master"},
        "trainjob": {
            "jobset.sigs.k8s.io/jobset-name": of,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": "0",
        },
    }[kind]
    container = {"name": {"pytorchjob": "pytorch", "trainjob": "node"}[kind], "state": {"running": {}}}
    return {
        "metadata": {"name": f"{of}-master-0", "namespace": namespace, "uid": of, "labels": labels},
        "spec": {"nodeName": "gpu-1"} if not status else {},
        "status": status or {"phase": "Running", "containerStatuses": [container]},
    }


NO_ROOM: Object = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/16 nodes are available"}
    ],
}
