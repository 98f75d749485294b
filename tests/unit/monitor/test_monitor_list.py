"""The list of runs: one namespace or all, rights on one kind of job (N30), why each waits, and what is asked for."""

import io
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from neva_pod.monitor.judge import Judgement, Severity, Status
from neva_pod.monitor.run import Run
from neva_pretrain.cli import monitor as cli
from neva_pretrain.cli import watching
from neva_pretrain.monitor import listing
from tests.unit.monitor.conftest import Invoke
from tests.unit.monitor.fake_cluster import NO_ROOM, Cluster, job, master
from tests.unit.monitor.nemo_logs import bar

TRAINS = [bar(n, total=100, loss=2.0, seconds=0.5) for n in range(60)]
DONE = [*(bar(n, total=100, seconds=0.25) for n in range(100)), "`Trainer.fit` stopped: `max_steps=100` reached."]

NO_STALL = ("--stall-after", 10**10)
"""The logs are old."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """On PATH; standard input is a terminal's."""
    found = Cluster(tmp_path)
    monkeypatch.setenv("PATH", str(found.bin), prepend=":")
    monkeypatch.setattr(cli, "_is_piped", lambda: False)
    return found


def four(cluster: Cluster) -> None:
    """One that trains, one that waits, a TrainJob that is done, and one of another namespace that failed."""
    cluster.has(
        "pytorchjobs",
        job("lr-10-1", "lr-10"),
        job("lr-2-1", "lr-2", "Created"),
        job("other-1", "other", "Failed", namespace="lab"),
        {"metadata": {"name": "stranger", "labels": {"helm.sh/chart": "x-1"}}},
    )
    cluster.has("trainjobs", job("one-1", "one", "Complete", kind="trainjob"))
    cluster.has(
        "pods",
        master("lr-10-1"),
        master("lr-2-1", **NO_ROOM),
        master("one-1", "trainjob"),
        master("other-1", namespace="lab"),
    )
    cluster.logs("lr-10-1-master-0", *TRAINS)
    cluster.logs("one-1-master-0", *DONE)
    cluster.logs("other-1-master-0", *TRAINS[:5], "[rank3]: torch.OutOfMemoryError: CUDA out of memory.")


def test_the_runs_of_a_namespace(cluster: Cluster, invoke: Invoke) -> None:
    """By name, numbers as numbers; the reason below what waits; only the calls that list are shown."""
    four(cluster)
    code, out, err = invoke("-n", "team", *NO_STALL)
    assert code == 0
    assert out.splitlines() == [
        "RUN    KIND        GPUS     STEP  STATE     LOSS  OF PLAN  LEFT",
        "lr-2   PyTorchJob     8    0/100  waiting",
        "  WARNING: cannot be scheduled: lr-2-1-master-0: Unschedulable: 0/16 nodes are available",
        "lr-10  PyTorchJob     8   60/100  training     2     100%  20.3 s",
        "one    TrainJob       8  100/100  finished   2.5     200%",
    ]
    assert err.splitlines() == [
        "+ kubectl --namespace=team get pytorchjobs.kubeflow.org --selector=helm.sh/chart --output=json",
        "+ kubectl --namespace=team get trainjobs.trainer.kubeflow.org --selector=helm.sh/chart --output=json",
    ]
    assert all("--tail=1000" in call for call in cluster.calls if " logs " in call)


def test_each_call_can_be_shown(cluster: Cluster, invoke: Invoke) -> None:
    """In the order and words that were run; each once."""
    four(cluster)
    _, _, err = invoke("--show-commands")
    shown = [line.removeprefix("+ kubectl ") for line in err.splitlines()]
    assert set(shown) == set(cluster.calls)
    assert len(shown) == len(set(shown))


