"""Stand-in for a GPU: what NeMo asks of CUDA is answered by the CPU.

Call `install` before NeMo is imported. Numbers are those of the CPU's kernels; the code that is run is NVIDIA's.
"""

import contextlib
import functools
import os

import torch

try:  # NeMo's Lightning, and torch's compiler with it, which looks at torch.cuda
    import lightning.pytorch as lightning  # since NeMo 2.1
except ModuleNotFoundError:
    import pytorch_lightning as lightning

CPU = torch.device("cpu")


class _Generators:
    def __getitem__(self, _index):
        return torch.default_generator


class _Stream:
    def __init__(self, *_, **__):
        pass

    def synchronize(self):
        """Nothing runs beside."""

    wait_stream = wait_event = record_event = lambda self, *_: None


def _here(tensor, *_, **__):
    return tensor


def _type(tensor, *arguments, **options):
    if arguments or options:
        return _TYPE(tensor, *arguments, **options)
    return _TYPE(tensor).replace("torch.", "torch.cuda.")


_TYPE = torch.Tensor.type
_AUTOCAST = torch.autocast


class _Autocast(_AUTOCAST):
    def __init__(self, _device, *arguments, **options):
        super().__init__("cpu", *arguments, **options)


def _on_cpu(make):
    @functools.wraps(make)
    def made(*arguments, device=None, **options):
        return make(*arguments, device=CPU if device is not None else None, **options)

    return made


def _in_fp32(operation):
    """Compute in fp32 what this CPU would take minutes for in bf16; the result is rounded to bf16."""

    @functools.wraps(operation)
    def computed(*arguments, **options):
        kinds = {a.dtype for a in arguments if isinstance(a, torch.Tensor)}
        if torch.bfloat16 not in kinds:
            return operation(*arguments, **options)
        wide = [a.float() if isinstance(a, torch.Tensor) and a.dtype == torch.bfloat16 else a for a in arguments]
        options = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        return operation(*wide, **options).bfloat16()

    return computed


def install():
    """Answer for CUDA from now on."""
    answers = {
        "is_available": lambda: True,
        "current_device": lambda: CPU,
        "device_count": lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        "default_generators": _Generators(),
        "get_rng_state": lambda *_, **__: torch.get_rng_state(),
        "set_rng_state": lambda state, *_, **__: torch.set_rng_state(state),
        "manual_seed": torch.default_generator.manual_seed,
        "manual_seed_all": torch.default_generator.manual_seed,
        "_lazy_call": lambda call, **_: call(),
        "set_device": lambda *_: None,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "max_memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "Stream": _Stream,
        "Event": _Stream,
        "current_stream": _Stream,
        "stream": lambda *_: contextlib.nullcontext(),
        "is_current_stream_capturing": lambda: False,
        **{name: getattr(torch, name) for name in ("IntTensor", "FloatTensor", "HalfTensor", "BFloat16Tensor")},
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for name in ("get_rng_state", "set_rng_state"):  # megatron-core 0.11 looks there
        setattr(torch.cuda.random, name, answers[name])
    torch.Tensor.cuda = torch.Tensor.pin_memory = _here
    torch.nn.Module.cuda = _here
    torch.Tensor.type = _type
    torch.autocast = torch.amp.autocast = _Autocast
    load = torch.load
    torch.load = lambda *arguments, **options: load(*arguments, **{**options, "map_location": CPU})
    for name in ("arange", "empty", "full", "ones", "tensor", "zeros"):
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    functional = torch.nn.functional
    for place, name in (
        *((torch, name) for name in ("matmul", "bmm", "baddbmm")),
        *((torch.Tensor, name) for name in ("matmul", "__matmul__", "bmm")),
        *((functional, name) for name in ("linear", "conv2d", "scaled_dot_product_attention")),
    ):
        setattr(place, name, _in_fp32(getattr(place, name)))
    _give_lightning_the_cpu()


def _give_lightning_the_cpu():
    """Lightning looks for the device that the configuration names: give it the CPU's accelerator under that name."""
    made = lightning.Trainer.__init__

    def on_cpu(self, *arguments, accelerator="auto", **options):
        made(self, *arguments, accelerator="cpu", **options)

    lightning.Trainer.__init__ = on_cpu
