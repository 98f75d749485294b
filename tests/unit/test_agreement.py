"""The generator and the chart are two readers of one set of rules: same inputs accepted, same words, same numbers."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from neva_pod.monitor.records import RunSettings
from neva_pretrain import chart
from neva_pretrain.chart import access, values
from neva_pretrain.chart.access import without_nulls
from neva_pretrain.check import formats, rules, schema
from neva_pretrain.cluster.references import references
from neva_pretrain.facts import Facts
from neva_pretrain.model import catalog
from neva_pretrain.model.hardware import GPUS
from neva_pretrain.monitor import settings as monitor
from neva_pretrain.plan.plan import Plan
from neva_pretrain.plan.time import step_time
from tests.chart import batch
from tests.chart.helm import KUBERNETES, parse
from tests.tools.build import ensure, path

CHART = Path(__file__).parents[2] / "charts" / "neva-pretrain"

# Small sets that meet often: most random pairs divide, some do not.
small = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 32, 64])


HANDLE = "0;2;7118073361626808055;0A0B0C0D:5D36FE8D;;datasets;/gpfs/fs1/datasets"


MOUNTS = [
    {"name": "a", "mountPath": "/dev/shm"},
    {"name": "a", "mountPath": "/x", "subPath": "sub", "subPathExpr": "$(POD_NAME)", "mountPropagation": None},
    {
        "name": "b",
        "mountPath": "/x",
        "mountPropagation": "Bidirectional",
        "readOnly": True,
        "recursiveReadOnly": "Enabled",
    },
    {"name": "shm", "mountPath": "/usr/lib", "recursiveReadOnly": "IfPossible", "subPath": ""},
    {"name": "shm", "mountPath": "/usr/lib", "recursiveReadOnly": "Disabled", "mountPropagation": "None"},
]


POLICY = {
    "egress": {
        "a": {
            "to": [
                {},
                {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}, "namespaceSelector": None},
                {"ipBlock": {}},
                {
                    "podSelector": {
                        "matchExpressions": [
                            {"key": "a"},
                            {"key": "a", "operator": "In", "values": []},
                            {"key": "a", "operator": "Exists", "values": ["x", "z"]},
                            {"operator": "DoesNotExist"},
                        ]
                    }
                },
            ],
            "ports": [{"port": "443"}, {"port": "0", "protocol": None}, {"port": "http", "endPort": 9}],
        },
        "b": None,
    },
    "ingress": {"a": {"ports": [{"endPort": 9}, {"port": 10, "endPort": 9}, {"port": 9, "endPort": 9}, {"port": "a"}]}},
}


CONTRADICTIONS = {
    "gpuType": {"key": "a", "values": ["x", "u"]},
    "nodeSelector": {"a": "z", "b": 1, "c": True},
    "nodeExpressions": [
        {"key": "a", "operator": "NotIn", "values": ["z"]},
        {"key": "a", "operator": "In", "values": ["w", "z"]},
        {"key": "b", "operator": "DoesNotExist"},
        {"key": "b", "operator": "Exists"},
        {"key": "b", "operator": "Gt", "values": ["0"]},
        {"key": "c", "operator": "In", "values": ["false"]},
        {"key": "d", "operator": "In", "values": ["x", "u"]},
        {"key": "d", "operator": "NotIn", "values": ["x"]},
        {"key": "d", "operator": "NotIn", "values": ["u"]},
        {"key": "e", "operator": "NotIn", "values": ["u"]},
    ],
}


PLACEMENT = {
    "tolerations": [
        {"key": "a", "operator": "Exists", "value": "x", "effect": "NoExecute", "tolerationSeconds": 5},
        {"operator": "Equal", "value": "x"},
        {"key": "", "effect": "NoSchedule"},
        {"key": "a", "value": "x", "tolerationSeconds": 0},
        {"operator": "Exists"},
    ],
    "nodeExpressions": [
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "NotIn", "values": ["x", ""]},
        {"key": "a", "operator": "Exists", "values": ["x", "z"]},
        {"key": "a", "operator": "DoesNotExist", "values": []},
        {"key": "a", "operator": "Gt", "values": ["8"]},
        {"key": "a", "operator": "Lt", "values": ["8", "9"]},
        {"key": "a", "operator": "Gt", "values": [""]},
    ],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2},
        {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2},
        {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"},
    ],
}


@st.composite
def security_values(draw: st.DrawFn) -> dict[str, Any]:
    """Values that break levels of the Pod Security Standard, and policies."""
    either: dict[str, st.SearchStrategy[Any]] = {
        "runAsNonRoot": st.sampled_from([True, True, False, None]),
        "runAsUser": st.sampled_from([0, 1000, None]),
        "seccompProfile": st.sampled_from(
            [
                {"type": "Unconfined"},
                {"type": "Localhost", "localhostProfile": "x"},
                {"localhostProfile": "x"},
                {},
                None,
            ]
        ),
        "appArmorProfile": st.sampled_from(
            [{"type": "Unconfined"}, {"type": "RuntimeDefault", "localhostProfile": ""}, {"type": "Localhost"}, {}]
        ),
        "seLinuxOptions": st.sampled_from([{"level": "s0:c1,c2"}, {"type": "spc_t", "user": "u"}, {"role": "r"}]),
    }
    lists = st.sampled_from([[], ["NET_BIND_SERVICE"], ["CHOWN", "SYS_ADMIN"], ["ALL"], None])
    pod: dict[str, st.SearchStrategy[Any]] = {
        "sysctls": st.sampled_from([[{"name": "kernel.msgmax", "value": "1"}], []])
    }
    container: dict[str, st.SearchStrategy[Any]] = {
        "privileged": st.booleans(),
        "allowPrivilegeEscalation": st.booleans(),
        "capabilities": st.fixed_dictionaries({}, optional={"add": lists, "drop": lists}),
    }
    volumes = [{"name": "a", "hostPath": {"path": "/x"}}, {"name": "b", "nfs": {}}, {"name": "c", "emptyDir": {}}]
    odd = [
        {"name": "a"},
        {"name": "b", "secret": {}, "emptyDir": {}, "nfs": None},
        {"name": "c", "nfs": {"server": "s"}},
    ]
    names = [("a", "pvc"), ("a", "neva-results"), ("b", "x"), ("c", "x")]
    claims = [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, claim in names]
    apparmor = "container.apparmor.security.beta.kubernetes.io/pytorch"
    return {
        "podSecurityContext": draw(st.fixed_dictionaries({}, optional=either | pod)),
        "securityContext": draw(st.fixed_dictionaries({}, optional=either | container)),
        "podSecurity": {
            "enforce": draw(st.sampled_from(["", "", "baseline", "restricted"])),
            "operatorInitContainer": draw(st.booleans()),
        },
        "extraVolumes": draw(st.sampled_from([[], None, volumes, claims, odd])),
        "podAnnotations": draw(st.sampled_from([{}, {apparmor: "unconfined", "a": 1}, {apparmor: "localhost/x"}])),
        "networkPolicy": draw(
            st.sampled_from(
                [{}, {"enabled": True}, {"enabled": True, "egress": {"hub": {"ports": [{"port": 443}]}}}, POLICY]
            )
        ),
    }


@st.composite
def partial_values(draw: st.DrawFn) -> dict[str, Any]:
    """Values whose parts are valid alone, and may contradict each other."""
    training = {
        "nodes": draw(st.sampled_from([1, 2, 3, 4, 16, 128, 2048])),
        "gpusPerNode": draw(st.sampled_from([1, 2, 4, 6, 8])),
        "tensorParallelSize": draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16])),
        "pipelineParallelSize": draw(st.sampled_from([1, 2, 3, 4, 5, 8])),
        "microBatchSize": draw(small),
        "globalBatchSize": draw(st.sampled_from([1, 128, 256, 300, 512, 1024, 4096, 98304])),
        "maxSteps": draw(st.integers(1, 3_000_000)),
        "warmupSteps": draw(st.integers(0, 200)),
        "sequenceParallel": draw(st.booleans()),
        "minLearningRate": draw(st.sampled_from([0, 2e-5, 0.001, 0.01])),
    }
    names = [*catalog.names(), "llama9_1b"]
    drawn: dict[str, Any] = {
        "training": training,
        "model": {
            "name": draw(st.sampled_from(names)),
            "checkpointFormat": draw(st.sampled_from(["auto", "legacy", "distributed"])),
            "llmPath": draw(st.sampled_from(["/models/preset/a", "/models/preset", "/elsewhere/b"])),
            "visionEncoderPath": draw(st.sampled_from(["/models/preset/c", "openai/clip"])),
            "architecture": draw(
                st.sampled_from(
                    [
                        {},
                        {"numLayers": 30},
                        {"numQueryGroups": 3},
                        {"ffnHiddenSize": 9},
                        {"gatedMlp": False},
                        {"encoderSeqLength": 300},
                    ]
                )
            ),
        },
        "checkpoint": {"enabled": draw(st.booleans()), "everyNSteps": draw(st.integers(1, 3000))},
        "restart": draw(
            st.sampled_from([{}, {"enabled": False}, {"limit": 1}, {"waitSeconds": 60}, {"stallSeconds": 1800}])
        ),
        "terminationGracePeriodSeconds": draw(st.sampled_from([30, 60, 120])),
        "runPolicy": draw(
            st.sampled_from(
                [
                    {},
                    {"suspend": False},
                    {"cleanPodPolicy": "All", "ttlSecondsAfterFinished": 0},
                    {"cleanPodPolicy": "None", "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 86400},
                ]
            )
        ),
        "rendezvous": {
            "timeoutSeconds": draw(st.sampled_from([900, 1800])),
            "port": draw(st.sampled_from([23456, 9399, 9400])),
        },
        "hostNetwork": draw(st.booleans()),
        "fabric": draw(st.sampled_from(["ib", "tcp", "none"])),
        "hf": draw(st.sampled_from([{}, {"online": True}, {"home": "/models/preset/hf"}])),
        "env": draw(
            st.sampled_from(
                [{}, {"RANK": 3}, {"PET_X": "1", "A_TOKEN": "x", "B_API_KEY": ""}, {"WANDB_MODE": "offline"}]
            )
        ),
        "resources": draw(
            st.sampled_from(
                [
                    {},
                    {"shmSize": "900Gi"},
                    {"shmSize": "1.5Gi", "memory": "1Gi", "gpuResourceName": "nvidia.com/mig-1g.5gb"},
                    {"shmSize": "100m", "memory": 512, "cpu": "999m", "gpuResourceName": "a.com/x.mig-1g.5gb"},
                    {"memory": "2Gi", "cpu": 0.5},
                ]
            )
        ),
        "config": draw(
            st.sampled_from(
                [
                    {},
                    {"model": {"micro_batch_size": 3, "transformer_engine": 0}},
                    {"model": {"transformer_engine": "true"}, "trainer": {"fast_dev_run": True}},
                    *({"model": {"activation": name}} for name in ("gelu", "fast-reglu", "x", 3)),
                    {"exp_manager": {"checkpoint_callback_params": {"monitor": "val_loss"}}},
                    *(
                        {
                            "exp_manager": {"checkpoint_callback_params": {"monitor": "val_loss"}},
                            "trainer": {"limit_val_batches": batches, "enable_progress_bar": bar},
                        }
                        for batches, bar in (
                            ("abc", False),
                            ([1], 0),
                            ({"a": 1}, ""),
                            (True, "no"),
                            ("2", 1),
                            (0.0, "true"),
                        )
                    ),
                    # Null is below what has no default: right in a default's map, Helm 3 drops it and Helm 4 does not.
                    {"trainer": 3, "exp_manager": {"checkpoint_callback_params": None}, "model": {"optim": "adam"}},
                    {"model": {"mm_cfg": {"llm": []}}},
                    {"exp_manager": {"checkpoint_callback_params": "none"}},
                    {"exp_manager": {"create_tensorboard_logger": False, "wandb_logger_kwargs": {"project": "p"}}},
                    {"trainer.devices": 4, "model": {"+seed": 1, "~optim": None, "mm_cfg": None}},
                    {"model": {"tokenizer": ["a"], "data": {"api_key": "abcd", "x": [{"my_pass": "abcd"}]}}},
                    {"defaults": ["a"], "exp_manager": {"checkpoint_callback_params": {"dirpath": "/elsewhere"}}},
                ]
            )
        ),
        "storage": draw(
            st.sampled_from(
                [
                    {},
                    {"datasets": {"existingClaim": "pvc"}, "results": {"existingClaim": "pvc"}},
                    {
                        "datasets": {"gpfs": {"csi": {"volumeHandle": HANDLE}}},
                        "models": {"gpfs": {"csi": {"volumeHandle": HANDLE, "fsType": "x"}, "nodeLabel": "a=b"}},
                        "scratch": {"gpfs": {"csi": {"volumeHandle": HANDLE, "driver": "other"}}},
                    },
                    {"models": {"gpfs": None}},
                    {"results": {"mountPath": "/datasets/preset"}},
                    {"scratch": {"mountPath": "/etc/x"}, "results": {"mountPath": "/var/run"}},
                    {"scratch": {"mountPath": "/opt/NeMo"}, "results": {"mountPath": "/opt/NeMo/x"}},
                    {
                        "scratch": {"hostPath": "/nvme"},
                        "models": {"storageClassName": "fast"},
                    },
                    {
                        "results": {
                            "gpfs": {"csi": {"volumeHandle": HANDLE}},
                            "hostPath": "/r",
                            "storageClassName": "slow",
                        }
                    },
                ]
            )
        ),
        "rdma": draw(
            st.sampled_from(
                [
                    {},
                    {"enabled": True},
                    {"enabled": True, "count": 2, "networks": ["a/b@net1", "c"]},
                    {"resourceName": "rdma/a", "networks": ["a@net1", "b@net1", "c", "d", "e@net1"]},
                    {"resources": {"rdma/a": 1, "rdma/b": 2}, "enabled": True},
                    {"resources": {"rdma/a": 1, "nvidia.com/gpu": 2}, "count": 2},
                ]
            )
        ),
        "podLabels": draw(st.sampled_from([{}, {"app.kubernetes.io/name": "x"}, {"a": 1}])),
        "workerLabels": draw(st.sampled_from([None, {"training.kubeflow.org/x": "one", "helm.sh/chart": None}])),
        "extraVolumeMounts": draw(st.sampled_from([[], MOUNTS, [{"name": "a", "mountPath": "/elsewhere"}]])),
        "prepare": draw(
            st.sampled_from(
                [
                    {},
                    {"enabled": True},
                    {"enabled": True, "llm": {"source": "/elsewhere/x"}, "dataset": {"enabled": False}},
                    {"enabled": True, "llm": {"enabled": False}, "tokenizer": {"source": "a/b"}},
                ]
            )
        ),
        "scheduling": draw(
            st.sampled_from(
                [
                    {},
                    {"schedulingPolicy": {"minAvailable": 4}},
                    CONTRADICTIONS,
                    {
                        "gpuType": {"values": ["A", "A-SHARED"]},
                        "nodeSelector": {"nvidia.com/gpu.product": "A-MIG-1g.5gb"},
                    },
                    {
                        "gpuType": {"key": "pool", "values": ["A-SHARED"]},
                        "nodeSelector": {"nvidia.com/gpu.product": True},
                    },
                    PLACEMENT,
                    {"queue": {"name": "gpus"}, "kai": {"queue": "team"}, "schedulerName": "volcano"},
                    {"queue": {"priorityClass": "high", "topology": {"required": "a/rack", "preferred": "a/block"}}},
                    {"queue": {"name": "gpus", "topology": {"unconstrained": True, "preferred": "a/block"}}},
                    {"schedulingPolicy": {"queue": "a", "priorityClass": "b"}, "schedulerName": "gang"},
                    {"schedulingPolicy": {"scheduleTimeoutSeconds": 9}, "kai": {"queue": "a"}},
                ]
            )
        ),
        "job": {"kind": draw(st.sampled_from(["PyTorchJob", "TrainJob"]))},
        "run": draw(st.sampled_from([{}, {"id": "Bad_Id"}, {"id": "x" * 40}, {"id": "x" * 35}, {"id": "two-steps"}])),
        **draw(security_values()),
        "monitoring": draw(
            st.sampled_from(
                [
                    {},
                    None,
                    {"exporter": {"enabled": True}, "podMonitor": {"enabled": True}},
                    {"exporter": {"enabled": True, "port": 23456}},
                    {"podMonitor": {"enabled": True}},
                    {"exporter": None, "podMonitor": {"enabled": True}},
                ]
            )
        ),
        "tensorboard": draw(st.sampled_from([{}, None, {"enabled": True}])),
        "wandb": draw(st.sampled_from([{}, None, {"enabled": True}, {"enabled": True, "mode": "offline"}])),
        "secrets": draw(
            st.sampled_from(
                [
                    {},
                    {"wandb": {"name": "key"}},
                    {"wandb": None},
                    {"env": {"A_TOKEN": {"name": "s", "key": "k"}, "RANK": {"name": "s", "key": "k"}}},
                ]
            )
        ),
        "fullnameOverride": draw(st.sampled_from(["neva", "7b", "neva.v2"])),
    }
    return drawn


def further_values() -> st.SearchStrategy[dict[str, Any]]:
    """Values that the rules accept and facts follow from."""
    architecture = {
        "numLayers": st.sampled_from([8, 64]),
        "ffnHiddenSize": st.sampled_from([16384]),
        "vocabSize": st.sampled_from([50000, 64000]),
        "numExperts": st.sampled_from([1, 4]),
        "rotaryBase": st.sampled_from([500000, 0.5]),
    }
    model = {
        "architecture": st.fixed_dictionaries({}, optional=architecture),
        "checkpoint": st.sampled_from(["a.nemo", "/models/preset/b", "../c"]),
        "tokenizer": st.sampled_from(["t.model", "/results/t"]),
        "llmPath": st.sampled_from(["/models/preset/llm/", "/datasets/preset/llm"]),
    }
    data = {
        "annotations": st.sampled_from(["b.json", "/models/preset/a.json", "../c.json"]),
        "images": st.sampled_from([".", "/results/images/"]),
        "path": st.sampled_from(["/datasets/preset/x/", "/results/x"]),
        "workers": st.just(0),
    }
    training = {
        "kernels": st.sampled_from(["fused", "fp8"]),
        "recompute": st.sampled_from(["full", "selective"]),
        "gpu": st.sampled_from(list(GPUS)),
        "learningRate": st.just(2e-3),
    }
    plan = {"stepSeconds": st.sampled_from([7, 1.5, None]), "flopsPerSample": st.just(1e13), "peakTflops": st.just(400)}
    prepare = {
        "vision": st.just({"source": "/models/preset/v", "revision": "x"}),
    }
    return st.fixed_dictionaries(
        {"training": st.fixed_dictionaries({}, optional=training)},
        optional={
            "model": st.fixed_dictionaries({}, optional=model),
            "data": st.fixed_dictionaries({}, optional=data),
            "checkpoint": st.sampled_from([{"enabled": False}, {"everyNSteps": 7, "resume": "never"}]),
            "monitoring": st.fixed_dictionaries({"plan": st.fixed_dictionaries({}, optional=plan)}),
            "run": st.just({"id": "lr-1"}),
            "fullnameOverride": st.just("other"),
            "hf": st.sampled_from([{"online": True}, {"home": "/scratch/hub"}]),
            "fabric": st.sampled_from(["roce", "tcp"]),
            "rdma": st.just({"enabled": False}),
            "image": st.just({"digest": f"sha256:{'a' * 64}"}),
            "storage": st.sampled_from([{"datasets": {"readOnly": False}}, {"scratch": {"mountPath": "/local"}}]),
            "preflight": st.just(
                {"skip": ["vision"], "minimumShmBytes": 2**40, "filesystems": {"/x": {"type": "gpfs"}}}
            ),
            "prepare": st.fixed_dictionaries(
                {"enabled": st.just(True), "llm": st.just({"source": "org/llm", "unpack": False})}, optional=prepare
            ),
            "job": st.just({"kind": "TrainJob"}),
        },
    )


MADE = """{{ $errors := include "neva-pretrain.violations" $root | fromJsonArray }}{{ if $errors -}}
{{ dict "errors" $errors | toJson }}
{{- else -}}
{{- $f := include "neva-pretrain.uncheckedFacts" $root | fromJson -}}{{- $both := dict "root" $root "facts" $f -}}
{{ dict "settings" (include "neva-pretrain.settings" $both | fromJson) "pods" (add 1 $f.workers)
  "references" (include "neva-pretrain.references" $root | fromJsonArray)
  "annotations" (include "neva-pretrain.jobAnnotations" $both | fromYaml) | toJson }}
{{- end }}"""
"""What a case comes to in the chart: its sentences, or facts, pods, what it names and the job's annotations."""


