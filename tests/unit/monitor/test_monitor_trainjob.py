"""A TrainJob's status: what is posted, and that no server, however it behaves, is more than a line in a log."""

import json
import math
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from neva_pod.monitor import trainjob
from neva_pod.monitor.exporter import Exporter
from neva_pod.monitor.records import RunSettings
from neva_pod.monitor.run import Run
from neva_pod.monitor.trainjob import Reporter, Server, trainer_status
from tests.unit.monitor.nemo_logs import bar, run_of
from tests.waiting import PATIENCE, ended, until

FILES = Path(__file__).parents[3] / "charts" / "neva-pretrain" / "files"
PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/a/trainjobs/b/status"
Answer = Callable[[BaseHTTPRequestHandler], None]


def number(status: Any, name: str) -> str | None:
    return {m["name"]: m["value"] for m in status.get("metrics", [])}.get(name)


def test_status_has_what_is_known() -> None:
    run = run_of("".join(bar(n, seconds=0.8) for n in range(60)), max_steps=2170)
    run.update([], 110.0)
    status = trainer_status(run, 110.0)
    assert status["progressPercentage"] == 100 * 60 // 2170 == 2
    left = run.seconds_left()
    assert left is not None
    assert status["estimatedRemainingSeconds"] == int(left) > 0
    assert number(status, "step") == "60"
    assert number(status, "max_steps") == "2170"
    assert number(status, "loss") == "2.5"
    assert number(status, "step_time_seconds") == "0.8"
    assert number(status, "restarts") == "0"
    assert number(status, "findings") is None
    assert number(trainer_status(run, 110.0 + 1e6), "findings") == "stalled"


def test_what_is_not_known_is_left_out_and_bounds_are_kept() -> None:
    """CRD of Trainer 2.3: integers of 32 bits, percentage 0 to 100, 1 to 64 characters in a name and a value."""
    assert trainer_status(Run(), 0.0) == {}
    nan = trainer_status(run_of(bar(1, loss=math.nan)), 0.0)
    assert number(nan, "loss") == "nan"
    assert "progressPercentage" not in trainer_status(run_of("global_step=1.0\n"), 0.0)
    long = trainer_status(run_of("".join(bar(n, seconds=1e9) for n in range(9)), max_steps=2_000_000_000), 0.0)
    assert long["estimatedRemainingSeconds"] == 2**31 - 1
    done = trainer_status(run_of("".join(bar(n) for n in range(9)), max_steps=8), 0.0)
    assert done["progressPercentage"] == 100
    assert done["estimatedRemainingSeconds"] == 0
    for status in (nan, long, done):
        for metric in status["metrics"]:
            assert 1 <= len(metric["name"]) <= 64
            assert 1 <= len(metric["value"]) <= 64


class Trainer:
    """Trainer's status server on this machine: real HTTPS, with what a test wants of its answers."""

    def __init__(self, folder: Path, certificate: Path, key: Path) -> None:
        self.answer: Answer = taken
        self.got: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.got.append((self.path, dict(self.headers), body))
                outer.answer(self)

            def do_GET(self) -> None:
                outer.got.append((self.path, dict(self.headers), None))

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a client that does not trust the certificate

        self._http = Quiet(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._http.server_address[1]
        token = folder / "token"
        token.write_text("of-this-job\n")
        self.server = Server(f"https://localhost:{self.port}{PATH}", folder / "ca.crt", token)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def statuses(self) -> list[Any]:
        return [body["trainerStatus"] for _, _, body in self.got if body]

    def environment(self) -> dict[str, str]:
        """As Trainer injects it."""
        return {
            "KUBEFLOW_TRAINER_SERVER_URL": self.server.url,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(self.server.ca),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.server.token),
        }

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def taken(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "2")
    request.end_headers()
    request.wfile.write(b"{}")


def refused(code: int, message: str = "Forbidden") -> Answer:
    """Refuse as Trainer does, with a Kubernetes Status."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"status": "Failure", "message": message, "code": code}).encode()
        request.send_response(code)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CAs, and certificates of the first for localhost and for another host."""
    folder = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.crt")
    other.cert_pem.write_to_path(folder / "other.crt")
    for host in ("localhost", "elsewhere"):
        issued = ca.issue_cert(host)
        issued.private_key_pem.write_to_path(folder / f"{host}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{host}.crt")
    return folder


