"""``neva-values --sweep``: a file for each combination, all or none, and no two runs that meet."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from click.testing import CliRunner, Result

from neva_pretrain.cli.main import main
from neva_pretrain.cli.options import keys
from neva_pretrain.sweep import MOST, SHORT, Axis
from tests.unit.pages import block, text


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    with mock.patch.object(sys, "argv", ["neva-values", *arguments]):
        return CliRunner().invoke(main, arguments)


def sweep(*axes: str, size: tuple[str, ...] = ("--gpus", "16"), more: tuple[str, ...] = ()) -> Result:
    said = [word for axis in axes for word in ("--sweep", axis)]
    return run(*size, *said, *more, "--output", "sweep")


def written(*axes: str, **options: Any) -> dict[str, dict[str, Any]]:
    """The values of a sweep's runs by id."""
    result = sweep(*axes, **options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(Path("sweep").iterdir())}


def refused(*axes: str, **options: Any) -> list[str]:
    """The sentences of a refusal, which leaves nothing."""
    before = sorted(Path().rglob("*"))
    result = sweep(*axes, **options)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
    return [line.removeprefix("ERROR: ") for line in result.stderr.splitlines()]


class TestFiles:
    def test_one_for_each_value_with_an_id_of_its_own(self) -> None:
        found = written("training.learningRate=1e-3,2e-3")
        assert list(found) == ["neva-lr-1e-3", "neva-lr-2e-3"]
        assert {name: values["run"]["id"] for name, values in found.items()} == {name: name for name in found}
        assert [values["training"]["learningRate"] for values in found.values()] == [0.001, 0.002]
        one, two = ({**v, "run": {}, "training": {**v["training"], "learningRate": 0}} for v in found.values())
        assert one == two == {**yaml.safe_load(run("--gpus", "16").stdout), "run": {}, "training": one["training"]}

    def test_several_make_the_product(self) -> None:
        found = written("gbs=512,1024", "--mbs=8,16", "training.seed=1,2", more=("--run-id", "a"))
        assert len(found) == 8
        assert found["a-gbs-1024-mbs-8-seed-2"]["training"]["seed"] == 2

    def test_what_the_planner_decides_goes_through_it(self) -> None:
        """Steps, warm-up and micro batch follow from the batch; GPUs from nodes; sequence parallelism from TP."""
        for axis, option in {
            "training.globalBatchSize=64,96": "--gbs",
            "training.tensorParallelSize=1,8": "--tp",
            "training.maxSteps=100,200": "--max-steps",
        }.items():
            for name, values in written(axis, size=("--gpus", "64"), more=("--mbs", "1")).items():
                said = run("--gpus", "64", "--mbs", "1", option, name.rpartition("-")[2], "--run-id", name)
                assert values == yaml.safe_load(said.stdout), name
                Path("sweep", f"{name}.yaml").unlink()

    def test_sizes_of_the_cluster(self) -> None:
        found = written("training.nodes=1,4", size=())
        assert found["neva-nodes-4"] == yaml.safe_load(run("--nodes", "4", "--run-id", "neva-nodes-4").stdout)

    def test_models_have_their_own_folders(self) -> None:
        found = written("model.name=llama2_7b_chat,llama2_13b_chat")
        assert list(found) == ["neva-llama2-13b-chat", "neva-llama2-7b-chat"]
        assert found["neva-llama2-13b-chat"]["model"]["llmPath"].endswith("Llama-2-13b-chat")

    def test_the_planner_optimizes_each_for_its_own_kernels(self) -> None:
        found = written("training.kernels=reference,fused", more=("--optimize",))
        for name, values in found.items():
            own = run("--gpus", "16", "--optimize", "--kernels", name.rpartition("-")[2], "--run-id", name)
            assert values == yaml.safe_load(own.stdout)

    def test_text_stays_text_and_keys_may_be_anyones(self) -> None:
        found = written("image.tag=24.07,24.09", r"env.NCCL_DEBUG=INFO", r"scheduling.nodeSelector.a\.b/c=x,z")
        assert len(found) == 4
        chosen = found["neva-tag-24-09-nccl-debug-info-a-b-c-z"]
        assert (chosen["image"]["tag"], chosen["env"]["NCCL_DEBUG"]) == ("24.09", "INFO")
        assert chosen["scheduling"]["nodeSelector"] == {"a.b/c": "z"}

    def test_the_header_of_each_writes_it_again(self, folder: Path) -> None:
        written("training.learningRate=1e-3,2e-3", r"env.NOTE=a \, b,c", more=("--batch-policy", "fixed"))
        files = {path: path.read_bytes() for path in (folder / "sweep").iterdir()}
        for path, content in files.items():
            _, *command = shlex.split(content.decode().splitlines()[1].removeprefix("# "))
            path.unlink()
            assert run(*command).exit_code == 0
            assert path.read_bytes() == content
        assert sorted((folder / "sweep").iterdir()) == sorted(files)

    def test_it_may_be_said_again(self) -> None:
        once = written("training.seed=1,2")
        assert written("training.seed=1,2") == once
        assert len(written("training.seed=1,2,3")) == 3


