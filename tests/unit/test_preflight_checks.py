"""Each check of preflight on real inputs, right and wrong ones."""

import io
import itertools
import json
import os
import re
import resource
import shutil
import socket
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from neva_pod.findings import UsageError, note
from neva_pod.inputs.checkpoint import read_checkpoint
from neva_pod.inputs.tokenizer import LLAMA_3_TOKENS, extra_tokens, pieces
from neva_pod.preflight.checks import CHECKS, devices, images
from neva_pod.preflight.checks.checkpoint import VALUES_OF, llm_problems
from neva_pod.preflight.checks.dataset import silent_batches
from neva_pod.preflight.checks.devices import has_capability
from neva_pod.preflight.registry import Check, Context, Level
from neva_pod.preflight.report import as_json, as_text
from neva_pod.preflight.run import run_check
from neva_pod.prepare.huggingface import megatron_config
from neva_pod.settings import Settings as PodSettings
from neva_pretrain import chart
from neva_pretrain.model import catalog, hydra
from tests.unit.preflight_tools import (
    DATA,
    MODEL,
    Files,
    config_yaml,
    extended,
    image_bytes,
    legacy,
    problems,
    run,
    sample,
    tokenizer,
    torch_dist,
    torch_file,
    with_pieces,
    world,
    write_dataset,
    write_folder,
    write_saved,
    write_tar,
    write_vision,
    zarr,
)

Settings = dict[str, Any]

