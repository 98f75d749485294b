"""Stand-in for NeMo's neva_pretrain.py, which needs GPUs: joins the process group and adds up all ranks."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank()], dtype=torch.int64)
dist.all_reduce(total)
record = {
    "rank": dist.get_rank(),
    "world": dist.get_world_size(),
    "sum": int(total),
    "local": int(os.environ["LOCAL_RANK"]),
    "pod": os.environ["POD_NAME"],
    "arguments": sys.argv[1:],
    "folder": str(Path.cwd()),
}
Path(os.environ["STAND_IN_OUTPUT"], f"{dist.get_rank()}.json").write_text(json.dumps(record))
dist.destroy_process_group()
