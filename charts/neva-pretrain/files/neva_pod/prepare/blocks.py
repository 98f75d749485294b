"""The blocks that a distributed checkpoint is written in, and the tensors that they are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neva_pod.findings import ProblemError, brief, show, some
from neva_pod.inputs.megatron import Place, Size


@dataclass(frozen=True)
class Part:
    """A tensor of the source, or some of its rows."""

    file: str
    name: str
    shape: Size
    rows: tuple[int, int] | None = None

    @property
    def size(self) -> Size:
        """Return the shape of what is taken of it."""
        return self.shape if self.rows is None else (self.rows[1] - self.rows[0], *self.shape[1:])


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor of the checkpoint, and what it is made of.

    Of several parts, the rows of each group follow one another: of attention, a group's queries, its key, its value.
    """

    key: str
    shape: Size
    offset: Size
    size: Size
    parts: tuple[Part, ...]
    groups: int = 1


def block(
    key: str, place: Place, parts: Sequence[Part], groups: int = 1, *, of: Size | None = None, at: Size | None = None
) -> Chunk:
    """Return parts, joined by rows, as a block ``at`` an offset ``of`` a tensor: by default, all of it."""
    first = parts[0].size
    size = (sum(p.size[0] for p in parts), *first[1:])
    return Chunk(
        f"model.{key}",
        (*(count for _, count in place), *(of or size)),
        (*(index for index, _ in place), *(at or (0,) * len(size))),
        (*(1 for _ in place), *size),
        tuple(parts),
        groups,
    )


INSTEAD = "copy it again; if it is complete, name the model that it is (model.name)"


class Tensors:
    """The tensors of a source; each is taken once, of the shape that it must have, and none may be left."""

    def __init__(self, source: str, found: Mapping[str, tuple[str, Size]], prefix: str = "") -> None:
        self._source, self._left, self._prefix = source, dict(found), prefix

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._left

    def shape(self, name: str) -> Size:
        """Return the shape of a tensor."""
        return self._found(name)[1]

    def take(self, name: str, *shape: int) -> Part:
        """Return a tensor."""
        file, found = self._found(name)
        if found != shape:
            raise ProblemError(
                f"{show(file)}: tensor {show(name)} has shape {brief(found)}; must be {brief(shape)}", INSTEAD
            )
        del self._left[self._prefix + name]
        return Part(file, self._prefix + name, shape)

    def _found(self, name: str) -> tuple[str, Size]:
        if name not in self:
            raise ProblemError(f"{show(self._source)}: has no tensor {show(name)}", INSTEAD)
        return self._left[self._prefix + name]

    def drop(self, name: str) -> None:
        """Pass over a tensor that says nothing new."""
        self._left.pop(self._prefix + name, None)

    def end(self) -> None:
        """Refuse what the model has no place for: without it, it would be another one."""
        if self._left:
            file = next(iter(self._left.values()))[0]
            raise ProblemError(
                f"{show(file)}: the model has no place for tensor {some(sorted(self._left))}",
                "name weights of plain Llama, Mistral or Mixtral layers, or a NeMo checkpoint",
            )
