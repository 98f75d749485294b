"""`config` cannot say again what a value says: the list of owned keys is what the chart computes from values."""

from typing import Any

import pytest

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.check import rules
from neva_pretrain.facts import Facts
from neva_pretrain.model import catalog
from tests.chart import batch

OWNED: dict[str, str] = chart.rules()["ownedConfig"]
# Nothing computes them, and they would undo what is computed.
UNDO = {
    "defaults",
    "trainer.enable_checkpointing",
    "trainer.accumulate_grad_batches",
    "trainer.accelerator",
    "trainer.fast_dev_run",
    "trainer.limit_train_batches",
    "trainer.logger",
    "trainer.max_epochs",
    "trainer.overfit_batches",
    "exp_manager.create_preemption_callback",
    "exp_manager.wandb_logger_kwargs.offline",
    "exp_manager.exp_dir",
    "exp_manager.resume_from_checkpoint",
    "exp_manager.resume_past_end",
    "exp_manager.checkpoint_callback_params.dirpath",
    "exp_manager.checkpoint_callback_params.every_n_epochs",
    "exp_manager.checkpoint_callback_params.filename",
    "exp_manager.checkpoint_callback_params.save_last",
    "exp_manager.checkpoint_callback_params.save_weights_only",
    "exp_manager.checkpoint_callback_params.train_time_interval",
    "model.resume_from_checkpoint",
    "model.fp8_e4m3",
    "model.virtual_pipeline_model_parallel_size",
    "model.context_parallel_size",
    "model.expert_model_parallel_size",
}
OTHER: dict[str, dict[str, Any]] = {
    "training": {
        "nodes": 2, "gpusPerNode": 4, "tensorParallelSize": 2, "pipelineParallelSize": 2, "microBatchSize": 16,
        "globalBatchSize": 512, "maxSteps": 999, "warmupSteps": 3, "learningRate": 0.5, "minLearningRate": 1e-6,
        "precision": "bf16-mixed", "sequenceParallel": True, "recompute": "full", "kernels": "fused", "seed": 9,
        "logEveryNSteps": 3, "gpu": "h200-141gb",
    },
    "model": {
        "llmPath": "/models/preset/z", "checkpoint": "z", "checkpointFormat": "distributed", "tokenizer": "z",
        "visionEncoderPath": "/models/preset/z",
    },
    "data": {"path": "/datasets/preset/z", "annotations": "z", "images": "z", "workers": 3},
    "checkpoint": {"enabled": False, "everyNSteps": 7, "saveTopK": 9, "resume": "require"},
    "wandb": {"enabled": True, "project": "z", "entity": "z", "mode": "offline"},
    "run": {"id": "z", "attempt": 2},
}  # fmt: skip
ARCHITECTURE = {
    "numLayers": 16, "hiddenSize": 2048, "ffnHiddenSize": 512, "numAttentionHeads": 16, "numQueryGroups": 16,
    "vocabSize": 99, "encoderSeqLength": 2048, "gatedMlp": False, "numExperts": 2, "expertsPerToken": 2,
    "rotaryBase": 1e6,
}  # fmt: skip
FACTS = '(include "neva-pretrain.uncheckedFacts" $root | fromJson)'
HYDRA = f'{{{{ include "neva-pretrain.hydra" (dict "root" $root "facts" {FACTS}) | fromYaml | toJson }}}}'


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {k: v for name, node in tree.items() for k, v in leaves(node, f"{path}.{name}".removeprefix(".")).items()}


