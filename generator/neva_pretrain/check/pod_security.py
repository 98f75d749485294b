"""Which level of the Pod Security Standard the pods of a release meet, in the order and words of the chart.

The twin of ``templates/_security.tpl``: values in, breaks out. Tests hold both against a real API server's admission.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from neva_pretrain import chart
from neva_pretrain.chart.access import VOLUMES, Values, preparing, rdma_enabled, section, text

CONTEXTS = ("podSecurityContext", "securityContext")
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
SAFE_PROFILES = ("RuntimeDefault", "Localhost")


class Break(NamedTuple):
    """One value that breaks a level."""

    level: Literal["baseline", "restricted"]
    key: str
    got: str
    rule: str
    fix: str


def pod_security_breaks(values: Values) -> Iterator[Break]:
    """Yield what breaks baseline, and what breaks restricted only."""
    trains = not preparing(values)
    if values.get("hostNetwork"):
        yield Break("baseline", "hostNetwork", "true", "be false", "use false")
    yield from _volumes(values)
    yield from _annotations(values)
    for where in CONTEXTS:
        yield from _either_context(where, section(values, where))
    yield from _container(values, trains=trains)
    workers = values["training"]["nodes"] > 1 and values["job"]["kind"] == "PyTorchJob"
    if trains and workers and not section(values, "podSecurity").get("operatorInitContainer"):
        yield Break(
            "restricted",
            "podSecurity.operatorInitContainer",
            "false",
            "be true",
            "give the operator the init container from docs/reference/security.md, since its own has no "
            "security context, and use true",
        )


def _standard(name: str) -> list[str]:
    listed: list[str] = chart.rules()["podSecurity"][name]
    return listed


def _volumes(values: Values) -> Iterator[Break]:
    for name in VOLUMES:
        if path := values["storage"][name].get("hostPath"):
            fix = "use gpfs.nodePath, which pods mount through a claim"
            yield Break("baseline", f"storage.{name}.hostPath", path, "be empty", fix)
    allowed = _standard("restrictedVolumes")
    for index, volume in enumerate(values.get("extraVolumes") or []):
        for kind in sorted(key for key, value in volume.items() if key != "name" and value is not None):
            key = f"extraVolumes[{index}]"
            if kind == "hostPath":
                yield Break("baseline", key, kind, "not be a folder on the node", "use a claim")
            elif kind not in allowed:
                yield Break("restricted", key, kind, f"be one of {', '.join(allowed)}", "use a claim")


def _annotations(values: Values) -> Iterator[Break]:
    for name, value in sorted(section(values, "podAnnotations").items()):
        profile = text(value)
        if (
            name.startswith(APPARMOR)
            and profile not in ("", "runtime/default")
            and not profile.startswith("localhost/")
        ):
            rule = "be runtime/default or localhost/..."
            yield Break("baseline", f"podAnnotations.{name}", profile, rule, "use runtime/default")


def _either_context(where: str, context: Mapping[str, Any]) -> Iterator[Break]:
    """Yield what is said alike of pods and of containers."""
    for profile in ("appArmorProfile", "seccompProfile"):
        kind = (context.get(profile) or {}).get("type")
        if kind and kind not in SAFE_PROFILES:
            rule = "be RuntimeDefault or Localhost"
            yield Break("baseline", f"{where}.{profile}.type", kind, rule, "use RuntimeDefault")
    label, types = context.get("seLinuxOptions") or {}, _standard("seLinuxTypes")
    fix = "use seLinuxOptions.level alone"
    if label.get("type") and label["type"] not in types:
        rule = f"be one of {', '.join(types)}"
        yield Break("baseline", f"{where}.seLinuxOptions.type", label["type"], rule, fix)
    for part in ("user", "role"):
        if label.get(part):
            yield Break("baseline", f"{where}.seLinuxOptions.{part}", label[part], "be unset", fix)
    for parameter in context.get("sysctls") or []:
        if parameter["name"] not in _standard("sysctls"):
            rule = "hold safe kernel parameters only"
            yield Break("baseline", f"{where}.sysctls", parameter["name"], rule, "remove it")
    if context.get("runAsUser") == 0:
        yield Break("restricted", f"{where}.runAsUser", "0", "not be root", "use a non-root user of the image")


def _container(values: Values, *, trains: bool) -> Iterator[Break]:
    pod, context = section(values, "podSecurityContext"), section(values, "securityContext")
    if context.get("privileged"):
        yield Break("baseline", "securityContext.privileged", "true", "be false", "use false")
    yield from _capabilities(values, context.get("capabilities") or {}, trains=trains)
    if context.get("allowPrivilegeEscalation"):
        yield Break("restricted", "securityContext.allowPrivilegeEscalation", "true", "be false", "use false")
    pods, containers = pod.get("runAsNonRoot"), context.get("runAsNonRoot")
    if pods is False or not (pods if containers is None else containers):
        yield Break(
            "restricted",
            f"{'podSecurityContext' if pods is False else 'securityContext'}.runAsNonRoot",
            "nothing" if pods is None and containers is None else "false",
            "be true",
            "use true, and runAsUser of an image that runs as that user",
        )


def _capabilities(values: Values, capabilities: Mapping[str, Any], *, trains: bool) -> Iterator[Break]:
    added, restricted = capabilities.get("add"), _standard("restrictedCapabilities")
    if added is not None:
        for name in added:
            key = "securityContext.capabilities.add"
            if name not in _standard("capabilities"):
                yield Break("baseline", key, name, "hold only what containers have by default", "remove it")
            elif name not in restricted:
                yield Break("restricted", key, name, f"hold only {', '.join(restricted)}", "remove it")
    elif trains and rdma_enabled(values):
        yield Break(
            "baseline",
            "rdma.enabled",
            "true",
            "be false, since RDMA adds the capability IPC_LOCK,",
            "use fabric tcp, or securityContext.capabilities.add [] where the runtime's memlock limit is unlimited",
        )
    dropped = capabilities.get("drop")
    if dropped is not None and "ALL" not in dropped:
        got = ", ".join(dropped) or "nothing"
        yield Break("restricted", "securityContext.capabilities.drop", got, "hold ALL", "use [ALL]")
