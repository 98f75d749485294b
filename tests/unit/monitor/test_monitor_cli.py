"""``neva-monitor`` as a user runs it: what it prints, writes and returns."""

import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from neva_pod.monitor.judge import CODES, Severity, judge, status
from neva_pod.monitor.records import Point, RunSettings
from neva_pretrain.chart.values import complete
from neva_pretrain.cli import monitor as cli
from neva_pretrain.facts import Facts
from neva_pretrain.model.hardware import GPUS, H100
from neva_pretrain.monitor import curves, report, settings, view
from neva_pretrain.monitor import page as page_of
from neva_pretrain.monitor.text import braille, duration, number
from neva_pretrain.output import printable
from tests.unit.monitor.conftest import Invoke
from tests.unit.monitor.nemo_logs import REGISTERED, bar, ranks, run_of

ROOT = Path(__file__).parents[3]
HEALTHY = "".join(bar(n, loss=2 + 4 / (n + 1)) for n in range(120))
FINISHED = HEALTHY + bar(2169) + "\n`Trainer.fit` stopped: `max_steps=2170` reached.\n"
OOM = HEALTHY + "\n[rank3]: torch.OutOfMemoryError: CUDA out of memory.\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "train.log"


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        (HEALTHY, [], 0),
        (FINISHED, [], 0),
        (OOM, [], 1),
        (HEALTHY, ["--step-time", "0.1"], 3),
    ],
)
def test_exit_codes(invoke: Invoke, log: Path, text: str, options: list[str], code: int) -> None:
    """0 healthy or finished, 1 failed, 3 a warning."""
    log.write_text(text)
    assert invoke(log, "--once", *options)[0] == code


