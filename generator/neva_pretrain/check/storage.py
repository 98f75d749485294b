"""Volumes, mounts and the paths on them."""

import posixpath
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from neva_pretrain import chart
from neva_pretrain.chart.access import READ_ONLY_VOLUMES, VOLUMES, Values, mapping, preparing, read_only, section, text
from neva_pretrain.errors import Violation
from neva_pretrain.facts import PREPARE_STEPS, Facts, below

CSI_DRIVER = "spectrumscale.csi.ibm.com"
CHART_MOUNTS = ("/etc/neva", "/dev/shm")  # noqa: S108 (a mount, not a file)
NEMO = "/opt/NeMo"
HIDES = "must not hide what the container needs"


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
        elif path.startswith(("/dev/", "/etc/")) or path in (*chart.rules()["systemPaths"], NEMO):
            yield Violation(f"storage.{name}.mountPath", path, HIDES, f"use a path such as /{name}")
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
    yield from _extra_volumes(values, shared)
    yield from _extra_mounts(values, {*seen, *CHART_MOUNTS})


def _extra_volumes(values: Values, shared: dict[str, Shared]) -> Iterator[Violation]:
    """Yield what ``extraVolumes`` break."""
    volumes = {*VOLUMES, "config", "shm"}
    claims = {one.claim: f"storage.{name}" for name, one in reversed(shared.items()) if one.claim}
    for index, extra in enumerate(values.get("extraVolumes") or []):
        here = f"extraVolumes[{index}]"
        if extra["name"] in volumes:
            yield Violation(f"{here}.name", extra["name"], "must be unique among the volumes", "use another name")
        volumes.add(extra["name"])
        sources = sorted(key for key, value in extra.items() if key != "name" and value is not None)
        if len(sources) != 1:
            got = " and ".join(sources) or "nothing"
            yield Violation(here, got, "must have exactly one source", "use one such as persistentVolumeClaim")
        for source in sources:
            for key in chart.rules()["volumeSources"].get(source, ()):
                if not extra[source].get(key):
                    yield Violation(
                        f"{here}.{source}.{key}", "nothing", "must be set with its source", f"name its {key}"
                    )
        claim = mapping(extra, "persistentVolumeClaim").get("claimName")
        if claim and text(claim) in claims:
            yield Violation(
                here,
                f"the claim {text(claim)}",
                f"must not be that of {claims[text(claim)]}, since the kubelet mounts a claim once per pod "
                "and waits forever for a second volume of it",
                "use its name and a subPath in extraVolumeMounts",
            )
        elif claim:
            claims[text(claim)] = here


def _extra_mounts(values: Values, taken: Collection[str]) -> Iterator[Violation]:
    """Yield what ``extraVolumeMounts`` break."""
    volumes = {*VOLUMES, "config", "shm", *(extra["name"] for extra in values.get("extraVolumes") or [])}
    seen: dict[str, str] = {}
    for index, mount in enumerate(values.get("extraVolumeMounts") or []):
        here, path = f"extraVolumeMounts[{index}]", mount["mountPath"]
        if mount["name"] not in volumes:
            yield Violation(
                f"{here}.name", mount["name"], "must be a volume of the pods", "use a name from extraVolumes or storage"
            )
        if path in taken:
            yield Violation(f"{here}.mountPath", path, "must not be one of the chart's mounts", "use another path")
        elif path in chart.rules()["systemPaths"]:
            yield Violation(f"{here}.mountPath", path, HIDES, "use a path of its own, or one below it")
        elif path in seen:
            yield Violation(f"{here}.mountPath", path, f"must differ from that of {seen[path]}", "use another path")
        seen.setdefault(path, here)
        if mount.get("subPath") and mount.get("subPathExpr"):
            yield Violation(f"{here}.subPathExpr", mount["subPathExpr"], "must not be set with subPath", "keep one")
        propagation, recursive = mount.get("mountPropagation"), mount.get("recursiveReadOnly")
        if propagation == "Bidirectional" and not section(values, "securityContext").get("privileged"):
            rule = "must come with securityContext.privileged, or the API refuses the pods"
            yield Violation(f"{here}.mountPropagation", propagation, rule, "use HostToContainer")
        if recursive in ("IfPossible", "Enabled") and not (mount.get("readOnly") and propagation in (None, "None")):
            rule = "must come with readOnly true and without mountPropagation, or the API refuses the pods"
            yield Violation(f"{here}.recursiveReadOnly", recursive, rule, "set readOnly, or remove it")


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
