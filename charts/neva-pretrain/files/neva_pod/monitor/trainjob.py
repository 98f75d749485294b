"""Shows how far a run is in the status of its TrainJob, through the status server of Kubeflow Trainer.

Trainer serves it since 2.2, with its feature gate TrainJobStatus, and says where in the environment:
https://github.com/kubeflow/trainer/blob/v2.3.0/docs/user-guides/trainjob-progress.md
The token is of use for this TrainJob's progress and nothing else; it needs no rights in the cluster.
"""

import json
import math
import os
import ssl
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from neva_pod.monitor.judge import Severity, judge
from neva_pod.monitor.limits import DEFAULT_LIMITS, Limits
from neva_pod.monitor.run import Run

PAUSE_SECONDS = 30.0
"""Least time between two posts: Trainer writes five a second, of all jobs together."""
LONGEST_PAUSE_SECONDS = 300.0
"""The pause doubles up to this while the server takes nothing."""
ANSWER_SECONDS = 5.0
CLOSE_SECONDS = 7.0
"""Time for the last post, within the pod's grace period."""
LONGEST_ANSWER = 4096
LONGEST_VALUE = 64
"""Characters of a metric's value that the TrainJob may have."""
LARGEST_INTEGER = 2**31 - 1

Status = Mapping[str, Any]


def trainer_status(run: Run, now: float, limits: Limits = DEFAULT_LIMITS) -> Status:
    """Return the run as a TrainJob's trainerStatus; what is not known yet is left out, so it may be empty."""
    step, end, left, speed = run.completed, run.max_steps, run.seconds_left(), run.speed()
    found = {
        "progressPercentage": 100 * step // end if step is not None and end else None,
        "estimatedRemainingSeconds": min(int(left), LARGEST_INTEGER) if left is not None and left < math.inf else None,
    }
    status: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    metrics: dict[str, float | str | None] = {}
    if step is not None:
        metrics = {
            "step": step,
            "max_steps": end,
            "loss": run.loss,
            "step_time_seconds": speed.median if speed else None,
            "mfu_ratio": speed.mfu if speed else None,
            "last_checkpoint_step": run.checkpoint_step,
            "restarts": run.restarts,
        }
    findings = [j.code for j in judge(run, now, limits) if j.level is not Severity.OK]
    metrics["findings"] = ", ".join(findings)[:LONGEST_VALUE] or None
    entries = [{"name": name, "value": _text(value)} for name, value in metrics.items() if value is not None]
    if entries:
        status["metrics"] = entries
    return status


def _text(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class RefusedError(Exception):
    """The server answered, but did not take the status."""


@dataclass(frozen=True)
class Server:
    """Where a status is posted to: an address, and files that the kubelet renews."""

    url: str
    ca: Path
    token: Path

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Server | None":
        """Return the server that the environment names; None outside of a TrainJob."""
        try:
            url, ca, token = (environment[f"KUBEFLOW_TRAINER_SERVER_{name}"] for name in ("URL", "CA_CERT", "TOKEN"))
        except KeyError:
            return None
        return cls(url, Path(ca), Path(token))

    def post(self, status: Status) -> None:
        """Post a status over TLS to this server and no other: no redirect is followed, no proxy used.

        Raises:
            OSError, HTTPException, ValueError: no answer, or no use can be made of the address or the files.
            RefusedError: the answer is another one than 200.

        """
        address = urlsplit(self.url)
        observed = datetime.now(timezone.utc).isoformat(timespec="seconds")
        body = json.dumps({"trainerStatus": {**status, "lastUpdatedTime": observed}})
        token = self.token.read_text("ascii").strip()
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = HTTPSConnection(address.hostname or "", address.port, timeout=ANSWER_SECONDS, context=context)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", address.path, body, headers)
            answer = connection.getresponse()
            said = answer.read(LONGEST_ANSWER)
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            raise RefusedError(f"HTTP {answer.status} {_message(said)}".strip())


def _message(answer: bytes) -> str:
    """Return the message of a Kubernetes Status, on one line and fit for a terminal."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    first = str(said.get("message", "")).partition("\n")[0][:200] if isinstance(said, dict) else ""
    return "".join(letter if letter.isprintable() else "?" for letter in first)


class Reporter:
    """Posts the newest status from a thread of its own, so that nothing waits for the server, its name or its files."""

    def __init__(self, server: Server, pause: float = PAUSE_SECONDS) -> None:
        self._server = server
        self._pause = pause
        self._changed = threading.Condition()
        self._newest: Status = {}
        self._posted: Status = {}
        self._closed = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._follow, name="trainjob", daemon=True)
        self._thread.start()

    def tell(self, status: Status) -> None:
        """Post this once the pause is over, unless it has been posted, or there is a newer one by then."""
        with self._changed:
            self._newest = status
            self._changed.notify()

    def close(self) -> None:
        """Post the newest now, and wait for that a little."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _follow(self) -> None:
        pause = self._pause
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest != self._posted or self._closed.is_set())
                status, last = self._newest, self._closed.is_set()
            if status != self._posted:
                if self._post(status):
                    self._posted, pause = status, self._pause
                else:
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            if last:
                return
            self._closed.wait(pause)

    def _post(self, status: Status) -> bool:
        """Post a status; say what is wrong once, and when it is right again."""
        trouble = self._try(status)
        if trouble != self._trouble:
            print(f"TrainJob's status: {trouble or 'shown again'}", file=sys.stderr, flush=True)
            self._trouble = trouble
        return not trouble

    def _try(self, status: Status) -> str:
        """Post a status; return what is wrong, never with the token in it."""
        if not os.path.exists(self._server.ca):
            return "Trainer offers no status server; it does since 2.2, with its feature gate TrainJobStatus"
        try:
            self._server.post(status)
        except RefusedError as error:
            reason = str(error)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        except ValueError:
            reason = "address or token cannot be used"
        else:
            return ""
        return f"{self._server.url}: {reason}; trying again (monitoring.trainJobStatus.server is its address)"
