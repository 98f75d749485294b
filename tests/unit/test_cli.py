"""``neva-values`` and ``neva-values check``: what they write, what they refuse, and in which words."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from click.testing import CliRunner, Result

from neva_pretrain import chart
from neva_pretrain.cli.main import main
from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.monitor import settings
from tests.chart import helm

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> Result:
    """Run ``neva-values`` in this process, with its command line as the header sees it."""
    with mock.patch.object(sys, "argv", ["neva-values", *arguments]):
        return CliRunner().invoke(main, arguments)


def written(*arguments: str) -> dict[str, Any]:
    """The values that a command writes."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    values: dict[str, Any] = yaml.safe_load(result.stdout)
    return values


def refused(*arguments: str) -> list[str]:
    """The sentences of a refusal; stdout has what stands in place of values, or nothing beside --output."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    lines = result.stderr.splitlines()
    assert all(line.startswith("ERROR: ") for line in lines), result.stderr
    left = {} if "--output" in arguments else dict.fromkeys(lines, "refused")
    assert (yaml.safe_load(result.stdout) or {}) == left
    return [line.removeprefix("ERROR: ") for line in lines]


def write_site(folder: Path, text: str) -> str:
    file = folder / "site.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


class TestMonitoring:
    SITE = "monitoring: {exporter: {enabled: true}, dashboard: null}\n"

    def test_the_exporter_is_told_what_neva_monitor_would_say_of_the_plan(self, tmp_path: Path) -> None:
        values = written("--gpus", "128", "--gpu", "a100-80gb", "--site", write_site(tmp_path, self.SITE))
        told = settings.from_values(values, GPUS["a100-80gb"])
        plan = values["monitoring"].pop("plan")
        assert plan["stepSeconds"] == pytest.approx(told.planned_step_seconds, rel=0.01)
        assert plan["flopsPerSample"] == pytest.approx(told.flops_per_sample, rel=0.001)
        assert plan["peakTflops"] * 1e12 == told.peak_flops
        assert values["monitoring"] == {"exporter": {"enabled": True}, "dashboard": None}

    def test_what_the_site_says_of_the_plan_stays(self, tmp_path: Path) -> None:
        site = write_site(tmp_path, "monitoring: {exporter: {enabled: true}, plan: {stepSeconds: 7}}\n")
        plan = written("--gpus", "8", "--site", site)["monitoring"]["plan"]
        assert plan["stepSeconds"] == 7
        assert plan["flopsPerSample"] > 1e12

    def test_without_the_exporter_nothing_is_written(self) -> None:
        assert "monitoring" not in written("--gpus", "8")


class TestPlans:
    def test_128_gpus_are_the_source_documents_job_with_one_epoch(self) -> None:
        values = written("--gpus", "128")
        assert values["training"] == {
            "nodes": 16,
            "gpusPerNode": 8,
            "tensorParallelSize": 4,
            "pipelineParallelSize": 1,
            "microBatchSize": 32,
            "globalBatchSize": 4096,
            "maxSteps": 136,
            "warmupSteps": 4,
            "sequenceParallel": False,
        }
        assert values["model"]["name"] == "llama2_7b_chat"
        assert values["checkpoint"] == {"everyNSteps": 13}

    def test_header_says_the_command_and_what_follows_from_it(self) -> None:
        assert run("--gpus", "128").stdout.splitlines()[:5] == [
            "# yaml-language-server: $schema=charts/neva-pretrain/values.schema.json",
            "# neva-values --gpus 128",
            "#   128 GPUs on 16 nodes: 1 master, 15 workers",
            "#   data parallel size 32, 4 accumulation steps",
            "#   557,056 samples in 136 steps, 1.00 epochs",
        ]

    def test_less_than_a_node_is_allowed_when_it_is_said(self) -> None:
        assert refused("--gpus", "4") == [
            "--gpus: got 4; must be a whole number of nodes (gpusPerNode 8); use 8, or --gpus-per-node 4"
        ]
        training = written("--gpus", "4", "--gpus-per-node", "4")["training"]
        assert (training["nodes"], training["gpusPerNode"], training["globalBatchSize"]) == (1, 4, 256)

    def test_fixed_batch_policy_keeps_256_and_2170_steps(self) -> None:
        training = written("--gpus", "128", "--batch-policy", "fixed")["training"]
        assert (training["globalBatchSize"], training["maxSteps"], training["warmupSteps"]) == (256, 2170, 70)

    def test_epochs_multiply_the_steps(self) -> None:
        assert written("--gpus", "8", "--epochs", "3")["training"]["maxSteps"] == 3 * 2170

    def test_every_model_of_the_catalog_has_a_plan(self) -> None:
        for name in catalog.names():
            gpus = "32" if name == "nemotron4_340b_chat" else "8"
            result = run("--gpus", gpus, "--model", name)
            assert result.exit_code == 0 or "must fit in" in result.stderr, result.stderr

    def test_a_dash_in_a_models_name_is_an_underscore(self) -> None:
        assert written("--gpus", "8", "--model", "llama2-13b-chat")["model"]["name"] == "llama2_13b_chat"

    def test_options_reach_their_values(self) -> None:
        values = written(
            *("--gpus", "16", "--tp", "2", "--micro-batch", "16", "--global-batch", "512", "--max-steps", "40"),
            *("--save-every", "20", "--kernels", "fused", "--image", "nvcr.io:443/nvidia/nemo:24.07"),
        )
        training = values["training"]
        assert (training["tensorParallelSize"], training["microBatchSize"]) == (2, 16)
        assert (training["globalBatchSize"], training["maxSteps"], training["kernels"]) == (512, 40, "fused")
        assert values["checkpoint"] == {"everyNSteps": 20}
        assert values["image"] == {"repository": "nvcr.io:443/nvidia/nemo", "tag": "24.07"}

    def test_an_image_by_digest_has_no_tag(self) -> None:
        digest = f"sha256:{'a' * 64}"
        assert written("--gpus", "8", "--image", f"nemo@{digest}")["image"] == {"repository": "nemo", "digest": digest}

    def test_optimize_takes_the_planners_best_and_says_what_it_needs(self) -> None:
        result = run("--gpus", "128", "--optimize")
        values = yaml.safe_load(result.stdout)
        assert (values["training"]["tensorParallelSize"], values["training"]["microBatchSize"]) == (1, 16)
        assert values["training"]["globalBatchSize"] == 4096
        assert values["model"]["checkpointFormat"] == "distributed"
        header = [line for line in result.stdout.splitlines() if line.startswith("#")]
        assert "#   planner: 24.0 samples/s/GPU, ~1.70x the preset's" in header
        assert any("needs a distributed checkpoint" in line for line in header)
        assert any("MBS 16 instead of 32 changes the loss curve" in line for line in header)


class TestRefusals:
    def test_12_gpus_name_8_and_16_and_write_nothing(self, tmp_path: Path) -> None:
        output = tmp_path / "values.yaml"
        assert refused("--gpus", "12", "--output", str(output)) == [
            "--gpus: got 12; must be a whole number of nodes (gpusPerNode 8); use 8 or 16"
        ]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("gpus", ["8", "24"])
    def test_d09_tp_16_is_refused_with_gpus_tp_and_pp(self, tmp_path: Path, gpus: str) -> None:
        output = tmp_path / "values.yaml"
        errors = refused("--gpus", gpus, "--tp", "16", "--output", str(output))
        assert errors[0].startswith("training.tensorParallelSize: got 16; must divide training.gpusPerNode (8)")
        assert f"({gpus} GPUs); must make nodes x gpusPerNode a multiple" in errors[1]
        assert "(16 x 1 = 16)" in errors[1]
        assert not output.exists()

    def test_d03_a_save_interval_beyond_the_end_is_refused(self) -> None:
        assert refused("--gpus", "8", "--max-steps", "50", "--save-every", "100") == [
            "checkpoint.everyNSteps: got 100; must be at most training.maxSteps (50), "
            "or nothing would be saved before the end; use 50 or fewer"
        ]

    def test_a_batch_that_does_not_divide_is_refused_with_both_neighbours(self) -> None:
        (error,) = refused("--gpus", "128", "--global-batch", "4100")
        assert error.endswith("(32 x 32 = 1024); use 4096 or 5120")

    def test_all_violations_come_at_once(self) -> None:
        errors = refused("--gpus", "12", "--tp", "3", "--pp", "5", "--max-steps", "50", "--save-every", "100")
        keys = [error.partition(":")[0] for error in errors]
        assert keys == [
            "--gpus",
            "checkpoint.everyNSteps",
            "training.tensorParallelSize",
            "training.pipelineParallelSize",
        ]

    def test_an_unknown_model_lists_the_known_ones(self) -> None:
        (error,) = refused("--gpus", "8", "--model", "llama9_1b")
        assert "got llama9_1b" in error
        assert all(name in error for name in catalog.names())

    def test_70b_on_tp_1_does_not_fit_and_the_parts_are_named(self) -> None:
        (error,) = refused("--gpus", "8", "--model", "llama2_70b_chat", "--tp", "1")
        assert "must fit in the 79.2 GiB of an H100 80GB" in error
        for part in ("weights", "projector and optimizer", "vision", "activations", "logits", "reserve"):
            assert re.search(rf"\b{part} \d+\.\d", error), part
        assert error.endswith("use tensorParallelSize 4")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "Missing option '--gpus'. Try: neva-values --gpus 128"),
            (["--gpus", "0"], "0 is not in the range x>=1"),
            (["--gpus", "8.5"], "'8.5' is not a valid integer"),
            (["--gpus", "8", "--epochs", "1", "--max-steps", "5"], "exclude each other"),
            (["--gpus", "8", "--image", "nemo"], "got nemo; must have a tag or a digest"),
            (["--gpus", "8", "--image", "host:5000/nemo"], "must have a tag or a digest"),
            (["--gpus", "8", "plan"], "--gpus must follow plan."),
            (["--gpu", "b200", "--gpus", "8"], "is not one of"),
            (["chek"], "No such command"),
        ],
    )
    def test_wrong_usage_is_2_and_says_what_to_do(self, arguments: list[str], words: str) -> None:
        result = run(*arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        if "plan" not in arguments:
            assert words.partition(". ")[0] in " ".join(yaml.safe_load(result.stdout))


class TestWarnings:
    def test_b05_many_ranks_are_warned_of_and_written(self) -> None:
        result = run("-v", "--gpus", "2048")
        assert result.exit_code == 0
        words = "2048 ranks: torch before 2.4 may reset connections to its store"
        assert f"warning: training.nodes: {words}" in result.stderr
        assert yaml.safe_load(result.stdout)["training"]["nodes"] == 256
        assert "ranks:" not in run("-v", "--gpus", "1024").stderr

    def test_h05_a_misspelt_section_of_the_config_is_told(self, tmp_path: Path) -> None:
        site = write_site(tmp_path, "config: {Trainer: {devices: 2}, model: {seq_len_interpolation_factor: 2}}\n")
        said = run("--gpus", "8", "-v", "--site", site).stderr
        assert "warning: config.Trainer: NeVa's configuration has no such section, only name, restore" in said
        assert said.count("warning: config.") == 1

    def test_d08_a_pipeline_is_warned_of_with_the_issue(self) -> None:
        said = run("--gpus", "16", "--pp", "2", "--verbose").stderr
        assert "warning: training.pipelineParallelSize: PP 2 aborts or hangs in NeVa pretraining (NeMo #12205" in said

    def test_a_preset_s_pipeline_is_warned_of_too(self) -> None:
        """And is nothing that --optimize would change."""
        said = run("--gpus", "128", "--model", "nemotron4_340b_chat", "--verbose").stderr
        assert "warning: training.pipelineParallelSize: PP 2 aborts or hangs" in said
        assert said.count("PP 2 aborts or hangs") == 1
        assert "PP 2 aborts or hangs" in " ".join(
            run("plan", "--gpus", "128", "--model", "nemotron4_340b_chat").output.split()
        )

    def test_d08_no_preset_but_340b_has_a_pipeline(self) -> None:
        sizes = {name: catalog.get(name).preset.pipeline_parallel_size for name in catalog.names()}
        assert {name for name, size in sizes.items() if size > 1} == {"nemotron4_340b_chat"}

    def test_d10_a_micro_batch_that_must_shrink_is_said(self) -> None:
        result = run("--gpus", "128", "--batch-policy", "fixed", "-v")
        assert yaml.safe_load(result.stdout)["training"]["microBatchSize"] == 8
        assert "warning: training.microBatchSize: MBS 8 instead of 32 changes the loss curve" in result.stderr

    def test_a_larger_batch_warns_of_the_learning_rate(self) -> None:
        words = "training.learningRate: tuned at a global batch size of 256"
        assert words in run("--gpus", "128", "-v").stderr
        assert words not in run("--gpus", "8", "-v").stderr

    def test_u08_one_line_names_what_to_look_at(self, tmp_path: Path) -> None:
        (line,) = run("--gpus", "2048", "--micro-batch", "16").stderr.splitlines()
        keys = "training.microBatchSize, training.learningRate, training.nodes, --optimize"
        assert line == f"warning: review {keys}; -v explains why"
        output = tmp_path / "values.yaml"
        line, _ = run("--gpus", "16", "--optimize", "--output", str(output)).stderr.splitlines()
        assert line.endswith(f"; -v or neva-values check {output} explains why")
        assert f"{output}: warning: training.learningRate: tuned at" in run("check", str(output)).stdout

    def test_u08_nothing_to_look_at_is_no_line(self) -> None:
        assert run("--gpus", "8", "--optimize", "--tp", "4", "--micro-batch", "32").stderr == ""


class TestSite:
    """U12."""

    def test_without_one_it_is_the_launch_scripts_and_written_out(self) -> None:
        site = yaml.safe_load((ROOT / "values" / "sites" / "scitix.yaml").read_text(encoding="utf-8"))
        result = run("--gpus", "8")
        values = yaml.safe_load(result.stdout)
        assert {key: values[key] for key in site} == site
        assert "#   site: Scitix (values/sites/scitix.yaml); --site FILE names another" in result.stdout.splitlines()

    def test_another_takes_its_place(self, tmp_path: Path) -> None:
        result = run("--gpus", "8", "--site", write_site(tmp_path, "fabric: roce\n"))
        assert set(yaml.safe_load(result.stdout)) == {"model", "training", "checkpoint", "fabric"}
        assert "itix" not in result.stdout.replace("/models/preset/scitix", "")

    @pytest.mark.parametrize(
        ("site", "said"),
        [
            ("fabric: tcp\n", "names no source of storage.datasets, storage.models, storage.results: "),
            ("storage: {models: {existingClaim: m}}\n", "names no source of storage.datasets, storage.results: "),
            ("storage: {datasets: {existingClaim: null}}\n", "names no source of storage.datasets, storage.models, "),
            ("storage: {datasets: {hostPath: /d}, models: {hostPath: /m}, results: {storageClassName: r}}\n", None),
        ],
    )
    def test_its_volumes_are_not_scitix_s_in_silence(self, tmp_path: Path, site: str, said: str | None) -> None:
        file = write_site(tmp_path, site)
        warned = [line for line in run("--gpus", "8", "-v", "--site", file).stderr.splitlines() if "storage: " in line]
        assert len(warned) == (said is not None)
        assert all(f"warning: storage: {file} {said}" in line for line in warned)

    def test_scitix_is_named_where_it_is_meant(self, tmp_path: Path) -> None:
        own, file = str(ROOT / "values" / "sites" / "scitix.yaml"), str(tmp_path / "values.yaml")
        said = run("--gpus", "8", "--output", file).stderr.splitlines()
        assert said[-1] == f"wrote {file} for Scitix; --site FILE names another site"
        said = run("--gpus", "8", "-v", "--site", own, "--output", file).stderr.splitlines()
        assert said[-1] == f"wrote {file}"
        assert not any(line.startswith("warning: storage: ") for line in said)

    def test_the_chart_s_defaults_are_nobody_s(self) -> None:
        """But for the source document's paths."""
        text = (ROOT / "charts" / "neva-pretrain" / "values.yaml").read_text(encoding="utf-8")
        used = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        assert [line.strip() for line in used if "scitix" in line] == [
            "llmPath: /models/preset/scitix/hf-to-nemo/Llama-2-7b-chat"
        ]

    def test_options_win_over_it(self, tmp_path: Path) -> None:
        site = write_site(
            tmp_path, "image: {repository: a/b, tag: '1', pullSecrets: [c]}\ntraining: {learningRate: 2e-3}\n"
        )
        values = written("--gpus", "8", "--learning-rate", "1e-4", "--image", "d/e:2", "--site", site)
        assert values["training"]["learningRate"] == 1e-4
        assert values["image"] == {"repository": "d/e", "tag": "2", "pullSecrets": ["c"]}

    def test_it_is_merged_over_the_plan(self, tmp_path: Path) -> None:
        site = write_site(tmp_path, 'image: {tag: "24.12"}\ntraining: {learningRate: 2e-3}\nenv: {NCCL_DEBUG: INFO}\n')
        values = written("--gpus", "16", "--site", site)
        assert values["image"] == {"tag": "24.12"}
        assert values["training"]["learningRate"] == 0.002
        assert values["training"]["nodes"] == 2
        assert values["env"] == {"NCCL_DEBUG": "INFO"}

    def test_h04_a_key_twice_is_refused_with_its_line(self, tmp_path: Path) -> None:
        site = write_site(tmp_path, 'image:\n  tag: "1"\nfabric: ib\nimage:\n  tag: "2"\n')
        (error,) = refused("--gpus", "8", "--site", site)
        assert error == f"{site}: line 4: the key image is given twice; Helm would use the last one; keep one"

    @pytest.mark.helm
    def test_a_claim_takes_the_place_of_the_default_path_and_helm_agrees(self, tmp_path: Path) -> None:
        site = write_site(
            tmp_path, "storage: {datasets: {existingClaim: my-data}, models: {existingClaim: my-models}}\n"
        )
        output = tmp_path / "values.yaml"
        assert run("--gpus", "8", "--site", site, "--output", str(output)).exit_code == 0
        values = yaml.safe_load(output.read_text())
        assert values["storage"]["datasets"] == {"existingClaim": "my-data"}
        manifests = helm.render(output)
        claims = {claim["metadata"]["name"] for claim in helm.of_kind(manifests, "PersistentVolumeClaim")}
        assert claims == {"neva-results"}
        used = {
            v["persistentVolumeClaim"]["claimName"]
            for v in helm.pod(manifests)["volumes"]
            if "persistentVolumeClaim" in v
        }
        assert used == {"my-data", "my-models", "neva-results"}

    def test_its_own_mistakes_are_refused_with_the_rest(self, tmp_path: Path) -> None:
        site = write_site(tmp_path, "env: {RANK: 3}\nresources: {shmSize: 900Gi}\n")
        keys = [error.partition(":")[0] for error in refused("--gpus", "12", "--site", site)]
        assert keys == ["--gpus", "resources.shmSize", "env.RANK"]

    def test_a_typo_names_the_right_key(self, tmp_path: Path) -> None:
        (error,) = refused("--gpus", "8", "--site", write_site(tmp_path, "scheduling: {tolerationz: []}\n"))
        assert error.startswith("scheduling.tolerationz: ")
        assert error.endswith("use tolerations")

    @pytest.mark.parametrize(
        "text",
        [
            "storage: [1]",
            "storage: 7",
            "storage: {datasets: gpfs}",
            "storage: {datasets: {gpfs: 3}}",
            "storage: {datasets: {existingClaim: 3, gpfs: null}}",
            "training: 3",
            "training: {nodes: many}",
            "checkpoint: null",
            "model: {name: null}",
            "storage: null",
            "- a\n- b",
            "a: [",
            "? {a: 1}\n: 2",
        ],
    )
    def test_the_wrong_shape_is_a_sentence_and_no_traceback(self, tmp_path: Path, text: str) -> None:
        assert refused("--gpus", "8", "--site", write_site(tmp_path, text))

    def test_no_such_file_says_so(self, tmp_path: Path) -> None:
        (error,) = refused("--gpus", "8", "--site", str(tmp_path / "none.yaml"))
        assert "No such file" in error


