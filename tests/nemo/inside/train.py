"""What NeMo's examples/multimodal/multimodal_llm/neva/neva_pretrain.py does; the wheel has no examples."""

import cpu

cpu.install()

import torch.multiprocessing

from nemo.collections.multimodal.models.multimodal_llm.neva.neva_model import MegatronNevaModel
from nemo.collections.nlp.parts.megatron_trainer_builder import MegatronTrainerBuilder
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager

torch.multiprocessing.set_start_method("spawn", force=True)


@hydra_runner(config_path="conf", config_name="neva_config")
def main(cfg):
    """Train as the configuration says."""
    trainer = MegatronTrainerBuilder(cfg).create_trainer()
    exp_manager(trainer, cfg.exp_manager)
    trainer.fit(MegatronNevaModel(cfg.model, trainer))


if __name__ == "__main__":
    main()
