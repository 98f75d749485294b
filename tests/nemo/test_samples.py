"""The samples that NeMo's dataset, collator and embedding take are those that preflight passes."""

import copy
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from neva_pod.inputs.samples import TEMPLATES
from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.nemo import tiny
from tests.nemo.judge import ask
from tests.unit.preflight_tools import problems

pytestmark = [pytest.mark.nemo, pytest.mark.helm]

Sample = dict[str, Any]

PATCHES = 576
SIZES: dict[str, tuple[str, tuple[int, int]]] = {
    "plain.jpg": ("RGB", (120, 90)),
    "gray.png": ("L", (50, 40)),
    "bits.png": ("1", (50, 40)),
    "palette.png": ("P", (50, 40)),
    "alpha.png": ("LA", (50, 40)),
    "rgba.png": ("RGBA", (50, 40)),
    "cmyk.jpg": ("CMYK", (50, 40)),
    "deep.png": ("I;16", (50, 40)),
    "integers.tif": ("I", (50, 40)),
    "floats.tif": ("F", (50, 40)),
    "lab.tif": ("LAB", (50, 40)),
    "ycbcr.jpg": ("YCbCr", (50, 40)),
    "dot.png": ("RGB", (1, 1)),
    "two.png": ("RGB", (2, 2)),
    "three.png": ("RGB", (3, 3)),
    "line.png": ("RGB", (200, 1)),
    "column.png": ("RGB", (1, 200)),
    "band.png": ("RGB", (200, 3)),
    "strip.png": ("RGB", (3, 200)),
    "wide.png": ("RGB", (400, 4)),
    "high.png": ("RGB", (4, 400)),
}


class Inputs(NamedTuple):
    """A rendered configuration, and preflight's settings of the same."""

    config: str
    settings: dict[str, Any]


