"""Pod Security and NetworkPolicy as the real API server and the real operator see them."""

import json
import os
import random
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from neva_pretrain.chart import values
from neva_pretrain.check import pod_security, rules
from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.chart.helm import HELMS
from tests.e2e.release import CHART, ROOT, Release, drop_volumes, names, provide_storage
from tests.sandbox import Sandbox, SandboxError
from tests.tools import ensure
from tests.tools import path as tool_path

pytestmark = pytest.mark.e2e

Manifest = dict[str, Any]
LEVELS = ("baseline", "restricted")
NON_ROOT: Manifest = {"runAsNonRoot": True, "runAsUser": 1000}
RESTRICTED: Manifest = {"fabric": "tcp", "securityContext": NON_ROOT}
TWO_NODES: Manifest = {"training": {"nodes": 2, "globalBatchSize": 512}}
(OPERATOR_TEMPLATE,) = re.findall(
    r"^```yaml\n(- name: init-pytorch\n.*?)^```", (ROOT / "docs/reference/security.md").read_text(), re.M | re.S
)
FLAG = "--pytorch-init-container-template-file"


def accepts(port: int) -> bool:
    """Whether something listens there; an error says that nothing does yet."""
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True


def labelled(sandbox: Sandbox, level: str) -> str:
    """Make a namespace that enforces a level."""
    name = f"{level}-{uuid4().hex[:8]}"
    meta = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}
    sandbox.create([{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}])
    sandbox.wait(lambda: "default" in names(sandbox.get("serviceaccounts", namespace=name)["items"]), "service account")
    return name


def cleared(sandbox: Sandbox, name: str) -> None:
    sandbox.kubectl("delete", "pytorchjobs,jobs,pods,pvc", "--all", "-n", name, "--wait=false")
    sandbox.kubectl("delete", "namespace", name, "--wait=false")
    drop_volumes(sandbox, name)


@pytest.fixture(params=HELMS)
def enforcing(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Release]]:
    """Make releases in namespaces of their own that enforce a level."""
    made: list[str] = []
    ensure(request.param)

    def make(level: str) -> Release:
        made.append(labelled(sandbox, level))
        return Release(sandbox, made[-1], client=request.param)

    yield make
    for name in made:
        cleared(sandbox, name)


def write(folder: Path, partial: Manifest) -> str:
    file = folder / "values.yaml"
    file.write_text(json.dumps(partial))
    return str(file)


def install(release: Release, folder: Path, partial: Manifest) -> str:
    """Install and return the line of the notes."""
    notes = release.apply("install", "-f", write(folder, partial))
    (line,) = re.findall(r"Pod Security: (.*)", notes)
    return str(line)


# What the notes claim against what the API server's admission accepts.

