"""The rendered configuration of each model against NVIDIA's preset, key by key; each difference has its reason."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from omegaconf import OmegaConf

from tests.chart import helm

FOLDER = helm.ROOT / "tests" / "data" / "presets"
MODELS: dict[str, dict[str, Any]] = yaml.safe_load((helm.CHART / "files" / "models.yaml").read_text())["models"]
SECTIONS = ("trainer", "exp_manager", "model")
ALL = frozenset(MODELS)
ABSENT = "not there"


class Difference(NamedTuple):
    """One key that is not NVIDIA's, on purpose: for which models, NVIDIA's value and ours, and why."""

    key: str
    models: frozenset[str]
    theirs: Any
    ours: Any
    why: str


class AnyText:
    """Equal to every text that is not empty: a path or a name of one site or run."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "some text"


TEXT = AnyText()
LLAMA_3 = frozenset({"llama3_8b_chat", "llama3_70b_chat"})
CALLBACK = "exp_manager.checkpoint_callback_params"
DIFFERENCES = [
    # Paths and names of a site or a run.
    Difference("exp_manager.explicit_log_dir", ALL, TEXT, TEXT, "run.id below storage.results"),
    Difference("exp_manager.wandb_logger_kwargs.name", ALL, TEXT, TEXT, "run.id"),
    Difference("model.mm_cfg.llm.from_pretrained", ALL, TEXT, TEXT, "model.llmPath; the Llama 3 presets name Llama 2"),
    Difference("model.mm_cfg.vision_encoder.from_pretrained", ALL, TEXT, TEXT, "a folder: pods have no internet"),
    Difference("model.tokenizer.model", ALL - LLAMA_3, TEXT, TEXT, "a file in model.llmPath"),
    Difference("model.tokenizer.type", LLAMA_3, TEXT, TEXT, "a folder in model.llmPath: pods have no internet"),
    Difference("model.data.data_path", ALL, TEXT, TEXT, "data.annotations"),
    Difference("model.data.image_folder", ALL, TEXT, TEXT, "data.images"),
    # Checkpoints without validation (D01).
    Difference("trainer.limit_val_batches", ALL, 50, 0, "no validation set is configured"),
    Difference(f"{CALLBACK}.monitor", ALL, "val_loss", "step", "no validation, so no val_loss"),
    Difference(f"{CALLBACK}.mode", ALL, "min", "max", "the newest step is kept"),
    Difference(f"{CALLBACK}.filename", ALL, TEXT, "neva--{step}-{consumed_samples}", "no val_loss to name"),
    Difference(f"{CALLBACK}.save_top_k", ALL, 10, 2, "checkpoint.saveTopK; ten full models fill a disk"),
    Difference(f"{CALLBACK}.save_last", ALL, ABSENT, True, "what a restart resumes from"),
    Difference(f"{CALLBACK}.every_n_train_steps", ALL, ABSENT, 217, "checkpoint.everyNSteps: not tied to validation"),
    Difference(f"{CALLBACK}.every_n_epochs", ALL, ABSENT, None, "excludes every_n_train_steps"),
    # The model.
    Difference("model.num_query_groups", frozenset({"llama2_7b_chat"}), None, 32, "null means one for each head"),
    Difference("model.num_query_groups", frozenset({"llama2_13b_chat"}), None, 40, "null means one for each head"),
    Difference(
        "model.rotary_base",
        LLAMA_3,
        ABSENT,
        500_000,
        "rope_theta of Llama 3's published config.json; without it NeMo takes 10000, not what the weights learned",
    ),
    Difference(
        "model.window_size",
        frozenset({"mistral_7b_instruct"}),
        [4096, 0],
        ABSENT,
        "v0.1's window beside v0.2's rotary_base of 1e6, which no published Mistral has; ours is v0.2 (N01)",
    ),
    Difference(
        "model.mm_cfg.vision_encoder.crop_size",
        frozenset({"llama2_70b_chat"}),
        ABSENT,
        [336, 336],
        "as in the other presets of this tower",
    ),
    Difference("model.apply_rope_fusion", ALL, ABSENT, False, "training.kernels; off is Megatron-core's default"),
    Difference("model.tokenizer.additional_special_tokens", ALL, ABSENT, None, "none is NeMo's default"),
    Difference("model.data.packed_sequence", ALL, ABSENT, False, "off is NeMo's default"),
    # What a value says for all models.
    Difference(
        "trainer.log_every_n_steps",
        frozenset({"nemotron4_340b_chat"}),
        1,
        10,
        "training.logEveryNSteps has one default for all models",
    ),
]


def flat(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; lists are values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def theirs(name: str) -> dict[str, Any]:
    """Return NVIDIA's preset with its interpolations resolved."""
    OmegaConf.register_new_resolver("multiply", lambda a, b: a * b, replace=True)
    facts: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    tree: dict[str, Any] = {
        "data_dir": "/data",
        "training": {"run": {"name": f"neva_{name}", "results_dir": f"/results/neva_{name}"}},
    }
    for key, value in facts.items():
        *parents, last = key.split(".")
        node = tree["training"]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    assert isinstance(resolved, dict)
    return {k: v for k, v in flat(resolved["training"]) if k.split(".")[0] in SECTIONS}


def ours(name: str) -> dict[str, Any]:
    """Return what the chart renders for the preset's nodes, batch sizes and parallelism."""
    nodes = 4 if name == "nemotron4_340b_chat" else 2
    training = {"nodes": nodes, "globalBatchSize": 256, "kernels": "reference", **MODELS[name]["preset"]}
    manifests = helm.render({"model": {"name": name}, "training": training})
    config = OmegaConf.to_container(OmegaConf.create(helm.config_data(manifests)["neva_pretrain.yaml"]))
    assert isinstance(config, dict)
    return {k: v for k, v in flat(config) if k.split(".")[0] in SECTIONS}


def compare(nvidia: dict[str, Any], chart: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return NVIDIA's value and ours for each key where they are not the same."""
    found = {}
    for key in sorted(nvidia.keys() | chart.keys()):
        pair = nvidia.get(key, ABSENT), chart.get(key, ABSENT)
        if pair[0] != pair[1] or isinstance(pair[0], bool) != isinstance(pair[1], bool):
            found[key] = pair
    return found


@pytest.mark.parametrize("name", sorted(MODELS))
def test_only_the_named_keys_differ_from_nvidias_preset(name: str) -> None:
    found = compare(theirs(name), ours(name))
    named = {d.key: d for d in DIFFERENCES if name in d.models}
    unexplained = {key: pair for key, pair in found.items() if key not in named}
    assert not unexplained, "NVIDIA's value, ours"
    for key, difference in named.items():
        assert key in found, f"{key} is the same as NVIDIA's: the table is out of date"
        assert found[key] == (difference.theirs, difference.ours), key


def test_a_changed_value_is_seen() -> None:
    nvidia = theirs("llama2_7b_chat")
    assert compare(nvidia, nvidia) == {}
    assert compare(nvidia, {**nvidia, "model.bias": 0}) == {"model.bias": (False, 0)}
    assert compare(nvidia, {**nvidia, "model.new": 1}) == {"model.new": (ABSENT, 1)}


def test_every_model_has_its_preset_and_every_difference_its_reason() -> None:
    assert {file.stem for file in Path(FOLDER).glob("*.json")} == ALL
    assert all(d.why and d.models <= ALL for d in DIFFERENCES)
    pairs = [(d.key, model) for d in DIFFERENCES for model in d.models]
    assert len(pairs) == len(set(pairs)), "a difference is named twice"
