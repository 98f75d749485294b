"""The rules of OpenShift's SCC restricted-v2, as a stand-in: an admission policy of a real API server.

OpenShift's own controller also sets what a pod leaves out (uid, fsGroup, capabilities to drop); here it stays unset.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.e2e.release import CHART, ROOT, Release, drop_volumes, provide_storage
from tests.sandbox import Sandbox

pytestmark = pytest.mark.e2e

Manifest = dict[str, Any]
EXAMPLE = ROOT / "values" / "openshift.yaml"
RANGE = "openshift.io/sa.scc.uid-range"
"""Annotation of a namespace: its first uid, and how many it has."""
SCC = {"neva.test/scc": "restricted-v2"}
"""Label of the namespaces that the stand-in is for."""

VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")


def in_range(number: str) -> str:
    return f"({number} >= variables.first && {number} < variables.first + variables.count)"


def unset_or_in_range(context: str, name: str) -> str:
    """Whether a security context names no such id, or one of the namespace."""
    found = f"{context}.?{name}"
    return f"(!{found}.hasValue() || {in_range(f'{found}.value()')})"


RULES = {
    "runAsUser is not in the namespace's range": (
        f"{unset_or_in_range('object.spec.?securityContext', 'runAsUser')} && "
        f"variables.containers.all(c, {unset_or_in_range('c.?securityContext', 'runAsUser')})"
    ),
    "fsGroup is not in the namespace's range": unset_or_in_range("object.spec.?securityContext", "fsGroup"),
    "privileges": (
        "variables.containers.all(c, !c.?securityContext.?privileged.orValue(false) && "
        "!c.?securityContext.?allowPrivilegeEscalation.orValue(false) && "
        "c.?securityContext.?capabilities.?add.orValue([]).all(a, a == 'NET_BIND_SERVICE') && "
        "c.?securityContext.?seccompProfile.?type.orValue('RuntimeDefault') == 'RuntimeDefault')"
    ),
    "the node's namespaces": (
        "!object.spec.?hostNetwork.orValue(false) && !object.spec.?hostPID.orValue(false) && "
        "!object.spec.?hostIPC.orValue(false)"
    ),
    "volumes": f"object.spec.?volumes.orValue([]).all(v, {' || '.join(f'has(v.{kind})' for kind in VOLUMES)})",
}


def every(name: str) -> str:
    """A pod's containers of a kind, of one type with those of another."""
    return f"object.spec.?{name}.orValue([]).map(c, dyn(c))"


def policy() -> list[Manifest]:
    """The SCC's rules, for pods of namespaces with its label."""
    split = f"namespaceObject.metadata.annotations['{RANGE}'].split('/')"
    api = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": {"matchLabels": SCC}},
        "variables": [
            {"name": "first", "expression": f"int({split}[0])"},
            {"name": "count", "expression": f"int({split}[1])"},
            {"name": "containers", "expression": f"{every('containers')} + {every('initContainers')}"},
        ],
        "validations": [{"message": f"restricted-v2: {name}", "expression": text} for name, text in RULES.items()],
    }
    name = {"name": "restricted-v2"}
    binding = {"policyName": "restricted-v2", "validationActions": ["Deny"]}
    return [
        {"apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": name, "spec": spec},
        {"apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding", "metadata": name, "spec": binding},
    ]


def bare(user: int) -> Manifest:
    container = {"name": "c", "image": "i", "securityContext": {"runAsUser": user}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": {"containers": [container]}}


@pytest.fixture
def release(sandbox: Sandbox) -> Iterator[Release]:
    """A namespace with a range, once the policy is in force there."""
    name = f"openshift-{uuid4().hex[:8]}"
    meta = {"name": name, "annotations": {RANGE: "1000730000/10000"}, "labels": SCC}
    sandbox.create([{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}, *policy()])

    def refuses() -> bool:
        try:
            sandbox.kubectl("create", "--dry-run=server", "-n", name, "-f", "-", stdin=yaml.safe_dump(bare(1000)))
        except Exception as error:
            return "restricted-v2: runAsUser is not in the namespace's range" in str(error)
        return False

    sandbox.wait(refuses, "the policy is in force")
    yield Release(sandbox, name)
    sandbox.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "restricted-v2")
    sandbox.kubectl("delete", "pytorchjobs,jobs,deployments,pods,pvc", "--all", "-n", name, "--wait=false")
    sandbox.kubectl("delete", "namespace", name, "--wait=false")
    drop_volumes(sandbox, name)


def test_the_example_runs_where_only_the_namespaces_users_may(sandbox: Sandbox, release: Release) -> None:
    """Every pod that a release can have: training, exporter, TensorBoard and that of helm test."""
    provide_storage(release, yaml.safe_load(EXAMPLE.read_text()))
    more = "tensorboard.enabled=true,monitoring.exporter.enabled=true"
    release.apply("install", "-f", str(EXAMPLE), "--set", more)
    sandbox.wait_for_phase("Running", 3, namespace=release.namespace)
    assert len(release.pods()) == 2
    release.helm("test", release.name, "--timeout", "1s")  # its pod is accepted; nothing ends it here
    sandbox.wait_for_phase("Running", 4, namespace=release.namespace)


def test_the_example_prepares(sandbox: Sandbox, release: Release) -> None:
    provide_storage(release, yaml.safe_load(EXAMPLE.read_text()))
    more = "prepare.enabled=true,prepare.llm.source=a/b,networkPolicy.egress.hub.ports[0].port=443"
    release.apply("install", "-f", str(EXAMPLE), "--set", more)
    sandbox.wait_for_phase("Running", 1, namespace=release.namespace)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("securityContext.runAsUser=1000", "runAsUser is not in the namespace's range"),
        ("securityContext.capabilities.add[0]=CHOWN", "privileges"),
    ],
)
def test_what_the_scc_does_not_admit_never_becomes_a_pod(
    sandbox: Sandbox, release: Release, tmp_path: Path, option: str, words: str
) -> None:
    """The policy is what keeps them out: the values above differ in nothing else."""
    provide_storage(release, yaml.safe_load(EXAMPLE.read_text()))
    done = release.helm(
        "install", release.name, str(CHART), "-f", str(EXAMPLE), "--set", f"podSecurity.enforce=,{option}"
    )
    assert done.returncode == 0, done.stderr

    def rejected() -> bool:
        events = sandbox.kubectl("get", "events", "-n", release.namespace)
        return bool(re.search(f"master-0.* is forbidden: .*restricted-v2: {words}", events))

    sandbox.wait(rejected, "master rejected")
    assert release.pods() == {}
