"""A language model as a legacy NeMo checkpoint has it: a file for each TP and PP rank, in Megatron Core's names."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from neva_pod.findings import ProblemError, show
from neva_pod.inputs.checkpoint import CONVERT, Checkpoint
from neva_pod.inputs.megatron import EMBEDDING, HEAD, Model, Place, Tensor
from neva_pod.inputs.weights import file_shapes
from neva_pod.prepare.blocks import Chunk, Tensors, block


def chunks_of_ranks(folder: str, checkpoint: Checkpoint, model: Model) -> Iterator[Chunk]:
    """Return the blocks of a checkpoint, unpacked into a folder: what each rank has, at its place in the whole.

    Raises:
        ProblemError: a tensor is missing, has another shape, or has no place in the model.

    """
    stages = checkpoint.pipeline_parallel
    if model.layers % stages:
        raise ProblemError(f"{show(checkpoint.path)}: {model.layers} layers cannot be PP {stages}'s", CONVERT)
    layers = model.layers // stages
    for (number, stage), name in sorted(checkpoint.ranks.items()):
        path = os.path.join(folder, name)
        rank = _Rank(number, checkpoint.tensor_parallel, read_rank(path), model)
        if stage == 0:
            yield from rank.vocabulary(EMBEDDING)
        for layer in range(layers):
            yield from rank.layer(layer, stage * layers + layer)
        if stage == stages - 1:
            for tensor in model.final_norm():
                yield from rank.blocks(tensor, tensor.name, tensor.name, ())
            if HEAD in rank.tensors or not model.tied:
                yield from rank.vocabulary(HEAD)
        rank.tensors.end()


def read_rank(path: str) -> Tensors:
    """Read names and shapes of a rank's tensors; what else it has is TransformerEngine's, empty without FP8."""
    shapes = file_shapes(path, CONVERT)
    old = [n for n in shapes if "language_model." in n]
    if old:
        raise ProblemError(
            f"{show(path)}: tensor {show(old[0])} is not under Megatron Core's names",
            "name the Hugging Face weights that it was made of in prepare.llm.source",
        )
    return Tensors(path, {n: (path, tuple(s)) for n, s in shapes.items()}, prefix="model.")


@dataclass(frozen=True)
class _Rank:
    """A rank among those of tensor parallelism."""

    number: int
    count: int
    tensors: Tensors
    model: Model

    def vocabulary(self, key: str) -> Iterator[Chunk]:
        """Return an embedding's rows: how many, NeMo's padding decided."""
        rows = self.tensors.shape(key)[:1]
        whole = Tensor(key, (sum(rows) * self.count, self.model.hidden), axis=0)
        yield from self.blocks(whole, key, key, ())

    def layer(self, local: int, layer: int) -> Iterator[Chunk]:
        """Return a layer's blocks; its number here counts from the first of this stage."""
        for tensor in self.model.layer():
            place = ((layer, self.model.layers), *tensor.place)
            yield from self.blocks(
                tensor, f"decoder.layers.{local}.{tensor.name}", f"decoder.layers.{tensor.key}", place
            )

    def blocks(self, tensor: Tensor, name: str, key: str, place: Place) -> Iterator[Chunk]:
        """Return this rank's blocks of a tensor, by its name here and in the whole."""
        whole, axis, size = tensor.size, tensor.axis, tensor.local(self.count)
        part = self.tensors.take(name, *size)
        if axis is None and self.number:
            return  # each rank has all of it
        pieces = 2 if self.model.gated and "linear_fc1." in key and axis == 0 else 1  # gate above up
        for piece in range(pieces):
            rows = size[0] // pieces
            taken = part if pieces == 1 else replace(part, rows=(piece * rows, (piece + 1) * rows))
            first = [0] * len(whole)
            if axis is not None:
                first[axis] = piece * whole[0] // pieces + self.number * taken.size[axis]
            yield block(key, place, [taken], of=whole, at=tuple(first))
