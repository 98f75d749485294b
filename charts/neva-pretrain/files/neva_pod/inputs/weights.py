"""Names and shapes of a checkpoint's tensors, from its index; torch's pickles are read, never run."""

import json
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, BinaryIO

from neva_pod.findings import ProblemError, brief, gib, show
from neva_pod.inputs.checkpoint import CONVERT, Checkpoint, read_whole, small_json
from neva_pod.inputs.files import INDEX, open_file


class Shape(tuple):  # type: ignore[type-arg]  # as torch.Size
    """Sizes of a tensor."""

    __slots__ = ()


def shape(sizes: Any) -> Shape | None:
    """Return sizes as a shape if they can be one."""
    plain = isinstance(sizes, list | tuple) and len(sizes) <= 16
    return Shape(sizes) if plain and all(type(n) is int and 0 <= n < 2**48 for n in sizes) else None


class Stub:
    """Stands for an object of a pickle: its class by name, what it is made of, and its state."""

    def __init__(self, name: str, *parts: Any) -> None:
        """Keep them as they are."""
        self.name, self.parts, self.state = name, parts, None

    def get(self, key: str) -> Any:
        """Return an attribute."""
        return self.state.get(key) if isinstance(self.state, dict) else None


CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}


def unpickle(data: bytes) -> Any:
    """Read torch's pickles: what is in them, never what they would run.

    Every step costs what its opcode has in bytes, whatever the pickle says: nothing is called, copied, compared or
    hashed but text keys and, by what they are, objects. Objects become a :class:`Stub`, tensors a :class:`Shape`.

    Raises:
        ValueError: not a pickle, or of a kind that torch does not write.

    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def store(target: Any, pairs: Sequence[Any]) -> None:
        if isinstance(target, dict):
            target.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=False) if isinstance(k, str | Stub))

    def extend(target: Any, items: Sequence[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)

    try:
        argument: Any
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return stack.pop()
            if name == "MARK":
                marks.append(len(stack))
            elif name == "POP":
                stack.pop()
            elif name == "POP_MARK":
                since_mark()
            elif name == "DUP":
                stack.append(stack[-1])
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in EMPTY:
                stack.append(EMPTY[name]())
            elif name in ("LIST", "TUPLE", "FROZENSET"):
                items = since_mark()
                stack.append(tuple(items) if name == "TUPLE" else items)
            elif name == "DICT":
                items = since_mark()
                stack.append({})
                store(stack[-1], items)
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif name in ("APPEND", "SETITEM"):
                count = 1 if name == "APPEND" else 2
                items = stack[-count:]
                del stack[-count:]
                (extend if name == "APPEND" else store)(stack[-1], items)
            elif name in ("APPENDS", "ADDITEMS", "SETITEMS"):
                items = since_mark()
                (store if name == "SETITEMS" else extend)(stack[-1], items)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "GLOBAL":
                stack.append(Stub(argument.split(" ")[-1]))
            elif name == "STACK_GLOBAL":
                stack[-2:] = [Stub(str(stack[-1])[:200])]
            elif name in ("REDUCE", "NEWOBJ"):
                called, arguments = stack[-2:]
                stack[-2:] = [_made(called, arguments)]
            elif name == "NEWOBJ_EX":
                stack[-3:] = [_made(stack[-3], ())]
            elif name == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Stub):
                    stack[-1].state = state
            elif name == "PERSID":
                stack.append(None)
            elif name == "BINPERSID":
                stack[-1] = None
            elif opcode.arg is not None and not opcode.stack_before and len(opcode.stack_after) == 1:
                stack.append(argument)  # a number or a text
            else:
                raise ValueError(f"opcode {name}")
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None
    raise ValueError("no end")


def _made(called: Any, arguments: Any) -> Any:
    """Return what stands for a call."""
    name = called.name if isinstance(called, Stub) else ""
    parts = arguments if isinstance(arguments, tuple) and len(arguments) <= 16 else ()
    if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return shape(parts[2]) if len(parts) > 2 else None
    if name == "_rebuild_parameter":
        return parts[0] if parts else None
    if name == "Size":
        return shape(parts[0]) if parts else None
    return {} if name == "OrderedDict" else Stub(name, *parts)


UNREADABLE = (ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, struct.error)
"""What reading a damaged index may raise."""


def weight_shapes(checkpoint: Checkpoint, rank: tuple[int, int] = (0, 0)) -> dict[str, Shape]:
    """Return name and shape of all tensors; of a legacy checkpoint, of a TP and PP rank's.

    Reads the index only: ``.zarray`` files, torch_dist's ``.metadata``, or data.pkl in torch's zip.

    Raises:
        ProblemError: the index cannot be read.

    """
    store = checkpoint.store
    if checkpoint.backend == "zarr":
        found: dict[str, Any] = {}
        for name in store.sizes:
            if name.startswith("model_weights/") and name.endswith("/.zarray"):
                array = small_json(store, name)
                found[name[len("model_weights/") : -len("/.zarray")]] = (
                    shape(array.get("shape")) if isinstance(array, dict) else None
                )
        return {n: t for n, t in found.items() if t is not None}
    place = "model_weights/.metadata" if checkpoint.backend else checkpoint.ranks[rank]
    try:
        if not checkpoint.backend:
            with store.open(place) as file:
                return torch_shapes(file)
        index = unpickle(read_whole(store, place, INDEX))
        tensors = index.get("state_dict_metadata") if isinstance(index, Stub) else None
        entries = tensors.items() if isinstance(tensors, dict) else ()
        found = {n: t.get("size") for n, t in entries if isinstance(t, Stub)}
    except UNREADABLE as error:
        raise ProblemError(f"{show(place)}: not in torch's format: {brief(str(error))}", CONVERT) from None
    return {n: t for n, t in found.items() if isinstance(t, Shape)}


def torch_shapes(file: BinaryIO) -> dict[str, Shape]:
    """Return name and shape of the tensors that torch.save wrote, by data.pkl in its zip.

    Raises:
        one of UNREADABLE.

    """
    with zipfile.ZipFile(file) as archive:
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "")
        with archive.open(name) as pickled:
            content = pickled.read(INDEX + 1)
    if len(content) > INDEX:
        raise ValueError(f"its index has more than {gib(INDEX)}")
    index = unpickle(content)
    return {n: t for n, t in index.items() if isinstance(t, Shape)} if isinstance(index, dict) else {}


FLOATS = {"BF16": 2} | {f"F{8 * width}": width for width in (2, 4, 8)}
"""Bytes of a number, by safetensors' names of the types."""


