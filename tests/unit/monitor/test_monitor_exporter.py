"""The exporter: its text, its server, and that it runs as the chart ships it."""

import argparse
import ast
import json
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from neva_pod.monitor.exporter import Exporter, address, metrics
from neva_pod.monitor.judge import CODES
from neva_pod.monitor.records import RunSettings
from neva_pod.monitor.run import Run
from neva_pod.monitor.tail import Tail
from tests.unit.monitor.nemo_logs import bar, parse, run_of
from tests.waiting import PATIENCE, ended, until

ROOT = Path(__file__).parents[3]
FILES = ROOT / "charts" / "neva-pretrain" / "files"
POD = FILES / "neva_pod"
SETTINGS = RunSettings(
    name='a "quoted" \\ name',
    model="llama2_7b_chat",
    max_steps=2170,
    global_batch_size=256,
    gpus=8,
    tokens_per_sample=640,
    planned_step_seconds=0.5,
    flops_per_sample=20e12,
)


def samples(text: str) -> dict[str, float]:
    """Return the samples by name and labels, as Prometheus' own parser reads them."""
    return {
        sample.name + "".join(f" {v}" for k, v in sample.labels.items() if k == "code"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_text_is_what_prometheus_reads() -> None:
    """Every number of the run, once each."""
    run = Run(SETTINGS)
    run.update(parse("".join(bar(n, seconds=0.8) for n in range(60))), 100.0)
    saved = "Epoch 0, global step 60: 'step' reached 60 (best 60), saving model to '/r/x'\n"
    run.update(parse(saved), 110.0)
    found = samples(metrics(run, 150.0))
    assert found["neva_step"] == 60
    assert found["neva_max_steps"] == 2170
    assert found["neva_loss"] == 2.5
    assert found["neva_step_time_seconds"] == 0.8
    assert found["neva_samples_per_second"] == 320
    assert found["neva_samples_per_second_per_gpu"] == 40
    assert found["neva_tokens_per_second"] == 204800
    assert found["neva_mfu_ratio"] == pytest.approx(40 * 20e12 / 989.4e12)
    assert found["neva_of_plan_ratio"] == 0.625
    assert found["neva_last_step_age_seconds"] == 50
    assert found["neva_last_checkpoint_age_seconds"] == 40
    assert found["neva_last_checkpoint_step"] == 60
    assert found["neva_restarts_total"] == 0
    assert {k: v for k, v in found.items() if "judgement" in k} == {
        f"neva_judgement {code}": float(code == "slow") for code in CODES
    }


def test_labels_are_escaped() -> None:
    """A name with quotes and backslashes comes back as it was."""
    (info,) = [
        family for family in text_string_to_metric_families(metrics(Run(SETTINGS), 0.0)) if family.name == "neva_info"
    ]
    assert info.samples[0].labels["name"] == SETTINGS.name


def test_unknown_is_absent_and_nan_is_nan() -> None:
    """No sample for what is not known; a NaN loss is one."""
    found = samples(metrics(Run(), 0.0))
    assert not {"neva_step", "neva_loss", "neva_mfu_ratio"} & set(found)
    assert math.isnan(samples(metrics(run_of(bar(1, loss=math.nan)), 0.0))["neva_loss"])
    assert samples(metrics(run_of(bar(1, loss=-math.inf)), 0.0))["neva_loss"] == -math.inf


@contextmanager
def served(log: Path) -> Iterator[Exporter]:
    """Serve a log's metrics."""
    exporter = Exporter(log, SETTINGS, ("127.0.0.1", 0))
    thread = threading.Thread(target=exporter.serve)
    thread.start()
    try:
        yield exporter
    finally:
        exporter.stop()
        thread.join(timeout=PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    log = tmp_path / "train.log"
    log.write_text(bar(0) + bar(1) + "\n")
    with served(log) as exporter:
        yield exporter


def scrape(port: int, path: str = "/metrics") -> tuple[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def until_step(port: int, step: int) -> dict[str, float]:
    return until_served(port, "neva_step", step)


def until_served(port: int, name: str, value: float) -> dict[str, float]:
    """Scrape until a sample has a value."""
    found: dict[str, float] = {}

    def served() -> bool:
        found.clear()
        found.update(samples(scrape(port)[1]))
        return found.get(name) == value

    until(served, lambda: f"{name} is not {value}: {found.get(name)}")
    return found


def test_scrape_follows_the_log(exporter: Exporter, tmp_path: Path) -> None:
    """A real HTTP client, while the log grows."""
    until_step(exporter.port, 2)
    with (tmp_path / "train.log").open("a") as log:
        log.write(bar(2) + "\n")
    until_step(exporter.port, 3)
    assert scrape(exporter.port)[0].startswith("text/plain; version=0.0.4")
    assert scrape(exporter.port, "/healthz")[1] == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(exporter.port, "/")


def as_config_map(target: Path) -> None:
    """Lay the files out as a mounted ConfigMap does: links to a dated folder."""
    dated = target / "..2026_01_01"
    (dated / "neva_pod").mkdir(parents=True)
    shutil.copy(POD / "__init__.py", dated / "neva_pod")
    shutil.copytree(POD / "monitor", dated / "neva_pod" / "monitor")
    (target / "..data").symlink_to(dated.name)
    (target / "neva_pod").symlink_to("..data/neva_pod")


def test_runs_as_the_chart_ships_it(tmp_path: Path) -> None:
    """From a ConfigMap, with nothing but the standard library; SIGTERM ends it with 0."""
    as_config_map(tmp_path / "neva")
    (tmp_path / "train.log").write_text(bar(4) + bar(5))
    command = [sys.executable, "-S", "-m", "neva_pod.monitor.exporter", "--log", str(tmp_path / "train.log")]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--max-steps", "2170", "--gpus", "8"],
        env={"PYTHONPATH": str(tmp_path / "neva"), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    with ended(process):
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        assert until_step(port, 6)["neva_max_steps"] == 2170
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0


def start(where: Path, log: Path, listen: str = "127.0.0.1:0") -> subprocess.Popen[str]:
    """Start the exporter as the pod does."""
    return subprocess.Popen(
        [sys.executable, "-S", "-m", "neva_pod.monitor.exporter", "--log", str(log), "--listen", listen],
        env={"PYTHONPATH": str(where), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("age", [3600, 0])
def test_what_ended_the_last_pod_is_no_alarm_in_this_one(tmp_path: Path, age: int) -> None:
    """A resumed run appends to its log; only what was written since the pod began is judged."""
    as_config_map(tmp_path / "neva")
    log = tmp_path / "train.log"
    log.write_text(bar(4) + "\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB\n")
    if age:
        os.utime(log, (time.time() - age,) * 2)
    with ended(start(tmp_path / "neva", log)) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        until_step(port, 5)
        found = until_served(port, "neva_judgement gpu-oom", 0 if age else 1)
        assert found["neva_restarts_total"] == (1 if age else 0)
        process.send_signal(signal.SIGTERM)


def test_a_port_in_use_is_waited_for(tmp_path: Path) -> None:
    """A sidecar that ends would make the master's pod unready, and workers could not find it."""
    as_config_map(tmp_path / "neva")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path / "neva", tmp_path / "none.log", f"127.0.0.1:{port}")
        assert process.stderr is not None
        assert "in use; trying again" in process.stderr.readline()
        assert process.poll() is None
    with ended(process):
        assert process.stdout is not None
        assert process.stdout.readline() == f"serving /metrics on port {port}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0


def through_a_file(log: Path) -> None:
    log.parent.write_text("")


def to_itself(log: Path) -> None:
    log.parent.mkdir()
    log.symlink_to(log)


def a_pipe(log: Path) -> None:
    log.parent.mkdir()
    os.mkfifo(log)


def that_fails_to_be_read(log: Path) -> None:
    log.parent.mkdir()
    log.symlink_to("/proc/self/mem")  # nothing is mapped at 0: EIO


@pytest.mark.parametrize("broken", [through_a_file, to_itself, a_pipe, that_fails_to_be_read])
def test_k15_a_log_that_cannot_be_read_is_waited_for(
    tmp_path: Path, broken: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """K15: any error of the file system is no log yet: said once, shown as a metric, and over when it is over."""
    log = tmp_path / "logs" / "node-00000.log"
    broken(log)
    with served(log) as exporter:
        assert until_served(exporter.port, "neva_log_readable", 0)["neva_restarts_total"] == 0
        time.sleep(2.5)  # it looks again meanwhile
        for path in (log, log.parent):
            if path.is_symlink() or path.is_fifo() or path.is_file():
                path.unlink()
        log.parent.mkdir(exist_ok=True)
        log.write_text(bar(0) + bar(1) + "\n")
        assert until_served(exporter.port, "neva_log_readable", 1)
        until_step(exporter.port, 2)
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_k15_reading_goes_on_where_it_failed(tmp_path: Path) -> None:
    """K15: the same file is not read twice; another one of its name is read from its start."""
    log = tmp_path / "train.log"
    log.write_bytes(b"one\ntwo\n")
    tail = Tail(log)
    assert tail.read()[0] == b"one\ntwo\n"
    assert tail._file is not None
    os.close(tail._file.fileno())  # what a stale handle is like: EBADF
    with pytest.raises(OSError, match="Bad file descriptor"):
        tail.read()
    assert not tail.is_open
    log.write_bytes(b"one\ntwo\nthree\n")
    assert tail.read()[0] == b"three\n"
    tail.close()


def test_k16_many_that_connect_and_do_not_ask(tmp_path: Path) -> None:
    """K16: 800 half-open connections cost no threads and keep no scrape waiting; who leaves early is no news."""
    as_config_map(tmp_path / "neva")
    log = tmp_path / "train.log"
    log.write_text(bar(4) + bar(5))
    with ended(start(tmp_path / "neva", log)) as process, ExitStack() as stack:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline().split()[-1])
        until_step(port, 6)

        def connect(sent: bytes) -> socket.socket:
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            peer.sendall(sent)
            return peer

        for number in range(800):
            connect((b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n")[number % 3])
        scrapes = [connect(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(100)]
        for number in range(50):
            early = connect(b"GET /metrics HTTP/1.1\r\n\r\n" if number % 2 else b"GET")
            early.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
            early.close()
        for peer in scrapes:
            with peer.makefile("rb") as answer:
                assert b"neva_step 6" in answer.read()
        threads = re.search(r"Threads:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        assert threads
        assert int(threads[1]) <= 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /healthz\n\n", b"HTTP/1.1 200 OK"),
        (b"HEAD /healthz HTTP/1.1\r\nA: b\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 405 "),
        (b"GET /metrics HTTP/1.1\r\n" + 200 * b"a: b\r\n", b""),
        (b"A" * 70_000, b""),
        (b"GET /metrics HTTP/1.1\r\n", b""),
    ],
)
def test_k16_requests_of_any_kind(exporter: Exporter, sent: bytes, answer: bytes) -> None:
    """K16: an answer, or the end of the connection; the next scrape is served."""
    with socket.create_connection(("127.0.0.1", exporter.port), timeout=PATIENCE) as peer:
        try:
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            received = peer.recv(1 << 16)
        except ConnectionError:
            received = b""
    assert received.startswith(answer)
    assert bool(received) == bool(answer)
    assert scrape(exporter.port, "/healthz")[1] == "ok\n"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_all_addresses_are_those_of_both_ip_versions() -> None:
    server = Exporter(Path("none"), SETTINGS, ("", 0))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        for host in ("127.0.0.1", "[::1]"):
            with urllib.request.urlopen(f"http://{host}:{server.port}/healthz", timeout=PATIENCE) as answer:
                assert answer.status == 200
    finally:
        server.stop()
        thread.join(timeout=PATIENCE)


@pytest.mark.parametrize("file", sorted(POD.rglob("*.py")), ids=lambda f: str(f.relative_to(POD)))
def test_standard_library_of_python_3_10(file: Path) -> None:
    """The image's Python is 3.10 and has nothing of ours: syntax and imports. PyYAML and Pillow are used if there.

    Prepare's conversion reads and writes with the image's torch and safetensors.
    """
    theirs = {"monitor": set(), "prepare": {"yaml", "PIL", "torch", "safetensors"}}.get(
        file.parent.name, {"yaml", "PIL"}
    )
    tree = ast.parse(file.read_text("utf-8"), feature_version=(3, 10))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {a.name for a in node.names} <= sys.stdlib_module_names | theirs
            assert "tomllib" not in {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module
            assert node.module.split(".")[0] in sys.stdlib_module_names | theirs | {"neva_pod"}
            assert not {"StrEnum", "Self", "UTC", "assert_never"} & {a.name for a in node.names}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":9400", ("", 9400)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9400", ("::1", 9400)),
    ],
)
def test_address(text: str, expected: tuple[str, int]) -> None:
    """All addresses, one, or one of version 6."""
    assert address(text) == expected


@pytest.mark.parametrize("text", ["9400", "host:", "host:99999", "host:x"])
def test_wrong_address(text: str) -> None:
    """The message shows what is right."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"127\.0\.0\.1:9400"):
        address(text)


def names_served() -> set[str]:
    run = Run(SETTINGS)
    run.update(parse(bar(1) + bar(2)), 1.0)
    run.update(parse("Epoch 0, global step 2: 'x' reached 1 (best 1), saving model to '/x'\n"), 1.0)
    return {s.name for f in text_string_to_metric_families(metrics(run, 2.0)) for s in f.samples}


def test_alerts_use_what_is_served() -> None:
    """Every metric and code in an alert exists; every alert says what it is about."""
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    for rule in rules:
        used = set(re.findall(r"neva_\w+", rule["expr"]))
        assert used
        assert used <= names_served()
        assert set(re.findall(r'code!?="([^"]+)"', rule["expr"])) <= set(CODES)
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_dashboard_uses_what_is_served() -> None:
    """Every query of the dashboard asks for metrics that exist; panels do not overlap."""
    dashboard = json.loads((FILES / "dashboard.json").read_text())
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used = set(re.findall(r"neva_\w+", target["expr"]))
            assert used
            assert used <= names_served()
        grid = panel["gridPos"]
        area = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not area & cells
        cells |= area
    assert len({p["id"] for p in dashboard["panels"]}) == len(dashboard["panels"])