MANY = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
"""25 cases of an example share one process of Helm; a failure names its case, so that nothing need be shrunk."""


@pytest.mark.helm
@MANY
@given(partials=st.lists(partial_values(), min_size=25, max_size=25))
def test_generator_and_chart_agree(partials: list[dict[str, Any]]) -> None:
    """Same sentences in the same order, or both accept and derive the same numbers."""
    assert_agree(partials)


@pytest.mark.helm
@settings(max_examples=8, deadline=None)
@given(partial=partial_values())
def test_a_whole_render_agrees(helm: str, tmp_path_factory: pytest.TempPathFactory, partial: dict[str, Any]) -> None:
    """The same through Helm's own merge of a values file, and to the pods of the job."""
    complete = values.complete(partial)
    ours = [str(violation) for violation in rules.violations(Facts(complete))]
    theirs, manifests = render(helm, partial, tmp_path_factory.mktemp("case"))
    assert theirs == ours
    if ours:
        return
    data = next(m["data"] for m in manifests if m["kind"] == "ConfigMap" and "settings.json" in m["data"])
    assert_same_facts(complete, json.loads(data["settings.json"]))
    if not access.preparing(complete):
        assert pods(manifests) == Plan.from_values(complete).nodes


def assert_agree(partials: list[dict[str, Any]]) -> None:
    """Compare the rules' sentences and the facts of values in both languages."""
    cases = [values.complete(partial) for partial in partials]
    for partial, complete, made in zip(partials, cases, batch.evaluate(cases, MADE), strict=True):
        assert schema.violations(complete) == []
        ours = [str(violation) for violation in rules.violations(Facts(complete))]
        assert made.get("errors", []) == ours, partial
        if not ours:
            assert made["pods"] == Plan.from_values(complete).nodes
            assert {each["what"] for each in made["references"]} == set(map(str, references(without_nulls(complete))))
            told = assert_same_facts(complete, made["settings"])
            assert replace(monitor.from_facts(monitor.of_annotations(made["annotations"])), name="neva") == told


