"""What the chart renders; a test named after a field report shows that what failed there cannot fail here."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from neva_pretrain.chart import values as chart_values
from neva_pretrain.check import schema, verdict
from neva_pretrain.facts import Facts
from tests.chart import helm

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NASTY = "a\\x1 \"b\" 'c' {{d}} $(e) $$ $(HF_HOME) ; # f :: `g` %s \\n"


def nodes(count: int, **more: Any) -> dict[str, Any]:
    """Values of a job of so many nodes with the default batch on each."""
    return {"training": {"nodes": count, "globalBatchSize": 256 * count}, **more}


def merged(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The rendered Hydra config, not composed."""
    config: dict[str, Any] = yaml.safe_load(helm.config_data(manifests)["neva_pretrain.yaml"])
    return config


def settings(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(helm.config_data(manifests)["settings.json"])
    return parsed


# Defaults and form


def test_defaults_render_a_job_of_one_node() -> None:
    manifests = helm.render()
    assert len(helm.of_kind(manifests, "PyTorchJob")) == 1
    specs = helm.replicas(manifests)
    assert {role: spec["replicas"] for role, spec in specs.items()} == {"Master": 1}
    assert helm.container(manifests)["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_master_and_worker_have_the_same_pod() -> None:
    manifests = helm.render(nodes(4))
    master, worker = helm.pod(manifests, "Master"), helm.pod(manifests, "Worker")
    (theirs,) = worker["containers"]
    (ours,) = master["containers"]
    assert ours["ports"].pop() == {"name": "restart", "containerPort": 23457}
    for container, level in ((ours, "full"), (theirs, "quick")):
        container["env"].remove({"name": "NEVA_PREFLIGHT", "value": level})
    assert master == worker
    assert helm.replicas(manifests)["Worker"]["replicas"] == 3


def test_two_renders_give_the_same_bytes() -> None:
    assert helm.render_text(nodes(16)) == helm.render_text(nodes(16))


def test_service_account_has_no_token() -> None:
    manifests = helm.render()
    assert helm.one(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert helm.pod(manifests)["automountServiceAccountToken"] is False
    assert helm.pod(manifests)["serviceAccountName"] == "neva"
    without = helm.render({"serviceAccount": {"create": False, "name": "mine"}})
    assert not helm.of_kind(without, "ServiceAccount")
    assert helm.pod(without)["serviceAccountName"] == "mine"


def test_every_object_has_the_common_labels_and_the_namespace() -> None:
    for manifest in helm.render({"commonLabels": {"team": "a", "gone": None, "rank": 3}}, namespace="lab"):
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "neva"
        assert (labels["team"], labels["rank"]) == ("a", "3")
        assert "gone" not in labels
        if manifest["kind"] != "PersistentVolume":
            assert manifest["metadata"]["namespace"] == "lab"


def test_integers_stay_integers_whatever_their_size() -> None:
    values = {
        "training": {"maxSteps": 2147000000, "warmupSteps": 10000000, "seed": 2000000000, "logEveryNSteps": 1000000},
        "checkpoint": {"everyNSteps": 30000000},
        "restart": {"limit": 1000000},
        "runPolicy": {
            "ttlSecondsAfterFinished": 2147483647,
            "activeDeadlineSeconds": 31536000,
        },
        "config": {"model": {"big": [10000000, 0.5]}},
        "env": {"NCCL_BUFFSIZE": 16777216, "RATE": 0.00001},
        "commonLabels": {"number": 12345678},
        "podSecurityContext": {"runAsUser": 2000000000, "supplementalGroups": [1000000]},
        "scheduling": {
            "schedulingPolicy": {"scheduleTimeoutSeconds": 10000000},
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 86400000}],
        },
    }
    manifests = helm.render(values)
    spec = helm.job(manifests)["spec"]["runPolicy"]
    assert settings(manifests)["restart"]["limit"] == 1000000
    assert spec["ttlSecondsAfterFinished"] == 2147483647
    assert spec["activeDeadlineSeconds"] == 31536000
    assert type(spec["schedulingPolicy"]["scheduleTimeoutSeconds"]) is int
    assert helm.job(manifests)["metadata"]["annotations"]["neva-pretrain/max-steps"] == "2147000000"
    assert helm.job(manifests)["metadata"]["labels"]["number"] == "12345678"
    assert helm.env(manifests)["NCCL_BUFFSIZE"] == "16777216"
    assert float(helm.env(manifests)["RATE"]) == 0.00001
    pod = helm.pod(manifests)
    assert pod["securityContext"] == {"runAsUser": 2000000000, "supplementalGroups": [1000000]}
    assert type(pod["tolerations"][0]["tolerationSeconds"]) is int
    text = helm.config_data(manifests)["neva_pretrain.yaml"]
    assert re.search(r"^ +max_steps: 2147000000$", text, re.M)
    assert re.search(r"^ +native_amp_init_scale: 4294967296$", text, re.M)
    assert re.search(r"^ +seed: 2000000000$", text, re.M)
    assert merged(manifests)["model"]["big"] == [10000000, 0.5]
    for config in helm.of_kind(manifests, "ConfigMap"):
        config["data"] = {key: said for key, said in config["data"].items() if not key.startswith("neva_pod.")}
    assert not re.search(r"\de\+\d", yaml.safe_dump_all(manifests)), "a number in float form"
    training = settings(manifests)["training"]
    assert (training["maxSteps"], type(training["maxSteps"])) == (2147000000, int)


def test_settings_tell_what_was_derived() -> None:
    found = settings(helm.render(nodes(16, run={"id": "first"}), namespace="lab"))
    assert found["derived"] == {
        "worldSize": 128, "dataParallelSize": 32, "accumulationSteps": 4, "paddedVocabSize": 32256,
    }  # fmt: skip
    assert found["run"] == {"id": "first", "release": "neva", "namespace": "lab", "attempt": 1}
    assert found["results"]["path"] == "/results/first"
    assert found["architecture"]["gatedMlp"] is True


@pytest.mark.parametrize("value", [False, True])
def test_architecture_overrides_win_even_when_false(value: bool) -> None:
    model = {"architecture": {"gatedMlp": value, "numLayers": 16}}
    activation = "swiglu" if value else "gelu"
    found = settings(helm.render({"model": model, "config": {"model": {"activation": activation}}}))
    assert found["architecture"]["gatedMlp"] is value
    assert found["architecture"]["numLayers"] == 16


def test_a_user_env_wins_over_the_fabric_even_when_empty_or_zero() -> None:
    own = {"NCCL_IB_QPS_PER_CONNECTION": 0, "NCCL_IB_TIMEOUT": "", "X": "off"}
    seen = helm.env(helm.render({"fabric": "ib", "env": own}))
    assert (seen["NCCL_IB_QPS_PER_CONNECTION"], seen["NCCL_IB_TIMEOUT"], seen["X"]) == ("0", "", "off")


def test_all_rules_are_told_at_once() -> None:
    errors = helm.render_fails(
        {"training": {"tensorParallelSize": 3, "warmupSteps": 5000}, "checkpoint": {"everyNSteps": 9999}}
    )
    keys = {error.split(":")[0] for error in errors}
    assert keys >= {"training.tensorParallelSize", "training.warmupSteps", "checkpoint.everyNSteps"}


# A: the training operator


def test_a01_one_node_has_no_worker_key() -> None:
    assert list(helm.replicas(helm.render())) == ["Master"]
    worker = helm.replicas(helm.render(nodes(2)))["Worker"]
    assert worker["replicas"] == 1
    assert type(worker["replicas"]) is int


@pytest.mark.parametrize("release", ["7b-run", "neva.v2", "1"])
def test_a02_a_name_that_is_no_dns_1035_label_is_refused(release: str) -> None:
    (error,) = helm.render_fails(release=release)
    assert release in error
    assert "DNS-1035" in error


@pytest.mark.parametrize("name", ["neva", "a", "neva-7b-2"])
def test_a02_names_of_jobs_are_dns_1035_labels(name: str) -> None:
    manifests = helm.render({"fullnameOverride": name, "run": {"id": "2-lr"}}, release="7b.x")
    assert DNS_1035.fullmatch(helm.job(manifests)["metadata"]["name"])


def test_a02_the_last_worker_has_a_host_name() -> None:
    values = nodes(16384, run={"id": "i" * 20})
    manifests = helm.render(values, release="r" * 20)
    assert len(helm.job(manifests)["metadata"]["name"] + "-worker-16382") <= 63
    assert "41" in helm.render_fails(values, release="r" * 21)[0]


@pytest.mark.parametrize("args", [(), ("--set", "training.gpusPerNode=8")])
def test_a03_nproc_per_node_is_a_string(args: tuple[str, ...]) -> None:
    assert helm.job(helm.render(None, *args))["spec"]["nprocPerNode"] == "8"


def test_a06_pods_of_an_ended_job_free_their_gpus() -> None:
    for count in (1, 4):
        assert helm.job(helm.render(nodes(count)))["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"


@pytest.mark.parametrize(
    ("partial", "said"),
    [
        ({"restartPolicy": "OnFailure"}, "restartPolicy: got OnFailure; must not be set, since restart.enabled "),
        ({"runPolicy": {"backoffLimit": 0}}, "runPolicy.backoffLimit: got 0; must not be set, since restart.limit "),
        (
            {"prepare": {"nemoPath": "/x"}},
            "prepare.nemoPath: got /x; must not be set, since prepare.llm has replaced it",
        ),
    ],
)
def test_a07_keys_of_earlier_versions_name_their_successor(partial: dict[str, Any], said: str) -> None:
    """The operator never looks at its backoffLimit here: what counts restarts is the supervisor."""
    (error,) = helm.render_fails(partial)
    assert error.startswith(said)
    (error,) = map(str, schema.violations(chart_values.complete(partial)))
    assert error.startswith(said)
    assert "backoffLimit" not in helm.job(helm.render())["spec"]["runPolicy"]


def test_keys_of_earlier_versions_may_be_null() -> None:
    """What --reuse-values keeps of an earlier version's defaults."""
    assert helm.render_text({"restartPolicy": None, "runPolicy": {"backoffLimit": None}}) == helm.render_text()


@pytest.mark.parametrize(("enabled", "policy"), [(True, "ExitCode"), (False, "Never")])
def test_lost_pods_are_created_anew_where_the_job_restarts(enabled: bool, policy: str) -> None:
    manifests = helm.render(nodes(2, restart={"enabled": enabled}))
    assert {spec["restartPolicy"] for spec in helm.replicas(manifests).values()} == {policy}
    for role in ("Master", "Worker"):
        assert helm.pod(manifests, role)["terminationGracePeriodSeconds"] == 120
        probe = helm.container(manifests, role).get("livenessProbe")
        assert bool(probe) == enabled
        if probe:
            (*_, script) = probe["exec"]["command"]
            assert script.startswith("/etc/neva/neva_pod/supervisor/")
            assert probe["terminationGracePeriodSeconds"] < 30, "what hangs hears no SIGTERM"


def test_a_pod_has_the_time_to_save() -> None:
    """A checkpoint is saved, then torchrun kills its processes 30 s after SIGTERM."""
    (error,) = helm.render_fails({"terminationGracePeriodSeconds": 59})
    assert error.startswith("terminationGracePeriodSeconds: got 59; must be at least 60, since torchrun ")
    assert helm.pod(helm.render({"terminationGracePeriodSeconds": 60}))["terminationGracePeriodSeconds"] == 60


def test_another_attempt_is_another_job_with_the_same_results() -> None:
    first, second = (helm.render(nodes(2, run={"attempt": number})) for number in (1, 2))
    assert helm.job(first)["metadata"]["name"] != helm.job(second)["metadata"]["name"]
    assert settings(first)["results"] == settings(second)["results"]
    assert helm.job(first)["metadata"]["name"] == helm.job(helm.render(nodes(2)))["metadata"]["name"]


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_autoscalers_leave_the_pods_alone(kind: str) -> None:
    keys = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}

    def annotations(**more: Any) -> list[dict[str, str]]:
        manifests = helm.render(nodes(2, job={"kind": kind}, **more))
        return [spec["template"]["metadata"]["annotations"] for spec in helm.replicas(manifests).values()]

    for found in annotations():
        assert keys.items() <= found.items()
    for found in annotations(scheduling={"evictable": True}):
        assert not keys.keys() & found.keys()
    own = dict.fromkeys(keys, "mine")
    for found in annotations(podAnnotations=own):
        assert own.items() <= found.items()


@pytest.mark.parametrize("kind", ["PyTorchJob", "TrainJob"])
def test_a_disruption_budget_holds_all_pods_of_the_job(kind: str) -> None:
    assert not helm.of_kind(helm.render(nodes(2)), "PodDisruptionBudget")
    on = {"podDisruptionBudget": {"enabled": True}}
    manifests = helm.render(nodes(2, job={"kind": kind}, **on))
    budget = helm.one(manifests, "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] == 2
    assert list(budget["selector"]["matchLabels"].values()) == [helm.job(manifests)["metadata"]["name"]]
    prepared = helm.render({**on, "prepare": {"enabled": True, "llm": {"source": "/models/preset/in"}}})
    assert not helm.of_kind(prepared, "PodDisruptionBudget")


def test_b02_nodes_may_come_late() -> None:
    """B02: torchrun's own 60 s are not enough for a node that pulls its image."""
    assert helm.env(helm.render(nodes(4)))["PET_RDZV_CONF"] == "timeout=1800"
    (line,) = helm.render_fails(nodes(4, rendezvous={"timeoutSeconds": 60}))
    assert "/rendezvous/timeoutSeconds" in line
    assert "900" in line


def test_a08_the_watchdog_acts_first_then_nccl_then_torchrun() -> None:
    manifests = helm.render(nodes(16))
    told = settings(manifests)
    nccl, rendezvous = told["rendezvous"]["ncclTimeoutSeconds"], told["rendezvous"]["timeoutSeconds"]
    assert told["restart"]["stallSeconds"] < nccl <= rendezvous
    assert helm.env(manifests)["PET_RDZV_CONF"] == f"timeout={rendezvous}"
    (error,) = helm.render_fails(nodes(16, rendezvous={"timeoutSeconds": 900}))
    assert error.startswith("rendezvous.timeoutSeconds: got 900; must be at least 1800 ")
    helm.render(nodes(16, rendezvous={"timeoutSeconds": 900}, restart={"enabled": False}))
    (error,) = helm.render_fails({"restart": {"stallSeconds": 1800}})
    assert error.startswith("restart.stallSeconds: got 1800; must be less than 1800, ")


def test_a10_the_image_is_not_pulled_again() -> None:
    assert helm.container(helm.render())["imagePullPolicy"] == "IfNotPresent"


def test_a11_changed_training_values_are_another_job() -> None:
    def name(values: dict[str, Any] | None = None) -> str:
        return str(helm.job(helm.render(values, "--is-upgrade"))["metadata"]["name"])

    base = name()
    assert re.fullmatch(r"neva-[0-9a-f]{8}", base)
    changes: list[dict[str, Any]] = [
        {"training": {"microBatchSize": 16}},
        {"training": {"maxSteps": 2171}},
        {"training": {"learningRate": 0.002}},
        {"env": {"A": "1"}},
        {"config": {"model": {"hidden_dropout": 0.1}}},
        {"image": {"tag": "24.09"}},
        {"restart": {"enabled": False}},
        {"restart": {"limit": 4}},
        {"run": {"attempt": 2}},
        {"resources": {"memory": "900Gi"}},
        {"rendezvous": {"port": 23457}},
        {"scheduling": {"avoidNodes": ["n1"]}},
        nodes(2),
    ]
    names = [name(change) for change in changes]
    assert len({base, *names}) == 1 + len(changes)


def test_a11_unchanged_values_render_the_same_bytes() -> None:
    assert helm.render_text(None, "--is-upgrade") == helm.render_text()
    assert helm.render_text({"training": {"maxSteps": 2170}}) == helm.render_text()


def test_a11_the_config_map_has_the_jobs_name_and_cannot_change() -> None:
    manifests = helm.render()
    configs = helm.pods_config_maps(manifests)
    assert all(config["immutable"] is True for config in configs)
    name = helm.job(manifests)["metadata"]["name"]
    names = [name, f"{name}-supervisor"]
    assert [config["metadata"]["name"] for config in configs] == names
    (volume,) = [v for v in helm.pod(manifests)["volumes"] if v["name"] == "config"]
    assert [source["name"] for source in helm.sources(volume)] == names


@pytest.mark.parametrize("args", [(), ("--set", r"podAnnotations.sidecar\.istio\.io/inject=false")])
def test_a12_no_sidecar_is_injected(args: tuple[str, ...]) -> None:
    for spec in helm.replicas(helm.render(nodes(2), *args)).values():
        assert spec["template"]["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"


def test_a13_the_queue_is_a_label_of_the_job_only() -> None:
    key = "kueue.x-k8s.io/queue-name"
    manifests = helm.render(nodes(2), "--set", "scheduling.queue.name=lq")
    assert helm.job(manifests)["metadata"]["labels"][key] == "lq"
    assert "suspend" not in helm.job(manifests)["spec"]["runPolicy"]
    for spec in helm.replicas(manifests).values():
        assert key not in spec["template"]["metadata"]["labels"]
    assert key not in helm.render_text()
    for asked in (True, False):
        held = helm.render({"runPolicy": {"suspend": asked}})
        assert helm.job(held)["spec"]["runPolicy"]["suspend"] is asked


def test_a14_the_gang_is_the_whole_job() -> None:
    (error,) = helm.render_fails(nodes(16), "--set", "scheduling.schedulingPolicy.minAvailable=8")
    assert error.startswith("scheduling.schedulingPolicy.minAvailable: got 8;")
    assert "16" in error
    policy = {"minAvailable": 16, "queue": "q"}
    held = helm.render(nodes(16, scheduling={"schedulingPolicy": policy}))
    assert helm.job(held)["spec"]["runPolicy"]["schedulingPolicy"] == policy
    assert "schedulingPolicy" not in helm.job(helm.render(nodes(16)))["spec"]["runPolicy"]


def test_a15_host_network_needs_a_port_of_its_own() -> None:
    (error,) = helm.render_fails(None, "--set", "hostNetwork=true")
    assert error.startswith("rendezvous.port:")
    manifests = helm.render({"hostNetwork": True, "rendezvous": {"port": 23999}})
    assert helm.pod(manifests)["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert helm.container(manifests)["ports"][0]["containerPort"] == 23999
    assert "dnsPolicy" not in helm.pod(helm.render())
    assert not [name for name in helm.env(manifests) if name in ("PET_RDZV_BACKEND", "PET_RDZV_ENDPOINT")]


def test_a16_the_container_is_named_pytorch() -> None:
    for role in ("Master", "Worker"):
        found = helm.container(helm.render(nodes(2)), role)
        assert found["image"] == "nvcr.io/nvidia/nemo:24.07"


# B: rendezvous


def test_b03_the_port_is_fixed_and_not_ephemeral() -> None:
    ports = helm.container(helm.render())["ports"]
    assert ports == [
        {"name": "pytorchjob-port", "containerPort": 23456},
        {"name": "restart", "containerPort": 23457},
    ]
    assert settings(helm.render())["restart"]["port"] == 23457
    for port in (32767, 32768, 50000, 80):
        assert any("port" in error for error in helm.render_fails({"rendezvous": {"port": port}}))
    assert helm.container(helm.render({"rendezvous": {"port": 32766}}))["ports"][0]["containerPort"] == 32766


# C: NCCL


def test_c01_shared_memory_is_there_and_fits() -> None:
    manifests = helm.render(nodes(2))
    for role in ("Master", "Worker"):
        (mount,) = [m for m in helm.container(manifests, role)["volumeMounts"] if m["mountPath"] == "/dev/shm"]
        (volume,) = [v for v in helm.pod(manifests, role)["volumes"] if v["name"] == mount["name"]]
        assert volume["emptyDir"] == {"medium": "Memory"}
    sized = helm.render({"resources": {"memory": "800Gi", "shmSize": "819200Mi"}})
    (volume,) = [v for v in helm.pod(sized)["volumes"] if v["name"] == "shm"]
    assert volume["emptyDir"]["sizeLimit"] == "819200Mi"
    (error,) = helm.render_fails({"resources": {"memory": "800Gi", "shmSize": "801Gi"}})
    assert error.startswith("resources.shmSize: got 801Gi;")
    assert "800Gi" in error


@pytest.mark.parametrize("value", ["^ibs,lo", "=eth0", "=ifname0", "^ibs,ibp,lo,veth"])
def test_c03_interface_names_reach_the_pod_byte_for_byte(value: str) -> None:
    assert helm.env(helm.render({"env": {"NCCL_SOCKET_IFNAME": value}}))["NCCL_SOCKET_IFNAME"] == value


def test_c04_commas_and_colons_survive() -> None:
    value = "mlx5_0:1,mlx5_3:1"
    assert helm.env(helm.render({"env": {"NCCL_IB_HCA": value}}))["NCCL_IB_HCA"] == value
    escaped = value.replace(",", r"\,")
    assert helm.env(helm.render(None, "--set", f"env.NCCL_IB_HCA={escaped}"))["NCCL_IB_HCA"] == value


def test_rdma_follows_the_fabric() -> None:
    container = helm.container(helm.render({"fabric": "efa"}))
    assert container["resources"]["limits"]["vpc.amazonaws.com/efa"] == "32"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    container = helm.container(helm.render({"fabric": "tcp"}))
    assert set(container["resources"]["limits"]) == {"cpu", "memory", "nvidia.com/gpu"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    container = helm.container(helm.render({"fabric": "ib", "rdma": {"enabled": False}}))
    assert set(container["resources"]["limits"]) == {"cpu", "memory", "nvidia.com/gpu"}
    container = helm.container(helm.render({"rdma": {"resourceName": "rdma/mine", "count": 8}}))
    assert container["resources"]["limits"]["rdma/mine"] == "8"
    assert container["resources"]["limits"] == container["resources"]["requests"]


# D: NeMo


def test_d01_no_validation_metric_is_monitored() -> None:
    config = merged(helm.render())
    callback = config["exp_manager"]["checkpoint_callback_params"]
    assert config["trainer"]["limit_val_batches"] == 0
    assert not callback["monitor"].startswith("val")
    assert callback["every_n_train_steps"] == 217
    assert callback["save_last"] is True
    monitor = {"checkpoint_callback_params": {"monitor": "val_loss"}}
    (error,) = helm.render_fails({"config": {"exp_manager": monitor}})
    assert "checkpoint_callback_params.monitor: got val_loss;" in error
    helm.render({"config": {"exp_manager": monitor, "trainer": {"limit_val_batches": 10}}})


@pytest.mark.parametrize(("engine", "shown"), [(False, "false"), (0, "0"), (None, "null"), ("no", "no")])
def test_fp8_is_transformer_engine_s(engine: object, shown: str) -> None:
    changed = {"training": {"kernels": "fp8"}, "config": {"model": {"transformer_engine": engine}}}
    (error,) = helm.render_fails(changed)
    said = f"config.model.transformer_engine: got {shown}; must be true with training.kernels fp8, which is"
    assert said in error
    (violation,) = verdict.violations(Facts.of(changed))
    assert str(violation).startswith(said)
    helm.render({**changed, "training": {"kernels": "fused"}})
    helm.render({**changed, "config": {"model": {"transformer_engine": True}}})


def test_the_progress_bar_stays_on() -> None:
    """Without it a run that trains looks like one that hangs."""
    for off, shown in ((False, "false"), (0, "0"), ("no", "no")):
        (error,) = helm.render_fails({"config": {"trainer": {"enable_progress_bar": off}}})
        assert f"config.trainer.enable_progress_bar: got {shown}; must be true" in error
    helm.render({"config": {"trainer": {"enable_progress_bar": True}}})


@pytest.mark.parametrize("enabled", [True, False])
def test_d02_one_value_drives_both_checkpoint_switches(enabled: bool) -> None:
    config = merged(helm.render({"checkpoint": {"enabled": enabled}}))
    assert config["trainer"]["enable_checkpointing"] is False
    assert config["exp_manager"]["create_checkpoint_callback"] is enabled


@pytest.mark.parametrize(
    ("resume", "if_exists", "ignore"), [("auto", True, True), ("require", True, False), ("never", False, True)]
)
def test_d05_the_first_run_starts_without_a_checkpoint(resume: str, if_exists: bool, ignore: bool) -> None:
    manager = merged(helm.render({"checkpoint": {"resume": resume}}))["exp_manager"]
    assert (manager["resume_if_exists"], manager["resume_ignore_no_checkpoint"]) == (if_exists, ignore)


def test_d15_a_hub_id_needs_the_network() -> None:
    hub = {"model": {"visionEncoderPath": "openai/clip-vit-large-patch14-336"}}
    (error,) = helm.render_fails(hub)
    assert error.startswith("model.visionEncoderPath: got openai/clip-vit-large-patch14-336;")
    seen = helm.env(helm.render({**hub, "hf": {"online": True}}))
    assert seen["TRANSFORMERS_OFFLINE"] == "0"
    assert "HF_HUB_OFFLINE" not in seen
    assert helm.env(helm.render())["TRANSFORMERS_OFFLINE"] == "1"
    assert helm.env(helm.render())["HF_HUB_OFFLINE"] == "1"


def test_d17_the_hugging_face_cache_is_writable() -> None:
    manifests = helm.render(nodes(2))
    for role in ("Master", "Worker"):
        read_only = [m["mountPath"] for m in helm.container(manifests, role)["volumeMounts"] if m.get("readOnly")]
        home = helm.env(manifests, role)["HF_HOME"]
        assert not [path for path in read_only if f"{home}/".startswith(f"{path}/")]
    for home in ("/models/preset", "/models/preset/hf", "/datasets/preset/x"):
        (error,) = helm.render_fails({"hf": {"home": home}})
        assert error.startswith(f"hf.home: got {home};")
    assert helm.env(helm.render({"hf": {"home": "/models/presets"}}))["HF_HOME"] == "/models/presets"


# G: storage


def test_g02_an_unmounted_file_system_is_no_empty_folder() -> None:
    volumes = helm.of_kind(helm.render(), "PersistentVolume")
    assert len(volumes) == 3
    assert {volume["spec"]["hostPath"]["type"] for volume in volumes} == {"Directory"}
    for name in ("datasets", "models"):
        errors = helm.render_fails({"storage": {name: {"gpfs": {"type": "DirectoryOrCreate"}}}})
        assert any("type" in error for error in errors)


def test_g03_every_claim_and_volume_is_kept() -> None:
    manifests = helm.render()
    kept = helm.of_kind(manifests, "PersistentVolumeClaim") + helm.of_kind(manifests, "PersistentVolume")
    assert len(kept) == 6
    for manifest in kept:
        assert manifest["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for volume in helm.of_kind(manifests, "PersistentVolume"):
        assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


def test_g03_an_existing_claim_makes_no_objects() -> None:
    sources = {name: {"existingClaim": f"my-{name}"} for name in ("datasets", "models", "results")}
    manifests = helm.render({"storage": {**sources, "scratch": {"existingClaim": "my-scratch"}}})
    assert not helm.of_kind(manifests, "PersistentVolumeClaim")
    assert not helm.of_kind(manifests, "PersistentVolume")
    claims = {
        v["name"]: v["persistentVolumeClaim"] for v in helm.pod(manifests)["volumes"] if v.get("persistentVolumeClaim")
    }
    assert claims == {
        "datasets": {"claimName": "my-datasets", "readOnly": True},
        "models": {"claimName": "my-models", "readOnly": True},
        "results": {"claimName": "my-results"},
        "scratch": {"claimName": "my-scratch"},
    }


def test_g03_two_sources_are_refused() -> None:
    (error,) = helm.render_fails({"storage": {"results": {"existingClaim": "c", "gpfs": {"nodePath": "/g"}}}})
    assert error.startswith("storage.results: got existingClaim and gpfs.nodePath;")


# H: helm


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ('"true"', "true"), ("3", "3"), ('"3"', "3"), ("0.5", "0.5"), ('"NULL"', "NULL"), ('""', ""), ('"1e3"', "1e3"),
        ("1e3", "1000"), ('"off"', "off"), ("0", "0"), ('"0x10"', "0x10"), ("-1", "-1"),
        ('"yes"', "yes"), ("'~'", "~"),
    ],
)  # fmt: skip
def test_h01_every_env_value_is_a_string(given: str, seen: str) -> None:
    manifests = helm.render(f"env:\n  X: {given}\n")
    assert all(isinstance(value, str) for value in helm.raw_env(manifests).values())
    assert helm.env(manifests)["X"] == seen


def test_h02_an_unquoted_tag_is_refused() -> None:
    assert any("tag" in error and "string" in error for error in helm.render_fails("image:\n  tag: 24.10\n"))
    manifests = helm.render(None, "--set-string", "image.tag=24.10")
    assert helm.container(manifests)["image"].endswith(":24.10")
    assert any("tag" in error for error in helm.render_fails(None, "--set", "image.tag=20161216"))


@pytest.mark.parametrize(
    "key",
    [
        "scheduling.nodeSelector", "scheduling.gpuType", "scheduling.gpuType.values", "scheduling.tolerations",
        "scheduling", "scheduling.queue", "scheduling.schedulingPolicy", "scheduling.nodeExpressions",
        "scheduling.avoidNodes", "rdma", "rdma.enabled", "rdma.resourceName", "rdma.count", "run", "run.id",
        "hf", "hf.home", "env", "config", "podAnnotations", "podLabels", "workerLabels", "podSecurityContext",
        "securityContext", "serviceAccount", "serviceAccount.annotations", "commonLabels", "nameOverride",
        "fullnameOverride", "extraVolumes", "extraVolumeMounts", "image.digest", "image.pullPolicy",
        "image.pullSecrets", "resources.shmSize", "model.architecture", "model.checkpoint", "model.tokenizer",
        "hostNetwork", "runPolicy.suspend", "podDisruptionBudget", "scheduling.evictable", "run.attempt",
    ],
)  # fmt: skip
def test_h03_null_removes_a_default(key: str) -> None:
    for manifests in (helm.render(None, "--set", f"{key}=null"), helm.render(nodes(2), "--set", f"{key}=null")):
        assert helm.job(manifests)["kind"] == "PyTorchJob"
        assert "null" not in json.dumps(helm.job(manifests))


def test_h03_null_leaves_no_key() -> None:
    bare = helm.pod(helm.render(None, "--set", "scheduling=null"))
    assert not {"nodeSelector", "affinity", "tolerations", "priorityClassName"} & set(bare)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"gpuPerNode": 8}, "gpuPerNode"),
        ({"training": {"gpuPerNode": 8}}, "gpuPerNode"),
        ({"storage": {"models": {"gpfs": {"nodepath": "/x"}}}}, "nodepath"),
        ({"scheduling": {"queue": {"nane": "x"}}}, "nane"),
    ],
)
def test_h05_typos_are_named(values: dict[str, Any], key: str) -> None:
    assert any(key in error for error in helm.render_fails(values))