class TestOutput:
    def test_stdout_is_the_values_and_stderr_the_rest(self) -> None:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("neva-values")), "--gpus", "128"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        site = yaml.safe_load((ROOT / "values" / "sites" / "scitix.yaml").read_text(encoding="utf-8"))
        assert set(yaml.safe_load(done.stdout)) == {"model", "training", "checkpoint", *site}
        assert "warning" not in done.stdout
        assert done.stderr.startswith("warning: ")

    def test_same_input_same_bytes(self, tmp_path: Path) -> None:
        site = write_site(tmp_path, "env: {B: b, A: a}\n")
        arguments = ("--gpus", "64", "--optimize", "--site", site)
        assert run(*arguments).stdout_bytes == run(*arguments).stdout_bytes

    @pytest.mark.parametrize("file", sorted((ROOT / "values").glob("*.yaml")), ids=lambda file: file.name)
    def test_values_files_are_what_their_header_says(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program, *arguments = shlex.split(file.read_text().splitlines()[1].removeprefix("# "))
        assert program == "neva-values"
        assert arguments[-2:] == ["--output", f"values/{file.name}"]
        monkeypatch.chdir(ROOT)
        before = file.read_bytes()
        with mock.patch("neva_pretrain.chart.values.write") as write:
            assert run(*arguments).exit_code == 0
        assert write.call_args.args[1].encode() == before

    def test_a_file_is_written_with_a_note_on_stderr(self, tmp_path: Path) -> None:
        output = tmp_path / "values.yaml"
        result = run("--gpus", "8", "--output", str(output))
        assert result.stdout == ""
        assert result.stderr.splitlines()[-1] == f"wrote {output} for Scitix; --site FILE names another site"
        assert yaml.safe_load(output.read_text())["training"]["nodes"] == 1
        assert output.stat().st_mode & 0o777 == 0o644
        assert list(tmp_path.iterdir()) == [output]

    @pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.chmod"])
    def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, call: str) -> None:
        output = tmp_path / "values.yaml"
        output.write_text("old: true\n")
        with mock.patch(call, side_effect=OSError(28, "No space left on device")):
            errors = _errors(output)
        assert errors == [f"ERROR: {output}: cannot be written: No space left on device"]
        assert output.read_text() == "old: true\n"
        assert list(tmp_path.iterdir()) == [output]

    def test_an_interrupted_write_leaves_the_old_file(self, tmp_path: Path) -> None:
        output = tmp_path / "values.yaml"
        output.write_text("old: true\n")
        with mock.patch("os.fsync", side_effect=KeyboardInterrupt):
            assert run("--gpus", "8", "--output", str(output)).exit_code != 0
        assert output.read_text() == "old: true\n"
        assert list(tmp_path.iterdir()) == [output]

    def test_a_folder_that_takes_no_files_is_said(self, tmp_path: Path) -> None:
        folder = tmp_path / "read-only"
        folder.mkdir(mode=0o555)
        output = folder / "values.yaml"
        with mock.patch("tempfile._mkstemp_inner", side_effect=PermissionError(13, "Permission denied")):  # root writes
            assert _errors(output) == [f"ERROR: {output}: cannot be written: Permission denied"]
        assert _errors(tmp_path / "none" / "values.yaml")[0].endswith("cannot be written: No such file or directory")
        assert list(folder.iterdir()) == []


