"""What watches a run in the cluster: exporter, PodMonitor, alerts, dashboard, TensorBoard, Weights & Biases."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from neva_pod.monitor import exporter as exporter_module
from neva_pretrain.cli.main import main
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.monitor import settings
from tests.chart import helm
from tests.chart.helm import notes
from tests.chart.test_schema import assert_valid

NODES: dict[str, Any] = {"training": {"nodes": 4, "globalBatchSize": 1024}}
EXPORTER: dict[str, Any] = {"monitoring": {"exporter": {"enabled": True}}}
BOARD: dict[str, Any] = {"tensorboard": {"enabled": True}}
ONLINE: dict[str, Any] = {"wandb": {"enabled": True}, "secrets": {"wandb": {"name": "wb", "key": "api"}}}
OFFLINE: dict[str, Any] = {"wandb": {"enabled": True, "mode": "offline"}}
ALL: dict[str, Any] = {
    **NODES,
    **BOARD,
    **ONLINE,
    "monitoring": {
        "exporter": {"enabled": True},
        "plan": {"stepSeconds": 2.26, "flopsPerSample": 20123456789012, "peakTflops": 989.4},
        "podMonitor": {"enabled": True, "labels": {"release": "prom"}},
        "prometheusRule": {"enabled": True, "labels": {"role": "alerts"}},
        "dashboard": {"enabled": True},
    },
}
OURS = ("Deployment", "Service", "PodMonitor", "PrometheusRule")


def inits(manifests: list[helm.Manifest], role: str = "Master") -> dict[str, helm.Manifest]:
    """Init containers of a role by name, in their order."""
    return {c["name"]: c for c in helm.pod(manifests, role).get("initContainers", [])}


def hydra(manifests: list[helm.Manifest]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(helm.config_data(manifests)["neva_pretrain.yaml"])
    return config


def environment(manifests: list[helm.Manifest], role: str = "Master") -> dict[str, Any]:
    """Environment of the training container, references too."""
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in helm.container(manifests, role)["env"]}


def name_of(values: dict[str, Any] | None = None) -> str:
    return str(helm.job(helm.render(values))["metadata"]["name"])


# Form


def test_nothing_is_there_unless_asked_for() -> None:
    manifests = helm.render(NODES)
    assert not [m["kind"] for m in manifests if m["kind"] in OURS]
    assert len(helm.pods_config_maps(manifests)) == 2
    assert not inits(manifests)
    assert not [name for name in environment(manifests) if name.startswith("WANDB")]
    assert "create_wandb_logger: false" in helm.config_data(manifests)["neva_pretrain.yaml"]


@pytest.mark.parametrize("values", [ALL, {**ALL, **OFFLINE, "hostNetwork": False}], ids=["online", "offline"])
def test_all_of_it_is_valid_in_every_kubernetes_version(values: dict[str, Any]) -> None:
    text = helm.render_text(values)
    assert {m["kind"] for m in helm.parse(text)} >= set(OURS)
    assert_valid(text)


@pytest.mark.parametrize(
    "key", ["monitoring", "tensorboard", "wandb", "secrets.wandb", "monitoring.exporter", "monitoring.dashboard.labels"]
)
def test_h03_null_removes_a_default(key: str) -> None:
    assert helm.job(helm.render({**EXPORTER, **BOARD, **OFFLINE}, "--set", f"{key}=null"))


def test_every_object_has_the_common_labels_and_the_namespace() -> None:
    for manifest in helm.render({**ALL, "commonLabels": {"team": "a"}}, namespace="lab"):
        labels = manifest["metadata"]["labels"]
        assert (labels["app.kubernetes.io/instance"], labels["team"]) == ("neva", "a")
        if manifest["kind"] != "PersistentVolume":
            assert manifest["metadata"]["namespace"] == "lab"


def containers(manifests: list[helm.Manifest]) -> list[helm.Manifest]:
    """What is added beside training."""
    deployment = helm.one(manifests, "Deployment")["spec"]["template"]["spec"]
    return [inits(manifests)["exporter"], *deployment["containers"]]


def test_what_watches_has_no_privileges_and_no_gpu() -> None:
    """Training's own additions stay training's; its user is taken over, since it wrote the files."""
    own = {"runAsUser": 7, "runAsNonRoot": True, "capabilities": {"add": ["SYS_PTRACE"]}, "privileged": False}
    manifests = helm.render({**ALL, "securityContext": own})
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 7,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert container["resources"]["limits"] == container["resources"]["requests"], "the pod stays Guaranteed"
        mounts = {m["name"]: m for m in container["volumeMounts"]}
        assert mounts["results"] == {"name": "results", "mountPath": "/results", "readOnly": True}
        assert not {"datasets", "models", "scratch"} & set(mounts)


def test_the_results_are_seen_where_training_sees_them() -> None:
    results = {"mountPath": "/out", "subPath": "a b"}
    manifests = helm.render({**ALL, "storage": {"results": results}})
    (training,) = [m for m in helm.container(manifests)["volumeMounts"] if m["name"] == "results"]
    for container in containers(manifests):
        assert {**training, "readOnly": True} in container["volumeMounts"]


def test_the_example_of_the_documentation_is_a_site_file_that_works(tmp_path: Path) -> None:
    """Through neva-values, which adds what the planner says of the run."""
    document = (helm.ROOT / "docs" / "reference" / "monitor.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", document, re.M | re.S)
    site, values = tmp_path / "site.yaml", tmp_path / "values.yaml"
    site.write_text(example)
    done = CliRunner().invoke(main, ["--gpus", "16", "--site", str(site), "--output", str(values)])
    assert done.exit_code == 0, done.output
    manifests = helm.render(values)
    assert {m["kind"] for m in manifests} >= set(OURS)
    assert any(a.startswith("--planned-step-seconds=") for a in inits(manifests)["exporter"]["args"])


# Annotations


@pytest.mark.parametrize(
    "values",
    [
        {"training": {"maxSteps": 2147000000, "warmupSteps": 1, "kernels": "fused", "recompute": "full"}},
        {**NODES, "checkpoint": {"enabled": False}},
        {"model": {"name": "llama3-8b-chat"}, "training": {"microBatchSize": 8}},
        {"model": {"architecture": {"numLayers": 64, "vocabSize": 64000}}, "monitoring": {"plan": {"stepSeconds": 7}}},
    ],
)
def test_neva_monitor_reads_the_plan_off_the_job(values: dict[str, Any]) -> None:
    """The same that it reads from the values file and from the run record beside the results."""
    gpu = GPUS["h100-80gb"]
    manifests = helm.render(values)
    told = settings.from_facts(settings.of_annotations(helm.job(manifests)["metadata"]["annotations"]), gpu)
    assert told.planned_step_seconds
    assert told.checkpoint_every == (217 if values.get("checkpoint", {}).get("enabled", True) else 0)
    record = json.loads(helm.config_data(manifests)["settings.json"])
    assert replace(told, name="neva") == settings.from_facts(record, gpu)
    assert replace(told, name="") == replace(settings.from_values(values, gpu), name="")


# Exporter


def test_the_exporter_is_a_native_sidecar_of_the_master_only() -> None:
    """An init container with restartPolicy Always runs beside training and does not keep the job alive."""
    manifests = helm.render({**NODES, **EXPORTER})
    assert list(inits(manifests)) == ["exporter"]
    assert inits(manifests)["exporter"]["restartPolicy"] == "Always"
    assert [c["name"] for c in helm.pod(manifests)["containers"]] == ["pytorch"]
    assert not inits(manifests, "Worker")


def test_a_sick_exporter_does_not_take_the_masters_name_away() -> None:
    """An unready pod has no DNS record in the operator's Service, and the workers wait for that name."""
    sidecar = inits(helm.render(EXPORTER))["exporter"]
    assert "readinessProbe" not in sidecar
    assert "startupProbe" not in sidecar, "training would wait for it"
    assert sidecar["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert sidecar["ports"] == [{"name": "metrics", "containerPort": 9400}]


def test_the_exporter_knows_the_run() -> None:
    """The rendered flags, read by the exporter itself."""
    values = {**ALL, "run": {"id": "first"}, "checkpoint": {"everyNSteps": 100}}
    sidecar = inits(helm.render(values))["exporter"]
    assert sidecar["command"] == ["python3", "-m", "neva_pod.monitor.exporter"]
    read = vars(exporter_module._arguments().parse_args(sidecar["args"]))
    assert read == {
        "log": Path("/results/first/logs/node-00000.log"),
        "listen": ("", 9400),
        "name": "first",
        "model": "llama2_7b_chat",
        "max_steps": 2170,
        "global_batch_size": 1024,
        "gpus": 32,
        "tokens_per_sample": 640,
        "vocab_size": 32008,
        "planned_step_seconds": 2.26,
        "flops_per_sample": 20123456789012,
        "peak_flops": 989.4e12,
        "checkpoint_every": 100,
    }
    bare = inits(helm.render({**EXPORTER, "checkpoint": {"enabled": False}}))["exporter"]["args"]
    assert "--checkpoint-every=0" in bare
    assert not [flag for flag in bare if flag.startswith(("--planned", "--flops"))]
    for gpu in GPUS.values():
        args = inits(helm.render({**EXPORTER, "training": {"gpu": gpu.name}}))["exporter"]["args"]
        assert vars(exporter_module._arguments().parse_args(args))["peak_flops"] == gpu.peak_tflops * 1e12


def test_the_log_is_the_one_that_the_launch_script_writes() -> None:
    manifests = helm.render(EXPORTER)
    (log,) = [a.removeprefix("--log=") for a in inits(manifests)["exporter"]["args"] if a.startswith("--log=")]
    assert Path(log).parent.parent == Path(helm.env(manifests)["NEVA_RESULTS_DIR"])
    node = helm.config_data(manifests)["neva_pod.supervisor.node.py"]
    assert 'os.path.join(self.results, "logs")' in node
    assert 'f"node-{self.rank:05d}.log"' in node
    assert Path(log).name == "node-00000.log"
    assert Path(log).parent.name == "logs"


def test_the_exporters_files_are_all_there() -> None:
    """The package in the working directory, from the job's ConfigMaps."""
    manifests = helm.render(EXPORTER)
    sidecar = inits(manifests)["exporter"]
    (volume,) = [v for v in helm.pod(manifests)["volumes"] if v["name"] == "config"]
    data = helm.config_data(manifests)
    package = helm.CHART / "files" / "neva_pod"
    files = [package / "__init__.py", *(package / "monitor").glob("*.py")]
    items = {item["path"]: data[item["key"]] for source in helm.sources(volume) for item in source["items"]}
    assert {str(file.relative_to(package.parent)): file.read_text() for file in files}.items() <= items.items()
    (mount,) = [m for m in sidecar["volumeMounts"] if m["name"] == "config"]
    assert mount["mountPath"] == sidecar["workingDir"] == "/etc/neva"


def test_a11_another_exporter_is_another_job(tmp_path: Path) -> None:
    """Its files, flags and resources are part of the pod, so of the job's hash; the running job is never edited."""
    copy = tmp_path / "neva-pretrain"
    shutil.copytree(helm.CHART, copy)
    parser = copy / "files" / "neva_pod" / "monitor" / "parser.py"
    parser.write_text(parser.read_text() + "# changed\n")
    on = name_of(EXPORTER)
    changed = str(helm.job(helm.render(EXPORTER, chart=copy))["metadata"]["name"])
    other = name_of({"monitoring": {"exporter": {"enabled": True, "port": 9500}}})
    assert len({name_of(), on, changed, other}) == 4
    assert name_of() == name_of({"monitoring": {"exporter": {"port": 9500}}}), "off: not part of it"


def test_what_only_looks_on_can_be_switched_while_the_job_runs() -> None:
    """TensorBoard, PodMonitor, alerts and dashboard leave the job as it is, so that an upgrade is not refused."""
    watched = {**EXPORTER, "tensorboard": {"enabled": True}}
    watched["monitoring"] = {
        **EXPORTER["monitoring"],
        **{key: {"enabled": True} for key in ("podMonitor", "prometheusRule", "dashboard")},
    }
    assert name_of(watched) == name_of(EXPORTER)


def test_a_release_that_prepares_has_no_exporter() -> None:
    values = {**EXPORTER, "prepare": {"enabled": True, "llm": {"source": "/models/preset/in"}}}
    manifests = helm.render(values)
    assert not [key for key in helm.config_data(manifests) if key.startswith("neva_pod.monitor.")]
    assert "initContainers" not in helm.one(manifests, "Job")["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"monitoring": {"exporter": {"enabled": True, "port": 23457}}},
            "monitoring.exporter.port: got 23457; must differ from rendezvous.port (23456) and the next port, "
            "which the supervisors use; use another port below 32768",
        ),
        (
            {**EXPORTER, "hostNetwork": True, "rendezvous": {"port": 24000}},
            "monitoring.exporter.port: got 9400; must not be the default with hostNetwork, since all jobs on a "
            "node share its ports; use another port below 32768",
        ),
        (
            {"monitoring": {"podMonitor": {"enabled": True}}},
            "monitoring.podMonitor.enabled: got true; must be false without monitoring.exporter.enabled, since there "
            "is nothing to scrape; set monitoring.exporter.enabled",
        ),
        (
            {**BOARD, "config": {"exp_manager": {"create_tensorboard_logger": False}}},
            "config.exp_manager.create_tensorboard_logger: got false; must be true with tensorboard.enabled, or there "
            "is nothing to show; remove it",
        ),
        (
            {"wandb": {"enabled": True}},
            "secrets.wandb.name: got nothing; must name the Secret with the API key, since wandb.mode is online; use "
            "an existing Secret, or wandb.mode offline",
        ),
        (
            {"env": {"WANDB_API_KEY": "0123"}},
            "env.WANDB_API_KEY: got a value; must not be set here; use secrets.wandb",
        ),
        (
            {"env": {"WANDB_MODE": "offline"}},
            "env.WANDB_MODE: got offline; must not be set here; use wandb.mode",
        ),
        (
            {"config": {"exp_manager": {"create_wandb_logger": True}}},
            "config.exp_manager.create_wandb_logger: got true; must not be set here, since a value owns it; "
            "use wandb.enabled",
        ),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], sentence: str) -> None:
    assert helm.render_fails(values) == [sentence]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"wandb": {"mode": "disabled"}}, "mode"),
        ({"wandb": {"apiKey": "0123"}}, "apiKey"),
        ({"wandb": {"project": "a/b"}}, "project"),
        ({"tensorboard": {"image": "tensorflow/tensorflow:latest"}}, "image"),
        ({"tensorboard": {"image": "tensorflow/tensorflow"}}, "image"),
        ({"monitoring": {"exporter": {"port": 80}}}, "port"),
        ({"monitoring": {"plan": {"stepSeconds": 0}}}, "stepSeconds"),
        ({"monitoring": {"podMonitor": {"interval": "30"}}}, "interval"),
    ],
)
def test_bad_values_fail_and_name_the_key(values: dict[str, Any], key: str) -> None:
    assert any(key in error for error in helm.render_fails(values))


