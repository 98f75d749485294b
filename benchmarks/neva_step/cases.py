"""What is measured: a case, how it is written, and what the planner says about it."""

import re
from dataclasses import dataclass, replace
from typing import Any, Self

from neva_pretrain.model import catalog
from neva_pretrain.model.catalog import Model
from neva_pretrain.model.hardware import GPUS, Gpu
from neva_pretrain.plan.memory import memory
from neva_pretrain.plan.setup import Kernels, Setup
from neva_pretrain.plan.time import step_time

PROFILES = ("reference", "fused", "fp8", "te-fused", "te-fp8", "te-fp8-params")
_PLANNED: dict[str, Kernels] = {"reference": "reference", "fused": "fused", "te-fused": "fused", "te-fp8": "fp8"}
"""The profiles that training.kernels can ask for; Megatron-core and PyTorch alone have no FP8."""
MODELS = {"7b": "llama2_7b_chat", "13b": "llama2_13b_chat"}
_SIZES = {"tp": "tensor_parallel_size", "dp": "data_parallel_size", "mbs": "micro_batch_size", "acc": "accumulation"}
_SIZES["tok"] = "tokens_per_sample"


@dataclass(frozen=True)
class Case:
    """One setup to measure, written ``13b:tp8:dp1:mbs32:reference``; ``acc2`` and ``tok704`` may follow."""

    model: str
    tensor_parallel_size: int
    micro_batch_size: int
    kernels: str
    data_parallel_size: int = 1
    accumulation: int = 1
    tokens_per_sample: int = 0  # 0: the catalog's

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a case; raises ValueError with what must be written instead."""
        model, *rest = text.split(":")
        sizes: dict[str, int] = {}
        kernels = "reference"
        for word in rest:
            size = re.fullmatch(r"([a-z]+)([1-9][0-9]*)", word)
            if word in PROFILES:
                kernels = word
            elif size and size[1] in _SIZES:
                sizes[_SIZES[size[1]]] = int(size[2])
            else:
                raise ValueError(f"case {text}: {word} must be one of {', '.join((*PROFILES, *_SIZES))} with a number")
        if model not in MODELS or not {"tensor_parallel_size", "micro_batch_size"} <= set(sizes):
            raise ValueError(f"case {text}: must begin as in 7b:tp1:mbs16, with a model of {', '.join(MODELS)}")
        return cls(model=model, kernels=kernels, **sizes)

    def __str__(self) -> str:
        """Write what ``parse`` reads."""
        words = [self.model, f"tp{self.tensor_parallel_size}", f"dp{self.data_parallel_size}"]
        words += [f"mbs{self.micro_batch_size}", self.kernels]
        words += [f"acc{self.accumulation}"] if self.accumulation > 1 else []
        words += [f"tok{self.tokens_per_sample}"] if self.tokens_per_sample else []
        return ":".join(words)

    @property
    def layout(self) -> tuple[int, int]:
        """TP and DP: what the process groups depend on."""
        return self.tensor_parallel_size, self.data_parallel_size

    @property
    def gpus(self) -> int:
        """GPUs that it needs."""
        return self.tensor_parallel_size * self.data_parallel_size

    @property
    def samples(self) -> int:
        """Samples of one step on one replica."""
        return self.micro_batch_size * self.accumulation

    def shapes(self, tiny: bool) -> Model:
        """Return the catalog's model, or one of the same make that a CPU runs in a blink."""
        model = catalog.get(MODELS[self.model])
        if tiny:
            llm = replace(
                model.architecture,
                num_layers=2,
                hidden_size=64,
                ffn_hidden_size=128,
                num_attention_heads=8,
                num_query_groups=8,
                vocab_size=500,
            )
            tower = replace(model.vision, hidden_size=32, num_layers=2, image_size=56)
            model = replace(model, architecture=llm, vision=tower, tokens_per_sample=64)
        return replace(model, tokens_per_sample=self.tokens_per_sample or model.tokens_per_sample)

    def setup(self, gpu: Gpu, kernels: Kernels) -> Setup:
        """Return what the cost model is a function of."""
        model = self.shapes(tiny=False)
        return Setup(
            model=model,
            gpu=gpu,
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=1,
            data_parallel_size=self.data_parallel_size,
            micro_batch_size=self.micro_batch_size,
            accumulation=self.accumulation,
            tokens_per_sample=model.tokens_per_sample,
            kernels=kernels,
        )

    def expected_seconds(self, card: str, iterations: int) -> float:
        """Return what measuring it takes at most, building included; for a time budget, not for a result."""
        gpu = gpu_of(card) or GPUS["h100-80gb"]
        step = step_time(self.setup(gpu, "reference" if self.kernels == "reference" else "fused"))
        return 15 + 1.1 * iterations * step.total / 1000

    def prediction(self, card: str) -> dict[str, Any]:
        """Return the planner's time and memory, or nothing for a card or kernels that it does not know."""
        gpu = gpu_of(card)
        kernels = _PLANNED.get(self.kernels)
        if gpu is None or kernels is None:
            return {}
        setup = self.setup(gpu, kernels)
        step, used = step_time(setup), memory(setup)
        return {
            "predicted_ms": round(step.total, 1),
            "predicted_basis": str(step.basis),
            "predicted_allocated_bytes": used.peak,
            "predicted_device_bytes": used.total,
        }


def gpu_of(card: str) -> Gpu | None:
    """Return the planner's record of a card by the driver's name of it."""
    return next((gpu for gpu in GPUS.values() if gpu.title.split()[0] in card), None)


@dataclass(frozen=True)
class Job:
    """What the driver asks of all ranks; travels as JSON."""

    cases: list[str]
    rows: str
    deadline: float
    warmup: int
    iterations: int
    learning_rate: float
    dry_run: bool


OUT_OF_MEMORY = "out-of-memory"
"""File beside the rows by which a rank says why it ends; the others hang in a collective until they are stopped."""


def default(gpus: int) -> list[Case]:
    """Return what is worth measuring on that many GPUs, most valuable first."""
    return [case for case in map(Case.parse, _DEFAULT) if case.gpus == gpus]


_WITHOUT_ENGINE = PROFILES[:3]
_DEFAULT = [
    *(f"7b:tp1:mbs16:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"13b:tp1:mbs8:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"7b:tp1:mbs8:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"13b:tp1:mbs4:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"7b:tp2:mbs16:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"13b:tp2:mbs16:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"7b:tp4:mbs32:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"7b:tp1:dp4:mbs16:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"13b:tp8:mbs32:{kernels}" for kernels in _WITHOUT_ENGINE[:2]),
    *(f"7b:tp4:dp2:mbs32:{kernels}" for kernels in _WITHOUT_ENGINE[:2]),
    *(f"7b:tp1:dp8:mbs16:{kernels}" for kernels in _WITHOUT_ENGINE),
    *(f"13b:tp1:dp8:mbs8:{kernels}" for kernels in _WITHOUT_ENGINE),
]