def serve(folder: Path, tls: Path, host: str = "localhost", ca: str = "ca") -> Trainer:
    (folder / "ca.crt").write_bytes((tls / f"{ca}.crt").read_bytes())
    return Trainer(folder, tls / f"{host}.crt", tls / f"{host}.key")


@pytest.fixture
def trainer(tmp_path: Path, tls: Path) -> Iterator[Trainer]:
    server = serve(tmp_path, tls)
    yield server
    server.stop()


@contextmanager
def reporting(server: Server, pause: float = 0.02) -> Iterator[Reporter]:
    reporter = Reporter(server, pause)
    yield reporter
    reporter.close()
    until(lambda: not reporter._thread.is_alive(), "the thread has ended")


def test_a_status_is_posted_as_trainer_wants_it(trainer: Trainer) -> None:
    with reporting(trainer.server) as reporter:
        reporter.tell({"progressPercentage": 7})
        until(lambda: trainer.got, "posted")
        trainer.server.token.write_text("renewed\n")  # as the kubelet does
        reporter.tell({"progressPercentage": 8})
        until(lambda: len(trainer.got) == 2, "posted again")
    path, headers, body = trainer.got[0]
    assert path == PATH
    assert headers["Authorization"] == "Bearer of-this-job"
    assert headers["Content-Type"] == "application/json"
    observed = datetime.fromisoformat(body["trainerStatus"].pop("lastUpdatedTime"))
    assert observed.utcoffset() == timedelta(0)
    assert body == {"trainerStatus": {"progressPercentage": 7}}
    assert trainer.got[1][1]["Authorization"] == "Bearer renewed"
    assert len(trainer.got) == 2, "what has been posted is not posted again"


def test_between_posts_is_a_pause_and_the_newest_comes_last(trainer: Trainer) -> None:
    with reporting(trainer.server, pause=PATIENCE) as reporter:
        for percent in range(1, 51):
            reporter.tell({"progressPercentage": percent})
            until(lambda: trainer.got, "the first is posted")
    assert [s["progressPercentage"] for s in trainer.statuses] == [1, 50]


