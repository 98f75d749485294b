"""Compare the logits of NeMo's real MegatronNevaModel with transformers', at the TP and PP that a file names.

Run by torchrun's variables, one process a rank, with a JSON file:
    {"tensor": 2, "pipeline": 1, "cases": [{"name", "config", "checkpoint", "expected", "save"}, ...]}
The last rank prints a line of JSON for each case: its name, the largest difference and the largest logit, and the same
of what the vocabulary is padded with. `save` names a folder that gets the language model as a legacy checkpoint.
"""

import cpu

cpu.install()

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from omegaconf import OmegaConf

from nemo.collections.multimodal.models.multimodal_llm.neva.neva_model import MegatronNevaModel
from nemo.collections.nlp.parts.megatron_trainer_builder import MegatronTrainerBuilder


def read_config(path, tensor, pipeline):
    """Read a rendered configuration, in fp32 so that the comparison is tight."""
    config = OmegaConf.load(path)
    config.trainer.devices, config.trainer.precision = tensor * pipeline, 32
    config.model.precision, config.model.megatron_amp_O2 = 32, False
    config.model.tensor_model_parallel_size, config.model.pipeline_model_parallel_size = tensor, pipeline
    if tensor > 1 and config.model.get("num_moe_experts"):
        config.model.moe_token_dispatcher_type = "allgather"  # noqa: S105 - no password; the other needs sequence parallelism
    return config


def logits(model, tokens):
    """Return the logits of the whole vocabulary on the last stage, None on the others."""
    positions = torch.arange(tokens.shape[1])[None].expand_as(tokens)
    if not parallel_state.is_pipeline_first_stage():
        hidden = torch.empty(tokens.shape[1], tokens.shape[0], model.config.hidden_size)
        torch.distributed.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(hidden)
    found = model(tokens, positions, None)
    if not parallel_state.is_pipeline_last_stage():
        torch.distributed.send(found.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
        return None
    return gather_from_tensor_model_parallel_region(found)


def save(model, folder):
    """Write this rank of a legacy checkpoint, as NLPSaveRestoreConnector does, without what is NeVa's own."""
    tensor = parallel_state.get_tensor_model_parallel_rank()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    single = parallel_state.get_pipeline_model_parallel_world_size() == 1
    place = Path(folder) / (f"mp_rank_{tensor:02d}" if single else f"tp_rank_{tensor:02d}_pp_rank_{stage:03d}")
    place.mkdir(parents=True)
    own = ("vision_encoder", "adapter_layer")
    state = {f"model.{k}": v for k, v in model.state_dict().items() if not any(name in k for name in own)}
    torch.save(state, place / "model_weights.ckpt")


def main():
    """Judge all cases."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    trainer = None
    for case in asked["cases"]:
        config = read_config(case["config"], asked["tensor"], asked["pipeline"])
        config.model.mm_cfg.llm.from_pretrained = case["checkpoint"]
        trainer = trainer or MegatronTrainerBuilder(config).create_trainer()
        whole = MegatronNevaModel(config.model, trainer)
        model = getattr(whole.model, "module", whole.model).eval()
        expected = torch.load(case["expected"])
        with torch.no_grad():
            found = logits(model, expected["tokens"])
        if case.get("save"):
            save(model, case["save"])
        if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            pieces = expected["logits"].shape[-1]
            numbers = {
                "difference": (found[..., :pieces] - expected["logits"]).abs().max().item(),
                "largest": expected["logits"].abs().max().item(),
                "padding": found[..., pieces:].abs().max().item(),
            }
            print("JUDGED", json.dumps({"name": case["name"], **numbers}), flush=True)


if __name__ == "__main__":
    main()
