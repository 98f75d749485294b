"""What values break, in the order and the words of the chart's ``templates/_validate.tpl``.

The rules are in ``files/rules.yaml``; what needs more than its conditions is a ``check_*`` function here, with its twin
of that name in the chart; a property test holds the two equal. What one value alone can tell is in
``values.schema.json``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from math import gcd
from typing import Any, NamedTuple

from neva_pretrain import chart
from neva_pretrain.chart import images
from neva_pretrain.chart.access import (
    READ_ONLY_VOLUMES,
    VOLUMES,
    Values,
    mapping,
    preparing,
    rdma_enabled,
    rdma_resources,
    read_only,
    section,
    text,
    without_nulls,
)
from neva_pretrain.chart.secrecy import LEVELS, Entry, compiled, is_secret, is_secret_name, scrubbed, select, show, walk
from neva_pretrain.check.engine import check_rules
from neva_pretrain.check.pod_security import pod_security_breaks
from neva_pretrain.errors import RefusedError, Violation
from neva_pretrain.facts import PREPARE_STEPS, Facts, below
from neva_pretrain.model import hydra
from neva_pretrain.plan.plan import nearest_multiples, use
from neva_pretrain.plan.split import check_activation, check_architecture

MAX_IMAGE_NAME = 255  # many clients take no more (OCI distribution spec), which the schema says of image.repository
CSI_DRIVER = "spectrumscale.csi.ibm.com"
CHART_MOUNTS = ("/etc/neva", "/dev/shm")  # noqa: S108 (a mount, not a file)
SYSTEM_PATHS = ("/dev", "/etc", "/opt", "/usr", "/proc", "/sys")


def quantity(amount: str) -> Decimal:
    """Return the bytes (or units) of a Kubernetes quantity."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", amount)
    if match is None:
        raise ValueError(amount)
    number, unit = match.groups()
    powers = {u: Decimal(1000) ** (i + 1) for i, u in enumerate("kMGTPE")}
    powers |= {f"{u.upper()}i": Decimal(1024) ** (i + 1) for i, u in enumerate("kMGTPE")}
    return Decimal(number) * powers.get(unit, Decimal(1))


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

    The kubelet mounts a CSI handle once in a pod and waits for a second volume of it for ever (N04). A claim is empty
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


def check_formats(values: Values) -> Iterator[Violation]:
    """What must be there, and what a text must look like: on the others the rest could not be judged."""
    facts = chart.rules()
    required = [
        (f"{part}.{key}".removeprefix("."), key) for part, keys in facts["required"].items() for key in keys.split()
    ]
    missing = {e.path for path, _ in required for e in select(values, path) if e.node is None}
    for path in sorted(missing - {name for names in facts["optional"].values() for name in names}):
        later = "" if "." in path else " (with helm upgrade: --reset-then-reuse-values)"
        yield Violation(path, "nothing", "must be set", f"leave the default, or set it{later}")
    for form in facts["formats"]:
        for entry in (e for path in form["keys"].split() for e in select(values, path)):
            said = text(entry.node)
            if entry.node is None or isinstance(entry.node, Mapping | list):
                continue
            right = "pattern" not in form or compiled(form["pattern"]).search(said)
            if not right or ("never" in form and compiled(form["never"]).search(said)):
                yield Violation(show(entry.path), show(said) or "nothing", form["rule"], form["fix"])
    for entry in entries(values):
        said = "" if isinstance(entry.node, Mapping | list) else text(entry.node)
        if compiled(facts["unprintable"]).search(entry.name + said):
            rule = "must be printable characters, in keys too"
            yield Violation(show(entry.path), show(said) or "a key", rule, "remove the others")


def check_names(facts: Facts) -> Iterator[Violation]:
    """Names become host names of pods: DNS-1035 labels, 63 characters with the longest suffix."""
    values = facts.values
    full: str = values.get("fullnameOverride") or ""
    run_id: str = section(values, "run").get("id") or ""
    limit = chart.rules()["maxNameLength"][values["job"]["kind"]]
    if full and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", full):
        yield Violation(
            "fullnameOverride",
            full,
            "must be a DNS-1035 label (lower case letters, digits and -, a letter first), or the release name must be",
            "use a name such as neva-7b",
        )
    if run_id and not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", run_id):
        yield Violation("run.id", run_id, "must be lower case letters, digits and -", "use an id such as lr-2e-3")
    length = len(full.encode()) + (1 + len(run_id.encode()) if run_id and run_id != full else 0)
    if full and length > limit:
        yield Violation(
            "run.id",
            f"{length} characters of full name and id",
            f"must be at most {limit}, so that the last pod's name has at most 63",
            "use a shorter fullnameOverride or run.id",
        )


