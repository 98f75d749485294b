"""What the values name and the chart does not make; the twin of ``templates/_references.tpl``."""

from collections.abc import Iterator
from typing import NamedTuple

from neva_pretrain.chart.access import VOLUMES, Values, mapping, preparing, section, text
from neva_pretrain.check.network import downloads
from neva_pretrain.check.storage import shared_volumes, storage_sources

KINDS = {
    "configmap": "ConfigMap",
    "localqueues.kueue.x-k8s.io": "LocalQueue",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "priorityclass": "PriorityClass",
    "secret": "Secret",
    "serviceaccount": "ServiceAccount",
    "storageclass": "StorageClass",
    "workloadpriorityclasses.kueue.x-k8s.io": "WorkloadPriorityClass",
}
"""What the resources are called, as kubectl takes them."""


class Reference(NamedTuple):
    """An object that must be there before pods can start.

    Attributes:
        value: the value that names it.
        resource: its resource, as kubectl takes it.
        name: its name.
        of_cluster: it has no namespace.
        key: of a Secret: the key that is read, empty for all of them.

    """

    value: str
    resource: str
    name: str
    of_cluster: bool = False
    key: str = ""

    def __str__(self) -> str:
        """Return it as kubectl takes it."""
        return f"{self.resource}/{self.name}"


def references(values: Values) -> list[Reference]:
    """Return them, those of one object by all values that name it."""
    return [found for found in _references(values) if found.name]


def _references(values: Values) -> Iterator[Reference]:
    yield from _secrets(values)
    yield from _claims(values)
    for index, volume in enumerate(values.get("extraVolumes") or []):
        source = mapping(volume, "configMap")
        if not source.get("optional"):
            yield Reference(f"extraVolumes[{index}]", "configmap", text(source.get("name")))
    account, scheduling = section(values, "serviceAccount"), section(values, "scheduling")
    queue = section(scheduling, "queue")
    if not account.get("create"):
        yield Reference("serviceAccount.name", "serviceaccount", account.get("name") or "")
    yield Reference("scheduling.queue.name", "localqueues.kueue.x-k8s.io", queue.get("name") or "")
    for name in VOLUMES:
        class_name = values["storage"][name].get("storageClassName") or ""
        yield Reference(f"storage.{name}.storageClassName", "storageclass", class_name, of_cluster=True)
    yield Reference(
        "scheduling.queue.priorityClass",
        "workloadpriorityclasses.kueue.x-k8s.io",
        queue.get("priorityClass") or "",
        of_cluster=True,
    )
    priority = scheduling.get("priorityClassName") or ""
    yield Reference("scheduling.priorityClassName", "priorityclass", priority, of_cluster=True)


def _secrets(values: Values) -> Iterator[Reference]:
    for index, name in enumerate(section(values, "image").get("pullSecrets") or []):
        yield Reference(f"image.pullSecrets[{index}]", "secret", name)
    keys, wandb = section(values, "secrets"), section(values, "wandb")
    if not preparing(values) and wandb.get("enabled") and wandb.get("mode") == "online":
        yield _secret("secrets.wandb", section(keys, "wandb"))
    if downloads(values) if preparing(values) else section(values, "hf").get("online"):
        yield _secret("secrets.huggingface", section(keys, "huggingface"))
    for name, secret in sorted(section(keys, "env").items()):
        yield _secret(f"secrets.env.{name}", secret)
    for index, volume in enumerate(values.get("extraVolumes") or []):
        source = mapping(volume, "secret")
        if not source.get("optional"):
            yield Reference(f"extraVolumes[{index}]", "secret", text(source.get("secretName")))


def _secret(value: str, secret: Values) -> Reference:
    return Reference(f"{value}.name", "secret", secret.get("name") or "", key=secret.get("key") or "")


def _claims(values: Values) -> Iterator[Reference]:
    for name in VOLUMES:
        if storage_sources(values["storage"][name]) == ["existingClaim"]:
            claim = shared_volumes(values)[name].claim
            yield Reference(f"storage.{name}.existingClaim", "persistentvolumeclaim", claim)
    for index, volume in enumerate(values.get("extraVolumes") or []):
        claim = text(mapping(volume, "persistentVolumeClaim").get("claimName"))
        yield Reference(f"extraVolumes[{index}]", "persistentvolumeclaim", claim)
