"""What a language model's conversion writes and refuses, by names and shapes alone; numbers are for tests/nemo."""

import itertools
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest

from neva_pod.findings import ProblemError
from neva_pod.inputs import weights
from neva_pod.inputs.checkpoint import read_checkpoint
from neva_pod.inputs.megatron import Model
from neva_pod.inputs.weights import Shape, weight_shapes
from neva_pod.prepare.blocks import Chunk
from neva_pod.prepare.huggingface import chunks_of_folder, megatron_config
from neva_pod.prepare.legacy import chunks_of_ranks
from tests.unit.preflight_tools import (
    config_yaml,
    hub_llama,
    llama_config,
    llama_shapes,
    safetensors,
    torch_dist,
    write_folder,
)

Shapes = dict[str, tuple[int, ...]]
LAYERS = "model.decoder.layers"


def model_of(config: Mapping[str, Any], gated: bool = True) -> Model:
    return Model.of(config, "config", gated)


def planned(folder: Path, config: Mapping[str, Any] | None = None) -> list[Chunk]:
    """Plan the conversion of a folder of the hub's form."""
    config = config or llama_config()
    return list(chunks_of_folder(str(folder), config, model_of(megatron_config(config))))


def write_hub(folder: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Path:
    return write_folder(folder, {"model.safetensors": safetensors(shapes or llama_shapes())})


def assert_whole(chunks: Sequence[Chunk]) -> Shapes:
    """Blocks of a tensor lie beside one another and fill it, and each is what its parts have; return the tensors."""
    for chunk in chunks:
        assert prod(chunk.size) == sum(prod(p.size) for p in chunk.parts), chunk
        assert all(p.size[0] % chunk.groups == 0 for p in chunk.parts)
    for key, group in itertools.groupby(sorted(chunks, key=lambda c: c.key), key=lambda c: c.key):
        blocks = list(group)
        assert len({c.shape for c in blocks}) == 1
        places = [itertools.product(*(range(o, o + n) for o, n in zip(c.offset, c.size, strict=True))) for c in blocks]
        cells = list(itertools.chain(*places))
        assert len(cells) == len(set(cells)) == prod(blocks[0].shape), key
        assert all(place < size for cell in cells for place, size in zip(cell, blocks[0].shape, strict=True))
    return {c.key: c.shape for c in chunks}


class TestHuggingFace:
    def test_r01_tensors_of_a_llama(self, tmp_path: Path) -> None:
        """R01: stacked over layers, gate above up, as Megatron Core 0.8's sharded state dict of NeVa asks for them."""
        shapes = llama_shapes(keys=4)
        config = llama_config(num_key_value_heads=2)
        assert assert_whole(planned(write_hub(tmp_path, shapes), config)) == {
            "model.embedding.word_embeddings.weight": (60, 8),
            f"{LAYERS}.self_attention.linear_qkv.weight": (2, 16, 8),
            f"{LAYERS}.self_attention.linear_qkv.layer_norm_weight": (2, 8),
            f"{LAYERS}.self_attention.linear_proj.weight": (2, 8, 8),
            f"{LAYERS}.mlp.linear_fc1.layer_norm_weight": (2, 8),
            f"{LAYERS}.mlp.linear_fc1.weight": (2, 64, 8),
            f"{LAYERS}.mlp.linear_fc2.weight": (2, 8, 32),
            "model.decoder.final_layernorm.weight": (8,),
            "model.output_layer.weight": (60, 8),
        }

    def test_r01_parts_of_a_block(self, tmp_path: Path) -> None:
        chunks = planned(write_hub(tmp_path, llama_shapes(keys=4)), llama_config(num_key_value_heads=2))
        qkv = next(c for c in chunks if c.key.endswith("linear_qkv.weight") and c.offset[0] == 1)
        assert [p.name for p in qkv.parts] == [f"model.layers.1.self_attn.{n}_proj.weight" for n in "qkv"]
        assert (qkv.groups, qkv.offset, qkv.size) == (2, (1, 0, 0), (1, 16, 8))
        halves = [c for c in chunks if c.key.endswith("linear_fc1.weight") and c.offset[0] == 1]
        assert [(c.parts[0].name.split(".")[-2], c.offset) for c in halves] == [
            ("gate_proj", (1, 0, 0)),
            ("up_proj", (1, 32, 0)),
        ]

    def test_r01_experts(self, tmp_path: Path) -> None:
        """R01: stacked over layers and experts."""
        config = llama_config(model_type="mixtral", num_local_experts=2)
        shapes = {n: s for n, s in llama_shapes().items() if ".mlp." not in n}
        for i in range(2):
            prefix = f"model.layers.{i}.block_sparse_moe"
            shapes[f"{prefix}.gate.weight"] = (2, 8)
            for expert in range(2):
                sizes: Shapes = {"w1": (32, 8), "w2": (8, 32), "w3": (32, 8)}
                shapes |= {f"{prefix}.experts.{expert}.{n}.weight": s for n, s in sizes.items()}
        found = assert_whole(planned(write_hub(tmp_path, shapes), config))
        assert {n: s for n, s in found.items() if "mlp" in n} == {
            f"{LAYERS}.pre_mlp_layernorm.weight": (2, 8),
            f"{LAYERS}.mlp.router.weight": (2, 2, 8),
            f"{LAYERS}.mlp.experts.experts.linear_fc1.weight": (2, 2, 64, 8),
            f"{LAYERS}.mlp.experts.experts.linear_fc2.weight": (2, 2, 8, 32),
        }
        states = list(model_of(megatron_config(config)).extra_states())
        assert f"{LAYERS}.mlp.experts.experts.linear_fc1._extra_state/shard_1.0_2.2" in states
        assert len(states) == 2 * (4 + 2 * 2)

    @pytest.mark.parametrize("says", [True, False])
    @pytest.mark.parametrize("there", [True, False])
    def test_r01_tied_embeddings(self, tmp_path: Path, says: bool, there: bool) -> None:
        """R01: as transformers does, which ignores a head that is there but tied."""
        shapes = llama_shapes()
        if not there:
            del shapes["lm_head.weight"]
        chunks = planned(write_hub(tmp_path, shapes), llama_config(tie_word_embeddings=says))
        (head,) = (c for c in chunks if c.key == "model.output_layer.weight")
        assert head.parts[0].name == ("lm_head.weight" if there and not says else "model.embed_tokens.weight")
        assert megatron_config(llama_config(tie_word_embeddings=says))["share_embeddings_and_output_weights"] is False

    @pytest.mark.parametrize(
        ("says", "expected"),
        [
            ({}, (1.0, 1e4, None, None)),
            ({"rope_theta": 5e5, "partial_rotary_factor": 0.5}, (0.5, 5e5, None, None)),
            (
                {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default", "partial_rotary_factor": 0.5}},
                (0.5, 5e5, None, None),
            ),
            (
                {"rope_scaling": {"type": "linear", "factor": 4, "partial_rotary_factor": 0.5}},
                (0.5, 1e4, 4, None),
            ),
            ({"rope_theta": None, "rope_parameters": {"rope_theta": 5e5}}, (1.0, 5e5, None, None)),
            ({"partial_rotary_factor": None, "rope_theta": None}, (1.0, 1e4, None, None)),
            ({"rope_scaling": {"rope_type": None, "type": "yarn"}}, (1.0, 1e4, None, "yarn")),
            ({"rope_scaling": {"rope_type": "yarn", "type": None}}, (1.0, 1e4, None, "yarn")),
            ({"rope_scaling": {"type": None, "rope_type": None}}, (1.0, 1e4, None, None)),
            ({"rope_scaling": {"rope_type": "linear", "factor": None}}, (1.0, 1e4, None, "linear")),
            (
                {"rope_scaling": {"factor": 2, "type": "linear"}, "rope_parameters": {"rope_theta": 5e5}},
                (1.0, 5e5, 2, None),
            ),
            (
                {"rope_scaling": None, "rope_parameters": {"rope_type": "llama3", "factor": 8}},
                (1.0, 1e4, None, "llama3"),
            ),
            (
                {"rope_parameters": {"full_attention": {"rope_type": "yarn"}, "sliding_attention": {}}},
                (1.0, 1e4, None, "one for each type of layers"),
            ),
        ],
    )
    def test_r01_rope_as_each_transformers_writes_it(self, says: dict[str, Any], expected: tuple[Any, ...]) -> None:
        """R01: what is read past here is lost in silence: the checkpoint's configuration is made of it."""
        made = megatron_config(llama_config(**says))
        keys = ("rotary_percentage", "rotary_base", "seq_len_interpolation_factor", "rope_scaling")
        assert tuple(made[key] for key in keys) == expected

    def test_r01_frequencies_are_passed_over(self, tmp_path: Path) -> None:
        """R01: older repositories have them beside the weights."""
        shapes = llama_shapes() | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (1,) for i in range(2)}
        assert_whole(planned(write_hub(tmp_path, shapes)))

    def test_r01_an_index_names_the_file(self, tmp_path: Path) -> None:
        """R01: what else lies in the folder is not the model's."""
        shapes = llama_shapes()
        files = {f"model-{i}.safetensors": dict(list(shapes.items())[i::2]) for i in range(2)}
        index = {name: file for file, found in files.items() for name in found}
        write_folder(tmp_path, {file: safetensors(found) for file, found in files.items()})
        write_folder(tmp_path, {"consolidated.safetensors": safetensors({"odd": (3,)})})
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        chunks = planned(tmp_path)
        assert {(p.name, Path(p.file).name) for c in chunks for p in c.parts} == set(index.items())
        index["model.norm.weight"] = files_other(index["model.norm.weight"])
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        with pytest.raises(ProblemError, match=r"has no tensor model.norm.weight, which the index places there"):
            planned(tmp_path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"model.layers.1.mlp.up_proj.weight": None}, ": has no tensor model.layers.1.mlp.up_proj.weight"),
            (
                {"model.layers.1.self_attn.k_proj.weight": (4, 8)},
                "/model.safetensors: tensor model.layers.1.self_attn.k_proj.weight has shape [4, 8]; must be [8, 8]",
            ),
            (
                {"model.layers.0.self_attn.q_proj.bias": (8,)},
                "/model.safetensors: the model has no place for tensor model.layers.0.self_attn.q_proj.bias",
            ),
            (
                {"model.layers.2.input_layernorm.weight": (8,)},
                "/model.safetensors: the model has no place for tensor model.layers.2.input_layernorm.weight",
            ),
            ({"model.embed_tokens.weight": (59, 8)}, "model.embed_tokens.weight has shape [59, 8]; must be [60, 8]"),
        ],
    )
    def test_r01_other_weights_are_refused(self, tmp_path: Path, change: dict[str, Any], said: str) -> None:
        """R01: with file and tensor."""
        shapes = {n: s for n, s in {**llama_shapes(), **change}.items() if s is not None}
        with pytest.raises(ProblemError) as problem:
            planned(write_hub(tmp_path, shapes))
        assert f"{tmp_path}" in problem.value.finding.message
        assert said in problem.value.finding.message

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (hub_llama()["model.safetensors"][:-1], r"cut after \d+ bytes, in tensor model.norm.weight"),
            (hub_llama()["model.safetensors"][:100], r"a header of \d+ bytes in a file of 100: cut"),
            (b"", r"unpack requires a buffer of 8 bytes"),
            (b"<html>not found</html>", r"a header of \d+ bytes in a file of 22: cut, or not safetensors"),
            (b"\2\0\0\0\0\0\0\0[]", r"its header is no JSON object"),
            (safetensors(llama_shapes(), "F8_E4M3"), r"is of type F8_E4M3; must be a float of 16 bits or more"),
            (safetensors({"a": (4,)}).replace(b"[4]", b"[5]"), r"tensor a has 8 bytes; must have 10"),
        ],
    )
    def test_r01_a_file_that_is_not_whole(self, tmp_path: Path, content: bytes, said: str) -> None:
        """R01: by its header, before anything is written."""
        write_folder(tmp_path, {"model.safetensors": content})
        with pytest.raises(ProblemError, match=rf"model.safetensors: cut, damaged or of another kind: .*{said}"):
            planned(tmp_path)

    @pytest.mark.parametrize("config", [{"hidden_size": "8"}, {"num_hidden_layers": 2**40}, {"intermediate_size": -1}])
    def test_r01_sizes_that_are_none(self, tmp_path: Path, config: dict[str, Any]) -> None:
        with pytest.raises(ProblemError, match=r"config: \w+ is \S+; must be a size"):
            planned(write_hub(tmp_path), llama_config(**config))


