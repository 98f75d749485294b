"""The process groups of a case: ranks of one tensor parallel group are neighbours, as in Megatron."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass(frozen=True)
class Groups:
    """Where this rank stands."""

    tp: Any
    tp_size: int
    tp_rank: int
    dp: Any
    dp_size: int
    dp_rank: int


def make_groups(tp: int) -> Groups:
    """Split all ranks into tensor parallel groups of ``tp``, and those into data parallel groups."""
    world, rank = dist.get_world_size(), dist.get_rank()
    dp = world // tp
    rows = [dist.new_group(range(i * tp, (i + 1) * tp)) for i in range(dp)]
    columns = [dist.new_group(range(i, world, tp)) for i in range(tp)]
    return Groups(rows[rank // tp], tp, rank % tp, columns[rank % tp], dp, rank // tp)
