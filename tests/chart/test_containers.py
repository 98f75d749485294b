"""What notes and `check` say of a tag of NVIDIA's NeMo image, in the same words, and what the documentation does."""

import re
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain.chart import values
from neva_pretrain.check import advice
from neva_pretrain.check.verdict import judge
from neva_pretrain.facts import Facts
from tests.chart.helm import notes
from tests.nemo.environment import CONTAINERS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "containers.md"
UNTESTED = "{}; NVIDIA's code of 24.07, 24.09, 24.12 and 25.02 was tried with this chart,"
STOPS = "{} with training.kernels reference; its Megatron Core stops before the first step,"
FLAT = "{} with training.kernels fused; its code was tried on CPU, where the loss did not fall:"
FUSED = {"training": {"kernels": "fused"}}
FLASH = {"config": {"model": {"attention_backend": "flash"}}}
PREPARING = {"prepare": {"enabled": True, "llm": {"source": "a/b"}}}
TAGS: list[tuple[str, dict[str, Any], str]] = [
    *((tag, {}, "") for tag in ("24.07", "24.09", "24.12", "24.07.01", "24.07-neva3", "mine", "v25.04", "2024.01")),
    *((tag, {}, STOPS) for tag in ("25.02", "25.02.01", "25.02-ours")),
    ("25.02", FLASH, ""),
    ("25.02", FUSED, FLAT),
    ("24.12", FUSED, ""),
    *((tag, {}, UNTESTED) for tag in ("23.11", "24.01.framework", "24.03.01.framework", "24.05", "25.04", "25.11")),
    *((tag, {}, UNTESTED) for tag in ("25.07.02", "26.02")),
    *((tag, PREPARING, "") for tag in ("24.05", "25.02", "25.04")),
]


@pytest.mark.parametrize(("tag", "more", "words"), TAGS, ids=[f"{tag}-{'+'.join(more)}" for tag, more, _ in TAGS])
def test_a_tag_that_is_not_known_to_work_is_warned_of(folder: Path, tag: str, more: dict[str, Any], words: str) -> None:
    partial = {**more, "image": {"tag": tag}}
    said = advice.warnings(values.complete(partial))
    assert [sentence.startswith(f"image.tag: {words.format(tag)}") for sentence in said] == ([True] if words else [])
    shown = notes(folder, partial)
    assert all(f"  - WARNING: {sentence}.\n" in shown for sentence in said)
    assert shown.count("WARNING: image.tag") == len(said)
    verdict = judge(Facts.of(partial))
    assert (verdict.violations, set(said) - set(verdict.warnings)) == ((), set())


def test_the_documentation_has_a_row_for_each_container_that_was_tried() -> None:
    rows = [line.split(" | ")[0].strip("| ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| 2")]
    assert rows == list(CONTAINERS)
    (untested,) = advice.warnings(values.complete({"image": {"tag": "25.04"}}))
    assert re.findall(r"\d\d\.\d\d", untested) == ["25.04", *CONTAINERS, "24.07"]
