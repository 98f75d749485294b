"""The one reader of YAML files: what Helm takes a text for, or a refusal.

Helm reads values with go-yaml 2 (``sigs.k8s.io/yaml``), which differs from YAML 1.1, YAML 1.2 and PyYAML: in plain
words (``0o20``, ``1:30``, ``1e3``, ``y``), in keys, in merge keys (the last one said wins) and in how often aliases are
followed. libyaml parses, as in Helm; what its events mean is said here. Sources: go.yaml.in/yaml/v2 ``decode.go`` and
``resolve.go``, sigs.k8s.io/yaml ``yaml.go``.

Refused although Helm reads it: a key twice and a second document, which Helm drops in silence, and what is too large.
"""

import base64
import binascii
import codecs
import math
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from neva_pretrain.errors import InputError

MOST_BYTES = 1 << 20
"""Bytes of a file; Helm keeps values in a Secret, which holds 1 MiB."""
MOST_NODES = 50_000
"""Keys and values once aliases are followed; the chart's own values are about 500."""
MOST_LEVELS = 100
"""Levels of maps and lists."""


class Word(NamedTuple):
    """A plain word that is no string for Helm.

    Attributes:
        path: keys and indices that lead to it; for a key, to its map.
        line: its line, from 1.
        text: as written.
        value: what it is taken for; of a key the string that it becomes.
        is_key: whether it is a key.
    """

    path: tuple[str | int, ...]
    line: int
    text: str
    value: object
    is_key: bool = False


class Document(NamedTuple):
    """A file's content, None where it has none, its plain words that are no strings, and whether it is UTF-16."""

    content: Any
    words: tuple[Word, ...] = ()
    is_utf16: bool = False


def read(path: Path) -> Document:
    """Read a file, or standard input for ``-``.

    Raises:
        InputError: it cannot be read, is too large, or is no YAML that Helm takes.
    """
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    try:
        return parse(data)
    except InputError as error:
        raise InputError(error.reason, path) from None


def parse(data: bytes) -> Document:
    """Parse a file's bytes: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        InputError: no YAML that Helm takes, or too large.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"has more than {MOST_BYTES >> 20} MiB; values are a few KiB")
    try:
        root = _compose(data)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark or error.context_mark
        where = f"line {line.line + 1}: " if line else ""
        raise InputError(f"cannot be read as YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise InputError(f"cannot be read as YAML: {reason}; save it as UTF-8 text") from None
    if root is None:
        return Document(None)
    decoder = _Decoder()
    content = decoder.value(root)
    return Document(content, tuple(decoder.words), data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)))


# ------------------------------------------------------------------------ tree


@dataclass(slots=True)
class _Node:
    """A node of the document as written; ``tag`` is "" where none is given."""

    kind: str  # scalar, mapping, sequence, alias
    line: int
    tag: str = ""
    plain: bool = False
    value: str = ""
    children: list["_Node"] = field(default_factory=list)


def _compose(data: bytes) -> _Node | None:
    """Return the only document's root."""
    root: _Node | None = None
    anchors: dict[str, _Node] = {}
    open_: list[_Node] = []
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(data)
    while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
        if isinstance(event, yaml.CollectionEndEvent):
            open_.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        node = _node(event, anchors)
        if open_:
            open_[-1].children.append(node)
        elif root is None:
            root = node
        elif node.kind != "scalar" or node.value:
            words = "a second document; Helm 3 would drop it, Helm 4 merge it; keep one"
            raise InputError(f"line {node.line}: {words}")
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append(node)
            if len(open_) > MOST_LEVELS:
                raise InputError(f"line {node.line}: must be nested at most {MOST_LEVELS} levels deep")
    return root


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _node(event: yaml.NodeEvent, anchors: dict[str, _Node]) -> _Node:
    line = _line(event)
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in anchors:
            raise InputError(f"line {line}: cannot be read as YAML: unknown anchor {event.anchor}")
        return _Node("alias", line, value=event.anchor, children=[anchors[event.anchor]])
    tag: str = getattr(event, "tag", None) or ""
    if isinstance(event, yaml.ScalarEvent):
        node = _Node("scalar", line, tag, plain=event.implicit[0], value=event.value)
    else:
        node = _Node("mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence", line, tag)
    if event.anchor:
        anchors[event.anchor] = node
    return node


# ------------------------------------------------------------------------ values


