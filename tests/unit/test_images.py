"""N11: one grammar of image references, that of the kubelet, for every value and option that takes one."""

import json
from pathlib import Path
from typing import Any

import pytest

from neva_pretrain import chart
from neva_pretrain.chart import images, values
from neva_pretrain.check import formats, rules, schema
from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.unit.test_cli import run, written

DIGEST = "sha256:" + "0" * 64
REFERENCES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "images" / "references.json").read_text("utf-8")
)


def taken(value: str, section: str, key: str) -> bool:
    part = chart.schema()["properties"][section]["properties"][key]
    misshapen = [v for v in formats.check_formats({section: {key: value}}) if v.key == f"{section}.{key}"]
    return not misshapen and bool(schema.Validator(part).is_valid(value))


@pytest.mark.parametrize("row", REFERENCES, ids=[row["image"][:60] for row in REFERENCES])
def test_n11_the_kubelet_and_we_take_the_same_references(row: dict[str, Any]) -> None:
    """With the same tag and digest; what is left of them is a repository."""
    reference, tag, digest = row["image"], row.get("tag"), row.get("digest")
    valid = bool(row.get("valid", True) and (tag or digest))  # without either it would mean latest
    split = images.split(reference)
    assert bool(split and len(split) > 1) == valid
    assert taken(reference, "tensorboard", "image") == ((valid and not reference.endswith(":latest")) or not reference)
    assert not (valid and taken(reference, "image", "repository")), "a reference is no repository"
    assert bool(split) == row.get("valid", True)
    if split:
        assert (split.get("tag"), split.get("digest")) == (tag, digest)
        assert all(taken(part, "image", name) or part == "latest" for name, part in split.items())


def test_n11_the_references_are_worth_their_name() -> None:
    assert len(REFERENCES) > 150
    assert 60 < sum(row.get("valid", True) for row in REFERENCES) < len(REFERENCES) - 60


def test_n11_the_grammar_has_one_place() -> None:
    """Formats cannot join patterns: TensorBoard's is held equal to its parts."""
    patterns = {form["keys"]: form.get("pattern", "") for form in chart.rules()["formats"]}
    name, tag, digest = (patterns[f"image.{part}"][1:-1].removesuffix("?") for part in ("repository", "tag", "digest"))
    assert patterns["tensorboard.image"] == f"^({name}(:{tag}(@{digest})?|@{digest}))?$"


@pytest.mark.helm
@pytest.mark.parametrize(
    "repository",
    ["nvcr.io/nvidia/nemo:24.07", "docker://nvcr.io/nvidia/nemo", "https://r/x", f"nemo@{DIGEST}", "r:5000", "A/B", ""],
)
def test_n11_no_tag_and_no_scheme_in_a_repository(repository: str) -> None:
    partial = {"image": {"repository": repository}}
    assert any("repository" in line for line in helm.render_fails(partial))
    assert [v.key for v in schema.violations(values.complete(partial))] == ["image.repository"]


@pytest.mark.helm
@pytest.mark.parametrize("repository", ["registry.local:5000/ml/nemo", "[2001:db8::1]:5000/n", "localhost/n", "n"])
def test_n11_a_registry_with_a_port_is_taken(repository: str) -> None:
    rendered = helm.container(helm.render({"image": {"repository": repository}}))["image"]
    assert rendered == f"{repository}:24.07"
    assert written("--gpus", "8", "--image", rendered)["image"] == {"repository": repository, "tag": "24.07"}


@pytest.mark.parametrize("reference", ["docker://nvcr.io/nvidia/nemo:1", "a:1:2", "a/B:1", "a@x", " a:1", "a..b:1"])
def test_n11_the_option_takes_references_only(reference: str) -> None:
    result = run("--gpus", "8", "--image", reference)
    assert result.exit_code == 2
    assert f"got {reference}; must be REPOSITORY:TAG or REPOSITORY@DIGEST" in result.stderr


@pytest.mark.helm
def test_n11_tag_and_digest_may_stand_together() -> None:
    parts = {"repository": "r:5000/nemo", "tag": "24.07", "digest": DIGEST}
    assert written("--gpus", "8", "--image", f"r:5000/nemo:24.07@{DIGEST}")["image"] == parts
    assert helm.container(helm.render({"image": parts}))["image"] == f"r:5000/nemo@{DIGEST}"


@pytest.mark.helm
@pytest.mark.parametrize(("length", "ok"), [(255, True), (256, False)])
def test_n11_a_name_has_at_most_255_characters(length: int, ok: bool) -> None:
    name = "r.x/" + "a" * (length - 4)
    assert taken(name, "image", "repository") == ok
    partial = {"tensorboard": {"enabled": True, "image": f"{name}:1"}}
    ours = [str(v) for v in rules.violations(Facts.of(partial))]
    assert bool(ours) != ok
    if ours:
        assert helm.render_fails(partial) == ours
