"""What NeMo's examples/multimodal/multimodal_llm/neva/neva_pretrain.py does, which is not in the wheel.

NEVA_SUMS names a file for the checksum of each part of the model, before and after.
"""

import cpu

cpu.install()

import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path

import torch.multiprocessing

from nemo.collections.multimodal.models.multimodal_llm.neva.neva_model import MegatronNevaModel
from nemo.collections.nlp.parts.megatron_trainer_builder import MegatronTrainerBuilder
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager

torch.multiprocessing.set_start_method("spawn", force=True)


class Sums(cpu.lightning.Callback):
    """Writes a line with the checksums of projector, vision encoder and language model."""

    def on_train_start(self, trainer, model):
        """Write those that training begins with."""
        self.write(trainer, model)

    def on_train_end(self, trainer, model):
        """Write those that it ends with."""
        self.write(trainer, model)

    def write(self, trainer, model):
        """Append a line."""
        sums = defaultdict(hashlib.sha256)
        for name, parameter in sorted(model.named_parameters()):
            part = "projector" if "mm_projector" in name else "vision" if "vision_encoder" in name else "llm"
            sums[part].update(parameter.detach().float().numpy().tobytes())
        with Path(f"{os.environ['NEVA_SUMS']}-{trainer.global_rank}").open("a") as file:
            line = {"step": trainer.global_step, **{part: found.hexdigest() for part, found in sums.items()}}
            file.write(json.dumps(line) + "\n")


@hydra_runner(config_path="conf", config_name="neva_config")
def main(cfg):
    """Train as the configuration says."""
    trainer = MegatronTrainerBuilder(cfg).create_trainer(callbacks=[Sums()])
    exp_manager(trainer, cfg.exp_manager)
    trainer.fit(MegatronNevaModel(cfg.model, trainer))


if __name__ == "__main__":
    main()
