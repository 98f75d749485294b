"""The cluster as ``kubectl`` shows it. Its answers may have any shape: anything malformed counts as missing."""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from neva_pretrain.errors import NevaError

Object = Mapping[str, Any]

TIMEOUT = 60
"""Seconds that one question to the API server may take."""


class ClusterError(NevaError):
    """The cluster cannot be asked, or has no such job."""


class ForbiddenError(ClusterError):
    """The user may not ask this."""


class NoSuchKindError(ClusterError):
    """The cluster does not know this kind of object."""


def at(value: object, *path: str) -> Object:
    """Return the mapping at a path of keys, empty where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def objects(value: object) -> list[Object]:
    """Return the mappings of a list, none where it is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def word(value: object) -> str:
    """Return a text, empty where it is none."""
    return value if isinstance(value, str) else ""


def name_of(value: Object) -> str:
    """Return an object's name."""
    return word(at(value, "metadata").get("name"))


def conditions(value: Object) -> Iterator[tuple[str, bool, str]]:
    """Yield the conditions of an object: type, whether it holds, and why."""
    for condition in objects(at(value, "status").get("conditions")):
        said = word(condition.get("message")) or word(condition.get("reason"))
        yield word(condition.get("type")), condition.get("status") == "True", said


class Kubectl:
    """``kubectl`` with a namespace and context."""

    def __init__(
        self,
        namespace: str | None,
        context: str | None,
        show: Callable[[str], None] = lambda _: None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Take where to look, what is told of each call, and how long one may take."""
        self._context = context
        self._show = show
        self._timeout = timeout
        self._options = [
            *([f"--namespace={namespace}"] if namespace else []),
            *([f"--context={context}"] if context else []),
        ]

    def _list(self, resource: str, query: list[str], named: bool = True) -> list[Object]:
        """Return the objects of a kind that a query picks, none where the cluster has no such kind."""
        try:
            return self._items(resource, query, named)
        except NoSuchKindError:
            return []

    def _items(self, resource: str, query: list[str], named: bool = True) -> list[Object]:
        """Return the objects of a kind that a query picks.

        Raises:
            NoSuchKindError: the cluster has no such kind.
        """
        parsed = self._json(["get", resource, *query, "--output=json"])
        if not isinstance(parsed, dict) or not isinstance(parsed.get("items"), list):
            raise ClusterError(f"kubectl get {resource}: its answer is not a list of objects; is it the real kubectl?")
        return [item for item in objects(parsed["items"]) if name_of(item) or not named]

    def _json(self, words: Sequence[str]) -> object:
        """Return what a call of kubectl prints as JSON, None where it prints nothing."""
        answer = self._ask(words)
        try:
            return json.loads(answer) if answer.strip() else None
        except (ValueError, RecursionError):
            said = " ".join(words[:2])
            raise ClusterError(f"kubectl {said}: its answer is not JSON; is it the real kubectl?") from None

    def _call(self, words: Sequence[str]) -> list[str]:
        """Return a call of kubectl, once it is told."""
        call = ["kubectl", *self._options, *words]
        self._show(shlex.join(call))
        return call

    def _ask(self, words: Sequence[str]) -> bytes:
        """Return what a call of kubectl prints."""
        done = self._run(words)
        if done.returncode == 0:
            return done.stdout
        raise trouble(f"kubectl {' '.join(words[:2])}", done.stderr)

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Return how a call of kubectl ended."""
        try:
            return subprocess.run(
                self._call(words),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout,
                check=False,
            )
        except FileNotFoundError:
            raise ClusterError("kubectl: not found on PATH; install it") from None
        except OSError as error:
            raise ClusterError(f"kubectl: cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise ClusterError(f"kubectl: no answer from the API server for {self._timeout:g} s") from None


def trouble(call: str, stderr: bytes) -> ClusterError:
    """Return what kubectl's last words mean."""
    said = stderr.decode("utf-8", "replace").strip()
    last = f"{call}: {said.splitlines()[-1] if said else 'failed'}"
    if "doesn't have a resource type" in said or "could not find the requested resource" in said:
        return NoSuchKindError(last)
    if "(Forbidden)" in said:
        return ForbiddenError(last)
    return ClusterError(last)
