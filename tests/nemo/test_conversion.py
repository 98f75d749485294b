"""What prepare makes of a language model is that model to NeMo's own NeVa, at any TP and PP."""

import json
import resource
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chart import helm
from tests.nemo.environment import INSIDE, environment, python, run
from tests.nemo.pod import ARCHITECTURE

pytestmark = [pytest.mark.nemo, pytest.mark.helm]

MODELS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"name": "llama2_7b_chat", "architecture": ARCHITECTURE},
    "mistral": {"name": "mistral_7b_instruct", "architecture": ARCHITECTURE},
    "mixtral": {
        "name": "mixtral_8x7b_instruct",
        "architecture": {**ARCHITECTURE, "numExperts": 4, "expertsPerToken": 2},
    },
}
KIND = {"llama": "llama", "tied": "llama", "bin": "llama", "index": "llama", "mistral": "mistral", "mixtral": "mixtral"}
"""Of each source, the model that the values name."""
EXPECTED = {**{name: name for name in KIND}, "bin": "llama", "index": "llama"}
LEGACY = {"legacy-tp2": (2, 1), "legacy-pp2": (1, 2)}
"""Made by NeMo of the converted Llama, at another TP and PP."""

Judged = Mapping[tuple[str, int, int], Mapping[str, float]]


class World:
    """Sources, what is rendered for them, and what was made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources, self.made = folder / "models" / "sources", folder / "models" / "made"
        run("variants.py", str(self.sources))
        for kind, model in MODELS.items():
            self.render(kind, model)

    def render(self, kind: str, model: Mapping[str, Any]) -> None:
        """Render a tiny model's run, and its prepare."""
        values = {
            "model": {
                **model,
                "llmPath": str(self.folder / "models"),
                "checkpoint": str(self.made / kind),
                "tokenizer": str(self.made / "tokenizer_neva.model"),
                "visionEncoderPath": str(self.sources / "clip"),
            },
            "data": {"path": str(self.folder / "data")},
            "training": {
                "gpusPerNode": 1,
                "tensorParallelSize": 1,
                "microBatchSize": 1,
                "globalBatchSize": 1,
                "sequenceParallel": False,
            },
            "storage": {
                "datasets": {"mountPath": str(self.folder / "data")},
                "models": {"mountPath": str(self.folder / "models")},
                "results": {"mountPath": str(self.folder / "results")},
                "scratch": {"mountPath": str(self.folder / "scratch")},
            },
        }
        steps = {step: {"enabled": False} for step in ("vision", "dataset")}
        prepare = {"enabled": True, "llm": {"source": str(self.sources / "llama")}, **steps}
        data = helm.config_data(helm.render(values))
        (self.folder / f"{kind}.yaml").write_text(data["neva_pretrain.yaml"])
        data = helm.config_data(helm.render({**values, "prepare": prepare}))
        (self.folder / f"{kind}.json").write_text(data["settings.json"])

    def convert(self, *names: str) -> None:
        """Run prepare's llm and tokenizer steps for sources."""
        done = self.prepare({name: {} for name in names})
        assert done.returncode == 0, done.stdout + done.stderr

    def prepare(self, sources: Mapping[str, Mapping[str, Any]], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run prepare for sources, with what their llm step differs in."""
        files = []
        for name, changes in sources.items():
            settings = json.loads((self.folder / f"{KIND.get(name, 'llama')}.json").read_text())
            settings["model"]["checkpointPath"] = str(self.made / name)
            settings["prepare"]["llm"].update({"source": str(self.sources / name), **changes})
            settings["prepare"]["tokenizer"]["source"] = str(self.sources / "llama")
            files.append(self.folder / f"prepare-{name}.json")
            files[-1].write_text(json.dumps(settings))
        command = [str(python()), str(INSIDE / "prepare.py"), *map(str, files)]
        env = environment(PYTHONPATH=str(helm.CHART / "files"))
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, **options)

    def judge(self, names: Sequence[str], tensor: int, pipeline: int, save: str = "") -> Judged:
        """Have NeMo load what was made, one process a rank; return how far its logits are from transformers'."""
        cases = [
            {
                "name": name,
                "config": str(self.folder / f"{KIND.get(name, 'llama')}.yaml"),
                "checkpoint": str(self.made / name),
                "expected": str(self.sources / f"{EXPECTED.get(name, 'llama')}.pt"),
                "save": str(self.sources / save) if save and name == "llama" else "",
            }
            for name in names
        ]
        asked = self.folder / f"judge-{tensor}-{pipeline}.json"
        asked.write_text(json.dumps({"tensor": tensor, "pipeline": pipeline, "cases": cases}))
        said = self.ranks(tensor * pipeline, "logits.py", str(asked))
        found = [json.loads(line.removeprefix("JUDGED ")) for line in said.splitlines() if line.startswith("JUDGED ")]
        return {(case["name"], tensor, pipeline): case for case in found}

    def ranks(self, count: int, script: str, *arguments: str) -> str:
        """Run a script in a process for each rank; return what the last one printed."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": "0", "NODE_RANK": "0"}
        children = []
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
            env = environment(**shared, **own, **size)
            with self.log(script, rank).open("w") as log:
                command = [str(python()), str(INSIDE / script), *arguments]
                children.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
        for rank, child in enumerate(children):
            assert child.wait() == 0, self.log(script, rank).read_text()[-4000:]
        return self.log(script, count - 1).read_text()

    def log(self, script: str, rank: int) -> Path:
        """Return the file with what a rank said."""
        return self.folder / f"{script}-{rank}.log"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Make the sources."""
    return World(tmp_path_factory.mktemp("conversion"))


@pytest.fixture(scope="module")
def judged(world: World) -> Judged:
    """Everything at once: a start of NeMo takes longer than a judgement."""
    world.convert(*KIND)
    found = {**world.judge(list(KIND), 2, 1, "legacy-tp2"), **world.judge(["llama", "mixtral"], 1, 2, "legacy-pp2")}
    for name in LEGACY:
        (world.sources / name / "model_config.yaml").write_text(
            (world.made / "llama" / "model_config.yaml").read_text()
        )
    world.convert(*LEGACY)
    return {**found, **world.judge([*KIND, *LEGACY], 1, 1)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "tensor", "pipeline"),
    [
        *((name, 1, 1) for name in (*KIND, *LEGACY)),
        *((name, 2, 1) for name in KIND),
        *((name, 1, 2) for name in ("llama", "mixtral")),
    ],
)
def test_r01_nemo_computes_transformers_logits(judged: Judged, name: str, tensor: int, pipeline: int) -> None:
    """R01: converted without a GPU and without NeMo, loaded at this TP and PP; the vocabulary's padding is zero."""
    found = judged[name, tensor, pipeline]
    assert found["largest"] > 0.5
    assert found["difference"] < 1e-5, found
    assert found["padding"] == 0


