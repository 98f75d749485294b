"""Sources: pipes, files that grow and move, and the job in the cluster by a kubectl double."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neva_pod.monitor.tail import Tail, newest_log
from neva_pretrain.kubectl import ClusterError
from neva_pretrain.monitor import sources
from neva_pretrain.monitor.jobs import Jobs
from neva_pretrain.monitor.sources import Chunk, JobLog, Stamped
from tests.unit.monitor.conftest import Invoke
from tests.unit.monitor.nemo_logs import bar


def test_pipe_ends_with_its_writer() -> None:
    """Everything that was written, then the end."""
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    os.close(writer)
    assert [c.data for c in sources.pipe(reader, once=False)] == [b"abc"]
    os.close(reader)


def test_pipe_says_that_nothing_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence gives empty chunks, so that it can be judged."""
    monkeypatch.setattr(sources, "POLL_SECONDS", 0.01)
    reader, writer = os.pipe()
    chunks = sources.pipe(reader, once=False)
    assert next(chunks).data == b""
    os.write(writer, b"x")
    assert next(chunks).data == b"x"
    os.close(writer)
    os.close(reader)


def test_file_once(tmp_path: Path) -> None:
    """What is there, written when the file was."""
    log = tmp_path / "train.log"
    log.write_bytes(b"abc")
    os.utime(log, (1000, 1000))
    assert list(sources.path(log, once=True)) == [Chunk(b"abc", 1000.0)]


def test_tail_follows_growth_truncation_and_replacement(tmp_path: Path) -> None:
    """A file that is not there yet, grows, is cut, is replaced."""
    log = tmp_path / "train.log"
    tail = Tail(log)
    assert tail.read()[0] == b""
    log.write_bytes(b"one")
    assert tail.read()[0] == b"one"
    with log.open("ab") as file:
        file.write(b"two")
    assert tail.read()[0] == b"two"
    log.write_bytes(b"3")
    assert tail.read()[0] == b"3"
    log.rename(tmp_path / "old")
    assert tail.read()[0] == b""
    log.write_bytes(b"new")
    assert [tail.read()[0] for _ in range(2)] == [b"", b"new"]
    tail.close()


@pytest.mark.parametrize("place", [".", "logs", "run_0", "run_12"])
def test_d06_newest_log_of_a_folder(tmp_path: Path, place: str) -> None:
    """D06: NeMo moves logs into run_N/, and the launch script writes into logs/."""
    for number, name in enumerate([".", "logs", "run_0", "run_12"]):
        (tmp_path / name).mkdir(exist_ok=True)
        log = tmp_path / name / "node-00000.log"
        log.write_text(bar(number))
        os.utime(log, (2000, 2000) if name == place else (1000, 1000))
    assert newest_log(tmp_path) == tmp_path / place / "node-00000.log"


def test_d06_logs_with_steps_go_first(tmp_path: Path) -> None:
    """Newer files without steps (other nodes, NeMo's own) do not hide the one with them."""
    (tmp_path / "node-00000.log").write_text(bar(1))
    os.utime(tmp_path / "node-00000.log", (1000, 1000))
    (tmp_path / "node-00001.log").write_text("loading")
    (tmp_path / "cmd-args.log").write_text("global_step")
    (tmp_path / "events.out.tfevents.1").write_text("global_step")
    assert newest_log(tmp_path) == tmp_path / "node-00000.log"
    assert newest_log(tmp_path / "nothing-here-yet") is None


def test_folder_follows_the_newest(tmp_path: Path) -> None:
    """A folder whose log is moved away goes on with the new one."""
    log = tmp_path / "train.log"
    log.write_text(bar(1))
    tail = Tail(tmp_path)
    assert tail.read()[0]
    (tmp_path / "run_0").mkdir()
    log.rename(tmp_path / "run_0" / "train.log")
    log.write_text(bar(2))
    os.utime(tmp_path / "run_0" / "train.log", (1000, 1000))
    assert tail.read()[0] == b""
    assert b"global_step=2" in tail.read()[0]
    tail.close()


