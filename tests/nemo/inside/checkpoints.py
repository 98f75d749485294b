"""Which checkpoints of a language model NeMo's real MegatronNevaModel loads, at the TP that a file names.

Run by torchrun's variables, one process a rank, with a JSON file:
    {"tensor": 2, "config": PATH, "make": {NAME: changes of the model's configuration}, "folder": PATH}
First checkpoints are made, `NAME` (torch_dist), `NAME-zarr` and `NAME-legacy`, and the same as `lacking`, without a
tensor; then the test makes others of them, once it is told so; then rank 0 prints for each folder or file whether it
loads: "", or what is wrong.
"""

import cpu

cpu.install()

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed
from inputs import make_clip
from megatron.core import dist_checkpointing, parallel_state
from omegaconf import OmegaConf
from torch.distributed.checkpoint.api import CheckpointException

from nemo.collections.multimodal.models.multimodal_llm.neva.neva_model import MegatronNevaModel
from nemo.collections.nlp.parts.megatron_trainer_builder import MegatronTrainerBuilder

OWN = ("vision_encoder", "adapter_layer")
"""NeVa's, which a language model's checkpoint does not have."""
LACKING = "decoder.final_layernorm.weight"
SAVED = 0.5
"""All weights of a checkpoint."""


def of_llm(state, lacks=OWN):
    """Return what a language model's checkpoint has of a state."""
    return {name: value for name, value in state.items() if not any(part in name for part in lacks)}


def save(model, config, place, lacks=OWN):
    """Write a checkpoint as NLPSaveRestoreConnector does, in each format that it reads."""
    tensor = parallel_state.get_tensor_model_parallel_rank()
    first = torch.distributed.get_rank() == 0
    for kind in ("", "-zarr", "-legacy"):
        folder = place.with_name(place.name + kind)
        if first:
            (folder / "model_weights" if kind != "-legacy" else folder).mkdir(parents=True)
            OmegaConf.save(config, folder / "model_config.yaml")
        torch.distributed.barrier()
        if kind == "-legacy":
            alone = parallel_state.get_tensor_model_parallel_world_size() == 1
            file = folder / ("" if alone else f"mp_rank_{tensor:02d}") / "model_weights.ckpt"
            file.parent.mkdir(exist_ok=True)
            torch.save({f"model.{name}": value for name, value in of_llm(model.state_dict(), lacks).items()}, file)
        else:
            state = {"state_dict": of_llm(model.sharded_state_dict(prefix="model."), lacks)}
            strategy = ("zarr", 1) if kind else ("torch_dist", 1)
            dist_checkpointing.save(state, str(folder / "model_weights"), strategy)
    torch.distributed.barrier()


def judged(config, trainer, path):
    """Return what is wrong with what NeMo makes of a checkpoint."""
    config.mm_cfg.llm.from_pretrained, said = path, ""
    try:
        whole = MegatronNevaModel(config, trainer)
    except (Exception, CheckpointException) as error:
        said = f"{type(error).__name__}: {error}"[:200]
    else:
        model = getattr(whole.model, "module", whole.model)
        pieces = whole.tokenizer.vocab_size // config.tensor_model_parallel_size
        for name, weight in of_llm(dict(model.named_parameters())).items():
            known = weight[: pieces if "embedding" in name or "output_layer" in name else None]
            if not bool((known == SAVED).all()):
                said = f"{name} is not loaded"
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, said)
    return next(filter(None, everyone), "")


def main():
    """Make, wait, judge."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    config, folder = OmegaConf.load(asked["config"]), Path(asked["folder"])
    config.trainer.devices = config.model.tensor_model_parallel_size = asked["tensor"]
    config.model.mm_cfg.llm.from_pretrained = None
    if not Path(asked["clip"]).exists() and os.environ["RANK"] == "0":
        make_clip(Path(asked["clip"]))
    trainer = MegatronTrainerBuilder(config).create_trainer()
    for name, changes in asked["make"].items():
        changed = OmegaConf.merge(config.model, changes)
        whole = MegatronNevaModel(changed, trainer)
        model = getattr(whole.model, "module", whole.model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(SAVED)
        save(model, changed, folder / name)
        if not changes:
            save(model, changed, folder / "lacking", (*OWN, LACKING))
    if torch.distributed.get_rank() == 0:
        print("MADE", flush=True)
        sys.stdin.readline()
    torch.distributed.barrier()
    for place in sorted(folder.iterdir()):
        said = judged(config.model, trainer, str(place))
        if torch.distributed.get_rank() == 0:
            print("JUDGED", json.dumps([place.name, said]), flush=True)


if __name__ == "__main__":
    main()
