"""The fact sheet of a run: all that follows from complete values, computed once.

It is the chart's ``settings.json`` (``templates/_facts.tpl``, ``_config.tpl``), key by key, so that ``check``, ``plan``
for given values, ``preflight`` by hand and the monitor say what pods do; a property test holds the two equal. The same
sheet lies in a run's record (``run.json``), and parts of it are annotations of the job. What a run says of itself, its
own architecture among it, is never read from the catalog again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from neva_pretrain import chart
from neva_pretrain.chart.access import (
    READ_ONLY_VOLUMES,
    Values,
    preparing,
    rdma_enabled,
    read_only,
    section,
    without_nulls,
)
from neva_pretrain.chart.values import complete
from neva_pretrain.model import catalog, hydra
from neva_pretrain.plan import recorded
from neva_pretrain.plan.plan import Plan
from neva_pretrain.plan.setup import Setup

PREPARE_STEPS = ("tokenizer", "vision", "llm", "dataset")


def below(folder: str, path: str) -> str:
    """Return a path of the values: an absolute one is itself, any other lies below its folder."""
    return path if path.startswith("/") else f"{folder.removesuffix('/')}/{path}"


def results_in(path: str) -> dict[str, str]:
    """Return the folders of a run."""
    return {"path": path, "logDir": f"{path}/results", "checkpointsDir": f"{path}/results/checkpoints"}


@dataclass(frozen=True)
class Facts:
    """Complete values of a run, and what follows from them: each worked out once, when it is first asked for.

    All but :attr:`plan` needs a model of the catalog; :attr:`setup` values that obey the rules.

    Attributes:
        values: a file over the chart's defaults.
        release: the release's name, which names the run where nothing else does.
        namespace: its namespace.
    """

    values: Values
    release: str = ""
    namespace: str = ""

    @classmethod
    def of(cls, partial: Values) -> Self:
        """Return the facts of a values file."""
        return cls(complete(partial))

    @cached_property
    def shaped(self) -> Values:
        """The values without nulls, as rules see them: a null key counts as missing."""
        return without_nulls(self.values)

    @cached_property
    def plan(self) -> Plan:
        """The sizes of the run."""
        return Plan.from_values(self.values)

    @cached_property
    def model(self) -> catalog.Model:
        """The model of the catalog; its shape may differ, see :attr:`architecture`."""
        return catalog.get(self.values["model"]["name"])

    @cached_property
    def shape(self) -> dict[str, Any]:
        """The language model's shape, in the catalog's words: its own where ``model.architecture`` says so."""
        given = section(self.values, "model", "architecture")
        return {**self._entry["architecture"], **{key: value for key, value in given.items() if value is not None}}

    @cached_property
    def architecture(self) -> catalog.Architecture:
        """The same as a record."""
        return catalog.architecture_from(self.shape)

    @property
    def run_id(self) -> str:
        """What names the results folder: ``run.id``, else the full name."""
        return str(section(self.values, "run").get("id") or self.values.get("fullnameOverride") or self.release)

    @property
    def hub_home(self) -> str:
        """HF_HOME."""
        scratch = self.values["storage"]["scratch"]["mountPath"]
        return str(section(self.values, "hf").get("home") or f"{scratch}/huggingface")

    @property
    def image(self) -> str:
        """The container's image."""
        said = self.values["image"]
        return f"{said['repository']}@{said['digest']}" if said.get("digest") else f"{said['repository']}:{said['tag']}"

    @cached_property
    def setup(self) -> Setup:
        """What memory and time of a step depend on."""
        said = {key: self.values[key] for key in ("training", "checkpoint")}
        if found := recorded.setup({**said, "model": {"name": self.model.name}, "architecture": self.shape}):
            return found
        raise ValueError("values that break the rules")

    @cached_property
    def sheet(self) -> dict[str, Any]:
        """The fact sheet, as the chart's ``settings.json`` has it."""
        values, plan, model = self.values, self.plan, self._entry
        given, data, training = values["model"], values["data"], values["training"]
        tower = chart.models()["visionEncoders"][model["visionEncoder"]]
        sheet = {
            "run": {
                "id": self.run_id,
                "release": self.release,
                "namespace": self.namespace,
                "attempt": section(values, "run").get("attempt") or 1,
            },
            "image": self.image,
            "model": {
                "name": self.model.name,
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
            "architecture": self.shape,
            "llm": hydra.llm(values, self.model),
            "samples": hydra.samples(values, self.model),
            "vision": dict(tower),
            "training": dict(training),
            "derived": {
                "worldSize": plan.gpus,
                "dataParallelSize": plan.data_parallel_size,
                "accumulationSteps": plan.accumulation_steps,
                "paddedVocabSize": self.architecture.padded_vocab_size(plan.tensor_parallel_size),
            },
            "data": {
                "annotations": below(data["path"], data["annotations"]),
                "images": below(data["path"], data["images"]),
                "workers": data["workers"],
            },
            "results": results_in(f"{values['storage']['results']['mountPath']}/{self.run_id}"),
            "readOnly": [values["storage"][name]["mountPath"] for name in READ_ONLY_VOLUMES if read_only(values, name)],
            "rdma": rdma_enabled(values),
            "hf": {"online": bool(section(values, "hf").get("online")), "home": self.hub_home},
            "resume": values["checkpoint"]["resume"],
            "checkpoint": {key: values["checkpoint"][key] for key in ("enabled", "everyNSteps")},
            "preflight": _without(values["preflight"], "enabled", "resources"),
            "plan": _without(section(values, "monitoring", "plan")),
            "rendezvous": {
                "timeoutSeconds": values["rendezvous"]["timeoutSeconds"],
                "ncclTimeoutSeconds": chart.rules()["ncclTimeoutSeconds"],
            },
            "restart": {
                **values["restart"],
                "port": int(values["rendezvous"]["port"]) + 1,
                "graceSeconds": values["terminationGracePeriodSeconds"],
            },
        }
        if preparing(values):
            prepare = values["prepare"]
            steps = {step: dict(prepare[step]) for step in PREPARE_STEPS}
            steps["vision"]["source"] = steps["vision"]["source"] or tower["path"]
            sheet["prepare"] = steps
        return sheet

    @property
    def _entry(self) -> Mapping[str, Any]:
        """The model as the catalog's file has it."""
        found: Mapping[str, Any] = chart.models()["models"][self.model.name]
        return found


def _without(given: Values, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None and key not in keys}
