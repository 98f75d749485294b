"""Logs as people have them: UTF-16 as PowerShell's ``>`` writes it, compressed, or not a log at all."""

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from neva_pod.monitor.tail import CHUNK
from neva_pretrain.errors import InputError

HEAD = 512
"""Bytes by which a log is known."""

_READ: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
}
"""Compressed files that the standard library reads, by how they begin."""

_REFUSED: dict[bytes, str] = {
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first: zstd -d",
    b"\x04\x22\x4d\x18": "is compressed with lz4; unpack it first: lz4 -d",
    b"\x1f\x9d": "is compressed; unpack it first: gunzip",
    b"PK\x03\x04": "is a zip file; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "is a 7z file; unpack it first",
    b"Rar!": "is a rar file; unpack it first",
}

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)

_TAR = b"ustar"
_CONTROLS = bytes(set(range(32)) - set(b"\0\a\b\t\n\f\r\x1b"))
"""What text does not have; NUL fills the holes of a log that was cut while it was written to."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""How names of compressed logs end."""


class Decoder:
    """Bytes of a log as they are stored -> its text as UTF-8. What it is, its first bytes say."""

    def __init__(self, name: str, packed: bool = False) -> None:
        self._name = name
        self._packed = packed
        self._head = b""
        self._feed: Callable[[bytes], Iterator[bytes]] | None = None
        self._inner: Decoder | None = None
        self._whole = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; yield text, at most about a chunk at a time.

        Raises:
            InputError: this is no log that can be read.
        """
        if self._feed is None:
            self._head += data
            if _may_be_more(self._head):
                return
            self._feed, data = self._begin()
        yield from self._feed(data)

    def close(self) -> Iterator[bytes]:
        """Yield what waits for more."""
        if self._feed is None and self._head:
            self._feed, data = self._begin()
            yield from self._feed(data)
        if self._inner is not None:
            yield from self._inner.close()
            if self._inner._feed is None and not self._whole:
                raise InputError(f"{self._name}: ends before its first text")

    def _begin(self) -> tuple[Callable[[bytes], Iterator[bytes]], bytes]:
        """Choose a reader by the first bytes; return it and them, without a byte order mark."""
        head, self._head = self._head, b""
        for magic, words in _REFUSED.items():
            if head.startswith(magic):
                raise InputError(f"{self._name}: {words}")
        for magic, new in _READ.items():
            if head.startswith(magic):
                if self._packed:
                    raise InputError(f"{self._name}: is compressed twice; unpack it first")
                self._inner = Decoder(self._name, packed=True)
                return self._unpack(magic, new, self._inner), head
        for mark, encoding in _BYTE_ORDER_MARKS:
            if head.startswith(mark):
                return _recode(encoding), head[len(mark) :]
        encoding = _utf16_without_mark(head)
        if encoding:
            return _recode(encoding), head
        if _TAR in head[257:262]:
            raise InputError(f"{self._name}: is a tar file; unpack it first: tar -x")
        if _is_binary(head):
            raise InputError(f"{self._name}: must be a text log, but is binary")
        return _as_it_is, head

    def _unpack(self, magic: bytes, new: Callable[[], Any], inner: "Decoder") -> Callable[[bytes], Iterator[bytes]]:
        stream = new()

        def feed(data: bytes) -> Iterator[bytes]:
            nonlocal stream
            while True:
                try:
                    text = b"" if stream.eof else stream.decompress(data, CHUNK)
                except (zlib.error, OSError, EOFError, lzma.LZMAError) as error:
                    raise InputError(f"{self._name}: is damaged: {error}") from None
                yield from inner.feed(text)
                self._whole = stream.eof
                if stream.eof:  # files glued together, as logrotate and `cat` leave them, go on
                    data = stream.unused_data
                    if not data.startswith(magic):
                        return
                    stream = new()
                else:
                    data = getattr(stream, "unconsumed_tail", b"")
                    if not text:
                        return

        return feed


def _may_be_more(head: bytes) -> bool:
    """Tell whether too little is there to know what it is; a line of text is enough."""
    return len(head) < HEAD and (b"\n" not in head[16:] or b"\0" in head)


def _utf16_without_mark(head: bytes) -> str:
    """Return the encoding of text in which every second byte is NUL."""
    even, odd = head[0::2], head[1::2]
    for nul, text, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if len(head) >= 4 and nul.count(0) > 0.7 * len(nul) and text.count(0) < 0.1 * len(text):
            return encoding
    return ""


def _is_binary(head: bytes) -> bool:
    strange = len(head) - len(head.translate(None, _CONTROLS))
    return strange > 0.02 * len(head)


def _as_it_is(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def _recode(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")

    def feed(data: bytes) -> Iterator[bytes]:
        text = decoder.decode(data)
        if text:
            yield text.encode("utf-8", "replace")

    return feed


def is_compressed(name: str) -> bool:
    """Tell by its name whether a file is compressed."""
    return PurePath(name).suffix in COMPRESSED
