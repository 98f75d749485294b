"""The tokenizers in which NeMo finds its media tokens are those that preflight passes; all templates go with them."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2

from neva_pod.inputs.samples import TEMPLATES
from neva_pod.inputs.tokenizer import LLAMA_3_TOKENS
from neva_pretrain.facts import Facts
from neva_pretrain.model import catalog
from tests.nemo import tiny
from tests.nemo.judge import ask
from tests.nemo.test_lengths import captioned, inputs, rendered
from tests.unit.preflight_tools import problems

pytestmark = [pytest.mark.nemo, pytest.mark.helm]

MODELS = ("llama2_7b_chat", "llama3_8b_chat", "mistral_7b_instruct", "nemotron4_340b_chat")
"""One of each type."""
CAPTION = "a photo of 3 red cats"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of pieces."""
Pieces = list[tuple[str, int]]


def extra(*numbers: int, kind: int = USER_DEFINED) -> Pieces:
    """Return pieces of NeVa's."""
    return [(f"<extra_id_{number}>", kind) for number in numbers]


ALL = tuple(range(8))
ENDS: Mapping[str, Pieces] = {
    "whole": extra(*ALL),
    "none": [],
    "the first six": extra(*range(6)),
    "the first five": extra(*range(5)),
    **{f"all but {n}": extra(*(i for i in ALL if i != n)) for n in ALL},
    **{
        f"{n} is for control": [e for i in ALL for e in extra(i, kind=CONTROL if i == n else USER_DEFINED)] for n in ALL
    },
    "all for control": extra(*ALL, kind=CONTROL),
    "normal": extra(*ALL, kind=NORMAL),
    "unused": extra(*ALL, kind=UNUSED),
    "another order": extra(1, 0, *range(2, 8)),
    "start and end swapped": extra(0, 1, 2, 3, 5, 4, 6, 7),
    "one more": [*extra(*ALL), ("<other>", USER_DEFINED)],
    "nine": extra(*range(9)),
    "twice": extra(*ALL, *ALL),
    "one of them twice": extra(0, *ALL),
}
"""What follows the pieces of the model's own tokenizer."""
AHEAD = "ahead of the others"


def folder_instead(path: Path) -> None:
    """Have a folder where the file was."""
    path.unlink()
    path.mkdir()


SPOILT: Mapping[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a tokenizer"),
    "gone": Path.unlink,
    "a folder": folder_instead,
}
STRICTER = {
    "llama2_7b_chat": {*(f"all but {n}" for n in ALL), *(f"{n} is for control" for n in ALL)}
    | {"the first six", "another order", "start and end swapped", "one more", "nine", AHEAD},
    "nemotron4_340b_chat": {f"all but {n}" for n in range(3)} | {f"{n} is for control" for n in range(3)},
    "llama3_8b_chat": {f"without {n}" for n in range(8)},
}
"""What has an image in it for NeMo, and preflight refuses: the ids are not those that the model was converted for."""


