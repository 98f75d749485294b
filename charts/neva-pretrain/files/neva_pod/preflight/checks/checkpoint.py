"""The language model's checkpoint, by what is inside."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from neva_pod.findings import Finding, brief, failed, note, show, some, warning
from neva_pod.inputs.checkpoint import CONFIG, CONVERT, Checkpoint, rank_files
from neva_pod.inputs.megatron import EMBEDDING, HEAD, Model
from neva_pod.inputs.weights import Shape
from neva_pod.inputs.whole import weights_problems
from neva_pod.preflight.registry import Context, Level, check
from neva_pod.settings import Settings


@check(
    Level.FULL,
    "model.checkpointPath",
    cost="reads the tar's headers or lists the folder, and model_config.yaml; never the weights",
    prevents="a checkpoint of another model, RoPE, TP or PP, another code path, or an incomplete one",
)
def check_checkpoint(context: Context) -> Iterator[Finding]:
    """By what is inside, never by name."""
    found = context.checkpoint()
    yield from layout_problems(context.settings, found)
    if found.config is None:
        yield warning(f"PyYAML is not installed: {CONFIG} is not compared", "use the NeMo image")
    else:
        yield from config_problems(found.config, context.settings.mapping("architecture"))
        yield from llm_problems(found.config, context.settings)
    yield note(str(found))


def layout_problems(settings: Settings, found: Checkpoint) -> Iterator[Finding]:
    """Compare the layout with what is demanded and with the job's TP and PP."""
    demanded = settings.text("model.checkpointFormat", "auto")
    actual = "distributed" if found.distributed else "legacy"
    if demanded not in ("auto", actual):
        yield failed(
            f"{show(found.path)}: is {actual}; model.checkpointFormat requires {demanded}",
            "convert it again, or set model.checkpointFormat=auto",
        )
    tensor, pipeline = (settings.find("training.tensorParallelSize"), settings.find("training.pipelineParallelSize"))
    if found.distributed or tensor is None:
        return
    sizes = found.tensor_parallel, found.pipeline_parallel
    if sizes != (tensor, pipeline or 1):
        yield failed(
            f"{show(found.path)}: is split for TP {found.tensor_parallel} PP "
            f"{found.pipeline_parallel}; must be "
            f"TP {tensor} PP {pipeline or 1}",
            "convert it (prepare.llm), or set "
            f"training.tensorParallelSize={found.tensor_parallel} and "
            f"training.pipelineParallelSize={found.pipeline_parallel}",
        )
        return
    wrong = {name: right for rank, right in rank_files(*sizes).items() if (name := found.ranks[rank]) != right}
    for name, right in itertools.islice(wrong.items(), 1):
        yield failed(
            f"{show(found.path)}: has {show(name)}; NeMo looks for {right} at TP {tensor} PP {pipeline or 1}",
            "rename it, or convert it again (prepare.llm)",
        )


MEGATRON_NAMES = {
    "numLayers": "num_layers",
    "hiddenSize": "hidden_size",
    "ffnHiddenSize": "ffn_hidden_size",
    "numAttentionHeads": "num_attention_heads",
    "numQueryGroups": "num_query_groups",
    "numExperts": "num_moe_experts",
}


def config_problems(
    config: Mapping[str, Any], architecture: Mapping[str, Any], where: str = CONFIG
) -> Iterator[Finding]:
    """Compare a checkpoint's configuration with the architecture, and demand Megatron Core."""
    if config.get("mcore_gpt") is not True:
        yield failed(
            f"{where}: mcore_gpt is {brief(config.get('mcore_gpt'))}; must be true: weights under "
            "other names are ignored "
            "without an error, and the projector is trained against a random language model",
            "convert it again with the 24.07 container",
        )
    unset = {"numQueryGroups": config.get("num_attention_heads"), "numExperts": 1}
    wrong = []
    for key, name in MEGATRON_NAMES.items():
        value = config.get(name)
        value = unset.get(key) if value is None else value
        if architecture.get(key) not in (None, value):
            wrong.append(f"{name} is {brief(value)}, must be {architecture[key]}")
    if wrong:
        yield failed(
            f"{where}: {'; '.join(wrong)}",
            "name the checkpoint of this model, or the model of this checkpoint (model.name)",
        )


