"""Serves the state of a run to Prometheus, from the log that the training writes beside it.

Run as ``python3 -m neva_pod.monitor.exporter --log /results/run-1/logs/node-00000.log --listen :9400 --max-steps 2170
...`` with this directory's parent on PYTHONPATH. Text format 0.0.4:
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import argparse
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from neva_pod.monitor.endpoint import Endpoint
from neva_pod.monitor.judge import CODES, judge
from neva_pod.monitor.limits import DEFAULT_LIMITS, Limits
from neva_pod.monitor.parser import LogParser
from neva_pod.monitor.records import RunSettings
from neva_pod.monitor.run import Run
from neva_pod.monitor.tail import Tail
from neva_pod.monitor.trainjob import Reporter, Server, trainer_status

POLL_SECONDS = 1.0
RETRY_SECONDS = 5.0
FRESH_SECONDS = 0.2
"""Metrics that are younger are served again: many scrapes at once cost one."""
LAST_CHUNKS = 64
"""Reads of what the training wrote before it ended."""


def metrics(run: Run, now: float, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return the run's metrics as Prometheus text; a value that is not known yet has no sample."""
    return "".join(_families(run, now, limits))


def _families(run: Run, now: float, limits: Limits) -> Iterator[str]:
    s = run.settings
    labels = {
        "name": s.name,
        "model": s.model,
        "gpus": str(s.gpus or ""),
        "global_batch_size": str(run.global_batch_size or ""),
    }
    yield _family("info", "gauge", "The run.", [(labels, 1)])
    yield _gauge("step", "Optimizer steps completed.", run.completed)
    yield _gauge("max_steps", "Optimizer steps to do.", run.max_steps)
    yield _gauge("loss", "reduced_train_loss of the last step.", run.loss)
    speed = run.speed()
    if speed is not None:
        yield _gauge("step_time_seconds", "Median step time of the last steps.", speed.median)
        yield _gauge("step_time_p95_seconds", "95th percentile of the step time of the last steps.", speed.p95)
        yield _gauge("samples_per_second", "Samples per second, whole job.", speed.samples)
        yield _gauge("samples_per_second_per_gpu", "Samples per second per GPU.", speed.samples_per_gpu)
        yield _gauge("tokens_per_second", "Tokens per second, whole job.", speed.tokens)
        yield _gauge("mfu_ratio", "Model FLOP/s over the GPUs' peak, 0 to 1.", speed.mfu)
        yield _gauge("of_plan_ratio", "Planned over measured step time; 1 is as planned.", speed.of_plan)
    yield _gauge("left_seconds", "Time to the last step at the current pace.", run.seconds_left())
    yield _gauge("last_step_age_seconds", "Time since the last new step.", _age(run.last_step_at, now))
    yield _gauge("last_checkpoint_step", "Step of the last checkpoint.", run.checkpoint_step)
    yield _gauge("last_checkpoint_age_seconds", "Time since the last checkpoint.", _age(run.checkpoint_at, now))
    yield _family("checkpoints_total", "counter", "Checkpoints saved, as logged.", [({}, run.checkpoints)])
    yield _family("restarts_total", "counter", "Restarts of the training process.", [({}, run.restarts)])
    yield _family("nonfinite_losses_total", "counter", "Steps with NaN or infinite loss.", [({}, run.nan_total)])
    said = {j.code: j.level.name.lower() for j in judge(run, now, limits)}
    yield _family(
        "judgement",
        "gauge",
        "1 while the finding holds.",
        [({"code": code, "level": said.get(code, "")}, int(code in said)) for code in CODES],
    )


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else max(0.0, now - at)


def _gauge(name: str, text: str, value: float | None) -> str:
    return "" if value is None else _family(name, "gauge", text, [({}, value)])


