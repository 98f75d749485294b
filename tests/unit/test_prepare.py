"""Prepare's steps on real files and the real hub client; the hub is a stand-in, and so is torch."""

import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from neva_pod.inputs.checkpoint import read_checkpoint
from neva_pod.inputs.tokenizer import extra_tokens
from neva_pod.prepare import dataset, llm
from neva_pod.prepare import run as runner
from neva_pod.prepare.dataset import IMAGE_LIMIT
from neva_pod.prepare.errors import unwritten
from neva_pod.prepare.steps import Step
from neva_pod.prepare.tokenizer import HUGGINGFACE_TOKENIZER
from neva_pod.settings import Settings as PodSettings
from neva_pretrain.model import catalog, hydra
from tests.unit.converting import copied
from tests.unit.preflight_tools import (
    ARCHITECTURE,
    DATA,
    VISION,
    extended,
    hub_llama,
    image_bytes,
    legacy,
    llama_config,
    problems,
    sample,
    tokenizer,
    with_pieces,
    write_folder,
    write_tar,
    write_vision,
    zarr,
)
from tests.waiting import ended, until

pytestmark = pytest.mark.slow

Settings = dict[str, Any]


def calls(tmp: Path) -> list[list[Any]]:
    """Return what was converted: its first file, counts of blocks and of states, precision."""
    log = tmp / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings whose sources are there and right, and whose results are not."""
    monkeypatch.setenv("CONVERTED_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(llm, "write_distributed", copied)
    source = tmp_path / "source"
    write_vision(source / "clip")
    llama = source / "Llama 2 'hf' $(id)"
    write_folder(llama, {**hub_llama(), "tokenizer.model": tokenizer()})
    write_release(source / "release")
    out = tmp_path / "out put"
    return {
        "model": {
            "modelType": "llama_2",
            "checkpointPath": str(out / "llm" / "nemo"),
            "tokenizerPath": str(out / "llm" / "tokenizer_neva.model"),
            "tokenizerLibrary": "sentencepiece",
            "extraTokens": 8,
            "visionEncoderPath": str(out / "clip"),
        },
        "architecture": dict(ARCHITECTURE),
        "llm": hydra.llm({}, catalog.get("llama2_7b_chat")),
        "vision": dict(VISION),
        "training": {"tensorParallelSize": 4, "pipelineParallelSize": 1},
        "data": {
            "annotations": str(out / "data" / "blip.json"),
            "images": str(out / "data" / "images"),
        },
        "preflight": {},
        "prepare": {
            "tokenizer": {"enabled": True},
            "vision": {"enabled": True, "source": str(source / "clip")},
            "llm": {"enabled": True, "source": str(llama)},
            "dataset": {"enabled": True, "source": str(source / "release")},
        },
    }


def write_release(folder: Path, count: int = 30, prefix: str = "", size: int = 0) -> None:
    """Write JSON and images.zip as the hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i // 10:05}/{i:09}.jpg" for i in range(count)]
    samples = [sample(i, n) for i, n in enumerate(names)]
    (folder / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(samples))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(prefix + name, image_bytes(seed=i) + noise(i, size))


def noise(seed: int, size: int) -> bytes:
    """Return bytes that do not compress."""
    return hashlib.shake_256(str(seed).encode()).digest(size)


def digest(path: Path) -> dict[str, str]:
    """Return hashes of all files below a folder, hidden ones too."""
    return {
        str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(path.rglob("*"))
        if f.is_file()
    }


def hidden(names: Iterable[str]) -> list[str]:
    """Return the files of temporary names; .zarray and .metadata are a checkpoint's own."""
    return [n for n in names if re.search(r"(^|/)\.(?!(zarray|metadata)$)", n)]


def out(settings: Settings) -> Path:
    return Path(settings["model"]["visionEncoderPath"]).parent


def run(settings: Settings, capsys: pytest.CaptureFixture[str], *only: str) -> tuple[int, str]:
    """Run steps in this process; return the number of failed ones and what was said."""
    failed = runner.run(PodSettings(settings), only)
    return failed, capsys.readouterr().out


def command(tmp: Path, settings: Settings, *arguments: str) -> list[str]:
    file = tmp / "settings.json"
    file.write_text(json.dumps(settings))
    return [sys.executable, "-m", "tests.unit.converting", "--settings", str(file), *arguments]