def test_r01_numbers_that_cannot_be_right(world: World) -> None:
    """What only reading the tensors shows: one process, a sentence for each, and no result."""
    whole = (world.sources / "llama" / "model.safetensors").read_bytes()
    end = whole.index(b"lm_head.weight")  # the header's first tensor, whose data follows the header
    start = 8 + int.from_bytes(whole[:8], "little")
    assert b'"data_offsets":[0,' in whole[end : end + 120]
    asked: dict[str, dict[str, Any]] = {"code": {}, "integers": {}}
    for name, number, precision in (("nan", 0x7FC0, "bf16"), ("large", 0x7F00, "16"), ("fits", 0x7F00, "32")):
        shutil.copytree(world.sources / "llama", world.sources / name)
        spoilt = whole[:start] + number.to_bytes(2, "little") + whole[start + 2 :]
        (world.sources / name / "model.safetensors").write_bytes(spoilt)
        asked[name] = {"precision": precision}
    done = world.prepare(asked)
    said = [line.removeprefix("prepare: llm: ERROR: ") for line in done.stdout.splitlines() if "llm: ERROR" in line]
    place = "model.safetensors: tensor lm_head.weight has values that"
    assert said == [
        f"{world.sources}/code/pytorch_model.bin: damaged, or not of the expected kind: "
        "UnpicklingError: it names pathlib.PurePosixPath",
        f"{world.sources}/integers/pytorch_model.bin: tensor model.norm.weight is torch.int32 of shape [256]; "
        "must be a float of shape [256]",
        f"{world.sources}/nan/{place} torch.bfloat16 cannot hold, or not a number",
        f"{world.sources}/large/{place} torch.float16 cannot hold, or not a number",
    ]
    assert [name for name in asked if (world.made / name).exists()] == ["fits"]


def test_r01_a_disk_that_is_full(world: World) -> None:
    """The writer is torch's; what it meets is said in words, and the next run succeeds."""
    asked = {"index": {"precision": "32"}}
    shutil.rmtree(world.made / "index", ignore_errors=True)
    done = world.prepare(asked, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)))
    assert done.returncode == 1
    assert "cannot be written: larger than the maximum file size here" in done.stdout
    assert not (world.made / "index").exists()
    assert world.prepare(asked).returncode == 0
