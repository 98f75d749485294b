"""What NeVa can take as a sample: the rules of NeMo r2.0.0rc1, template by template.

NeMo reads a sample only when it is drawn, in a DataLoader worker: what it asserts, or would crash on, ends the run
hours later. Sources: neva_dataset.py (LazySupervisedDataset, preprocess_*), conversation.py, and for what has to
match on the GPU neva_model.py (replace_media_embeddings).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IMAGE = "<image>"
BY_ROLE = ("llama_2", "llama_3", "mistral", "v1")
"""Templates that take turns by `from`: human, gpt, human ...; a first turn of gpt is dropped."""
BY_PLACE = ("nvgpt", "nv_steerlm", "nv_dpo")
"""Templates that take every other turn for the answer, whatever `from` says."""
TEMPLATES = ("plain", *BY_ROLE, *BY_PLACE)
"""All values of model.data.conv_template that NeMo knows."""

Turn = Mapping[str, Any]


@dataclass(frozen=True)
class Rules:
    """How the run's Hydra config reads samples."""

    template: str = "plain"
    image_first: bool = False
    """model.data.sep_image_conv_front: as with plain, the first turn must have the image."""
    media_end: str = "<extra_id_5>"
    """The token that NeMo counts images by, of the model's type."""
    sentencepiece: bool = True
    """The tokenizer is of this kind, which takes UTF-8: JSON can have half a character, UTF-8 cannot."""

    def readable(self, value: Any) -> bool:
        """Whether the tokenizer takes it."""
        try:
            return isinstance(value, str) and (not self.sentencepiece or value.encode() is not None)
        except UnicodeEncodeError:
            return False


def images_of(sample: Mapping[str, Any]) -> list[Any]:
    """Return what a sample names as its images: NeMo takes one or a list."""
    if "image" not in sample:
        return []
    found = sample["image"]
    return found if isinstance(found, list) else [found]


def look_at(sample: Mapping[str, Any], rules: Rules) -> tuple[str, int, bool]:
    """Look at a sample as NeMo does when it is drawn.

    Returns:
        what NeMo stops at or silently does wrong ("" where it takes the sample), the number of images, and whether
        there is an answer to learn from.

    """
    turns = sample.get("conversations")
    if not isinstance(turns, list) or not turns:
        return "have no conversations", 0, False
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            return "have a turn without text", 0, False
    images = images_of(sample)
    for image in images:
        if not isinstance(image, str) or not image:
            return "have an image that is not a path", 0, False
    if "image" not in sample and "video" in sample:
        return "have a video and no image", 0, False
    kept = turns[1:] if rules.template in BY_ROLE and turns[0].get("from") == "gpt" else turns
    problem = _template_problem(sample, turns, kept, rules) or _media_problem(turns, kept, len(images), rules)
    return problem, len(images), any(turn["value"].strip() for turn in kept[1::2])


def _template_problem(sample: Mapping[str, Any], turns: Sequence[Turn], kept: Sequence[Turn], rules: Rules) -> str:
    template = rules.template
    if template in BY_ROLE:
        return _role_problem(turns, kept, template)
    if template in BY_PLACE:
        if not rules.readable(sample.get("system", "")):
            return "have a system prompt that is not text"
        if not all(rules.readable(t.get("label", "")) for t in turns[1::2]):
            return "have a label that is not text"
        return ""
    if len(turns) != 2:
        return "do not have exactly 2 turns, as the template plain requires"
    if turns[1].get("from") == "human":
        return "have turns that are not a human question and a gpt answer"
    return ""


def _role_problem(turns: Sequence[Turn], kept: Sequence[Turn], template: str) -> str:
    roles = ("human", "gpt")
    if not all(t.get("from") in roles for t in turns):
        return f"have a turn whose `from` is not human or gpt, as the template {template} requires"
    if not kept:
        return "have no question"
    if any(t["from"] != roles[i % 2] for i, t in enumerate(kept)):
        return f"have turns that do not alternate between human and gpt, as the template {template} requires"
    if template != "v1" and not kept[0]["value"]:
        return f"have an empty question, which the template {template} refuses"
    return ""


def _media_problem(turns: Sequence[Turn], kept: Sequence[Turn], images: int, rules: Rules) -> str:
    """Each <image> becomes a block of image tokens; the model puts the images' features there, block by block."""
    blocks = 0
    for turn in kept:
        blocks += turn["value"].count(IMAGE)
    if images and (rules.template == "plain" or rules.image_first):
        asked = turns[0]["value"].count(IMAGE)
        if not asked:
            return f"have an image but no {IMAGE} in the first turn"
        if kept is turns:
            blocks -= asked - 1  # NeMo leaves one of them
    if blocks != images:
        if not images:
            return f"have {IMAGE} in the text but no image"
        if blocks > images:
            return f"have more {IMAGE} than images"
        return f"have more images than {IMAGE}, so that some are never seen"
    read = kept[1:] if images and rules.template == "plain" else kept  # plain replaces the first turn's text
    for turn in read:
        if not rules.readable(turn["value"]):
            return "have a lone surrogate in the text, which sentencepiece does not take"
        if rules.media_end in turn["value"]:
            return f"have NeVa's own token {rules.media_end} in the text"
    return ""