def write_images(folder: Path) -> None:
    """Write images of all modes and shapes, and what is none."""
    folder.mkdir(parents=True)
    for name, (mode, size) in SIZES.items():
        kind = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}[name.rsplit(".", 1)[1]]
        noise = Image.frombytes("RGB", size, random.Random(name).randbytes(3 * size[0] * size[1]))  # noqa: S311
        (noise if mode == "RGB" else Image.new(mode, size)).save(folder / name, kind)
    whole = (folder / "plain.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image")
    (folder / "folder.jpg").mkdir()
    frames = [Image.new("P", (30, 20), i) for i in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Return those of the default model: only its tokenizer and image processor are tiny."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "tokenizer").write_bytes(tiny.sentencepieces())
    return write_inputs(folder, "llama2_7b_chat")


@pytest.fixture(scope="module")
def llama_3(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Return the same of a Llama 3."""
    folder = tmp_path_factory.mktemp("llama-3")
    tiny.write_llama_3(folder / "tokenizer")
    return write_inputs(folder, "llama3_8b_chat")


def write_inputs(folder: Path, name: str) -> Inputs:
    """Write images and a model's configuration beside its tokenizer."""
    tiny.write_clip(folder / "clip", 336)
    write_images(folder / "data" / "images")
    values = {
        "model": {
            "name": name,
            "llmPath": str(folder),
            "tokenizer": str(folder / "tokenizer"),
            "visionEncoderPath": str(folder / "clip"),
        },
        "storage": {"models": {"mountPath": str(folder)}, "datasets": {"mountPath": str(folder / "data")}},
        "data": {"path": str(folder / "data"), "images": "images"},
        "training": {"nodes": 1, "gpusPerNode": 1, "tensorParallelSize": 1, "microBatchSize": 1, "globalBatchSize": 1},
    }
    config = folder / "neva_pretrain.yaml"
    config.write_text(helm.config_data(helm.render(values))["neva_pretrain.yaml"])
    return Inputs(str(config), Facts.of(values).sheet)


def images_of(sample: Sample) -> int:
    """Return how many images NeMo opens for a sample."""
    found = sample.get("image", [])
    return len(found) if isinstance(found, list) else 1


def wrong(batch: list[Sample], taken: dict[str, Any]) -> str:
    """Return why NeMo cannot take a micro batch, or what of it is not what the samples say; "" = right."""
    if "stops" in taken:
        return str(taken["stops"])
    if not any(taken["learned"]):
        return "the loss is NaN"
    if taken["seen"] != [PATCHES * images_of(sample) for sample in batch]:
        return "an image is not seen"
    if any("<image>" in text for text in taken["read"]):
        return "the place of an image is text"
    if taken["distorted"]:
        return "an image is another one"
    for sample in batch:
        turns = sample["conversations"]
        if taken["template"] == "plain" and turns[1].get("from") == "human":
            return "a question is learned"
    return ""


def refused(inputs: Inputs, batch: list[Sample], template: str = "plain") -> list[str]:
    """Return what preflight says against a dataset of one micro batch."""
    settings = copy.deepcopy(inputs.settings)
    settings["samples"]["template"] = template
    settings["training"].update(microBatchSize=len(batch), globalBatchSize=len(batch))
    Path(settings["data"]["annotations"]).write_text(json.dumps(batch))
    return [message for check in ("dataset", "images", "decode") for message in problems(settings, check)]


def accidental(batch: list[Sample], preflight: list[str]) -> bool:
    """Whether NeMo takes only by accident what preflight refuses.

    A value that is no text, where it is as good as empty; an answer of which only white space, or the marks of the next
    turn, is learned.
    """
    (said, *more) = preflight
    turns = [sample["conversations"] for sample in batch]
    if "the loss is NaN" in said:
        return not more and any(len(of) > 2 or any(str(turn["value"]).isspace() for turn in of[1:]) for of in turns)
    values = [turn.get("value") for of in turns for turn in of]
    return not more and "have a turn without text" in said and any(value in (None, {}, []) for value in values)


def disagreements(inputs: Inputs, batches: list[list[Sample]], template: str = "plain") -> list[str]:
    """Return the micro batches of which NeMo and preflight say different things."""
    over = {"data": {"conv_template": template}}
    taken = ask("batches", config=inputs.config, over=over, batches=batches, patches=PATCHES)
    found = []
    for batch, said in zip(batches, taken, strict=True):
        nemo, preflight = wrong(batch, {**said, "template": template}), refused(inputs, batch, template)
        if bool(nemo) != bool(preflight) and not (template != "plain" and preflight and accidental(batch, preflight)):
            found.append(f"{json.dumps(batch)[:300]}: NeMo: {nemo}; preflight: {preflight}")
    return found


QUESTION, ANSWER = "Describe.\n<image>", "a photo of a cat"


def sample(*turns: tuple[Any, Any], **more: Any) -> Sample:
    """Return a sample of one whole image, unless it is said otherwise."""
    said = turns or (("human", QUESTION), ("gpt", ANSWER))
    return {"id": "x", "image": "plain.jpg", "conversations": [{"from": f, "value": v} for f, v in said], **more}


def asked(value: Any, **more: Any) -> Sample:
    """Return a sample with another question."""
    return sample(("human", value), ("gpt", ANSWER), **more)


def answered(value: Any, **more: Any) -> Sample:
    """Return a sample with another answer."""
    return sample(("human", QUESTION), ("gpt", value), **more)


def without_image(*turns: tuple[Any, Any], **more: Any) -> Sample:
    """Return a sample that names no image."""
    made = sample(*turns, **more)
    del made["image"]
    return made


NO_PATHS: list[Any] = [None, 5, True, {}, [["plain.jpg"]], [None], ""]
QUESTIONS: list[Any] = ["", "x", "<image> <image>", "<IMAGE>", 5, None, []]
ANSWERS: list[Any] = ["", "a <image>", 5, None, ["a"], {"a": 1}]
ODD: dict[str, list[Sample]] = {
    "text alone": [without_image(("human", "hi"), ("gpt", "a"))],
    "a place and no image": [without_image()],
    "a video": [without_image(("human", "hi"), ("gpt", "a"), video="x.mp4")],
    "no images": [asked("hi", image=[])],
    "no images, a place": [sample(image=[])],
    "no images, a video": [asked("hi", image=[], video="x.mp4")],
    "one in a list": [sample(image=["plain.jpg"])],
    "two images": [answered("a <image>", image=["plain.jpg", "gray.png"])],
    "two images, one place": [sample(image=["plain.jpg", "gray.png"])],
    "two images, both places first": [asked("<image><image>", image=["plain.jpg", "gray.png"])],
    **{f"image {value!r}": [sample(image=value)] for value in NO_PATHS},
    "one turn": [sample(("human", QUESTION))],
    "three turns": [sample(("human", QUESTION), ("gpt", "a"), ("human", "b"))],
    "four turns": [sample(("human", QUESTION), ("gpt", "a"), ("human", "b"), ("gpt", "c"))],
    "swapped": [sample(("gpt", ANSWER), ("human", QUESTION))],
    "swapped roles": [sample(("gpt", QUESTION), ("human", ANSWER))],
    "two questions": [sample(("human", QUESTION), ("human", ANSWER))],
    "two answers": [sample(("gpt", QUESTION), ("gpt", ANSWER))],
    "other roles": [sample(("user", QUESTION), ("assistant", ANSWER))],
    "roles that are none": [sample((None, QUESTION), ([], ANSWER))],
    "no roles": [sample(conversations=[{"value": QUESTION}, {"value": ANSWER}])],
    "no text": [sample(conversations=[{"from": "human"}, {"from": "gpt"}])],
    **{f"question {value!r}": [asked(value)] for value in QUESTIONS},
    **{f"answer {value!r}": [answered(value)] for value in ANSWERS},
    "place in the answer alone": [sample(("human", "x"), ("gpt", "<image>"))],
    "long": [answered("a cat " * 3000)],
    "characters": [answered("日本語 é 😀 \0 \u200b \ufeff \u2028")],
    "half a character": [answered("a \ud800 b")],
    "half a character, not read": [asked("\ud800<image>")],
    "control tokens": [answered("<s> </s> <unk> <extra_id_0> <extra_id_3> <extra_id_4>")],
    "NeVa's own token": [answered("a <extra_id_5>")],
    "NeVa's own token, not read": [asked("<extra_id_5><image>")],
    **{
        f"conversations {v!r}": [sample(conversations=v)]
        for v in (None, {}, [], "ab", [None] * 2, ["a", "b"], {"0": 1})
    },
    "no conversations": [{"id": "x", "image": "plain.jpg"}],
    "a pair": [sample(), answered("a cat " * 100)],
    "a pair, one without image": [sample(), without_image(("human", "hi"), ("gpt", "a"))],
    "a pair, one without images": [sample(), asked("hi", image=[])],
    "a pair, one without answer": [sample(), answered("")],
    "a pair of one and two images": [sample(), answered("<image>", image=["plain.jpg", "plain.jpg"])],
}
FILES = ("cut.jpg", "empty.jpg", "text.jpg", "folder.jpg", "moving.gif", "gone.jpg", "a/", "./plain.jpg", "\0")


def test_odd_samples(inputs: Inputs) -> None:
    """N03: NeMo stops at a sample only when it is drawn, hours later; preflight names it, and no other."""
    white = [[answered(" ")], [answered("\n")]]  # with other templates the tokenizer decides whether it is learned
    assert "\n".join(disagreements(inputs, [*ODD.values(), *white])) == ""


def test_odd_images(inputs: Inputs) -> None:
    """N03: all that Pillow converts to RGB but what the image processor takes for colors."""
    assert "\n".join(disagreements(inputs, [[sample(image=name)] for name in (*SIZES, *FILES)])) == ""


OWN = [
    [sample(("gpt", "hi"), ("human", QUESTION), ("gpt", "a"))],
    [sample(("gpt", "hi"), ("human", QUESTION))],
    [sample(system=5)],
    [sample(system="\ud800")],
    [sample(conversations=[{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "a", "label": None}])],
    [sample(conversations=[{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "a", "label": "good"}])],
]
"""What matters to templates other than plain."""


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t not in ("plain", "llama_3")])
def test_odd_samples_of_other_templates(inputs: Inputs, template: str) -> None:
    """N03: each template with its own rules; that of Llama 3 needs its tokenizer."""
    assert "\n".join(disagreements(inputs, [*ODD.values(), *OWN], template)) == ""