VALUES_OF = {"rotary_base": "model.architecture.rotaryBase", "moe_router_topk": "model.architecture.expertsPerToken"}
"""Values that say what others say in ``config``."""
UNREAD = re.compile(
    r"rope(?!.*fusion)|rotary|yarn|position_?emb|positional|window|interpolat|soft_?cap|alibi|embedding_scal|logit_scal"
)
"""Names of what changes attention or embeddings, and NeVa does not read unless rules.yaml's llmConfig lists it."""


def llm_problems(config: Mapping[str, Any], settings: Settings, where: str = CONFIG) -> Iterator[Finding]:
    """Compare what makes the language model another one without an error with the run's Hydra config."""
    facts: Mapping[str, Mapping[str, Any]] = settings.objects("llm")
    dense = config.get("num_moe_experts") in (None, 0, 1)
    names = [
        n
        for n, fact in facts.items()
        if (n in config or "default" in fact) and "run" in fact and not (dense and n.startswith("moe_"))
    ]
    theirs = {n: config.get(n, facts[n].get("default")) for n in names}
    ours = {n: facts[n]["run"] for n in names}
    shape = settings.find("architecture.hiddenSize"), settings.find("architecture.numAttentionHeads")
    left = canonical(theirs, config.get("hidden_size"), config.get("num_attention_heads"))
    right = canonical(ours, *shape)
    wrong = [n for n in names if left[n] != right[n] and (theirs[n] is not None or ours[n] is not None)]
    if wrong:
        said = "; ".join(f"{n} is {brief(theirs[n])}, the run's config says {brief(ours[n])}" for n in wrong)
        yield failed(
            f"{where}: {said}: the weights would load without an error into a different model",
            "name the checkpoint of this model (model.name), or, if intended, set "
            + ", ".join(f"{VALUES_OF.get(n, f'config.model.{n}')}={brief(theirs[n])}" for n in wrong),
        )
    names = [n for n in config if isinstance(n, str) and n not in facts and n != "max_position_embeddings"]
    unread = [n for n in names if UNREAD.search(n[:100])]
    more = [f"{n} {brief(config[n])}" for n in unread if config.get(n) not in (None, False, 0, "", [], {})]
    if facts and more:
        yield failed(
            f"{where}: {some(more)}: NeVa of NeMo 24.07 has no such setting and would run the weights without it",
            "use a model without it, such as the catalog's (model.name)",
        )


def canonical(values: Mapping[str, Any], hidden: Any, heads: Any) -> dict[str, Any]:
    """Return config values so that what NeMo and Megatron take for the same is equal."""
    found = {name: _plain(value) for name, value in values.items()}
    if isinstance(found.get("activation"), str):
        found["activation"] = found["activation"].removeprefix("fast-")
    if found.pop("layernorm_zero_centered_gamma", None) and found.get("normalization") == "layernorm":
        found["normalization"] = "layernorm1p"
    if found.get("moe_router_load_balancing_type") == "none":
        found["moe_router_load_balancing_type"] = "aux_loss"  # the same forward pass
    if found.get("kv_channels") is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        found["kv_channels"] = hidden // heads
    if found.get("seq_len_interpolation_factor") == 1:
        found["seq_len_interpolation_factor"] = None
    window = found.get("window_size")
    if isinstance(window, tuple) and window[:1] == (-1,):
        found["window_size"] = None
    return {name: found.get(name) for name in values}


def _plain(value: Any) -> Any:
    """Return a number for what YAML 1.1 reads as text and OmegaConf as a number, such as 1e-6."""
    if isinstance(value, list):
        return tuple(map(_plain, value))
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value.lower()


def embedding_of(shapes: Mapping[str, Shape]) -> Shape | None:
    """Return rows and columns of the word embeddings."""
    found = shapes.get("model." + EMBEDDING) or shapes.get(EMBEDDING)
    return found if found and len(found) == 2 else None


