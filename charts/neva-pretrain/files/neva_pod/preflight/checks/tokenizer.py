"""The tokenizer, and the vocabulary that it and the weights must agree on."""

from collections.abc import Iterator

from neva_pod.findings import Finding, failed, note, show, some
from neva_pod.inputs.tokenizer import LLAMA_3_TOKENS, piece_problems
from neva_pod.preflight.checks.checkpoint import embedding_of
from neva_pod.preflight.registry import Context, Level, check


@check(
    Level.FULL,
    "model.tokenizerPath",
    cost="reads the tokenizer (0.5 MB sentencepiece, 9 MB Hugging Face)",
    prevents="media tokens that do not exist or are never found in text",
)
def check_tokenizer(context: Context) -> Iterator[Finding]:
    """The media tokens are there, last and found in text."""
    path, count = (context.settings.text("model.tokenizerPath"), context.settings.integer("model.extraTokens", 0))
    if context.sentencepiece:
        found = context.pieces()
        yield from piece_problems(path, found, count)
        yield note(f"{len(found)} pieces")
        return
    size, added = context.huggingface()
    missing = [t for t in LLAMA_3_TOKENS if t not in added]
    if missing and context.settings.text("model.modelType", "") == "llama_3":
        yield failed(
            f"{show(path)}: has no {some(missing)}, or only as whole words", "copy the tokenizer of Llama 3 unchanged"
        )
    yield note(f"vocabulary of {size}")


VOCAB_DIVISOR = 128
"""NeMo's make_vocab_size_divisible_by."""


def padded(size: int, tensor_parallel: int) -> int:
    """Return a vocabulary's size after NeMo's padding to a multiple of 128 x TP."""
    multiple = VOCAB_DIVISOR * tensor_parallel
    return -(-size // multiple) * multiple


@check(
    Level.FULL,
    "model.tokenizerPath",
    "training.tensorParallelSize",
    cost="none beyond tokenizer and weights",
    prevents="a size mismatch of the embedding after all ranks have loaded",
)
def check_vocabulary(context: Context) -> Iterator[Finding]:
    """Compare the padded vocabulary with the model's, and with a legacy checkpoint's embedding."""
    tensor = context.settings.integer("training.tensorParallelSize", least=1)
    size = len(context.pieces()) if context.sentencepiece else context.huggingface()[0]
    wanted = padded(size, tensor)
    model = context.settings.integer("architecture.vocabSize", 0)
    if model and padded(model, tensor) != wanted:
        yield failed(
            f"the tokenizer has {size} tokens, padded to {wanted} at TP {tensor}; the model has "
            f"{model}, padded to "
            f"{padded(model, tensor)}",
            "name the tokenizer of this model (model.tokenizer)",
        )
    if context.settings.find("model.checkpointPath") is not None and not context.checkpoint().distributed:
        shapes = context.shapes()
        embedding = embedding_of(shapes)
        if embedding and embedding[0] * context.checkpoint().tensor_parallel != wanted:
            yield failed(
                "the checkpoint's embedding has "
                f"{embedding[0] * context.checkpoint().tensor_parallel} rows; the tokenizer "
                f"needs {wanted} at TP {tensor}",
                "convert the checkpoint (prepare.llm): of a distributed one NeMo pads it at load",
            )
    yield note(f"{size} tokens, padded to {wanted} at TP {tensor}")