def safetensors_shapes(file: BinaryIO) -> dict[str, Shape]:
    """Return name and shape of the tensors of a safetensors file, by its header; the file must have all their bytes.

    Raises:
        one of UNREADABLE.

    """
    total = file.seek(0, 2)
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(INDEX, total - 8):
        raise ValueError(f"a header of {length} bytes in a file of {total}: cut, or not safetensors")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        sizes, kind, place = (
            entry.get(k) if isinstance(entry, dict) else None for k in ("shape", "dtype", "data_offsets")
        )
        dims, offsets = shape(sizes), shape(place)
        if dims is None or offsets is None or len(offsets) != 2 or kind not in FLOATS:
            raise ValueError(f"tensor {brief(name)} is of type {brief(kind)}; must be a float of 16 bits or more")
        if offsets[1] - offsets[0] != prod(dims) * FLOATS[kind]:
            raise ValueError(
                f"tensor {brief(name)} has {offsets[1] - offsets[0]} bytes; must have {prod(dims) * FLOATS[kind]}"
            )
        if 8 + length + offsets[1] > total:
            raise ValueError(f"cut after {total} bytes, in tensor {brief(name)}; must have {8 + length + offsets[1]}")
        found[name] = dims
    return found


def file_shapes(path: str, fix: str) -> dict[str, Shape]:
    """Return name and shape of a file's tensors: of safetensors, or of torch.

    Raises:
        ProblemError: it cannot be read so, with what to do then.

    """
    try:
        with open_file(path) as file:
            return safetensors_shapes(file) if path.endswith(".safetensors") else torch_shapes(file)
    except UNREADABLE as error:
        raise ProblemError(f"{show(path)}: cut, damaged or of another kind: {show(str(error))}", fix) from None
