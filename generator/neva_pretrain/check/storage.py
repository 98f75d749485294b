"""Volumes, mounts and the paths on them."""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from neva_pretrain import chart
from neva_pretrain.chart.access import READ_ONLY_VOLUMES, VOLUMES, Values, mapping, preparing, read_only, section, text
from neva_pretrain.errors import Violation
from neva_pretrain.facts import PREPARE_STEPS, Facts, below

CSI_DRIVER = "spectrumscale.csi.ibm.com"
CHART_MOUNTS = ("/etc/neva", "/dev/shm")  # noqa: S108 (a mount, not a file)
SYSTEM_PATHS = ("/dev", "/etc", "/opt", "/usr", "/proc", "/sys")


def storage_sources(volume: Mapping[str, Any]) -> list[str]:
    """Return the sources that a volume of ``storage`` names; null, "" and {} name none."""
    gpfs = mapping(volume, "gpfs")
    named = {
        "existingClaim": volume.get("existingClaim"),
        "gpfs.nodePath": gpfs.get("nodePath"),
        "gpfs.csi": [key for key, value in mapping(gpfs, "csi").items() if value is not None],
        "storageClassName": volume.get("storageClassName"),
        "hostPath": volume.get("hostPath"),
    }
    return [name for name, value in named.items() if value]


def node_path(values: Values, name: str) -> str | None:
    """Return the folder of the node that a volume is; where no source is named, the source document's."""
    volume = values["storage"][name]
    named: str | None = mapping(volume, "gpfs").get("nodePath")
    default: str | None = chart.rules()["defaultNodePaths"].get(name)
    return named if storage_sources(volume) else default


class Shared(NamedTuple):
    """The claim by which pods have a volume of ``storage``, and the volume that it is made for."""

    claim: str
    owner: str


def shared_volumes(values: Values) -> dict[str, Shared]:
    """Return by name which volumes are one, in the order of ``VOLUMES``.

    The kubelet mounts a CSI handle once in a pod and waits forever for a second volume of it (N04). A claim is empty
    where there is none, and where its name begins with a release's, which values do not tell.
    """
    handles: dict[tuple[str, str], str] = {}
    shared = {}
    for name in VOLUMES:
        volume, owner = values["storage"][name], name
        csi = mapping(volume, "gpfs", "csi")
        if handle := csi.get("volumeHandle"):
            owner = handles.setdefault((csi.get("driver") or CSI_DRIVER, handle), name)
        claim = ""
        if (storage_sources(volume) or node_path(values, name)) and not volume.get("hostPath"):
            full = values.get("fullnameOverride")
            claim = volume.get("existingClaim") or (f"{full}-{owner}" if full else "")
        shared[name] = Shared(claim, owner)
    return shared


def _static(volume: Mapping[str, Any]) -> object:
    """Return what a static CSI volume is beside its handle."""
    csi = mapping(volume, "gpfs", "csi")
    attributes = {key: text(value) for key, value in mapping(csi, "volumeAttributes").items() if value is not None}
    label = mapping(volume, "gpfs").get("nodeLabel") or ""
    return csi.get("fsType") or "gpfs", label, volume.get("size") or "1Ti", attributes


def is_below(path: str, mount: str) -> bool:
    """Return whether a path is a mount point or lies below it."""
    return path == mount or path.startswith(f"{mount}/")


def leaves(path: str) -> bool:
    """Return whether a path of the values may lie elsewhere than below its folder."""
    return path.startswith("/") or ".." in path.split("/")