def _errors(output: Path) -> list[str]:
    result = run("--gpus", "8", "--output", str(output))
    assert result.exit_code == 1
    assert result.stdout == ""
    return [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]


class TestCheck:
    def test_good_files_are_ok(self) -> None:
        files = sorted(map(str, (ROOT / "values").glob("*.yaml")))
        result = run("check", *files)
        assert result.exit_code == 0
        assert [line for line in result.stdout.splitlines() if ": warning: " not in line] == [f"{f}: ok" for f in files]

    def test_the_charts_defaults_are_ok(self) -> None:
        assert run("check", str(chart.path("values.yaml"))).exit_code == 0

    def test_text_names_the_file_and_all_that_is_wrong(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("training: {nodes: 16, globalBatchSize: 300, warmupSteps: 3000}\n")
        result = run("check", str(bad), str(ROOT / "values/13b-bf16.yaml"))
        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert lines[0].startswith(f"{bad}: ERROR: training.globalBatchSize: got 300; must be a multiple of")
        assert lines[1].startswith(f"{bad}: ERROR: training.warmupSteps: got 3000; must be less than maxSteps (2170)")
        assert lines[-1].endswith("13b-bf16.yaml: ok")

    def test_json_is_for_programs(self, tmp_path: Path) -> None:
        bad, broken = tmp_path / "bad.yaml", tmp_path / "broken.yaml"
        bad.write_text("traning: {nodes: 2}\n")
        broken.write_text("a: [\n")
        result = run("check", "-o", "json", str(bad), str(broken), str(ROOT / "values/7b-bf16.yaml"))
        assert result.exit_code == 1
        documents = json.loads(result.stdout)
        assert [document["ok"] for document in documents] == [False, False, True]
        (error,) = documents[0]["errors"]
        assert (error["key"], error["fix"]) == ("traning", "use training")
        assert error["message"].startswith("traning: got ")
        assert "cannot be read as YAML" in documents[1]["errors"][0]["message"]
        assert documents[2]["errors"] == []
        assert any("learningRate" in warning for warning in documents[2]["warnings"])

    def test_the_kind_of_gpu_decides_what_fits(self, tmp_path: Path) -> None:
        file = tmp_path / "values.yaml"
        file.write_text("training: {tensorParallelSize: 1, microBatchSize: 32, recompute: none}\n")
        assert "must fit in the" in run("check", str(file)).stdout
        assert run("check", "--gpu", "h200-141gb", str(file)).exit_code == 0

    def test_no_file_is_wrong_usage(self) -> None:
        assert run("check").exit_code == 2


class TestNoValues:
    """U01: whoever redirects into a file and goes on must not install the chart's defaults."""

    @pytest.mark.helm
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--gpus", "12"],
            ["--gpus", "8", "--tp", "3"],
            ["--gpu", "12"],
            [],
            ["chek"],
            ["--gpus", "8", "--site", "no.yaml"],
        ],
    )
    def test_u01_what_a_refusal_leaves_is_refused_by_helm_and_check_in_its_words(
        self, tmp_path: Path, arguments: list[str]
    ) -> None:
        file = tmp_path / "values.yaml"
        refusal = run(*arguments)
        file.write_text(refusal.stdout)
        checked, (said,) = run("check", str(file)), helm.render_fails(file)
        assert checked.exit_code == 1
        for key in yaml.safe_load(refusal.stdout):
            sentence = key.removeprefix("ERROR: ")
            assert sentence in refusal.stderr
            assert sentence in checked.stdout
            assert sentence.replace("'", "") in said.replace("\\'", "").replace("'", "")
        for command in (["--gpus", "8", "--site"], ["preflight", "-f"]):
            assert "holds a refusal in place of values: " in run(*command, str(file)).stderr

    @pytest.mark.parametrize("text", ["", "\n", "# model: {}\n", "---\n", "null\n", "\ufeff", "---\n# a\n...\n"])
    def test_u01_an_empty_file_is_refused_wherever_values_are_read(self, tmp_path: Path, text: str) -> None:
        file = write_site(tmp_path, text)
        words = "is empty, and Helm would install the chart's defaults; write values, or {} for the defaults"
        assert run("check", file).stdout == f"{file}: ERROR: {words}\n"
        assert refused("--gpus", "8", "--site", file) == [f"{file}: {words}"]
        assert run("preflight", "-f", file).stderr == f"ERROR: {file}: {words}\n"

    def test_u01_an_empty_map_is_a_word(self, tmp_path: Path) -> None:
        file = write_site(tmp_path, "{}\n")
        assert run("check", file).stdout == f"{file}: ok\n"

    @pytest.mark.parametrize(
        ("fault", "code", "words"),
        [
            (KeyboardInterrupt(), 130, "interrupted"),
            (RuntimeError("x"), 1, "internal error: RuntimeError"),
            (MemoryError(), 1, "internal error: MemoryError"),
        ],
    )
    def test_u01_a_crash_half_way_leaves_no_empty_file(self, fault: BaseException, code: int, words: str) -> None:
        with mock.patch("neva_pretrain.generate.emit", side_effect=fault):
            result = run("--gpus", "8")
        assert result.exit_code == code
        assert yaml.safe_load(result.stdout) == {f"ERROR: {words}": "refused"}

    def test_u01_on_a_terminal_it_is_said_once(self) -> None:
        program = str(Path(sys.executable).with_name("neva-values"))
        main_end, side = pty.openpty()
        done = subprocess.run([program, "--gpus", "12"], stdout=side, stderr=subprocess.PIPE, check=False)
        os.close(side)
        with suppress(OSError):
            assert os.read(main_end, 100) == b""
        os.close(main_end)
        assert done.returncode == 1
        assert done.stderr.startswith(b"ERROR: --gpus: got 12")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_u01_a_termination_leaves_no_empty_file(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with mock.patch("neva_pretrain.generate.emit", side_effect=lambda *_: os.kill(os.getpid(), number)):
            result = run("--gpus", "8")
        assert result.exit_code == 130
        assert yaml.safe_load(result.stdout) == {"ERROR: interrupted": "refused"}
        assert signal.getsignal(number) is before

    @pytest.mark.parametrize(
        ("command", "code"),
        [("--gpus 8 >/dev/full", 1), ("--gpus 12 >/dev/full", 1), ("--gpus 12 >&-", 1), ("--gpus 8 | exec 0<&-", 1)],
    )
    def test_u01_a_stdout_that_takes_nothing_ends_in_words(self, command: str, code: int) -> None:
        program = str(Path(sys.executable).with_name("neva-values"))
        script = f'"{program}" {command}; exit "${{PIPESTATUS[0]}}"'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == code or "|" in command  # a pipe may take it all before its reader is gone
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr

    def test_a_refused_file_is_named_once(self, tmp_path: Path) -> None:
        """P5."""
        file = tmp_path / "values.yaml"
        file.write_text("a: [\n")
        assert run("check", str(file)).stdout.count(str(file)) == 1
        (document,) = json.loads(run("check", "-o", "json", str(file)).stdout)
        assert str(file) not in document["errors"][0]["message"]

    def test_standard_input_is_a_file(self) -> None:
        result = CliRunner().invoke(main, ["check", "-"], input=run("--gpus", "8").stdout)
        assert result.stdout == "-: ok\n"


class TestHelp:
    def test_it_has_examples_and_all_commands(self) -> None:
        result = run("--help")
        assert result.exit_code == 0
        assert "neva-values --gpus 128 > values.yaml" in result.stdout
        assert 'eval "$(_NEVA_VALUES_COMPLETE=bash_source neva-values)"' in result.stdout
        for command in ("check", "plan", "preflight"):
            assert re.search(rf"^  {command} +\S", result.stdout, re.MULTILINE), command
            assert run(command, "--help").exit_code == 0

    def test_its_examples_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "values").mkdir()
        (tmp_path / "site.yaml").write_text("fabric: roce\n")
        monkeypatch.chdir(tmp_path)
        lines = [line.strip() for line in run("--help").stdout.splitlines()]
        examples = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("neva-values ")]
        assert len(examples) >= 5
        for example in examples:
            if ">" in example:
                example = example[: example.index(">")]
            if example[0] == "check":
                (tmp_path / "values" / "a.yaml").write_bytes(run("--gpus", "8").stdout_bytes)
                example = ["check", "values/a.yaml"]
            assert run(*example).exit_code == 0, example

    def test_completion_knows_options_and_commands(self) -> None:
        program = str(Path(sys.executable).with_name("neva-values"))
        words = {"_NEVA_VALUES_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
        for typed, offered in (("--op", "--optimize"), ("pre", "preflight")):
            done = subprocess.run(
                [program],
                env={**words, "COMP_WORDS": f"neva-values {typed}", "PATH": "/usr/bin"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert offered in done.stdout, done.stderr