# Prometheus and Grafana


@pytest.mark.parametrize("kind", ["PodMonitor", "PrometheusRule"])
def test_kinds_of_the_operator_are_made_whatever_the_cluster_has(kind: str) -> None:
    """N29: where no cluster is asked, as in helm template, they were left out in silence."""
    assert helm.of_kind(helm.render(ALL), kind)


def test_the_pod_monitor_finds_the_master() -> None:
    manifests = helm.render(ALL)
    monitor = helm.one(manifests, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "interval": "30s"}
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= helm.replicas(manifests)["Master"]["template"]["metadata"]["labels"].items()
    everything = [*helm.pod(manifests)["containers"], *inits(manifests).values()]
    ports = [port["name"] for c in everything for port in c.get("ports", [])]
    assert sorted(ports) == ["metrics", "pytorchjob-port", "restart"]


def test_the_alerts_arrive_as_they_are() -> None:
    rule = helm.one(helm.render(ALL), "PrometheusRule")
    assert rule["metadata"]["labels"]["role"] == "alerts"
    assert rule["spec"] == yaml.safe_load((helm.CHART / "files" / "alerts.yaml").read_text())
    assert "{{ $labels.namespace }}" in json.dumps(rule["spec"])


def test_the_dashboard_arrives_as_it_is_and_grafana_finds_it() -> None:
    manifests = helm.render({"monitoring": {"dashboard": {"enabled": True}}})
    (config,) = [m for m in helm.of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "neva-dashboard"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert list(config["data"]) == ["neva-pretrain.json"]
    assert json.loads(config["data"]["neva-pretrain.json"]) == json.loads(
        (helm.CHART / "files" / "dashboard.json").read_text()
    )
    labels = {"grafana_dashboard": None, "dashboards": True}
    manifests = helm.render({"monitoring": {"dashboard": {"enabled": True, "labels": labels}}})
    (config,) = [m for m in helm.of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "neva-dashboard"]
    assert config["metadata"]["labels"]["dashboards"] == "true"
    assert "grafana_dashboard" not in config["metadata"]["labels"]


# TensorBoard


def test_tensorboard_shows_the_results_to_its_service() -> None:
    manifests = helm.render(BOARD)
    deployment, service = helm.one(manifests, "Deployment"), helm.one(manifests, "Service")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert [*container["command"], *container["args"]] == [
        "tensorboard", "--logdir=/results", "--port=6006", "--bind_all", "--reload_interval=60",
    ]  # fmt: skip
    assert container["image"] == helm.container(manifests)["image"]
    assert service["spec"]["type"] == "ClusterIP"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in [p["name"] for p in container["ports"]]
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"][:1]}
    assert claims == {"results": "neva-results"}
    assert {v["name"]: v["emptyDir"] for v in pod["spec"]["volumes"] if "emptyDir" in v} == {"tmp": {}}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} < set(container)
    assert "create_tensorboard_logger" not in hydra(manifests)["exp_manager"], "NeMo's default is true"


