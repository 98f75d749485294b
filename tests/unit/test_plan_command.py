"""``neva-values plan``: what it prints, draws and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neva_pretrain.cli.plan import plan
from neva_pretrain.errors import NevaError, RefusedError
from neva_pretrain.model import catalog
from neva_pretrain.plan.table import duration


def run(*options: str) -> Result:
    return CliRunner().invoke(plan, options)


def shown(*options: str) -> str:
    result = run(*options)
    assert result.exception is None, result.output
    assert result.exit_code == 0
    return result.stdout


def test_table_of_the_source_job() -> None:
    """The whole answer for the source's 128 GPUs, as it is read."""
    assert (
        shown("--gpus", "128", "--top", "4")
        == """\
llama2_7b_chat on 128 x H100 80GB (16 x 8), reference kernels
555520 samples of 640 tokens, global batch 4096: 136 steps

  TP PP MBS ACC  GiB SPARE SMP/S/GPU  STEP TO END GPU-H MFU
>  1  1  16   2 57.7  21.5      24.0 1.33s  6m13s  13.3 43%
   1  1   8   4 37.4  41.8      24.0 1.33s  6m13s  13.3 43%
   1  1   4   8 27.2  52.0      22.8 1.41s  6m23s  13.6 41%
   2  1  32   2 57.5  21.7      19.3 1.66s  6m58s  14.9 35%
P  4  1  32   4 37.0  42.1     ~14.2 2.26s  8m21s  17.8 25%

> best; P NVIDIA's preset; ~ modelled

Best:    TP 1 MBS 16, 24.0 samples/s/GPU: ~1.70x the preset (TP 4 MBS 32, ~14.2)
Limit:   elementwise kernels take 29% of the step; --kernels fused would give
         about 29.3 samples/s/GPU, 1.22x
Start:   about 3m10s of TO END pass before the first step: each of 8 DataLoader
         workers imports NeMo; 1m25s with data.workers 2 (one GPU, 16 cores)
Saves:   every 23 steps (31s): at most 1% of the time for saves; here 0.96%
         (0.29 s a save, assumed)
Needs:   - TP 1 instead of 4 needs a distributed checkpoint
           (model.checkpointFormat: distributed); one split for the preset does
           not load
         - the vocabulary is padded to 32128 at TP 1, to 32256 at TP 4: that of
           a legacy checkpoint must match, a distributed one is resized as it
           loads
         - MBS 16 instead of 32 changes the loss curve: the loss is a mean over
           the tokens of each micro batch (NeMo #8343)
Others:  - TP 1 MBS 8: as fast, but farther from the preset
         - TP 1 MBS 4 (1.05x slower): the GPU waits for kernel launches: the
           micro batch is too small
         - TP 2 MBS 32 (1.24x slower): all-reduces between tensor parallel ranks
         - TP 4 MBS 32 (1.70x slower): all-reduces between tensor parallel ranks
Note:    - a global batch of 4096 sees the same 555520 samples in 136 steps; the
           learning rate 1e-3 was tuned at 256: check it
"""
    )


@pytest.mark.parametrize("name", catalog.names())
@pytest.mark.parametrize("gpus", [16, 128, 16_384])
def test_reads_in_80_columns_without_colour(name: str, gpus: int) -> None:
    printed = shown("--gpus", str(gpus), "--model", name, "--top", "40")
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed
    assert all(line == line.rstrip() for line in printed.splitlines())


def test_json_says_what_the_table_says() -> None:
    data = json.loads(shown("--gpus", "128", "-o", "json"))
    assert data["request"]["globalBatchSize"] == 4096
    assert data["best"]["microBatchSize"] == 16
    assert data["best"]["why"] is None
    assert data["best"] == data["candidates"][0]
    assert data["preset"]["tensorParallelSize"] == 4
    assert data["gain"] == pytest.approx(1.70, abs=0.01)
    assert data["startSeconds"] == 190, "R10"
    for candidate in data["candidates"]:
        assert sum(candidate["memory"]["parts"].values()) == candidate["memory"]["totalBytes"]
        assert sum(candidate["step"]["parts"].values()) == candidate["step"]["totalMs"]
        assert candidate["step"]["basis"] in {"measured", "modelled", "extrapolated"}
    assert all(c["why"] for c in data["candidates"][1:])


