"""Runs compared: over steps or samples, what differs, and the loss at the same place."""

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain.facts import Facts
from neva_pretrain.monitor import compare, curves
from neva_pretrain.output import printable
from tests.unit.monitor.conftest import Invoke
from tests.unit.monitor.fake_cluster import Cluster, job, master
from tests.unit.monitor.nemo_logs import bar
from tests.unit.monitor.test_monitor_cli import STEERS, Page


def results(folder: Path, name: str, steps: int, lines: str = "", **training: Any) -> Path:
    """A results folder of a run whose loss is 100 - 0.1 for each 256 samples."""
    facts = Facts.of({"training": training, "run": {"id": name}})
    batch = facts.plan.global_batch_size
    run = folder / name
    (run / "logs").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(facts.sheet))
    bars = (bar(n, loss=100 - 0.1 * (n + 1) * batch / 256, seconds=2.0, batch=batch) for n in range(steps))
    (run / "logs" / "node-00000.log").write_text("".join(bars) + lines)
    return run


def told(invoke: Invoke, *argv: object) -> dict[str, Any]:
    code, out, err = invoke(*argv, "-o", "json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_runs_of_one_batch_are_compared_over_steps(tmp_path: Path, invoke: Invoke) -> None:
    """Up to the last step of the shorter one; what differs is what was given."""
    a, b = results(tmp_path, "a", 200), results(tmp_path, "b", 100, learningRate=2e-3)
    found = told(invoke, a, b)
    assert (found["over"], found["at"]) == ("steps", 100)
    assert found["differences"] == {"training.learningRate": {"a": "0.001", "b": "0.002"}}
    losses = [run["lossAt"] for run in found["runs"]]
    assert losses == pytest.approx([100 - 0.1 * 98] * 2), "the mean of steps 96 to 100, of both"
    assert [run["step"] for run in found["runs"]] == [200, 100]
    assert [run["speed"]["samples"] for run in found["runs"]] == [128, 128]


def test_runs_of_other_batches_are_compared_over_samples(tmp_path: Path, invoke: Invoke) -> None:
    """The same losses at the same samples, though at other steps."""
    a = results(tmp_path, "a", 200)
    b = results(tmp_path, "b", 50, nodes=2, globalBatchSize=512, microBatchSize=16)
    found = told(invoke, a, b)
    assert (found["over"], found["at"]) == ("samples", 50 * 512)
    assert [run["lossAt"] for run in found["runs"]] == pytest.approx([90.2, 90.2])
    assert found["differences"]["GPUs"] == {"a": "8", "b": "16"}
    sizes = ("nodes", "globalBatchSize", "microBatchSize")
    assert set(found["differences"]) == {"GPUs", *(f"training.{key}" for key in sizes)}


def test_the_table(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns: figures, what differs, and why losses differ by themselves."""
    a = results(tmp_path, "a", 200)
    b = results(tmp_path, "b", 50, nodes=2, globalBatchSize=512, microBatchSize=16)
    sheet = json.loads((b / "run.json").read_text())
    (b / "run.json").write_text(json.dumps({**sheet, "image": f"registry.example/{'long/' * 5}nemo:24.12"}))
    monkeypatch.setattr("neva_pretrain.cli.monitor._width", lambda: 80)
    code, out, _ = invoke(a, b)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "RUN  STATE          STEP  LOSS  STEP TIME  SMP/S/GPU  OF PLAN"
    assert re.fullmatch(r"a    training  200/2,170  90\.2        2 s         16 +\d+%", lines[1])
    assert "LOSS is the mean over the last 5% of the first 25,600 samples, which all runs have done." in " ".join(
        out.split()
    )
    assert "  training.microBatchSize   32   16\n" in out
    assert "  image\n    a  nvcr.io/nvidia/nemo:24.07\n    b  registry.example/long/" in out
    assert "Note: the loss is a mean over the tokens of each micro batch" in out
    assert max(map(len, lines)) <= 80


def test_models_of_one_name_may_differ(tmp_path: Path, invoke: Invoke) -> None:
    """Of two models only the names are told, since their shapes follow."""
    a, b = results(tmp_path, "a", 10), results(tmp_path, "b", 10)
    sheet = json.loads((b / "run.json").read_text())
    sheet["architecture"] = {**sheet["architecture"], "vocabSize": 64000}
    (b / "run.json").write_text(json.dumps(sheet))
    assert list(told(invoke, a, b)["differences"]) == ["architecture.vocabSize"]
    sheet["model"] = {**sheet["model"], "name": "llama2_13b_chat"}
    (b / "run.json").write_text(json.dumps(sheet))
    assert list(told(invoke, a, b)["differences"]) == ["model.name"]


def test_runs_without_differences_and_without_a_loss(tmp_path: Path, invoke: Invoke) -> None:
    """Both are said."""
    a, b = results(tmp_path, "a", 10), results(tmp_path, "b", 10)
    assert "Nothing that is known of these runs differs." in invoke(a, b)[1]
    (b / "logs" / "node-00000.log").write_text("nothing yet\n")
    page, plot = tmp_path / "p.html", tmp_path / "p.svg"
    code, out, _ = invoke(a, b, "--html", page, "--plot", plot)
    assert code == 0
    assert "Compared over steps; not each run has a loss yet." in out
    assert told(invoke, a, b)["at"] is None
    for log in (a, b):
        (log / "logs" / "node-00000.log").write_text("nothing yet\n")
    assert invoke(a, b, "--html", page, "--plot", plot)[0] == 0, "no run has a loss"


def test_losses_beyond_all_reason_are_shown(tmp_path: Path, invoke: Invoke) -> None:
    """A run that diverges reaches the largest number of 32 bits; a damaged line can have any."""
    fine = results(tmp_path, "fine", 20)
    for name, loss in (("diverged", 3.4e38), ("damaged", 1.7e308), ("below", -1.7e308)):
        (tmp_path / f"{name}.log").write_text("".join(bar(n, loss=loss) for n in range(20)))
    logs = [tmp_path / f"{name}.log" for name in ("diverged", "damaged", "below")]
    code, out, err = invoke(fine, logs[0], "--html", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert "3.4e+38" in out
    code, out, err = invoke(fine, *logs, "--html", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 120
    assert "Loss" in (tmp_path / "page.html").read_text()


def test_logs_alone_are_compared_over_steps(tmp_path: Path, invoke: Invoke) -> None:
    """Batch and GPUs unknown: steps/s."""
    for name, seconds in (("a.log", 1.0), ("b.log", 2.0)):
        (tmp_path / name).write_text("".join(bar(n, seconds=seconds) for n in range(30)))
    page = tmp_path / "p.html"
    assert told(invoke, tmp_path / "a.log", tmp_path / "b.log")["over"] == "steps"
    assert invoke(tmp_path / "a.log", tmp_path / "b.log", "--html", page)[0] == 0
    assert "steps/s" in page.read_text()


def test_what_a_restart_did_again_counts_as_the_last_time(tmp_path: Path, invoke: Invoke) -> None:
    again = "".join(bar(n, n=n - 89, loss=50.0) for n in range(90, 100))
    a, b = results(tmp_path, "a", 100), results(tmp_path, "b", 100, again)
    found = told(invoke, a, b)
    assert found["runs"][1]["restarts"] == 1
    assert [run["lossAt"] for run in found["runs"]] == pytest.approx([90.2, 50.0])


def test_releases_of_the_cluster(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sizes and image are the jobs' annotations; folders and releases together, too."""
    cluster = Cluster(tmp_path)
    monkeypatch.setenv("PATH", str(cluster.bin), prepend=":")
    cluster.has(
        "pytorchjobs",
        job("lr-1-x", "lr-1", training={"learningRate": 0.001}),
        job("lr-2-x", "lr-2", training={"learningRate": 0.002}, told={"image": "nemo:24.12"}),
    )
    cluster.has("pods", master("lr-1-x"), master("lr-2-x"))
    for name in ("lr-1-x", "lr-2-x"):
        cluster.logs(f"{name}-master-0", *(bar(n, total=100) for n in range(40)))
    assert told(invoke, "lr-1", "lr-2", "-n", "team")["differences"] == {
        "image": {"lr-1": "nemo:24.07", "lr-2": "nemo:24.12"},
        "training.learningRate": {"lr-1": "0.001", "lr-2": "0.002"},
    }
    mixed = told(invoke, "lr-1", results(tmp_path, "folder", 10))
    assert [run["name"] for run in mixed["runs"]] == ["lr-1", "folder"]
    assert mixed["differences"]["training.maxSteps"] == {"lr-1": "100", "folder": "2170"}
    assert invoke("lr-1", "nave")[0] == 2


@pytest.mark.parametrize(
    ("sources", "short"),
    [
        (["/r/a", "/r/b"], ["a", "b"]),
        (["/r/a/logs", "/r/b/logs"], ["a/logs", "b/logs"]),
        (["neva", "r/neva"], ["neva", "r/neva"]),
        (["-", "x.log"], ["-", "x.log"]),
        (["x.log", "./x.log/"], ["x.log", "./x.log/"]),
    ],
)
def test_names_are_short_and_tell_apart(sources: list[str], short: list[str]) -> None:
    assert compare.names(sources) == short


def test_the_page_and_the_picture(tmp_path: Path, invoke: Invoke) -> None:
    """One page that loads nothing, with a line, a faint one and a key for each run in both charts."""
    runs = [results(tmp_path, f"run-{n}", 300, seed=n) for n in range(10)]
    page, plot = tmp_path / "p.html", tmp_path / "p.svg"
    assert invoke(*runs, "--html", page, "--plot", plot)[0] == 0
    text = page.read_text()
    parsed = Page()
    parsed.feed(text)
    assert (parsed.open, parsed.references) == ([], [])
    assert not re.search(r"https?:|url\(|@import", text)
    assert text.count("<svg") == 2
    for n in range(10):
        assert text.count(f'<span class="key c{n % 8}{" again" if n >= 8 else ""}">run-{n}</span>') == 2
    assert text.count("<polyline") == 2 * 2 * 10
    assert "training.seed" in parsed.text
    assert ET.fromstring(plot.read_text()).tag.endswith("svg")  # noqa: S314 (our own)
    png = tmp_path / "p.png"
    assert invoke(*runs[:2], "--plot", png)[0] == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_k17_names_and_settings_cannot_steer_the_terminal(tmp_path: Path, invoke: Invoke) -> None:
    a, b = results(tmp_path, "a", 20), results(tmp_path, "b$\\x\x1b]52;c;eA==\x07$<i>", 20)
    (a / "run.json").write_text(json.dumps({"image": STEERS, "model": {"name": STEERS, "x": [STEERS]}}))
    (b / "run.json").write_text(json.dumps({"image": "<b>", "model": {"name": "x"}, "training": 7}))
    page, plot = tmp_path / "p.html", tmp_path / "p.svg"
    code, out, err = invoke(a, b, "--html", page, "--plot", plot)
    assert (code, err) == (0, "")
    for text in (out, page.read_text(), plot.read_text()):
        assert text == printable(text)
    assert "<i>" not in page.read_text()
    assert "<b>" not in page.read_text().partition("<main>")[2].replace("<b>2", "")


def test_the_running_mean_is_of_the_middle() -> None:
    """One far value moves nothing; the ends are there; few points stay as they are."""
    curve = [(float(x), 1.0) for x in range(1000)]
    curve[500] = (500.0, 10**6)
    assert curves.smoothed(curve) == [(float(x), 1.0) for x in range(1000)]
    short = [(0.0, 1.0), (1.0, 5.0)]
    assert curves.smoothed(short) == short
    falling = curves.smoothed([(float(x), math.exp(-x / 100)) for x in range(500)])
    assert all(abs(y - math.exp(-x / 100)) < 0.01 for x, y in falling[10:-10]), "it does not lag"
