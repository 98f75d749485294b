"""The tokenizer, with NeVa's media tokens."""

import os

from neva_pod.inputs.tokenizer import (
    USER_DEFINED,
    extra_tokens,
    huggingface_vocabulary,
    piece_problems,
    pieces,
    read_pieces,
)
from neva_pod.prepare.errors import reading, stop_at
from neva_pod.prepare.hub import fetched, named
from neva_pod.prepare.publish import beside, copy_files, exists, need_file, publish, write
from neva_pod.prepare.steps import Chooser, Step
from neva_pod.settings import Settings

HUGGINGFACE_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def with_extra_tokens(model: bytes, count: int) -> bytes:
    """Append <extra_id_0..> as USER_DEFINED pieces, as add_special_tokens_to_sentencepiece.py does.

    A field appended to a protobuf message is appended to its list, so the rest of the file stays
    byte for byte what it was.
    """
    out = bytearray(model)
    for token in extra_tokens(count):
        text = token.encode()
        piece = bytes([0x0A, len(text)]) + text + b"\x15\0\0\0\0" + bytes([0x18, USER_DEFINED])
        out += bytes([0x0A, len(piece)]) + piece
    return bytes(out)


def _is_huggingface(settings: Settings) -> bool:
    return settings.text("model.tokenizerLibrary") == "huggingface"


def _wanted(settings: Settings) -> Chooser:
    return named(*HUGGINGFACE_TOKENIZER) if _is_huggingface(settings) else named("tokenizer.model")


def _check(settings: Settings) -> str:
    final = settings.text("model.tokenizerPath")
    with reading(final):
        if _is_huggingface(settings):
            huggingface_vocabulary(final)
        else:
            stop_at(piece_problems(final, read_pieces(final), settings.integer("model.extraTokens")))
    return final


def _make(settings: Settings, work: str) -> str:
    """Make the tokenizer with NeVa's media tokens."""
    final, count = settings.text("model.tokenizerPath"), settings.integer("model.extraTokens")
    source = fetched(settings, "tokenizer", work, _wanted(settings))
    if _is_huggingface(settings):
        with reading(source):
            huggingface_vocabulary(source)
        copy_files(
            "tokenizer", source, beside(final, "partial"), [n for n in HUGGINGFACE_TOKENIZER if exists(source, n)]
        )
        publish(beside(final, "partial"), final)
        return f"made {final}"
    origin = source if os.path.isfile(source) else os.path.join(source, "tokenizer.model")
    need_file(origin)
    with reading(origin):
        found = read_pieces(origin)
        with open(origin, "rb") as file:
            model = file.read()
        if {t for t, _ in found} & set(extra_tokens(count)):
            stop_at(piece_problems(origin, found, count))
        else:
            model = with_extra_tokens(model, count)
        stop_at(piece_problems(final, pieces(model), count))
    write(beside(final, "partial"), [model])
    publish(beside(final, "partial"), final)
    return f"made {final}: {len(pieces(model))} pieces, the last {count} added"


TOKENIZER = Step(_check, _wanted, _make)
