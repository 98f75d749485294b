"""What NeMo itself does with samples, numbers of consumed samples and folders of checkpoints."""

import cpu

cpu.install()

import json
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytorch_lightning as lightning
import torch
from answers import answer
from omegaconf import OmegaConf

from nemo.collections.multimodal.data.neva.conversation import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN
from nemo.collections.multimodal.data.neva.neva_dataset import (
    DataCollatorForSupervisedDataset,
    make_supervised_data_module,
)
from nemo.collections.multimodal.models.multimodal_llm.neva import neva_model
from nemo.collections.multimodal.models.multimodal_llm.neva.neva_model import MegatronNevaModel, NevaWordEmbeddingMixin
from nemo.collections.multimodal.parts.utils import create_image_processor
from nemo.collections.nlp.models.language_modeling.megatron_base_model import MegatronBaseModel
from nemo.utils.callbacks import NeMoModelCheckpoint
from nemo.utils.exp_manager import exp_manager


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


def stopped(error):
    """Say why NeMo stops."""
    return {"stops": f"{type(error).__name__}: {error}"[:300]}


@cache
def tokenizer_of(config):
    """Return the tokenizer that the model would build."""
    model = OmegaConf.load(config).model
    holder = SimpleNamespace(cfg=model, _cfg=model, register_artifact=lambda _, path: path)
    MegatronBaseModel._build_tokenizer(holder)
    return holder.tokenizer


def batches(config, over, batches, patches):
    """Return what comes of micro batches: why NeMo stops, or the length and what each sample teaches."""
    model = OmegaConf.merge(OmegaConf.load(config).model, over)
    try:
        tokenizer = tokenizer_of(config)
    except Exception as error:
        return [stopped(error)] * len(batches)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([sample for batch in batches for sample in batch], file)
        file.flush()
        model.data.data_path = file.name
        dataset = make_supervised_data_module(tokenizer, create_image_processor(model.mm_cfg), model)["train_dataset"]
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
            found.append(stopped(error))
        at += len(batch)
    return found


def begins(samples, consumed, replicas, pipeline, model):
    """Whether the model's own data loader gives a batch, after so many samples."""
    sizes = {
        "get_pipeline_model_parallel_world_size": lambda: pipeline,
        "get_data_parallel_world_size": lambda: replicas,
        "get_data_parallel_rank": lambda: 0,
    }
    holder = SimpleNamespace(cfg=OmegaConf.create(model), tokenizer=None)
    with patch.multiple(neva_model.parallel_state, **sizes):
        try:
            loader = MegatronNevaModel.build_pretraining_data_loader(holder, range(samples), consumed)
            return len(loader) > 0 and bool(next(iter(loader.batch_sampler), []))
        except (AssertionError, ValueError, ZeroDivisionError, RuntimeError):
            return False


def consumed_samples(path):
    """Return what the model takes a checkpoint to have seen."""
    return MegatronBaseModel._extract_consumed_samples_from_ckpt(None, path)


def start(config, log_dir, require):
    """Start a run up to its model's setup: the checkpoint that it resumes from, "" for none, or why NeMo stops."""
    said = OmegaConf.load(config).exp_manager
    given = OmegaConf.merge(said, {"explicit_log_dir": log_dir, "resume_ignore_no_checkpoint": not require})
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_steps=1, **silent)
    try:
        exp_manager(trainer, given)
    except Exception as error:
        return stopped(error)
    NeMoModelCheckpoint._remove_unfinished_checkpoints(Path(log_dir) / "checkpoints")  # as its setup does
    return {"resumes": trainer.ckpt_path or ""}


if __name__ == "__main__":
    answer(batches=batches, begins=begins, consumed_samples=consumed_samples, start=start)
