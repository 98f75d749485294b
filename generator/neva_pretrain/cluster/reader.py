"""What a cluster has, each thing asked once: it reads, and changes nothing."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from neva_pretrain.kubectl import ForbiddenError, Kubectl, NoSuchKindError, Object, at, objects, trouble, word

KEYS = '--output=go-template={{range $key, $_ := .data}}{{$key}}{{"\\n"}}{{end}}'
"""The keys of a Secret: what they hold does not leave kubectl."""


PARTIAL = b"unable to retrieve the complete list of server APIs"
"""What kubectl says where a group's own server is down, often that of metrics: Helm goes on with the others, too."""


class Cluster(Kubectl):
    """A cluster, and a namespace of it."""

    def __init__(self, namespace: str | None, context: str | None, show: Callable[[str], None]) -> None:
        """Take where to look, the kubeconfig's namespace if none is given, and what is told of each call."""
        super().__init__(namespace, context, show)
        self._given = namespace
        self._seen: dict[tuple[str, ...], object] = {}
        self._may: dict[str, bool] = {}

    @cached_property
    def namespace(self) -> str:
        """The namespace's name."""
        if self._given:
            return self._given
        found = self._ask(["config", "view", "--minify", "--output=jsonpath={..namespace}"])
        return found.decode("utf-8", "replace").strip() or "default"

    @cached_property
    def version(self) -> str:
        """The API server's version, as it says it."""
        found = self._json(["version", "--output=json"])
        return word(at(found, "serverVersion").get("gitVersion"))

    @cached_property
    def kinds(self) -> frozenset[tuple[str, str]]:
        """The kinds that the API has: group with version, kind."""
        done = self._run(["api-resources", "--no-headers"])
        if done.returncode and not (done.stdout and PARTIAL in done.stderr):
            raise trouble("kubectl api-resources", done.stderr)
        words = [row.split() for row in done.stdout.decode("utf-8", "replace").splitlines()]
        return frozenset((row[-3], row[-1]) for row in words if len(row) >= 4)

    def has(self, api: str, kind: str) -> bool:
        """Return whether the API has a kind, of a group in some version or of one version."""
        return any(kind == each and api in (found, found.partition("/")[0]) for found, each in self.kinds)

    def has_group(self, group: str) -> bool:
        """Return whether the API has a group; the core's is empty."""
        return not group or any(found.partition("/")[0] == group for found, _ in self.kinds)

    def schema(self, api: str, kind: str) -> Object:
        """Return a kind's schema, as any user may read it; empty where the API server gives none."""
        try:
            found = self._once("get", "--raw", f"/openapi/v3/apis/{api}")
        except NoSuchKindError:
            return {}
        group, _, version = api.partition("/")
        wanted = {"group": group, "version": version, "kind": kind}
        for schema in at(found, "components", "schemas").values():
            if wanted in objects(at(schema).get("x-kubernetes-group-version-kind")):
                return at(schema)
        return {}

    def find(self, resource: str, name: str) -> Object | None:
        """Return an object, None where it is not there.

        Raises:
            ForbiddenError: the user may not get it; its words say what.

        """
        found = self._readable(resource, lambda: self._once("get", resource, name, "--ignore-not-found", "-o=json"))
        return found if isinstance(found, Mapping) else None

    def keys(self, secret: str) -> frozenset[str] | None:
        """Return the keys of a Secret, None where it is not there; refusals are as in :meth:`find`."""
        there = self._readable(
            "secrets", lambda: self._ask(["get", "secret", secret, "--ignore-not-found", "--output=name"])
        )
        if not there:
            return None
        return frozenset(self._ask(["get", "secret", secret, KEYS]).decode("utf-8", "replace").split())

    @cached_property
    def nodes(self) -> list[Object]:
        """The nodes; refusals are as in :meth:`find`."""
        found: list[Object] = self._readable("nodes", lambda: self._list("nodes", []))
        return found

    def may_create(self, resource: str) -> bool:
        """Return whether the user may make such objects, in the namespace if they have one."""
        if resource not in self._may:
            self._may[resource] = self._can("create", resource)
        return self._may[resource]

    def _can(self, verb: str, resource: str) -> bool:
        done = self._run(["auth", "can-i", verb, resource])
        if done.returncode == 0 or done.stdout.startswith(b"no"):  # it says no by a word and its code
            return done.returncode == 0
        raise trouble("kubectl auth can-i", done.stderr)

    def _readable(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except ForbiddenError:
            raise ForbiddenError(f"no right to get {what}") from None

    def _once(self, *words: str) -> object:
        """Return the parsed answer to a question, which is asked once."""
        if words not in self._seen:
            self._seen[words] = self._json(words)
        return self._seen[words]