def check_training(facts: Facts) -> Iterator[Violation]:
    """Parallelism divides the machine and the model; batches divide into micro batches; the schedule fits the run."""
    values = facts.values
    t, plan = values["training"], facts.plan
    tensor, pipeline = plan.tensor_parallel_size, plan.pipeline_parallel_size
    broken: list[Violation] = []
    try:
        arch = facts.architecture
    except RefusedError as unknown:
        yield from unknown.violations
    else:
        broken = list(check_architecture(arch, plan))
        yield from broken
        yield from check_activation(arch, hydra.activation(values), t["kernels"])
    # Sizes inside a node are tensorParallelSize's to mend; only a size beyond it says something about nodes.
    unfit = any(v.key == "training.tensorParallelSize" for v in broken)
    if unfit and tensor <= plan.gpus_per_node:
        pass
    elif plan.gpus % (tensor * pipeline):
        step = tensor * pipeline // gcd(tensor * pipeline, plan.gpus_per_node)
        yield Violation(
            "training.nodes",
            f"{plan.nodes} ({plan.gpus} GPUs)",
            "must make nodes x gpusPerNode a multiple of tensor x pipeline parallel size "
            f"({tensor} x {pipeline} = {tensor * pipeline})",
            "use another tensorParallelSize first" if unfit else use(nearest_multiples(plan.nodes, step)),
        )
    elif plan.global_batch_size % (multiple := plan.micro_batch_size * plan.data_parallel_size):
        yield Violation(
            "training.globalBatchSize",
            str(plan.global_batch_size),
            "must be a multiple of microBatchSize x data parallel size "
            f"({plan.micro_batch_size} x {plan.data_parallel_size} = {multiple})",
            use(nearest_multiples(plan.global_batch_size, multiple)),
        )
    if plan.warmup_steps >= plan.max_steps:
        yield Violation(
            "training.warmupSteps",
            str(plan.warmup_steps),
            f"must be less than maxSteps ({plan.max_steps})",
            f"use {plan.max_steps - 1} or fewer",
        )


def check_checkpoint(facts: Facts) -> Iterator[Violation]:
    """The checkpoint to load exists at this parallelism."""
    values, plan = facts.values, facts.plan
    model = chart.models()["models"].get(values["model"]["name"].replace("-", "_"))
    if model and values["model"]["checkpointFormat"] == "legacy":
        preset = (model["preset"]["tensorParallelSize"], model["preset"]["pipelineParallelSize"])
        if preset != (plan.tensor_parallel_size, plan.pipeline_parallel_size):
            yield Violation(
                "model.checkpointFormat",
                "legacy",
                "must not be legacy at tensor x pipeline parallel size "
                f"{plan.tensor_parallel_size} x {plan.pipeline_parallel_size}, "
                f"since legacy files are split for {preset[0]} x {preset[1]}",
                "use distributed, or the preset's sizes",
            )


def check_storage(facts: Facts) -> Iterator[Violation]:
    """Each volume has one source and a mount path of its own."""
    values = facts.values
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
                "must be set beside the rest of gpfs.csi",
                "use a handle as in docs/storage.md",
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
                f"the volumeHandle of storage.{one.owner}, and another fsType, volumeAttributes, nodeLabel or size",
                "must be alike, since a CSI volume is mounted once in a pod",
                "use the same, and tell the volumes apart by subPath",
            )
    for path in CHART_MOUNTS:
        seen[path] = "the chart"
    volumes = {*VOLUMES, "config", "shm"}
    claims = {one.claim: f"storage.{name}" for name, one in reversed(shared.items()) if one.claim}
    for index, extra in enumerate(values.get("extraVolumes") or []):
        if extra["name"] in volumes:
            yield Violation(
                f"extraVolumes[{index}].name", extra["name"], "must be no other volume's", "use another name"
            )
        volumes.add(extra["name"])
        claim = mapping(extra, "persistentVolumeClaim").get("claimName")
        if claim and text(claim) in claims:
            yield Violation(
                f"extraVolumes[{index}]",
                f"the claim {text(claim)}",
                f"must not be that of {claims[text(claim)]}, since the kubelet mounts a claim once in a pod "
                "and waits for a second volume of it for ever",
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
                "use a name of extraVolumes or storage",
            )
        if mount["mountPath"] in seen:
            yield Violation(
                f"extraVolumeMounts[{index}].mountPath",
                mount["mountPath"],
                "must not be a mount of the chart",
                "use another path",
            )