STAMP = "2026-01-01T00:00:{:02}.000000000Z"


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(0, 9))
def test_stamps_are_taken_off_however_the_stream_is_cut(cuts: list[int], seen: int) -> None:
    """Lines, an endless one, and lines without a stamp; nothing twice after a reconnect."""
    lines = [f"{STAMP.format(n)} line {n}\n" for n in range(10)]
    first, again = "".join(lines[: seen + 1]), "".join([*lines, f"{STAMP.format(11)} \rbar \rbar"])
    stamped = Stamped()
    out = stamped.feed(first.encode())
    stamped.reconnect()
    data, at = again.encode(), 0
    for size in cuts:
        out += stamped.feed(data[at : at + size])
        at += size
    out += stamped.feed(data[at:])
    assert out.decode() == "".join(f"line {n}\n" for n in range(10)) + "\rbar \rbar"
    assert stamped.when == pytest.approx(1767225611.0)


def test_lines_without_stamp_pass() -> None:
    """An error of kubectl itself."""
    assert Stamped().feed(b"unable to retrieve container logs for x\n").startswith(b"unable")


KUBECTL = '''#!{python}
"""A kubectl that answers from a folder: KIND.json and POD.N.log, the N-th call's log."""
import pathlib, sys, time
home = pathlib.Path({home!r})
with (home / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
words = [w for w in sys.argv[1:] if not w.startswith("--")]
if words[0] == "get":
    file = home / f"{{words[1].split('.')[0]}}.json"
    if not file.exists():
        sys.exit('error: the server doesn\\'t have a resource type "' + words[1] + '"')
    selected = [w for w in sys.argv if "selector=" in w]
    if "field-selector" in selected[0] and words[1] != "pods":
        print('{{"items": []}}')
    else:
        print(file.read_text())
else:
    number = len(list(home.glob("served-*"))) + 1
    (home / f"served-{{number}}").touch()
    if (home / "warns").exists():
        sys.stderr.write("W1126 warning\\n" * 20_000)
    log = home / f"log-{{number}}"
    sys.stdout.write(log.read_text() if log.exists() else "")
    after = home / f"after-{{number}}.json"
    if after.exists():
        after.rename(home / "pytorchjobs.json")
    pods = home / f"pods-{{number}}.json"
    if pods.exists():
        pods.rename(home / "pods.json")
    if (home / f"open-{{number}}").exists():
        sys.stdout.flush()
        time.sleep(600)
'''


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "cluster"
    home.mkdir()
    script = tmp_path / "bin" / "kubectl"
    script.parent.mkdir()
    script.write_text(KUBECTL.format(python=sys.executable, home=str(home)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    monkeypatch.setattr(sources, "RETRY_SECONDS", 0.01)
    return home


def write(file: Path, *items: dict[str, Any]) -> None:
    file.write_text(json.dumps({"items": list(items)}))


def job(condition: str = "", **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "neva-1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {f"neva-pretrain/{k}": v for k, v in annotations.items()},
        },
        "status": {"conditions": [{"type": condition, "status": "True", "message": "done"}]},
    }


def pod(restarts: int = 0, container: str = "pytorch", state: str = "running") -> dict[str, Any]:
    status = {"name": container, "state": {state: {}}, "restartCount": restarts}
    return {
        "metadata": {"name": "neva-1-master-0", "uid": "u1", "creationTimestamp": "2026-01-01"},
        "status": {"containerStatuses": [{"name": "exporter", "state": {}}, status]},
    }


def line(second: int, text: str) -> str:
    return f"{STAMP.format(second)} {text}\n"


def test_job_is_followed_to_its_end(cluster: Path) -> None:
    """The stream drops, goes on without repeats, and ends with the job."""
    write(cluster / "pytorchjobs.json", job("Running"))
    write(cluster / "pods.json", pod())
    (cluster / "log-1").write_text(line(1, "a") + line(2, "b"))
    (cluster / "log-2").write_text(line(2, "b") + line(3, "c"))
    write(cluster / "after-2.json", job("Succeeded"))
    (cluster / "log-3").write_text(line(3, "c") + line(4, "d"))
    log = JobLog(Jobs("training", "lab"), "neva")
    chunks = list(log.chunks())
    assert b"".join(c.data for c in chunks) == b"a\nb\nc\nd\n"
    assert not any(c.new_process for c in chunks)
    assert (log.job.outcome, log.job.failed) == ("pytorchjob neva-1: Succeeded. done", False)
    calls = (cluster / "calls").read_text().splitlines()
    assert calls[0] == (
        "--namespace=training --context=lab get pytorchjobs.kubeflow.org "
        "--selector=app.kubernetes.io/instance=neva --output=json"
    )
    logs = [c for c in calls if " logs " in c]
    assert logs[0].endswith("logs --timestamps --follow=true --container=pytorch neva-1-master-0")
    assert f"--follow=true --since-time={STAMP.format(2)} --container=pytorch" in logs[1]
    assert f"--follow=false --since-time={STAMP.format(3)}" in logs[2]
    assert any(
        "pods --selector=training.kubeflow.org/job-name=neva-1,training.kubeflow.org/replica-type=master" in c
        for c in calls
    )


def test_a_stream_that_stays_open_ends_with_the_job(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is lost never closes it."""
    monkeypatch.setattr(sources, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(sources, "POLL_SECONDS", 0.1)
    write(cluster / "pytorchjobs.json", job("Running"))
    write(cluster / "pods.json", pod())
    (cluster / "log-1").write_text(line(1, "a"))
    (cluster / "open-1").touch()
    write(cluster / "after-1.json", job("Failed"))
    (cluster / "log-2").write_text(line(1, "a") + line(2, "b"))
    log = JobLog(Jobs(None, None), "neva")
    assert b"".join(c.data for c in log.chunks()) == b"a\nb\n"
    assert log.job.failed


def test_restarted_container_is_a_new_process(cluster: Path) -> None:
    """OnFailure: the container restarts in its pod; its log begins anew."""
    write(cluster / "pytorchjobs.json", job("Running"))
    write(cluster / "pods.json", pod())
    (cluster / "log-1").write_text(line(1, "a"))
    write(cluster / "pods-1.json", pod(restarts=1))
    (cluster / "log-2").write_text(line(2, "b"))
    write(cluster / "after-2.json", job("Failed"))
    log = JobLog(Jobs(None, None), "neva")
    chunks = list(log.chunks())
    assert [c.new_process for c in chunks].count(True) == 1
    assert b"".join(c.data for c in chunks) == b"a\nb\n"
    assert log.job.failed


def test_pod_that_does_not_run_yet_is_waited_for(cluster: Path) -> None:
    """Pending: chunks without data, until it starts."""
    write(cluster / "pytorchjobs.json", job("Created"))
    write(cluster / "pods.json", pod(state="waiting"))
    (cluster / "log-1").write_text(line(1, "a"))
    write(cluster / "after-1.json", job("Succeeded"))
    waits = 0

    def wait(_: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            write(cluster / "pods.json", pod())

    data = b"".join(c.data for c in JobLog(Jobs(None, None), "neva", wait).chunks())
    assert data == b"a\n"
    assert waits >= 3


def test_warnings_of_kubectl_do_not_stop_the_log(cluster: Path) -> None:
    """More of them than a pipe holds."""
    write(cluster / "pytorchjobs.json", job("Succeeded"))
    write(cluster / "pods.json", pod())
    (cluster / "warns").touch()
    (cluster / "log-1").write_text(f"{STAMP.format(1)} line\n")
    log = JobLog(Jobs(None, None), "neva")
    assert b"".join(chunk.data for chunk in log.chunks(once=True)) == b"line\n"
    assert log.findings == []


def test_a_log_that_never_comes_is_not_waited_for(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node that is lost: the list and the other runs do not hang with it."""
    monkeypatch.setattr(sources, "TIMEOUT", 0.2)
    write(cluster / "pytorchjobs.json", job("Running"))
    write(cluster / "pods.json", pod())
    log = JobLog(Jobs(None, None), "neva")
    hangs = ["sleep", "1000"]
    monkeypatch.setattr(Jobs, "logs", lambda *_: subprocess.Popen(hangs, stdout=subprocess.PIPE))
    assert b"".join(chunk.data for chunk in log.chunks(once=True)) == b""
    assert [j.evidence for j in log.findings] == ["kubectl logs: no answer from the API server for 0.2 s"]


def test_deleted_job_ends(cluster: Path) -> None:
    """Helm uninstall while the monitor looks."""
    write(cluster / "pytorchjobs.json", job("Running"))
    write(cluster / "pods.json")
    log = JobLog(Jobs(None, None), "neva", lambda _: write(cluster / "pytorchjobs.json"))
    assert all(c.data == b"" for c in log.chunks())
    assert log.job.outcome == "the pytorchjob neva-1 was deleted"


def test_lost_api_server_is_tolerated_for_a_while(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few failed calls are retried; then the error is the user's."""
    monkeypatch.setattr(sources, "LOST_AFTER", 3)
    write(cluster / "pytorchjobs.json", job("Running"))
    write(cluster / "pods.json")
    log = JobLog(Jobs(None, None), "neva")
    (cluster / "pytorchjobs.json").write_text('{"items": 1}')
    (cluster.parent / "bin" / "kubectl").write_text(
        f"#!{sys.executable}\nimport sys\nsys.exit('Unable to connect to the server: x')\n"
    )
    with pytest.raises(ClusterError, match="Unable to connect to the server: x"):
        list(log.chunks())


def test_trainjob(cluster: Path) -> None:
    """Trainer v2: another kind, other labels, another container."""
    write(cluster / "trainjobs.json", job("Complete"))
    write(cluster / "pods.json", pod(container="node"))
    (cluster / "log-1").write_text(line(1, "a"))
    log = JobLog(Jobs(None, None), "neva")
    assert b"".join(c.data for c in log.chunks()) == b"a\n"
    assert log.job.outcome.startswith("trainjob neva-1: Complete")
    assert "batch.kubernetes.io/job-completion-index=0" in (cluster / "calls").read_text()


def test_no_such_job(cluster: Path) -> None:
    """The message says what to look at."""
    write(cluster / "pytorchjobs.json")
    with pytest.raises(ClusterError, match=r"neva: no PyTorchJob .*`helm list`"):
        JobLog(Jobs(None, None), "neva")


def test_no_kubectl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ClusterError, match="kubectl: not found"):
        JobLog(Jobs(None, None), "neva")


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room\u009b31m"}


def pending() -> dict[str, Any]:
    return {"metadata": {"name": "neva-1-master-0"}, "status": {"phase": "Pending", "conditions": [UNSCHEDULABLE]}}


@pytest.mark.slow
def test_u02_the_command_tells_why_nothing_runs(cluster: Path, invoke: Invoke) -> None:
    """Exit code 3 for what waits, in text and JSON; 1 for what cannot start; no stall, however long it waits."""
    write(cluster / "pytorchjobs.json", job("Created"))
    write(cluster / "pods.json", pending())
    code, out, err = invoke("neva", "--once")
    assert (code, err) == (3, "")
    assert out.startswith("waiting  step ?/?\nWARNING: cannot be scheduled\n  evidence: neva-1-master-0: Unschedulable")
    assert "no room\ufffd31m" in out
    code, out, _ = invoke("neva", "--once", "-o", "json")
    told = json.loads(out)
    assert (code, told["exitCode"], told["status"]) == (3, 3, "waiting")
    assert [j["code"] for j in told["judgements"]] == ["unschedulable"]
    pod = pending()
    pod["status"] = {
        "phase": "Failed",
        "containerStatuses": [{"name": "pytorch", "state": {"terminated": {"exitCode": 1}}}],
    }
    write(cluster / "pods.json", pod)
    (cluster / "log-1").write_text("FAILED   gpus  7 GPUs\n                   fix: another node\n")
    write(cluster / "pytorchjobs.json", job("Failed"))
    code, out, _ = invoke("neva", "--once")
    assert code == 1
    assert out.startswith(
        "failed  step ?/?\nFAILED: preflight failed\n  evidence: neva-1-master-0: FAILED gpus 7 GPUs; fix"
    )
    assert "FAILED: the log ends at step 0" in out


def test_u02_a_run_that_lost_its_place_waits_and_does_not_stall(cluster: Path, invoke: Invoke) -> None:
    """Preempted by its queue after some steps: the last step is long ago, and that is no stall."""
    queued = job("Suspended")
    queued["spec"] = {"runPolicy": {"suspend": True}}
    write(cluster / "pytorchjobs.json", queued)
    write(cluster / "pods.json", pod())
    (cluster / "log-1").write_text(line(1, bar(1)) + line(2, bar(2)))
    code, out, _ = invoke("neva", "--once", "-o", "json")
    told = json.loads(out)
    assert (code, told["status"], told["step"]) == (3, "waiting", 3)
    assert [j["code"] for j in told["judgements"]] == ["queued"]


def test_u02_it_is_followed_from_waiting_to_the_end(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason comes and goes while it is watched; waiting is no time of the run."""
    monkeypatch.setattr(sources, "LOOK_SECONDS", 0.0)
    write(cluster / "pytorchjobs.json", job("Created"))
    write(cluster / "pods.json", pending())
    (cluster / "log-1").write_text(line(1, "a"))
    write(cluster / "after-1.json", job("Succeeded"))
    log = JobLog(Jobs(None, None), "neva", lambda _: write(cluster / "pods.json", pod()))
    seen = [(chunk.waiting, [j.code for j in log.findings]) for chunk in log.chunks()]
    assert seen[0] == (True, ["unschedulable"])
    assert seen[-1] == (False, [])


def test_u02_a_log_that_cannot_be_read_is_told(cluster: Path, invoke: Invoke) -> None:
    """No right to pods/log: not `starting` for ever."""
    write(cluster / "pytorchjobs.json", job("Running"))
    write(cluster / "pods.json", pod())
    script = cluster.parent / "bin" / "kubectl"
    script.write_text(
        script.read_text().replace("else:\n    number", "else:\n    sys.exit('Error: no \\x1bc')\n    number")
    )
    code, out, _ = invoke("neva", "--once")
    assert code == 3
    assert "WARNING: the master's log cannot be read\n  evidence: kubectl logs: Error: no \ufffdc" in out


@pytest.mark.parametrize("answer", ["", "{", "[]", '{"items": 7}', '{"items": [null, 7, {"metadata": "x"}]}'])
def test_k20_the_command_says_that_kubectl_answers_nonsense(cluster: Path, invoke: Invoke, answer: str) -> None:
    (cluster / "pytorchjobs.json").write_text(answer)
    code, out, err = invoke("neva", "--once")
    assert (code, out) == (2, "")
    assert err.startswith(("ERROR: kubectl get pytorchjobs", "ERROR: neva: no PyTorchJob"))
    assert len(err.splitlines()) == 1


def test_once_does_not_wait_for_an_api_server_that_is_lost(cluster: Path) -> None:
    write(cluster / "pytorchjobs.json", job("Running"))
    (cluster / "pods.json").write_text("Unable to connect")
    with pytest.raises(ClusterError, match="is not JSON"):
        list(JobLog(Jobs(None, None), "neva", lambda _: pytest.fail("waits")).chunks(once=True))
