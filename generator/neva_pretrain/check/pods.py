"""What pods are called, ask for and may do, where they run, and what watches them."""

import re
from collections.abc import Iterator
from decimal import Decimal

from neva_pretrain import chart
from neva_pretrain.chart import images
from neva_pretrain.chart.access import Values, fabric, mapping, rdma_enabled, rdma_resources, section, text
from neva_pretrain.check.config import reserved
from neva_pretrain.check.engine import at
from neva_pretrain.check.pod_security import CONTEXTS, pod_security_breaks
from neva_pretrain.errors import Violation
from neva_pretrain.facts import Facts

PRODUCT_LABEL = "nvidia.com/gpu.product"
WHOLE_GPUS = "must be whole GPUs, since each training process needs its own GPU and access to its peers"
MAX_IMAGE_NAME = 255  # many clients take no more (OCI distribution spec), which the schema says of image.repository


def quantity(amount: str) -> Decimal:
    """Return the bytes (or units) of a Kubernetes quantity."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", amount)
    if match is None:
        raise ValueError(amount)
    number, unit = match.groups()
    powers = {"m": Decimal("0.001")} | {u: Decimal(1000) ** (i + 1) for i, u in enumerate("kMGTPE")}
    powers |= {f"{u.upper()}i": Decimal(1024) ** (i + 1) for i, u in enumerate("kMGTPE")}
    return Decimal(number) * powers.get(unit, Decimal(1))


def check_names(facts: Facts) -> Iterator[Violation]:
    """Names become host names of pods: DNS-1035 labels, 63 characters with the longest suffix."""
    values = facts.shaped
    full: str = values.get("fullnameOverride") or ""
    run_id: str = section(values, "run").get("id") or ""
    limit = chart.rules()["maxNameLength"][values["job"]["kind"]]
    if full and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", full):
        yield Violation(
            "fullnameOverride",
            full,
            "must be a DNS-1035 label (lower case letters, digits and -, a letter first), "
            "or the release name must be one",
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
    named = "run.id" if run_id or not full else "fullnameOverride"
    parts = {named: facts.run_id, "storage.results.mountPath": values["storage"]["results"]["mountPath"]}
    for word in chart.rules()["checkpointPathWords"]:
        for key, got in parts.items():
            if word in got:
                rule = f"must not contain {word}, which NeMo looks for in the whole path of a checkpoint"
                yield Violation(key, got, rule, "use another name")


def check_pods(facts: Facts) -> Iterator[Violation]:
    """Pods get what they ask for, and restart as one."""
    values = facts.shaped
    rdma, devices = section(values, "rdma"), rdma_resources(values)
    gpu = values["resources"]["gpuResourceName"]
    if re.search(chart.rules()["fractionalGpu"], gpu):
        yield Violation("resources.gpuResourceName", gpu, WHOLE_GPUS, "use nvidia.com/gpu")
    gpu_type = section(values, "scheduling", "gpuType")
    products = {f"gpuType.values[{index}]": value for index, value in enumerate(gpu_type.get("values") or [])}
    products = products if gpu_type.get("key") == PRODUCT_LABEL else {}
    products[f"nodeSelector.{PRODUCT_LABEL}"] = section(values, "scheduling", "nodeSelector").get(PRODUCT_LABEL)
    for key, product in products.items():
        if re.search(chart.rules()["fractionalProduct"], text(product)):
            yield Violation(f"scheduling.{key}", text(product), WHOLE_GPUS, "use the label of nodes with whole GPUs")
    if rdma_enabled(values):
        if gpu in devices:
            yield Violation(
                f"rdma.{'resources' if rdma.get('resources') else 'resourceName'}",
                gpu,
                "must not be resources.gpuResourceName, whose count is training.gpusPerNode",
                "use the resource of the RDMA devices",
            )
        if "" in devices:
            yield Violation(
                "rdma.resourceName",
                "nothing",
                f"must name the RDMA devices, since fabric {fabric(values)} has no default",
                "use the resource that the nodes offer, or set rdma.enabled to false",
            )
        if not all(devices.values()):
            yield Violation(
                "rdma.count",
                "nothing",
                f"must be at least 1, since fabric {fabric(values)} has no default",
                "use the number of devices per pod, or set rdma.enabled to false",
            )
    networks = rdma.get("networks") or []
    interfaces = [network.partition("@")[2] for network in networks]
    for index, network in enumerate(networks):
        if interfaces[index] and interfaces[index] in interfaces[:index]:
            rule = "must have an interface of its own"
            yield Violation("rdma.networks", network, rule, "use another name after @, or none")
    for key in ("commonLabels", "podLabels", "workerLabels"):
        for name, value in sorted((values.get(key) or {}).items()):
            owner = reserved(name, "reservedLabel")
            if owner and value is not None:
                yield Violation(f"{key}.{name}", text(value), "must not be set here", owner)
    for key, least in sorted(chart.rules()["leastResources"].items()):
        amount = text(at(values, key))
        gpus = int(values["training"]["gpusPerNode"]) if key == "resources.memory" else 1
        if amount and quantity(amount) < quantity(least) * gpus:
            each = f" for each of {gpus} GPUs" if gpus > 1 else ""
            fix = "use more" if key.endswith("cpu") else "use more, with a unit such as Gi"
            yield Violation(key, amount, f"must be at least {least}{each}, or nothing runs", fix)
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
    if (stall := int(values["restart"]["stallSeconds"])) >= nccl:
        yield Violation(
            "restart.stallSeconds",
            str(stall),
            f"must be less than {nccl}, so that a hang is seen before NCCL gives up on a lost peer",
            "use 120",
        )
    if values["restart"]["enabled"] and nodes > 1 and timeout < nccl:
        yield Violation(
            "rendezvous.timeoutSeconds",
            str(timeout),
            f"must be at least {nccl} with restart.enabled, so that torchrun gives up on a lost node after NCCL",
            f"use {nccl}",
        )


def check_placement(facts: Facts) -> Iterator[Violation]:
    """What the API would refuse of the pods once the job is made, Kueue of the job, and labels that no node has."""
    values = facts.shaped
    scheduling = section(values, "scheduling")
    for index, taint in enumerate(scheduling.get("tolerations") or []):
        key, exists = f"scheduling.tolerations[{index}]", taint.get("operator") == "Exists"
        if exists and taint.get("value"):
            yield Violation(
                f"{key}.value",
                taint["value"],
                "must not be set with operator Exists, which matches any value",
                "remove it, or use Equal",
            )
        if not exists and not taint.get("key"):
            yield Violation(
                f"{key}.key", "nothing", "must be set with operator Equal", "use a taint's key, or operator Exists"
            )
        if "tolerationSeconds" in taint and taint.get("effect") != "NoExecute":
            yield Violation(
                f"{key}.tolerationSeconds",
                text(taint["tolerationSeconds"]),
                "must come with effect NoExecute, the only one that evicts",
                "use NoExecute, or remove it",
            )
    for index, expression in enumerate(scheduling.get("nodeExpressions") or []):
        key, operator = f"scheduling.nodeExpressions[{index}].values", expression["operator"]
        given = expression.get("values") or []
        got = ", ".join(given) or "nothing"
        if operator in ("Exists", "DoesNotExist"):
            if given:
                yield Violation(key, got, f"must not be set with operator {operator}", "remove it")
        elif operator in ("Gt", "Lt"):
            if not re.fullmatch("[0-9]{1,18}", got):
                yield Violation(key, got, f"must be one whole number with operator {operator}", 'use one such as "8"')
        elif not given:
            yield Violation(key, got, f"must not be empty with operator {operator}", "use values of the label")
    yield from _contradictions(scheduling)
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
            rule = f"must differ from that of {first} with {unsatisfiable}"
            yield Violation(f"{key}.topologyKey", spread["topologyKey"], rule, "keep one")
        seen[spread["topologyKey"], unsatisfiable] = key
    topology = section(scheduling, "queue", "topology")
    if len(levels := [level for level in ("required", "preferred", "unconstrained") if topology.get(level)]) > 1:
        yield Violation(
            "scheduling.queue.topology",
            " and ".join(levels),
            "must be only one of them, or Kueue refuses the job",
            "keep one",
        )


def _contradictions(scheduling: Values) -> Iterator[Violation]:
    """Yield which labels no node has together."""
    gpu = section(scheduling, "gpuType")
    asked: dict[str, list[str]] = {gpu["key"]: gpu["values"]} if gpu.get("key") and gpu.get("values") else {}
    left, fix = "must leave a node, and the rest of scheduling asks for", "change one of them"
    for name, value in sorted(section(scheduling, "nodeSelector").items()):
        if name in asked and text(value) not in asked[name]:
            yield Violation(f"scheduling.nodeSelector.{name}", text(value), f"{left} {', '.join(asked[name])}", fix)
        asked[name] = [text(value)]
    for index, expression in enumerate(scheduling.get("nodeExpressions") or []):
        name, operator, given = expression["key"], expression["operator"], expression.get("values") or []
        before = asked.get(name) or (given if operator == "In" else [])
        kept = before
        if operator == "In":
            kept = [value for value in before if value in given]
        elif operator == "NotIn":
            kept = [value for value in before if value not in given]
        elif operator == "DoesNotExist":
            kept = []
        if before and not kept:
            got = " ".join((operator, ", ".join(given))).strip()
            yield Violation(f"scheduling.nodeExpressions[{index}]", got, f"{left} {', '.join(before)}", fix)
        asked[name] = kept or before


def check_monitoring(facts: Facts) -> Iterator[Violation]:
    """The exporter has a port of its own; what TensorBoard shows is written, and its image has a name clients take."""
    values = facts.shaped
    exporter, first = section(values, "monitoring", "exporter"), int(values["rendezvous"]["port"])
    if exporter.get("enabled") and exporter["port"] in (first, first + 1):
        yield Violation(
            "monitoring.exporter.port",
            str(exporter["port"]),
            f"must differ from rendezvous.port ({first}) and the next port, which the supervisors use",
            "use another port below 32768",
        )
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


def check_profiles(facts: Facts) -> Iterator[Violation]:
    """A profile of the node is named, and no other is; the chart's seccompProfile is RuntimeDefault."""
    for where in CONTEXTS:
        for profile in ("appArmorProfile", "seccompProfile"):
            key, given = f"{where}.{profile}", section(facts.shaped, where).get(profile)
            if given is None:
                continue
            kind = given.get("type") or ("RuntimeDefault" if key == "securityContext.seccompProfile" else "")
            if not kind:
                yield Violation(f"{key}.type", "nothing", "must be set with the profile", "use RuntimeDefault")
            elif kind == "Localhost" and not given.get("localhostProfile"):
                yield Violation(
                    f"{key}.localhostProfile",
                    "nothing",
                    "must be set with type Localhost",
                    "use a profile that the nodes have",
                )
            elif kind != "Localhost" and "localhostProfile" in given:
                yield Violation(
                    f"{key}.localhostProfile",
                    given["localhostProfile"] or "nothing",
                    f"must come with type Localhost, not {kind}",
                    "remove it, or use Localhost",
                )


def check_security(facts: Facts) -> Iterator[Violation]:
    """The namespace admits every pod of the release; otherwise the job would be created without pods."""
    enforced = section(facts.shaped, "podSecurity").get("enforce")
    return refused_pods(facts.shaped, enforced, f"where podSecurity.enforce is {enforced}")


def refused_pods(values: Values, enforced: str | None, where: str) -> Iterator[Violation]:
    """Yield what a level of the Pod Security Standard refuses; no level refuses nothing."""
    for broken in pod_security_breaks(values) if enforced in ("baseline", "restricted") else ():
        if enforced == "restricted" or broken.level == "baseline":
            yield Violation(broken.key, broken.got, f"must {broken.rule} {where}", broken.fix)
