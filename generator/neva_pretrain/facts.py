"""The fact sheet of a run: all that follows from complete values, computed once.

It is the chart's ``settings.json`` (``templates/_facts.tpl``, ``_config.tpl``), key by key, so that ``check``, ``plan``
for given values, ``preflight`` by hand and the monitor say what pods do; a property test holds the two equal. The same
sheet lies in a run's record (``run.json``), and parts of it are annotations of the job. What a run says of itself, its
own architecture among it, is never read from the catalog again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from neva_pretrain import chart
from neva_pretrain.chart.access import READ_ONLY_VOLUMES, Values, mapping, preparing, rdma_enabled, read_only, section
from neva_pretrain.model import catalog, hydra
from neva_pretrain.model.hardware import GPUS, H100, Gpu
from neva_pretrain.plan.cost import Setup
from neva_pretrain.plan.plan import Plan

PREPARE_STEPS = ("tokenizer", "vision", "llm", "dataset")


def below(folder: str, path: str) -> str:
    """Return a path of the values: an absolute one is itself, any other lies below its folder."""
    return path if path.startswith("/") else f"{folder.removesuffix('/')}/{path}"


def run_id(values: Values, release: str) -> str:
    """Return what names the results folder: ``run.id``, else the full name."""
    return str(section(values, "run").get("id") or values.get("fullnameOverride") or release)


def hub_home(values: Values) -> str:
    """Return HF_HOME."""
    return str(section(values, "hf").get("home") or f"{values['storage']['scratch']['mountPath']}/huggingface")


def architecture(values: Values) -> dict[str, Any]:
    """Return the language model's shape, in the words of the catalog: its own where ``model.architecture`` says so.

    Raises:
        RefusedError: no such model.
    """
    model = _catalog(values)
    given = section(values, "model", "architecture")
    return {**model["architecture"], **{key: value for key, value in given.items() if value is not None}}


def sheet(values: Values, release: str = "", namespace: str = "") -> dict[str, Any]:
    """Return the facts of complete values that obey the schema, as ``settings.json`` has them.

    Args:
        values: a file over the chart's defaults.
        release: the release's name, which names the run where nothing else does.
        namespace: its namespace.

    Raises:
        RefusedError: no such model.
    """
    model, given, data, training = _catalog(values), values["model"], values["data"], values["training"]
    plan, shape, run = Plan.from_values(values), architecture(values), run_id(values, release)
    tower = chart.models()["visionEncoders"][model["visionEncoder"]]
    facts = {
        "run": {"id": run, "release": release, "namespace": namespace},
        "image": image(values),
        "model": {
            "name": _name(values),
            "modelType": model["modelType"],
            "checkpointPath": below(given["llmPath"], given.get("checkpoint") or model["checkpoint"]["name"]),
            "checkpointFormat": given["checkpointFormat"],
            "tokenizerPath": below(given["llmPath"], given.get("tokenizer") or model["checkpoint"]["tokenizer"]),
            "tokenizerLibrary": model["tokenizer"]["library"],
            "extraTokens": model["tokenizer"]["extraTokens"],
            "visionEncoderPath": given["visionEncoderPath"],
            "projector": model["projector"],
            "tokensPerSample": model["tokensPerSample"],
        },
        "architecture": shape,
        "llm": hydra.llm(values, catalog.get(given["name"])),
        "samples": hydra.samples(values, catalog.get(given["name"])),
        "vision": dict(tower),
        "training": dict(training),
        "derived": {
            "worldSize": plan.gpus,
            "dataParallelSize": plan.data_parallel_size,
            "accumulationSteps": plan.accumulation_steps,
            "paddedVocabSize": catalog.architecture_from(shape).padded_vocab_size(plan.tensor_parallel_size),
        },
        "data": {
            "annotations": below(data["path"], data["annotations"]),
            "images": below(data["path"], data["images"]),
            "workers": data["workers"],
        },
        "results": results(f"{values['storage']['results']['mountPath']}/{run}"),
        "readOnly": [values["storage"][name]["mountPath"] for name in READ_ONLY_VOLUMES if read_only(values, name)],
        "rdma": rdma_enabled(values),
        "hf": {"online": bool(section(values, "hf").get("online")), "home": hub_home(values)},
        "resume": values["checkpoint"]["resume"],
        "checkpoint": {key: values["checkpoint"][key] for key in ("enabled", "everyNSteps")},
        "preflight": _without(values["preflight"], "enabled", "resources"),
        "plan": _without(section(values, "monitoring", "plan")),
        "rendezvous": {
            "timeoutSeconds": values["rendezvous"]["timeoutSeconds"],
            "ncclTimeoutSeconds": chart.rules()["ncclTimeoutSeconds"],
        },
    }
    if preparing(values):
        prepare = values["prepare"]
        steps = {step: dict(prepare[step]) for step in PREPARE_STEPS}
        steps["vision"]["source"] = steps["vision"]["source"] or tower["path"]
        facts["prepare"] = {"nemoPath": prepare["nemoPath"], **steps}
    return facts


def results(path: str) -> dict[str, str]:
    """Return the folders of a run."""
    return {"path": path, "logDir": f"{path}/results", "checkpointsDir": f"{path}/results/checkpoints"}


def image(values: Values) -> str:
    """Return the container's image."""
    said = values["image"]
    return f"{said['repository']}@{said['digest']}" if said.get("digest") else f"{said['repository']}:{said['tag']}"