@pytest.mark.parametrize("code", [401, 403, 404, 422, 500, 503])
def test_a_refusal_is_said_once_and_tried_again(trainer: Trainer, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    trainer.answer = refused(code, "Forbidden\x1b[31m")
    with reporting(trainer.server) as reporter:
        reporter.tell({"progressPercentage": 7})
        until(lambda: len(trainer.got) == 3, "tried again")
        trainer.answer = taken
        until(lambda: len(trainer.got) == 4, "and again")
        until(lambda: reporter._posted, "taken")
    first, last = capfd.readouterr().err.splitlines()
    assert f"HTTP {code} Forbidden?[31m; trying again (monitoring.trainJobStatus.server" in first
    assert last == "TrainJob's status: shown again"


def test_the_pause_grows_while_nothing_is_taken(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(trainjob, "LONGEST_PAUSE_SECONDS", 0.3)
    trainer.answer = refused(500)
    with reporting(trainer.server, pause=0.05) as reporter:
        wait = reporter._closed.wait

        def hurried(seconds: float) -> bool:
            pauses.append(seconds)
            return wait(0.01)

        monkeypatch.setattr(reporter._closed, "wait", hurried)
        reporter.tell({"progressPercentage": 7})
        until(lambda: len(pauses) >= 5, "five refusals")
    assert pauses[:5] == [0.1, 0.2, 0.3, 0.3, 0.3]


def test_a_redirect_is_not_followed(
    trainer: Trainer, tmp_path: Path, tls: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The token is for this server."""
    (tmp_path / "other").mkdir()
    other = serve(tmp_path / "other", tls)

    def away(request: BaseHTTPRequestHandler) -> None:
        request.send_response(307)
        request.send_header("Location", other.server.url)
        request.send_header("Content-Length", "0")
        request.end_headers()

    trainer.answer = away
    with reporting(trainer.server) as reporter:
        reporter.tell({"progressPercentage": 7})
        until(lambda: len(trainer.got) > 1, "tried again")
    other.stop()
    assert not other.got
    assert "HTTP 307; trying again" in capfd.readouterr().err


@pytest.mark.parametrize(("host", "ca", "reason"), [("localhost", "other", "verify"), ("elsewhere", "ca", "Hostname")])
def test_a_server_that_is_not_trainers_never_sees_the_token(
    tmp_path: Path, tls: Path, host: str, ca: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve(tmp_path, tls, host, ca)
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return reason in said

    with reporting(server.server) as reporter:
        reporter.tell({"progressPercentage": 7})
        until(is_said, lambda: f"{reason}: {said}")
    server.stop()
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert not server.got


def test_no_proxy_is_used(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with reporting(trainer.server) as reporter:
        reporter.tell({"progressPercentage": 7})
        until(lambda: trainer.got, "posted")


def test_without_a_ca_nothing_is_asked(trainer: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    """Trainer before 2.2, or without the feature gate; what it offers later is used."""
    ca = trainer.server.ca.read_bytes()
    trainer.server.ca.unlink()
    with reporting(trainer.server) as reporter:
        reporter.tell({"progressPercentage": 7})
        until(lambda: reporter._trouble, "looked")
        assert not trainer.got
        trainer.server.ca.write_bytes(ca)
        until(lambda: trainer.got, "posted")
    first, _ = capfd.readouterr().err.splitlines()
    assert "Trainer offers no status server; it does since 2.2, with its feature gate TrainJobStatus" in first


@pytest.mark.parametrize("broken", ["token", "address", "port", "ca", "no token"])
def test_what_cannot_be_used_is_one_line_without_the_token(
    trainer: Trainer, broken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server = trainer.server
    if broken == "token":
        server.token.write_text("secret\nsecret")
    elif broken == "no token":
        server.token.unlink()
    elif broken == "ca":
        server.ca.write_text("")
    else:
        url = "https://localhost:99999/" if broken == "port" else "https://no.such.host.invalid:1/"
        server = Server(url, server.ca, server.token)
    with reporting(server) as reporter:
        reporter.tell({"progressPercentage": 7})
        until(lambda: reporter._trouble, "tried")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"TrainJob's status: {server.url}: ")
    assert "secret" not in line
    assert not trainer.got


def test_a_server_that_hangs_delays_nobody(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a scrape nor the end of the exporter, beyond what the last post may take."""
    monkeypatch.setattr(trainjob, "CLOSE_SECONDS", 0.5)
    hangs = threading.Event()

    def hang(_: BaseHTTPRequestHandler) -> None:
        hangs.wait(PATIENCE)

    trainer.answer = hang
    log = tmp_path / "train.log"
    log.write_text(bar(0) + bar(1) + "\n")
    reporter = Reporter(trainer.server)
    exporter = Exporter(log, RunSettings(max_steps=10), ("127.0.0.1", 0), reporter=reporter)
    thread = threading.Thread(target=exporter.serve)
    thread.start()
    until(lambda: trainer.got, "asked")
    with log.open("a") as more:
        more.write(bar(2) + "\n")
    until(lambda: "neva_step 3\n" in exporter.text(), "the log is followed")
    began = time.monotonic()
    exporter.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert time.monotonic() - began < trainjob.ANSWER_SECONDS + PATIENCE / 2
    hangs.set()
    until(lambda: not reporter._thread.is_alive(), "given up")


def start(trainer: Trainer, log: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the exporter as the pod does, with the standard library alone."""
    options = (f"--log={log}", "--listen=127.0.0.1:0", "--max-steps=100")
    return subprocess.Popen(
        [sys.executable, "-S", "-m", "neva_pod.monitor.exporter", *options],
        env={"PYTHONPATH": str(FILES), "PATH": os.environ["PATH"], **trainer.environment(), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_exporter_posts_what_the_log_says_and_the_last_step_at_its_end(trainer: Trainer, tmp_path: Path) -> None:
    """The pause between posts is long: the end of the training does not wait for it."""
    log = tmp_path / "train.log"
    log.write_text(bar(4) + bar(5) + "\n")
    with ended(start(trainer, log)) as process:
        until(lambda: trainer.statuses, "posted")
        with log.open("a") as more:
            more.write("".join(bar(n) for n in range(6, 100)) + "\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
    first, last = trainer.statuses
    assert (first["progressPercentage"], number(first, "step")) == (6, "6")
    assert (last["progressPercentage"], number(last, "step")) == (100, "100")
    assert last["estimatedRemainingSeconds"] == 0


def test_only_the_first_node_posts(trainer: Trainer, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(bar(4) + bar(5) + "\n")
    with ended(start(trainer, log, JOB_COMPLETION_INDEX="1")) as process:
        assert process.stdout is not None
        assert "serving" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
    assert not trainer.got
