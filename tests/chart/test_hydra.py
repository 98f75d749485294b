"""The rendered neva_pretrain.yaml, read by the real Hydra as NeMo's script reads it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tests.chart import helm

CATALOG: dict[str, Any] = yaml.safe_load((helm.CHART / "files" / "models.yaml").read_text())
MODELS: dict[str, dict[str, Any]] = CATALOG["models"]


def composed(folder: Path, values: dict[str, Any] | None = None) -> DictConfig:
    """What NeMo's script gets from --config-path and --config-name."""
    text = helm.config_data(helm.render(values))["neva_pretrain.yaml"]
    (folder / "neva_pretrain.yaml").write_text(text)
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        config = compose(config_name="neva_pretrain.yaml")
    OmegaConf.resolve(config)
    return config


def preset(name: str) -> dict[str, Any]:
    """Values of NVIDIA's preset of a model on as many nodes as it needs."""
    sizes = MODELS[name]["preset"]
    nodes = max(1, sizes["tensorParallelSize"] * sizes["pipelineParallelSize"] // 8)
    training = {"nodes": nodes, "globalBatchSize": 256, **sizes}
    return {"model": {"name": name}, "training": training}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_composes(name: str, tmp_path: Path) -> None:
    config = composed(tmp_path, preset(name))
    entry = MODELS[name]
    architecture, sizes = entry["architecture"], entry["preset"]
    model = config.model
    assert model.num_layers == architecture["numLayers"]
    assert model.hidden_size == architecture["hiddenSize"]
    assert model.ffn_hidden_size == architecture["ffnHiddenSize"]
    assert model.num_attention_heads == architecture["numAttentionHeads"]
    assert model.num_query_groups == architecture["numQueryGroups"]
    assert model.encoder_seq_length == architecture["encoderSeqLength"]
    assert model.tensor_model_parallel_size == sizes["tensorParallelSize"]
    assert model.pipeline_model_parallel_size == sizes["pipelineParallelSize"]
    assert model.micro_batch_size == sizes["microBatchSize"]
    assert model.sequence_parallel is sizes.get("sequenceParallel", False)
    assert model.mm_cfg.llm.model_type == entry["modelType"]
    assert model.mm_cfg.mm_mlp_adapter_type == entry["projector"]
    parallel = sizes["tensorParallelSize"] * sizes["pipelineParallelSize"]
    assert config.exp_manager.checkpoint_callback_params.model_parallel_size == parallel
    if architecture["numExperts"] > 1:
        assert model.num_moe_experts == architecture["numExperts"]
        assert model.moe_router_topk == architecture["expertsPerToken"]
    else:
        assert "num_moe_experts" not in model


@pytest.mark.parametrize("name", MODELS)
def test_every_models_own_keys_are_there(name: str, tmp_path: Path) -> None:
    config = composed(tmp_path, preset(name))
    owned = {("trainer", "log_every_n_steps")}  # training.logEveryNSteps says it

    def check(expected: dict[str, Any], actual: Any, path: tuple[str, ...] = ()) -> None:
        for key, value in expected.items():
            if isinstance(value, dict):
                check(value, actual[key], (*path, key))
            elif (*path, key) not in owned:
                assert actual[key] == value, ".".join((*path, key))

    check(MODELS[name]["hydra"], config)


@pytest.mark.parametrize("name", MODELS)
def test_the_tokenizer_is_a_file_or_a_folder(name: str, tmp_path: Path) -> None:
    tokenizer = composed(tmp_path, preset(name)).model.tokenizer
    expected = f"/models/preset/scitix/hf-to-nemo/Llama-2-7b-chat/{MODELS[name]['checkpoint']['tokenizer']}"
    if MODELS[name]["tokenizer"]["library"] == "huggingface":
        assert (tokenizer.library, tokenizer.type, tokenizer.model) == ("huggingface", expected, None)
    else:
        assert (tokenizer.library, tokenizer.type, tokenizer.model) == ("sentencepiece", None, expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_vision_encoder_is_the_models(name: str, tmp_path: Path) -> None:
    tower = CATALOG["visionEncoders"][MODELS[name]["visionEncoder"]]
    vision = composed(tmp_path, preset(name)).model.mm_cfg.vision_encoder
    assert vision.patch_dim == tower["patchSize"]
    assert list(vision.crop_size) == [tower["imageSize"]] * 2
    assert vision.hidden_size == tower["hiddenSize"]
    assert vision.class_token_length == tower["classTokens"]


def test_numbers_have_the_types_that_nemo_computes_with(tmp_path: Path) -> None:
    training = {"learningRate": 0.00001, "minLearningRate": 1e-9, "maxSteps": 2147483000, "warmupSteps": 20000000}
    config = composed(tmp_path, {"training": training})
    assert (config.model.optim.lr, type(config.model.optim.lr)) == (1e-05, float)
    assert (config.model.optim.sched.min_lr, type(config.model.optim.sched.min_lr)) == (1e-09, float)
    assert (config.model.layernorm_epsilon, type(config.model.layernorm_epsilon)) == (1e-05, float)
    assert (config.trainer.max_steps, type(config.trainer.max_steps)) == (2147483000, int)
    assert (config.model.optim.sched.warmup_steps, type(config.model.optim.sched.warmup_steps)) == (20000000, int)
    assert (config.model.native_amp_init_scale, type(config.model.native_amp_init_scale)) == (4294967296, int)
    assert list(config.model.optim.betas) == [0.9, 0.95]


def test_no_scalar_changed_its_type_on_the_way(tmp_path: Path) -> None:
    base = OmegaConf.load(helm.CHART / "files" / "neva_pretrain.yaml")
    config = composed(tmp_path)

    def check(expected: Any, actual: Any, path: str = "") -> None:
        if isinstance(expected, DictConfig):
            for key in expected:
                check(expected[key], actual[key], f"{path}.{key!s}")
        elif expected is not None and not isinstance(expected, float):
            assert type(actual) is type(expected), path
        elif expected is not None:
            assert isinstance(actual, (int, float)), path
            assert not isinstance(actual, bool), path

    check(base, config)


@pytest.mark.parametrize("enabled", [True, False])
def test_d02_checkpointing_is_one_switch(enabled: bool, tmp_path: Path) -> None:
    config = composed(tmp_path, {"checkpoint": {"enabled": enabled}})
    assert config.trainer.enable_checkpointing is False
    assert config.exp_manager.create_checkpoint_callback is enabled


def test_a04_the_nodes_are_those_of_the_values(tmp_path: Path) -> None:
    config = composed(tmp_path, {"training": {"nodes": 16, "globalBatchSize": 4096}})
    assert (config.trainer.num_nodes, config.trainer.devices) == (16, 8)


@pytest.mark.parametrize(
    "value",
    [False, True, 0, 1, 0.5, None, "", "text", "1e-3", "true", [], [0, None, {"a": 1e-7}], {"new": {"deep": 0}}],
)
def test_config_overrides_win(value: Any, tmp_path: Path) -> None:
    own = {
        "model": {"gradient_accumulation_fusion": value, "mm_cfg": {"brand_new": value}},
        "trainer": {"benchmark": value},
    }
    config = OmegaConf.to_container(composed(tmp_path, {"config": own}))
    assert isinstance(config, dict)
    assert config["model"]["gradient_accumulation_fusion"] == value
    assert type(config["model"]["gradient_accumulation_fusion"]) is type(value)
    assert config["model"]["mm_cfg"]["brand_new"] == value
    assert config["trainer"]["benchmark"] == value
    assert config["model"]["mm_cfg"]["llm"]["freeze"] is True, "the rest stays"


def test_config_may_not_say_what_a_value_says() -> None:
    for path, key in (("trainer", "max_steps"), ("trainer", "num_nodes"), ("model", "global_batch_size")):
        (error,) = helm.render_fails({"config": {path: {key: 1}}})
        assert error.startswith(f"config.{path}.{key}: got 1;")


def test_recompute_and_kernels(tmp_path: Path) -> None:
    model = composed(tmp_path, {"training": {"recompute": "full", "kernels": "fused", "sequenceParallel": True}}).model
    assert model.activations_checkpoint_granularity == "full"
    assert model.activations_checkpoint_method == "uniform"
    assert model.activations_checkpoint_num_layers == 1
    assert (model.bias_activation_fusion, model.apply_rope_fusion, model.sequence_parallel) == (True, True, True)
    assert model.fp8 is False
    model = composed(tmp_path, {"training": {"kernels": "fp8"}}).model
    assert (model.bias_activation_fusion, model.apply_rope_fusion, model.transformer_engine) == (True, True, True)
    assert (model.fp8, model.fp8_e4m3, model.fp8_hybrid) == (True, False, True)
    assert (model.fp8_amax_history_len, model.fp8_amax_compute_algo) == (1024, "max")
    model = composed(tmp_path, {"training": {"recompute": "selective"}}).model
    assert model.activations_checkpoint_granularity == "selective"
    assert model.activations_checkpoint_method is None