@pytest.mark.parametrize("template", ["llama_3", "plain"])
def test_odd_samples_of_llama_3(llama_3: Inputs, template: str) -> None:
    """N03: its media tokens are others, and its tokenizer is of another kind."""
    tokens = [[answered(f"a <|reserved_special_token_{i}|> b")] for i in range(8)]
    assert "\n".join(disagreements(llama_3, [*ODD.values(), *OWN, *tokens], template)) == ""


PARTS = (
    "<image>",
    *["a cat", "日本", "\n", " ", ""] * 4,
    *["a cat"] * 12,
    "<extra_id_5>",
    "\ud800",
    "<imag",
    "e>",
    "<s>",
)


def any_sample(chance: random.Random) -> Sample:
    """Return a sample with some faults, or none."""

    def text() -> Any:
        if chance.random() < 0.03:
            return chance.choice([None, 5, [], {}, True])
        return "".join(chance.choices(PARTS, k=chance.randint(0, 3)))

    made: Sample = {}
    if chance.random() < 0.9:
        names = chance.choices([*SIZES, *FILES, *["plain.jpg"] * 40], k=chance.choice((1, 1, 1, 1, 1, 2, 0)))
        made["image"] = names[0] if len(names) == 1 and chance.random() < 0.8 else names
    if chance.random() < 0.05:
        made["video"] = "x.mp4"
    turns = [{"from": ("human", "gpt")[i % 2], "value": text()} for i in range(chance.choice((*[2] * 12, 1, 3)))]
    if chance.random() < 0.9 and isinstance(turns[0]["value"], str):
        turns[0]["value"] += "<image>"
    if chance.random() < 0.1:
        chance.choice(turns)["from"] = chance.choice(("human", "gpt", "user", None))
    made["conversations"] = turns
    return made


@pytest.mark.parametrize("template", TEMPLATES)
def test_random_samples(inputs: Inputs, llama_3: Inputs, template: str) -> None:
    """N03: any mixture of all that."""
    chance, given = random.Random(template), llama_3 if template == "llama_3" else inputs  # noqa: S311 - not a secret
    batches = [[any_sample(chance) for _ in range(chance.choice((1, 1, 2)))] for _ in range(60)]
    assert "\n".join(disagreements(given, batches, template)) == ""
    taken = [not refused(given, batch, template) for batch in batches]
    assert 0.1 < sum(taken) / len(taken) < 0.9
