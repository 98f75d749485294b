"""Tokenizers: sentencepiece models, Hugging Face folders, and the media tokens that NeVa needs in them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from neva_pod.findings import Finding, ProblemError, brief, failed, show, some
from neva_pod.inputs.files import INDEX, read_file, read_json, read_object

USER_DEFINED = 4
"""sentencepiece_model.proto, SentencePiece.Type."""
PUBLISHED = 6
"""Of a tokenizer that comes with <extra_id_N>, how many NeVa uses."""
LLAMA_3_TOKENS = tuple(f"<|reserved_special_token_{i}|>" for i in range(8))
"""NeVa's media tokens of model_type llama_3 are among these."""


COPY = "copy the tokenizer's files from the model's repository"


def extra_tokens(count: int) -> list[str]:
    """Return NeVa's media tokens for sentencepiece models."""
    return [f"<extra_id_{i}>" for i in range(count)]


def pieces(model: bytes) -> list[tuple[str, int]]:
    """Return text and type of a sentencepiece model's pieces; a piece's place is its id.

    Reads protobuf's wire format: field 1 of ModelProto is the pieces, of which 1 is the text and
    3 the type.

    Raises:
        ValueError: not a sentencepiece model.

    """
    found = []
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            text, kind = "", 1
            for inner, content in _fields(value):
                if inner == 1 and isinstance(content, bytes):
                    text = content.decode("utf-8")
                elif inner == 3 and isinstance(content, int):
                    kind = content
            found.append((text, kind))
    if not found:
        raise ValueError("no pieces")
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"ends within a field at byte {at}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value, at + 1
        at, shift = at + 1, shift + 7
    raise ValueError(f"bad number at byte {at}")


def read_pieces(path: str) -> list[tuple[str, int]]:
    """Read a sentencepiece model's pieces from its file."""
    data = read_file(path, 4 * INDEX)
    try:
        return pieces(data)
    except ValueError as error:
        raise ProblemError(
            f"{show(path)} is not a sentencepiece model: {error}", "name the model's tokenizer.model"
        ) from None


def piece_problems(path: str, found: Sequence[tuple[str, int]], count: int) -> Iterator[Finding]:
    """Check that the last pieces are <extra_id_0..count-1>, in order; of 0, that some were published, anywhere.

    They must be USER_DEFINED, and no piece may be there twice.
    """
    wanted = extra_tokens(min(count, len(found) + 1) or PUBLISHED)
    by_text = dict(found)
    fix = "add them with prepare.tokenizer, or NeMo's script with --is_userdefined"
    fix = f"start from the model's own tokenizer.model and {fix}" if count else "use the model's own tokenizer"
    missing = [t for t in wanted if t not in by_text]
    control = [t for t in wanted if by_text.get(t, USER_DEFINED) != USER_DEFINED]
    if missing:
        yield failed(f"{show(path)}: lacks {some(missing)} of the {len(wanted)} pieces that NeVa needs", fix)
    if control:
        yield failed(
            f"{show(path)}: {some(control)} are not of type USER_DEFINED: text would never be split into them", fix
        )
    if len(by_text) < len(found):
        twice = [t for t, times in Counter(t for t, _ in found).items() if times > 1]
        yield failed(f"{show(path)}: has {some(twice)} more than once: sentencepiece does not load it", fix)
    elif count and not missing and not control and [t for t, _ in found[-count:]] != wanted:
        yield failed(
            f"{show(path)}: <extra_id_N> are not the last {count} pieces, so other tokens have moved to other ids", fix
        )


def huggingface_vocabulary(path: str) -> tuple[int, set[str]]:
    """Return size of a Hugging Face tokenizer's vocabulary and those of its added tokens that are found in any text."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not os.path.exists(os.path.join(path, name)):
            raise ProblemError(f"{show(path)}: has no {name}", COPY)
    config = os.path.join(path, "tokenizer_config.json")
    if "tokenizer_class" not in read_object(config) and not os.path.exists(os.path.join(path, "config.json")):
        raise ProblemError(f"{show(config)}: names no tokenizer_class: transformers cannot tell what it is", COPY)
    file = os.path.join(path, "tokenizer.json")
    data = read_json(file, 4 * INDEX)
    try:
        vocabulary, added = data["model"]["vocab"], data.get("added_tokens") or []
        own = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        ids = {*own, *(t["id"] for t in added)}
        if not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise ValueError("an id is not a number")
        return max(ids, default=-1) + 1, {str(t["content"]) for t in added if not t.get("single_word")}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProblemError(
            f"{show(file)} is not a Hugging Face tokenizer: {type(error).__name__} {brief(str(error))}",
            COPY,
        ) from None
