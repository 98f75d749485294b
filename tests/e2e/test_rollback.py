"""N19: helm rollback on a real API server, with the hook's own command run for its simulated pod."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neva_pod.supervisor.lease import Identity, Lease, take
from tests.e2e.release import Release, mount, names
from tests.sandbox import Sandbox
from tests.waiting import PATIENCE

pytestmark = pytest.mark.e2e

SIZE = ("--set", "training.nodes=2", "--set", "training.globalBatchSize=512")
HOOK = "app.kubernetes.io/component=rollback-guard"


def run_hook(release: Release, pod: dict[str, Any], results: Path, work: Path) -> str:
    """Run the pod's command where its ConfigMap is mounted, on a folder in the place of its results; end the pod so."""
    mount(release, pod, "config", work)
    (container,) = pod["spec"]["containers"]
    (mounted,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "results")
    arguments = [a.replace(f"--results={mounted}", f"--results={results}") for a in container["args"]]
    command = [sys.executable, *container["command"][1:], *arguments]
    done = subprocess.run(command, cwd=work, env={}, capture_output=True, text=True, check=False)
    end = release.sandbox.fail if done.returncode else release.sandbox.complete
    end(pod["metadata"]["name"], namespace=release.namespace)
    return done.stderr


def rollback(release: Release, results: Path, work: Path, meanwhile: Callable[[], object]) -> tuple[int, str, str]:
    """Roll back to the first revision; return helm's exit code, its words and the hook's."""
    sandbox = release.sandbox
    command = release.command("rollback", release.name, "1")
    before = {p["metadata"]["name"] for p in sandbox.pods(HOOK, release.namespace)}
    with subprocess.Popen(command, env=sandbox.env, stdout=-1, stderr=subprocess.STDOUT, text=True) as helm:

        def fresh() -> list[dict[str, Any]]:
            found = sandbox.pods(HOOK, release.namespace)
            return [p for p in found if p["metadata"]["name"] not in before and p["status"].get("phase") == "Running"]

        sandbox.wait(lambda: bool(fresh()), "the hook's pod")
        meanwhile()
        said = run_hook(release, fresh()[0], results, work)
        words, _ = helm.communicate(timeout=PATIENCE)
    return helm.returncode, words, said


def hold(release: Release, folder: Path) -> Lease:
    """Take the lease of a run's folder as the job's master does."""
    master = f"{release.job()['metadata']['name']}-master-0"
    return take(str(folder), Identity(release.namespace, release.name, master, "uid", "node-1", "abc"), print)


def test_n19_a_rollback_kills_no_running_job(sandbox: Sandbox, release: Release, tmp_path: Path) -> None:
    release.apply("install", *SIZE)
    release.wait_for("Running")
    first = release.job()["metadata"]["name"]
    sandbox.complete(f"{first}-master-0", namespace=release.namespace)
    release.wait_for("Succeeded")
    release.apply("upgrade", *SIZE, "--set", "training.maxSteps=2000")
    release.wait_for("Running")
    running = release.job()["metadata"]
    lease = hold(release, tmp_path / "results" / "run")

    code, words, said = rollback(release, tmp_path / "results", tmp_path / "one", lease.renew)
    assert code != 0
    assert "job neva-rollback failed" in words
    assert (
        f"ERROR: helm rollback neva: got a run that writes results, the lease of pod {running['name']}-master-0" in said
    )
    assert release.job()["metadata"]["uid"] == running["uid"]
    assert release.has_condition("Running")

    history = json.loads(release.helm("history", release.name, "--output", "json").stdout)
    assert [entry["status"] for entry in history] == ["superseded", "deployed", "pending-rollback"]
    sandbox.kubectl("delete", "secret", "sh.helm.release.v1.neva.v3", "-n", release.namespace)  # as documented
    release.apply("upgrade", *SIZE, "--set", "training.maxSteps=2000")
    assert release.job()["metadata"]["uid"] == running["uid"]

    lease.release()
    code, words, said = rollback(release, tmp_path / "results", tmp_path / "two", lambda: None)
    assert code == 0, words
    assert said.startswith("no run of this release writes results")

    def there(kinds: str) -> list[str]:
        return names(sandbox.get(kinds, namespace=release.namespace)["items"])

    sandbox.wait(lambda: there("pytorchjobs") == [first], "the first job again, and only that")
    release.wait_for("Running")
    assert "neva-rollback" not in there("jobs,configmaps"), "a hook that let it pass is gone"
