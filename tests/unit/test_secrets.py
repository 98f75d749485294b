"""Secrets in clear are refused wherever they stand, by chart and generator alike, and never printed."""

from typing import Any

import pytest

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.chart.secrecy import is_secret, is_secret_name, walk
from neva_pretrain.check import rules
from neva_pretrain.facts import Facts
from tests.chart import batch

NAMES = """
    hf_token HF_TOKEN Token MyToken TOKEN_2 authtoken PGPASSWORD MY_PASS DB_PWD dbpass GITHUB_PAT REGISTRY_AUTH
    api_key apiKey APIKEY openai-api-key AWS_SECRET_ACCESS_KEY client_secret clientSecret PRIVATE_KEY ssh_key
    SSH_PASSPHRASE CREDENTIALS service.credential secret-key SIGNING_KEY
""".split()  # noqa: SIM905 (a list of words)
HARMLESS_NAMES = """
    TOKENIZERS_PARALLELISM MAX_TOKENS PASSTHROUGH BYPASS COMPASS tokenizer tokens_per_sample pad_token eos_token
    bos_token image_token im_start_token class_token_length additional_special_tokens PWD OLDPWD PATH PYTHONPATH
    key keys author NCCL_IB_HCA NCCL_NET_GDR_LEVEL KEYBOARD HF_TOKEN_PATH SSH_AUTH_SOCK secretName
    imagePullSecretName public_key monkey SECRETARIAT num_query_groups hf_home OMPI_MCA_pml
    CUDA_DEVICE_MAX_CONNECTIONS PATTERN format sort_keys hotkey
""".split()  # noqa: SIM905 (a list of words)
LETTERS = "AbCdEfGhIjKlMnOpQrStUvWx"
SECRETS = [
    f"hf_{LETTERS}",
    f"ghp_{LETTERS}0123456789",
    f"github_pat_11{LETTERS}_xyz",
    "Bearer abc.def.ghi",
    f"sk-proj-{LETTERS}",
    f"nvapi-{LETTERS}",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefgh",
    "-----BEGIN RSA PRIVATE KEY-----\nMII",
    "http://user:pa55@proxy.example.com:3128",
    "https://:pa55word@hub.example.com",
    "postgres://u:pa55@db/x",
    "me:pa55@registry.example.com/nemo",
    "https://hub.example.com/?access_token=abcdef",
    "Authorization: Basic dXNlcjpwYXNz",
]
HARMLESS = [
    "http://proxy.example.com:3128",
    "nvcr.io/nvidia/nemo:24.07@sha256:" + "0" * 64,
    "/models/hf_Llama-2-7b/tokenizer_neva.model",
    "hf_transfer",
    "sk-learn",
    "task-force-of-the-long-names-2024",
    "0;2;7118073361626808055;0A0B0C0D:5D36FE8D;;datasets;/gpfs/fs1/datasets",
    "bearer",
    "mlx5_0:1,mlx5_3:1",
    "neva--{step}-{consumed_samples}",
    "ns/net@eth0",
    "5d41402abc4b2a76b9719d911017c592aabbccdd",
]


@pytest.mark.parametrize("name", NAMES)
def test_k18_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert is_secret(name, "dXNlcg")
    for harmless in ("", True, False, "true", 1, "none", "/var/run/secrets/key.json"):
        assert not is_secret(name, harmless), harmless


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_k18_names_that_only_look_like_it(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("value", SECRETS)
def test_k18_values_that_are_secrets_whatever_their_name(value: str) -> None:
    assert is_secret("x", value)


@pytest.mark.parametrize("value", HARMLESS)
def test_k18_values_that_only_look_like_it(value: str) -> None:
    assert not is_secret("x", value)


def test_no_value_of_the_chart_is_taken_for_a_secret() -> None:
    """Its own names are none either, or every value of that name would be refused."""
    assert rules.violations(Facts.of({"image": {"pullSecrets": ["ngc"]}})) == []
    names = {entry.name for entry in walk(chart.schema()["properties"], "") if entry.path.count("properties")}
    free = {"secrets", "env", "additionalProperties", "secret"}  # the last is a volume's, with the name of a Secret
    assert not [name for name in names - free if is_secret_name(name) and name[0].islower()]


def places(secret: str) -> list[tuple[str, dict[str, Any]]]:
    """Where a user may write a text, and the key that the refusal names."""
    return [
        ("env.HTTPS_PROXY", {"env": {"HTTPS_PROXY": secret}}),
        ("config.model.data.x", {"config": {"model": {"data": {"x": secret}}}}),
        ("config.list[1].x", {"config": {"list": [1, {"x": secret}]}}),
        (
            "extraVolumes[0].csi.volumeAttributes.x",
            {"extraVolumes": [{"name": "a", "csi": {"driver": "d", "volumeAttributes": {"x": secret}}}]},
        ),
        ("podAnnotations.x", {"podAnnotations": {"x": secret}}),
        ("serviceAccount.annotations.x", {"serviceAccount": {"annotations": {"x": secret}}}),
        ("commonLabels.x", {"commonLabels": {"x": secret}}),
        ("workerLabels.x", {"workerLabels": {"x": secret}}),
        ("hf.endpoint", {"hf": {"endpoint": secret}}),
        ("prepare.llm.source", {"prepare": {"llm": {"source": secret}}}),
        ("image.repository", {"image": {"repository": secret}}),
        ("secrets.huggingface.name", {"secrets": {"huggingface": {"name": secret}}}),
        ("wandb.entity", {"wandb": {"entity": secret}}),
        ("model.llmPath", {"model": {"llmPath": secret}}),
    ]  # fmt: skip


@pytest.mark.helm
def test_k18_they_are_refused_in_every_place_and_never_printed() -> None:
    """By both, in the same words; a sentence of another rule about the same value hides it too."""
    turns = [(SECRETS[at % len(SECRETS)], at) for at in range(2 * len(SECRETS))]
    tried = [(*places(secret)[at % 14], secret) for secret, at in turns]
    cases = [values.complete(partial) for _, partial, _ in tried]
    for (key, _, secret), case, theirs in zip(tried, cases, batch.violations(cases), strict=True):
        assert theirs == [str(v) for v in rules.violations(Facts(case))]
        assert any(line.startswith(f"{key}: got a value; must not hold a secret, ") for line in theirs), (key, secret)
        hidden = secret.split("@")[0][-6:]
        assert not any(hidden in line for line in theirs), theirs


@pytest.mark.helm
def test_k18_names_count_in_every_free_map() -> None:
    partial = {
        "env": {"hf_token": "abcd", "PGPASSWORD": "abcd", "TOKENIZERS_PARALLELISM": "False", "HF_TOKEN": "abcd"},
        "config": {
            "exp_manager": {"logger": {"api_key": "abcd", "max_tokens": 4096}},
            "tokens": ["a"],
            "my_tokens": [],
        },
        "podAnnotations": {"example.com/api-key": "abcd"},
        "global": {"token": "abcd"},
    }
    case = values.complete(partial)
    (theirs,) = batch.violations([case])
    assert theirs == [str(v) for v in rules.violations(Facts(case))]
    assert [line.split(": got ")[0] for line in theirs] == [
        "env.HF_TOKEN",
        "env.PGPASSWORD",
        "env.hf_token",
        "podAnnotations.example.com/api-key",
        "config.exp_manager.logger.api_key",
    ]
    assert not any("abcd" in line for line in theirs)