def test_the_list_as_json(cluster: Cluster, invoke: Invoke) -> None:
    """States, reasons and exit codes of all namespaces; no points."""
    four(cluster)
    code, out, _ = invoke("-A", "-o", "json", *NO_STALL)
    runs = {run["name"]: run for run in json.loads(out)["runs"]}
    assert code == 0
    assert list(runs) == ["other", "lr-2", "lr-10", "one"]
    assert [(r["namespace"], r["kind"], r["status"], r["exitCode"]) for r in runs.values()] == [
        ("lab", "PyTorchJob", "failed", 1),
        ("team", "PyTorchJob", "waiting", 3),
        ("team", "PyTorchJob", "training", 0),
        ("team", "TrainJob", "finished", 0),
    ]
    assert (runs["lr-10"]["step"], runs["lr-10"]["maxSteps"], runs["lr-10"]["speed"]["of_plan"]) == (60, 100, 1.0)
    assert runs["lr-2"]["judgements"][0]["code"] == "unschedulable"
    assert "points" not in runs["one"]
    _, out, _ = invoke("-A")
    assert out.splitlines()[0].startswith("NAMESPACE  RUN")


def test_an_older_job_of_a_release_goes_by_its_own_name(cluster: Cluster, invoke: Invoke) -> None:
    """Each name of the list is one that the monitor takes."""
    cluster.has("pytorchjobs", job("neva-1", "neva", "Failed"), job("neva-2", "neva", created="2026-01-02T00:00:00Z"))
    _, out, _ = invoke("-o", "json")
    assert [(r["name"], r["job"]) for r in json.loads(out)["runs"]] == [("neva", "neva-2"), ("neva-1", "neva-1")]


@pytest.mark.parametrize("other", ["trainjobs", "pytorchjobs"])
def test_n30_rights_on_one_kind_are_enough(cluster: Cluster, invoke: Invoke, other: str) -> None:
    """And what may not be listed is said."""
    mine = {"trainjobs": "pytorchjob", "pytorchjobs": "trainjob"}[other]
    cluster.has(f"{mine}s", job("neva-1", "neva", kind=mine))
    cluster.has("pods", master("neva-1", mine))
    cluster.logs("neva-1-master-0", *TRAINS)
    cluster.refuses(other)
    code, out, err = invoke(*NO_STALL)
    assert code == 0
    assert " 60/100  training " in out
    assert f"warning: kubectl get {other}" in err
    assert 'User "ann" cannot list' in err
    cluster.refuses(f"{mine}s")
    code, out, err = invoke()
    assert (code, out) == (2, "")
    assert "ERROR: kubectl get pytorchjobs" in err


def test_what_may_not_be_read_of_one_run_hides_no_other(cluster: Cluster, invoke: Invoke) -> None:
    """Neither pods nor logs: the job's own state is told; a job that succeeded is finished."""
    four(cluster)
    cluster.refuses("pods")
    _, out, _ = invoke("-o", "json")
    runs = {run["name"]: run["status"] for run in json.loads(out)["runs"]}
    assert runs == {"lr-2": "starting", "lr-10": "starting", "one": "finished"}
    four(cluster)
    (cluster.home / "one-1-master-0.log").unlink()
    _, out, _ = invoke("-o", "json", *NO_STALL)
    assert [r["status"] for r in json.loads(out)["runs"]] == ["waiting", "training", "finished"]


def test_no_runs(cluster: Cluster, invoke: Invoke) -> None:
    """Neither is a cluster's lack of both kinds an error: a namespace without runs is no mistake."""
    code, out, err = invoke("-n", "team")
    assert (code, out) == (0, "")
    assert err.endswith("no runs here: the cluster has neither PyTorchJobs nor TrainJobs; --context names another\n")
    cluster.has("trainjobs")
    code, out, err = invoke("-n", "team")
    assert (code, out) == (0, "")
    assert err.endswith("no runs here; -n names another namespace, -A looks in all\n")
    assert json.loads(invoke("-o", "json")[1]) == {"runs": []}


