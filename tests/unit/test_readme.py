"""What the pages say is what there is: commands, options, outputs, files, values and versions."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
import yaml
from click.testing import CliRunner

from neva_pod.inputs.samples import Rules, look_at
from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.check import rules, schema
from neva_pretrain.cli.main import main
from neva_pretrain.facts import Facts
from neva_pretrain.model import catalog
from tests.chart import helm
from tests.unit.pages import DOCS, PAGES, README, ROOT, block, blocks, programs, text

COMMANDS = text("reference/commands.md")
MADE = ("field-reports.md", "rules.md")
ALL = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name not in MADE)
FOREIGN = re.compile(r"- |apiVersion:")  # manifests and parts of them
VALUES = {
    page: [yaml.safe_load(body) for language, body in blocks(page) if language == "yaml" and not FOREIGN.match(body)]
    for page in (page.relative_to(DOCS).as_posix() for page in PAGES[1:])
}


def run(*arguments: str) -> str:
    with mock.patch.object(sys, "argv", ["neva-values", *arguments]):
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def options(command: click.Command) -> list[str]:
    """All spellings of a command's options."""
    context = click.Context(command)
    parameters = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    return [name for parameter in parameters for name in parameter.opts]


@pytest.mark.parametrize(("name", "command", "words"), programs(), ids=[name for name, _, _ in programs()])
def test_every_command_and_option_is_documented(name: str, command: click.Command, words: str) -> None:
    assert f"`{name}" in words
    missing = [o for o in options(command) if not re.search(rf"`{re.escape(o)}[`\s]", words) and o != "-h"]
    assert missing == []


def test_commands_within_a_sentence_know_their_options() -> None:
    """Those in blocks run in test_documents.py."""
    known = {name: set(options(command)) for name, command, _ in programs()}
    shown = [" ".join(line.split()) for line in re.findall(r"(?<!`)`(neva-(?:values|monitor) [^`]+)`(?!`)", ALL)]
    assert len(shown) >= 30
    for line in shown:
        words = shlex.split(line, comments=True)
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert {word for word in words[1:] if re.match("-.", word)} <= known[name], line


@pytest.mark.parametrize("page", [page for page, shown in VALUES.items() if shown])
def test_values_that_are_shown_are_accepted(page: str) -> None:
    """Each by the schema, all of a page together by the rules."""
    together: dict[str, Any] = {}
    for shown in VALUES[page]:
        assert schema.violations(values.complete(shown)) == []
        together = values.merge(together, shown)
    assert rules.violations(Facts.of(together)) == []


def test_the_sample_that_is_shown_is_one_that_nemo_takes() -> None:
    (sample,) = json.loads(block("how-to/own-dataset.md", "["))
    assert look_at(sample, Rules()) == ("", 1, True)


def test_u14_each_variable_of_the_launch_scripts_is_told() -> None:
    names = "BASE_RESULTS_DIR DATASET_DIR DEEP_LEARNING_EXAMPLES_DIR ENABLE_CKPT GBS GPU_NUMS MAX_STEPS MBS NFS PP"
    more = "PRETRAINED_LLM_PATH PRETRAINED_VISION_ENCODER_PATH RUN_ID TP UB_TP_COMM_OVERLAP VPP WORKER_NUMS WORLD_SIZE"
    rows = "".join(line.split("|")[1] for line in text("how-to/migrate.md").splitlines() if line.startswith("| `"))
    assert [name for name in f"{names} {more}".split() if f"`{name}`" not in rows] == []


def test_u14_the_one_click_test_is_theirs() -> None:
    facts = Facts.of(values.read(ROOT / "values" / "13b-one-click.yaml"))
    training = facts.values["training"]
    assert (facts.values["model"]["name"], training["nodes"], training["gpusPerNode"]) == ("llama2_13b_chat", 1, 8)
    assert (training["globalBatchSize"], training["maxSteps"]) == (128, 2170)
    assert facts.values["checkpoint"]["enabled"] is False


def test_set_is_given_keys_that_the_chart_has() -> None:
    """And no comma, at which Helm cuts (H10)."""
    found = re.findall(r"--set(?:-string)? ([^\s`=]+)=([^\s`]*)", ALL)
    assert len(found) >= 8
    for path, value in found:
        node = chart.schema()
        for key in path.split("."):
            assert key in node["properties"], path
            node = node["properties"][key]
        assert "," not in value


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    titles = re.findall(r"^(##+) (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert titles[0] == ("##", "Unreleased")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {title for level, title in titles if level == "###"} <= kinds
    versions = [title for level, title in titles[1:] if level == "##"]
    assert all(re.fullmatch(r"\[?\d+\.\d+\.\d+\]? - \d{4}-\d\d-\d\d", version) for version in versions)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 600


def test_values_of_128_gpus_are_shown_as_they_are_written() -> None:
    assert block("reference/commands.md", "# neva-values --gpus 128\n") == run("--gpus", "128").partition("\n")[2]


def test_the_plan_is_shown_as_it_is_printed() -> None:
    printed = run("plan", "--gpus", "128")
    shown = block("reference/commands.md", "llama2_7b_chat on 128").splitlines()
    assert all(len(line) <= 80 for line in shown)
    lines = iter(printed.splitlines())
    for line in shown:  # shortened: all lines are there, in order
        assert any(line == other for other in lines), line


@pytest.mark.helm
def test_the_site_file_works(tmp_path: Path) -> None:
    site, output = tmp_path / "site.yaml", tmp_path / "values.yaml"
    site.write_text(block("how-to/site-file.md", "# site.yaml\n"))
    run("--gpus", "128", "--site", str(site), "--output", str(output))
    manifests = helm.render(output)
    assert helm.container(manifests)["image"] == "nvcr.io/nvidia/nemo:24.07"
    assert helm.pod(manifests)["imagePullSecrets"] == [{"name": "ngc"}]
    assert "NVIDIA-H100-80GB-HBM3" in str(helm.pod(manifests)["affinity"])
    run("check", str(output))


def test_every_value_that_is_named_exists() -> None:
    schema = chart.schema()
    sections = "|".join(schema["properties"])
    for path in re.findall(rf"`((?:{sections})(?:\.\w+)+)`", ALL):
        if path.endswith(".json"):
            continue
        node = schema
        for key in path.split("."):
            assert key in node.get("properties", {}), path
            node = node["properties"][key]


def test_every_model_is_named() -> None:
    assert all(f"`{name}`" in COMMANDS for name in catalog.names())


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|    )make ([a-z0-9-]+)", ALL)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.helm
def test_the_words_of_a_refusal_are_those_of_both() -> None:
    """The promise of the first lines: generator and helm refuse in the same words."""
    partial = {"training": {"globalBatchSize": 300}}
    (theirs,) = helm.render_fails(partial)
    assert [str(violation) for violation in rules.violations(Facts.of(partial))] == [theirs]
    key, got, must, fix = re.split(r": got |; ", theirs)
    assert (key, got) == ("training.globalBatchSize", "300")
    assert must.startswith("must ")
    assert fix.startswith("use ")


def test_completion_is_as_documented() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("neva-monitor"))],
        env={"_NEVA_MONITOR_COMPLETE": "fish_source", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "neva-monitor" in done.stdout


def test_every_example_is_listed() -> None:
    files = sorted((ROOT / "values").glob("*.yaml"))
    assert [file.name for file in files if f"`{file.name}`" not in text("reference/examples.md")] == []
