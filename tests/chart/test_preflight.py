"""Preflight, helm test and prepare as the chart renders them; the scripts themselves are tested in tests/unit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neva_pod.preflight.checks import CHECKS
from neva_pretrain.model import catalog, hydra
from tests.chart import helm

LLM = "meta-llama/Llama-2-7b-chat-hf"


def prepare(**more: Any) -> helm.Manifest:
    """Values of a prepare release."""
    return {"prepare": {"enabled": True, "llm": {"source": LLM}, **more}}


def settings(manifests: list[helm.Manifest]) -> Any:
    """What the scripts read."""
    return json.loads(helm.config_data(manifests)["settings.json"])


def test_every_pod_checks_before_it_trains_and_the_master_checks_all() -> None:
    manifests = helm.render({"training": {"nodes": 2, "globalBatchSize": 512}})
    assert helm.env(manifests, "Master")["NEVA_PREFLIGHT"] == "full"
    assert helm.env(manifests, "Worker")["NEVA_PREFLIGHT"] == "quick"
    assert helm.env(helm.render({"job": {"kind": "TrainJob"}}), "Node")["NEVA_PREFLIGHT"] == "auto"


@pytest.mark.parametrize("role", ["Master", "Worker"])
def test_no_init_container_can_fail(role: str) -> None:
    """The operator would create its pod anew for ever, without a limit; the exporter is a sidecar that restarts."""
    values = {"training": {"nodes": 2, "globalBatchSize": 512}, "monitoring": {"exporter": {"enabled": True}}}
    containers = helm.pod(helm.render(values), role).get("initContainers", [])
    assert [c["restartPolicy"] for c in containers] == ["Always"] * (role == "Master")


def test_a10_workers_wait_for_a_slow_master() -> None:
    """The operator's init container gives up after 200 s, and its pod is created anew; then the supervisor waits."""
    manifests = helm.render({"training": {"nodes": 2, "globalBatchSize": 512}, "rendezvous": {"waitSeconds": 1200}})
    assert helm.env(manifests, "Worker")["NEVA_WAIT_SECONDS"] == "1200"
    assert helm.replicas(manifests)["Worker"]["restartPolicy"] == "ExitCode"


def test_preflight_can_be_switched_off() -> None:
    manifests = helm.render({"preflight": {"enabled": False}, "training": {"nodes": 2, "globalBatchSize": 512}})
    for role in ("Master", "Worker"):
        assert "NEVA_PREFLIGHT" not in helm.env(manifests, role)
    assert not helm.of_kind(manifests, "Pod")