class _Decoder:
    """Turns nodes into values and counts them as go-yaml does: a few lines of aliases can be billions of values."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self._path: list[str | int] = []
        self._count = self._aliased = self._aliases = self._level = 0
        self._followed: set[int] = set()

    def value(self, node: _Node) -> Any:
        self._count_one(node)
        if node.kind == "alias":
            with self._following(node):
                return self.value(node.children[0])
        if node.kind == "scalar":
            value = _scalar(node)
            if node.plain and not node.tag and not isinstance(value, str) and not self._aliases:
                self.words.append(Word(tuple(self._path), node.line, node.value, value))
            return value
        self._level += 1
        if self._level > MOST_LEVELS:  # aliases can nest what is flat as written
            raise InputError(f"line {node.line}: must be nested at most {MOST_LEVELS} levels deep")
        found: Any
        if node.kind == "mapping":
            found = self._mapping(node, {})
        else:
            found = [self._at(index, child) for index, child in enumerate(node.children)]
        self._level -= 1
        return found

    def _at(self, key: str | int, node: _Node) -> Any:
        self._path.append(key)
        value = self.value(node)
        self._path.pop()
        return value

    def _mapping(self, node: _Node, into: dict[str, Any]) -> dict[str, Any]:
        seen: set[str] = set()
        for key_node, child in zip(node.children[::2], node.children[1::2], strict=True):
            if _is_merge(key_node):
                self._merge(child, into)
                continue
            key = self._key(key_node)
            if key in seen:
                words = f"the key {key} is given twice; Helm would use the last one; keep one"
                raise InputError(f"line {key_node.line}: {words}")
            seen.add(key)
            into[key] = self._at(key, child)
        return into

    def _merge(self, node: _Node, into: dict[str, Any]) -> None:
        """Lay maps over what is there, as go-yaml does: what comes later in the file wins."""
        targets = node.children[::-1] if node.kind == "sequence" else [node]
        for target in targets:
            self._count_one(target)
            if target.kind == "alias" and target.children[0].kind == "mapping":
                with self._following(target):
                    self._count_one(target.children[0])
                    self._mapping(target.children[0], into)
            elif target.kind == "mapping":
                self._mapping(target, into)
            else:
                raise InputError(f"line {node.line}: << must be followed by a map or a list of maps")

    def _key(self, node: _Node) -> str:
        before = len(self.words)
        key = self.value(node)
        del self.words[before:]
        if key is None or isinstance(key, dict | list):
            what = "nothing" if key is None else f"a {type(key).__name__}"
            raise InputError(f"line {node.line}: a key must be a name, got {what}")
        said = key if isinstance(key, str) else _key_text(key)
        if said != key and node.kind == "scalar" and not self._aliases:
            self.words.append(Word(tuple(self._path), node.line, node.value, said, is_key=True))
        return said

    def _count_one(self, node: _Node) -> None:
        self._count += 1
        self._aliased += self._aliases > 0
        share = self._aliased / self._count
        if self._aliased > 100 and self._count > 1000 and share > _allowed_share(self._count):
            raise InputError(f"line {node.line}: too many aliases for Helm; write the values out")
        if self._count > MOST_NODES:
            raise InputError(f"line {node.line}: has more than {MOST_NODES:,} values, aliases followed")

    @contextmanager
    def _following(self, alias: _Node) -> Iterator[None]:
        if id(alias) in self._followed:
            raise InputError(f"line {alias.line}: cannot be read as YAML: the anchor {alias.value} contains itself")
        self._followed.add(id(alias))
        self._aliases += 1
        yield
        self._aliases -= 1
        self._followed.discard(id(alias))


def _allowed_share(count: int) -> float:
    """Return the share of values that may come from aliases: go-yaml's ``allowedAliasRatio``."""
    return min(0.99, max(0.10, 0.99 - 0.89 * (count - 400_000) / 3_600_000))


def _is_merge(node: _Node) -> bool:
    return node.kind == "scalar" and node.value == "<<" and (node.plain or node.tag.endswith(":merge"))


def _key_text(key: bool | int | float) -> str:
    """Return a key as sigs.k8s.io/yaml writes it: floats in the fewest digits of 32 bits."""
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key)
    try:
        short = next(s for s in (f"{key:.{digits}e}" for digits in range(17)) if _bits(float(s)) == _bits(key))
    except OverflowError:
        return ".inf" if key > 0 else "-.inf"
    digits, exponent = len(short.partition("e")[0].lstrip("-").replace(".", "")), int(short.partition("e")[2])
    return f"{float(short):.{max(0, digits - 1 - exponent)}f}" if -4 <= exponent < 6 else short


def _bits(number: float) -> bytes:
    return struct.pack("<f", number)


# ------------------------------------------------------------------------ words

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"}
_FALSE = {"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"}
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TAG = "tag:yaml.org,2002:"
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}


def plain(text: str) -> Any:
    """Return what Helm takes a plain word for: null, a boolean, a number, or the text itself.

    Raises:
        InputError: infinity or NaN, which are no JSON.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text[0] not in "+-.0123456789":
        return text
    if _NO_NUMBER.fullmatch(text):
        raise InputError(f"{text} is not a number that Helm accepts; quote it if it is text")
    digits = text if text[0] == "." else text.replace("_", "")
    if (whole := _integer(digits)) is not None:
        return whole
    if _FLOAT.fullmatch(digits) and math.isfinite(number := float(digits)):
        return number
    return text


def _integer(digits: str) -> int | None:
    """Return a whole number of Go's notations and 64 bits; above 2^53 with the digits that JSON in Helm keeps."""
    if not _INTEGER.fullmatch(digits):
        return None
    sign, body = (digits[0], digits[1:]) if digits[0] in "+-" else ("", digits)
    octal = len(body) > 1 and body[0] == "0" and body[1] in "01234567"
    try:
        number = int(f"0o{body}" if octal else body, 0) * (-1 if sign == "-" else 1)
    except ValueError:  # of thousands of digits
        return None
    if not -(2**63) <= number < (2**63 if sign else 2**64):
        return None
    return number if abs(number) <= 2**53 else int(float(number))


def _scalar(node: _Node) -> Any:
    """Return a scalar's value; a tag that go-yaml does not know makes it a string."""
    tag = node.tag.removeprefix(_TAG)
    try:
        if not node.tag:
            return plain(node.value) if node.plain else node.value
        if tag == "binary":
            return base64.b64decode(re.sub(r"[\r\n]", "", node.value), validate=True).decode("utf-8", "replace")
        if tag not in _KINDS:
            return node.value
        value = plain(node.value)
    except binascii.Error:
        raise InputError(f"line {node.line}: cannot be read as YAML: !!binary is not base64") from None
    except InputError as error:
        raise InputError(f"line {node.line}: {error.reason}") from None
    if not isinstance(value, _KINDS[tag]) or (tag != "bool" and isinstance(value, bool)):
        raise InputError(f"line {node.line}: cannot be read as YAML: !!{tag} does not stand for {node.value}")
    return float(value) if isinstance(value, int) and tag == "float" else value