class TestWords:
    def test_a_table_and_a_loop_to_paste(self) -> None:
        lines = sweep("training.learningRate=1e-3,2e-3", "gbs=512,1024").stderr.splitlines()
        assert lines[0] == "warning: review training.learningRate, --optimize; -v explains why"
        assert lines[1:7] == [
            "wrote 4 runs to sweep",
            "RUN                    LR    GBS",
            "neva-lr-1e-3-gbs-512   1e-3  512",
            "neva-lr-1e-3-gbs-1024  1e-3  1024",
            "neva-lr-2e-3-gbs-512   2e-3  512",
            "neva-lr-2e-3-gbs-1024  2e-3  1024",
        ]
        assert lines[7:] == [
            "",
            "for run in neva-lr-1e-3-gbs-512 neva-lr-1e-3-gbs-1024 neva-lr-2e-3-gbs-512 \\",
            "    neva-lr-2e-3-gbs-1024; do",
            "  helm install $run $(neva-values chart) -f sweep/$run.yaml",
            "done",
        ]

    def test_the_loop_runs(self, folder: Path) -> None:
        with mock.patch.object(sys, "argv", ["neva-values"]):
            said = (
                CliRunner().invoke(main, ["--gpus", "8", "--sweep", "training.seed=1,2", "--output", "my runs"]).stderr
            )
        tools = folder / "bin"
        tools.mkdir()
        (tools / "helm").write_text('#!/bin/sh\ntest -f "$5" && echo "$2 $3"\n')
        (tools / "neva-values").write_text("#!/bin/sh\necho CHART\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        loop = said.partition("\n\n")[2]
        done = subprocess.run(
            ["bash", "-ec", f"PATH={tools}:$PATH\n{loop}"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "neva-seed-1 CHART\nneva-seed-2 CHART\n"

    def test_the_page_shows_it(self) -> None:
        said = sweep("training.learningRate=1e-3,2e-3", size=("--gpus", "64"))
        assert block("how-to/sweep.md", "wrote") in said.stderr

    def test_what_check_says_too_names_it_with_the_files(self) -> None:
        line = sweep("training.learningRate=1e-3,2e-3", more=("--optimize",)).stderr.splitlines()[0]
        assert line.startswith("warning: review training.")
        assert line.endswith("; -v or neva-values check sweep/*.yaml explains why")

    def test_keys_are_completed(self) -> None:
        offered = keys(mock.Mock(), mock.Mock(), "training.l")
        assert offered == ["training.learningRate=", "training.logEveryNSteps="]
        assert {f"{key}=" for key in SHORT.values()} <= set(keys(mock.Mock(), mock.Mock(), ""))

    def test_one_is_not_true(self) -> None:
        found = written("config.trainer.enable_model_summary=1,true")
        assert [values["config"]["trainer"]["enable_model_summary"] for values in found.values()] == [1, True]


class TestRefusals:
    def test_what_is_in_the_way_is_never_read_if_it_is_no_file(self, folder: Path) -> None:
        """A pipe would be waited for; a link to nothing would be followed."""
        (folder / "sweep").mkdir()
        os.mkfifo(folder / "sweep/neva-lr-1e-3.yaml")
        (folder / "sweep/neva-lr-2e-3.yaml").symlink_to("elsewhere")
        assert refused("lr=1e-3,2e-3") == [
            "--output: got sweep; must have no other file of a run's name, has neva-lr-1e-3.yaml and 1 more; "
            "use a new folder, or another --run-id"
        ]

    def test_a_folder_of_too_long_a_name(self) -> None:
        result = run("--gpus", "16", "--sweep", "lr=1e-3,2e-3", "--output", "a" * 300)
        assert (result.exit_code, type(result.exception)) == (1, SystemExit)
        assert result.stderr == f"ERROR: --output {'a' * 300}: cannot be written: File name too long\n"

    def test_a_key_of_very_many_parts(self) -> None:
        assert refused(f"config{'.a' * 5000}=1,2") == [
            "--sweep: got a key of 5001 parts; must have at most 100; use a key of the chart"
        ]

    def test_keys_and_types_in_the_words_of_check(self) -> None:
        assert refused("training.learninRate=1", "training.microBatchSize=a,8,0", "fabric=ib,wifi", "lr=.nan,1") == [
            "training.learninRate: got 1; must be a known key; use learningRate",
            "training.microBatchSize: got a; must be of type integer; use a whole number, without quotes",
            "training.microBatchSize: got 0; must be at least 1; use 1 or more",
            "fabric: got wifi; must be one of ib, roce, efa, tcp, none; use ib",
            "training.learningRate: got .nan; must be of type number; use a number, without quotes",
        ]

    def test_all_of_all_runs_at_once(self, folder: Path) -> None:
        (folder / "site.yaml").write_text("fabric: none\n")
        found = refused("gbs=300,512", "tp=1,4", more=("--mbs", "64", "--site", "site.yaml"))
        assert found[0] == "fabric: got none; must name the network of 2 nodes; use ib, roce, efa or tcp"
        assert [line.partition(": got")[0] for line in found[1:]] == [
            "neva-gbs-300-tp-1: training.globalBatchSize",
            "neva-gbs-300-tp-4: training.globalBatchSize",
            "neva-gbs-512-tp-1: training.globalBatchSize",
        ]

    def test_what_does_not_fit_in_a_gpu(self) -> None:
        (line,) = refused("mbs=16,128", more=("--tp", "1", "--gbs", "4096"))
        assert line.startswith(
            "neva-mbs-128: training.microBatchSize: got 128 at tensorParallelSize 1; must fit in the "
        )

    def test_a_key_without_its_section_is_said_once(self) -> None:
        assert refused("learningRate=1e-3,2e-3", "foo=1,2") == [
            "--sweep: got learningRate; must be a known key; use training.learningRate",
            "--sweep: got foo; must be a known key; use one of values.yaml",
        ]

    def test_unknown_models_with_all_else(self) -> None:
        found = refused("model.name=llama9,llama2_7b_chat", "gbs=301,512")
        assert [line.partition(": got")[0] for line in found] == [
            "neva-llama9-gbs-301: model.name",
            "neva-llama9-gbs-512: model.name",
            "neva-llama2-7b-chat-gbs-301: training.globalBatchSize",
        ]

    def test_values_that_are_the_same(self) -> None:
        assert refused("training.learningRate=1e-3,0.001") == [
            "training.learningRate: got 1e-3,0.001; must not have duplicates; leave out 0.001"
        ]

    def test_ids_that_meet(self) -> None:
        assert refused("wandb.project=a_b,a-b") == [
            "run.id: got neva-project-a-b of wandb.project=a_b and of wandb.project=a-b; must be another id for each "
            "run, or one would resume the other; use them in two sweeps with different --run-id"
        ]

    @pytest.mark.parametrize(("kind", "limit"), [("PyTorchJob", 40), ("TrainJob", 35)])
    def test_ids_that_are_no_release(self, folder: Path, kind: str, limit: int) -> None:
        (folder / "site.yaml").write_text(f"job: {{kind: {kind}}}\n")
        site = ("--site", "site.yaml", "--run-id")
        written("training.seed=1", more=(*site, "a" * (limit - 7)))
        (line,) = refused("training.seed=1", more=(*site, "a" * (limit - 6)))
        assert f"-seed-1; must be the name of a release: at most {limit} lower case letters, digits and -, " in line
        (line,) = refused("training.seed=1", more=(*site, "7b"))
        assert line.startswith("run.id: got 7b-seed-1; must be the name of a release: ")

    def test_names_that_a_site_gives_to_all(self, folder: Path) -> None:
        (folder / "site.yaml").write_text("fullnameOverride: team\n")
        assert refused("training.seed=1,2", more=("--site", "site.yaml")) == [
            "fullnameOverride: got team; must be another for each run, and is that of neva-seed-1 and neva-seed-2; "
            "remove it"
        ]

    def test_an_account_that_each_release_would_make(self, folder: Path) -> None:
        """Helm installs the first alone: the account belongs to it."""
        (folder / "site.yaml").write_text("serviceAccount: {create: true, name: trainer}\n")
        assert refused("training.seed=1,2", more=("--site", "site.yaml")) == [
            "serviceAccount.name: got trainer; must be another for each run, and is that of neva-seed-1 and "
            "neva-seed-2; remove it"
        ]
        (folder / "site.yaml").write_text("serviceAccount: {create: false, name: trainer}\n")
        assert list(written("training.seed=1,2", more=("--site", "site.yaml"))) == ["neva-seed-1", "neva-seed-2"]

    def test_the_id_itself(self) -> None:
        (line,) = refused("run.id=a,b")
        assert line.startswith("run.id: got a,b; must not be swept, since each run has its own; use --run-id")

    def test_files_of_another_content(self, folder: Path) -> None:
        (folder / "sweep").mkdir()
        (folder / "sweep" / "neva-seed-2.yaml").write_text("mine: true\n")
        assert refused("training.seed=1,2") == [
            "--output: got sweep; must have no other file of a run's name, has neva-seed-2.yaml; "
            "use a new folder, or another --run-id"
        ]

    def test_too_many(self) -> None:
        seeds = ",".join(map(str, range(MOST + 1)))
        (line,) = refused(f"training.seed={seeds}")
        assert line == f"--sweep: got {MOST + 1} runs; must make at most {MOST}; use fewer values"

    @pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    def test_a_write_that_fails_half_way_leaves_nothing(self, folder: Path, fault: BaseException) -> None:
        with mock.patch("os.fsync", side_effect=[None, fault]):
            result = run("--gpus", "8", "--sweep", "training.seed=1,2,3", "--output", "a/b")
        assert result.exit_code in (1, 130)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--sweep", "training.seed=1"], "--sweep needs --output DIR"),
            (["--sweep", "training.seed", "--output", "a"], "got training.seed; must be KEY=VALUE,VALUE"),
            (["--sweep", "training.seed=1,", "--output", "a"], "got training.seed=1,; must be KEY=VALUE,VALUE"),
            (["--sweep", "=1", "--output", "a"], "got =1; must be KEY=VALUE,VALUE"),
            (
                ["--sweep", "lr=1", "--sweep", "training.learningRate=2", "--output", "a"],
                "names training.learningRate twice",
            ),
            (
                ["--mbs", "8", "--sweep", "mbs=8", "--output", "a"],
                "--micro-batch and --sweep training.microBatchSize excl",
            ),
            (["--sweep", "training.nodes=1", "--output", "a"], "--gpus and --sweep training.nodes exclude each other"),
            (
                ["--samples", "9", "--sweep", "max=1", "--output", "a"],
                "--samples and --sweep training.maxSteps exclude",
            ),
            (["--sweep", "training.seed=1", "--output", "file"], "'file' is no folder, and --sweep writes into one"),
            (["--output", "."], "'.' is a directory"),
        ],
    )
    def test_wrong_usage(self, folder: Path, arguments: list[str], words: str) -> None:
        (folder / "file").write_text("")
        result = run("--gpus", "8", *arguments)
        assert result.exit_code == 2
        assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize("key", SHORT.values())
def test_a_short_name_is_its_key(key: str) -> None:
    (short,) = [name for name, long in SHORT.items() if long == key]
    assert Axis.parse(f"{short}=1") == Axis.parse(f"--{short}=1") == Axis.parse(f"{key}=1") == Axis(key, ("1",))
    assert "step" not in short
    assert f"`{short}`" in text("how-to/sweep.md")