def test_at_80_columns_reasons_are_folded(cluster: Cluster, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wider than the terminal, and a reason has an end."""
    four(cluster)
    waits = NO_ROOM | {"conditions": [NO_ROOM["conditions"][0] | {"message": "no room " * 300}]}
    cluster.has("pods", master("lr-2-1", **waits))
    monkeypatch.setattr(cli, "_width", lambda: 80)
    lines = invoke("-n", "team")[1].splitlines()
    assert max(map(len, lines)) <= 80
    reason = " ".join(line.strip() for line in lines if line.startswith("  "))
    assert len(reason) < 2 * listing.REASON
    assert "…" in reason


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-f", "x.yaml"], "--values needs a SOURCE"),
        (["--html", "x.html"], "--html needs a SOURCE"),
        (["--wait"], "--wait needs a SOURCE"),
        (["-A", "-n", "team"], "--namespace and --all-namespaces exclude each other"),
        (["neva", "-A"], "--all-namespaces is for the list"),
        (["neva", "--timeout", "5"], "--timeout needs --wait or --until"),
        (["neva", "--once", "--wait"], "--once and --wait exclude each other"),
        (["a", "b", "--wait"], "--wait takes one SOURCE"),
        (["a", "b", "a"], "a is named twice"),
        (["a.log", "./a.log"], "./a.log is named twice"),
    ],
)
def test_options_without_a_meaning_are_refused(cluster: Cluster, invoke: Invoke, argv: list[str], words: str) -> None:
    code, out, err = invoke(*argv)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(("stream", "piped"), [("/dev/null", False), ("pipe", True), ("file", True), ("none", False)])
def test_what_is_piped_in_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stream: str, piped: bool) -> None:
    """And what has nothing to read, as in cron, is no log."""
    if stream == "none":
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        assert cli._is_piped() is piped
        return
    if stream == "pipe":
        number, other = os.pipe()
        os.close(other)
    else:
        (tmp_path / "log").touch()
        number = os.open({"file": tmp_path / "log"}.get(stream, stream), os.O_RDONLY)
    with os.fdopen(number) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert cli._is_piped() is piped


def test_names_are_completed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the namespace that is named; a file in any case; a cluster that fails is no error."""
    four(cluster)
    complete = ShellComplete(cli.command, {}, "neva-monitor", "_NEVA_MONITOR_COMPLETE")
    found = complete.get_completions(["-n", "team"], "lr")
    assert [(item.type, item.value) for item in found] == [("file", "lr"), ("plain", "lr-10"), ("plain", "lr-2")]
    assert [item.type for item in complete.get_completions([], "lr")] == ["file"]
    monkeypatch.setenv("PATH", "/nonexistent")
    assert [item.type for item in complete.get_completions(["-n", "team"], "lr")] == ["file"]


def test_a_start_that_pulls_its_image_says_so(cluster: Cluster, invoke: Invoke) -> None:
    """No alarm, but a reason: in the list and in the run's own view, until it is a warning."""

    def pulls(since: float) -> None:
        at = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        waits = {"name": "pytorch", "state": {"waiting": {"reason": "ContainerCreating"}}}
        assigned = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at}
        pod = master("neva-1", phase="Pending", conditions=[assigned], containerStatuses=[waits])
        cluster.has("pods", {**pod, "spec": {"nodeName": "gpu-1"}})

    cluster.has("pytorchjobs", job("neva-1", "neva"))
    pulls(time.time() - 300)
    said = "its containers are not created yet: neva-1-master-0: pytorch: ContainerCreating for "
    assert f"  OK: {said}" in invoke()[1]
    code, out, _ = invoke("neva", "--once")
    assert (code, out.split()[0]) == (0, "starting")
    assert "evidence: neva-1-master-0: pytorch: ContainerCreating for " in out
    assert "action: " not in out
    pulls(time.time() - 3600)
    code, out, _ = invoke("neva", "--once")
    assert (code, out.split()[0]) == (3, "waiting")
    assert "evidence: neva-1-master-0: node gpu-1: pytorch: ContainerCreating for " in out


def test_a_finding_that_grows_worse_is_printed_again(capfd: pytest.CaptureFixture[str]) -> None:
    """Once as no alarm, once as a warning."""
    levels = iter([Severity.OK, Severity.WARNING, Severity.WARNING])
    lines = watching._Lines(Run(), lambda: ([Judgement("creating", next(levels), "x")], Status.WAITING))
    for _ in range(3):
        lines.print()
    said = [line for line in capfd.readouterr().out.splitlines() if line.endswith(": x")]
    assert said == ["OK: x", "WARNING: x"]
