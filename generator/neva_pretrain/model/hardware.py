"""GPUs that the cost model knows: data sheets, and the memory that a process really sees."""

from dataclasses import dataclass

from neva_pretrain import chart

GIB = 2**30
"""Bytes of one GiB."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. Rates are NVIDIA's data sheets': H100 SXM5, H200 SXM, A100 80GB SXM4."""

    name: str
    title: str
    memory_bytes: int  # what PyTorch sees of an empty GPU, less than the name says
    peak_tflops: float  # dense bf16, without sparsity
    memory_tb_s: float
    nvlink_gb_s: float  # both directions together
    fp8: bool = True

    @property
    def memory_gib(self) -> float:
        """Visible memory in GiB."""
        return self.memory_bytes / GIB


# Memory: measured at calibration (H100), or as PyTorch's out-of-memory messages print the total
# capacity: 139.80 and 139.81 GiB (H200), 79.15 GiB and more, by driver (A100).
_PEAK: dict[str, float] = chart.rules()["peakTflops"]
H100 = Gpu("h100-80gb", "H100 80GB", int(79.18 * GIB), _PEAK["h100-80gb"], 3.35, 900)
H200 = Gpu("h200-141gb", "H200 141GB", int(139.80 * GIB), _PEAK["h200-141gb"], 4.8, 900)
A100 = Gpu("a100-80gb", "A100 80GB", int(79.15 * GIB), _PEAK["a100-80gb"], 2.039, 600, fp8=False)

GPUS = {gpu.name: gpu for gpu in (H100, H200, A100)}
"""All known GPUs by name; the first is the default, and the one whose rates the constants are."""