def test_tensorboard_reads_results_wherever_they_are() -> None:
    """A folder of the node has no claim: the pod mounts what training mounts."""
    values = {**BOARD, "storage": {"results": {"hostPath": "/nvme/results"}}}
    manifests = helm.render(values)
    (training,) = [v for v in helm.pod(manifests)["volumes"] if v["name"] == "results"]
    volumes = helm.one(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert training == volumes[0] == {"name": "results", "hostPath": {"path": "/nvme/results", "type": "Directory"}}


def test_tensorboards_service_never_finds_a_training_pod() -> None:
    manifests = helm.render({**NODES, **BOARD})
    wanted = helm.one(manifests, "Service")["spec"]["selector"].items()
    for spec in helm.replicas(manifests).values():
        assert not wanted <= spec["template"]["metadata"]["labels"].items()


def test_tensorboard_runs_where_the_data_is_and_takes_nothing_from_training() -> None:
    scheduling = {
        "nodeSelector": {"a": "b"},
        "gpuType": {"values": ["A"]},
        "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 10000000, "effect": "NoExecute"}],
        "priorityClassName": "high",
        "schedulerName": "gang",
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
    }
    values = {
        **BOARD,
        "scheduling": scheduling,
        "hostNetwork": True,
        "rendezvous": {"port": 24000},
        "image": {"pullSecrets": ["ngc"]},
        "podSecurityContext": {"runAsUser": 1000},
    }
    manifests = helm.render(values)
    training, board = helm.pod(manifests), helm.one(manifests, "Deployment")["spec"]["template"]["spec"]
    same = ("nodeSelector", "affinity", "tolerations", "imagePullSecrets", "serviceAccountName", "securityContext")
    for field in (*same, "automountServiceAccountToken", "enableServiceLinks"):
        assert board[field] == training[field], field
    others = {"hostNetwork", "dnsPolicy", "priorityClassName", "schedulerName", "topologySpreadConstraints"}
    assert not others & set(board)


def test_tensorboard_may_have_a_smaller_image_and_another_port() -> None:
    values = {"tensorboard": {"enabled": True, "image": "tensorflow/tensorflow:2.18.0", "port": 6007}}
    manifests = helm.render(values)
    (container,) = helm.one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "tensorflow/tensorflow:2.18.0"
    assert "--port=6007" in container["args"]
    assert container["ports"][0]["containerPort"] == helm.one(manifests, "Service")["spec"]["ports"][0]["port"] == 6007


# Weights & Biases


def test_wandb_gets_its_key_from_the_secret_on_rank_0_only() -> None:
    manifests = helm.render({**NODES, **ONLINE, "wandb": {"enabled": True, "entity": "team", "project": "p"}})
    seen = environment(manifests)
    assert seen["WANDB_API_KEY"] == {"secretKeyRef": {"name": "wb", "key": "api"}}
    assert seen["WANDB_MODE"] == "online"
    assert not [name for name in environment(manifests, "Worker") if name.startswith("WANDB")]
    manager = hydra(manifests)["exp_manager"]
    assert manager["create_wandb_logger"] is True
    assert manager["wandb_logger_kwargs"] == {
        "project": "p", "name": "neva", "group": "neva", "entity": "team", "save_dir": "/results/neva",
    }  # fmt: skip
    assert "wb" not in helm.config_data(manifests)["settings.json"]


def test_wandb_offline_writes_into_the_results_and_needs_no_secret() -> None:
    manifests = helm.render({**OFFLINE, "secrets": {"wandb": {"name": "wb"}}})
    seen = environment(manifests)
    assert seen["WANDB_MODE"] == "offline"
    assert "WANDB_API_KEY" not in seen
    kwargs = hydra(manifests)["exp_manager"]["wandb_logger_kwargs"]
    assert kwargs["save_dir"] == seen["NEVA_RESULTS_DIR"]
    assert "entity" not in kwargs
    read_only = [m["mountPath"] for m in helm.container(manifests)["volumeMounts"] if m.get("readOnly")]
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        assert seen[name].startswith("/scratch/")
        assert not [path for path in read_only if f"{seen[name]}/".startswith(f"{path}/")]


def test_other_settings_of_wandb_stay_free() -> None:
    assert helm.env(helm.render({"env": {"WANDB_BASE_URL": "https://w.example"}}))["WANDB_BASE_URL"]


# NOTES.txt


def test_notes_give_the_commands_of_what_is_on(folder: Path) -> None:
    text = notes(folder, ALL)
    name = helm.job(helm.render(ALL))["metadata"]["name"]
    for command in (
        "neva-monitor neva -n default",
        "kubectl port-forward service/neva-tensorboard 6006 -n default",
        f"kubectl port-forward {name}-master-0 9400 -n default &",
        "curl -s http://localhost:9400/metrics",
        "kubectl get configmap neva-dashboard -n default",
        "kubectl get podmonitor neva -n default",
        "kubectl get prometheusrule neva -n default",
        f"kubectl logs {name}-master-0 -n default | grep wandb:",
    ):
        assert f"  {command}\n" in text
    assert "was made" not in text
    assert not re.search("tensorboard|wandb|curl|PodMonitor|Grafana", notes(folder), re.I)


def test_notes_of_wandb_offline_name_the_folder_that_there_is(folder: Path) -> None:
    assert "  wandb sync /data/scitix/results/neva/wandb/offline-run-*\n" in notes(folder, OFFLINE)
    claim = {"storage": {"results": {"existingClaim": "c"}}}
    assert "  wandb sync /results/neva/wandb/offline-run-*\n" in notes(folder, {**OFFLINE, **claim})
