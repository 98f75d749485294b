"""A language model as the Hugging Face hub has it, in Megatron Core's names."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from neva_pod.findings import ProblemError, brief, show, some
from neva_pod.inputs.files import inside, is_lfs_pointer, lfs_pointer, read_object
from neva_pod.inputs.megatron import Model, Place, Size
from neva_pod.inputs.weights import Shape, file_shapes
from neva_pod.prepare.blocks import Chunk, Tensors, block
from neva_pod.prepare.hub import model_files
from neva_pod.prepare.publish import exists

KINDS = ("llama", "mistral", "mixtral")
"""``model_type`` of those whose layers are Megatron Core's."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEXES = {".safetensors": "model.safetensors.index.json", ".bin": "pytorch_model.bin.index.json"}
AGAIN = "copy the repository again"


def read_config(source: str) -> dict[str, Any]:
    """Read config.json of a model that can be converted."""
    path = os.path.join(source, "config.json")
    if not os.path.exists(path):
        raise ProblemError(
            f"{show(source)}: has no config.json", "name a local folder with the model's whole repository"
        )
    config = read_object(path)
    if config.get("model_type") not in KINDS:
        raise ProblemError(
            f"{show(path)}: model_type is {brief(config.get('model_type'))}; must be among {', '.join(KINDS)}",
            "name a NeMo checkpoint of this model in prepare.llm.source",
        )
    return config


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json says of RoPE: at its top, in ``rope_scaling``, and as transformers 5 writes it.

    Null says nothing. Parameters for each type of layers are named as a kind, which no model here has.
    """
    found: dict[str, Any] = {}
    for key in ("rope_parameters", "rope_scaling"):
        said = config.get(key)
        given = said if isinstance(said, dict) else {"rope_type": said}
        if any(isinstance(value, dict) for value in given.values()):
            given = {"rope_type": "one for each type of layers"}
        if given.get("rope_type") is None:
            given = {**given, "rope_type": given.get("type")}
        found |= {name: value for name, value in given.items() if value is not None}
    tops = ("rope_theta", "partial_rotary_factor")
    return found | {name: config[name] for name in tops if config.get(name) is not None}


def megatron_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json in Megatron's names, as NeMo's model_config.yaml has them."""
    rope = _rope(config)
    kind, factor = rope.get("rope_type", "default"), rope.get("factor")
    linear = kind == "linear" and factor is not None
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    act = config.get("hidden_act", "silu")
    made = {
        "mcore_gpt": True,
        "transformer_engine": True,
        "num_moe_experts": config.get("num_local_experts"),
        "activation": "fast-swiglu" if act == "silu" else act,
        "normalization": "rmsnorm",
        "position_embedding_type": "rope",
        "rotary_percentage": rope.get("partial_rotary_factor", 1.0),
        "rotary_base": rope.get("rope_theta", 10000.0),
        "seq_len_interpolation_factor": factor if linear else None,
        "rope_scaling": None if linear or kind == "default" else kind,
        "window_size": [window, 0] if window else None,
        "bias": False,
        "qkv_bias": bool(config.get("attention_bias")),
        "share_embeddings_and_output_weights": False,  # tied ones are written twice
    }
    names = {
        "num_hidden_layers": "num_layers",
        "hidden_size": "hidden_size",
        "intermediate_size": "ffn_hidden_size",
        "num_attention_heads": "num_attention_heads",
        "num_key_value_heads": "num_query_groups",
        "max_position_embeddings": "max_position_embeddings",
        "rms_norm_eps": "layernorm_epsilon",
        "initializer_range": "init_method_std",
        "head_dim": "kv_channels",
        "num_experts_per_tok": "moe_router_topk",
    }
    return made | {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs) is not None}


