"""``neva-values models``: what ``--model`` takes."""

import json

import click

from neva_pretrain.cli import options
from neva_pretrain.model import catalog
from neva_pretrain.model.catalog import Model
from neva_pretrain.output import say, table

EPILOG = """\b
Examples:
  neva-values models
  neva-values models -o json
"""

_HEAD = ("MODEL", "WEIGHTS", "TP", "PP", "MBS", "TOKENS", "VISION ENCODER")


@click.command("models", epilog=EPILOG)
@options.form()
def models(form: str) -> None:
    """List the catalog: NVIDIA's NeVa presets.

    WEIGHTS are the language model's; TP, PP and MBS the preset's; TOKENS those of one sample.
    """
    known = [catalog.get(name) for name in catalog.names()]
    if form == "json":
        say(json.dumps([_document(model) for model in known], indent=2))
        return
    rows = [_HEAD, *(_row(model) for model in known)]
    say("\n".join(table(rows, right=_HEAD[1:-1])))


def _row(model: Model) -> tuple[str, ...]:
    preset = model.preset
    sizes = (preset.tensor_parallel_size, preset.pipeline_parallel_size, preset.micro_batch_size)
    weights = f"{model.architecture.parameters / 1e9:.1f}B"
    return (model.name, weights, *map(str, (*sizes, model.tokens_per_sample)), model.vision.name)


def _document(model: Model) -> dict[str, object]:
    return {
        "name": model.name,
        "parameters": model.architecture.parameters,
        "tensorParallelSize": model.preset.tensor_parallel_size,
        "pipelineParallelSize": model.preset.pipeline_parallel_size,
        "microBatchSize": model.preset.micro_batch_size,
        "tokensPerSample": model.tokens_per_sample,
        "visionEncoder": model.vision.name,
        "projector": model.projector,
    }
