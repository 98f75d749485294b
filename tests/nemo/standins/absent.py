"""Packages that NeMo imports for other models than NeVa, or for its own tests: their names are enough.

Each would be megabytes, a compiler or no wheel at all; none is called on the way of a NeVa pretraining.
"""

import importlib.abc
import importlib.machinery
import sys
import types

ABSENT = {
    "boto3": "checkpoints in S3",
    "botocore": "checkpoints in S3",
    "decord": "video",
    "faiss": "Retro",
    "flash_attn": "attention of other models",
    "jieba": "Chinese text of the translation models",
    "onnx": "export",
    "opencc": "Chinese text of the translation models",
    "pangu": "Chinese text of the translation models",
    "rouge_score": "metrics of fine-tuning",
    "sacrebleu": "metrics of the translation models",
}


class _AnythingType(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class Anything(metaclass=_AnythingType):
    """Any class or function of an absent package; it cannot be called."""

    def __init__(self, *_, **__):
        raise NotImplementedError("a package that is not here was called")


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        module.__path__ = []


def install():
    """Make the names importable, after all real packages."""
    sys.meta_path.append(_Finder())