def read_tensors(source: str) -> Tensors:
    """Read names and shapes of all weights: by the index's files, or all files that are there.

    Raises:
        ProblemError: some are missing, cut or damaged, or are pointers of git LFS.

    """
    files = [n for n in model_files(os.listdir(source)) if n.endswith(tuple(INDEXES))]
    places: dict[str, str] = {}
    for kind, index in INDEXES.items():
        if exists(source, index) and (not files or files[0].endswith(kind)):
            found = read_object(os.path.join(source, index)).get("weight_map")
            if not isinstance(found, dict) or not all(isinstance(v, str) and inside(v) for v in found.values()):
                raise ProblemError(f"{show(source)}/{index}: weight_map must name a file for each tensor", AGAIN)
            places, files = found, sorted(set(found.values()))
    missing = [n for n in files if not exists(source, n)]
    if missing or not files:
        raise ProblemError(
            f"{show(source)}: weights are missing: {some(missing) or 'no *.safetensors, no *.bin'}", AGAIN
        )
    tensors: dict[str, tuple[str, Size]] = {}
    for file in files:
        path = os.path.join(source, file)
        shapes = read_shapes(path)
        absent = [n for n, place in places.items() if place == file and n not in shapes]
        if absent:
            raise ProblemError(f"{show(path)}: has no tensor {some(absent)}, which the index places there", AGAIN)
        tensors |= {n: (path, tuple(s)) for n, s in shapes.items() if places.get(n, file) == file}
    return Tensors(source, tensors)


def read_shapes(path: str) -> dict[str, Shape]:
    """Return name and shape of a file's tensors, by its index."""
    if is_lfs_pointer(path):
        raise ProblemError.of(lfs_pointer(path))
    return file_shapes(path, AGAIN)


def chunks_of_folder(source: str, config: Mapping[str, Any], model: Model) -> Iterator[Chunk]:
    """Return the blocks of the checkpoint, in the order of the layers.

    Raises:
        ProblemError: a tensor is missing, has another shape, or has no place in the model.

    """
    tensors, h = read_tensors(source), model.hidden
    q, kv = model.heads * model.channels, model.groups * model.channels
    embedding = tensors.take(EMBEDDING, config.get("vocab_size", 0), h)
    yield block("embedding.word_embeddings.weight", (), [embedding])
    for layer in range(model.layers):
        ours, theirs, place = "decoder.layers", f"model.layers.{layer}", ((layer, model.layers),)
        heads = [tensors.take(f"{theirs}.self_attn.{n}_proj.weight", r, h) for n, r in (("q", q), ("k", kv), ("v", kv))]
        yield block(f"{ours}.self_attention.linear_qkv.weight", place, heads, model.groups)
        norm = tensors.take(f"{theirs}.input_layernorm.weight", h)
        yield block(f"{ours}.self_attention.linear_qkv.layer_norm_weight", place, [norm])
        out = tensors.take(f"{theirs}.self_attn.o_proj.weight", h, q)
        yield block(f"{ours}.self_attention.linear_proj.weight", place, [out])
        norm = tensors.take(f"{theirs}.post_attention_layernorm.weight", h)
        if model.dense:
            yield block(f"{ours}.mlp.linear_fc1.layer_norm_weight", place, [norm])
            names = tuple(f"{theirs}.mlp.{n}_proj.weight" for n in ("gate", "up", "down"))
            yield from _mlp(tensors, model, f"{ours}.mlp", place, names)
        else:
            yield block(f"{ours}.pre_mlp_layernorm.weight", place, [norm])
            router = tensors.take(f"{theirs}.block_sparse_moe.gate.weight", model.experts, h)
            yield block(f"{ours}.mlp.router.weight", place, [router])
            for expert in range(model.experts):
                names = tuple(f"{theirs}.block_sparse_moe.experts.{expert}.w{n}.weight" for n in (1, 3, 2))
                at = (*place, (expert, model.experts))
                yield from _mlp(tensors, model, f"{ours}.mlp.experts.experts", at, names)
        tensors.drop(f"{theirs}.self_attn.rotary_emb.inv_freq")  # follows from the configuration
    yield block("decoder.final_layernorm.weight", (), [tensors.take("model.norm.weight", h)])
    tied = config.get("tie_word_embeddings") is True or HEAD not in tensors
    yield block("output_layer.weight", (), [embedding if tied else tensors.take(HEAD, *embedding.shape)])
    tensors.drop(HEAD)
    tensors.end()


def _mlp(tensors: Tensors, model: Model, ours: str, place: Place, names: tuple[str, ...]) -> Iterator[Chunk]:
    """Return an MLP's blocks: gate above up in one tensor, then down."""
    h, ffn = model.hidden, model.ffn
    gate, up, down = names
    for row, name in ((0, gate), (ffn, up)):
        part = tensors.take(name, ffn, h)
        yield block(f"{ours}.linear_fc1.weight", place, [part], of=(2 * ffn, h), at=(row, 0))
    yield block(f"{ours}.linear_fc2.weight", place, [tensors.take(down, h, ffn)])