def check_paths(facts: Facts) -> Iterator[Violation]:
    """Paths that the training process reads lie on something that is mounted."""
    values = facts.values
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
                f"must not lie below the read-only mount {mount}, since the hub always writes",
                f"use a path below {scratch}",
            )


def check_pods(facts: Facts) -> Iterator[Violation]:
    """Pods get what they ask for, and restart together or not at all."""
    values = facts.values
    rdma, devices = section(values, "rdma"), rdma_resources(values)
    gpu = values["resources"]["gpuResourceName"]
    if re.search(chart.rules()["fractionalGpu"], gpu):
        yield Violation(
            "resources.gpuResourceName",
            gpu,
            "must be whole GPUs, since each training process needs one of its own and all its peers",
            "use nvidia.com/gpu",
        )
    if rdma_enabled(values):
        if gpu in devices:
            yield Violation(
                f"rdma.{'resources' if rdma.get('resources') else 'resourceName'}",
                gpu,
                "must not be resources.gpuResourceName, whose count training.gpusPerNode is",
                "use the resource of the RDMA devices",
            )
        if "" in devices:
            yield Violation(
                "rdma.resourceName",
                "nothing",
                f"must name the RDMA devices, since fabric {values['fabric']} has none",
                "use the resource that the nodes offer, or set rdma.enabled to false",
            )
        if not all(devices.values()):
            yield Violation(
                "rdma.count",
                "nothing",
                f"must be at least 1, since fabric {values['fabric']} has no devices",
                "use the devices of a pod, or set rdma.enabled to false",
            )
    for key in ("commonLabels", "podLabels", "workerLabels"):
        for name, value in sorted((values.get(key) or {}).items()):
            owner = reserved(name, "reservedLabel")
            if owner and value is not None:
                yield Violation(f"{key}.{name}", text(value), "must not be set here", owner)
    nodes, rendezvous = int(values["training"]["nodes"]), values["rendezvous"]
    memory, shm = text(values["resources"]["memory"]), text(values["resources"].get("shmSize") or "")
    if shm and quantity(shm) > quantity(memory):
        yield Violation(
            "resources.shmSize",
            shm,
            f"must be at most resources.memory ({memory}), which it counts against",
            "use less",
        )
    nccl, timeout = chart.rules()["ncclTimeoutSeconds"], int(rendezvous["timeoutSeconds"])
    if values["restartPolicy"] == "OnFailure" and nodes > 1 and timeout < nccl:
        yield Violation(
            "rendezvous.timeoutSeconds",
            str(timeout),
            f"must be at least {nccl} with restartPolicy OnFailure, "
            "since nodes that lost a peer only come back when NCCL times out",
            f"use {nccl}",
        )


def check_placement(facts: Facts) -> Iterator[Violation]:
    """What the API would refuse of the pods once the job is made, and Kueue of the job."""
    values = facts.values
    scheduling = section(values, "scheduling")
    for index, taint in enumerate(scheduling.get("tolerations") or []):
        key, exists = f"scheduling.tolerations[{index}]", taint.get("operator") == "Exists"
        if exists and taint.get("value"):
            yield Violation(
                f"{key}.value",
                taint["value"],
                "must be left out with operator Exists, which takes any value",
                "remove it, or use Equal",
            )
        if not exists and not taint.get("key"):
            yield Violation(
                f"{key}.key",
                "nothing",
                "must be set with operator Equal",
                "use a taint's key, or operator Exists",
            )
        if "tolerationSeconds" in taint and taint.get("effect") != "NoExecute":
            yield Violation(
                f"{key}.tolerationSeconds",
                text(taint["tolerationSeconds"]),
                "must come with effect NoExecute, which alone evicts",
                "use NoExecute, or remove it",
            )
    for index, expression in enumerate(scheduling.get("nodeExpressions") or []):
        key, operator = f"scheduling.nodeExpressions[{index}].values", expression["operator"]
        given = expression.get("values") or []
        got = ", ".join(given) or "nothing"
        if operator in ("Exists", "DoesNotExist"):
            if given:
                yield Violation(key, got, f"must be left out with operator {operator}", "remove it")
        elif operator in ("Gt", "Lt"):
            if not re.fullmatch("[0-9]{1,18}", got):
                yield Violation(key, got, f"must be one whole number with operator {operator}", 'use one such as "8"')
        elif not given:
            yield Violation(key, got, f"must hold a value with operator {operator}", "use those of the label")
    seen: dict[tuple[str, str], str] = {}
    for index, spread in enumerate(scheduling.get("topologySpreadConstraints") or []):
        key, unsatisfiable = f"scheduling.topologySpreadConstraints[{index}]", spread["whenUnsatisfiable"]
        if "minDomains" in spread and unsatisfiable != "DoNotSchedule":
            yield Violation(
                f"{key}.minDomains",
                text(spread["minDomains"]),
                "must come with whenUnsatisfiable DoNotSchedule",
                "remove it",
            )
        if first := seen.get((spread["topologyKey"], unsatisfiable)):
            rule = f"must be another than that of {first} with {unsatisfiable}"
            yield Violation(f"{key}.topologyKey", spread["topologyKey"], rule, "keep one")
        seen[spread["topologyKey"], unsatisfiable] = key
    topology = section(scheduling, "queue", "topology")
    if len(levels := [level for level in ("required", "preferred", "unconstrained") if topology.get(level)]) > 1:
        yield Violation(
            "scheduling.queue.topology",
            " and ".join(levels),
            "must be one of them, or Kueue refuses the job",
            "keep one",
        )