def test_h05_free_maps_and_global_are_accepted() -> None:
    values = {
        "global": {"any": {"thing": 1}},
        "scheduling": {"nodeSelector": {"a/b": True, "rank": 3}},
        "podLabels": {"x": "y"},
        "commonLabels": {"z": 1},
        "env": {"WHATEVER": 1},
    }
    assert helm.pod(helm.render(values))["nodeSelector"] == {"a/b": "true", "rank": "3"}


def test_h06_nothing_big_slips_into_the_release(tmp_path: Path) -> None:
    copy = tmp_path / "neva-pretrain"
    shutil.copytree(helm.CHART, copy)
    junk = bytes(range(256)) * 8192
    for name in ("dummy.zip", "run.log", "old.tgz", "m.nemo", "results/x.bin", "logs/y.bin", "files/deep.zip"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(junk)
    out = tmp_path / "out"
    command = [helm.tool("helm"), "package", str(copy), "-d", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    (package,) = out.iterdir()
    assert package.stat().st_size < 250_000
    with tarfile.open(package) as tar:
        assert max(member.size for member in tar.getmembers()) < 200_000
    data = [m["data"] for m in helm.of_kind(helm.render(nodes(16384)), "ConfigMap")]
    assert sum(len(text.encode()) for files in data for text in files.values()) < 900_000


def test_h07_scripts_of_a_windows_checkout_have_no_carriage_return(tmp_path: Path) -> None:
    copy = tmp_path / "neva-pretrain"
    shutil.copytree(helm.CHART, copy)
    for file in (copy / "files").rglob("*"):
        if file.suffix in (".sh", ".py", ".yaml"):
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    manifests = helm.render(chart=copy)
    for config in helm.of_kind(manifests, "ConfigMap"):
        for name, text in config["data"].items():
            assert "\r" not in text, name
    assert helm.config_data(manifests)["launch.sh"] == (helm.CHART / "files" / "launch.sh").read_text()
    assert "eol=lf" in (helm.ROOT / ".gitattributes").read_text()


def test_h08_nasty_values_arrive_unchanged() -> None:
    folder = f"/models/preset/{NASTY}"
    values = {
        "env": {"NASTY": NASTY},
        "model": {"llmPath": folder, "checkpoint": NASTY, "visionEncoderPath": folder, "tokenizer": NASTY},
        "data": {"path": f"/datasets/preset/{NASTY}", "annotations": NASTY, "images": NASTY},
        "image": {"entrypoint": f"/opt/{NASTY}"},
        "storage": {"results": {"gpfs": {"nodePath": f"/data/{NASTY}"}, "subPath": NASTY}},
    }
    manifests = helm.render(values)
    seen = helm.env(manifests)
    assert seen["NASTY"] == NASTY
    assert seen["NEVA_ENTRYPOINT"] == f"/opt/{NASTY}"
    model = merged(manifests)["model"]
    assert model["mm_cfg"]["llm"]["from_pretrained"] == f"{folder}/{NASTY}"
    assert model["mm_cfg"]["vision_encoder"]["from_pretrained"] == folder
    assert model["tokenizer"]["model"] == f"{folder}/{NASTY}"
    assert model["data"]["data_path"] == f"/datasets/preset/{NASTY}/{NASTY}"
    assert settings(manifests)["data"]["images"] == f"/datasets/preset/{NASTY}/{NASTY}"
    assert helm.container(manifests)["command"] == ["/bin/bash", "/etc/neva/launch.sh"]
    assert "args" not in helm.container(manifests)
    results = [v for v in helm.of_kind(manifests, "PersistentVolume") if v["metadata"]["name"].endswith("results")]
    assert results[0]["spec"]["hostPath"]["path"] == f"/data/{NASTY}"
    (mount,) = [m for m in helm.container(manifests)["volumeMounts"] if m["name"] == "results"]
    assert mount["subPath"] == NASTY


def test_h08_an_interpolation_is_refused() -> None:
    assert helm.render_fails({"model": {"llmPath": "/models/preset/${oc.env:X}"}})
    assert helm.render_fails({"model": {"llmPath": "/models/preset/a\nb"}})


@pytest.mark.parametrize("word", ["true", "null", "on", "y", "123", "1e3", "0x1f"])
def test_a_name_that_yaml_reads_as_something_else_stays_a_string(word: str) -> None:
    values = {
        "nameOverride": word,
        "run": {"id": word},
        "serviceAccount": {"name": word},
        "image": {"pullSecrets": [word]},
        "storage": {"results": {"existingClaim": word}},
        "commonLabels": {"word": word},
        "podLabels": {"word": word},
        "scheduling": {"priorityClassName": word, "schedulerName": word, "queue": {"name": word}},
    }
    release = word if DNS_1035.fullmatch(word) else "neva"
    manifests = helm.render(values, release=release, namespace=word)
    for manifest in manifests:
        labels = manifest["metadata"]["labels"]
        assert (labels["app.kubernetes.io/name"], labels["app.kubernetes.io/instance"]) == (word, release)
        assert all(isinstance(value, str) for value in labels.values())
        assert manifest["metadata"].get("namespace", word) == word
    assert helm.one(manifests, "ServiceAccount")["metadata"]["name"] == word
    pod = helm.pod(manifests)
    assert pod["serviceAccountName"] == word
    assert pod["imagePullSecrets"] == [{"name": word}]
    (claim,) = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == "results"]
    assert claim == word
    claims = helm.of_kind(manifests, "PersistentVolume")
    assert {volume["spec"]["claimRef"]["namespace"] for volume in claims} == {word}