def model_of(settings: Settings) -> Model:
    """Return the language model that NeMo makes of the run's configuration."""
    sizes = {name: settings.integer(f"architecture.{key}", least=1) for key, name in MEGATRON_NAMES.items()}
    run = {name: fact.get("run") for name, fact in settings.objects("llm").items()}
    return Model.of(sizes | run, "settings", gated=settings.flag("architecture.gatedMlp", True))


_Tensors = tuple[str, Mapping[str, Shape], Mapping[str, tuple[int, ...]]]
"""A file's name, the tensors that it has, and those that the model has there."""


def tensors(context: Context) -> Iterator[_Tensors]:
    """Yield what is compared; of a legacy checkpoint, rank by rank."""
    checkpoint, model = context.checkpoint(), model_of(context.settings)
    sizes = checkpoint.tensor_parallel, checkpoint.pipeline_parallel
    for rank, file in sorted(checkpoint.ranks.items()) or [((0, 0), "model_weights")]:
        shapes = context.shapes(rank)
        if checkpoint.distributed:
            found = {n.removeprefix("model."): s for n, s in shapes.items() if n.startswith("model.")}
            wanted = model.whole(rows_of(found))
        else:
            found = {n.removeprefix("model."): s for n, s in shapes.items()}
            wanted = model.of_rank(rows_of(found), *sizes, stage=rank[1])
        yield show(file), found, wanted


def wrong_shapes(files: Iterable[_Tensors]) -> Iterator[Finding]:
    """Find tensors of another shape than the model's."""
    for file, found, wanted in files:
        wrong = [f"{n} is {brief(found[n])}, must be {brief(s)}" for n, s in wanted.items() if found.get(n, s) != s]
        if wrong:
            yield failed(f"{file}: shapes: {some(wrong)}", "name the checkpoint of this model (model.name)")


def missing_tensors(files: Iterable[_Tensors]) -> Iterator[Finding]:
    """Find what the model has and a file lacks."""
    for file, found, wanted in files:
        missing = [n for n in wanted if n not in found]
        if missing:
            yield failed(
                f"{file} has no tensor {some(missing)}: of a legacy checkpoint NeMo leaves it random, without an error",
                CONVERT,
            )


def are_of_megatron(shapes: Mapping[str, Shape]) -> bool:
    """Tell whether tensors have Megatron Core's names, after the `model.` that NeVa strips."""
    names = {n.removeprefix("model.") for n in shapes}
    old = any(n.startswith("language_model.") for n in names)
    return any(n.startswith("decoder.layers.") for n in names) and not old


def rows_of(shapes: Mapping[str, Shape]) -> int:
    """Return how many rows the vocabulary has: NeMo's padding decided."""
    return (shapes.get(EMBEDDING) or shapes.get(HEAD) or (0,))[0]


@check(
    Level.FULL,
    "model.checkpointPath",
    cost="reads the index of the weights (names and shapes), never the weights",
    prevents="weights whose names do not fit: ignored without an error (loss stays near 10); another model's shapes",
)
def check_weights(context: Context) -> Iterator[Finding]:
    """NeVa's load_llm_weights strips one leading `model.` and loads with strict=False."""
    shapes = context.shapes()
    if not are_of_megatron(shapes):
        yield failed(
            "the weights' names are not Megatron Core's (model.decoder.layers. ...): "
            f"{some(sorted(shapes))}; NeVa "
            "would ignore them without an error",
            "convert it again with the 24.07 container",
        )
        return
    yield from itertools.islice(wrong_shapes(tensors(context)), 1)
    yield note(f"{len(shapes)} tensors under Megatron Core's names")


@check(
    Level.FULL,
    "model.checkpointPath",
    cost="opens each file of the weights and reads a few bytes of each tensor",
    prevents="missing or cut files or tensors: NeMo dies, or trains the projector against zeros or noise",
)
def check_weight_files(context: Context) -> Iterator[Finding]:
    """Each file that the index names is there, with all its bytes, and the index names each tensor of the model."""
    checkpoint = context.checkpoint()
    if lacks := weights_problems(checkpoint):
        yield failed(f"{show(checkpoint.path)}: {some(lacks)}", CONVERT)
    if are_of_megatron(context.shapes()):
        yield from itertools.islice(missing_tensors(tensors(context)), 1)
