"""What NeMo itself does with samples, lengths, numbers of consumed samples and folders of checkpoints."""

import cpu

cpu.install()

import json
import tempfile
from functools import cache

import torch
from answers import answer
from omegaconf import OmegaConf

from nemo.collections.multimodal.data.neva.conversation import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN
from nemo.collections.multimodal.data.neva.neva_dataset import (
    DataCollatorForSupervisedDataset,
    make_supervised_data_module,
)
from nemo.collections.multimodal.models.multimodal_llm.neva.neva_model import NevaWordEmbeddingMixin
from nemo.collections.multimodal.parts.utils import create_image_processor
from nemo.collections.nlp.modules.common.tokenizer_utils import get_nmt_tokenizer


class Images(NevaWordEmbeddingMixin):
    """The step that puts images into text; every number of an image's features is 1."""

    def __init__(self, start, end, patches):
        super().__init__()
        self.patches = patches
        self.init_vision(None, start, end)

    def encode_vision_x(self, vision_x):
        """Return features of the right shape."""
        return torch.ones(*vision_x.shape[:3], self.patches, 1)

    def seen(self, tokens, media):
        """Return how many features each sample gets."""
        return self.replace_media_embeddings(tokens, torch.zeros(*tokens.shape, 1), media).sum((1, 2)).int().tolist()


def distorted(dataset, sample, media):
    """Whether an image is not what it is with its colors where they are."""
    names = dataset.list_data_dict[sample].get("image", [])
    return any(
        not torch.equal(
            one,
            dataset.processor(
                dataset.image_loader.open_image(name), return_tensors="pt", input_data_format="channels_last"
            )["pixel_values"][0],
        )
        for one, name in zip(media, names, strict=False)
    )


@cache
def loaded(config):
    """Return the model's configuration, its tokenizer and its image processor."""
    model = OmegaConf.load(config).model
    library, file = model.tokenizer.library, model.tokenizer.model
    tokenizer = get_nmt_tokenizer(library=library, tokenizer_model=file, legacy=model.tokenizer.sentencepiece_legacy)
    return model, tokenizer, create_image_processor(model.mm_cfg)


def batches(config, data, batches, patches):
    """Return what comes of micro batches: why NeMo stops, or the length and what each sample teaches."""
    given, tokenizer, processor = loaded(config)
    model = OmegaConf.merge(given, {"data": data})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([sample for batch in batches for sample in batch], file)
        file.flush()
        model.data.data_path = file.name
        dataset = make_supervised_data_module(tokenizer, processor, model)["train_dataset"]
    collate = DataCollatorForSupervisedDataset(model, tokenizer)
    model_type = model.mm_cfg.llm.model_type
    start, end = (tokenizer.token_to_id(names[model_type]) for names in (DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN))
    images = Images(start, end, patches)

    def taken(samples):
        batch = collate([dataset[i] for i in samples])
        tokens, taught = batch["tokens"], batch["loss_mask"].bool()
        return {
            "length": tokens.shape[1],
            "learned": [
                tokenizer.ids_to_text(row[kept].tolist()) for row, kept in zip(batch["labels"], taught, strict=True)
            ],
            "read": [tokenizer.ids_to_text(row.tolist()) for row in tokens],
            "seen": images.seen(tokens, batch["media"]),
            "distorted": any(
                distorted(dataset, i, media[:, 0]) for i, media in zip(samples, batch["media"], strict=True)
            ),
        }

    found, at = [], 0
    for batch in batches:
        try:
            found.append(taken(range(at, at + len(batch))))
        except Exception as error:
            found.append({"stops": f"{type(error).__name__}: {error}"[:300]})
        at += len(batch)
    return found


if __name__ == "__main__":
    answer(batches=batches)
