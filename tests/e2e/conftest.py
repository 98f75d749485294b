"""Fixtures of the end-to-end tests: one local control plane for the whole run."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.e2e.queues import FLAVOR, TOPOLOGY
from tests.e2e.release import Release, drop_volumes
from tests.sandbox import Sandbox
from tests.tools import ensure


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Sixteen simulated nodes with eight GPUs each, and the real training operator."""
    with Sandbox.up(folder=tmp_path_factory.mktemp("sandbox"), nodes=16) as box:
        yield box


@pytest.fixture
def namespace(sandbox: Sandbox) -> Iterator[str]:
    """Make a namespace of the test's own; its GPUs are free again once the test is over."""
    name = f"test-{uuid4().hex[:8]}"
    sandbox.kubectl("create", "namespace", name)
    yield name
    sandbox.kubectl("delete", "pytorchjobs,jobs,pods", "--all", "-n", name)
    drop_volumes(sandbox, name)
    sandbox.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def release(sandbox: Sandbox, namespace: str, request: pytest.FixtureRequest) -> Release:
    """Name a release in the test's namespace; nothing is installed yet. A test may name the Helm that it is of."""
    client = getattr(request, "param", "helm")
    ensure(client)
    return Release(sandbox, namespace, client=client)


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Sixteen nodes in two racks, with everything that the sandbox can run."""
    with Sandbox.up(folder=tmp_path_factory.mktemp("full"), nodes=16, components=("kueue", "gang", "trainer")) as box:
        box.create([TOPOLOGY, FLAVOR])
        yield box


@pytest.fixture
def room(full: Sandbox) -> Iterator[str]:
    """Make a namespace of the test's own on the full one, and free its GPUs afterwards."""
    name = f"test-{uuid4().hex[:8]}"
    full.kubectl("create", "namespace", name)
    yield name
    full.kubectl("delete", "pytorchjobs,trainjobs,deployments", "--all", "-n", name)
    full.kubectl("delete", "pods", "--all", "-n", name)
    full.wait(lambda: not full.pods(namespace=name), "GPUs free")  # an operator may have made one more meanwhile
    drop_volumes(full, name)
    # A queue of the next test is not told when one of this test frees its nodes: Kueue asks again within a cohort only.
    workloads = "workloads.kueue.x-k8s.io"
    full.wait(lambda: not full.get(workloads, namespace=name)["items"], "Kueue has let go of the nodes")
    full.kubectl("delete", "clusterqueue", name, "--ignore-not-found", "--wait=false")
