"""The calibration's measured rows, as setups that the cost model can predict."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.plan.setup import Kernels, Setup
from neva_pretrain.plan.time import launch_floor, step_time

DATA = Path(__file__).parent / "data" / "calibration"
_MODELS = {"7b": "llama2_7b_chat", "13b": "llama2_13b_chat"}
_PROFILES: dict[tuple[str, str, str, str], Kernels] = {
    ("fa2_sdpa", "plain", "0", "eager"): "reference",
    ("te_cudnn_fused", "te", "1", "eager"): "fused",
    ("cudnn_sdpa", "compile", "1", "eager"): "fused",
}
_FP8 = "transformer-engine-fp8"


@dataclass(frozen=True)
class Run:
    """One measured run."""

    row: dict[str, str]
    setup: Setup

    @property
    def ran_out_of_memory(self) -> bool:
        return self.row["oom"] == "1"

    @property
    def peak_bytes(self) -> int:
        return int(self.row["peak_allocated_bytes"])

    @property
    def used_bytes(self) -> int | None:
        """What the device held, or None where earlier runs of the process left something there."""
        return int(self.row["device_used_bytes"]) if self.row["device_used_bytes"] else None

    @property
    def ms(self) -> float:
        """As the first card would have it: what the row took over the pace of its card."""
        return float(self.row["ms"]) / float(self.row["pace"])

    @property
    def profile(self) -> Kernels | None:
        """The kernels profile that ran, or none: single levers of it have no name in the values."""
        row = self.row
        if row["layers_from"] == _FP8:
            return "fp8"
        return _PROFILES.get((row["attention"], row["rope"], row["fused_swiglu"], row["clip_attention"]))

    @property
    def predicted_ms(self) -> float:
        """The model's time; a shard that ran alone on one GPU had no communication."""
        parts = step_time(self.setup).parts
        work = parts.gemm + parts.attention + parts.elementwise + parts.vision
        return work + (parts.tp_communication if self.row["tp_mode"] == "real" else 0)

    @property
    def is_timed(self) -> bool:
        """Whether its time is in the model's domain.

        Left out are rows out of memory or with NaN data; kernels that are neither profile; more
        than 704 tokens per sample; and those within 10 % of the launch floor or below it, where the
        CPU sets the pace, not the GPU.
        """
        return (
            not self.ran_out_of_memory
            and self.row["time_ok"] == "1"
            and self.profile is not None
            and self.setup.tokens_per_sample <= 704
            and self.predicted_ms >= 1.1 * launch_floor(self.setup)
        )

    @property
    def group(self) -> str:
        """What the accuracy table calls its kind."""
        mode = {"whole": "TP 1", "real": f"TP {self.row['tp']} with NCCL", "shard": "TP shard alone"}
        recompute = ", full recompute" if self.setup.recompute == "full" else ""
        return f"{self.setup.gpu.title[:4]}, {self.profile} kernels, {mode[self.row['tp_mode']]}{recompute}"


def runs() -> Iterator[Run]:
    """Read all runs."""
    with (DATA / "steps.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            yield Run(row, _setup(row))


def _setup(row: dict[str, str]) -> Setup:
    model = catalog.get(_MODELS[row["model"]])
    llm = replace(model.architecture, num_layers=int(row["layers"]))  # some ran half the layers
    return Setup(
        model=replace(model, architecture=llm),
        gpu=GPUS[row["gpu"]],
        tensor_parallel_size=int(row["tp"]),
        pipeline_parallel_size=1,
        data_parallel_size=int(row["dp"]),
        micro_batch_size=int(row["micro_batch_size"]),
        accumulation=1,
        tokens_per_sample=int(row["tokens_per_sample"]),
        kernels="fp8" if row["layers_from"] == _FP8 else "fused" if row["fused_swiglu"] == "1" else "reference",
        sequence_parallel=row["sequence_parallel"] == "1",
        recompute="full" if row["recompute"] == "1" else "none",
    )
