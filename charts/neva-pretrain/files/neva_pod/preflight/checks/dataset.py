"""The samples of the dataset, as NeMo reads them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import comb
from typing import Any

from neva_pod.findings import SHOWN, Finding, brief, failed, note, show, some, warning
from neva_pod.inputs.samples import TEMPLATES, Rules, look_at
from neva_pod.inputs.tokenizer import LLAMA_3_TOKENS, extra_tokens
from neva_pod.preflight.checks.sampler import length_problems
from neva_pod.preflight.registry import Context, Level, check
from neva_pod.settings import Settings

EXPECTED = 558128
KNOWN = {
    EXPECTED: "LLaVA-Pretrain-LCS-558K",
    595375: "LLaVA-CC3M-Pretrain-595K",
    665298: "LLaVA-v1.5-mix665K (instruction tuning)",
    157712: "LLaVA-Instruct-150K (instruction tuning)",
}


@check(
    Level.FULL,
    "data.annotations",
    cost="parses the JSON once: about 2 s and 0.8 GB of memory for 558K samples",
    prevents="an AssertionError in a DataLoader worker when a bad sample is drawn, hours later; the wrong dataset; "
    "fewer samples than one pass takes",
)
def check_dataset(context: Context) -> Iterator[Finding]:
    """By count, and each sample."""
    path, samples = context.settings.text("data.annotations"), context.samples()
    name = KNOWN.get(len(samples))
    if name is None:
        yield warning(
            f"{show(path)}: {len(samples)} samples: not a known dataset (LLaVA-Pretrain-LCS-558K has {EXPECTED})",
            "check that it is complete and that training.maxSteps suits it",
        )
    elif len(samples) != EXPECTED:
        yield failed(
            f"{show(path)}: {len(samples)} samples: this looks like {name}; must be "
            f"LLaVA-Pretrain-LCS-558K ({EXPECTED})",
            "use blip_laion_cc_sbu_558k.json of liuhaotian/LLaVA-Pretrain",
        )
        return  # its samples have another format: each would be named
    yield from sample_findings(context.settings, samples)
    yield from length_problems(context.settings, len(samples))
    yield note(f"{len(samples)} samples: {name or 'own dataset'}")


RARE = 1e-6
"""So few micro batches without an answer, of all in a pass, that none is to be expected."""


def silent_batches(samples: int, silent: int, micro: int) -> float:
    """Return how many micro batches of a pass are to be expected in which no sample has an answer.

    With the template plain there is none: its answers end with a line break, which is learned.
    """
    if not 0 < micro <= silent:
        return 0
    return samples / micro * comb(silent, micro) / comb(samples, micro)


def sample_findings(settings: Settings, samples: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Name the samples that NeMo would stop at, or would learn nothing from."""
    template, media = settings.text("samples.template", "plain"), settings.text("samples.mediaType", "image")
    if template not in TEMPLATES:
        yield failed(
            f"config.model.data.conv_template: got {show(template)}; must be one of NeMo's templates",
            f"use {', '.join(TEMPLATES)}",
        )
        return
    if media != "image":
        yield warning(f"samples of media type {show(media)} are not checked", "check them manually")
        return
    llama_3 = settings.text("model.modelType", "") == "llama_3"
    rules = Rules(
        template,
        settings.flag("samples.imageFirst"),
        media_end=LLAMA_3_TOKENS[5] if llama_3 else extra_tokens(6)[5],
        sentencepiece=settings.text("model.tokenizerLibrary", "sentencepiece") == "sentencepiece",
    )
    bad: dict[str, list[int]] = defaultdict(list)
    slots: dict[int, list[int]] = defaultdict(list)
    silent: list[int] = []
    without_image = 0
    for index, sample in enumerate(samples):
        problem, images, answered = look_at(sample, rules)
        if problem:
            bad[problem].append(index)
            continue
        slots[images or 1].append(index)
        without_image += not images
        if not answered:
            silent.append(index)
    micro = settings.integer("training.microBatchSize", 0)
    for images in sorted(slots, key=lambda n: -len(slots[n]))[1:] if micro != 1 else ():
        bad[f"have {images} images, unlike other samples: they do not fit in one batch"] = slots[images]
    if template != "plain" and silent_batches(len(samples), len(silent), micro) > RARE:
        bad[f"have no answer, so that at micro batch size {micro} the loss is NaN"] = silent
        silent = []

    def named(indices: Sequence[int]) -> str:
        names = [brief(samples[i].get("id", f"#{i}")) for i in indices[: SHOWN + 1]]
        return some([*names, *[""] * (len(indices) - len(names))])

    for problem, indices in bad.items():
        yield failed(
            f"{len(indices)} samples {problem}: id {named(indices)}",
            "repair or remove them, or download the JSON again",
        )
    if silent:
        yield warning(f"{len(silent)} samples have no answer to learn from: id {named(silent)}", "remove them")
    if without_image:
        yield warning(f"{without_image} samples have no image", "check that it is a dataset of image captions")
