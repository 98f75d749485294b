"""The script as a pod runs it, and `neva-values preflight`."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from neva_pod.preflight.checks import CHECKS, NODE, dataset
from neva_pod.preflight.registry import Context
from neva_pod.preflight.report import table
from neva_pod.preflight.run import run_check
from neva_pod.progress import Progress
from neva_pod.settings import Settings as PodSettings
from neva_pretrain.cli import main
from tests.unit.preflight_tools import ARCHITECTURE, FILES, sample, world, write_saved
from tests.waiting import PATIENCE, ended, until

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "preflight.md"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return world(tmp_path)


def script(
    tmp: Path, settings: dict[str, Any] | str, *arguments: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run preflight on a settings file, in its folder."""
    file = tmp / "settings.json"
    file.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    command = [python, "-m", "neva_pod.preflight", "--settings", str(file), *arguments]
    env = {**os.environ, "PYTHONPATH": str(FILES), **environment}
    return subprocess.run(command, cwd=tmp, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_exit_codes_and_table(tmp_path: Path, settings: dict[str, Any]) -> None:
    """0 when nothing failed; 1 and each problem with its fix otherwise."""
    done = script(tmp_path, settings)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("preflight: ")
    Path(settings["model"]["tokenizerPath"]).unlink()
    shutil.rmtree(settings["model"]["visionEncoderPath"])
    done = script(tmp_path, settings)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = {line.split()[1] for line in lines if line.startswith("FAILED")}
    assert failed == {"access", "tokenizer", "vision"}, "every problem at once"
    for number, line in enumerate(lines):
        if line.startswith("FAILED"):
            assert lines[number + 1].strip().startswith("fix: ")


@pytest.mark.parametrize(
    ("settings_text", "arguments", "said"),
    [
        ("{", (), "settings: "),
        ("[]", (), "must be a JSON object"),
        ("{}", ("--only", "tokenizr"), "check: got tokenizr; must be one of filesystem,"),
        ('{"preflight": {"skip": ["x"]}}', (), "check: got x"),
        ('{"preflight": {"skip": "x"}}', (), "settings: preflight.skip: got 'x'; must be list"),
        (
            '{"data": {"annotations": 7}}',
            ("--only", "dataset"),
            "settings: data.annotations: got 7",
        ),
    ],
)
def test_wrong_usage_is_2(tmp_path: Path, settings_text: str, arguments: tuple[str, ...], said: str) -> None:
    done = script(tmp_path, settings_text, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("ERROR: ")
    assert said in done.stderr
    assert done.stdout == ""


def test_level_quick_reads_no_content(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Every pod runs it: the node and access to the inputs, not what is in them."""
    done = script(tmp_path, settings, "--level", "quick", "-o", "json")
    names = [c["name"] for c in json.loads(done.stdout)["checks"]]
    assert names == [c.name for c in CHECKS.values() if c.level == "quick" and c.name != "gpus"]


@pytest.mark.parametrize(("index", "level"), [("0", "full"), (None, "full"), ("1", "quick"), ("12", "quick")])
def test_level_auto_is_full_in_the_pod_of_index_0_only(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str | None, level: str
) -> None:
    """A TrainJob's pods have one template; Kubernetes numbers them."""
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    if index is not None:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    done = script(tmp_path, settings, "--level", "auto", "-o", "json")
    assert json.loads(done.stdout)["level"] == level


def test_skip_only_and_json_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["preflight"]["skip"] = ["dataset"]
    report = tmp_path / "report.json"
    done = script(
        tmp_path,
        settings,
        "--only",
        "dataset,images,vision",
        "--skip",
        "vision",
        "--json-file",
        str(report),
    )
    assert done.returncode == 0
    written = json.loads(report.read_text())
    assert [c["name"] for c in written["checks"]] == ["images"]
    assert written["ok"] is True
    assert written["checks"][0]["findings"][0]["status"] == "ok"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_k06_a_signal_ends_it_at_once(tmp_path: Path, settings: dict[str, Any], number: signal.Signals) -> None:
    """K06: while nvidia-smi hangs, even as PID 1, for which the kernel drops signals without a handler."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/asked.new; mv {tmp_path}/asked.new {tmp_path}/asked; sleep 600\n")
    tool.chmod(0o755)
    settings["preflight"]["skip"] = []
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    inside = subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0
    command = [sys.executable, "-m", "neva_pod.preflight", "--settings", "settings.json", "--only", "gpus"]
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [*(unshare if inside else []), *command],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with ended(process):
        until(lambda: (tmp_path / "asked").exists() or process.poll() is not None, "nvidia-smi runs")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]) if inside else process.pid, number)
        assert process.stderr is not None
        assert f"stopped by {number.name}" in process.stderr.read()
        assert process.wait(PATIENCE) == 128 + number
    if not inside:
        os.killpg(int((tmp_path / "asked").read_text()), signal.SIGKILL)


def test_k06_the_time_of_all_checks(tmp_path: Path, settings: dict[str, Any]) -> None:
    """K06: an init container ends by itself."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexec sleep 600\n")
    tool.chmod(0o755)
    settings["preflight"] |= {"timeoutSeconds": 1, "skip": []}
    done = script(tmp_path, settings, "--only", "gpus,dataset", PATH=f"{tool.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "FAILED   gpus    still running after" in done.stdout
    assert "skipped  dataset no time is left, see above" in done.stdout


@pytest.mark.slow
def test_k07_a_report_is_written_through_what_is_no_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    """K07: a pipe and stdout stay what they are, a link leads to its file, a mode stays."""
    kept = tmp_path / "kept.json"
    kept.write_text("")
    kept.chmod(0o600)
    (tmp_path / "link.json").symlink_to(kept)
    assert script(tmp_path, settings, "--only", "images", "--json-file", "link.json").returncode == 0
    assert json.loads(kept.read_text())["ok"] is True
    assert kept.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "link.json").is_symlink()
    done = script(tmp_path, settings, "--only", "images", "--json-file", "/dev/stdout", "-o", "json")
    assert done.stdout.count('"ok": true') == 2
    assert not Path("/dev/stdout").is_file() or Path("/dev/stdout").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    done = script(tmp_path, settings, "--only", "images", "--json-file", "pipe")
    assert done.returncode == 2, "no one reads it"
    assert (tmp_path / "pipe").is_fifo()


def test_a_fault_of_a_check_does_not_hide_the_others(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "look_at", lambda *_: 1 / 0)
    started = Context(PodSettings(settings))
    results = [run_check(CHECKS[n], started) for n in ("dataset", "images")]
    assert "the check itself crashed: ZeroDivisionError" in results[0].findings[-1].message
    assert results[1].outcome == "ok"


def test_names_are_data(tmp_path: Path) -> None:
    """Spaces, quotes, newlines and $() in paths; a newline does not break the table."""
    odd = tmp_path / "a 'b' \"c\" $(touch pwned) ;\nFAILED  fake"
    settings = world(odd)
    samples = [sample(0, "x\ny z.jpg")] * 8
    Path(settings["data"]["annotations"]).write_text(json.dumps(samples))
    done = script(tmp_path, settings)
    assert done.returncode == 1
    failed = [x.split()[1] for x in done.stdout.splitlines() if x.startswith("FAILED")]
    assert failed == ["images"]
    assert not list(tmp_path.rglob("pwned"))


def test_progress_is_lines_in_a_pod_and_one_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stream:
        def __init__(self, terminal: bool) -> None:
            self.text, self.terminal = "", terminal

        def isatty(self) -> bool:
            return self.terminal

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    clock = iter(range(0, 100_000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    for terminal in (False, True):
        stream = Stream(terminal)
        progress = Progress(stream)
        for done in range(1, 4):
            progress.step("images", done, 4)
        progress.clear()
        assert ("\r" in stream.text) is terminal
        assert stream.text.count("\n") == (0 if terminal else 3)
        assert "images: 3 of 4 (75 %)" in stream.text


def test_on_a_terminal(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The same table on a real terminal."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings))
    main, side = pty.openpty()
    command = [sys.executable, "-m", "neva_pod.preflight", "--settings", str(file)]
    with subprocess.Popen(command, stdout=side, stderr=side, close_fds=True) as child:
        os.close(side)
        output = b""
        while child.poll() is None or select.select([main], [], [], 0)[0]:
            try:
                output += os.read(main, 4096)
            except OSError:
                break
    os.close(main)
    assert child.returncode == 0
    assert b"preflight: " in output


@pytest.mark.skipif(shutil.which("python3.10") is None, reason="no Python 3.10")
def test_runs_on_the_images_python(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The 24.07 container has Python 3.10; here it may lack PyYAML and Pillow."""
    probe = subprocess.run(["python3.10", "-c", ""], check=False)
    if probe.returncode:
        pytest.skip("python3.10 does not start")
    done = script(tmp_path, settings, python="python3.10")
    assert done.returncode == 0, done.stdout + done.stderr


def test_docs_list_every_check() -> None:
    """One fact, one place: the table of the docs is the registry's."""
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert rows[: len(CHECKS)] == table().splitlines()[2:]


def test_list_prints_the_registry() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "neva_pod.preflight", "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.findall(r"^\| `([\w-]+)`", done.stdout, re.M) == list(CHECKS)


class TestLocally:
    """`neva-values preflight`, on this machine's paths."""

    def values(self, tmp: Path, **changes: Any) -> Path:
        """Write a values file of a tiny model, whose GPFS folders are below tmp."""
        world(tmp / "gpfs")
        storage = {
            name: {"mountPath": f"/{name}/preset", "gpfs": {"nodePath": str(tmp / "gpfs")}}
            for name in ("datasets", "models", "results")
        }
        values = {
            "model": {
                "llmPath": "/models/preset",
                "checkpoint": "llm",
                "tokenizer": "tokenizer.model",
                "visionEncoderPath": "/models/preset/clip",
                "architecture": dict(ARCHITECTURE),
            },
            "data": {"path": "/datasets/preset/data", "annotations": "blip.json"},
            "training": {"tensorParallelSize": 1, "microBatchSize": 1},
            "storage": storage,
            "run": {"id": "r"},
            **changes,
        }
        file = tmp / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    def call(self, *arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main.main, ["preflight", *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    def test_values_file_on_the_nodes_paths(self, tmp_path: Path) -> None:
        """Mount paths become the GPFS folders; a wrong vision size is the tiny model's own."""
        code, said = self.call("-f", str(self.values(tmp_path)), "--skip", "vision")
        assert code == 0, said
        assert "20 images in 2 folders" in said
        assert f"no checkpoint in {tmp_path}/gpfs/r/results/checkpoints" in said
        for name in NODE:
            assert f" {name} " not in said

    def test_every_problem_and_exit_code(self, tmp_path: Path) -> None:
        file = self.values(tmp_path, training={"tensorParallelSize": 4, "microBatchSize": 1})
        (tmp_path / "gpfs" / "tokenizer.model").unlink()
        code, said = self.call("-f", str(file), "-o", "json")
        assert code == 1
        report = json.loads(said)
        failed = {c["name"] for c in report["checks"] if c["status"] == "failed"}
        assert failed == {"access", "checkpoint", "tokenizer", "vision"}

    def test_mount_paths_can_be_mapped(self, tmp_path: Path) -> None:
        file = self.values(tmp_path)
        (tmp_path / "gpfs").rename(tmp_path / "copy")
        arguments = ["-f", str(file), "--only", "images,checkpoint"]
        assert self.call(*arguments)[0] == 1
        for mount in ("/datasets/preset", "/models/preset"):
            arguments += ["--map", f"{mount}={tmp_path / 'copy'}"]
        assert self.call(*arguments)[0] == 0
        assert self.call(*arguments, "--map", "x")[0] == 2

    def test_single_paths_without_values(self, tmp_path: Path) -> None:
        """A 70B preset against a tiny file: the options alone are enough."""
        world(tmp_path)
        code, said = self.call(
            *("--model", "llama2_70b_chat", "--tensor-parallel", "8"),
            *("--llm", str(tmp_path / "llm"), "--tokenizer", str(tmp_path / "tokenizer.model")),
        )
        assert code == 1
        assert "is split for TP 1 PP 1; must be TP 8 PP 1" in said
        assert "num_layers is 2, must be 80" in said
        assert "skipped  dataset" in said
        code, said = self.call("--dataset", str(tmp_path / "data"), "--only", "dataset")
        assert code == 1, "its JSON has another name"
        assert "blip_laion_cc_sbu_558k.json" in said

    def test_a_results_folder_that_is_not_there_is_no_fresh_start(self, tmp_path: Path) -> None:
        values, gone = str(self.values(tmp_path)), tmp_path / "gone"
        code, said = self.call("-f", values, "--only", "resume", "--results", str(gone))
        assert (code, said) == (1, f"ERROR: --results {gone}: is no folder\n")
        code, said = self.call("-f", values, "--only", "resume", "--map", f"/results/preset={gone}")
        assert code == 1
        assert f"FAILED   resume {gone}: is no folder; it must hold the run's" in said
        gone.mkdir()
        assert self.call("-f", values, "--only", "resume", "--map", f"/results/preset={gone}")[0] == 0

    @pytest.mark.parametrize("only", ["gpus", "dataset,shm"])
    def test_checks_of_a_node_are_refused(self, tmp_path: Path, only: str) -> None:
        code, said = self.call("-f", str(self.values(tmp_path)), "--only", only)
        assert code == 2
        assert f"--only {only.split(',')[-1]} says nothing on this machine" in said

    def test_what_was_not_given_is_told_with_what_gives_it(self, tmp_path: Path) -> None:
        """And a run that has checked nothing has not passed."""
        code, said = self.call("-f", str(self.values(tmp_path, run={})), "--only", "resume")
        assert code == 1
        assert "results.checkpointsDir not given; give --results DIR, or run.id in the values" in said
        assert "ERROR: nothing was checked; give -f VALUES" in said
        code, said = self.call("--model", "llama2_7b_chat")
        assert code == 1
        lines = [line.split(maxsplit=2) for line in said.splitlines() if line.startswith("skipped")]
        lacking = {name: why.partition(" not given; give ")[2] for _, name, why in lines if name != "access"}
        assert all(lacking.values()), lacking
        assert (lacking["dataset"], lacking["images"], lacking["weights"]) == ("--dataset DIR",) * 2 + ("--llm PATH",)

    def test_r03_sizes_that_nobody_gave_are_not_guessed(self, tmp_path: Path) -> None:
        """R03: results alone do not tell nodes and batch sizes: no silent pass by the chart's, and no refusal."""
        world(tmp_path)
        for samples in ("5120.0", "5000.0"):
            last = tmp_path / samples / "results" / "checkpoints" / f"neva--step=9000-consumed_samples={samples}-last"
            write_saved(last)
            code, said = self.call("--results", str(tmp_path / samples), "--only", "resume")
            assert code == 0, said
            assert f"has seen {samples[:4]} samples: whether NeMo's sampler accepts that depends on the run's" in said
            assert "also give the run's values (-f)" in said
            code, said = self.call("-f", str(self.values(tmp_path)), "--results", str(tmp_path / samples))
            assert "follows from the run's nodes" not in said
            assert "at step 9000 of 2170: the run is finished" in said

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("- a", "must be a mapping of values, got a list"),
            ("a: [", "cannot be read as YAML: line "),
            ("", "is empty"),
            ("training: {nodes: 1, nodes: 2}", "line 1: the key nodes is given twice"),
            ("storage: null", "storage: got nothing; must be set"),
            ("model: {llmPath: 7}", "model.llmPath: got 7; must be of type string"),
            ("training: []", "training: got []; must be of type object"),
            ("data: {path: /elsewhere}", "data.path: got /elsewhere; must lie below a mounted path"),
            ("model: {name: gpt5}", "model.name: got gpt5; must be a model in the catalog"),
        ],
    )
    def test_p3_p4_files_that_are_no_values_are_refused_as_by_check(
        self, tmp_path: Path, content: str, said: str
    ) -> None:
        file = tmp_path / "v.yaml"
        file.write_text(content)
        done = CliRunner().invoke(main.main, ["preflight", "-f", str(file)])
        checked = CliRunner().invoke(main.main, ["check", str(file)])
        assert done.exit_code == checked.exit_code == 1
        assert done.stdout == ""
        assert said in done.stderr
        ours = [line.removeprefix("ERROR: ").removeprefix(f"{file}: ") for line in done.stderr.splitlines()]
        assert checked.stdout.splitlines() == [f"{file}: ERROR: {line}" for line in ours]

    def test_p1_absolute_paths_are_themselves(self, tmp_path: Path) -> None:
        file = self.values(
            tmp_path, data={"path": "/datasets/preset/data", "annotations": "/models/preset/data/blip.json"}
        )
        assert self.call("-f", str(file), "--only", "dataset")[0] == 0
        (tmp_path / "gpfs" / "data" / "blip.json").rename(tmp_path / "gpfs" / "blip.json")
        code, said = self.call("-f", str(file), "--only", "dataset")
        assert code == 1
        assert f"{tmp_path}/gpfs/data/blip.json" in said

    def test_p1_a_folder_inside_the_volume_is_part_of_the_path(self, tmp_path: Path) -> None:
        file = self.values(tmp_path)
        values = yaml.safe_load(file.read_text())
        values["storage"]["datasets"] = {"mountPath": "/datasets/preset", "hostPath": str(tmp_path), "subPath": "gpfs"}
        file.write_text(yaml.safe_dump(values))
        assert self.call("-f", str(file), "--only", "dataset,images")[0] == 0

    def test_what_the_values_leave_out_is_left_out(self, tmp_path: Path) -> None:
        file = self.values(tmp_path, preflight={"skip": ["dataset", "vision"]})
        code, said = self.call("-f", str(file))
        assert code == 0, said
        assert " dataset" not in said
        assert " dataset" in self.call("-f", str(file), "--only", "dataset")[1]

    def test_unknown_check_is_2(self) -> None:
        code, said = self.call("--only", "x")
        assert code == 2
        assert "must be one of filesystem" in said