def gpu(facts: Values) -> Gpu:
    """Return the kind of GPU that a run was planned for."""
    return GPUS.get(str(mapping(facts, "training").get("gpu")), H100)


def setup(facts: Values, kind: Gpu | None = None) -> Setup | None:
    """Return what memory and time of a step depend on, or None where the facts do not tell all of it.

    Args:
        facts: a sheet; a run's record, which another version may have written, has the same keys or fewer.
        kind: the GPU, None for the one that the run was planned for.
    """
    found = model(facts)
    training, derived = mapping(facts, "training"), mapping(facts, "derived")
    keys = ("tensorParallelSize", "pipelineParallelSize", "microBatchSize", "globalBatchSize")
    tensor, pipeline, micro, batch = (count(training.get(key)) for key in keys)
    gpus = count(derived.get("worldSize")) or gpus_of(training)
    if not (found and tensor and pipeline and micro and batch and gpus):
        return None
    data = gpus // (tensor * pipeline)
    if not data or not batch // (micro * data):
        return None
    checkpoint = mapping(facts, "checkpoint")
    return Setup(
        found,
        kind or gpu(facts),
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        data_parallel_size=data,
        micro_batch_size=micro,
        accumulation=batch // (micro * data),
        tokens_per_sample=found.tokens_per_sample,
        kernels="fused" if training.get("kernels") == "fused" else "reference",
        sequence_parallel=training.get("sequenceParallel") is True,
        recompute=known if (known := training.get("recompute")) in ("full", "selective") else "none",
        gpus_per_node=count(training.get("gpusPerNode")) or 8,
        checkpoint_interval=count(checkpoint.get("everyNSteps")) if checkpoint.get("enabled") else None,
    )


def model(facts: Values) -> catalog.Model | None:
    """Return the run's model, or None where the catalog does not have it: its shape and tokens are the run's own."""
    said = mapping(facts, "model")
    if (name := str(said.get("name") or "")) not in catalog.names():
        return None
    found = catalog.get(name)
    own = {
        key: value for key, value in mapping(facts, "architecture").items() if isinstance(value, bool) or count(value)
    }
    return replace(
        found,
        architecture=catalog.architecture_from({**chart.models()["models"][name]["architecture"], **own}),
        tokens_per_sample=count(said.get("tokensPerSample")) or found.tokens_per_sample,
    )


def gpus_of(training: Values) -> int | None:
    """Return the GPUs of a job, or None where the section does not tell."""
    nodes, per_node = count(training.get("nodes")), count(training.get("gpusPerNode"))
    return nodes * per_node if nodes and per_node else None


def count(value: object) -> int | None:
    """Return a positive whole number, also where an annotation has it as text; None for all else."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**18 else None


def _name(values: Values) -> str:
    return str(values["model"]["name"]).replace("-", "_")


def _catalog(values: Values) -> Mapping[str, Any]:
    found: Mapping[str, Any] = chart.models()["models"][catalog.get(values["model"]["name"]).name]
    return found


def _without(given: Values, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None and key not in keys}