def check_monitoring(facts: Facts) -> Iterator[Violation]:
    """What TensorBoard shows is written, and its image has a name that clients take."""
    values = facts.values
    logger = mapping(values.get("config") or {}, "exp_manager").get("create_tensorboard_logger", True)
    if section(values, "tensorboard").get("enabled") and not logger:
        yield Violation(
            "config.exp_manager.create_tensorboard_logger",
            text(logger),
            "must be true with tensorboard.enabled, or there is nothing to show",
            "remove it",
        )
    image = images.split(section(values, "tensorboard").get("image") or "") or {"repository": ""}
    if (length := len(image["repository"])) > MAX_IMAGE_NAME:
        yield Violation(
            "tensorboard.image",
            f"{length} characters before the tag",
            f"must be at most {MAX_IMAGE_NAME}",
            "use a shorter name",
        )


def reserved(name: str, kind: str) -> str | None:
    """Return who sets a name, or what to say in its place; None where it is free."""
    rules = chart.rules()
    owner: str | None = rules[kind].get(name)
    for prefix, reason in rules[f"{kind}Prefixes"].items():
        if name.startswith(prefix):
            owner = reason
    return owner


def check_environment(facts: Facts) -> Iterator[Violation]:
    """The environment that the operator and the chart own is not set a second time."""
    values = facts.values
    for name, value in sorted((values.get("env") or {}).items()):
        owner = reserved(name, "reservedEnv")
        if owner and value is not None:
            shown = "a value" if is_secret_name(name) else show(value)
            yield Violation(f"env.{name}", shown, "must not be set here", owner)
        elif isinstance(value, bool):
            word = "true" if value else "false"
            yield Violation(
                f"env.{name}",
                word,
                "must be text or a number, since YAML reads words such as on, off, yes and no as booleans",
                f'quote what is meant, such as "{word}"',
            )
    for name, secret in sorted(section(values, "secrets", "env").items()):
        owner = reserved(name, "reservedEnv")
        if name in section(values, "env"):
            owner = "remove it here or in env"
        if owner and secret:
            yield Violation(f"secrets.env.{name}", secret["name"], "must not be set here", owner)


def check_secrets(facts: Facts) -> Iterator[Violation]:
    """Secrets come by reference: all who read the job, the release or the file would see them."""
    return _secrets(facts.values)


def _secrets(values: Values) -> Iterator[Violation]:
    for entry in entries(values):
        if entry.deep:
            yield Violation(entry.path, "a tree", f"must be at most {LEVELS} levels deep", "flatten it")
        elif isinstance(entry.node, Mapping | list) or not is_secret(entry.name, entry.node):
            continue
        elif not entry.path.startswith("env."):
            yield _in_clear(entry.path, "use an existing Secret, by secrets.env")
        elif not reserved(entry.name, "reservedEnv"):
            yield _in_clear(entry.path, f"use secrets.env.{entry.name} with name and key of a Secret")


def entries(values: Values) -> Iterator[Entry]:
    """Yield all that lies in values but ``global``, which is other charts' too."""
    return walk({key: value for key, value in values.items() if key != "global"}, "")


def _in_clear(path: str, fix: str) -> Violation:
    return Violation(path, "a value", "must not hold a secret, which everyone who reads the job would see", fix)


def check_security(facts: Facts) -> Iterator[Violation]:
    """No pod of the release is what the namespace rejects: the job would be made, and its pods never come."""
    values = facts.values
    enforced = section(values, "podSecurity").get("enforce")
    for broken in pod_security_breaks(values) if enforced else ():
        if enforced == "restricted" or broken.level == "baseline":
            rule = f"must {broken.rule} where podSecurity.enforce is {enforced}"
            yield Violation(broken.key, broken.got, rule, broken.fix)


