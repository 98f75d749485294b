"""What all operators need to run on the host: reachable, certified webhooks and a ready check."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from tests import tools
from tests.sandbox import process

if TYPE_CHECKING:
    from tests.sandbox.cluster import Sandbox

Object = dict[str, Any]

# CRDs are long; libyaml parses them ten times faster than Python does.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Operator(ABC):
    """One program beside the control plane.

    Bringing up goes in steps, each for all operators: their CRDs, ``launch``, ``mount``,
    ``await_ready``; so that they wait for one another's CRDs and certificates side by side.
    """

    name: ClassVar[str]
    tools: ClassVar[tuple[str, ...]]

    @abstractmethod
    def crds(self) -> list[Object]:
        """Return the operator's own CRDs."""

    @abstractmethod
    def launch(self, box: Sandbox) -> None:
        """Create what else it needs in the cluster and start it."""

    @abstractmethod
    def mount(self, box: Sandbox) -> None:
        """Give it what a kubelet would mount."""

    @abstractmethod
    def await_ready(self, box: Sandbox) -> None:
        """Return once it does its work."""

    def wait(self, box: Sandbox, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, but no longer than the operator lives."""

        def holds() -> bool:
            alive = {process.command for process in box.processes()}
            for tool in self.tools:
                if tools.path(tool).name not in alive:
                    raise ProcessLookupError(f"{self.name}: {tool} exited; see {box.log_file(tool)}")
            return condition()

        box.wait(holds, f"{self.name}: {what}")


class WebhookOperator(Operator):
    """An operator with admission webhooks that makes its own certificate.

    In a cluster the API server reaches the webhook through a Service, and the certificate comes to
    the operator as a mounted Secret. Here the Service is an ExternalName for localhost with the
    port that the operator listens on, and we play kubelet: the Secret's files are written where
    the operator reads them, below a TMPDIR of its own. TLS is real and verified.
    """

    group: ClassVar[str]
    namespace: ClassVar[str]
    service: ClassVar[str]
    secret: ClassVar[str]

    @abstractmethod
    def webhooks(self, box: Sandbox) -> list[Object]:
        """Return the webhook configurations, named as the operator expects."""

    def conversions(self) -> list[Object]:
        """Return the parts of CRDs that say that its webhook converts their versions; few operators have any."""
        return []

    @abstractmethod
    def run(self, box: Sandbox, *, webhook: int, probe: int) -> None:
        """Start the program with these ports."""

    def launch(self, box: Sandbox) -> None:
        """Create Service, Secret and webhooks, and start the program."""
        webhook, probe = process.free_ports(2)
        configurations, conversions = self.webhooks(box), self.conversions()
        converting = [crd["spec"]["conversion"]["webhook"] for crd in conversions]
        for entry in [*_webhook_entries(configurations), *converting]:
            service = entry["clientConfig"]["service"]
            service.update(name=self.service, namespace=self.namespace, port=webhook)
        box.create(
            [
                {"apiVersion": "v1", "kind": "Namespace", **_named(self.namespace)},
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    **_named(self.service, self.namespace),
                    "spec": {
                        "type": "ExternalName",
                        "externalName": "localhost",
                        "ports": [{"port": webhook}],
                    },
                },
                {"apiVersion": "v1", "kind": "Secret", **_named(self.secret, self.namespace)},
                *configurations,
            ]
        )
        for crd in conversions:
            patch = json.dumps({"spec": crd["spec"]})
            box.kubectl("patch", "crd", crd["metadata"]["name"], "--type=merge", f"--patch={patch}")
        self.folder(box).mkdir(parents=True, exist_ok=True)
        (self.folder(box) / "probe").write_text(str(probe), encoding="utf-8")
        self.run(box, webhook=webhook, probe=probe)

    def mount(self, box: Sandbox) -> None:
        """Hand the operator the certificate that it has put into its Secret."""
        self.wait(box, lambda: self._mount_certificate(box), "certificate")

    def await_ready(self, box: Sandbox) -> None:
        """Wait until the operator answers, the API server trusts its webhooks, and each of them is served.

        The training operator is ready a little before it has registered its webhooks.
        """
        probe = (self.folder(box) / "probe").read_text(encoding="utf-8")
        url = f"http://127.0.0.1:{probe}/readyz"
        self.wait(box, lambda: _answers(url), "ready")
        self.wait(box, lambda: self._certified(box), "webhooks certified")
        self.wait(box, lambda: all(map(_is_served, self._entries(box))), "webhooks served")

    def folder(self, box: Sandbox) -> Path:
        """Return the operator's own folder; its TMPDIR."""
        return box.folder / "operators" / self.name

    def env(self, box: Sandbox) -> dict[str, str]:
        """Return the environment in which its webhook finds its certificate."""
        return {"TMPDIR": str(self.folder(box))}

    def manifests(self, *parts: str) -> Path:
        """Return a path in the operator's own manifests."""
        return tools.manifests(self.group).joinpath(*parts)

    def kustomize(self, box: Sandbox, *parts: str) -> list[Object]:
        """Build one of the operator's kustomizations."""
        return documents(box.kubectl("kustomize", str(self.manifests(*parts))))

    def certificates(self, box: Sandbox) -> Path:
        """Return the folder in which its webhook server looks for the certificate."""
        return self.folder(box) / "k8s-webhook-server" / "serving-certs"

    def write_config(self, box: Sandbox, config: Object) -> Path:
        """Write the operator's configuration file and return its path."""
        file = self.folder(box) / "config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        return file

    def _mount_certificate(self, box: Sandbox) -> bool:
        data = box.get("secret", self.secret, namespace=self.namespace).get("data") or {}
        if not data.get("tls.crt"):
            return False
        folder = self.certificates(box)
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in data.items():
            (folder / name).write_bytes(base64.b64decode(value))
        return True

    def _entries(self, box: Sandbox) -> list[Object]:
        """Return the operator's own webhooks, as the API server has them."""
        found = box.get("validatingwebhookconfigurations,mutatingwebhookconfigurations")["items"]
        return [
            entry
            for entry in _webhook_entries(found)
            if entry["clientConfig"]["service"]["namespace"] == self.namespace
            and entry["clientConfig"]["service"]["name"] == self.service
        ]

    def _certified(self, box: Sandbox) -> bool:
        ours = self._entries(box)
        return bool(ours) and all(entry["clientConfig"].get("caBundle") for entry in ours)


def documents(text: str) -> list[Object]:
    """Parse a stream of YAML documents, leaving empty ones out."""
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def files(folder: Path, pattern: str = "*.yaml") -> list[Object]:
    """Parse every file of a folder that is a resource."""
    texts = (file.read_text(encoding="utf-8") for file in sorted(folder.glob(pattern)))
    return [document for text in texts for document in documents(text)]


def rename(objects: Iterable[Object], prefix: str) -> list[Object]:
    """Keep the webhook configurations of a kustomization and prefix their names."""
    kept = [one for one in objects if one["kind"].endswith("WebhookConfiguration")]
    for one in kept:
        one["metadata"]["name"] = prefix + one["metadata"]["name"]
    return kept


def _named(name: str, namespace: str | None = None) -> Object:
    return {"metadata": {"name": name, **({"namespace": namespace} if namespace else {})}}


def _webhook_entries(configurations: Iterable[Object]) -> list[Object]:
    return [entry for one in configurations for entry in one.get("webhooks", [])]


def _is_served(entry: Object) -> bool:
    """Tell whether a webhook's path is known to its server; an empty question is enough for that."""
    client = entry["clientConfig"]
    context = ssl.create_default_context(cadata=base64.b64decode(client["caBundle"]).decode("ascii"))
    context.check_hostname = False  # the name is that of the Service
    url = f"https://127.0.0.1:{client['service']['port']}{client['service'].get('path', '')}"
    try:
        with urllib.request.urlopen(url, data=b"", timeout=5, context=context):
            return True
    except urllib.error.HTTPError as error:
        return error.code != 404


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own loopback URL
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