def check_storage(facts: Facts) -> Iterator[Violation]:
    """Each volume has one source and a mount path of its own."""
    values = facts.shaped
    seen: dict[str, str] = {}
    for name in VOLUMES:
        volume = values["storage"][name]
        sources = storage_sources(volume)
        if len(sources) > 1:
            yield Violation(
                f"storage.{name}", " and ".join(sources), "must have exactly one source", "remove the others"
            )
        if "gpfs.csi" in sources and mapping(volume, "gpfs", "csi").get("volumeHandle") is None:
            yield Violation(
                f"storage.{name}.gpfs.csi.volumeHandle",
                "nothing",
                "must be set with the rest of gpfs.csi",
                "use a handle as in docs/reference/storage.md",
            )
        path = volume["mountPath"]
        if path in seen:
            yield Violation(
                f"storage.{name}.mountPath",
                path,
                f"must differ from storage.{seen[path]}.mountPath",
                "use another path",
            )
        elif path.startswith(("/dev/", "/etc/")) or path in SYSTEM_PATHS:
            yield Violation(
                f"storage.{name}.mountPath",
                path,
                "must not hide what the container needs",
                f"use a path such as /{name}",
            )
        seen[path] = name
    shared = shared_volumes(values)
    for name, one in shared.items():
        if _static(values["storage"][name]) != _static(values["storage"][one.owner]):
            yield Violation(
                f"storage.{name}",
                f"the volumeHandle of storage.{one.owner}, and a different fsType, volumeAttributes, nodeLabel or size",
                "must have the same settings, since a CSI volume is mounted once per pod",
                "use the same settings, and separate the volumes by subPath",
            )
    for path in CHART_MOUNTS:
        seen[path] = "the chart"
    volumes = {*VOLUMES, "config", "shm"}
    claims = {one.claim: f"storage.{name}" for name, one in reversed(shared.items()) if one.claim}
    for index, extra in enumerate(values.get("extraVolumes") or []):
        if extra["name"] in volumes:
            yield Violation(
                f"extraVolumes[{index}].name", extra["name"], "must be unique among the volumes", "use another name"
            )
        volumes.add(extra["name"])
        claim = mapping(extra, "persistentVolumeClaim").get("claimName")
        if claim and text(claim) in claims:
            yield Violation(
                f"extraVolumes[{index}]",
                f"the claim {text(claim)}",
                f"must not be that of {claims[text(claim)]}, since the kubelet mounts a claim once per pod "
                "and waits forever for a second volume of it",
                "use its name and a subPath in extraVolumeMounts",
            )
        elif claim:
            claims[text(claim)] = f"extraVolumes[{index}]"
    for index, mount in enumerate(values.get("extraVolumeMounts") or []):
        if mount["name"] not in volumes:
            yield Violation(
                f"extraVolumeMounts[{index}].name",
                mount["name"],
                "must be a volume of the pods",
                "use a name from extraVolumes or storage",
            )
        if mount["mountPath"] in seen:
            yield Violation(
                f"extraVolumeMounts[{index}].mountPath",
                mount["mountPath"],
                "must not be one of the chart's mounts",
                "use another path",
            )


def check_paths(facts: Facts) -> Iterator[Violation]:
    """Paths that the training process reads lie on something that is mounted."""
    values = facts.shaped
    model, storage = values["model"], values["storage"]
    mounts = [storage[name]["mountPath"] for name in VOLUMES]
    mounts += [m["mountPath"] for m in values.get("extraVolumeMounts") or []]
    paths = {"model.llmPath": (model["llmPath"], model["llmPath"])}
    for key in ("checkpoint", "tokenizer"):
        if leaves(given := model.get(key) or ""):
            paths[f"model.{key}"] = (given, below(model["llmPath"], given))
    vision = model["visionEncoderPath"]
    if vision.startswith("/"):
        paths["model.visionEncoderPath"] = (vision, vision)
    elif not section(values, "hf").get("online"):
        yield Violation(
            "model.visionEncoderPath",
            vision,
            "must be an absolute path unless hf.online is true",
            "use the folder's path",
        )
    data = values["data"]
    paths["data.path"] = (data["path"], data["path"])
    for key in ("annotations", "images"):
        if leaves(data[key]):
            paths[f"data.{key}"] = (data[key], below(data["path"], data[key]))
    if preparing(values):
        for step in PREPARE_STEPS:
            source = values["prepare"][step]["source"]
            if values["prepare"][step]["enabled"] and source.startswith("/"):
                paths[f"prepare.{step}.source"] = (source, source)
    for key, (given, path) in paths.items():
        if not any(is_below(posixpath.normpath(f"/{path.lstrip('/')}"), mount) for mount in mounts):
            yield Violation(
                key, given, f"must lie below a mounted path ({', '.join(mounts)})", "use one of these, or mount it"
            )
    scratch = storage["scratch"]["mountPath"]
    home = facts.hub_home
    for name in READ_ONLY_VOLUMES:
        mount = storage[name]["mountPath"]
        if read_only(values, name) and is_below(home, mount):
            yield Violation(
                "hf.home",
                home,
                f"must not lie below the read-only mount {mount}, since the hub's cache is always written",
                f"use a path below {scratch}",
            )
