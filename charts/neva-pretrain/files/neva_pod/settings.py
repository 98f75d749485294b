"""The settings file that the chart renders for preflight and prepare."""

import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from neva_pod.findings import UsageError, brief, show
from neva_pod.inputs.files import open_file

T = TypeVar("T")


class Settings:
    """The settings file, read by dotted path; a value of the wrong type is a usage error."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def find(self, path: str) -> Any:
        """Return the value, or None where it is not given."""
        value: Any = self._data
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def _typed(self, path: str, kind: type[T], default: T | None) -> T:
        value = self.find(path)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UsageError(f"settings: {path}: got {_shown(value)}; must be {kind.__name__}")
        return value

    def text(self, path: str, default: str | None = None) -> str:
        """Return a string that a path may be made of."""
        value = self._typed(path, str, default)
        try:
            possible = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            possible = False
        if not possible:
            raise UsageError(f"settings: {path}: got {_shown(value)}; must be text without NUL and lone surrogates")
        return value

    def integer(self, path: str, default: int | None = None, least: int = 0) -> int:
        """Return a whole number, at most the largest that JSON's readers agree on."""
        value = self._typed(path, int, default)
        if not least <= value <= 2**53:
            raise UsageError(f"settings: {path}: got {_shown(value)}; must be {least} to 2^53")
        return value

    def flag(self, path: str, default: bool = False) -> bool:
        """Return a boolean."""
        return self._typed(path, bool, default)

    def mapping(self, path: str) -> Mapping[str, Any]:
        """Return an object, empty where it is not given."""
        return self._typed(path, dict, {})

    def objects(self, path: str) -> Mapping[str, Mapping[str, Any]]:
        """Return an object of objects, empty where it is not given."""
        values = self.mapping(path)
        for key, value in values.items():
            if not isinstance(value, dict):
                raise UsageError(f"settings: {path}: {show(key)}: got {_shown(value)}; must be dict")
        return values

    def texts(self, path: str) -> list[str]:
        """Return a list of strings, empty where it is not given."""
        values = self._typed(path, list, [])
        if not all(isinstance(v, str) for v in values):
            raise UsageError(f"settings: {path}: got {_shown(values)}; must be a list of strings")
        return list(values)

    @property
    def parallel(self) -> tuple[int, int] | None:
        """TP and PP, None where they are not given or no run has them."""
        tensor, pipeline = (self.find(f"training.{k}ParallelSize") for k in ("tensor", "pipeline"))
        if type(tensor) is not int or type(pipeline) is not int:
            return None
        return (tensor, pipeline) if tensor > 0 < pipeline and tensor * pipeline <= 2**16 else None


def load_settings(path: str) -> Settings:
    """Read a settings file."""
    try:
        with open_file(path) as file:
            data = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"settings: {show(path)}: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"settings: {show(path)}: must be a JSON object")
    return Settings(data)


def _shown(value: Any) -> str:
    """Return a value of the settings as Python writes it, unless it is long."""
    return f"{value!r}" if isinstance(value, str) and len(value) <= 80 else brief(value)