@pytest.mark.parametrize("model", catalog.names())
def test_preflight_runs_on_the_rendered_settings(model: str, tmp_path: Path) -> None:
    """Every check that the chart gives settings to runs and finds nothing here: a refusal, never a usage error."""
    nodes = 2 if model == "nemotron4_340b_chat" else 1
    preset = catalog.get(model).preset
    training = {
        "nodes": nodes,
        "tensorParallelSize": preset.tensor_parallel_size,
        "pipelineParallelSize": preset.pipeline_parallel_size,
        "microBatchSize": preset.micro_batch_size,
    }
    config: dict[str, Any] = {"model": {"bias": True, "window_size": [128, 0], "qk_layernorm": None}}
    values: helm.Manifest = {"model": {"name": model}, "training": training}
    if model == "mixtral_8x7b_instruct":  # N01: what `config` and the architecture change
        values |= {
            "config": config,
            "model": {"name": model, "architecture": {"rotaryBase": 5e4, "expertsPerToken": 1}},
        }
    manifests = helm.render(values)
    assert settings(manifests)["llm"] == hydra.llm(values, catalog.get(model))
    helm.mount(helm.pod(manifests), manifests, "config", tmp_path)
    command = [sys.executable, "-m", "neva_pod.preflight", "--settings", "settings.json", "-o", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert not [c["name"] for c in checks for f in c["findings"] if f["message"].endswith("not given")]
    failed = {c["name"] for c in checks if c["status"] == "failed"}
    assert {"access", "dataset", "checkpoint", "tokenizer", "vision", "gpus"} <= failed


def test_preflight_values_reach_the_script() -> None:
    values = {
        "preflight": {
            "skip": ["memlock"],
            "sample": 5,
            "decode": "all",
            "filesystems": {"/models/preset": {"type": "gpfs", "marker": ".real"}},
            "minimumShmBytes": 2**33,
            "timeoutSeconds": 7200,
        }
    }
    assert settings(helm.render(values))["preflight"] == values["preflight"]
    assert "minimumShmBytes" not in settings(helm.render())["preflight"]
    assert settings(helm.render())["readOnly"] == ["/datasets/preset", "/models/preset"]


def test_n03_the_template_is_that_of_the_rendered_config() -> None:
    """The model's own, and what `config` says; preflight by hand says the same."""
    for name, config, template in (
        ("llama2_7b_chat", {}, "plain"),
        ("mistral_7b_instruct", {}, "mistral"),
        ("mistral_7b_instruct", {"model": {"data": {"conv_template": "v1", "sep_image_conv_front": True}}}, "v1"),
    ):
        values = {"model": {"name": name}, "config": config}
        said = {"template": template, "mediaType": "image", "imageFirst": bool(config), "loader": "cyclic"}
        assert settings(helm.render(values))["samples"] == said
        assert hydra.samples(values, catalog.get(name)) == said


def test_an_unknown_check_is_refused() -> None:
    (line,) = helm.render_fails({"preflight": {"skip": ["gpu"]}})
    assert "/preflight/skip/0" in line


def test_the_schema_names_the_checks_that_there_are() -> None:
    schema = json.loads((helm.CHART / "values.schema.json").read_text())
    names = schema["properties"]["preflight"]["properties"]["skip"]["items"]["enum"]
    assert names == sorted(CHECKS)


def test_helm_test_checks_the_mounts_of_training_without_a_gpu() -> None:
    manifests = helm.render()
    tester = helm.one(manifests, "Pod")
    assert tester["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = tester["spec"]["containers"]
    assert container["volumeMounts"] == helm.container(manifests)["volumeMounts"]
    mounts = {m["mountPath"]: m.get("readOnly") for m in container["volumeMounts"]}
    assert mounts["/datasets/preset"] is mounts["/models/preset"] is True
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert "--skip" in container["command"]
    assert "gpus" in container["command"][-1]
    assert tester["spec"]["restartPolicy"] == "Never"
    assert tester["spec"]["activeDeadlineSeconds"] == settings(manifests)["preflight"]["timeoutSeconds"] + 1800, "K06"


@pytest.mark.parametrize("values", [None, prepare()])
def test_pods_without_gpus_see_none(values: helm.Manifest | None) -> None:
    """The NeMo image sets NVIDIA_VISIBLE_DEVICES=all, which the NVIDIA runtime obeys in pods that asked for none."""
    manifests = helm.render(values)
    specs = [m["spec"] for m in helm.of_kind(manifests, "Pod")]
    specs += [m["spec"]["template"]["spec"] for m in helm.of_kind(manifests, "Job")]
    assert specs
    for spec in specs:
        (container,) = spec["containers"]
        assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]


# prepare


def test_prepare_writes_where_training_only_reads_and_trains_nothing() -> None:
    manifests = helm.render(prepare())
    assert not helm.of_kind(manifests, "PyTorchJob")
    job = helm.one(manifests, "Job")
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["command"] == ["python3", "-m", "neva_pod.prepare", "--settings", "settings.json"]
    assert not any(m.get("readOnly") for m in container["volumeMounts"] if m["name"] != "config")
    assert not any("gpu" in name or "rdma" in name for name in container["resources"]["limits"])
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    names = [source["name"] for source in helm.sources(spec["volumes"][0])]
    assert names == [job["metadata"]["name"], f"{job['metadata']['name']}-prepare"]
    assert names == [config["metadata"]["name"] for config in helm.pods_config_maps(manifests)]
    assert not {"launch.sh", "neva_pretrain.yaml"} & set(helm.config_data(manifests))


def test_prepare_and_training_use_the_same_claims_paths_and_volumes() -> None:
    kinds = ("PersistentVolume", "PersistentVolumeClaim")
    before, after = helm.render(prepare()), helm.render()
    for kind in kinds:
        assert helm.of_kind(before, kind) == helm.of_kind(after, kind)
    for key in ("model", "data", "training"):
        assert settings(before)[key] == settings(after)[key]


def test_e04_memory_is_the_same_for_every_model() -> None:
    """E04: the conversion holds one tensor at a time; 16 GiB are enough for the largest, Nemotron's embedding."""
    largest = max(m.architecture.vocab_size * m.architecture.hidden_size for m in map(catalog.get, catalog.names()))
    (container,) = helm.one(helm.render(prepare()), "Job")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "16", "memory": "16Gi"}
    assert 2 * largest < 0.75 * 16 * 2**30


def test_prepare_is_online_only_for_a_hub_id() -> None:
    def env(values: helm.Manifest) -> dict[str, Any]:
        (container,) = helm.one(helm.render(values), "Job")["spec"]["template"]["spec"]["containers"]
        return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}

    more = {"hf": {"endpoint": "https://mirror.example"}, "secrets": {"huggingface": {"name": "hf", "key": "token"}}}
    online = env({**prepare(), **more})
    assert online["TRANSFORMERS_OFFLINE"] == "0"
    assert "HF_HUB_OFFLINE" not in online
    assert online["HF_ENDPOINT"] == "https://mirror.example"
    assert online["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    local = {name: {"source": f"/models/preset/in/{name}"} for name in ("vision", "llm", "dataset")}
    offline = env({**prepare(**local), **more})
    assert (offline["TRANSFORMERS_OFFLINE"], offline["HF_HUB_OFFLINE"]) == ("1", "1")
    assert not {"HF_TOKEN", "HF_ENDPOINT"} & set(offline)


def test_prepare_sources_are_known_before_the_job_is() -> None:
    assert helm.render_fails({"prepare": {"enabled": True, "dataset": {"source": ""}}}) == [
        "prepare.llm.source: got nothing; must name the language model to prepare; use its folder on a mounted path, "
        "or its hub id, or disable the llm and tokenizer steps",
        "prepare.dataset.source: got nothing; must name the dataset to prepare; use its folder on a mounted path, "
        "or its hub id, or disable the dataset step",
    ]
    (line,) = helm.render_fails(prepare(llm={"source": "/not/mounted"}))
    assert line.startswith("prepare.llm.source: got /not/mounted; must lie below a mounted path")
    off = {"tokenizer": {"enabled": False}, "llm": {"enabled": False}}
    assert helm.render({"prepare": {"enabled": True, **off}})


def test_the_hubs_token_is_only_where_the_hub_is_used() -> None:
    secret = {"secrets": {"huggingface": {"name": "hf"}}}
    names = [e["name"] for e in helm.container(helm.render(secret))["env"]]
    assert "HF_TOKEN" not in names
    names = [e["name"] for e in helm.container(helm.render({**secret, "hf": {"online": True}}))["env"]]
    assert "HF_TOKEN" in names