def test_all_steps_then_nothing_to_do(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From local sources only; a second run does nothing and says so; preflight is content."""
    done = subprocess.run(command(tmp_path, settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first = digest(out(settings))
    assert not hidden(first), "nothing temporary is left"
    assert run(settings, capsys)[0] == 0
    again = subprocess.run(command(tmp_path, settings), capture_output=True, text=True, check=True)
    assert again.stdout.count("already exists: ") == 4
    assert digest(out(settings)) == first
    assert len(calls(tmp_path)) == 1
    for check in ("images", "decode", "checkpoint", "weights", "tokenizer", "vocabulary", "vision"):
        assert problems(settings, check) == [], check


def test_only_enabled_steps_run(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("llm", "dataset", "tokenizer"):
        settings["prepare"][name]["enabled"] = False
    assert run(settings, capsys)[0] == 0
    assert [p.name for p in out(settings).iterdir()] == ["clip"]


def test_a_failed_step_does_not_hide_the_others(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings["prepare"]["dataset"]["source"] = "/nowhere"
    settings["prepare"]["llm"]["source"] = "a b"
    settings["prepare"]["vision"]["source"] = ""
    failed, said = run(settings, capsys, "dataset", "llm", "vision")
    assert failed == 3
    assert said.count("ERROR: ") == 3


@pytest.mark.parametrize("arguments", [("--only", "x"), ()])
def test_wrong_usage_is_2(settings: Settings, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    settings["prepare"]["vision"]["enabled"] = "yes"
    done = subprocess.run(command(tmp_path, settings, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: ")


class TestTokenizer:
    def test_e07_tokens_are_user_defined_and_last(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """E07: as NeMo's script does, through sentencepiece's own eyes."""
        assert run(settings, capsys, "tokenizer")[0] == 0
        final = Path(settings["model"]["tokenizerPath"])
        from sentencepiece import sentencepiece_model_pb2

        ours, theirs = (sentencepiece_model_pb2.ModelProto() for _ in range(2))
        ours.ParseFromString(final.read_bytes())
        theirs.ParseFromString(extended())
        assert ours == theirs
        loaded = sentencepiece.SentencePieceProcessor(model_file=str(final))
        size = loaded.get_piece_size()
        tokens = extra_tokens(8)
        assert [loaded.piece_to_id(t) for t in tokens] == list(range(size - 8, size))
        assert "<extra_id_3>" in loaded.encode("the fox <extra_id_3> dog", out_type=str)

    def test_e07_a_second_run_is_byte_identical(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """E07: NeMo's script ends with 1 there; ours with 0. Also with source and result in one."""
        assert run(settings, capsys, "tokenizer")[0] == 0
        final = Path(settings["model"]["tokenizerPath"])
        first = final.read_bytes()
        failed, said = run(settings, capsys, "tokenizer")
        assert (failed, final.read_bytes()) == (0, first)
        assert "already exists" in said
        settings["prepare"]["tokenizer"]["source"] = str(final)
        settings["model"]["tokenizerPath"] += "2"
        assert run(settings, capsys, "tokenizer")[0] == 0
        assert Path(settings["model"]["tokenizerPath"]).read_bytes() == first

    def test_e07_control_tokens_are_refused(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """E07: a file made without --is_userdefined is not mended in silence."""
        (tmp_path / "t.model").write_bytes(extended(kind=3))
        settings["prepare"]["tokenizer"]["source"] = str(tmp_path / "t.model")
        failed, said = run(settings, capsys, "tokenizer")
        assert failed == 1
        assert "not of type USER_DEFINED" in said
        assert not Path(settings["model"]["tokenizerPath"]).exists()

    def test_huggingface_tokenizer_is_copied(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = Path(settings["prepare"]["llm"]["source"])
        settings["model"].update(tokenizerLibrary="huggingface", tokenizerPath=str(tmp_path / "tok"))
        assert run(settings, capsys, "tokenizer")[0] == 1
        for name in HUGGINGFACE_TOKENIZER:
            (source / name).write_text('{"model": {"vocab": {"a": 0}}}')
        assert run(settings, capsys, "tokenizer")[0] == 0
        assert sorted(p.name for p in (tmp_path / "tok").iterdir()) == sorted(HUGGINGFACE_TOKENIZER)


class TestVision:
    def test_d14_the_source_is_checked_first(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """D14: as preflight does."""
        write_vision(tmp_path / "source" / "clip", architectures=["ViTModel"])
        failed, said = run(settings, capsys, "vision")
        assert failed == 1
        assert "architectures[0] is ViTModel" in said
        assert not Path(settings["model"]["visionEncoderPath"]).exists()

    def test_d15_the_result_is_a_path(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """D15: a hub id cannot be made."""
        settings["model"]["visionEncoderPath"] = "openai/clip"
        assert "must be an absolute path" in run(settings, capsys, "vision")[1]


class TestModel:
    def test_e01_a_source_without_its_files_is_refused(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """E01: the file is named."""
        (Path(settings["prepare"]["llm"]["source"]) / "config.json").unlink()
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert "has no config.json" in said

    def test_r01_what_is_converted(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """R01: no GPU and no script of NeMo; E01: the tokenizer is not the model's affair."""
        source = Path(settings["prepare"]["llm"]["source"])
        (source / "tokenizer.model").unlink()
        assert run(settings, capsys, "llm")[0] == 0
        assert calls(tmp_path) == [[str(source / "model.safetensors"), 17, 12, "bf16"]]
        found = read_checkpoint(settings["model"]["checkpointPath"])
        assert str(found).startswith("distributed (torch_dist), 5 files")
        assert found.config is not None
        assert found.config["mcore_gpt"] is True

    @pytest.mark.parametrize("kind", ["gpt_neox", None, 7])
    def test_a_model_of_another_kind(self, settings: Settings, capsys: pytest.CaptureFixture[str], kind: Any) -> None:
        config = Path(settings["prepare"]["llm"]["source"]) / "config.json"
        config.write_text(json.dumps(llama_config(model_type=kind)))
        said = run(settings, capsys, "llm")[1]
        assert f"model_type is {json.dumps(kind).strip(chr(34))}; must be among llama, mistral, mixtral" in said

    def test_d11_a_file_is_packed(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """D11: where a .nemo file is wanted."""
        settings["prepare"]["llm"]["unpack"] = False
        assert run(settings, capsys, "llm")[0] == 0
        found = read_checkpoint(settings["model"]["checkpointPath"])
        assert (found.is_file, found.distributed) == (True, True)
        assert not hidden(digest(out(settings)))

    def test_e05_another_model_is_refused_before_conversion(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """E05: 13B preset, 7B source."""
        settings["architecture"].update(numLayers=40, numQueryGroups=8)
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert "num_layers is 2, must be 40; num_query_groups is 4, must be 8" in said
        assert calls(tmp_path) == []
        settings["llm"] = {"rotary_base": {"default": 10000, "run": 5e5}}
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert "rotary_base is 10000.0, the run's config says 500000.0" in said, "N01"
        assert calls(tmp_path) == []

    @pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid x", None])
    def test_f03_weights_that_are_not_there(
        self, settings: Settings, capsys: pytest.CaptureFixture[str], content: bytes | None
    ) -> None:
        """F03: git clone without LFS."""
        weights = Path(settings["prepare"]["llm"]["source"]) / "model.safetensors"
        weights.unlink()
        if content:
            weights.write_bytes(content)
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert ("LFS pointer" if content else "weights are missing") in said

    @pytest.mark.parametrize("unpack", [True, False])
    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_a_distributed_checkpoint_as_source(
        self,
        settings: Settings,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        kind: str,
        unpack: bool,
    ) -> None:
        """No conversion; E03: it loads at any TP; a file is unpacked unless a file is wanted (D11)."""
        write = write_tar if kind == "file" else write_folder
        settings["prepare"]["llm"].update(source=str(write(tmp_path / "given", zarr())), unpack=unpack)
        failed, said = run(settings, capsys, "llm")
        assert failed == 0
        assert "distributed, loads at any TP and PP: not converted" in said
        assert calls(tmp_path) == []
        assert Path(settings["model"]["checkpointPath"]).is_file() is (kind == "file" and not unpack)
        assert read_checkpoint(settings["model"]["checkpointPath"]).backend == "zarr"

    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_d12_a_legacy_checkpoint_under_old_names(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        """D12: whatever its configuration says."""
        write = write_tar if kind == "file" else write_folder
        files = legacy(2, rank=(DATA / "legacy-names-rank.ckpt").read_bytes())
        settings["prepare"]["llm"]["source"] = str(write(tmp_path / "given", files))
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert re.search(r"mp_rank_00/model_weights.ckpt: tensor model.language_model\S+ is not under Megatron", said)
        settings["prepare"]["llm"]["source"] = str(write(tmp_path / "older", legacy(2, mcore_gpt=False)))
        failed, said = run(settings, capsys, "llm")
        assert "mcore_gpt is false; must be true" in said
        assert calls(tmp_path) == []

    def test_r02_a_conversion_that_dies_leaves_nothing(
        self,
        settings: Settings,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """E04, R02: half of a checkpoint has no final name, and nothing of it is in the next one, of other settings."""

        def dies(folder: str, *_: Any) -> None:
            write_folder(Path(folder), {"__9_0.distcp": b"half"})
            raise OSError(5, "killed")

        monkeypatch.setattr(llm, "write_distributed", dies)
        assert run(settings, capsys, "llm")[0] == 1
        final = Path(settings["model"]["checkpointPath"])
        assert not final.exists()
        monkeypatch.setattr(llm, "write_distributed", copied)
        settings["prepare"]["llm"]["precision"] = "16"
        assert run(settings, capsys, "llm")[0] == 0
        assert calls(tmp_path)[0][-1] == "16"
        assert not list(out(settings).rglob("__9_0.distcp"))
        assert not hidden(digest(final.parent))

    def test_k02_what_was_written_is_read_back(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A volume that loses data without an error."""

        def lost(folder: str, *rest: Any) -> None:
            copied(folder, *rest)
            os.truncate(Path(folder) / "__0_0.distcp", 1000)

        monkeypatch.setattr(llm, "write_distributed", lost)
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert "__0_0.distcp has 1000 of" in said
        assert not Path(settings["model"]["checkpointPath"]).exists()

    def test_e02_what_is_there_but_wrong_is_not_touched(
        self, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """E02: an unfinished checkpoint under the final name is the user's to remove."""
        final = Path(settings["model"]["checkpointPath"])
        write_folder(final, {"model_config.yaml": b"{}"})
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert "no weights" in said
        assert [p.name for p in final.iterdir()] == ["model_config.yaml"]

    def test_a_member_outside_of_the_checkpoint(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        evil = write_tar(tmp_path / "evil.nemo", {**zarr(), "../escaped": b"x"})
        settings["prepare"]["llm"]["source"] = str(evil)
        failed, said = run(settings, capsys, "llm")
        assert failed == 1
        assert "lies outside" in said
        assert not list(tmp_path.rglob("escaped"))


class TestDataset:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1",
                "LFS pointer",
            ),
            (lambda whole: whole[: len(whole) // 2], "truncated at"),
            (lambda _: b"<html>not found</html>", "is not a zip"),
            (lambda _: b"", "is not a zip"),
        ],
    )
    def test_f03_archives_are_checked_before_unzip(
        self, settings: Settings, capsys: pytest.CaptureFixture[str], change: Any, said: str
    ) -> None:
        """F03: nothing is extracted, exit code is not 0."""
        archive = Path(settings["prepare"]["dataset"]["source"]) / "images.zip"
        archive.write_bytes(change(archive.read_bytes()))
        failed, text = run(settings, capsys, "dataset")
        assert failed == 1
        assert said in text
        left = [p.name for p in (out(settings) / "data").rglob("*") if p.is_file()]
        assert left == ["settings.json"], "nothing extracted"

    def test_f03_a_damaged_member(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """F03: a checksum that does not hold; the folder has no final name."""
        archive = Path(settings["prepare"]["dataset"]["source"]) / "images.zip"
        data = bytearray(archive.read_bytes())
        data[200] ^= 0xFF
        archive.write_bytes(data)
        failed, said = run(settings, capsys, "dataset")
        assert failed == 1
        assert "Bad CRC-32" in said
        assert not Path(settings["data"]["images"]).exists()

    def test_f01_images_are_counted_before_unzip(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """F01, F02: an archive of another dataset."""
        write_release(Path(settings["prepare"]["dataset"]["source"]), 30, prefix="other/x/")
        failed, said = run(settings, capsys, "dataset")
        assert failed == 1
        assert "30 of 30 images of the JSON are not in it: 00000/000000000.jpg" in said

    def test_a_top_folder_in_the_archive_is_dropped(
        self, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_release(Path(settings["prepare"]["dataset"]["source"]), prefix="images/")
        assert run(settings, capsys, "dataset")[0] == 0
        assert (Path(settings["data"]["images"]) / "00000" / "000000000.jpg").exists()

    def test_f04_samples_are_checked(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """F04: before the archive is touched."""
        file = Path(settings["prepare"]["dataset"]["source"]) / "blip_laion_cc_sbu_558k.json"
        samples = json.loads(file.read_text())
        samples[7]["conversations"][0]["value"] = "no token"
        file.write_text(json.dumps(samples))
        assert (
            "1 samples have an image but no <image> in the first turn: id 000000007"
            in (run(settings, capsys, "dataset")[1])
        )

    @pytest.mark.parametrize("name", ["../escaped.jpg", "/tmp/escaped.jpg"])
    def test_a_path_out_of_the_folder(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        source = Path(settings["prepare"]["dataset"]["source"])
        (source / "blip_laion_cc_sbu_558k.json").write_text(json.dumps([sample(0, name)]))
        with zipfile.ZipFile(source / "images.zip", "w") as archive:
            archive.writestr(name, b"x")
        failed, said = run(settings, capsys, "dataset")
        assert failed == 1
        assert "lie outside the folder" in said
        assert not list(tmp_path.rglob("escaped*"))

    def test_no_space(
        self,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(os, "statvfs", lambda _: type("V", (), {"f_bavail": 1, "f_frsize": 512}))
        assert "MiB free, 0.0 MiB needed" in run(settings, capsys, "dataset")[1]


class TestKilled:
    """kill -9 at random points: no final name is ever half, a rerun ends with the same bytes."""

    def kill_often(self, tmp: Path, settings: Settings, step: str, finals: list[Path], rounds: int) -> None:
        moments = random.Random(step)  # noqa: S311 (no secret)
        line = command(tmp, settings, "--only", step)
        for _ in range(rounds):
            child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            time.sleep(moments.uniform(0.05, 0.6))
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for final in finals:
                if final.exists():
                    yield_whole(final, self.whole[final.name])

    whole: dict[str, dict[str, str] | str]

    def test_dataset(self, settings: Settings, tmp_path: Path) -> None:
        """The first run is the measure; then the same under fire."""
        write_release(Path(settings["prepare"]["dataset"]["source"]), 3000, size=3000)
        subprocess.run(command(tmp_path, settings, "--only", "dataset"), check=True, capture_output=True)
        wanted = digest(out(settings))
        finals = [Path(settings["data"]["annotations"]), Path(settings["data"]["images"])]
        self.whole = {f.name: whole_of(f) for f in finals}
        shutil.rmtree(out(settings))
        self.kill_often(tmp_path, settings, "dataset", finals, 10)
        subprocess.run(command(tmp_path, settings, "--only", "dataset"), check=True, capture_output=True)
        assert digest(out(settings)) == wanted

    @pytest.mark.parametrize("kind", ["converted", "copied"])
    def test_e04_model(self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """E04: whatever the moment."""
        if kind == "copied":
            big = {**zarr(), "more": noise(1, 3_000_000)}
            settings["prepare"]["llm"]["source"] = str(write_tar(tmp_path / "b.nemo", big))
        subprocess.run(command(tmp_path, settings, "--only", "llm"), check=True, capture_output=True)
        wanted = digest(out(settings))
        final = Path(settings["model"]["checkpointPath"])
        self.whole = {final.name: whole_of(final)}
        shutil.rmtree(out(settings))
        monkeypatch.setenv("CONVERTED_PAUSE", "0.02")
        self.kill_often(tmp_path, settings, "llm", [final], 10)
        subprocess.run(command(tmp_path, settings, "--only", "llm"), check=True, capture_output=True)
        assert digest(out(settings)) == wanted

    def test_e07_tokenizer_and_vision(self, settings: Settings, tmp_path: Path) -> None:
        """E07: whatever the moment."""
        line = command(tmp_path, settings, "--only", "tokenizer,vision")
        subprocess.run(line, check=True, capture_output=True)
        wanted = digest(out(settings))
        finals = [
            Path(settings["model"]["tokenizerPath"]),
            Path(settings["model"]["visionEncoderPath"]),
        ]
        self.whole = {f.name: whole_of(f) for f in finals}
        shutil.rmtree(out(settings))
        self.kill_often(tmp_path, settings, "tokenizer,vision", finals, 6)
        subprocess.run(line, check=True, capture_output=True)
        assert digest(out(settings)) == wanted


def within(name: str, found: dict[str, str]) -> dict[str, str]:
    """Return the hashes of one file, or of the files of one folder."""
    return {f: d for f, d in found.items() if f == name or f.startswith(name + "/")}


def whole_of(path: Path) -> dict[str, str] | str:
    return digest(path) if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


def yield_whole(path: Path, wanted: dict[str, str] | str) -> None:
    assert whole_of(path) == wanted, f"{path} is there, but not whole"


COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEXT = "fedcba9876543210fedcba9876543210fedcba98"

Repositories = dict[str, dict[str, bytes]]


class Hub(ThreadingHTTPServer):
    """Stand-in for the Hugging Face hub: its API for listing and downloading, with ranges, commits and faults."""

    daemon_threads = True

    def __init__(self, repositories: Repositories) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories = repositories
        self.history: dict[str, Repositories] = {COMMIT: repositories}
        self.head = COMMIT
        self.asked: list[str] = []
        self.sent = 0
        self.pause = 0.0
        self.token = ""
        self.faults: dict[str, list[str]] = {}
        """By file, what befalls the next downloads of it: flip, cut, 503, or move (of the branch, before it)."""

    def move(self) -> None:
        """Push a commit in which every file is another one."""
        self.history[NEXT] = {
            r: {f: noise(len(c), 60) + c for f, c in fs.items()} for r, fs in self.repositories.items()
        }
        self.head = NEXT


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.reply(401, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            return
        commit = next((c for c in self.server.history if f"/{c}" in path), self.server.head)
        for name, files in self.server.history[commit].items():
            if path.startswith((f"/api/{name}", f"/api/models/{name}")):
                info = {
                    "id": name.removeprefix("datasets/"),
                    "sha": commit,
                    "siblings": [{"rfilename": f} for f in files],
                }
                self.reply(200, json.dumps(info).encode(), {}, body)
                return
            for file, content in files.items():
                if path.startswith(f"/{name}/resolve/") and path.endswith("/" + file):
                    self.file(file, content, commit, body)
                    return
        known = any(name in path for name in self.server.repositories)
        error = "EntryNotFound" if known else "RepoNotFound"
        self.reply(404, b"{}", {"X-Error-Code": error}, body)

    def file(self, name: str, content: bytes, commit: str, body: bool) -> None:
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults and body else ""
        if fault == "503":
            self.reply(503, b"busy", {}, body)
            return
        if fault == "move":
            self.server.move()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 (as git does)
        etag = git if name.endswith(".json") else hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if fault == "flip":
            content = content[:-1] + bytes([content[-1] ^ 1])
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted and body else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(206 if start else 200, content[start:], headers, body, cut=fault == "cut")

    def reply(self, code: int, content: bytes, headers: dict[str, str], body: bool, cut: bool = False) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if cut:
            content, self.close_connection = content[: len(content) // 2], True
        try:
            for start in range(0, len(content) if body else 0, 16384):
                self.wfile.write(content[start : start + 16384])
                self.server.sent += len(content[start : start + 16384])
                time.sleep(self.server.pause)
        except OSError:
            self.close_connection = True


@pytest.fixture
def hub(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve the sources of the tests as repositories, and take them away from the disk."""
    source = tmp_path / "source"
    folders = {
        "datasets/liuhaotian/LLaVA-Pretrain": source / "release",
        "openai/clip": source / "clip",
        "meta-llama/Llama-2": Path(settings["prepare"]["llm"]["source"]),
    }
    repositories = {name: {f.name: f.read_bytes() for f in folder.iterdir()} for name, folder in folders.items()}
    repositories["meta-llama/Llama-2"]["pytorch_model.bin"] = b"not wanted beside safetensors"
    shutil.rmtree(source)
    for step, name in zip(("dataset", "vision", "llm"), folders, strict=True):
        settings["prepare"][step]["source"] = name.removeprefix("datasets/")
    server = Hub(repositories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class TestHub:
    def test_all_steps_through_the_real_client(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """HF_ENDPOINT as a mirror; only the files of one kind of weights are asked for."""
        done = subprocess.run(command(tmp_path, settings), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len([f for f in digest(out(settings)) if f.startswith("data/images/")]) == 30
        assert not [a for a in hub.asked if a.endswith("pytorch_model.bin") and "Llama" in a]
        assert any(f"/resolve/{COMMIT}/images.zip" in a for a in hub.asked)
        assert not hidden(digest(out(settings)))
        asked = len(hub.asked)
        again = subprocess.run(command(tmp_path, settings), capture_output=True, text=True, check=True)
        assert again.stdout.count("already exists") == 4
        assert len(hub.asked) == asked, "a second run asks the hub nothing"

    def test_revision_is_pinned(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        settings["prepare"]["dataset"]["revision"] = COMMIT
        subprocess.run(command(tmp_path, settings, "--only", "dataset"), check=True, capture_output=True)
        assert any(f"/resolve/{COMMIT}/images.zip" in a for a in hub.asked)

    def test_token_comes_from_the_environment(
        self, hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A gated model without it is refused with what to do; the token is never printed."""
        hub.token = "hf_secret"  # noqa: S105 (of this test)
        line = command(tmp_path, settings, "--only", "llm")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "the token's Secret (gated models)" in done.stdout
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "hf_secret" not in done.stdout + done.stderr

    def test_missing_files_and_repositories(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        del hub.repositories["datasets/liuhaotian/LLaVA-Pretrain"]["images.zip"]
        settings["prepare"]["vision"]["source"] = "no/where"
        line = command(tmp_path, settings, "--only", "dataset,vision")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "the repository has no images.zip" in done.stdout
        assert "ERROR: no/where at main: RepositoryNotFoundError" in done.stdout

    def test_e01_a_repository_without_configuration(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """E01: after the download, before the conversion."""
        del hub.repositories["meta-llama/Llama-2"]["config.json"]
        line = command(tmp_path, settings, "--only", "llm")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "has no config.json" in done.stdout

    def test_f03_a_killed_download_goes_on(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """F03, kill -9 during the download: the rest is fetched, the bytes are the same."""
        release = hub.repositories["datasets/liuhaotian/LLaVA-Pretrain"]
        write_release(tmp_path / "large", 200, size=20_000)
        release.update({f.name: f.read_bytes() for f in (tmp_path / "large").iterdir()})
        size = len(release["images.zip"])
        hub.pause = 0.004
        line = command(tmp_path, settings, "--only", "dataset")
        child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while hub.sent < size // 2:
            time.sleep(0.01)
            assert child.poll() is None
        child.kill()
        child.wait()
        assert not Path(settings["data"]["annotations"]).exists()
        hub.pause, hub.sent = 0.0, 0
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        for name, wanted in ((settings["data"]["annotations"], release["blip_laion_cc_sbu_558k.json"]),):
            assert Path(name).read_bytes() == wanted
        with zipfile.ZipFile(tmp_path / "large" / "images.zip") as archive:
            for member in archive.namelist():
                file = Path(settings["data"]["images"]) / member
                assert file.read_bytes() == archive.read(member)

    def run(self, tmp: Path, settings: Settings, only: str) -> tuple[int, str]:
        line = command(tmp, settings, "--only", only)
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout

    @pytest.mark.parametrize("faults", ["flip", "cut", "503", "cut flip 503 flip"])
    def test_k03_what_comes_damaged_is_downloaded_again(
        self, hub: Hub, settings: Settings, tmp_path: Path, faults: str
    ) -> None:
        """K03: large files by their sha256, small ones by git's sum; a line that breaks goes on."""
        hub.faults = {"pytorch_model.bin": faults.split(), "config.json": faults.split()}
        code, said = self.run(tmp_path, settings, "vision")
        assert code == 0, said
        final = Path(settings["model"]["visionEncoderPath"])
        assert {f.name: f.read_bytes() for f in final.iterdir()} == hub.repositories["openai/clip"]
        assert said.count("downloading again") == 2 * faults.count("flip")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "preprocessor_config.json"])
    def test_k03_what_stays_damaged_is_not_published(
        self, hub: Hub, settings: Settings, tmp_path: Path, name: str
    ) -> None:
        """K03: the mirror is named, other steps go on, and the next run is not spoilt."""
        hub.faults = {name: ["flip"] * 3}
        code, said = self.run(tmp_path, settings, "vision,dataset")
        assert code == 1
        assert re.search(rf"ERROR: openai/clip at {COMMIT}: {name}: its checksum is .*, 3 times; it is not used", said)
        assert not Path(settings["model"]["visionEncoderPath"]).exists()
        assert Path(settings["data"]["annotations"]).exists()
        assert self.run(tmp_path, settings, "vision")[0] == 0

    def test_k03_a_branch_that_moves(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """K03: all files are of the commit at the start, also those of other steps and of a restarted pod."""
        hub.faults = {"config.json": ["move"], "model.safetensors": ["flip"] * 3}
        code, said = self.run(tmp_path, settings, "tokenizer,llm,vision")
        assert code == 1
        assert f"vision: model openai/clip at main is commit {COMMIT}" in said
        assert hub.head == NEXT
        assert not Path(settings["model"]["checkpointPath"]).exists()
        code, said = self.run(tmp_path, settings, "tokenizer,llm,vision")
        assert code == 0, said
        final = Path(settings["model"]["visionEncoderPath"])
        assert {f.name: f.read_bytes() for f in final.iterdir()} == hub.repositories["openai/clip"]
        assert not [a for a in hub.asked if "/resolve/" in a and COMMIT not in a]

    def test_k03_leavings_are_checked(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """K03: a whole file and a part that a lost node spoilt; a part that is longer than the file."""
        release = hub.repositories["datasets/liuhaotian/LLaVA-Pretrain"]
        whole = release["blip_laion_cc_sbu_558k.json"]
        hub.faults = {"images.zip": ["flip"] * 3}
        assert self.run(tmp_path, settings, "dataset")[0] == 1
        (folder,) = out(settings).glob("data/.*.work/download")
        (folder / "blip_laion_cc_sbu_558k.json").write_bytes(bytes(len(whole)))
        (folder / "images.zip.part").write_bytes(bytes(1000))
        code, said = self.run(tmp_path, settings, "dataset")
        assert code == 0, said
        assert Path(settings["data"]["annotations"]).read_bytes() == whole
        assert said.count("downloading again") == 2
        shutil.rmtree(out(settings))
        hub.faults = {"images.zip": ["flip"] * 3}
        assert self.run(tmp_path, settings, "dataset")[0] == 1
        (folder / "images.zip.part").write_bytes(bytes(len(release["images.zip"]) + 1))
        assert self.run(tmp_path, settings, "dataset")[0] == 0

    def test_k03_progress_of_a_download(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """Long downloads say how far they are."""
        hub.pause = 0.5
        script = (
            "import sys; from neva_pod.prepare.__main__ import main; from neva_pod.progress import Progress\n"
            "new = Progress.__init__\n"
            "def soon(self): new(self); self._pause = self._next = 0\n"
            "Progress.__init__ = soon; sys.exit(main(sys.argv[1:]))"
        )
        hub.repositories["openai/clip"]["pytorch_model.bin"] = bytes(100_000)
        line = command(tmp_path, settings, "--only", "vision")
        done = subprocess.run([sys.executable, "-c", script, *line[3:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "prepare: vision: pytorch_model.bin: MiB: 0 of 0" in done.stderr
        assert "prepare: vision: copy: MiB: " in done.stderr

    def test_k10_a_second_prepare_waits(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """K10: it says for whom, takes over when that one is killed, and finds the work done otherwise."""
        hub.repositories["openai/clip"]["pytorch_model.bin"] = noise(1, 1_000_000)
        hub.pause = 0.05
        line = command(tmp_path, settings, "--only", "vision")

        def begun() -> subprocess.Popen[str]:
            return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)

        with ended(begun()) as first:
            until(lambda: hub.sent > 100_000, "a download")
            with ended(begun()) as second:
                assert second.stdout
                assert f"waiting for {os.uname().nodename} (pid {first.pid}, since" in second.stdout.readline()
                first.kill()
                before = sum("GET" in a and "pytorch_model" in a for a in hub.asked)
                until(lambda: sum("GET" in a and "pytorch_model" in a for a in hub.asked) > before, "the take-over")
                with ended(begun()) as third:
                    assert third.stdout
                    assert f"(pid {second.pid}, since" in third.stdout.readline()
                    hub.pause = 0
                    assert "made " in second.communicate()[0]
                    assert "already exists" in third.communicate()[0]
                    assert (second.returncode, third.returncode) == (0, 0)
        assert not hidden(digest(out(settings)))

    def test_killed_at_any_moment(self, hub: Hub, settings: Settings, tmp_path: Path) -> None:
        """K03, K10: all steps, kill -9 at random moments while the branch moves; the result is the undisturbed one."""
        line = command(tmp_path, settings)
        subprocess.run(line, check=True, capture_output=True)
        wanted = digest(out(settings))
        shutil.rmtree(out(settings))
        hub.pause = 0.02
        moments = random.Random(3)  # noqa: S311 (no secret)
        finals = [Path(settings["model"][k]) for k in ("visionEncoderPath", "checkpointPath", "tokenizerPath")]
        finals.append(Path(settings["data"]["annotations"]))
        for _ in range(6):
            child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            time.sleep(moments.uniform(0.2, 2.5))
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for final in finals:
                if final.exists():
                    name = str(final.relative_to(out(settings)))
                    assert within(name, digest(out(settings))) == within(name, wanted)
            ready = [f for f in finals if f.exists() or (f.parent / f".{f.name}.work" / "commit.json").exists()]
            if ready == finals:
                hub.move()
        hub.pause = 0
        subprocess.run(line, check=True, capture_output=True)
        assert digest(out(settings)) == wanted


class TestDisk:
    """A disk that fills up, by RLIMIT_FSIZE: a sentence, nothing under a final name, and the next run succeeds."""

    @pytest.mark.parametrize("step", ["tokenizer", "vision", "llm", "dataset"])
    @pytest.mark.parametrize("limit", [0, 500, 20_000])
    def test_full(self, settings: Settings, tmp_path: Path, step: str, limit: int) -> None:
        source = Path(settings["prepare"]["vision"]["source"])
        (source / "pytorch_model.bin").write_bytes(noise(1, 30_000))
        settings["prepare"]["llm"]["source"] = str(write_tar(tmp_path / "big.nemo", {**zarr(), "m": bytes(30_000)}))
        settings["prepare"]["tokenizer"]["source"] = str(tmp_path / "large.model")
        words = [f"word{i}" for i in range(3000)]
        (tmp_path / "large.model").write_bytes(with_pieces(tokenizer(), words, 1))
        write_release(Path(settings["prepare"]["dataset"]["source"]), size=21_000)
        line = command(tmp_path, settings, "--only", step)
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert done.returncode == 1, done.stdout
        assert "cannot be written: larger than the maximum file size here" in done.stdout
        assert "Traceback" not in done.stderr
        assert not [f for f in digest(out(settings)) if not hidden([f])]
        subprocess.run(line, check=True, capture_output=True)
        assert not hidden(digest(out(settings)))

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
    def test_each_has_its_words(self, code: int) -> None:
        """No errno is blamed on the volume's mount alone."""
        found = unwritten("/models/x", OSError(code, os.strerror(code))).finding
        assert found.message.startswith("/models/x: ")
        assert found.fix


class TestDamaged:
    """K08: whatever an input is, its step says so in a sentence, and the others are made."""

    @pytest.mark.parametrize(
        ("step", "name", "content"),
        [
            ("vision", "clip/config.json", b"[]"),
            ("vision", "clip/config.json", b'{"architectures": 7}'),
            ("vision", "clip/config.json", b"[" * 100_000),
            ("vision", "clip/config.json", b"\xff\xfe{}"),
            ("vision", "clip/config.json", None),
            ("llm", "llama/config.json", b"[]"),
            ("llm", "llama/config.json", b'{"num_hidden_layers": NaN}'),
            ("llm", "llama/model.safetensors.index.json", b"{}"),
            ("llm", "llama/model.safetensors.index.json", b'{"weight_map": [1]}'),
            ("llm", "llama/model.safetensors", None),
            ("tokenizer", "llama/tokenizer.model", b""),
            ("tokenizer", "llama/tokenizer.model", b"\x0a\xff\xff\xff\xff\x0f"),
            ("tokenizer", "llama/tokenizer.model", b"\x0a\x02\x0a\x00\x0a\x04\x0a\x02\xff\xfe"),
            ("dataset", "release/blip_laion_cc_sbu_558k.json", b"{}"),
            ("dataset", "release/blip_laion_cc_sbu_558k.json", b"[1]"),
            ("dataset", "release/blip_laion_cc_sbu_558k.json", b""),
            ("dataset", "release/images.zip", b"PK\x03\x04"),
            ("dataset", "release/images.zip", None),
        ],
    )
    def test_k08_one_boundary_a_step(
        self,
        settings: Settings,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        step: str,
        name: str,
        content: bytes | None,
    ) -> None:
        llama = tmp_path / "source" / "llama"
        Path(settings["prepare"]["llm"]["source"]).rename(llama)
        settings["prepare"]["llm"]["source"] = str(llama)
        if step == "tokenizer":  # of its own, so that the model stays as it is
            shutil.copytree(llama, tmp_path / "tokenizer")
            settings["prepare"]["tokenizer"]["source"] = str(tmp_path / "tokenizer")
            file = tmp_path / "tokenizer" / "tokenizer.model"
        else:
            file = tmp_path / "source" / name
        if name.endswith("index.json"):
            (llama / "model.safetensors").unlink()
        file.unlink(missing_ok=True)
        if content is None:
            file.mkdir()
        else:
            file.write_bytes(content)
        failed, said = run(settings, capsys)
        others = len(runner.STEPS) - 1
        assert (failed, said.count("ERROR: "), said.count("made ")) == (1, 1, others), said
        assert f"prepare: {step}: ERROR: {tmp_path}" in said or f"prepare: {step}: ERROR: image" in said
        assert "stopped by" not in said

    @pytest.mark.parametrize(
        "place", ["clip/pytorch_model.bin", "release/images.zip", "release/blip_laion_cc_sbu_558k.json"]
    )
    def test_k06_a_pipe_is_not_read(
        self, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
    ) -> None:
        """K06: no source that is waited for."""
        file = tmp_path / "source" / place
        file.unlink()
        os.mkfifo(file)
        failed, said = run(settings, capsys, "vision", "dataset")
        assert failed == 1
        assert "is not a file" in said or "is missing or empty" in said

    def test_k08_a_fault_of_its_own(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """K08: also what nobody thought of stops one step only."""
        step = Step(lambda _: "", lambda _: list, lambda *_: (_ for _ in ()).throw(RecursionError("deep")))
        monkeypatch.setitem(runner.STEPS, "vision", step)
        failed, said = run(settings, capsys)
        assert (failed, said.count("made ")) == (1, 3)
        assert "vision: ERROR: stopped by RecursionError: deep in test_prepare.py, line" in said


class TestZip:
    """K09: what a zip may be."""

    def write(self, settings: Settings, members: list[tuple[zipfile.ZipInfo | str, bytes]], *wanted: str) -> Path:
        folder = Path(settings["prepare"]["dataset"]["source"])
        samples = [sample(i, n) for i, n in enumerate(wanted)]
        (folder / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(samples))
        with warnings.catch_warnings(), zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore")  # of duplicate names
            for name, content in members:
                archive.writestr(name, content)
        return folder / "images.zip"

    def refused(self, settings: Settings, capsys: pytest.CaptureFixture[str], said: str) -> None:
        failed, text = run(settings, capsys, "dataset")
        assert failed == 1
        assert said in text
        assert not [f for f in digest(out(settings)) if "settings.json" not in f], "nothing is extracted"

    def test_k09_a_large_member(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(settings, [("a.jpg", bytes(IMAGE_LIMIT + 1))], "a.jpg")
        self.refused(settings, capsys, "has 1 images larger than 64.0 MiB: a.jpg")

    def test_k09_many_members(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each is small, together they are a bomb."""
        monkeypatch.setattr(dataset, "TOTAL_FLOOR", 2**20)
        names = [f"{i}.bmp" for i in range(20)]
        self.write(settings, [(n, bytes(2**20)) for n in names], *names)
        self.refused(settings, capsys, "unpack to 20.0 MiB; must be at most 100 times as much")

    def test_k09_memory_does_not_grow_with_a_member(
        self, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.write(settings, [("a.bmp", bytes(IMAGE_LIMIT))], "a.bmp")
        tracemalloc.start()
        try:
            assert run(settings, capsys, "dataset")[0] == 0
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()
        assert (Path(settings["data"]["images"]) / "a.bmp").stat().st_size == IMAGE_LIMIT

    def test_k09_an_empty_image(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(settings, [("a.jpg", b"x"), ("b.jpg", b"")], "a.jpg", "b.jpg")
        self.refused(settings, capsys, "has 1 images of 0 bytes: b.jpg")

    @pytest.mark.parametrize("place", ["/a.jpg", "x/../../a.jpg", "../a.jpg", "x/../..//x/a.jpg", "../b.jpg"])
    def test_k09_a_name_outside_the_folder(
        self, settings: Settings, capsys: pytest.CaptureFixture[str], place: str
    ) -> None:
        """Also of a file that no sample names: whoever unzips it elsewhere gets it."""
        self.write(settings, [("images/a.jpg", b"x"), (place, b"y")], "a.jpg")
        self.refused(settings, capsys, f"has files outside the folder: {place}")
        self.write(settings, [(place, b"y")], "a.jpg")
        self.refused(settings, capsys, f"has files outside the folder: {place}")

    def test_k09_a_json_without_samples(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        self.write(settings, [("a.jpg", b"x")])
        self.refused(settings, capsys, "blip_laion_cc_sbu_558k.json: has no samples")

    def test_k09_a_link(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        link = zipfile.ZipInfo("a.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        self.write(settings, [(link, b"/etc/passwd")], "a.jpg")
        self.refused(settings, capsys, "has 1 images not as files (links, devices): a.jpg")

    @pytest.mark.parametrize("second", ["a.jpg", "./a.jpg", "x/../a.jpg"])
    def test_k09_a_name_twice(self, settings: Settings, capsys: pytest.CaptureFixture[str], second: str) -> None:
        self.write(settings, [("a.jpg", b"1"), (second, b"2")], "a.jpg")
        self.refused(settings, capsys, "has 1 images more than once: a.jpg")

    def test_k09_names_of_different_case(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        """Two files here; a file system without case is asked first."""
        self.write(settings, [("a.jpg", b"1"), ("A.jpg", b"2")], "a.jpg", "A.jpg")
        assert run(settings, capsys, "dataset")[0] == 0
        images = Path(settings["data"]["images"])
        assert [(images / n).read_bytes() for n in ("a.jpg", "A.jpg")] == [b"1", b"2"]
        shutil.rmtree(out(settings))
        (out(settings) / "data" / ".IMAGES.PARTIAL").mkdir(parents=True)  # what such a file system would answer
        self.refused(settings, capsys, "images a.jpg, A.jpg differ only in case")

    @pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_k09_other_compression(self, settings: Settings, capsys: pytest.CaptureFixture[str], method: int) -> None:
        """Its header decides on the memory of the reader."""
        member = zipfile.ZipInfo("a.jpg")
        member.compress_type = method
        self.write(settings, [(member, b"x" * 100)], "a.jpg")
        self.refused(settings, capsys, "compressed by a method other than deflate")

    @pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg", "a" * 300 + ".jpg", ""])
    def test_k09_names_that_no_file_has(
        self, settings: Settings, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        self.write(settings, [("b.jpg", b"1")], name)
        failed, said = run(settings, capsys, "dataset")
        assert failed == 1
        assert re.search("are not valid file names|not a path|lie outside the folder", said)

    def test_images_of_another_release_are_not_mixed(
        self, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Only the JSON is missing; the folder beside it is someone else's."""
        images = Path(settings["data"]["images"])
        images.mkdir(parents=True)
        (images / "a.jpg").write_bytes(b"1")
        failed, said = run(settings, capsys, "dataset")
        assert failed == 1
        assert "lacks 30 of 30 images of the JSON" in said
        assert not Path(settings["data"]["annotations"]).exists()


def test_sigterm_ends_it(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's first process, which the kernel shields; the lock is given back."""
    monkeypatch.setenv("CONVERTED_PAUSE", "1")
    with ended(subprocess.Popen(command(tmp_path, settings, "--only", "llm"), stdout=subprocess.DEVNULL)) as child:
        until(lambda: calls(tmp_path), "the conversion")
        child.terminate()
        assert child.wait() == 143
    assert not list(out(settings).rglob("*.lock"))


def test_the_torch_fixture_is_torchs() -> None:
    """The rank files of these tests are what torch.save wrote, not our idea of it."""
    with zipfile.ZipFile(DATA / "mcore-rank.ckpt") as archive:
        assert any(n.endswith("/data.pkl") for n in archive.namelist())
        assert any(n.endswith("/version") for n in archive.namelist())