@pytest.mark.helm
def test_k19_owned_keys_are_the_leaves_that_change_when_values_change() -> None:
    """Each value changed alone, each model, and a catalog in which all that a model fixes is another."""
    partial: list[dict[str, Any]] = [{}]
    partial += [{section: {key: value}} for section, keys in OTHER.items() for key, value in keys.items()]
    partial += [{"model": {"architecture": {key: value}}} for key, value in ARCHITECTURE.items()]
    partial += [{"model": {"name": name}} for name in catalog.names()]
    partial += [
        {"checkpoint": {"resume": "never"}},
        {"training": {"recompute": "selective"}},
        {"training": {"kernels": "fp8"}},
    ]
    partial += [{"wandb": {"enabled": True, "entity": "z"}}, {"storage": {"results": {"mountPath": "/z"}}}]
    for key in OTHER:
        assert key == "wandb" or set(chart.defaults()[key]) - {"name", "architecture"} == set(OTHER[key]) - {"name"}
    assert set(ARCHITECTURE) == set(chart.schema()["properties"]["model"]["properties"]["architecture"]["properties"])
    before, *after = [leaves(found) for found in batch.evaluate([values.complete(p) for p in partial], HYDRA)]
    text = chart.path("files/models.yaml").read_text()
    for old, new in (
        ("patchSize: 14", "patchSize: 7"),
        ("classTokens: 1", "classTokens: 3"),
        ("imageSize: 336", "imageSize: 9"),
    ):
        assert old in text
        text = text.replace(old, new)
    after += [leaves(found) for found in batch.evaluate([values.complete({})], HYDRA, {"files/models.yaml": text})]
    changed = {key for found in after for key in found | before if found.get(key, "") != before.get(key, "")}
    presets = {key for model in chart.models()["models"].values() for key in leaves(model["hydra"])}
    computed = changed - (presets - {"model.rotary_base", "model.max_position_embeddings"})
    assert computed == set(OWNED) - UNDO


def nested(keys: list[str], value: Any) -> Any:
    return {keys[0]: nested(keys[1:], value)} if keys else value


@pytest.mark.slow
def test_k19_owned_keys_are_refused_whatever_they_hold_and_their_parents_stay_maps() -> None:
    value: Any
    for path in OWNED:
        keys = path.split(".")
        for value in (None, 3, [], "x", {"a": 1}):
            for depth in range(1 if not isinstance(value, dict) else len(keys), len(keys) + 1):
                complete = values.complete({"config": nested(keys[:depth], value)})
                found = [str(v) for v in rules.violations(Facts(complete))]
                assert [v for v in found if v.startswith(f"config.{'.'.join(keys[:depth])}: got ")], (
                    path,
                    depth,
                    value,
                )


@pytest.mark.helm
def test_k19_the_chart_says_the_same() -> None:
    tried = [nested(path.split(".")[: 1 + at % 4], [None, 3, [], {"a": 1}][at % 4]) for at, path in enumerate(OWNED)]
    cases = [values.complete({"config": tree}) for tree in tried[::3]]
    assert batch.violations(cases) == [[str(v) for v in rules.violations(Facts(case))] for case in cases]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"trainer.devices": 4}, "config: got the key trainer.devices; must have plain keys"),
        ({"model": {"optim.lr": 1}}, "config.model: got the key optim.lr; "),
        ({"+trainer": {}}, "config: got the key +trainer; "),
        ({"++trainer.x": 1}, "config: got the key ++trainer.x; "),
        ({"~model": None}, "config: got the key ~model; "),
        ({"a": [{"b": {"c.d": 1}}]}, "config.a[0].b: got the key c.d; "),
        ({"model": {"mm_cfg": None}}, "config.model.mm_cfg: got null; must be a map"),
        ({"exp_manager": 0}, "config.exp_manager: got 0; must be a map"),
    ],
)
def test_k19_no_other_spelling_passes(config: dict[str, Any], key: str) -> None:
    (sentence,) = [str(v) for v in rules.violations(Facts({**values.complete({}), "config": config}))]
    assert sentence.startswith(key)


def test_free_keys_pass() -> None:
    config = {"model": {"hidden_dropout": 0.1, "new": {"x": [1, {"y": None}]}}, "trainer": {"profiler": None}}
    assert rules.violations(Facts({**values.complete({}), "config": config})) == []