def files_other(name: str) -> str:
    """Return the other of two files."""
    return name.replace("0", "2").replace("1", "0").replace("2", "1")


def megatron(**changes: Any) -> dict[str, Any]:
    """Return a configuration of NeMo's."""
    sizes = {"num_layers": 4, "hidden_size": 8, "ffn_hidden_size": 32, "num_attention_heads": 4, "num_query_groups": 2}
    return {**sizes, "normalization": "rmsnorm", "bias": False, **changes}


def rank_shapes(model: Model, tensor: int, pipeline: int, stage: int) -> Shapes:
    """Return what Megatron Core has on a rank."""
    return {f"model.{name}": size for name, size in model.of_rank(64 // tensor, tensor, pipeline, stage).items()}


@pytest.fixture
def _json_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files of ranks be JSON, name by shape: torch is not here."""
    monkeypatch.setattr(weights, "torch_shapes", lambda file: {n: Shape(s) for n, s in json.load(file).items()})


@pytest.mark.usefixtures("_json_ranks")
class TestLegacy:
    def planned(
        self,
        folder: Path,
        config: Mapping[str, Any],
        tensor: int,
        pipeline: int,
        gated: bool = True,
        change: Mapping[str, Any] | None = None,
    ) -> list[Chunk]:
        """Plan the conversion of ranks, the last of them with a change."""
        model, files = model_of(config, gated), {"model_config.yaml": config_yaml(**config)}
        for t, p in itertools.product(range(tensor), range(pipeline)):
            shapes = rank_shapes(model, tensor, pipeline, p)
            if (t, p) == (tensor - 1, pipeline - 1):
                shapes = {n: s for n, s in {**shapes, **(change or {})}.items() if s}
            place = f"mp_rank_{t:02}" if pipeline == 1 else f"tp_rank_{t:02}_pp_rank_{p:03}"
            place = "" if (tensor, pipeline) == (1, 1) else place
            files[f"{place}/model_weights.ckpt".lstrip("/")] = json.dumps(shapes).encode()
        write_folder(folder, files)
        return list(chunks_of_ranks(str(folder), read_checkpoint(str(folder)), model))

    @pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (2, 2), (1, 4)])
    @pytest.mark.parametrize(
        ("config", "gated"),
        [
            ({}, True),
            ({"num_moe_experts": 2}, True),
            ({"sequence_parallel": True}, True),
            ({"bias": True, "normalization": "layernorm1p"}, False),
            ({"bias": True, "kv_channels": 4}, True),
        ],
    )
    def test_r01_ranks_make_one_model(
        self, tmp_path: Path, config: dict[str, Any], gated: bool, tensor: int, pipeline: int
    ) -> None:
        """R01: whatever TP and PP it was split for, the tensors are the same; E06: with sequence parallelism, too."""
        config = megatron(**config)
        whole = assert_whole(self.planned(tmp_path / "whole", config, 1, 1, gated))
        assert assert_whole(self.planned(tmp_path / "split", config, tensor, pipeline, gated)) == whole
        assert whole[f"{LAYERS}.self_attention.linear_qkv.weight"][0] == 4

    def test_r01_gate_and_up_of_each_rank(self, tmp_path: Path) -> None:
        """R01: a rank has its part of both, one above the other."""
        chunks = self.planned(tmp_path, megatron(), 2, 1)
        found = [c for c in chunks if c.key.endswith("linear_fc1.weight") and c.offset[0] == 3]
        assert [(Path(c.parts[0].file).parent.name, c.parts[0].rows, c.offset[1]) for c in found] == [
            ("mp_rank_00", (0, 16), 0),
            ("mp_rank_00", (16, 32), 32),
            ("mp_rank_01", (0, 16), 16),
            ("mp_rank_01", (16, 32), 48),
        ]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"model.decoder.layers.1.mlp.linear_fc2.weight": None}, ": has no tensor decoder.layers.1.mlp.linear_fc2"),
            ({"model.decoder.layers.1.mlp.linear_fc2.weight": (8, 8)}, r"has shape \[8, 8\]; must be \[8, 16\]"),
            (
                {"model.decoder.layers.0.self_attention.q_layernorm.weight": (2,)},
                "has no place for tensor model.decoder",
            ),
            ({"model.output_layer.weight": None}, "has no tensor output_layer.weight"),
            ({"model.language_model.x": (8,)}, "tensor model.language_model.x is not under Megatron Core's names"),
        ],
    )
    def test_r01_other_ranks_are_refused(self, tmp_path: Path, change: dict[str, Any], said: str) -> None:
        """R01: with the rank's file and the tensor."""
        with pytest.raises(ProblemError, match=rf"tp_rank_01_pp_rank_001/model_weights.ckpt: .*{said}|{said}"):
            self.planned(tmp_path, megatron(), 2, 2, change=change)

    def test_r01_a_tied_head_may_be_missing(self, tmp_path: Path) -> None:
        config = megatron(share_embeddings_and_output_weights=True)
        found = assert_whole(self.planned(tmp_path, config, 1, 2, change={"model.output_layer.weight": None}))
        assert "model.output_layer.weight" not in found

    def test_r01_layers_that_pp_does_not_divide(self, tmp_path: Path) -> None:
        with pytest.raises(ProblemError, match="4 layers cannot be PP 3's"):
            self.planned(tmp_path, megatron(), 1, 3)


def test_r01_what_torch_wrote_is_what_was_planned(tmp_path: Path) -> None:
    """R01: of the checkpoint in tests/data, which prepare made of this Llama where torch is."""
    made = write_folder(tmp_path / "made", torch_dist())
    found = {name: tuple(shape) for name, shape in weight_shapes(read_checkpoint(str(made))).items()}
    assert found == assert_whole(planned(write_hub(tmp_path / "hub")))