LAST = "neva--step=50-consumed_samples=400.0-last"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return world(tmp_path)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """Become another user, as a pod with runAsUser does; only root can."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    os.setegid(65534)
    os.seteuid(65534)
    yield folder
    os.seteuid(0)
    os.setegid(0)
    shutil.rmtree(folder)


def test_right_inputs_pass_every_check(settings: Settings) -> None:
    """Nothing fails, and only the unknown number of samples is worth a warning."""
    results = run(settings)
    assert {n: r.outcome for n, r in results.items() if r.outcome == "failed"} == {}
    assert [n for n, r in results.items() if r.outcome == "warning"] == ["dataset"]


class TestDataset:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """One GPU: a pass is as short as the datasets here."""
        settings["training"].update(gpusPerNode=1, globalBatchSize=1)
        return settings

    def change(self, settings: Settings, samples: list[Any]) -> None:
        Path(settings["data"]["annotations"]).write_text(json.dumps(samples))

    def test_f04_a_sample_without_image_token_is_named(self, settings: Settings) -> None:
        """F04: one of a thousand stops a DataLoader worker, hours later."""
        samples = [sample(i, f"{i}.jpg") for i in range(1000)]
        samples[617]["conversations"][0]["value"] = "Describe it."
        self.change(settings, samples)
        (message,) = problems(settings, "dataset")
        assert "1 samples have an image but no <image> in the first turn: id 000000617" in message

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"conversations": None}, "have no conversations"),
            ({"conversations": []}, "have no conversations"),
            ({"conversations": [{"from": "human"}]}, "have a turn without text"),
            ({"image": 7}, "have an image that is not a path"),
        ],
    )
    def test_f04_samples_without_conversations(self, settings: Settings, change: dict[str, Any], said: str) -> None:
        """F04: what else preprocess_multimodal stops at."""
        self.change(settings, [sample(0, "a.jpg"), {**sample(1, "b.jpg"), **change}])
        assert said in problems(settings, "dataset")[0]

    PLAIN = ("plain",)
    ROLES = ("llama_2", "llama_3", "mistral", "v1")
    PLACES = ("nvgpt", "nv_steerlm", "nv_dpo")
    ALL = (*PLAIN, *ROLES, *PLACES)

    @pytest.mark.parametrize(
        ("templates", "turns", "more", "said"),
        [
            (
                PLAIN,
                [("human", "<image>"), ("gpt", "a"), ("human", "b"), ("gpt", "c")],
                {},
                "do not have exactly 2 turns",
            ),
            (PLAIN, [("human", "<image>")], {}, "do not have exactly 2 turns, as the template plain requires"),
            (PLAIN, [("human", "<image>")] * 3, {"image": None}, "an image that is not a path"),
            (PLAIN, [("human", "x"), ("gpt", "a <image>")], {}, "an image but no <image> in the first turn"),
            (PLAIN, [("gpt", "<image> a"), ("human", "b")], {}, "not a human question and a gpt answer"),
            (PLAIN, [("human", "<image>"), ("gpt", "a <image>")], {}, "have more <image> than images"),
            (PLAIN, [("human", "<image>"), ("gpt", "a")], {"image": ["a.jpg", "b.jpg"]}, "more images than <image>"),
            (ROLES, [("human", "<image>"), ("human", "b")], {}, "turns that do not alternate between human and gpt"),
            (ROLES, [("gpt", "x"), ("gpt", "y"), ("human", "<image>")], {}, "do not alternate between human and gpt"),
            (ROLES, [("user", "<image>"), ("assistant", "b")], {}, "whose `from` is not human or gpt"),
            (ROLES, [(None, "<image>"), (["gpt"], "b")], {}, "whose `from` is not human or gpt"),
            (ROLES, [("gpt", "<image>")], {}, "have no question"),
            (ROLES, [("gpt", "<image>"), ("human", "q"), ("gpt", "a")], {}, "more images than <image>"),
            (ROLES[:3], [("human", ""), ("gpt", "<image>")], {}, "have an empty question"),
            ((*ROLES, *PLACES), [("human", "<image><image>"), ("gpt", "b")], {}, "more <image> than images"),
            (PLACES, [("human", "<image>"), ("gpt", "a")], {"system": None}, "a system prompt that is not text"),
            (ALL, [("human", "<image>"), ("gpt", "a")], {"image": [7]}, "an image that is not a path"),
            (ALL, [("human", "<image>"), ("gpt", "a")], {"image": ""}, "an image that is not a path"),
            (ALL, [("human", "<image>"), ("gpt", None)], {}, "a turn without text"),
            (ALL, [("human", "<image>"), ("gpt", 7)], {}, "a turn without text"),
            (ALL, [("human", "<image>"), ("gpt", "a")], {"image": []}, "<image> in the text but no image"),
            (ALL, [("human", "<image>"), ("gpt", "{end}")], {}, "NeVa's own token"),
            (ALL, [("human", "<image>"), ("gpt", "a \ud800")], {}, "a lone surrogate in the text"),
        ],
    )
    def test_n03_what_nemos_dataset_stops_at(
        self, settings: Settings, templates: tuple[str, ...], turns: list[Any], more: dict[str, Any], said: str
    ) -> None:
        """N03: template by template, as NeMo's own code did on these samples; each sample is named."""
        for template in templates:
            llama_3 = template == "llama_3"
            settings["model"]["modelType"] = "llama_3" if llama_3 else "llama_2"
            settings["samples"] = {"template": template, "mediaType": "image", "imageFirst": False}
            end = "<|reserved_special_token_5|>" if llama_3 else "<extra_id_5>"
            said_by = [{"from": f, "value": v.replace("{end}", end) if isinstance(v, str) else v} for f, v in turns]
            bad = {"id": "the-bad-one", "image": "a.jpg", "conversations": said_by, **more}
            self.change(settings, [sample(0, "a.jpg"), bad, sample(2, "a.jpg")])
            found = problems(settings, "dataset")
            assert len(found) == 1, (template, found)
            assert said in found[0], template
            assert "1 samples" in found[0]
            assert "id the-bad-one" in found[0]

    @pytest.mark.parametrize(
        ("templates", "turns", "more"),
        [
            (ALL, [("human", "q\n<image>"), ("gpt", "a")], {}),
            (ALL, [("human", "<image>"), ("gpt", "a")], {"image": ["a.jpg"]}),
            (ALL, [("human", "q"), ("gpt", "a")], {"image": []}),
            (PLAIN, [("human", "<image> and <image>"), ("gpt", "a")], {}),
            (PLAIN, [("user", "<image>"), ("assistant", "a")], {}),
            ((*ROLES, *PLACES), [("human", "<image>"), ("gpt", "a"), ("human", "b"), ("gpt", "c")], {}),
            (ROLES, [("gpt", "hello"), ("human", "<image>"), ("gpt", "a")], {}),
            (PLACES, [("user", "<image>"), ("assistant", "a")], {}),
        ],
    )
    def test_n03_what_nemos_dataset_takes(
        self, settings: Settings, templates: tuple[str, ...], turns: list[Any], more: dict[str, Any]
    ) -> None:
        for template in templates:
            settings["samples"] = {"template": template, "mediaType": "image", "imageFirst": False}
            good = {"id": 1, "image": "a.jpg", "conversations": [{"from": f, "value": v} for f, v in turns], **more}
            self.change(settings, [good])
            assert problems(settings, "dataset") == [], template

    def test_n03_samples_of_one_batch_have_one_number_of_images(self, settings: Settings) -> None:
        """N03: default_collate stacks them; a batch of one is always right."""
        two: dict[str, Any] = {
            "image": ["a.jpg", "b.jpg"],
            "conversations": [{"from": "human", "value": "<image> <image>"}],
        }
        two["conversations"].append({"from": "gpt", "value": "a"})
        settings["samples"] = {"template": "mistral"}
        settings["training"]["microBatchSize"] = 2
        self.change(settings, [sample(0, "a.jpg"), sample(1, "a.jpg"), {"id": "two", **two}])
        (message,) = problems(settings, "dataset")
        assert "1 samples have 2 images, unlike other samples" in message
        assert "id two" in message
        settings["training"]["microBatchSize"] = 1
        assert problems(settings, "dataset") == []

    def test_n03_an_answer_to_learn_from(self, settings: Settings) -> None:
        """N03: NeMo divides by the number of answers' tokens: in a batch of one that is 0."""
        silent = {"id": "silent", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>"}]}
        self.change(settings, [sample(0, "a.jpg"), silent])
        settings["samples"] = {"template": "mistral"}
        assert "at micro batch size 1 the loss is NaN: id silent" in problems(settings, "dataset")[0]
        settings["training"].update(microBatchSize=2, globalBatchSize=2)
        assert problems(settings, "dataset") == []
        assert "1 samples have no answer to learn from: id silent" in problems(settings, "dataset", "warning")[1]
        self.change(settings, [sample(0, "a.jpg"), silent, silent])
        assert (
            "2 samples have no answer, so that at micro batch size 2 the loss is NaN"
            in problems(settings, "dataset")[0]
        )
        assert silent_batches(4, 2, 2) == pytest.approx(1 / 3)  # one of 6 pairs, 2 pairs in a pass
        assert silent_batches(558_128, 500, 32) < 1e-90

    @pytest.mark.parametrize(
        ("samples", "training", "ways"),
        [
            (
                200,
                {"nodes": 4, "tensorParallelSize": 1, "microBatchSize": 32, "globalBatchSize": 1024},
                "1024 samples or more|microBatchSize=4 or 2 or 1",
            ),
            (63, {"tensorParallelSize": 4, "microBatchSize": 32, "globalBatchSize": 64}, "microBatchSize=16 or 8 or 4"),
            (
                7,
                {"tensorParallelSize": 1, "microBatchSize": 1, "globalBatchSize": 8},
                "use a dataset of 8 samples or more",
            ),
            (
                500,
                {"pipelineParallelSize": 2, "microBatchSize": 8, "globalBatchSize": 512},
                "globalBatchSize=480 or 448",
            ),
        ],
    )
    def test_r03_fewer_samples_than_a_pass(
        self, settings: Settings, samples: int, training: dict[str, int], ways: str
    ) -> None:
        """R03: NeMo's sampler divides by the samples that whole passes leave, none here; the sizes named work."""
        settings["training"].update(gpusPerNode=8, **training)
        self.change(settings, [sample(i, "a.jpg") for i in range(samples)])
        (message,) = problems(settings, "dataset")
        assert f"{samples} samples are fewer than one pass of all replicas takes" in message
        assert all(way in message for way in ways.split("|")), message
        for key, size in re.findall(r"training\.(\w+)=(\d+)", message):
            assert problems({**settings, "training": {**settings["training"], key: int(size)}}, "dataset") == []
        self.change(settings, [sample(i, "a.jpg") for i in range(1024)])
        assert problems(settings, "dataset") == []

    @pytest.mark.parametrize("name", ["blip.jsonl", "blip.txt", "blip"])
    def test_n03_nemo_goes_by_the_files_ending(self, settings: Settings, tmp_path: Path, name: str) -> None:
        """N03: ValueError: Formatting of ... is not supported in Neva."""
        Path(settings["data"]["annotations"]).rename(tmp_path / name)
        settings["data"]["annotations"] = str(tmp_path / name)
        assert f"{name}: must end with .json" in problems(settings, "dataset")[0]

    def test_n03_a_template_that_nemo_does_not_know(self, settings: Settings) -> None:
        settings["samples"] = {"template": "vicuna"}
        assert (
            "config.model.data.conv_template: got vicuna; must be one of NeMo's templates"
            in problems(settings, "dataset")[0]
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(("count", "name"), [(595375, "CC3M-Pretrain-595K"), (665298, "mix665K")])
    def test_f02_another_dataset_is_recognised(self, settings: Settings, count: int, name: str) -> None:
        """F02: 595,375 entries are the 595K dataset, whose names do not match."""
        self.change(settings, [sample(0, "a.jpg")] * count)
        (message,) = problems(settings, "dataset")
        assert f"{count} samples: this looks like LLaVA" in message
        assert name in message

    @pytest.mark.slow
    def test_f01_the_known_count_passes(self, settings: Settings) -> None:
        """F01: 558,128 entries."""
        self.change(settings, [sample(0, "a.jpg")] * 558128)
        result = run(settings, "dataset")["dataset"]
        assert result.outcome == "ok"
        assert "558128 samples: LLaVA-Pretrain-LCS-558K" in result.findings[0].message

    @pytest.mark.parametrize("content", ["", "{", "[1]", "{}", "[]"])
    def test_a_file_that_is_no_list_of_samples(self, settings: Settings, content: str) -> None:
        Path(settings["data"]["annotations"]).write_text(content)
        results = run(settings, "dataset", "images", "decode")
        assert results["dataset"].outcome == "failed"
        assert results["images"].outcome == "skipped", "reported once"

    def test_f03_a_git_lfs_pointer(self, settings: Settings) -> None:
        """F03: the JSON, too, is an LFS file on the hub."""
        Path(settings["data"]["annotations"]).write_text("version https://git-lfs.github.com/spec/v1\n")
        assert "LFS pointer" in problems(settings, "dataset")[0]


class TestImages:
    def test_f01_missing_images_are_counted(self, settings: Settings) -> None:
        """F01: the number, and the first five."""
        folder = Path(settings["data"]["images"])
        for i in range(7):
            (folder / f"00000/{i:09}.jpg").unlink()
        (message,) = problems(settings, "images")
        assert "7 of 20 images are missing: 00000/000000000.jpg" in message
        assert "and 2 more" in message

    def test_f02_images_of_another_dataset(self, settings: Settings) -> None:
        """F02: names that do not match."""
        shutil.rmtree(settings["data"]["images"])
        Path(settings["data"]["images"]).mkdir()
        assert "20 of 20 images are missing" in problems(settings, "images")[0]

    def test_nested_folder_is_found(self, settings: Settings) -> None:
        """Unzipped into images/images."""
        folder = Path(settings["data"]["images"])
        folder.rename(folder.with_name("inner"))
        folder.mkdir()
        folder.with_name("inner").rename(folder / "images")
        assert f"one level deeper: set data.images to {folder / 'images'}" in problems(settings, "images")[0]

    def test_folder_above_is_found(self, settings: Settings) -> None:
        settings["data"]["images"] += "/00000"
        assert "one level higher" in problems(settings, "images")[0]

    def test_no_single_file_is_asked_for(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        """558K stats over a network file system would take an hour."""
        monkeypatch.setattr(os, "stat", lambda *_a, **_k: pytest.fail("stat"))
        assert run(settings, "images")["images"].outcome == "ok"


class TestDecode:
    def put(self, settings: Settings, content: bytes, number: int = 3) -> str:
        file = Path(settings["data"]["images"]) / f"00000/{number:09}.jpg"
        file.write_bytes(content)
        return str(file.relative_to(settings["data"]["images"]))

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
    def test_f05_another_kind_is_a_warning(self, settings: Settings, kind: str) -> None:
        """F05: a GIF named .jpg decodes."""
        name = self.put(settings, image_bytes(kind))
        assert problems(settings, "decode") == []
        (message,) = problems(settings, "decode", "warning")
        assert f"(1 {kind}): {name}" in message

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "empty"),
            (image_bytes(side=200)[:900], "truncated"),
            (b"<html>403</html>", "cannot identify image"),
            (image_bytes("PNG", 200)[:60], ""),
            (image_bytes(side=1), "(height 1: NeMo takes its rows for colors)"),
            (image_bytes(side=3), "(height 3: NeMo takes its rows for colors)"),
        ],
    )
    def test_images_that_do_not_decode(self, settings: Settings, content: bytes, said: str) -> None:
        name = self.put(settings, content)
        (message,) = problems(settings, "decode")
        assert f"1 of 20 images cannot be used: {name}" in message
        assert said in message

    def test_f06_oversized_text_chunk_is_listed(self, settings: Settings, tmp_path: Path) -> None:
        """F06: Pillow raises ValueError; the check lists the file and goes on."""
        info = PngImagePlugin.PngInfo()
        info.add_text("x", "0" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "bomb.png", pnginfo=info)
        name = self.put(settings, (tmp_path / "bomb.png").read_bytes())
        self.put(settings, b"", 4)
        (message,) = problems(settings, "decode")
        assert "2 of 20 images" in message
        assert f"{name} (ValueError: Decompressed data too large" in message

    def test_f06_any_exception_of_pillow(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        """F06: also those that no one has seen yet."""
        monkeypatch.setattr(Image, "open", lambda _: (_ for _ in ()).throw(RecursionError("deep")))
        assert "20 of 20 images" in problems(settings, "decode")[0]

    def test_sample_is_spread_evenly(self, settings: Settings) -> None:
        settings["preflight"]["sample"] = 5
        assert "5 images decoded" in run(settings, "decode")["decode"].findings[-1].message

    def test_missing_images_are_left_to_their_own_check(self, settings: Settings) -> None:
        (Path(settings["data"]["images"]) / "00000/000000003.jpg").unlink()
        result = run(settings, "decode")["decode"]
        assert result.outcome == "ok"
        assert "19 images decoded" in result.findings[0].message

    def test_all_and_none(self, settings: Settings) -> None:
        settings["preflight"]["sample"] = 1
        settings["preflight"]["decode"] = "all"
        assert "20 images decoded" in run(settings, "decode")["decode"].findings[-1].message
        settings["preflight"]["decode"] = "none"
        assert run(settings, "decode")["decode"].outcome == "skipped"

    def test_without_pillow_signatures_are_read(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "pillow", lambda: None)
        self.put(settings, b"<html>403</html>")
        assert "not an image" in problems(settings, "decode")[0]
        assert "Pillow is not installed" in problems(settings, "decode", "warning")[0]


LAYOUTS = {
    "legacy-tp1": (legacy(1), "legacy, TP 1 PP 1"),
    "legacy-tp4": (legacy(4), "legacy, TP 4 PP 1"),
    "legacy-tp2-pp2": (legacy(2, 2), "legacy, TP 2 PP 2"),
    "zarr": (zarr(), "distributed (zarr)"),
    "torch_dist": (torch_dist(), "distributed (torch_dist)"),
}


BOMBS = {
    "aliases": "a: &a [x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghijklmnop"))
    + "num_layers: *p\n",
    "itself": "num_layers: &a [*a]\n",
    "merges": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in itertools.pairwise("abcdefghijklmnop")),
    "nested flow": "num_layers: " + "[" * 10_000,
    "nested blocks": "- " * 100_000,
    "long": "a: b\n" * 100_000,
    "number": "num_layers: " + "9" * 100_000 + "\n",
    "sexagesimal": "num_layers: 1" + ":1" * 20_000 + "\n",
    "hexadecimal": "num_layers: 0x" + "f" * 100_000 + "\n",
    "text": "num_layers: " + "x" * 100_000 + "\n",
    "list": "num_layers: [" + "1, " * 5_000 + "]\n",
    "key": "rope" * 40_000 + "fusion: 1\n",
    "tag": "!!python/object/apply:os.system [touch pwned]\n",
    "binary": "num_layers: !!binary x\n",
    "date": "num_layers: 2024-99-99\n",
    "bytes": "\0",
}