APPARMOR = "container.apparmor.security.beta.kubernetes.io/pytorch"
ONE_BREAK: list[Manifest] = [
    {},
    {"fabric": "ib"},
    {"fabric": "ib", "securityContext": {"capabilities": {"add": []}}},
    {"hostNetwork": True, "rendezvous": {"port": 24000}},
    {"storage": {"scratch": {"hostPath": "/nvme"}}},
    {"storage": {"scratch": {"existingClaim": "c"}}},
    {"extraVolumes": [{"name": "a", "hostPath": {"path": "/x"}}]},
    {"extraVolumes": [{"name": "a", "nfs": {"server": "s", "path": "/x"}}]},
    {"extraVolumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s"}}]},
    {"podAnnotations": {APPARMOR: "unconfined"}},
    {"podAnnotations": {APPARMOR: "localhost/x"}},
    {"podAnnotations": {APPARMOR: "runtime/default"}},
    *(
        {where: part}
        for where in ("podSecurityContext", "securityContext")
        for part in (
            {"runAsUser": 0},
            {"runAsNonRoot": False},
            {"seccompProfile": {"type": "Unconfined"}},
            {"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}},
            {"appArmorProfile": {"type": "Unconfined"}},
            {"appArmorProfile": {"type": "RuntimeDefault"}},
            {"seLinuxOptions": {"level": "s0:c1,c2"}},
            {"seLinuxOptions": {"type": "spc_t"}},
            {"seLinuxOptions": {"type": "container_t"}},
            {"seLinuxOptions": {"user": "system_u"}},
            {"seLinuxOptions": {"role": "system_r"}},
        )
    ),
    {"podSecurityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
    {"podSecurityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}},
    {"podSecurityContext": NON_ROOT, "securityContext": {"runAsNonRoot": None, "runAsUser": None}},
    {"securityContext": {"runAsNonRoot": None}},
    {"securityContext": {"allowPrivilegeEscalation": True}},
    {"securityContext": {"privileged": True}},
    {"securityContext": {"privileged": True, "allowPrivilegeEscalation": True}},
    {"securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}}},
    {"securityContext": {"capabilities": {"add": ["CHOWN"]}}},
    {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}},
    {"securityContext": {"capabilities": {"drop": []}}},
    {"securityContext": {"capabilities": {"drop": ["CHOWN", "ALL"]}}},
    {"prepare": {"enabled": True, "llm": {"source": "a/b"}}, "fabric": "ib"},
    TWO_NODES,
    {**TWO_NODES, "podSecurity": {"operatorInitContainer": True}},
]


def overlaid(base: Manifest, over: Manifest) -> Manifest:
    """Merge deeply; null takes a key away."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = overlaid(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def combinations() -> list[Manifest]:
    """Each break alone on what meets restricted, and chance mixtures of them."""
    chance = random.Random(20)  # noqa: S311 - the same mixtures each time
    cases = [deepcopy(overlaid(RESTRICTED, one)) for one in ONE_BREAK]
    for _ in range(24):
        mixed = RESTRICTED if chance.random() < 0.7 else {}
        for one in chance.sample(ONE_BREAK, chance.randint(2, 4)):
            mixed = overlaid(mixed, one)
        cases.append(deepcopy(mixed))
    for case in cases:
        if any(v.key.endswith(".runAsUser") for v in rules.violations(Facts.of(case))):  # else refused, at any level
            for where in ("podSecurityContext", "securityContext"):
                case.get(where, {}).pop("runAsNonRoot", None)
        if APPARMOR in case.get("podAnnotations", {}):  # where both are, they must say the same
            for where in ("podSecurityContext", "securityContext"):
                case.get(where, {}).pop("appArmorProfile", None)
    return cases


def templates(node: Any, role: str = "") -> Iterator[tuple[str, Manifest]]:
    """Every pod and pod template in a render, with the last key of its own above it."""
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield role, node
            return
        for key, value in node.items():
            yield from templates(value, role if key in ("template", "spec") else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from templates(value, role)


def rendered_pods(partial: Manifest) -> list[Manifest]:
    """Every pod of a release, the workers with what the operator appends."""
    found = []
    for role, template in templates(helm.render(overlaid(partial, {"serviceAccount": {"create": False}}))):
        spec = template["spec"]
        if role == "Worker":
            own = [{"name": "init-pytorch", "image": "alpine:3.10"}]
            fixed = yaml.safe_load(re.sub(r"\{\{\.(\w+)\}\}", r"\1", OPERATOR_TEMPLATE))
            trusted = partial.get("podSecurity", {}).get("operatorInitContainer")
            spec["initContainers"] = fixed if trusted else own
        found.append({"metadata": {"annotations": template["metadata"].get("annotations")}, "spec": spec})
    assert found
    return found


def test_the_level_that_is_claimed_is_the_level_that_is_accepted(sandbox: Sandbox) -> None:
    """All pods of each combination, created on the server (dry run) in namespaces that enforce baseline, restricted."""
    cases, pods = combinations(), []
    for index, case in enumerate(cases):
        for number, pod in enumerate(rendered_pods(case)):
            # The beta annotation is for the container of training only.
            if not any(c["name"] == "pytorch" for c in pod["spec"]["containers"]):
                pod["metadata"] = {}
            pod["metadata"]["name"] = f"case-{index}-{number}"
            pods.append({"apiVersion": "v1", "kind": "Pod", **pod})
    refused: dict[str, set[int]] = {}
    for level in LEVELS:
        namespace = labelled(sandbox, level)
        try:
            refused[level] = refusals(sandbox, namespace, level, pods)
        finally:
            cleared(sandbox, namespace)
    wrong = []
    for index, case in enumerate(cases):
        broken = {b.level for b in pod_security.pod_security_breaks(values.complete(case))}
        claimed = {"baseline": "baseline" in broken, "restricted": bool(broken)}
        real = {level: index in refused[level] for level in LEVELS}
        if claimed != real:
            wrong.append((case, claimed, real))
    assert not wrong
    assert 10 < len(refused["baseline"]) < len(refused["restricted"]) < len(cases) - 10


def refusals(sandbox: Sandbox, namespace: str, level: str, pods: list[Manifest]) -> set[int]:
    """Return the cases of which the server refuses a pod, for its level and for nothing else."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
    said = ""
    try:
        sandbox.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=text)
    except SandboxError as error:
        said = str(error)
    lines = [line for line in said.splitlines() if "Error" in line]  # the others warn
    violation = re.compile(rf'pods "case-(\d+)-\d+" is forbidden: violates PodSecurity "{level}:latest"')
    found = [violation.search(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {int(match[1]) for match in found if match}


# The real operator in such namespaces.


def test_baseline_accepts_a_job_without_rdma(enforcing: Callable[[str], Release], tmp_path: Path) -> None:
    release = enforcing("baseline")
    partial = {**TWO_NODES, "fabric": "tcp", "podSecurity": {"enforce": "baseline"}}
    assert install(release, tmp_path, partial).startswith("meets baseline; restricted is broken by ")
    release.wait_for("Running")
    release.sandbox.wait_for_phase("Running", 2, namespace=release.namespace)


def test_restricted_accepts_a_job_of_one_node(enforcing: Callable[[str], Release], tmp_path: Path) -> None:
    release = enforcing("restricted")
    partial = {**RESTRICTED, "podSecurity": {"enforce": "restricted"}}
    assert install(release, tmp_path, partial) == "meets restricted"
    release.wait_for("Running")
    done = release.helm("test", "neva", "--timeout", "1s")  # its pod is accepted; nothing ends it here
    assert "violates PodSecurity" not in done.stderr
    release.sandbox.wait_for_phase("Running", 2, namespace=release.namespace)


def test_restricted_accepts_prepare(enforcing: Callable[[str], Release], tmp_path: Path) -> None:
    release = enforcing("restricted")
    prepare = {"enabled": True, "llm": {"source": "a/b"}}
    assert install(release, tmp_path, {"securityContext": NON_ROOT, "prepare": prepare}) == "meets restricted"
    release.sandbox.wait_for_phase("Running", 1, namespace=release.namespace)


def test_restricted_rejects_what_the_notes_say_it_does(enforcing: Callable[[str], Release], tmp_path: Path) -> None:
    """Workers never come, for the init container that the operator appends; podSecurity.enforce refuses it before."""
    release = enforcing("restricted")
    partial = {**RESTRICTED, **TWO_NODES}
    refused = release.helm("install", "neva", str(CHART), "-f", write(tmp_path, overlaid(partial, ENFORCED)))
    assert "ERROR: podSecurity.operatorInitContainer: got false; must be true where" in refused.stderr
    line = install(release, tmp_path, partial)
    assert line == "meets baseline; restricted is broken by podSecurity.operatorInitContainer"

    def rejected() -> bool:
        events = release.sandbox.kubectl("get", "events", "-n", release.namespace)
        return bool(re.search(r'worker-0" is forbidden: violates PodSecurity "restricted.*init-pytorch', events))

    release.sandbox.wait(rejected, "worker rejected")


ENFORCED: Manifest = {"podSecurity": {"enforce": "restricted"}}


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A control plane whose operator has the init container from docs/reference/security.md."""
    with Sandbox.up(folder=tmp_path_factory.mktemp("careful"), nodes=4) as box:
        template = box.folder / "initContainer.yaml"
        template.write_text(OPERATOR_TEMPLATE)
        (operator,) = [p for p in box.processes() if p.command == tool_path("training-operator").name]
        here = Path("/proc") / str(operator.pid)
        _, *arguments = (here / "cmdline").read_text().strip("\0").split("\0")
        environment = dict(pair.split("=", 1) for pair in (here / "environ").read_text().strip("\0").split("\0"))
        os.kill(operator.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(operator.pid, 0)
        box.start("training-operator", *arguments, f"{FLAG}={template}", env=environment)
        (port,) = [int(a.rpartition("=")[2]) for a in arguments if a.startswith("--webhook-server-port=")]
        box.wait(partial(accepts, port), "webhook")
        yield box


def test_restricted_accepts_the_example_with_the_documented_operator(careful: Sandbox) -> None:
    file = ROOT / "values" / "restricted.yaml"
    release = Release(careful, labelled(careful, "restricted"))
    nodes = yaml.safe_load(file.read_text())["training"]["nodes"]
    provide_storage(release, yaml.safe_load(file.read_text()))
    assert "Pod Security: meets restricted\n" in release.apply("install", "-f", str(file))
    release.wait_for("Running")
    careful.wait_for_phase("Running", nodes, namespace=release.namespace)
    worker = next(pod for name, pod in release.pods().items() if name.endswith("worker-0"))
    context = {c["name"]: c["securityContext"] for c in worker["spec"]["initContainers"]}["init-pytorch"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not any("add" in (c["securityContext"]["capabilities"]) for c in worker["spec"]["containers"])


# NetworkPolicy: accepted and stored here, not enforced; what it selects is looked up among the real pods.


def test_policies_are_accepted_and_select_the_pods_of_the_release_only(
    sandbox: Sandbox, namespace: str, tmp_path: Path
) -> None:
    policy: Manifest = {
        "enabled": True,
        "egress": {"hub": {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}},
        "ingress": {"metrics": {"from": [{"namespaceSelector": {}}]}},
    }
    release, other = Release(sandbox, namespace), Release(sandbox, namespace, "other")
    for one in (release, other):
        install(one, tmp_path, {**TWO_NODES, "networkPolicy": policy})
        one.wait_for("Running")
    release.helm("test", "neva", "--timeout", "1s")
    items = {m["metadata"]["name"]: m for m in sandbox.get("networkpolicies", namespace=namespace)["items"]}
    assert set(items) == {f"{r}{p}" for r in ("neva", "other") for p in ("", "-egress-hub", "-ingress-metrics")}
    selector = ",".join(f"{k}={v}" for k, v in items["neva"]["spec"]["podSelector"]["matchLabels"].items())
    selected = names(sandbox.pods(selector, namespace))
    assert set(selected) == {*release.pods(), f"{release.job()['metadata']['name']}-test"}
    assert len(selected) == 3
    release.uninstall()
    assert not [n for n in names(sandbox.get("networkpolicies", namespace=namespace)["items"]) if n.startswith("neva")]
