"""Every model on 1 to 128 nodes, as a user goes: generate, check, template, validate, plan; else a clear refusal."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from neva_pretrain.cli.main import main
from neva_pretrain.model import catalog
from tests.chart import helm
from tests.chart.test_schema import kubeconform

DOCUMENTATION = helm.ROOT / "docs" / "explanation" / "planner.md"
MODELS = catalog.names()
NODES = (1, 2, 4, 16, 128)
TOO_FEW = [("nemotron4_340b_chat", 1)]  # TP 8 x PP 2 needs two nodes, and its weights more than one node's memory
CASES = [(model, nodes) for model in MODELS for nodes in NODES if (model, nodes) not in TOO_FEW]


def neva_values(*args: object) -> Result:
    """Run the command in this process; what it prints to stdout and stderr stays apart."""
    return CliRunner().invoke(main, list(map(str, args)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The values file of each case."""
    made = tmp_path_factory.mktemp("values")
    for model, nodes in CASES:
        done = neva_values("--gpus", 8 * nodes, "--model", model, "--output", made / f"{model}-{nodes}.yaml")
        assert done.exit_code == 0, (model, nodes, done.stderr)
    return made


@pytest.fixture(scope="module")
def rendered(folder: Path) -> dict[tuple[str, int], str]:
    """What helm makes of each values file."""
    return {(model, nodes): helm.render_text(folder / f"{model}-{nodes}.yaml") for model, nodes in CASES}


def test_check_accepts_every_generated_file(folder: Path) -> None:
    done = neva_values("check", "-o", "json", *sorted(folder.glob("*.yaml")))
    verdicts = json.loads(done.stdout)
    assert done.exit_code == 0, [verdict for verdict in verdicts if not verdict["ok"]]
    assert len(verdicts) == len(CASES)


def test_every_render_is_valid_and_has_the_nodes(rendered: dict[tuple[str, int], str]) -> None:
    everything = "\n---\n".join(rendered.values())
    found = kubeconform(everything, helm.KUBERNETES)
    count = len(helm.parse(everything))
    assert found["summary"] == {"valid": count, "invalid": 0, "errors": 0, "skipped": 0}
    for (model, nodes), text in rendered.items():
        manifests = helm.parse(text)
        replicas = helm.replicas(manifests)
        assert sum(spec["replicas"] for spec in replicas.values()) == nodes, (model, nodes)
        settings = json.loads(helm.config_data(manifests)["settings.json"])
        assert settings["model"]["name"] == model
        assert settings["derived"]["worldSize"] == 8 * nodes


@pytest.mark.parametrize(("model", "nodes"), CASES)
def test_the_planner_has_an_answer(model: str, nodes: int) -> None:
    done = neva_values("plan", "--gpus", 8 * nodes, "--model", model, "-o", "json")
    assert done.exit_code == 0, done.output
    plan: dict[str, Any] = json.loads(done.stdout)
    best = plan["best"]
    size = best["tensorParallelSize"] * best["pipelineParallelSize"] * best["dataParallelSize"]
    assert size == 8 * nodes
    assert best["dataParallelSize"] * best["microBatchSize"] * best["accumulation"] == 256 * nodes
    assert best["memory"]["headroomBytes"] >= 0
    assert 0 < best["mfu"] <= 1


@pytest.mark.parametrize("model", MODELS)
def test_the_planners_best_passes_check_and_helm(model: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    done = neva_values("--gpus", 128, "--model", model, "--optimize", "--output", file)
    assert done.exit_code == 0, done.stderr
    checked = neva_values("check", file)
    assert checked.exit_code == 0, checked.output
    helm.render_text(file)


def test_340b_on_one_node_is_refused_with_the_nodes_it_needs() -> None:
    generated = neva_values("--gpus", 8, "--model", "nemotron4_340b_chat")
    assert generated.exit_code == 1
    assert list(yaml.safe_load(generated.stdout).values()) == ["refused"], "nothing that could be installed (U01)"
    assert "ERROR: training.nodes: got 1 (8 GPUs); must make nodes x gpusPerNode a multiple of" in generated.stderr
    assert generated.stderr.rstrip().endswith("use 2")
    planned = neva_values("plan", "--gpus", 8, "--model", "nemotron4_340b_chat")
    assert planned.exit_code == 1
    assert "ERROR: --gpus: got 8; must fit in the 79.2 GiB of an H100 80GB, but needs weights" in planned.stderr
    assert "GiB; use 16 GPUs or more" in planned.stderr
    training = {"globalBatchSize": 256, "microBatchSize": 1, "tensorParallelSize": 8, "pipelineParallelSize": 2}
    (error,) = helm.render_fails({"model": {"name": "nemotron4_340b_chat"}, "training": training})
    assert error in generated.stderr, "helm says it in the same words"


@pytest.mark.parametrize("model", ["llama2_70b_chat", "llama3_70b_chat"])
def test_70b_without_tensor_parallelism_is_refused_with_one_that_fits(model: str, tmp_path: Path) -> None:
    generated = neva_values("--gpus", 16, "--model", model, "--tp", 1)
    assert generated.exit_code == 1
    (error,) = generated.stderr.splitlines()
    assert error.startswith("ERROR: training.microBatchSize: got ")
    assert "at tensorParallelSize 1; must fit in the 79.2 GiB of an H100 80GB, but needs weights 1" in error
    planned = neva_values("plan", "--gpus", 16, "--model", model, "--tensor-parallel", 1)
    assert planned.exit_code == 1
    assert "use a larger tensorParallelSize" in planned.stderr

    advice = error.rpartition("; use ")[2]  # followed, it helps
    values = yaml.safe_load(neva_values("--gpus", 16, "--model", model).stdout)
    values["training"] |= {key: yaml.safe_load(value) for key, value in map(str.split, advice.split(", "))}
    values["model"]["checkpointFormat"] = "distributed"
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    checked = neva_values("check", file)
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("model", MODELS)
def test_the_table_of_the_documentation_is_the_planners(model: str) -> None:
    (row,) = [line for line in DOCUMENTATION.read_text("utf-8").splitlines() if line.startswith(f"| {model} |")]
    args = "plan", "--gpus", 128, "--model", model, "-o", "json"
    plan = json.loads(neva_values(*args).stdout)
    fused = neva_values(*args, "--kernels", "fused")
    faster = "refused"  # Megatron Core does not fuse squared-relu
    if model != "nemotron4_340b_chat":
        faster = digits(json.loads(fused.stdout)["best"]["samplesPerSecondPerGpu"])
    cells = [model]
    for setup in (plan["preset"], plan["best"]):
        sizes = setup["tensorParallelSize"], setup["pipelineParallelSize"], setup["microBatchSize"]
        cells += [", ".join(map(str, sizes)), digits(setup["samplesPerSecondPerGpu"])]
    cells += [f"{plan['gain']:.2f}", faster, *(plan[which]["step"]["basis"] for which in ("preset", "best"))]
    assert (fused.exit_code == 0) == (faster != "refused")
    assert row == f"| {' | '.join(cells)} |"


def digits(rate: float) -> str:
    """Return a rate with three digits, or two decimals when it is small."""
    return f"{rate:.2f}" if rate < 1 else f"{rate:#.3g}"
