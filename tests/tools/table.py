"""The table of tools: what is built, from which module, with which stamps.

A group is one Go module of its own (``tests/tools/<group>/go.mod`` and ``go.sum``), so that tools
with contradictory dependencies never meet. Its ``go.mod`` is the only place that names a version.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).resolve().parent

KUBERNETES = ("1.30.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0")
"""Whose API the rendered resources are checked against: the oldest that the chart accepts, and the newest minor
versions, each by its first patch. kubeconform asks for a full version, and fields do not change between patches."""


@dataclass(frozen=True)
class Tool:
    """One binary: our name for it and the Go package that it is built from."""

    name: str
    package: str

    @property
    def go_name(self) -> str:
        """Name that ``go build -o DIR/`` gives the binary: the last element that is no /vN."""
        parts = [part for part in self.package.split("/") if not re.fullmatch(r"v\d+", part)]
        return parts[-1]


@dataclass(frozen=True)
class Patch:
    """One replaced piece of a module's source; the build uses a patched copy of the module."""

    file: str
    old: str
    new: str


# Three operators look for their webhook certificate in a fixed folder of /tmp, where a second
# sandbox would find the first one's. With this it is the folder that controller-runtime serves
# from anyway, below $TMPDIR.
CERTIFICATES_BELOW_TMPDIR = (
    "CertDir:        certDir,",
    'CertDir: os.TempDir() + "/k8s-webhook-server/serving-certs",',
)


@dataclass(frozen=True)
class Group:
    """Tools that are built together, from one module at one version."""

    name: str
    module: str
    tools: tuple[Tool, ...]
    stamps: tuple[str, ...] = ()
    """``-X`` settings; ``{version}``, ``{major}`` and ``{minor}`` are filled in."""
    manifests: tuple[str, ...] = ()
    """Folders of the module that the sandbox needs besides the binaries."""
    patches: tuple[Patch, ...] = ()
    """What keeps the tool off other interfaces and folders when no flag does."""

    @property
    def folder(self) -> Path:
        """Folder of the group's ``go.mod``."""
        return HERE / self.name

    @cached_property
    def version(self) -> str:
        """Version of the module that ``go.mod`` pins, such as ``v1.37.2``."""
        text = (self.folder / "go.mod").read_text(encoding="utf-8")
        pinned = re.search(rf"^(?:require)?\s+{re.escape(self.module)} (v\S+)", text, re.M)
        if pinned is None:
            raise LookupError(f"{self.folder / 'go.mod'} does not require {self.module}")
        return pinned.group(1)

    @property
    def ldflags(self) -> str:
        """Linker flags: no symbol table, and the version stamped in where the tool reports it."""
        major, minor, *_ = self.version.removeprefix("v").split(".")
        filled = (s.format(version=self.version, major=major, minor=minor) for s in self.stamps)
        return " ".join(["-s", "-w", *(f"-X={stamp}" for stamp in filled)])


_KUBE_VERSION = "k8s.io/component-base/version"

GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group(
            "helm",
            "helm.sh/helm/v3",
            (Tool("helm", "helm.sh/helm/v3/cmd/helm"),),
            stamps=("helm.sh/helm/v3/internal/version.version={version}",),
        ),
        Group(
            "helm4",
            "helm.sh/helm/v4",
            (Tool("helm4", "helm.sh/helm/v4/cmd/helm"),),
            stamps=("helm.sh/helm/v4/internal/version.version={version}",),
        ),
        Group(
            "kubeconform",
            "github.com/yannh/kubeconform",
            (Tool("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),),
            stamps=("main.version={version}",),
        ),
        Group(
            "helm-docs",
            "github.com/norwoodj/helm-docs",
            (Tool("helm-docs", "github.com/norwoodj/helm-docs/cmd/helm-docs"),),
            stamps=("main.version={version}",),
        ),
        Group(
            "actionlint",
            "github.com/rhysd/actionlint",
            (Tool("actionlint", "github.com/rhysd/actionlint/cmd/actionlint"),),
        ),
        Group(
            "registry",
            "github.com/distribution/distribution/v3",
            (Tool("registry", "neva-pretrain/tests/tools/registry"),),
        ),
        Group(
            "kubernetes",
            "k8s.io/kubernetes",
            tuple(
                Tool(name, f"k8s.io/kubernetes/cmd/{name}")
                for name in (
                    "kube-apiserver",
                    "kube-controller-manager",
                    "kube-scheduler",
                    "kubectl",
                )
            ),
            # Without these Helm cannot read the server's version.
            stamps=(
                f"{_KUBE_VERSION}.gitVersion={{version}}",
                f"{_KUBE_VERSION}.gitMajor={{major}}",
                f"{_KUBE_VERSION}.gitMinor={{minor}}",
            ),
        ),
        Group(
            "etcd",
            "go.etcd.io/etcd/server/v3",
            (Tool("etcd", "go.etcd.io/etcd/server/v3"),),
        ),
        Group(
            "kwok",
            "sigs.k8s.io/kwok",
            (
                Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
                Tool("kwokctl", "sigs.k8s.io/kwok/cmd/kwokctl"),
            ),
            manifests=("kustomize/crd", "kustomize/stage"),
        ),
        Group(
            "training-operator",
            "github.com/kubeflow/training-operator",
            (
                Tool(
                    "training-operator",
                    "github.com/kubeflow/training-operator/cmd/training-operator.v1",
                ),
            ),
            manifests=("manifests/base",),
            patches=(
                Patch("pkg/cert/cert.go", *CERTIFICATES_BELOW_TMPDIR),
                # No flag sets the address that the webhook listens on; the default is all.
                Patch(
                    "cmd/training-operator.v1/main.go",
                    "Port: webhookServerPort,",
                    'Port: webhookServerPort, Host: "127.0.0.1",',
                ),
            ),
        ),
        Group(
            "kueue",
            "sigs.k8s.io/kueue",
            (Tool("kueue", "sigs.k8s.io/kueue/cmd/kueue"),),
            manifests=("config/components",),
        ),
        Group(
            "scheduler-plugins",
            "sigs.k8s.io/scheduler-plugins",
            (
                Tool("scheduler-plugins-scheduler", "sigs.k8s.io/scheduler-plugins/cmd/scheduler"),
                Tool("scheduler-plugins-controller", "sigs.k8s.io/scheduler-plugins/cmd/controller"),
            ),
            manifests=("config/crd",),
        ),
        Group(
            "jobset",
            "sigs.k8s.io/jobset",
            (Tool("jobset", "sigs.k8s.io/jobset"),),
            manifests=("config/components",),
            patches=(Patch("pkg/util/cert/cert.go", *CERTIFICATES_BELOW_TMPDIR),),
        ),
        Group(
            "trainer",
            "github.com/kubeflow/trainer/v2",
            (
                Tool(
                    "trainer-controller-manager",
                    "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager",
                ),
            ),
            manifests=("manifests/base",),
            patches=(
                Patch(
                    "pkg/util/cert/cert.go",
                    'certDir = "/tmp/k8s-webhook-server/serving-certs"',
                    'certDir = os.TempDir() + "/k8s-webhook-server/serving-certs"',
                ),
                # Its status server finds the API server by its own token; there is no kubelet to mount one.
                Patch(
                    "pkg/statusserver/auth.go",
                    'os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/token")',
                    'os.ReadFile(os.TempDir() + "/serviceaccount/token")',
                ),
                Patch(
                    "pkg/statusserver/server.go",
                    'fmt.Sprintf(":%d", *cfg.Port)',
                    'fmt.Sprintf("127.0.0.1:%d", *cfg.Port)',
                ),
            ),
        ),
    )
}

TOOLS: dict[str, Group] = {tool.name: group for group in GROUPS.values() for tool in group.tools}