class Case:
    """A model with a tokenizer, as NeMo and preflight see it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model, self.folder = catalog.get(name), folder
        self.values = inputs(self.model, folder)
        self.text = Path(rendered(self.values, folder)).read_text()
        samples = [captioned(CAPTION)] * 256
        (folder / "data" / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(samples))

    @property
    def own(self) -> Path:
        """Return the path of its whole tokenizer."""
        return self.folder / "tokenizer"

    def nemo(self, tokenizer: Path, templates: Iterable[str] = ("plain",)) -> list[str]:
        """Return what NeMo does wrong with a sample, for each template; "" = nothing."""
        config = self.folder / f"{tokenizer.name}.yaml"  # NeMo's tokenizer is kept by its path
        config.write_text(self.text.replace(f"{self.own}\n", f"{tokenizer}\n"))
        assert tokenizer == self.own or config.read_text() != self.text
        found = []
        for template in templates:
            over = {"data": {"conv_template": template}}
            asked = {"config": str(config), "over": over, "batches": [[captioned(CAPTION)]]}
            (taken,) = ask("batches", **asked, patches=self.model.image_tokens)
            found.append(self.wrong(taken))
        return found

    def wrong(self, taken: Mapping[str, Any]) -> str:
        """Return what is wrong with a batch of one sample."""
        if "stops" in taken:
            return str(taken["stops"])
        if taken["seen"] != [self.model.image_tokens]:
            return f"the image is not seen: {taken['seen']}"
        (learned,) = taken["learned"]
        return "" if learned.strip().startswith(CAPTION) else f"it learns {learned!r}"

    def preflight(self, tokenizer: Path, template: str = "plain") -> list[str]:
        """Return what preflight says against it."""
        model = {**self.values["model"], "tokenizer": str(tokenizer)}
        settings = Facts.of({**self.values, "model": model}).sheet
        settings["samples"]["template"] = template
        return [said for check in ("tokenizer", "dataset") for said in problems(settings, check)]

    def disagreements(self, tokenizers: Iterable[Path]) -> list[str]:
        """Return the tokenizers of which NeMo and preflight say different things."""
        found = []
        for path in tokenizers:
            (nemo,), preflight = self.nemo(path), self.preflight(path)
            strict = path.name in STRICTER.get(self.model.name, ())
            if bool(nemo) != bool(preflight) and not (strict and preflight):
                found.append(f"{path.name}: NeMo: {nemo}; preflight: {preflight}")
        return found


@pytest.mark.parametrize("name", MODELS)
def test_each_template_with_each_tokenizer(tmp_path: Path, name: str) -> None:
    """NeMo sees the image and learns the answer and nothing else; so preflight must say nothing."""
    case = Case(name, tmp_path)
    found = dict(zip(TEMPLATES, case.nemo(case.own, TEMPLATES), strict=True))
    assert {template: (found[template], case.preflight(case.own, template)) for template in TEMPLATES} == {
        template: ("", []) for template in TEMPLATES
    }


@pytest.mark.parametrize("name", ["llama2_7b_chat", "nemotron4_340b_chat"])
def test_e07_sentencepiece_models(tmp_path: Path, name: str) -> None:
    """E07: with NeVa's pieces added to the model's own tokenizer, and published with them."""
    case, made = Case(name, tmp_path), []
    base = sentencepiece_model_pb2.ModelProto()
    base.ParseFromString(tiny.sentencepieces())
    del base.pieces[-8:]

    def write(label: str, pieces: Pieces, at: int) -> None:
        proto = sentencepiece_model_pb2.ModelProto()
        proto.CopyFrom(base)
        del proto.pieces[at:]
        proto.pieces.extend(proto.SentencePiece(piece=text, score=0.0, type=kind) for text, kind in pieces)
        proto.pieces.extend(base.pieces[at:])
        made.append(tmp_path / label)
        made[-1].write_bytes(proto.SerializeToString())

    for label, pieces in ENDS.items():
        write(label, pieces, len(base.pieces))
    write(AHEAD, extra(*ALL), 5)
    for label, spoil in SPOILT.items():
        shutil.copy(case.own, tmp_path / label)
        spoil(tmp_path / label)
        made.append(tmp_path / label)
    assert "\n".join(case.disagreements(made)) == ""


def changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change the description of each added token of Llama 3's that NeVa uses."""

    def change(data: dict[str, Any]) -> None:
        for token in data["added_tokens"]:
            if token["content"] in LLAMA_3_TOKENS:
                token.update(changes)

    return change


def only_words(data: dict[str, Any]) -> None:
    """Have them in the vocabulary, not among the added tokens."""
    for token in [t for t in data["added_tokens"] if t["content"] in LLAMA_3_TOKENS]:
        data["added_tokens"].remove(token)
        data["model"]["vocab"][token["content"]] = token["id"]


def lacking(number: int) -> Callable[[dict[str, Any]], None]:
    """Lack one of them."""

    def change(data: dict[str, Any]) -> None:
        data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != LLAMA_3_TOKENS[number]]

    return change


TOKENS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "unchanged": lambda _: None,
    "not special": changed(special=False),
    "normalized": changed(normalized=True),
    "whole words": changed(single_word=True),
    "stripped": changed(lstrip=True, rstrip=True),
    "only words": only_words,
    "no added tokens": lambda data: data.pop("added_tokens"),
    "no vocabulary": lambda data: data["model"].pop("vocab"),
    **{f"without {n}": lacking(n) for n in range(8)},
}


def test_e07_huggingface_tokenizers(tmp_path: Path) -> None:
    """E07: Llama 3's, whose reserved tokens are NeVa's."""
    case, made = Case("llama3_8b_chat", tmp_path), []
    data = (case.own / "tokenizer.json").read_text()
    for label, change in TOKENS.items():
        folder = shutil.copytree(case.own, tmp_path / label)
        one = json.loads(data)
        change(one)
        (folder / "tokenizer.json").write_text(json.dumps(one))
        made.append(folder)
    for label, file, content in (
        ("cut", "tokenizer.json", data[:-30]),
        ("empty", "tokenizer.json", ""),
        ("no class", "tokenizer_config.json", "{}"),
        ("a cut class", "tokenizer_config.json", "{"),
    ):
        folder = shutil.copytree(case.own, tmp_path / label)
        (folder / file).write_text(content)
        made.append(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        folder = shutil.copytree(case.own, tmp_path / f"no {file}")
        (folder / file).unlink()
        made.append(folder)
    assert "\n".join(case.disagreements(made)) == ""
