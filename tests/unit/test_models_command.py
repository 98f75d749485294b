"""``neva-values models``: the catalog, for a person and for a program."""

import json

from click.testing import CliRunner

from neva_pretrain.cli.main import main
from neva_pretrain.model import catalog


def test_the_table_has_every_model_in_its_order() -> None:
    head, *rows = CliRunner().invoke(main, ["models"]).stdout.splitlines()
    assert head.split() == ["MODEL", "WEIGHTS", "TP", "PP", "MBS", "TOKENS", "VISION", "ENCODER"]
    assert [row.split()[0] for row in rows] == catalog.names()
    assert rows[0].split() == ["llama2_7b_chat", "6.7B", "4", "1", "32", "640", "clip-vit-large-patch14-336"]
    assert all(len(row) <= 80 for row in rows)


def test_json_says_the_same() -> None:
    found = json.loads(CliRunner().invoke(main, ["models", "-o", "json"]).stdout)
    assert [model["name"] for model in found] == catalog.names()
    assert found[0] == {
        "name": "llama2_7b_chat",
        "parameters": catalog.get("llama2_7b_chat").architecture.parameters,
        "tensorParallelSize": 4,
        "pipelineParallelSize": 1,
        "microBatchSize": 32,
        "tokensPerSample": 640,
        "visionEncoder": "clip-vit-large-patch14-336",
        "projector": "mlp2x_gelu",
    }