def _family(name: str, kind: str, text: str, samples: list[tuple[dict[str, str], float]]) -> str:
    lines = [f"# HELP neva_{name} {text}", f"# TYPE neva_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"neva_{name}{'{' + inside + '}' if inside else ''} {_value(value)}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _value(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


class Exporter:
    """Follows a log in this thread and serves its metrics from others."""

    def __init__(
        self,
        log: Path,
        settings: RunSettings,
        listen: tuple[str, int],
        limits: Limits = DEFAULT_LIMITS,
        pod_start: float = 0.0,
        silent: bool = False,
        reporter: Reporter | None = None,
    ) -> None:
        self._silent = silent
        self._reporter = reporter
        self._log = log
        self._trouble = ""
        self._tail = Tail(log)
        self._pod_start = pod_start
        self._parser = LogParser()
        self._is_old = False
        self._run = Run(settings)
        self._limits = limits
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._made: tuple[float, str] = (-math.inf, "")
        self._endpoint = Endpoint(
            listen,
            {
                "/metrics": lambda: ("text/plain; version=0.0.4; charset=utf-8", self.text()),
                "/healthz": lambda: ("text/plain", "ok\n"),
            },
        )

    @property
    def port(self) -> int:
        """The port that is served, also where 0 was asked for."""
        return self._endpoint.port

    def text(self) -> str:
        """Return the metrics of this moment; none where another pod tells them."""
        if self._silent:
            return ""
        made, text = self._made
        if time.monotonic() - made > FRESH_SECONDS:
            with self._lock:
                text = metrics(self._run, time.time(), self._limits)
            text += _gauge(
                "log_readable",
                "1 if the log is read, 0 if it does not exist or cannot be read.",
                float(self._tail.is_open),
            )
            self._made = (time.monotonic(), text)
        return text

    def serve(self) -> None:
        """Serve until :meth:`stop`."""
        self._endpoint.start()
        if self._silent:
            self._stop.wait()
        with self._lock:
            self._run.update([], time.time())
        while not self._stop.is_set():
            if not self._follow():
                self._report()
                self._stop.wait(POLL_SECONDS)
        if self._reporter:
            for _ in range(LAST_CHUNKS):
                if not self._follow():
                    break
            self._report()
            self._reporter.close()
        self._endpoint.stop()
        self._tail.close()

    def _follow(self) -> bool:
        """Take what the log has more; tell whether that was anything."""
        data, written = self._read()
        if 0 < written < self._pod_start and data:
            self._is_old = True
        elif self._is_old and not self._trouble:
            # A run that is resumed appends to its log: what ended the last pod is no alarm in this one.
            self._is_old = False
            with self._lock:
                self._run.new_process()
        if not data:
            return False
        events = self._parser.feed(data)
        with self._lock:
            self._run.update(events, written)
        return True

    def _report(self) -> None:
        """Have the TrainJob's status show the run as far as the log tells."""
        if self._reporter:
            with self._lock:
                status = trainer_status(self._run, time.time(), self._limits)
            self._reporter.tell(status)

    def _read(self) -> tuple[bytes, float]:
        """Read on; a log that cannot be read (stale handle, no rights, a path through a file) is not there yet."""
        try:
            data, written = self._tail.read()
        except OSError as error:
            trouble = error.strerror or str(error)
            if trouble != self._trouble:
                print(f"{self._log}: {trouble}; trying again", file=sys.stderr, flush=True)
            self._trouble = trouble
            return b"", 0.0
        if self._trouble and self._tail.is_open:
            print(f"{self._log}: readable again", file=sys.stderr, flush=True)
            self._trouble = ""
        return data, written

    def stop(self) -> None:
        """End :meth:`serve`; may be called from a signal handler."""
        self._stop.set()


def address(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, ``:PORT`` (all addresses) or ``[V6]:PORT``."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"got {text}; must be HOST:PORT, such as :9400 or 127.0.0.1:9400")
    return host.strip("[]"), int(port)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="exporter", description="Serve a NeMo log's progress to Prometheus.")
    parser.add_argument("--log", type=Path, required=True, metavar="PATH", help="log file, or directory of logs")
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 9400), metavar="HOST:PORT")
    parser.add_argument("--name", default="", help="name of the run")
    parser.add_argument("--model", default="", help="name of the model")
    parser.add_argument("--max-steps", type=int, metavar="N")
    parser.add_argument("--global-batch-size", type=int, metavar="N", help="samples per step")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs of the whole job")
    parser.add_argument("--tokens-per-sample", type=int, metavar="N")
    parser.add_argument("--vocab-size", type=int, default=RunSettings.vocab_size, metavar="N")
    parser.add_argument("--planned-step-seconds", type=float, metavar="S", help="step time that the planner predicts")
    parser.add_argument("--flops-per-sample", type=float, metavar="F", help="model FLOPs to train on one sample")
    parser.add_argument("--peak-flops", type=float, default=RunSettings.peak_flops, metavar="F", help="of one GPU")
    parser.add_argument("--checkpoint-every", type=int, metavar="N", help="steps between checkpoints, 0 = off")
    return parser


def _pod_start() -> float:
    """Return when the ConfigMap that this file is from was mounted, 0 where it is from elsewhere."""
    link = Path(__file__).parents[2] / "..data"
    return link.lstat().st_mtime if link.is_symlink() else 0.0


def _is_first_node() -> bool:
    """Return whether this pod's node is the one whose log is told; Kubernetes numbers pods that have one template."""
    return os.environ.get("JOB_COMPLETION_INDEX", "0") == "0"


def _open(log: Path, listen: tuple[str, int], settings: RunSettings) -> Exporter:
    """Wait for a port that is in use: a sidecar that ends takes the master's name out of DNS."""
    silent = not _is_first_node()
    server = None if silent else Server.of()
    reporter = Reporter(server) if server else None
    while True:
        try:
            return Exporter(log, settings, listen, pod_start=_pod_start(), silent=silent, reporter=reporter)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while ")[0]  # what create_server adds
            print(f"port {listen[1]}: {reason}; trying again", file=sys.stderr, flush=True)
            time.sleep(RETRY_SECONDS)


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    values = vars(_arguments().parse_args(argv))
    exporter = _open(values.pop("log"), values.pop("listen"), RunSettings(**values))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: exporter.stop())
    print(f"serving /metrics on port {exporter.port}", flush=True)
    exporter.serve()


if __name__ == "__main__":
    main()