def assert_same_facts(complete: dict[str, Any], theirs: dict[str, Any]) -> RunSettings:
    """The chart's settings.json, whole, is the generator's fact sheet; the monitor predicts what plan does."""
    theirs.pop("chart")  # its version is not the values'
    found = Facts(complete, "neva", "default")
    assert theirs == found.sheet
    planned = found.setup
    seconds = complete["monitoring"]["plan"].get("stepSeconds") if complete.get("monitoring") else None
    told = monitor.from_facts(theirs)
    assert told.planned_step_seconds == (seconds or step_time(planned).total / 1000)
    return told


@st.composite
def accepted_values(draw: st.DrawFn) -> dict[str, Any]:
    """Draw values of which the rules accept most; the draw above is mostly refused."""
    nodes, micro = draw(st.sampled_from([1, 2, 3, 4, 16, 128])), draw(st.sampled_from([1, 2, 4, 8, 16, 32]))
    per_node, tensor = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 4, 8]))
    training = {
        "nodes": nodes,
        "gpusPerNode": per_node,
        "tensorParallelSize": tensor,
        "microBatchSize": micro,
        "globalBatchSize": micro * max(1, nodes * per_node // tensor) * draw(st.integers(1, 8)),
    }
    given = {"model": {"name": draw(st.sampled_from(catalog.names()))}, "training": training}
    return values.merge(draw(further_values()), given)


def unfit(partial: dict[str, Any]) -> bool:
    """Say whether such values break a rule."""
    training = partial["training"]
    kernels, name = training.get("kernels", "reference"), partial["model"]["name"]
    unfused = kernels != "reference" and name == "nemotron4_340b_chat"
    no_fp8 = kernels == "fp8" and (name == "mixtral_8x7b_instruct" or training.get("gpu") == "a100-80gb")
    return bool(unfused or no_fp8 or training["gpusPerNode"] % training["tensorParallelSize"] != 0)


@pytest.mark.helm
@MANY
@given(cases=st.lists(accepted_values(), min_size=25, max_size=25))
def test_valid_plans_are_accepted_by_both(cases: list[dict[str, Any]]) -> None:
    """P2: what a run says of itself goes into the facts that all tools read."""
    assert [bool(rules.violations(Facts.of(case))) for case in cases] == [unfit(case) for case in cases]
    assert_agree(cases)


@pytest.fixture(scope="module")
def helm() -> str:
    ensure("helm")
    return str(path("helm"))


def pods(manifests: list[Any]) -> int:
    """Pods of the job, whatever its kind."""
    job = next(m for m in manifests if m["kind"] in ("PyTorchJob", "TrainJob"))["spec"]
    if "trainer" in job:
        return int(job["trainer"]["numNodes"])
    return sum(replica["replicas"] for replica in job["pytorchReplicaSpecs"].values())


def render(helm: str, partial: dict[str, Any], folder: Path) -> tuple[list[str], list[Any]]:
    """Return the chart's ERROR sentences and its manifests for a values file."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(partial))
    command = [helm, "template", "neva", str(CHART), "-f", str(file), "--kube-version", KUBERNETES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert done.returncode == (1 if errors else 0), done.stderr
    return errors, parse(done.stdout)


def test_every_rule_is_in_both_files() -> None:
    """A check of one side has its twin of the same name on the other."""
    templates = "".join(file.read_text() for file in (CHART / "templates").glob("_*.tpl"))
    checks = (formats.check_formats, *rules.CHECKS)
    for check in checks:
        words = check.__name__.removeprefix("check_").split("_")
        assert f'define "neva-pretrain.check{"".join(w.title() for w in words)}"' in templates
    assert templates.count('define "neva-pretrain.check') == len(checks)


def test_defaults_obey_all_rules() -> None:
    assert schema.violations(chart.defaults()) == []
    assert rules.violations(Facts(chart.defaults())) == []