def check_network(facts: Facts) -> Iterator[Violation]:
    """A policy admits what the release downloads, and the way to Weights & Biases."""
    values = facts.values
    if preparing(values):
        why = ["prepare downloads"] if downloads(values) else []
    else:
        why = ["hf.online is true"] if section(values, "hf").get("online") else []
        wandb = section(values, "wandb")
        why += ["wandb.mode is online"] if wandb.get("enabled") and wandb.get("mode") == "online" else []
    policy = section(values, "networkPolicy")
    if policy.get("enabled") and why and not policy.get("egress"):
        yield Violation(
            "networkPolicy.egress",
            "nothing",
            f"must admit hosts of the internet, since {' and '.join(why)}",
            "use a rule such as internet: {ports: [{port: 443}]}",
        )


def downloads(values: Values) -> bool:
    """Return whether prepare downloads from the hub: a source that is no folder."""
    steps = values["prepare"]
    vision = steps["vision"]["enabled"] and not steps["vision"]["source"].startswith("/")
    others = (steps[name] for name in ("tokenizer", "llm", "dataset"))
    return vision or any(s["enabled"] and s["source"] and not s["source"].startswith("/") for s in others)


def check_config(facts: Facts) -> Iterator[Violation]:
    """``config`` says only what no value says, in the config's own keys."""
    values = facts.values
    config = values.get("config") or {}
    for entry in walk(config, "config"):
        if re.search(r"^[+~]|[.]", entry.name) and entry.path.endswith(f".{entry.name}"):
            yield Violation(
                entry.path.removesuffix(f".{entry.name}"),
                f"the key {entry.name}",
                "must have plain keys, since only a command line reads dots, + and ~",
                "use nested maps",
            )
    owned = chart.rules()["ownedConfig"]
    parts = [path.split(".") for path in owned]
    sections = {".".join(keys[:depth]) for keys in parts for depth in range(1, len(keys))}
    for path in sorted(sections):
        *parents, last = path.split(".")
        parent = mapping(config, *parents)
        if last in parent and not isinstance(parent[last], Mapping):
            yield Violation(
                f"config.{path}",
                show(parent[last]),
                "must be a map, or it would replace the whole section",
                "name its keys",
            )
    for path, owner in sorted(owned.items()):
        node: Any = config
        for key in path.split("."):
            if not isinstance(node, Mapping) or key not in node:
                break
            node = node[key]
        else:
            yield Violation(f"config.{path}", show(node), "must not be set here, since a value owns it", f"use {owner}")
    monitor = str(mapping(config, "exp_manager", "checkpoint_callback_params").get("monitor") or "")
    validation = mapping(config, "trainer").get("limit_val_batches") or 0
    if monitor.startswith("val") and float(validation) == 0:
        yield Violation(
            "config.exp_manager.checkpoint_callback_params.monitor",
            monitor,
            "must not be a validation metric while no validation runs, or nothing is saved",
            "use step or reduced_train_loss",
        )


CHECKS: tuple[Callable[[Facts], Iterator[Violation]], ...] = (
    check_rules,
    check_names,
    check_training,
    check_checkpoint,
    check_storage,
    check_paths,
    check_pods,
    check_placement,
    check_monitoring,
    check_environment,
    check_secrets,
    check_security,
    check_network,
    check_config,
)


def violations(facts: Facts) -> list[Violation]:
    """Return every rule that complete, schema-valid values break."""
    return shape_violations(facts.values) or broken_rules(facts)


def broken_rules(facts: Facts) -> list[Violation]:
    """Return every rule that values of the right shape break."""
    shaped = replace(facts, values=without_nulls(facts.values))
    return without_followers([violation for check in CHECKS for violation in check(shaped)])


def shape_violations(values: Values) -> list[Violation]:
    """Return what is missing or misshapen, and with it every secret in clear."""
    broken = list(check_formats(values))
    return scrub([*broken, *_secrets(values)]) if broken else []


def without_followers(violations: Sequence[Violation]) -> list[Violation]:
    """Return violations without those whose advice follows from another broken value, and without secrets."""
    follows, broken = chart.rules()["follows"], {v.key for v in violations}
    return scrub([v for v in violations if broken.isdisjoint(follows.get(v.key, ()))])


def scrub(violations: Sequence[Violation]) -> list[Violation]:
    """Return violations without secrets."""
    return [Violation(*(scrubbed(part) for part in (v.key, v.got, v.rule, v.fix))) for v in violations]
