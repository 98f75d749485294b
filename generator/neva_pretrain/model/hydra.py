"""What the run's Hydra config says that no value names: the chart's base, the model's keys, ``config``.

The same merge as ``neva-pretrain.hydra`` in ``templates/_config.tpl``, without the keys that follow from the values.
"""

import copy
from collections.abc import Mapping
from typing import Any

from neva_pretrain import chart
from neva_pretrain.chart.access import Values, mapping, section
from neva_pretrain.model import catalog
from neva_pretrain.model.catalog import Model


def merge(into: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Merge deeply, in place; false, 0 and null win."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def config(values: Values, model: Model) -> dict[str, Any]:
    """Return the merged config of a values file."""
    merged = copy.deepcopy(chart.hydra())
    merge(merged, model.hydra)
    given = {key: value for key, value in section(values, "model", "architecture").items() if value is not None}
    if given.get("numExperts", model.architecture.num_experts) > 1:
        merged["model"]["moe_router_topk"] = given.get("expertsPerToken", model.architecture.experts_per_token)
    if given.get("rotaryBase"):
        merged["model"]["rotary_base"] = given["rotaryBase"]
    merge(merged, section(values, "config"))
    return merged


def activation(values: Values) -> Any:
    """Return the config's activation, also where ``config`` is not what it should be."""
    said = mapping(values, "config", "model")
    return said["activation"] if "activation" in said else own_activation(catalog.get(values["model"]["name"]))


def own_activation(model: Model) -> Any:
    """Return the activation of a model of the catalog."""
    said = mapping(model.hydra, "model")
    return said["activation"] if "activation" in said else chart.hydra()["model"]["activation"]


def llm(values: Values, model: Model) -> dict[str, dict[str, Any]]:
    """Return what the config says under the keys of rules.yaml's ``llmConfig``: ``{key: {run, default}}``."""
    said = config(values, model)["model"]
    facts: dict[str, dict[str, Any]] = copy.deepcopy(chart.rules()["llmConfig"])
    for key, fact in facts.items():
        if key in said:
            fact["run"] = said[key]
        elif "default" in fact:
            fact["run"] = fact["default"]
    return facts


def samples(values: Values, model: Model) -> dict[str, Any]:
    """Return how the config reads samples, as ``neva-pretrain.samples`` in the chart."""
    data = config(values, model)["model"]["data"]
    return {
        "template": data["conv_template"],
        "mediaType": data["media_type"],
        "imageFirst": data["sep_image_conv_front"],
        "loader": data.get("dataloader_type"),
    }