def test_refused_are_listed_with_their_sums() -> None:
    printed = " ".join(shown("--gpus", "16", "--model", "llama2-70b-chat").split())
    assert "TP 1 MBS 1: must fit in the 79.2 GiB of an H100 80GB, but needs weights" in printed


@pytest.mark.parametrize(
    ("options", "best"),
    [
        (("--tensor-parallel", "2"), (2, 1, 32)),
        (("--micro-batch", "8"), (1, 1, 8)),
        (("--pipeline-parallel", "2", "--tensor-parallel", "1"), (1, 2, 8)),
        (("--tensor-parallel", "4", "--micro-batch", "32"), (4, 1, 32)),
        (("--gpu", "a100-80gb"), (1, 1, 16)),
        (("--gpu", "h200-141gb"), (1, 1, 32)),
        (("--kernels", "fused"), (1, 1, 16)),
        (("--batch-policy", "fixed"), (1, 1, 2)),
        (("--global-batch", "2048"), (1, 1, 16)),
        (("--tokens-per-sample", "1024"), (1, 1, 8)),
        (("--gpus-per-node", "4"), (1, 1, 16)),
        (("--tp", "2", "--pp", "2", "--mbs", "8", "--gbs", "1024"), (2, 2, 8)),
    ],
)
def test_options(options: tuple[str, ...], best: tuple[int, int, int]) -> None:
    data = json.loads(shown("--gpus", "128", "-o", "json", *options))["best"]
    split = (data["tensorParallelSize"], data["pipelineParallelSize"], data["microBatchSize"])
    assert split == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-policy", "fixed", "--global-batch", "512"), "exclude each other"),
        (("--plot", "plan.txt"), "must end in .png, .svg or .pdf"),
        (("--gpus", "8", "--nodes", "1"), "--gpus and --nodes exclude each other"),
        (("--gpu", "v100"), "'v100' is not one of"),
        (("--tensor-parallel", "0"), "0 is not in the range"),
    ],
)
def test_usage_errors(options: tuple[str, ...], message: str) -> None:
    result = run("--gpus", "128", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_refusals_reach_the_boundary() -> None:
    """The command line's one boundary turns them into ``ERROR: ...`` lines."""
    assert isinstance(run("--gpus", "12").exception, RefusedError)
    assert isinstance(run("--gpus", "8", "--model", "gpt-2").exception, RefusedError)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (59.4, "59s"), (181, "3m01s"), (3600, "1h00m"), (90061, "25h01m")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


class TestPlot:
    @pytest.mark.slow
    @pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
    def test_draws_the_same_bytes_twice(self, tmp_path: Path, suffix: str, magic: bytes) -> None:
        pytest.importorskip("matplotlib")
        files = [tmp_path / f"{n}.{suffix}" for n in (1, 2)]
        files[1].symlink_to(tmp_path / "real")  # stays a link (K07)
        for file in files:
            shown("--gpus", "64", "--plot", str(file))
        one, two = (file.read_bytes() for file in files)
        assert one.startswith(magic)
        assert one == two
        assert files[1].is_symlink()

    @pytest.mark.slow
    def test_says_what_it_wrote_on_stderr(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        file = tmp_path / "plan.png"
        result = run("--gpus", "16", "--model", "nemotron4_340b_chat", "--plot", str(file))
        assert result.stderr == f"plot: {file}\n"

    def test_names_the_extra_when_it_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        result = run("--gpus", "8", "--plot", str(tmp_path / "plan.png"))
        assert isinstance(result.exception, NevaError)
        assert result.exception.lines() == [
            "--plot: needs matplotlib; install it with: pip install 'neva-pretrain[plot]'"
        ]


def test_imports_little() -> None:
    """A plan without a plot must not pay for a plotting, numeric or schema library."""
    script = (
        "import sys; from neva_pretrain.cli.plan import plan; "
        "plan(['--gpus', '8'], standalone_mode=False); "
        "print(sorted({'matplotlib', 'numpy', 'rich', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("split", [("--tp", "3"), ("--tp", "16"), ("--pp", "3")])
def test_gpus_are_not_advised_for_a_split_that_no_number_of_them_allows(split: tuple[str, str]) -> None:
    refused = run("--gpus", "8", *split).exception
    assert isinstance(refused, RefusedError)
    assert {violation.key.partition(".")[0] for violation in refused.violations} == {"training"}