def test_a_values_file_is_not_a_run_that_starts(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("training: {nodes: 1}\n")
    assert invoke(file, "--once") == (2, "", f"ERROR: {file}: is no log; name a run, and its values file with -f\n")


def test_a_folder_without_a_run_is_not_one_that_starts(invoke: Invoke, tmp_path: Path) -> None:
    """Such as the folder above the runs'; a run without a log yet has its record."""
    words = f"ERROR: {tmp_path}: has no log and no run.json; name a log, or the results folder of one run\n"
    assert invoke(tmp_path, "--once") == (2, "", words)
    (tmp_path / "run.json").write_text(json.dumps({"training": {"maxSteps": 136}}))
    code, out, _ = invoke(tmp_path, "--once")
    assert (code, out.split()[0]) == (0, "starting")


def test_plain_summary(invoke: Invoke, log: Path) -> None:
    """One line for the run, then each judgement with evidence, cause and action."""
    log.write_text(OOM)
    code, out, err = invoke(
        log, "--once", "--model", "llama2_7b_chat", "--gpus", 8, "--global-batch", 256,
        "--step-time", 0.5,
    )  # fmt: skip
    assert code == 1
    assert err == ""
    first, *rest = out.splitlines()
    assert first.startswith("failed  step 120/2,170  5.5%  loss 2.03  0.54 s/step (p95 0.54 s)")
    assert "474.1 samples/s  59.26/GPU" in first
    assert "93% of planned speed" in first
    assert rest[0] == "FAILED: a GPU ran out of memory (rank 3)"
    assert rest[1] == "  evidence: [rank3]: torch.OutOfMemoryError: CUDA out of memory."
    assert [line.split(":")[0] for line in rest[2:]] == ["  cause", "  action"]


def test_json(invoke: Invoke, log: Path) -> None:
    """Strict JSON with the run's numbers, also for a NaN loss."""
    log.write_text(HEALTHY + bar(120, loss=float("nan")))
    code, out, _ = invoke(log, "--once", "-o", "json", "--global-batch", 256)
    data = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert (code, data["exitCode"], data["status"]) == (0, 0, "training")
    assert (data["step"], data["maxSteps"], data["loss"]) == (121, 2170, None)
    assert data["consumedSamples"] == 121 * 256
    assert data["speed"]["median"] == 0.54
    assert len(data["points"]) == 121


def test_values_file_gives_the_plan(invoke: Invoke, log: Path, tmp_path: Path) -> None:
    """The plan's step time comes from the cost model; what the file leaves out, from the chart."""
    values = tmp_path / "values.yaml"
    values.write_text("training: {nodes: 4, globalBatchSize: 1024, maxSteps: 543}\n")
    log.write_text(HEALTHY)
    data = json.loads(invoke(log, "--once", "-o", "json", "-f", values)[1])
    assert data["settings"]["model"] == "llama2_7b_chat"
    assert (data["settings"]["gpus"], data["maxSteps"]) == (32, 543)
    assert 0.5 < data["settings"]["planned_step_seconds"] < 20
    assert data["speed"]["of_plan"] > 0
    assert data["settings"]["checkpoint_every"] > 0


def test_run_record_is_found(invoke: Invoke, tmp_path: Path) -> None:
    """A results folder tells its own settings (run.json); the newest log is taken."""
    record = {
        "run": {"release": "neva"},
        "model": {"name": "llama2_7b_chat"},
        "training": {"nodes": 1, "gpusPerNode": 8, "maxSteps": 500, "globalBatchSize": 256},
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "node-00000.log").write_text(HEALTHY)
    for source in (tmp_path, tmp_path / "logs", tmp_path / "logs" / "node-00000.log"):
        data = json.loads(invoke(source, "--once", "-o", "json")[1])
        assert (data["settings"]["name"], data["maxSteps"]) == ("neva", 500)
        assert data["speed"]["mfu"] > 0


def test_annotations_give_the_settings() -> None:
    """What the chart writes on its job, alone and with the whole training section."""
    base = {
        "neva-pretrain/model": "llama2_7b_chat",
        "neva-pretrain/gpus": "16",
        "neva-pretrain/max-steps": "1085",
        "neva-pretrain/global-batch-size": "512",
        "neva-pretrain/tokens-per-sample": "704",
        "other/max-steps": "1",
    }
    found = settings.from_facts(settings.of_annotations(base), H100)
    assert (found.max_steps, found.global_batch_size, found.gpus) == (1085, 512, 16)
    assert (found.tokens_per_sample, found.planned_step_seconds) == (704, None)
    training = {"tensorParallelSize": 4, "pipelineParallelSize": 1, "microBatchSize": 32}
    base["neva-pretrain/training"] = json.dumps(training)
    base["neva-pretrain/checkpoint"] = '{"enabled": true, "everyNSteps": 100}'
    found = settings.from_facts(settings.of_annotations(base), H100)
    assert found.planned_step_seconds is not None
    assert found.checkpoint_every == 100
    assert settings.from_facts(settings.of_annotations({"neva-pretrain/training": "{"}), H100).max_steps is None
    own = settings.from_facts(settings.of_annotations({**base, "neva-pretrain/model": "my_own"}), H100)
    assert (own.max_steps, own.flops_per_sample) == (1085, None)


def test_p2_r05_a_model_of_ones_own_is_judged_by_its_own_shape(invoke: Invoke, log: Path, tmp_path: Path) -> None:
    """Vocabulary, FLOPs and planned time are the run's, wherever its facts come from."""
    values = tmp_path / "values.yaml"
    values.write_text("model: {architecture: {numLayers: 64, vocabSize: 64000}}\ntraining: {gpu: a100-80gb}\n")
    log.write_text(HEALTHY)
    own = json.loads(invoke(log, "--once", "-o", "json", "-f", values)[1])["settings"]
    base = json.loads(invoke(log, "--once", "-o", "json", "-f", values, "--model", "llama2_7b_chat")[1])["settings"]
    assert (own["vocab_size"], base["vocab_size"]) == (64000, 32008)
    assert own["flops_per_sample"] > 1.8 * base["flops_per_sample"]
    assert own["peak_flops"] == GPUS["a100-80gb"].peak_tflops * 1e12
    sheet = Facts(complete(yaml.safe_load(values.read_text())), "neva", "default").sheet
    (tmp_path / "run.json").write_text(json.dumps(sheet))
    recorded = json.loads(invoke(log, "--once", "-o", "json")[1])["settings"]
    assert recorded == {**own, "name": "neva"}


@pytest.mark.parametrize(
    "record",
    [
        "[" * 100_000,
        '{"training": [], "model": "x", "architecture": 7, "plan": null, "run": {"release": {}}}',
        '{"model": {"name": "llama2_7b_chat"}, "architecture": {"numLayers": true, "hiddenSize": -1}}',
        '{"model": {"name": "llama2_7b_chat"}, "training": {"nodes": 1, "gpusPerNode": 8, "tensorParallelSize": 1,'
        ' "pipelineParallelSize": 1, "microBatchSize": 1, "globalBatchSize": 8}, "architecture": {"numLayers": "4"}}',
        '{"model": {"name": ["x"]}, "training": {"nodes": true, "gpusPerNode": 1e400, "maxSteps": "9²"}}',
        '{"model": {"name": "llama2_7b_chat"}, "training": {"nodes": 1, "gpusPerNode": 8, "tensorParallelSize": 1,'
        ' "pipelineParallelSize": 8, "microBatchSize": 1, "globalBatchSize": 8}, "architecture": {"numLayers": 4}}',
        "\ud800",
        "",
    ],
)
def test_a_record_that_is_none_tells_what_it_can(invoke: Invoke, tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record, errors="surrogatepass")
    (tmp_path / "train.log").write_text(HEALTHY)
    code, out, err = invoke(tmp_path, "--once", "-o", "json")
    assert code in (0, 3)
    assert err == "" or (record[:1] != "{" and err.startswith("warning: ") and "run.json: " in err)
    assert json.loads(out)["settings"]["vocab_size"] in (32000, 32008)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no/such/file"], "ERROR: no/such/file: no such file or folder"),
        (["train.log"], "ERROR: train.log: no such file or folder"),
        (["{log}", "--model", "gpt5", "--once"], "ERROR: model.name: got gpt5; must be a model"),
        (["{log}", "-f", "{log}", "--once"], "cannot be read as YAML: "),
        (["{log}", "-f", "{bad}", "--once"], "ERROR: training.nodes: got 0; must be at least 1"),
        (["{log}", "--once", "--html", "/nonexistent/r.html"], "ERROR: --html /nonexistent/r.html"),
        (["{log}", "--once", "--plot", "/nonexistent/r.png"], "ERROR: --plot /nonexistent/r.png"),
        (["{log}", "--once", "--plot", "{log}.doc"], "must end in .png, .svg or .pdf"),
        (["{log}", "--step-time", "nan"], "'nan' is not a number"),
        (["{log}", "--max-steps", "0"], "Invalid value for '--max-steps'"),
    ],
)
def test_errors(invoke: Invoke, log: Path, argv: list[str], message: str) -> None:
    """Exit code 2 and a sentence; never a traceback."""
    log.write_text(HEALTHY)
    bad = log.with_name("bad.yaml")
    bad.write_text("training: {nodes: 0}\n")
    code, _, err = invoke(*(a.format(log=log, bad=bad) for a in argv))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_pipe(tmp_path: Path) -> None:
    """Lines for a pipe, the summary at its end, and a judgement on the end itself."""
    command = [sys.executable, "-c", "from neva_pretrain.cli.monitor import main; main()"]
    done = subprocess.run(command, input=FINISHED.encode(), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0
    assert "finished  step 2,170/2,170  100.0%" in done.stdout.decode()
    done = subprocess.run([*command, "-"], input=HEALTHY.encode(), capture_output=True, check=False, timeout=120)
    assert done.returncode == 3
    assert b"WARNING: the log ends at step 120 of 2170" in done.stdout
    assert done.stderr == b""


def test_growing_file_ends_when_the_trainer_does(invoke: Invoke, log: Path) -> None:
    """A file is followed until max_steps is reached."""
    log.write_text(FINISHED)
    code, out, _ = invoke(log)
    assert code == 0
    assert "finished" in out


class Page(HTMLParser):
    """Collects what a page refers to and whether its tags match."""

    VOID = ("meta", "line", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_report(invoke: Invoke, log: Path, tmp_path: Path) -> None:
    """One page, well-formed, that loads nothing, with light and dark colours."""
    log.write_text(
        ranks(8) + REGISTERED.format(8) + HEALTHY + ranks(8) + REGISTERED.format(8)
        + bar(60, n=1) + bar(61, n=2) + "\n[rank1]: OSError: <b>No space left on device</b>\n"
    )  # fmt: skip
    page = tmp_path / "report.html"
    code, _, _ = invoke(
        log, "--once", "--html", page, "--model", "llama2_7b_chat", "--gpus", 8,
        "--global-batch", 256, "--step-time", 0.5,
    )  # fmt: skip
    assert code == 1
    text = page.read_text()
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert parsed.references == []
    assert not {"script", "link", "img", "iframe", "b-evil"} & parsed.tags
    assert not re.search(r"https?:|url\(|@import", text)
    assert "prefers-color-scheme:dark" in text
    assert "&lt;b&gt;No space left" in text
    assert text.count("<svg") == 3
    for part in ("Loss", "Step time", "Throughput", "planned", "restart", "Configuration"):
        assert part in parsed.text


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot(invoke: Invoke, log: Path, tmp_path: Path, suffix: str) -> None:
    """A real picture in the format of its suffix."""
    log.write_text(HEALTHY)
    target = tmp_path / f"loss{suffix}"
    assert invoke(log, "--once", "--plot", target, "--step-time", 0.5)[0] == 0
    data = target.read_bytes()
    if suffix == ".png":
        assert data.startswith(b"\x89PNG")
    else:
        assert ET.fromstring(data).tag.endswith("svg")  # noqa: S314 (our own)


def test_report_of_an_empty_run() -> None:
    """Nothing known yet still makes a page, JSON and a view."""
    run = run_of("")
    assert "Nothing to report" in page_of.html(run, [], status(run, []), "now")
    assert report.as_dict(run, [], status(run, []))["step"] is None
    assert "unknown number" in rendered(run_of(""), 80)


def rendered(run: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    found = judge(run, 1.0)  # type: ignore[arg-type]
    console.print(view.render(run, found, status(run, found), width))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [44, 80, 110])
def test_live_view(width: int) -> None:
    """All figures, a plot, and the judgement; nothing is wider than the terminal."""
    run = run_of(
        OOM,
        name="neva",
        model="llama2_7b_chat",
        gpus=8,
        global_batch_size=256,
        planned_step_seconds=0.33,
        max_steps=2170,
    )
    shown = rendered(run, width)
    assert max(len(line) for line in shown.splitlines()) <= width
    assert "step 120 of 2,170" in shown
    if width >= 80:
        for part in ("61% of planned speed: 0.33 s", "474.1", "59.26/GPU", "FAILED: a GPU ran out"):
            assert part in shown
        assert any(0x2800 < ord(c) < 0x2900 for c in shown)


STEERS = "\x1b]52;c;eA==\x07 \x1bc \x9b2J \u202e \x7f"


def test_k17_log_and_settings_cannot_steer_the_terminal(invoke: Invoke, log: Path, tmp_path: Path) -> None:
    """Text, page, picture and live view; also a sequence that comes together when another is taken out of it."""
    log.write_bytes(
        HEALTHY.encode() + f"\n[rank3]: torch.OutOfMemoryError: {STEERS} \x1b\x1b[m]52;c;eA==\x07\n".encode()
    )
    (tmp_path / "run.json").write_text(json.dumps({"run": {"release": STEERS + "$\\x$"}, "model": {"name": STEERS}}))
    page, plot = tmp_path / "r.html", tmp_path / "p.svg"
    code, out, err = invoke(log, "--once", "--html", page, "--plot", plot)
    assert code == 1
    assert re.search("OutOfMemoryError: .*\ufffd", out)
    for text in (out, err, page.read_text("utf-8"), plot.read_text("utf-8")):
        assert text == printable(text)
    assert ET.fromstring(plot.read_text("utf-8")).tag.endswith("svg")  # noqa: S314 (our own)
    run = run_of(log.read_text("utf-8"), name=STEERS, model=STEERS)
    shown = rendered(run, 80)
    assert shown == printable(shown)
    assert max(map(len, shown.splitlines())) <= 80, "what is shown has the width that was reckoned with"
    assert invoke(f"{STEERS}/x")[2] == f"ERROR: {printable(STEERS)}/x: no such file or folder\n"


def test_k22_report_and_plot_go_through_a_link(invoke: Invoke, log: Path, tmp_path: Path) -> None:
    """And keep the mode of what they replace."""
    log.write_text(HEALTHY)
    for option, name in (("--html", "r.html"), ("--plot", "p.png")):
        real, link = tmp_path / f"real-{name}", tmp_path / name
        real.touch(mode=0o600)
        link.symlink_to(real)
        assert invoke(log, "--once", option, link)[0] == 0
        assert link.is_symlink()
        assert real.stat().st_size > 1000
        assert real.stat().st_mode & 0o777 == 0o600


def test_a_failed_run_has_no_time_left() -> None:
    """Nothing goes on at the pace of its last steps."""
    text = bar(0) + bar(1)
    oom = "\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB\n"
    assert " left" in rendered(run_of(text), 100)
    assert " left" not in rendered(run_of(text + oom), 100)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5432, "0.543 s"),
        (59, "59 s"),
        (65, "1 min 5 s"),
        (7260, "2 h 1 min"),
        (3161144.8, "36 d 14 h"),
        (None, "?"),
        (float("inf"), "?"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    """The two largest units."""
    assert duration(seconds) == text


def test_number() -> None:
    """Four digits, thousands apart."""
    assert [number(v) for v in (None, 0.54321, 474.07, 45135.2, float("nan"))] == [
        "?",
        "0.5432",
        "474.1",
        "45,135",
        "nan",
    ]


def test_braille_plot() -> None:
    """A falling line starts at the top left and ends at the bottom right; gaps stay empty."""
    rows = braille([4.0, 3.0, 2.0, 1.0], width=2, height=1)
    assert rows == ["⠙⢦"]
    assert braille([None, float("nan")], 2, 1) == ["⠀⠀"]
    assert braille([], 2, 1) == ["⠀⠀"]
    assert braille([1.0, 1.0], 1, 1) == ["⣀"]


def test_curves_break_at_restarts_and_gaps() -> None:
    """Lines are not drawn across what was not measured."""
    points = [
        Point(1, 3.0, None, 1),
        Point(2, None, None, 1),
        Point(3, 2.0, None, 1),
        Point(2, 2.5, None, 2),
    ]
    assert curves.curves_of(points, lambda p: p.loss) == [[(1, 3.0)], [(3, 2.0)], [(2, 2.5)]]
    assert curves.restart_steps(points) == [2]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 2.26, [0, 0.5, 1, 1.5, 2, 2.5]),
        (1, 1, [1, 1.2]),
        (0, 0, [0, 0.2]),
        (5, 2170, [0, 500, 1000, 1500, 2000, 2500]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    """Round numbers that cover the range, also an empty one."""
    assert curves.ticks(low, high, 5) == pytest.approx(expected)


def test_one_slow_step_does_not_flatten_the_chart() -> None:
    """The first step loads and compiles."""
    assert curves.without_outliers([30.0] + [2.0 + n / 1000 for n in range(200)]) < 3
    assert curves.without_outliers([1.0, 2.0]) == 2.0


def documented() -> str:
    return (ROOT / "docs" / "reference" / "monitor.md").read_text()


def test_documentation_has_every_code_option_and_metric() -> None:
    """docs/reference/monitor.md lists all judgements, options and metrics."""
    text = documented()
    for code in CODES:
        assert f"`{code}`" in text
    for parameter in cli.command.params:
        for option in getattr(parameter, "opts", []):
            if option.startswith("--"):
                assert option in text
    from neva_pod.monitor.exporter import metrics

    run = run_of(bar(1) + bar(2), 0.0)
    run.settings = RunSettings(
        global_batch_size=1,
        gpus=1,
        tokens_per_sample=1,
        flops_per_sample=1.0,
        planned_step_seconds=1.0,
    )
    for name in re.findall(r"^# TYPE (\w+)", metrics(run, 1.0), re.M):
        assert f"`{name}`" in text
    for level in Severity:
        assert level.name.lower() in text


def test_help_has_examples_and_exit_codes(invoke: Invoke) -> None:
    """--help shows how it is used."""
    os.environ["COLUMNS"] = "100"
    code, out, _ = invoke("--help")
    assert code == 0
    assert "neva-monitor neva -n training" in out
    assert "Exit codes:" in out


@pytest.mark.parametrize(
    "record",
    [
        "[" * 100_000,
        '{"training": ' * 50_000,
        "",
        "null",
        "[1]",
        '{"training": 7, "model": [], "checkpoint": null, "run": "x"}',
        '{"training": {"nodes": "x", "gpusPerNode": -1, "maxSteps": 1e999, "globalBatchSize": [5]}}',
        f'{{"training": {{"nodes": {"9" * 400}, "gpusPerNode": 8, "maxSteps": {"9" * 400}, "globalBatchSize": true}}}}',
        '{"model": {"name": {"a": 1}}, "checkpoint": {"everyNSteps": "x"}, "run": {"release": 5}}',
        "\udcff\udc80",
        f'{{"plan": {{"stepSeconds": {"9" * 400}, "flopsPerSample": Infinity, "peakTflops": NaN}}}}',
    ],
)
def test_k20_a_record_of_any_kind_does_not_stop_the_monitor(
    invoke: Invoke, log: Path, tmp_path: Path, record: str
) -> None:
    """What run.json does not tell is unknown; the log is read all the same."""
    log.write_text(HEALTHY)
    (tmp_path / "run.json").write_bytes(record.encode("utf-8", "surrogateescape"))
    page = tmp_path / "report.html"
    code, out, err = invoke(log, "--once", "--html", page)
    assert code in (0, 1, 3), err
    assert "step 120/" in out
    assert "Traceback" not in err
    assert ("run.json: " in err) == (not record.startswith("{") or record.startswith('{"training": {"training"'))
