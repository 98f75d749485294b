"""Options of ``neva-values`` and ``neva-monitor``: one table, completion, the environment."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml
from click.testing import CliRunner

from neva_pod.preflight.checks import CHECKS, NODE
from neva_pretrain.cli.main import main
from neva_pretrain.cli.monitor import command as monitor
from neva_pretrain.cli.options import GPU_KINDS, KERNELS, OLD
from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.plan.setup import Kernels


def commands() -> dict[str, click.Command]:
    """Every command by what a user types."""
    assert isinstance(main, click.Group)
    context = click.Context(main)
    below = {f"neva-values {name}": main.get_command(context, name) for name in main.list_commands(context)}
    return {"neva-values": main, "neva-monitor": monitor, **{k: v for k, v in below.items() if v is not None}}


COMMANDS = commands()


def options() -> Iterator[tuple[str, click.Option]]:
    """Every option of every command."""
    for name, command in COMMANDS.items():
        for parameter in command.params:  # without --help, which click makes in the first context and keeps
            if isinstance(parameter, click.Option):
                yield name, parameter


def said(option: click.Option) -> tuple[object, ...]:
    """What must be the same wherever the option is taken: all but its default."""
    kind = {key: value for key, value in option.type.to_info_dict().items() if key != "name"}
    return (
        option.opts,
        option.help,
        option.type.name,
        str(kind),
        option.make_metavar(click.Context(main)),
        option.envvar,
    )


class TestTable:
    """U07."""

    def test_a_name_has_one_meaning_everywhere(self) -> None:
        found: dict[str, dict[str, tuple[object, ...]]] = {}
        for command, option in options():
            for name in option.opts:
                found.setdefault(name, {})[command] = said(option)
        assert {name: by for name, by in found.items() if len(set(map(str, by.values()))) > 1} == {}
        shared = {name for name, by in found.items() if len(by) > 1}
        assert {
            "--gpus",
            "--gpu",
            "--model",
            "--tp",
            "--pp",
            "--mbs",
            "--gbs",
            "--nodes",
            "-o",
            "-f",
            "--plot",
        } <= shared

    def test_o_is_the_form_of_what_is_printed(self) -> None:
        taken = {command for command, option in options() if "-o" in option.opts}
        assert taken == COMMANDS.keys() - {"neva-values", "neva-values chart"}  # values and a path have one form
        for _, option in options():
            if "-o" in option.opts:
                assert option.opts == ["-o", "--format"]
                assert isinstance(option.type, click.Choice)
                assert list(option.type.choices) == ["text", "json"]

    def test_no_other_option_takes_those_of_the_table(self) -> None:
        """An option that means a size or a kind is spelled in one way."""
        names = {name for _, option in options() for name in option.opts}
        assert names.isdisjoint({"--gpu-type", "--global-batch-size", "--micro-batch-size", "--tensor-parallel-size"})

    def test_every_option_says_what_it_is(self) -> None:
        assert [(command, option.name) for command, option in options() if not (option.help or "").endswith(".")] == []

    def test_kinds_of_gpus_and_kernels_are_those_of_the_cost_model(self) -> None:
        assert list(GPU_KINDS) == list(GPUS)
        assert get_args(Kernels) == KERNELS

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_help_has_examples_with_options_that_exist(self, name: str) -> None:
        text = CliRunner().invoke(COMMANDS[name], ["--help"]).stdout
        examples = text.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
        program = name.partition(" ")[0]
        calls = [part for line in examples for part in line.partition("  #")[0].split("|") if program in part]
        assert any(name in call for call in calls)
        assert max(map(len, text.splitlines())) <= 80
        known = {option for command, o in options() if command.startswith(program) for option in o.opts}
        for call in calls:
            assert {
                word for word in shlex.split(call[call.index(program) :]) if word[0] == "-" and word != "-"
            } <= known

    @pytest.mark.parametrize("name", ["neva-values", "neva-monitor"])
    def test_help_says_that_nothing_is_sent_and_how_completion_is_switched_on(self, name: str) -> None:
        text = CliRunner().invoke(COMMANDS[name], ["--help"]).stdout
        assert "nothing is sent anywhere" in " ".join(text.split())
        assert "Exit codes:" in text
        variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
        for shell in ("bash", "zsh", "fish"):
            assert f"  {shell}" in text
            assert f"{variable}={shell}_source {name}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpus", "8", "-o", "values.yaml"], "No such option '-o'. Did you mean '--output'?"),
        (["--gpus", "8", "--write=values.yaml"], "No such option '--write'. Did you mean '--output'?"),
        (["chart", "--copy", "here"], "No such option '--copy'. Did you mean '--output'?"),
        (["plan", "--gpus", "8", "--output", "json"], "No such option '--output'. Did you mean '--format'?"),
        (["--gpus", "8", "--learning-rates", "1"], "--learning-rate"),
        (["plan", "--gpus", "8", "--nodes", "1"], "--gpus and --nodes exclude each other"),
        (["plan"], "Missing option '--gpus'. Try: neva-values plan --gpus 128"),
        (["--nodes", "1", "--gpus", "8"], "--gpus and --nodes exclude each other"),
        (["--gpus", "8", "--max-steps", "5", "--samples", "9"], "--max-steps and --samples exclude each other"),
        (["--gpus", "8", "--gbs", "256", "--batch-policy", "fixed"], "--batch-policy and --global-batch exclude each"),
        (["--gpus", "8", "--save-every", "5", "--no-checkpoint"], "--save-every and --no-checkpoint exclude each"),
        (["--gpus", "8", "--learning-rate", "nan"], "'nan' is not a number"),
        (["--output", "x.yaml", "plan"], "--output must follow plan"),
        (["chek", "values.yaml"], "No such command 'chek'. Did you mean 'check'?"),
        (["values.yaml"], "No such command 'values.yaml'.\n"),
    ],
)
def test_wrong_usage_names_the_right_option(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("old", OLD)
def test_options_of_0_1_0_are_still_taken(old: str) -> None:
    value = {"gpu-type": "h200-141gb", "global-batch-size": "512"}[old]
    given, now, without = (
        CliRunner().invoke(main, ["plan", "--gpus", "8", *option, "-o", "json"]).stdout
        for option in ([f"--{old}", value], [f"--{OLD[old]}", value], [])
    )
    assert given == now != without
    wrong = CliRunner().invoke(monitor, ["x.log", f"--{old}", "x"])
    assert f"--{OLD[old]}'" in wrong.stderr
    assert all(f"--{old}" not in CliRunner().invoke(each, ["--help"]).stdout for each in COMMANDS.values())


class TestGenerate:
    def values(self, *arguments: str) -> dict[str, dict[str, object]]:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.stderr
        values: dict[str, dict[str, object]] = yaml.safe_load(result.stdout)
        return values

    def test_nodes_are_gpus_by_the_node(self) -> None:
        assert self.values("--nodes", "16") == self.values("--gpus", "128")
        assert self.values("--nodes", "2", "--gpus-per-node", "4") == self.values("--gpus", "8", "--gpus-per-node", "4")

    def test_short_names_are_the_long_ones(self) -> None:
        short = self.values("--gpus", "16", "--tp", "2", "--pp", "2", "--mbs", "8", "--gbs", "512")
        long = ("--tensor-parallel", "2", "--pipeline-parallel", "2", "--micro-batch", "8", "--global-batch", "512")
        assert short == self.values("--gpus", "16", *long)
        assert (short["training"]["tensorParallelSize"], short["training"]["globalBatchSize"]) == (2, 512)

    def test_an_own_dataset_has_its_own_steps(self) -> None:
        result = CliRunner().invoke(main, ["--gpus", "8", "--samples", "100000", "--epochs", "2"])
        assert yaml.safe_load(result.stdout)["training"]["maxSteps"] == 782
        assert "#   200,192 samples in 782 steps, 2.00 epochs" in result.stdout

    def test_learning_rate_run_id_and_no_checkpoints(self) -> None:
        values = self.values("--gpus", "8", "--learning-rate", "2e-3", "--run-id", "a7", "--no-checkpoint")
        assert values["training"]["learningRate"] == 0.002
        assert values["run"] == {"id": "a7"}
        assert values["checkpoint"]["enabled"] is False

    def test_a_run_id_that_names_no_folder_is_refused(self) -> None:
        result = CliRunner().invoke(main, ["--gpus", "8", "--run-id", "../a"])
        assert result.exit_code == 1
        assert "run.id: got ../a; must " in result.stderr


class TestSite:
    """NEVA_SITE names the site file."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Path:
        file = tmp_path / "site.yaml"
        file.write_text("fabric: roce\n")
        return file

    def run(self, site: str, *arguments: str) -> tuple[str, dict[str, object]]:
        program = str(Path(sys.executable).with_name("neva-values"))
        env = {**os.environ, "NEVA_SITE": site}
        done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[1], yaml.safe_load(done.stdout)

    def test_it_is_merged_and_the_header_says_so(self, site: Path) -> None:
        header, values = self.run(str(site), "--gpus", "8")
        assert values["fabric"] == "roce"
        assert header == f"# neva-values --gpus 8 --site {site}"

    def test_an_option_wins_and_an_empty_one_is_none(self, site: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.yaml"
        other.write_text("fabric: ib\n")
        header, values = self.run(str(site), "--gpus", "8", "--site", str(other))
        assert (header, values["fabric"]) == (f"# neva-values --gpus 8 --site {other}", "ib")
        assert self.run("", "--gpus", "8")[1]["fabric"] == "ib", "Scitix's"

    def test_a_file_that_is_not_there_is_refused_by_its_variable(self, tmp_path: Path) -> None:
        env = {"NEVA_SITE": str(tmp_path / "none.yaml")}
        result = CliRunner().invoke(main, ["--gpus", "8"], env=env)
        assert result.exit_code == 1
        assert f"ERROR: NEVA_SITE: {tmp_path / 'none.yaml'}: cannot be read: No such file" in result.stderr
        assert CliRunner().invoke(main, ["models"], env=env).exit_code == 0

    def test_help_shows_it(self) -> None:
        words = " ".join(CliRunner().invoke(main, ["--help"]).stdout.split())
        assert "[env var: NEVA_SITE; default: (Scitix)]" in words


class TestCompletion:
    """By the protocol that the scripts of click use in each shell."""

    def offered(self, shell: str, line: str) -> list[str]:
        words = line.split(" ")
        program = words[0]
        env = {f"_{program.replace('-', '_').upper()}_COMPLETE": f"{shell}_complete", "PATH": "/usr/bin"}
        if shell == "fish":
            env |= {"COMP_WORDS": line, "COMP_CWORD": words[-1]}
        else:
            env |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program))],
            env=env | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        if shell == "zsh":
            return [value for kind, value in zip(lines[::3], lines[1::3], strict=True) if kind == "plain"]
        return [word.partition(",")[2].partition("\t")[0] for word in lines if word.startswith("plain,")]

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_models(self, shell: str) -> None:
        assert self.offered(shell, "neva-values --gpus 8 --model llama2-") == [
            name for name in catalog.names() if name.startswith("llama2_")
        ]

    @pytest.mark.parametrize(
        "line", ["neva-values plan --model ", "neva-values preflight --model ", "neva-monitor run.log --model "]
    )
    def test_models_everywhere(self, line: str) -> None:
        assert self.offered("bash", line) == catalog.names()

    @pytest.mark.parametrize("line", ["neva-values --gpu ", "neva-values check --gpu ", "neva-monitor --gpu "])
    def test_gpus(self, line: str) -> None:
        assert self.offered("bash", line) == list(GPUS)

    def test_checks_one_after_the_other(self) -> None:
        local = [name for name in CHECKS if name not in NODE]
        assert self.offered("bash", "neva-values preflight --only ") == local
        assert self.offered("bash", "neva-values preflight --skip dataset,vi") == ["dataset,vision"]
        assert "dataset,dataset" not in self.offered("bash", "neva-values preflight --only dataset,")

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_keys_of_a_sweep(self, shell: str) -> None:
        assert self.offered(shell, "neva-values --gpus 8 --sweep min") == ["min-lr="]
        line = "neva-values --gpus 8 --sweep training.m"
        keys = ["microBatchSize", "maxSteps", "minLearningRate"]
        assert self.offered(shell, line) == [f"training.{key}=" for key in keys]

    def test_options_and_commands(self) -> None:
        assert "--optimize" in self.offered("bash", "neva-values --op")
        assert self.offered("bash", "neva-values m") == ["models"]
