"""The sandbox: one cluster, its nodes and its operators, from nothing to ready and back."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests import tools
from tests.sandbox import process
from tests.sandbox.nodes import nodes as node_objects
from tests.waiting import PATIENCE

Object = dict[str, Any]
Say = Callable[[str], None]

COMPONENTS = ("kueue", "gang", "trainer")
STATE = "sandbox.json"
STAGES = Path(__file__).with_name("stages.yaml")
NODES_PER_REQUEST = 256
ANNOTATION = "neva.test"


class SandboxError(Exception):
    """The sandbox cannot be brought up or asked; the message says what to look at."""


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Sandbox:
    """A local control plane; make one with ``Sandbox.up`` or find one with ``Sandbox.open``."""

    folder: Path
    nodes: int
    gpus_per_node: int
    components: tuple[str, ...]

    @classmethod
    def up(
        cls,
        *,
        name: str = "neva",
        nodes: int = 16,
        gpus_per_node: int = 8,
        components: Sequence[str] = (),
        folder: Path | None = None,
        say: Say = _silent,
    ) -> Self:
        """Bring a sandbox up and return it when everything in it answers.

        Args:
            name: names the state folder, unless ``folder`` is given.
            nodes: number of simulated nodes, all Ready on return.
            gpus_per_node: ``nvidia.com/gpu`` of each node.
            components: any of ``kueue``, ``gang`` and ``trainer``.
            folder: where all state goes; must be absent, empty or an old sandbox.
            say: called with a line at each step.

        """
        from tests.sandbox.operators import chosen  # it needs Sandbox for its types

        unknown = sorted(set(components) - set(COMPONENTS))
        if unknown:
            known = ", ".join(COMPONENTS)
            raise SandboxError(f"{unknown[0]}: no such component; known are {known}")
        where = (folder or default_folder(name)).absolute()
        box = cls(where, nodes, gpus_per_node, tuple(c for c in COMPONENTS if c in components))
        operators = chosen(box.components)
        tools.ensure(*_CLUSTER_TOOLS, *(tool for operator in operators for tool in operator.tools))
        box._claim()
        try:
            say(f"cluster: {where}")
            box._start_cluster()
            box.create(_documents(STAGES.read_text(encoding="utf-8")) + _node_stages())
            say(f"nodes: {nodes} with {gpus_per_node} GPUs")
            box._create_nodes()
            box._create_crds([crd for operator in operators for crd in operator.crds()])
            for operator in operators:
                say(f"operator: {operator.name}")
                operator.launch(box)
            for operator in operators:
                operator.mount(box)
            for operator in operators:
                operator.await_ready(box)
                say(f"ready: {operator.name}")
            box._await_nodes()
        except BaseException:
            box._stop()  # Ctrl-C too leaves nothing behind, but the logs stay for reading
            raise
        return box

    @classmethod
    def open(cls, *, name: str = "neva", folder: Path | None = None) -> Self:
        """Find a sandbox that is up, perhaps brought up by another process."""
        where = (folder or default_folder(name)).absolute()
        try:
            state = json.loads((where / STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SandboxError(f"{where}: no sandbox here; bring one up first") from None
        return cls(where, state["nodes"], state["gpus_per_node"], tuple(state["components"]))

    def down(self) -> list[process.Process]:
        """Stop every process and remove the state; does nothing when it is down already."""
        stopped = self._stop()
        if (self.folder / STATE).exists():
            shutil.rmtree(self.folder)
        return stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    # --- what is where -------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of a cluster admin."""
        return self.folder / "kubeconfig"

    @property
    def env(self) -> dict[str, str]:
        """Environment in which kubectl and helm talk to this cluster and no other."""
        home = self.folder / "helm"
        return {
            **process.environment(self.folder),
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
        }

    def log_file(self, component: str) -> Path:
        """Log of one process, such as ``training-operator`` or ``kube-scheduler``."""
        own = self.folder / "logs" / f"{component}.log"
        return own if own.exists() else self._kwok_folder / "logs" / f"{component}.log"

    def processes(self) -> list[process.Process]:
        """List the live processes of this sandbox."""
        return process.find(self.folder)

    # --- talking to the API server -------------------------------------------------------------

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = PATIENCE) -> str:
        """Run kubectl against this cluster and return what it prints."""
        command = [str(tools.path("kubectl")), *args]
        done = subprocess.run(
            command,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise SandboxError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def create(self, objects: Iterable[Object]) -> None:
        """Create objects; no client-side bookkeeping, so any size goes."""
        self.kubectl("create", "-f", "-", stdin=_as_list(objects))

    def apply(self, manifest: str | Iterable[Object], namespace: str = "default") -> str:
        """Apply YAML text or objects."""
        text = manifest if isinstance(manifest, str) else _as_list(manifest)
        return self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def get(self, kind: str, *args: str, namespace: str = "default") -> Object:
        """Get an object or a list as parsed JSON: ``get("pytorchjob", "neva")``."""
        found: Object = json.loads(self.kubectl("get", "-n", namespace, kind, *args, "-o", "json"))
        return found

    def pods(self, selector: str = "", namespace: str = "default") -> list[Object]:
        """List pods that a label selector picks."""
        items: list[Object] = self.get("pods", "-l", selector, namespace=namespace)["items"]
        return items

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE, pause: float = 0.2) -> None:
        """Poll until ``condition`` holds; an API error on the way counts as not yet."""
        deadline = time.monotonic() + timeout
        last = ""
        while True:
            try:
                if condition():
                    return
            except ProcessLookupError as error:
                raise SandboxError(str(error)) from None
            except (SandboxError, OSError) as error:
                last = f" ({error})"
            if time.monotonic() > deadline:
                raise SandboxError(f"{what}: not after {timeout:.0f} s{last}; logs: {self.folder}")
            time.sleep(pause)

    def wait_for_phase(self, phase: str, count: int, selector: str = "", namespace: str = "default") -> None:
        """Wait until exactly ``count`` of the pods picked are in a phase such as Running."""

        def reached() -> bool:
            phases = [pod["status"].get("phase") for pod in self.pods(selector, namespace)]
            return phases.count(phase) == count

        self.wait(reached, f"{count} pods {phase}", timeout=PATIENCE + count * 0.5)

    # --- what pods do --------------------------------------------------------------------------

    def complete(self, *pods: str, namespace: str = "default") -> None:
        """Make running pods succeed: names, or ``-l`` and a selector, or ``--all``."""
        self._annotate(pods, namespace, "complete=true")

    def fail(self, *pods: str, code: int = 1, namespace: str = "default") -> None:
        """Make running pods fail with an exit code."""
        self._annotate(pods, namespace, f"fail={code}")

    def release(self, *pods: str, namespace: str = "default") -> None:
        """Let pods run that the annotation ``neva.test/hold: "true"`` kept Pending."""
        self._annotate(pods, namespace, "hold-")

    def write_logs(
        self,
        text: str,
        pod: str | None = None,
        *,
        container: str | None = None,
        namespace: str = "default",
    ) -> Path:
        """Append lines to what ``kubectl logs`` shows, as if the container had printed them.

        Of one pod (and one of its containers), or of every pod that has no log of its own.
        ``kubectl logs -f`` sees lines that come later. Returns the log's file, to write to it
        directly in the format of the container runtime: ``<RFC 3339 time> stdout F <line>``.
        """
        owner = f"{namespace}_{pod}" if pod else "all"
        file = self.folder / "pod-logs" / f"{owner}_{container or 'all'}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        first = not file.exists()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        with file.open("a", encoding="utf-8") as log:
            log.writelines(f"{now} stdout F {line}\n" for line in text.splitlines())
        if first:
            entry: Object = {"logsFile": str(file), "follow": True}
            if container:
                entry["containers"] = [container]
            self._serve(entry, pod, namespace)
        return file

    def _serve(self, entry: Object, pod: str | None, namespace: str) -> None:
        kind, name = ("Logs", pod) if pod else ("ClusterLogs", "neva")
        others: list[Object] = []
        with contextlib.suppress(SandboxError):  # there is none yet
            others = self.get(kind.lower(), name, namespace=namespace)["spec"]["logs"]
        # kwok takes the first entry that fits, so those that name a container come first.
        entries = sorted([*others, entry], key=lambda one: "containers" not in one)
        meta = {"name": name, **({"namespace": namespace} if pod else {})}
        shown = {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": meta}
        self.apply([{**shown, "spec": {"logs": entries}}], namespace)

    def _annotate(self, pods: Sequence[str], namespace: str, change: str) -> None:
        self.kubectl("annotate", "--overwrite", "-n", namespace, "pods", *pods, f"{ANNOTATION}/{change}")

    # --- bringing it up ------------------------------------------------------------------------

    def start(self, tool: str, *args: str, env: Mapping[str, str] | None = None) -> None:
        """Start one of the pinned tools as a process of this sandbox."""
        argv = [str(tools.path(tool)), *args]
        log = self.folder / "logs" / f"{tool}.log"
        process.spawn(argv, log=log, env={**self.env, **(env or {})})

    def restart(self, tool: str) -> None:
        """Kill a component or an operator, and start it again as a kubelet would."""
        process.restart(self.folder, {tool, tools.path(tool).name}, log=self.log_file(tool))

    @property
    def _kwok_folder(self) -> Path:
        return self.folder / "kwok" / "clusters" / "neva"

    def _claim(self) -> None:
        """Make the folder ours, refusing a running sandbox and any folder that never was one."""
        if self.processes():
            raise SandboxError(f"{self.folder}: already up; bring it down first")
        if (self.folder / STATE).exists():
            shutil.rmtree(self.folder)
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise SandboxError(f"{self.folder}: not empty and no sandbox; choose another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "nodes": self.nodes,
            "gpus_per_node": self.gpus_per_node,
            "components": list(self.components),
        }
        (self.folder / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def _start_cluster(self) -> None:
        config = self.folder / "kwokctl.yaml"
        config.write_text(yaml.safe_dump(_kwokctl_config()), encoding="utf-8")
        command = [str(tools.path("kwokctl")), "create", "cluster", "--name", "neva"]
        command += ["--config", str(config), "--kubeconfig", str(self.kubeconfig)]
        command += ["--wait", f"{PATIENCE:.0f}s"]
        log = self.folder / "logs" / "kwokctl.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            done = subprocess.run(
                command,
                env={**self.env, "KWOK_WORKDIR": str(self.folder / "kwok")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to handle, with the whole family
                check=False,
            )
        if done.returncode != 0:
            raise SandboxError(f"kwokctl: exit {done.returncode}; see {log}")

    def _create_nodes(self) -> None:
        objects = node_objects(self.nodes, self.gpus_per_node)
        batches = [objects[start : start + NODES_PER_REQUEST] for start in range(0, len(objects), NODES_PER_REQUEST)]
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(self.create, batches))

    def _create_crds(self, crds: Sequence[Object]) -> None:
        """Create CRDs and wait until the API server serves them all; operators exit otherwise."""
        self.create(crds)
        wanted = {
            (f"/apis/{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["plural"])
            for crd in crds
            for version in crd["spec"]["versions"]
            if version["served"]
        }

        def served() -> bool:
            for path in {path for path, _ in wanted}:
                for resource in json.loads(self.kubectl("get", "--raw", path))["resources"]:
                    wanted.discard((path, resource["name"]))
            return not wanted

        self.wait(served, "CRDs served")

    def _await_nodes(self) -> None:
        ready = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'

        def all_ready() -> bool:
            lines = self.kubectl("get", "nodes", "-o", f"jsonpath={ready}").split()
            return lines.count("True") == self.nodes

        self.wait(all_ready, f"{self.nodes} nodes Ready", timeout=PATIENCE + self.nodes * 0.1)

    def _stop(self) -> list[process.Process]:
        return process.stop(self.folder)


_KUBERNETES_TOOLS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_CLUSTER_TOOLS = ("etcd", *_KUBERNETES_TOOLS, "kubectl", "kwok", "kwokctl")


def default_folder(name: str) -> Path:
    """State folder of the sandbox with this name."""
    return tools.cache_root() / "sandboxes" / name


def _kwokctl_config() -> Object:
    """Configure kwokctl: our binaries, loopback only, free ports, no throttling."""
    api, etcd, peer, manager, scheduler, kwok = process.free_ports(6)
    return {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokctlConfiguration",
        "options": {
            "runtime": "binary",
            "bindAddress": "127.0.0.1",
            "kubeVersion": tools.GROUPS["kubernetes"].version,
            "enableCRDs": ["Stage", "Logs", "ClusterLogs"],
            "disableQPSLimits": True,
            "etcdBinary": str(tools.path("etcd")),
            "kubeApiserverBinary": str(tools.path("kube-apiserver")),
            "kubeControllerManagerBinary": str(tools.path("kube-controller-manager")),
            "kubeSchedulerBinary": str(tools.path("kube-scheduler")),
            "kubectlBinary": str(tools.path("kubectl")),
            "kwokControllerBinary": str(tools.path("kwok")),
            "kubeApiserverPort": api,
            "etcdPort": etcd,
            "etcdPeerPort": peer,
            "kubeControllerManagerPort": manager,
            "kubeSchedulerPort": scheduler,
            "kwokControllerPort": kwok,
        },
        # A claim that came a moment too early waits for the binder's period, 15 s unless told. Who cannot renew a lease
        # for 10 s ends, and is not started again: a slow machine would be without a scheduler.
        "componentsPatches": [
            {
                "name": "kube-controller-manager",
                "extraArgs": [
                    {"key": "pvclaimbinder-sync-period", "value": "1s"},
                    {"key": "leader-elect", "value": "false"},
                ],
            },
            {"name": "kube-scheduler", "extraArgs": [{"key": "leader-elect", "value": "false"}]},
            # Trainer's status server asks the issuer of a pod's token for its keys; there is no cluster DNS.
            {
                "name": "kube-apiserver",
                "extraArgs": [
                    {"key": "service-account-issuer", "value": f"https://127.0.0.1:{api}", "override": True},
                    {"key": "service-account-jwks-uri", "value": f"https://127.0.0.1:{api}/openid/v1/jwks"},
                ],
            },
        ],
    }


def _node_stages() -> list[Object]:
    """Return kwok's own stages for nodes: Ready at once, then heartbeats."""
    stages = tools.manifests("kwok") / "kustomize" / "stage" / "node"
    files = ("fast/node-initialize.yaml", "heartbeat-with-lease/node-heartbeat-with-lease.yaml")
    return [document for file in files for document in _documents((stages / file).read_text(encoding="utf-8"))]


def _documents(text: str) -> list[Object]:
    return [document for document in yaml.safe_load_all(text) if document]


def _as_list(objects: Iterable[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
