"""A real Kubernetes control plane on this machine, for tests and for trying things out.

API server, scheduler, controllers, the training operator and its webhook are the real programs;
nodes, GPUs and containers are simulated by kwok. See README.md beside this file.
"""

from tests.sandbox.cluster import Sandbox, SandboxError

__all__ = ["Sandbox", "SandboxError"]
