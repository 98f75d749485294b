"""Writes a distributed checkpoint (torch_dist) as Megatron Core does: by torch alone, one process, block by block."""

import io
import json
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

from neva_pod.findings import ProblemError, show
from neva_pod.prepare.blocks import Chunk, Part
from neva_pod.prepare.errors import reading, unwritten
from neva_pod.prepare.publish import Meter, need_space, write

DTYPES = {"bf16": "bfloat16", "16": "float16", "32": "float32"}
"""By prepare.llm.precision."""
FILE = 4 * 2**30
"""Bytes of blocks after which another file is begun: many processes read them at once."""
OVERHEAD = 4096
"""Bytes that torch.save adds to a block, rounded up."""


def write_distributed(folder: str, chunks: Sequence[Chunk], states: Sequence[str], precision: str) -> None:
    """Write the folder model_weights: blocks, empty extra states, and what mcore's loader asks for.

    Each block is read when it is written: memory is a block's, whatever the model's size.
    """
    import torch
    from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter, SavePlan
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
    from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

    dtype = getattr(torch, DTYPES[precision])
    total = sum(prod(c.size) for c in chunks) * dtype.itemsize
    os.makedirs(folder)
    need_space(folder, total + OVERHEAD * (len(chunks) + len(states)))
    meter = Meter("llm: convert", total)
    made: dict[Any, Chunk] = {}
    open_files: dict[str, Callable[[str], Any]] = {}
    empty = _empty_state()

    class Planner(DefaultSavePlanner):  # type: ignore[misc,unused-ignore]  # torch has no types here
        """Makes what is written when it is written."""

        def resolve_data(self, write_item: Any) -> Any:
            """Return a block's numbers, or an extra state."""
            if write_item.type is WriteItemType.BYTE_IO:
                return io.BytesIO(empty)
            chunk = made[write_item.index]
            found = _numbers(chunk, open_files, dtype)
            meter.add(found.nbytes)
            return found

    def item(chunk: Chunk) -> Any:
        index = MetadataIndex(chunk.key, torch.Size(chunk.offset))
        made[index] = chunk
        place = ChunkStorageMetadata(offsets=torch.Size(chunk.offset), sizes=torch.Size(chunk.size))
        data = TensorWriteData(chunk=place, properties=TensorProperties(dtype=dtype), size=torch.Size(chunk.shape))
        return WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data)

    plans = [SavePlan([item(c) for c in group]) for group in _grouped(chunks, dtype.itemsize)]
    plans[0].items.extend(WriteItem(index=MetadataIndex(key), type=WriteItemType.BYTE_IO) for key in states)
    writer, planner = FileSystemWriter(folder), Planner(flatten_state_dict=False, flatten_sharded_tensors=False)
    plans, metadata = planner.create_global_plan(plans)
    try:
        warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch's own use of it
        writer.set_up_storage_writer(True)
        # As many plans as files: to the writer, ranks that save one after the other.
        plans = writer.prepare_global_plan([writer.prepare_local_plan(plan) for plan in plans])
        writer.finish(metadata, [writer.write_data(plan, planner).wait() for plan in plans])
        torch.save({}, os.path.join(folder, "common.pt"))
    except (OSError, RuntimeError) as error:  # torch's zip writer hides a full disk behind an error of its own
        found = _of_system(error)
        if found is None:
            raise
        raise unwritten(folder, found) from None
    backend = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    common = {"common_backend": "torch", "common_backend_version": 1}
    write(os.path.join(folder, "metadata.json"), [json.dumps(backend | common).encode()])


def _of_system(error: BaseException | None) -> OSError | None:
    """Return the file system's error that led to another one."""
    while error and not isinstance(error, OSError):
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _grouped(chunks: Sequence[Chunk], width: int) -> Iterator[list[Chunk]]:
    """Return the blocks of each file."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        group.append(chunk)
        size += prod(chunk.size) * width
        if size >= FILE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _empty_state() -> bytes:
    """Return what Megatron Core writes of a TransformerEngine layer without FP8: a list of one empty state."""
    import torch

    state, saved = io.BytesIO(), io.BytesIO()
    torch.save(None, state)
    torch.save([state], saved)
    return saved.getvalue()


def _numbers(chunk: Chunk, open_files: dict[str, Callable[[str], Any]], dtype: Any) -> Any:
    """Read the parts of a block and join them, in the type that is written."""
    import torch

    parts = [_read(part, open_files) for part in chunk.parts]
    joined = torch.cat([p.reshape(chunk.groups, -1, *p.shape[1:]) for p in parts], 1) if len(parts) > 1 else parts[0]
    found = joined.reshape(chunk.size).to(dtype).clone()
    if not all(torch.isfinite(end) for end in torch.aminmax(found)):  # NaN passes through it
        names = ", ".join(p.name for p in chunk.parts)
        raise ProblemError(
            f"{show(chunk.parts[0].file)}: tensor {show(names)} has values that {dtype} cannot hold, or not a number",
            "copy it again, or set prepare.llm.precision=32" if dtype is torch.float16 else "copy it again",
        )
    return found


def _read(part: Part, open_files: dict[str, Callable[[str], Any]]) -> Any:
    with reading(part.file):
        if part.file not in open_files:
            open_files[part.file] = _open(part.file)
        found = open_files[part.file](part.name)
        if tuple(found.shape) != part.shape or not found.is_floating_point():
            raise ProblemError(
                f"{show(part.file)}: tensor {show(part.name)} is {found.dtype} of shape {list(found.shape)}; "
                f"must be a float of shape {list(part.shape)}",
                "copy it again",
            )
        return found if part.rows is None else found[part.rows[0] : part.rows[1]]


def _open(path: str) -> Callable[[str], Any]:
    """Return a reader of a file's tensors, which maps the file and loads what is asked for."""
    if path.endswith(".safetensors"):
        from safetensors import safe_open

        return safe_open(path, framework="pt").get_tensor  # type: ignore[no-any-return,unused-ignore]
    import torch

    module = SimpleNamespace(__name__="pickle", Unpickler=_Unpickler)
    found: Mapping[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=False, pickle_module=module)
    return found.__getitem__


class _Unpickler(pickle.Unpickler):
    """Makes tensors and TransformerEngine's empty states; runs nothing else that a pickle names."""

    ALLOWED = (
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "Size"),
        ("_io", "BytesIO"),
        ("_codecs", "encode"),
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return what may be called."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