PICKLES = {
    "doubled tuples as a key": b"\x80\x02}(" + b")" + b"q\x000h\x00h\x00\x86" * 200 + b"K\x01u.",
    "doubled tuples as a shape": b"\x80\x02ctorch\nSize\n" + b"K\x01" + b"q\x00h\x00\x86" * 200 + b"\x85R.",
    "memo far away": b"\x80\x02}r\xff\xff\xff\x7f.",
    "bytes that are not there": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
    "runs": b"cos\nsystem\n(S'touch pwned'\ntR.",
    "no end": b"\x80\x02}",
    "marks": b"(" * 1000 + b"e" * 1000 + b".",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "number": b"\x80\x02\x8b" + (10**5).to_bytes(4, "little") + b"\x7f" * 10**5 + b".",
    "empty": b"",
}


class TestCheckpoint:
    def use(self, settings: Settings, tmp: Path, files: Files, kind: str = "folder") -> Path:
        path = tmp / "given" / "Llama 2 $(id) 'tp8'.nemo"
        (write_tar if kind == "tar" else write_folder)(path, files)
        settings["model"]["checkpointPath"] = str(path)
        return path

    @pytest.mark.parametrize("kind", ["folder", "tar"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_e02_layout_is_seen_from_inside(self, settings: Settings, tmp_path: Path, layout: str, kind: str) -> None:
        """E02: from a tar and from a folder, whatever its name says."""
        files, said = LAYOUTS[layout]
        path = self.use(settings, tmp_path, files, kind)
        assert str(read_checkpoint(str(path))).startswith(said)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_e03_distributed_loads_at_any_parallelism_legacy_at_its_own(
        self, settings: Settings, tmp_path: Path, layout: str
    ) -> None:
        """E03: TP and PP of a legacy one must match."""
        files, said = LAYOUTS[layout]
        self.use(settings, tmp_path, files)
        settings["training"].update(tensorParallelSize=8, pipelineParallelSize=1)
        found = problems(settings, "checkpoint")
        if said.startswith("distributed"):
            assert found == []
        else:
            assert "must be TP 8 PP 1" in found[0]
            assert "convert it (prepare.llm), or set training.tensorParallelSize=" in found[0]

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_format_can_be_demanded(self, settings: Settings, tmp_path: Path, layout: str) -> None:
        files, said = LAYOUTS[layout]
        self.use(settings, tmp_path, files)
        settings["model"]["checkpointFormat"] = "distributed"
        demanded = [m for m in problems(settings, "checkpoint") if "requires" in m]
        assert bool(demanded) != said.startswith("distributed")

    @pytest.mark.parametrize("kind", ["folder", "tar"])
    @pytest.mark.parametrize(
        ("without", "said"),
        [
            ("model_config.yaml", "no model_config.yaml"),
            ("mp_rank_02/model_weights.ckpt", "weights of TP rank 2 PP rank 0 are missing"),
        ],
    )
    def test_e02_the_missing_part_is_named(
        self, settings: Settings, tmp_path: Path, kind: str, without: str, said: str
    ) -> None:
        """E02: a path is right only with config and weights."""
        files = {n: c for n, c in legacy(4).items() if n != without}
        self.use(settings, tmp_path, files, kind)
        assert said in problems(settings, "checkpoint")[0]

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({"model_config.yaml": config_yaml()}, "no weights"),
            ({**zarr(), "model_weights/metadata.json": b"{}"}, "names the format ''"),
            (
                {k: v for k, v in zarr().items() if k != "model_weights/metadata.json"},
                "has no metadata.json: it is incomplete",
            ),
            (
                {k: v for k, v in torch_dist().items() if not k.endswith(".distcp")},
                "no tensors of its format torch_dist",
            ),
            (
                {"config.json": b"{}", "model.safetensors": b"x"},
                "this is a Hugging Face checkpoint",
            ),
            (
                {k.removeprefix("model_weights/"): v for k, v in zarr().items() if "_w" in k},
                "this is the model_weights folder itself",
            ),
            ({"context/io.json": b"", "weights/metadata.json": b""}, "NeMo 2 checkpoint"),
        ],
    )
    def test_e02_unfinished_and_foreign_folders(
        self, settings: Settings, tmp_path: Path, files: Files, said: str
    ) -> None:
        """E02: a conversion that ended early leaves per-tensor folders."""
        self.use(settings, tmp_path, files)
        assert said in problems(settings, "checkpoint")[0]

    def test_e02_a_truncated_tar(self, settings: Settings, tmp_path: Path) -> None:
        """E02, E04: a killed conversion."""
        path = self.use(settings, tmp_path, legacy(4), "tar")
        whole = path.read_bytes()
        for size in (len(whole) // 2, 2000, 700):
            path.write_bytes(whole[:size])
            assert "truncated" in problems(settings, "checkpoint")[0], size

    def test_files_that_are_no_tar(self, settings: Settings, tmp_path: Path) -> None:
        path = self.use(settings, tmp_path, legacy(1), "tar")
        for content, said in (
            (b"x" * 4096, "is not a tar"),
            (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
            (b"", "truncated"),
        ):
            path.write_bytes(content)
            assert said in problems(settings, "checkpoint")[0]

    def test_a_compressed_nemo_is_refused_with_the_way_out(self, settings: Settings, tmp_path: Path) -> None:
        """Its members cannot be listed without unpacking all of it, in each rank."""
        path = self.use(settings, tmp_path, {"x": b""}, "tar")
        write_tar(path, legacy(1), mode="w:gz")
        assert "compressed with gzip" in problems(settings, "checkpoint")[0]
        assert "tar -xzf" in problems(settings, "checkpoint")[0]

    def test_e05_another_model(self, settings: Settings, tmp_path: Path) -> None:
        """E05: 13B preset, 7B file; all differences at once."""
        self.use(settings, tmp_path, legacy(1, num_layers=32, ffn_hidden_size=11008))
        settings["architecture"].update(numLayers=40, ffnHiddenSize=13824, numQueryGroups=8)
        (message,) = problems(settings, "checkpoint")
        assert "num_layers is 32, must be 40" in message
        assert "ffn_hidden_size is 11008, must be 13824" in message
        assert "num_query_groups is 4, must be 8" in message

    @pytest.mark.parametrize(
        ("model", "config"),
        [
            ("llama2_7b_chat", {"rotary_base": 10000.0}),
            ("llama2_7b_chat", {}),
            (
                "llama2_7b_chat",
                {"rotary_base": "1e4", "layernorm_epsilon": "1e-5", "seq_len_interpolation_factor": 1.0},
            ),
            ("llama2_7b_chat", {"activation": "swiglu", "normalization": "RMSNorm", "kv_channels": 2}),
            ("llama2_7b_chat", {"window_size": [-1, 0], "moe_router_topk": 1, "apply_rope_fusion": True}),
            ("llama3_8b_chat", {"rotary_base": 500000, "max_position_embeddings": 8192}),
            ("mistral_7b_instruct", {"rotary_base": 1e6, "window_size": None}),
            ("nemotron4_340b_chat", {"normalization": "layernorm", "layernorm_zero_centered_gamma": True}),
            ("nemotron4_340b_chat", {"rotary_percentage": 0.5, "activation": "squared-relu"}),
        ],
    )
    def test_n01_a_checkpoint_of_the_runs_config_passes(
        self, settings: Settings, tmp_path: Path, model: str, config: dict[str, Any]
    ) -> None:
        """N01: numbers that YAML 1.1 reads as text, and names that are the same to Megatron."""
        self.use(settings, tmp_path, zarr(**config))
        settings["llm"] = hydra.llm({}, catalog.get(model))
        assert problems(settings, "checkpoint") == []

    @pytest.mark.parametrize(
        ("model", "config", "said"),
        [
            ("llama3_8b_chat", {}, "rotary_base is 10000, the run's config says 500000"),
            ("mistral_7b_instruct", {"rotary_base": 10000.0}, "rotary_base is 10000.0, the run's config says 1000000"),
            ("mistral_7b_instruct", {"rotary_base": 1e6, "window_size": [4096, 0]}, "window_size is [4096, 0]"),
            ("llama2_7b_chat", {"seq_len_interpolation_factor": 8}, "seq_len_interpolation_factor is 8"),
            ("llama2_7b_chat", {"rotary_percentage": 0.5}, "rotary_percentage is 0.5, the run's config says 1"),
            ("llama2_7b_chat", {"position_embedding_type": "alibi"}, "position_embedding_type is alibi"),
            ("llama2_7b_chat", {"normalization": "layernorm"}, "normalization is layernorm"),
            ("nemotron4_340b_chat", {"normalization": "layernorm"}, "says layernorm1p"),
            ("llama2_7b_chat", {"activation": "geglu"}, "activation is geglu"),
            ("llama2_7b_chat", {"bias": True}, "bias is true"),
            ("llama2_7b_chat", {"qkv_bias": True}, "qkv_bias is true"),
            ("llama2_7b_chat", {"layernorm_epsilon": 1e-6}, "layernorm_epsilon is 1e-06"),
            ("llama2_7b_chat", {"share_embeddings_and_output_weights": True}, "share_embeddings"),
            ("llama2_7b_chat", {"rotary_interleaved": True}, "rotary_interleaved is true"),
            ("llama2_7b_chat", {"kv_channels": 256}, "kv_channels is 256"),
            ("llama2_7b_chat", {"scale_positional_embedding": True}, "scale_positional_embedding true: NeVa of NeMo"),
            ("llama2_7b_chat", {"rope_scaling": {"factor": 8.0}}, "rope_scaling a dict of 1: NeVa of NeMo"),
            ("llama2_7b_chat", {"apply_embedding_scaling": True}, "apply_embedding_scaling true: NeVa of NeMo"),
        ],
    )
    def test_n01_another_language_model_than_the_runs_config(
        self, settings: Settings, tmp_path: Path, model: str, config: dict[str, Any], said: str
    ) -> None:
        """N01: the weights fit, so NeMo loads them without a word; the LLM is degraded."""
        self.use(settings, tmp_path, zarr(**config))
        settings["llm"] = hydra.llm({}, catalog.get(model))
        assert any(said in m for m in problems(settings, "checkpoint"))

    def test_n01_the_runs_own_values_count(self, settings: Settings, tmp_path: Path) -> None:
        """N01: what `config` and model.architecture change is what the checkpoint must have."""
        values = {
            "config": {"model": {"window_size": [128, 0], "layernorm_epsilon": 1e-6}},
            "model": {"architecture": {"rotaryBase": 1e5}},
        }
        settings["llm"] = hydra.llm(values, catalog.get("llama2_7b_chat"))
        self.use(settings, tmp_path, zarr(rotary_base=1e5, window_size=[128, 0], layernorm_epsilon="1e-6"))
        assert problems(settings, "checkpoint") == []
        self.use(settings, tmp_path, zarr())
        (message,) = problems(settings, "checkpoint")
        assert "rotary_base is 10000, the run's config says 100000.0; window_size is null, the run" in message
        fix = "set model.architecture.rotaryBase=10000, config.model.window_size=null"
        assert "layernorm_epsilon" not in message, "what model_config.yaml leaves out is not compared"
        assert fix in message
        owned, facts = chart.rules()["ownedConfig"], chart.rules()["llmConfig"]
        assert {k: owned[f"model.{k}"] for k in facts if f"model.{k}" in owned} == VALUES_OF

    @pytest.mark.parametrize(
        ("model", "config", "said"),
        [
            ("mistral_7b_instruct", {"rope_theta": 1e6, "sliding_window": None, "rms_norm_eps": 1e-5}, ""),
            ("llama2_7b_chat", {"rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False}, ""),
            ("llama3_8b_chat", {"rope_theta": 500000.0, "attention_bias": False, "hidden_size": 4096}, ""),
            ("mixtral_8x7b_instruct", {"rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2}, ""),
            ("llama3_8b_chat", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, ""),
            ("mistral_7b_instruct", {"rope_theta": 1e4, "sliding_window": 4096}, "rotary_base is 10000.0, the run's"),
            ("mistral_7b_instruct", {"rope_theta": 1e6, "sliding_window": 4096}, "window_size is [4096, 0]"),
            (
                "llama3_8b_chat",
                {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
                "llama3: NeVa",
            ),
            ("llama2_7b_chat", {"rope_scaling": {"type": "linear", "factor": 4}}, "interpolation_factor is 4"),
            ("llama2_7b_chat", {"rms_norm_eps": 1e-06}, "layernorm_epsilon is 1e-06"),
            ("llama2_7b_chat", {"rope_scaling": "yarn"}, "rope_scaling yarn: NeVa"),
            ("llama2_7b_chat", {"attention_bias": True}, "qkv_bias is true"),
        ],
    )
    def test_n01_a_source_is_compared_before_its_conversion(
        self, settings: Settings, model: str, config: dict[str, Any], said: str
    ) -> None:
        """N01: a Hugging Face config.json, in the names of model_config.yaml."""
        settings["llm"] = hydra.llm({}, catalog.get(model))
        found = llm_problems(megatron_config(config), PodSettings(settings), "config.json")
        messages = [f.message for f in found]
        assert [bool(messages), said in "".join(messages)] == [bool(said), True], messages

    def test_d12_megatron_core_is_demanded(self, settings: Settings, tmp_path: Path) -> None:
        """D12: other key names are ignored in silence."""
        self.use(settings, tmp_path, legacy(1, mcore_gpt=False))
        assert "mcore_gpt is false" in problems(settings, "checkpoint")[0]

    @pytest.mark.parametrize("files", [zarr(), torch_dist(), legacy(1)])
    def test_d12_names_of_weights_are_read(self, settings: Settings, tmp_path: Path, files: Files) -> None:
        """D12: from .zarray, torch_dist's .metadata and torch's zip, as torch writes them."""
        for kind in ("folder", "tar"):
            path = self.use(settings, tmp_path, files, kind)
            result = run(settings, "weights")["weights"]
            assert result.outcome == "ok", result
            assert "tensors under Megatron Core's names" in result.findings[0].message
            shutil.rmtree(path) if kind == "folder" else path.unlink()

    def test_d12_names_that_neva_ignores(self, settings: Settings, tmp_path: Path) -> None:
        """D12: mcore_gpt may say true while the weights have NeMo's old names."""
        rank = (DATA / "legacy-names-rank.ckpt").read_bytes()
        self.use(settings, tmp_path, legacy(1, rank=rank), "tar")
        assert "NeVa would ignore them without an error" in problems(settings, "weights")[0]

    @pytest.mark.parametrize("tar", [False, True])
    @pytest.mark.parametrize(
        ("file", "content", "said"),
        [
            ("__1_0.distcp", None, "__1_0.distcp is missing"),
            ("__0_0.distcp", b"", "__0_0.distcp has 0 bytes"),
            ("__0_0.distcp", b"PK", "__0_0.distcp has 2 of "),
            ("common.pt", None, "common.pt is missing"),
            ("__0_0.distcp", ..., ""),
        ],
    )
    def test_files_of_weights_are_whole(
        self, settings: Settings, tmp_path: Path, file: str, content: Any, said: str, tar: bool
    ) -> None:
        """The index names files and their sizes; in a .nemo file as in a folder."""
        folder = DATA / "saved"
        files = {f"model_weights/{f.name}": f.read_bytes() for f in folder.iterdir()}
        if content is None:
            del files[f"model_weights/{file}"]
        elif content is not ...:
            files[f"model_weights/{file}"] = content
        files["model_config.yaml"] = config_yaml()
        path = write_tar(tmp_path / "a.nemo", files) if tar else write_folder(tmp_path / "a", files)
        settings["model"]["checkpointPath"] = str(path)
        found = problems(settings, "weight-files")
        assert said in found[0] if said else found == []

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_each_tensor_is_there_in_its_shape(self, settings: Settings, tmp_path: Path, layout: str) -> None:
        self.use(settings, tmp_path, LAYOUTS[layout][0])
        assert problems(settings, "weights") == []
        settings["architecture"].update(ffnHiddenSize=64)
        assert "mlp.linear_fc1.weight is [" in problems(settings, "weights")[0]
        settings["architecture"].update(ffnHiddenSize=32, numLayers=4)
        assert "has no tensor " in str(problems(settings, "weight-files")) or layout in ("zarr", "torch_dist")
        settings["architecture"].update(numLayers=2, hiddenSize=16)
        assert "self_attention.linear_qkv.weight is [" in problems(settings, "weights")[0]

    @pytest.mark.parametrize("kind", ["folder", "tar"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_tensor_that_is_missing(self, settings: Settings, tmp_path: Path, layout: str, kind: str) -> None:
        """A whole array of zarr, a name of torch_dist's index, or what one rank's file lacks."""
        files, place = dict(LAYOUTS[layout][0]), "model_weights"
        if layout == "zarr":
            for name in [n for n in files if "linear_proj.weight/" in n]:
                del files[name]
        elif layout == "torch_dist":
            index = "model_weights/.metadata"
            files[index] = files[index].replace(b"model.decoder.layers.self_attention.linear_proj.weight", b"x" * 54)
        else:
            shapes = MODEL.of_rank(128, *{"1": (1, 1, 0), "4": (4, 1, 0), "2": (2, 2, 1)}[layout[-1]])
            del shapes["decoder.layers.0.self_attention.linear_proj.weight"]
            place = sorted(n for n in files if n.endswith(".ckpt"))[-1]
            files[place] = torch_file(shapes)
        self.use(settings, tmp_path, files, kind)
        assert problems(settings, "weights") == []
        message = problems(settings, "weight-files")[0]
        layer = "" if place == "model_weights" else "0."
        assert f"{place} has no tensor decoder.layers.{layer}self_attention.linear_proj.weight: " in message

    def test_d11_a_file_needs_room_for_each_rank(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """D11: both numbers; a folder needs none."""
        path = self.use(settings, tmp_path, legacy(1), "tar")
        os.truncate(path, 13 * 2**30)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        real = os.statvfs

        def small(place: str) -> Any:
            found = real(place)
            return SimpleNamespace(f_bavail=2**20, f_frsize=4096, f_flag=found.f_flag)

        monkeypatch.setattr(os, "statvfs", small)
        (message,) = problems(settings, "unpack-space")
        assert "has 4.0 GiB free" in message
        assert "8 x 13.0 GiB = 104.0 GiB" in message
        settings["model"]["checkpointPath"] = str(tmp_path)
        assert problems(settings, "unpack-space") == []

    @pytest.mark.slow
    @pytest.mark.parametrize("bomb", BOMBS)
    def test_k11_configs_that_grow(self, settings: Settings, tmp_path: Path, bomb: str) -> None:
        """K11: one short finding, whatever the YAML would become."""
        self.use(settings, tmp_path, {**zarr(), "model_config.yaml": BOMBS[bomb].encode()})
        result = run(settings, "checkpoint")["checkpoint"]
        assert result.outcome == "failed"
        assert sum(len(f.message + f.fix) for f in result.findings) < 2000
        assert not any("the check itself" in f.message for f in result.findings)

    @pytest.mark.parametrize(
        "content", [b"[" * 10**5, b'{"a":' * 10**5, b"1" * 5000, b" " * 10**6, b'"' + b"x" * 10**5 + b'"']
    )
    @pytest.mark.parametrize("name", ["metadata.json", "model.embedding.word_embeddings.weight/.zarray"])
    def test_k11_json_that_grows(self, settings: Settings, tmp_path: Path, name: str, content: bytes) -> None:
        """K11: nested deeply, large, or of another type than expected."""
        self.use(settings, tmp_path, {**zarr(), f"model_weights/{name}": content})
        for check in ("checkpoint", "weights"):
            for found in run(settings, check)[check].findings:
                assert len(found.message) < 2000
                assert "the check itself" not in found.message

    @pytest.mark.parametrize("bomb", PICKLES)
    @pytest.mark.parametrize("backend", ["torch_dist", "legacy"])
    def test_k11_pickles(self, settings: Settings, tmp_path: Path, bomb: str, backend: str) -> None:
        """K11: what a pickle says is never hashed, compared, copied or run."""
        if backend == "legacy":
            rank = io.BytesIO()
            with zipfile.ZipFile(rank, "w") as archive:
                archive.writestr("archive/data.pkl", PICKLES[bomb])
            files = legacy(1, rank=rank.getvalue())
        else:
            files = {**torch_dist(), "model_weights/.metadata": PICKLES[bomb]}
        self.use(settings, tmp_path, files)
        (message,) = problems(settings, "weights")
        assert len(message) < 2000
        assert "the check itself" not in message

    def test_k11_ranks_and_pipes(self, settings: Settings, tmp_path: Path) -> None:
        """K11: folders of ranks without end, a pipe that no one writes to, a folder that holds itself."""
        files = {"model_config.yaml": config_yaml(), f"mp_rank_{'9' * 30}/model_weights.ckpt": b"x"}
        path = self.use(settings, tmp_path, files)
        assert "its folders name TP" in problems(settings, "checkpoint")[0]
        os.mkfifo(path / "pipe")
        assert "is not a file" in problems(settings, "checkpoint")[0]
        settings["model"].update(checkpointPath=str(path / "pipe"), tokenizerPath=str(path / "pipe"))
        assert "neither a file nor a folder" in problems(settings, "checkpoint")[0]
        assert "is not a file" in problems(settings, "tokenizer")[0]
        loop = write_folder(tmp_path / "loop", zarr())
        (loop / "model_weights" / "again").symlink_to(loop)
        settings["model"]["checkpointPath"] = str(loop)
        assert problems(settings, "checkpoint") == []

    @pytest.mark.parametrize(
        "value", ["!!bool foo", '!!float ""', '!!int ""', "!!timestamp x", "!!binary é", "!!map []"]
    )
    def test_a_tag_whose_text_is_of_another_kind(self, settings: Settings, tmp_path: Path, value: str) -> None:
        files = {**zarr(), "model_config.yaml": config_yaml() + f"\nx: {value}\n".encode()}
        self.use(settings, tmp_path, files)
        (message,) = problems(settings, "checkpoint")
        assert "model_config.yaml is not YAML: " in message

    def test_without_yaml_the_config_is_not_compared(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "yaml", None)
        assert problems(settings, "checkpoint") == []
        assert "PyYAML is not installed" in problems(settings, "checkpoint", "warning")[0]


class TestTokenizer:
    def put(self, settings: Settings, model: bytes) -> None:
        Path(settings["model"]["tokenizerPath"]).write_bytes(model)

    def test_e07_pieces_are_read_without_any_library(self) -> None:
        """E07: text and type of each piece, as sentencepiece's own classes give them."""
        from sentencepiece import sentencepiece_model_pb2

        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(extended())
        assert pieces(extended()) == [(p.piece, p.type) for p in proto.pieces]

    def test_e07_tokens_that_are_not_there(self, settings: Settings) -> None:
        """E07: the model's own tokenizer, unprepared."""
        self.put(settings, tokenizer())
        assert "lacks <extra_id_0>" in problems(settings, "tokenizer")[0]

    def test_e07_control_pieces(self, settings: Settings) -> None:
        """E07: NeMo's script without --is_userdefined."""
        self.put(settings, extended(kind=3))
        assert "are not of type USER_DEFINED" in problems(settings, "tokenizer")[0]

    def test_e07_tokens_not_at_the_end(self, settings: Settings) -> None:
        """E07: ids of other tokens have moved."""
        self.put(settings, with_pieces(extended(), ["<other>"], 4))
        assert "not the last 8 pieces" in problems(settings, "tokenizer")[0]

    @pytest.mark.parametrize("content", [b"", b"hello world", b"\xff" * 40, b'{"a": 1}'])
    def test_files_that_are_no_tokenizer(self, settings: Settings, content: bytes) -> None:
        self.put(settings, content)
        assert "is not a sentencepiece model" in problems(settings, "tokenizer")[0]

    def test_published_tokens_may_lie_anywhere(self, settings: Settings) -> None:
        """Nemotron's tokenizer has them among its first pieces."""
        settings["model"]["extraTokens"] = 0
        assert problems(settings, "tokenizer") == []
        self.put(settings, tokenizer())
        assert "lacks <extra_id_0>, <extra_id_1>" in problems(settings, "tokenizer")[0]
        self.put(settings, extended(kind=3))
        assert "are not of type USER_DEFINED" in problems(settings, "tokenizer")[0]

    @pytest.mark.parametrize("count", [8, 0])
    def test_a_piece_that_is_there_twice(self, settings: Settings, count: int) -> None:
        """Sentencepiece refuses to load it."""
        settings["model"]["extraTokens"] = count
        self.put(settings, with_pieces(extended(), extra_tokens(8), 4))
        (message,) = problems(settings, "tokenizer")
        assert "more than once: sentencepiece does not load it" in message

    def test_huggingface_folder(self, settings: Settings, tmp_path: Path) -> None:
        folder = tmp_path / "hf tokenizer"
        folder.mkdir()
        settings["model"].update(
            tokenizerPath=str(folder),
            tokenizerLibrary="huggingface",
            modelType="llama_3",
            extraTokens=0,
        )
        assert "has no tokenizer.json" in problems(settings, "tokenizer")[0]
        added = [{"id": 60 + i, "content": t} for i, t in enumerate(LLAMA_3_TOKENS)]
        data = {"model": {"vocab": {str(i): i for i in range(60)}}, "added_tokens": added}
        (folder / "tokenizer.json").write_text(json.dumps(data))
        (folder / "tokenizer_config.json").write_text("{}")
        assert "names no tokenizer_class" in problems(settings, "tokenizer")[0]
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        assert problems(settings, "tokenizer") == []
        assert problems(settings, "vocabulary") == []
        data["added_tokens"] = added[1:]
        (folder / "tokenizer.json").write_text(json.dumps(data))
        assert "has no <|reserved_special_token_0|>" in problems(settings, "tokenizer")[0]


class TestVocabulary:
    def test_tokenizer_of_another_model(self, settings: Settings) -> None:
        settings["architecture"]["vocabSize"] = 1000
        (message,) = problems(settings, "vocabulary")
        assert "has 68 tokens, padded to 128 at TP 1; the model has 1000, padded to 1024" in message

    def test_legacy_embedding_padded_for_another_tp(self, settings: Settings, tmp_path: Path) -> None:
        """128 rows in each of 2 ranks, while 68 tokens need 256 at TP 2 and 512 at TP 4."""
        for tensor, rows, needed in ((2, None, 256), (4, 512, 512)):
            path = write_folder(tmp_path / f"tp{tensor}", legacy(tensor))
            settings["model"]["checkpointPath"] = str(path)
            settings["training"]["tensorParallelSize"] = tensor
            assert problems(settings, "vocabulary") == [], (rows, needed)
        settings["training"]["tensorParallelSize"] = 2
        assert "embedding has 512 rows; the tokenizer needs 256" in problems(settings, "vocabulary")[0]

    def test_distributed_is_padded_at_load(self, settings: Settings, tmp_path: Path) -> None:
        settings["model"]["checkpointPath"] = str(write_folder(tmp_path / "z", zarr()))
        settings["training"]["tensorParallelSize"] = 8
        assert problems(settings, "vocabulary") == []


class TestVision:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                {"architectures": ["ViTModel"]},
                "architectures[0] is ViTModel; must be one of CLIPModel",
            ),
            ({"architectures": []}, "architectures[0] is None"),
            (
                {"vision_config": {"image_size": 224, "patch_size": 14, "hidden_size": 16}},
                "image_size is 224; must be 336",
            ),
            (
                {"vision_config": {"image_size": 336, "hidden_size": 16}},
                "patch_size is 32; must be 14",
            ),
            (
                {"vision_config": {"image_size": 336, "patch_size": 14, "hidden_size": 1280}},
                "hidden_size is 1280",
            ),
        ],
    )
    def test_d14_config_of_another_encoder(
        self, settings: Settings, tmp_path: Path, change: dict[str, Any], said: str
    ) -> None:
        """D14: architecture and sizes, with transformers' defaults for keys left out."""
        write_vision(tmp_path / "clip", **change)
        assert any(said in m for m in problems(settings, "vision"))

    def test_d14_a_vision_model_alone(self, settings: Settings, tmp_path: Path) -> None:
        """D14: CLIPVisionModel has its sizes at the top."""
        shutil.rmtree(tmp_path / "clip")
        write_vision(tmp_path / "clip")
        flat = {
            "architectures": ["CLIPVisionModel"],
            "image_size": 336,
            "patch_size": 14,
            "hidden_size": 16,
        }
        (tmp_path / "clip" / "config.json").write_text(json.dumps(flat))
        assert problems(settings, "vision") == []

    def test_d14_missing_files(self, settings: Settings, tmp_path: Path) -> None:
        """D14: weights missing, empty, or an LFS pointer; every problem at once."""
        weights = tmp_path / "clip" / "pytorch_model.bin"
        weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        (tmp_path / "clip" / "preprocessor_config.json").unlink()
        found = problems(settings, "vision")
        assert "has no preprocessor_config.json" in found[0]
        assert "LFS pointer" in found[1]
        weights.write_bytes(b"")
        assert "is missing or empty" in problems(settings, "vision")[1]
        weights.unlink()
        assert "has neither model.safetensors nor pytorch_model.bin" in problems(settings, "vision")[1]

    def test_d14_shards_are_followed(self, settings: Settings, tmp_path: Path) -> None:
        """D14: an index without one of its shards."""
        clip = tmp_path / "clip"
        (clip / "pytorch_model.bin").unlink()
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (clip / "model.safetensors.index.json").write_text(json.dumps(index))
        (clip / "model-1.safetensors").write_bytes(b"x")
        (message,) = problems(settings, "vision")
        assert "model-2.safetensors: is missing" in message

    def test_d15_hub_id_while_offline(self, settings: Settings) -> None:
        """D15: refused before GPUs, unless hf.online."""
        settings["model"]["visionEncoderPath"] = "openai/clip-vit-large-patch14-336"
        assert "hub id openai/clip" in problems(settings, "hub-id")[0]
        settings["hf"]["online"] = True
        assert problems(settings, "hub-id") == []
        assert run(settings, "vision")["vision"].outcome == "skipped"


class TestResume:
    def save(self, settings: Settings, *names: str, folder: str = "") -> None:
        place = Path(folder or settings["results"]["checkpointsDir"])
        for name in names:
            if name.endswith("-unfinished"):
                (place / name).touch()
            else:
                write_saved(place / name)

    def record(self, settings: Settings) -> None:
        path = Path(settings["results"]["path"])
        path.mkdir(parents=True, exist_ok=True)
        (path / "run.json").write_text(json.dumps(settings))

    def test_d05_first_run(self, settings: Settings) -> None:
        """D05: nothing to resume is right by default."""
        result = run(settings, "resume")["resume"]
        assert result.outcome == "ok"
        assert settings["results"]["checkpointsDir"] in result.findings[0].message

    def test_d04_require_prints_the_path(self, settings: Settings) -> None:
        """D04: no *last, and the path that was looked at."""
        settings["resume"] = "require"
        (message,) = problems(settings, "resume")
        assert f"no checkpoint that matches *last in {settings['results']['checkpointsDir']}" in message

    @pytest.mark.parametrize("other", ["results/r2/results/checkpoints", "results/r/results/x/checkpoints"])
    def test_d04_checkpoints_of_other_runs_are_found(self, settings: Settings, tmp_path: Path, other: str) -> None:
        """D04: a level deeper, or in another run's folder."""
        settings["resume"] = "require"
        self.save(settings, LAST + "/", folder=str(tmp_path / other))
        assert f"there are some in {tmp_path / other}" in problems(settings, "resume")[0]

    @pytest.mark.parametrize(
        ("parallel", "names"),
        [
            ((1, 1), (LAST + "/", "neva--step=50-consumed_samples=400.0/")),
            ((1, 1), (LAST + ".ckpt",)),
            ((4, 1), tuple(f"mp_rank_{t:02}/{LAST}.ckpt" for t in range(4))),
            ((1, 2), tuple(f"tp_rank_00_pp_rank_{p:03}/{LAST}.ckpt" for p in range(2))),
        ],
    )
    def test_a_checkpoint_is_resumed(
        self, settings: Settings, parallel: tuple[int, int], names: tuple[str, ...]
    ) -> None:
        """A legacy checkpoint has the same name in each rank's folder: that is one."""
        settings["training"].update(tensorParallelSize=parallel[0], pipelineParallelSize=parallel[1])
        self.save(settings, *names)
        self.record(settings)
        result = run(settings, "resume")["resume"]
        assert result.outcome == "ok", result
        assert "resumes from" in result.findings[0].message

    def test_d05_several_last(self, settings: Settings) -> None:
        """D05: NeMo raises ValueError, so launch leaves it one."""
        self.save(settings, LAST + "/", LAST.replace("50", "40") + "/")
        self.record(settings)
        older = LAST.replace("50", "40")
        assert problems(settings, "resume") == []
        (message,) = problems(settings, "resume", "warning")
        assert f"at launch: {older} is not the newest that matches *last: renamed to {older[:-5]}" in message
        assert f"training resumes from {LAST}" in message

    def test_unfinished_is_not_counted(self, settings: Settings) -> None:
        """A marker file beside it: NeMo removes it and takes the other one."""
        other = LAST.replace("50", "60")
        self.save(settings, LAST + "/", other + "/", other + "-unfinished")
        self.record(settings)
        assert problems(settings, "resume") == []
        assert "are incomplete" in problems(settings, "resume", "warning")[0]

    def test_finished_run(self, settings: Settings) -> None:
        self.save(settings, LAST.replace("50", "100") + "/")
        self.record(settings)
        (message,) = problems(settings, "resume")
        assert "is at step 100 of 100: the run is finished" in message

    def test_never_beside_checkpoints(self, settings: Settings) -> None:
        settings["resume"] = "never"
        self.save(settings, LAST + "/")
        assert "mixes its files" in problems(settings, "resume", "warning")[0]

    def test_another_runs_settings(self, settings: Settings) -> None:
        """A checkpoint of another model fails; another learning rate is said."""
        self.save(settings, LAST + "/")
        self.record(settings)
        settings["model"]["name"] = "other"
        settings["training"].update(tensorParallelSize=2, globalBatchSize=16)
        (message,) = problems(settings, "resume")
        assert 'model.name was "tiny", is "other"' in message
        assert "training.tensorParallelSize was 1, is 2" in message
        (message,) = problems(settings, "resume", "warning")
        assert "training.globalBatchSize was 8, is 16" in message


class TestNode:
    def test_g01_denied_with_uid_mode_and_path(self, settings: Settings, nobody: Path) -> None:
        """G01: a folder that the job's uid may not enter."""
        os.seteuid(0)
        closed = nobody / "closed"
        closed.mkdir(mode=0o700)
        (closed / "blip.json").write_text("[]")
        os.seteuid(65534)
        settings["data"]["annotations"] = str(closed / "blip.json")
        message = problems(settings, "access")[0]
        assert f"{closed}/blip.json: permission denied as uid 65534, gid 65534" in message
        assert f"{closed} is drwx------ of uid 0" in message

    def test_g01_one_image_is_opened(self, settings: Settings, nobody: Path) -> None:
        """G01: the folder opens, its files do not."""
        os.seteuid(0)
        write_dataset(nobody / "data", 1)
        image = next((nobody / "data" / "images").rglob("*.jpg"))
        image.chmod(0o600)
        os.seteuid(65534)
        settings["data"]["images"] = str(nobody / "data" / "images")
        assert any(f"{image}: permission denied" in m for m in problems(settings, "access"))

    def test_g01_results_that_cannot_be_written(self, settings: Settings, nobody: Path) -> None:
        """G01: found before the first checkpoint."""
        settings["results"]["path"] = str(nobody / "r")
        (message,) = problems(settings, "results")
        assert f"{nobody}: permission denied as uid 65534" in message
        assert "drwxr-xr-x of uid 0" in message

    def test_g04_a_results_folder_is_not_made(self, settings: Settings, tmp_path: Path) -> None:
        """G04: every node only tries a file of its own in the nearest folder there is."""
        assert problems(settings, "results") == []
        assert not list((tmp_path / "results").iterdir())
        (tmp_path / "results").rmdir()
        assert problems(settings, "results") == []
        assert not (tmp_path / "results").exists()
        assert not list(tmp_path.glob(".neva*"))

    def test_paths_that_are_not_there(self, settings: Settings) -> None:
        settings["model"]["tokenizerPath"] = "/nowhere/t.model"
        assert "/nowhere/t.model: No such file or directory" in problems(settings, "access")[0]

    def test_g02_file_system_type(self, settings: Settings, tmp_path: Path) -> None:
        """G02: an unmounted file system is an empty folder of the root disk."""
        settings["preflight"]["filesystems"] = {
            "/proc": {"type": "proc"},
            str(tmp_path): {"type": "gpfs"},
        }
        (message,) = problems(settings, "filesystem")
        assert f"{tmp_path}: file system is " in message
        assert "; must be gpfs" in message

    def test_g02_marker_file(self, settings: Settings, tmp_path: Path) -> None:
        """G02: or a file that only the real volume has."""
        settings["preflight"]["filesystems"] = {str(tmp_path): {"marker": ".mounted"}}
        assert "has no marker file .mounted" in problems(settings, "filesystem")[0]
        (tmp_path / ".mounted").touch()
        assert problems(settings, "filesystem") == []

    def test_read_only_mounts(self, settings: Settings, tmp_path: Path) -> None:
        """A writable mount of shared data is a mistake; the kernel is asked, nothing is written."""
        settings["readOnly"] = [str(tmp_path)]
        assert "is mounted writable; must be read-only" in problems(settings, "read-only")[0]
        read_only = [
            line.split()[1]
            for line in Path("/proc/mounts").read_text().splitlines()
            if "ro" in line.split()[3].split(",")
        ]
        if not read_only:
            pytest.skip("no read-only mount on this machine")
        settings["readOnly"] = read_only[:1]
        assert problems(settings, "read-only") == []

    def test_d17_hf_home_below_a_read_only_mount(self, settings: Settings, tmp_path: Path) -> None:
        """D17: the hub's client always writes."""
        settings["readOnly"] = [str(tmp_path / "models")]
        settings["hf"]["home"] = str(tmp_path / "models" / "hf")
        assert "below the read-only mount" in problems(settings, "hf-home")[0]
        settings["hf"]["home"] = str(tmp_path / "models2")
        assert problems(settings, "hf-home") == []

    def test_d17_hf_home_that_cannot_be_written(self, settings: Settings, nobody: Path) -> None:
        """D17: as the job's uid."""
        settings["hf"]["home"] = str(nobody / "hf")
        assert "permission denied" in problems(settings, "hf-home")[0]

    def test_shared_memory(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        """C01: a container runtime's 64 MiB."""
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=16384, f_frsize=4096))
        assert "/dev/shm has 64.0 MiB; must have at least" in problems(settings, "shm")[0]
        settings["preflight"]["minimumShmBytes"] = 2**20
        assert problems(settings, "shm") == []

    def test_gpus_are_counted(self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A05: by a named stand-in for nvidia-smi."""
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text('#!/bin/sh\nfor i in 0 1 2 3 4 5 6; do echo "GPU $i: H100 (UUID: $i)"; done\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("NODE_NAME", "node-7")
        assert "7 GPUs visible on node-7; must be 8" in problems(settings, "gpus")[0]
        settings["training"]["gpusPerNode"] = 7
        assert problems(settings, "gpus") == []

    def tool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        """Put a named stand-in for nvidia-smi on the path."""
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("#!/bin/bash\n" + text)
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("NODE_NAME", "node-7")

    @pytest.mark.parametrize(
        ("listed", "said"),
        [
            ('echo "GPU $i: H100 (UUID: GPU-$i)"; echo "  MIG 3g.40gb     Device  0: (UUID: MIG-$i)"', "8 MIG slices"),
            ('echo "GPU $i: H100 (UUID: MIG-GPU-$i/1/0)"', "8 MIG slices"),
            ('[[ $1 == -L ]] && echo "GPU $i: H100 (UUID: GPU-$i)" || echo Enabled', "MIG is on for 8 GPUs"),
        ],
    )
    def test_n10_mig(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, said: str
    ) -> None:
        """N10: slices, and GPUs that wait for slices, are none for training; their number is right here."""
        self.tool(tmp_path, monkeypatch, f"for i in 0 1 2 3 4 5 6 7; do {listed}; done\n")
        (message,) = problems(settings, "gpus")
        assert f"{said} on node-7; must be 8 whole GPUs" in message

    @pytest.mark.parametrize(
        ("name", "uuid", "said"),
        [
            ("GRID H100-10C", "GPU-$i", "8 vGPUs (GRID H100-10C)"),
            ("NVIDIA A100-4-20C", "GPU-$i", "8 vGPUs (NVIDIA A100-4-20C)"),
            ("NVIDIA L40S-48Q", "GPU-$i", "8 vGPUs (NVIDIA L40S-48Q)"),
            ("NVIDIA H100 80GB HBM3", "GPU-0", "one GPU listed 8 times (UUID GPU-0)"),
            ("NVIDIA H100 80GB HBM3", "GPU-$((i / 2))", "one GPU listed 2 times (UUID GPU-0)"),
        ],
    )
    def test_n10_shares_of_gpus(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, uuid: str, said: str
    ) -> None:
        """N10: as MIG's slices, no GPU of its own."""
        line = f'echo "GPU $i: {name} (UUID: {uuid})"'
        self.tool(tmp_path, monkeypatch, f"for i in 0 1 2 3 4 5 6 7; do [[ $1 == -L ]] && {line}; done\n")
        (message,) = problems(settings, "gpus")
        assert f"{said} on node-7; must be 8 whole GPUs" in message

    @pytest.mark.parametrize(
        "name",
        [
            *("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB", "Tesla V100-SXM2-32GB"),
            *("NVIDIA H100 NVL", "NVIDIA H200-3e", "NVIDIA GH200 480GB", "NVIDIA RTX A6000", "NVIDIA B200"),
        ],
    )
    def test_n10_whole_gpus(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        line = f'echo "GPU $i: {name} (UUID: GPU-$i)"'
        self.tool(tmp_path, monkeypatch, f"for i in 0 1 2 3 4 5 6 7; do [[ $1 == -L ]] && {line}; done\n")
        assert problems(settings, "gpus") == []

    @pytest.mark.parametrize("text", ["sleep 600", "exec sleep 600", "trap '' TERM; sleep 600 & wait"])
    def test_k06_a_hung_driver(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        """K06: nvidia-smi waits for a driver that does not answer."""
        self.tool(tmp_path, monkeypatch, text)
        monkeypatch.setattr(devices, "ANSWER", 0.5)
        (message,) = problems(settings, "gpus")
        assert "nvidia-smi gave no answer in 0 s: the driver hangs" in message

    def test_k06_a_check_that_hangs_is_given_up(self, settings: Settings) -> None:
        """K06: a read that never ends, as of a stalled file system; the next check runs."""
        reading, writing = os.pipe()
        try:

            def hang(_: Any) -> Iterator[Any]:
                yield note("before")
                os.read(reading, 1)

            hung = Check("hung", Level.QUICK, "", "", (), hang)
            started = Context(PodSettings(settings), patience=0.2)
            result = run_check(hung, started)
            assert [f.outcome.value for f in result.findings] == ["ok", "failed"]
            assert "no progress for" in result.findings[1].message
            started.patience = 300
            assert run_check(CHECKS["dataset"], started).outcome == "warning"
            started.deadline = time.monotonic() + 0.2
            result = run_check(hung, started)
            assert "when the time limit for all checks expired" in result.findings[1].message
            result = run_check(CHECKS["dataset"], started)
            assert (result.outcome.value, result.findings[0].message) == ("skipped", "no time is left, see above")
        finally:
            os.write(writing, b"xx")
            os.close(writing)

    def test_k06_progress_is_a_sign_of_life(self, settings: Settings) -> None:
        started = Context(PodSettings(settings), patience=5)

        def slow(run: Any) -> Iterator[Any]:
            for i in range(10):
                run.progress.moved -= 4.9  # as if each step had taken that long
                run.progress.step("slow", i, 10)
                time.sleep(0.01)
            yield note("done")

        result = run_check(Check("slow", Level.QUICK, "", "", (), slow), started)
        assert [f.message for f in result.findings] == ["done"]

    @pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder", "loop"])
    @pytest.mark.parametrize(
        ("key", "checks"),
        [
            ("data.annotations", ("access", "dataset")),
            ("model.tokenizerPath", ("access", "tokenizer")),
            ("model.checkpointPath", ("access", "checkpoint", "unpack-space")),
            ("model.visionEncoderPath/config.json", ("vision",)),
            ("model.checkpointPath/model_config.yaml", ("checkpoint",)),
            ("data.images/00000/000000003.jpg", ("images", "decode")),
        ],
    )
    def test_k06_what_is_no_file_is_not_read(
        self, settings: Settings, key: str, checks: tuple[str, ...], kind: str
    ) -> None:
        """K06: opening a FIFO waits for its writer, a device may never end; each is said once it is looked at."""
        name, _, inner = key.partition("/")
        section, _, field = name.partition(".")
        path = Path(settings[section][field]) / inner
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's path has at most 108 bytes
            try:
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(path.name)
            finally:
                os.chdir(here)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(path.name)
        results = run(settings, *checks)
        assert "failed" in {r.outcome.value for r in results.values()}, results
        assert not [f for r in results.values() for f in r.findings if "itself stopped" in f.message]

    def test_memlock(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        """C02: a finite limit binds only without the capability."""
        settings["rdma"] = True
        monkeypatch.setattr(resource, "getrlimit", lambda _: (8388608, 8388608))
        monkeypatch.setattr(devices, "has_capability", lambda _: False)
        assert "memlock limit is 8388608 bytes" in problems(settings, "memlock")[0]
        monkeypatch.setattr(devices, "has_capability", lambda _: True)
        assert problems(settings, "memlock") == []

    def test_capabilities_are_read_from_the_kernel(self) -> None:
        status = Path("/proc/self/status").read_text()
        bits = int(status.split("CapEff:")[1].split()[0], 16)
        assert [has_capability(n) for n in range(41)] == [bool(bits >> n & 1) for n in range(41)]


ODD: list[Any] = [None, True, 10**400, "x\0\ud800", "x" * 5000, {}, [[]], {"a": 1}]
"""What stands in the place of something else; JSON can say all of it."""

TORN: list[bytes] = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 5000,
    b"9" * 5000,
    b'"\\ud800"',
    "{}".encode("utf-16"),
    b"\xef\xbb\xbf{}",
]


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a tree, two of each list."""
    yield at
    for key in tree if isinstance(tree, dict) else range(min(len(tree), 2)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*at, key))


def changed(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    """Return the tree with another value in one place."""
    if not at:
        return value
    copied = dict(tree) if isinstance(tree, dict) else list(tree)
    copied[at[0]] = changed(copied.get(at[0]) if isinstance(copied, dict) else copied[at[0]], at[1:], value)
    return copied


def sound(results: dict[str, Any], what: object) -> None:
    """Whatever the check came to, it came to it by itself, and it can be printed."""
    text = as_text(list(results.values()))
    assert "itself stopped" not in text, what
    assert len(text.encode()) < 20_000, what
    as_json(Level.FULL, list(results.values())).encode()


class TestDamage:
    """K22: damaged inputs end in a sentence, never in `the check itself stopped`."""

    @pytest.mark.parametrize(
        ("file", "checks"),
        [
            ("clip/config.json", ("vision",)),
            ("clip/preprocessor_config.json", ("vision",)),
            ("clip/model.safetensors.index.json", ("vision",)),
            ("hf/tokenizer.json", ("tokenizer", "vocabulary")),
            ("data/blip.json", ("dataset", "images")),
            ("results/r/run.json", ("resume",)),
            ("zarr/model_weights/metadata.json", ("checkpoint", "weights", "vocabulary")),
        ],
    )
    def test_k22_every_place_of_every_file(
        self, settings: Settings, tmp_path: Path, file: str, checks: tuple[str, ...]
    ) -> None:
        settings["samples"] = {"template": "mistral"}
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.startswith("hf/"):
            (path.parent / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
            model: dict[str, Any] = {"vocab": {"a": 0}}
            path.write_text(json.dumps({"added_tokens": [{"id": 1, "content": "x"}], "model": model}))
            settings["model"].update(tokenizerPath=str(path.parent), tokenizerLibrary="huggingface")
        elif file.startswith("zarr/"):
            write_folder(tmp_path / "zarr", zarr())
            settings["model"]["checkpointPath"] = str(tmp_path / "zarr")
        elif file.startswith("results/"):
            path.write_text(json.dumps({"model": {"name": "x"}, "training": {"seed": 1}}))
            last = Path(settings["results"]["checkpointsDir"]) / LAST
            last.mkdir(parents=True)
            (last / "metadata.json").write_text("{}")
        elif file.endswith("index.json"):
            (tmp_path / "clip" / "pytorch_model.bin").unlink()
            path.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
        right = json.loads(path.read_text())
        right = right[:2] if isinstance(right, list) else right
        for at in places(right):
            for value in ODD:
                path.write_text(json.dumps(changed(right, at, value)))
                sound(run(settings, *checks), (at, value))
        for content in TORN:
            path.write_bytes(content)
            sound(run(settings, *checks), content[:20])

    @pytest.mark.parametrize(
        "name", ["x\0y", "\ud800", "x" * 300, "a/" * 3000, "..", "/", "00000", "00000/", "a\nb", "\u202e"]
    )
    def test_k22_names_of_images(self, settings: Settings, name: str) -> None:
        """Names that no file can have, or that are something else, are missing images or no files."""
        bad = {**sample(0, "a.jpg"), "image": name, "id": name}
        Path(settings["data"]["annotations"]).write_text(json.dumps([bad]))
        results = run(settings, "dataset", "images", "decode")
        sound(results, name)
        assert results["images"].outcome == "failed"

    def test_k22_images_that_are_odd(self, settings: Settings) -> None:
        """A link to nothing, a folder, an empty file, one cut off; each is named by one of the two checks."""
        folder = Path(settings["data"]["images"]) / "00000"
        files = sorted(folder.iterdir())
        for file in files[:4]:
            file.unlink()
        files[0].symlink_to("nowhere")
        files[1].mkdir()
        files[2].write_bytes(b"")
        files[3].write_bytes(image_bytes(side=200)[:500])
        found = problems(settings, "images") + problems(settings, "decode")
        for file in files[:4]:
            assert any(file.name in message for message in found), file
        sound(run(settings, "images", "decode"), files)

    def test_k22_names_that_are_no_utf8(self, settings: Settings, tmp_path: Path) -> None:
        name = os.fsdecode(b"\xff\xfe")
        for folder in ("clip", "llm", "data/images/00000"):
            (tmp_path / folder / name).write_bytes(b"x")
        last = Path(settings["results"]["checkpointsDir"])
        for step in ("step=9", "step=" + "9" * 100, "step=", "step=\N{FULLWIDTH DIGIT ONE}"):
            (last / f"{name}{step}-last").mkdir(parents=True)
        (last / f"{name}-unfinished").touch()
        sound(run(settings), name)

    @pytest.mark.parametrize(
        ("key", "value", "check"),
        [
            ("model.checkpointPath", "x\0y", "checkpoint"),
            ("model.tokenizerPath", "\ud800", "tokenizer"),
            ("model.extraTokens", 10**30, "tokenizer"),
            ("model.extraTokens", -1, "tokenizer"),
            ("architecture.vocabSize", "x", "vocabulary"),
            ("training.tensorParallelSize", 0, "vocabulary"),
            ("vision.architectures", [[]], "vision"),
            ("vision.architectures", True, "vision"),
            ("vision.imageSize", 10**400, "shm"),
            ("llm", {"a": 1}, "checkpoint"),
            ("preflight.filesystems", {"/proc": 1}, "filesystem"),
            ("preflight.filesystems", {"/proc": {"marker": True}}, "filesystem"),
        ],
    )
    def test_k22_settings_of_the_wrong_type(self, settings: Settings, key: str, value: Any, check: str) -> None:
        data = changed(settings, tuple(key.split(".")), value)
        with pytest.raises(UsageError, match=r"^settings: [^\n]{1,200}$"):
            run(data, check)

    def test_k22_more_tokens_than_there_are_pieces(self, settings: Settings) -> None:
        """A number that would not fit into memory as a list of tokens."""
        settings["model"]["extraTokens"] = 2**53
        assert "lacks <extra_id_8>, <extra_id_9>" in problems(settings, "tokenizer")[0]
