"""Secrets in clear are refused wherever they stand, by chart and generator alike, and never printed."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from time import thread_time
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.chart.secrecy import is_secret, is_secret_name, looks_secret, scrubbed, walk
from neva_pretrain.check import rules, schema
from neva_pretrain.cli.main import main
from neva_pretrain.facts import Facts
from tests.chart import batch, helm

NAMES = """
    hf_token HF_TOKEN Token MyToken TOKEN_2 authtoken PGPASSWORD MY_PASS DB_PWD dbpass GITHUB_PAT REGISTRY_AUTH
    api_key apiKey APIKEY openai-api-key AWS_SECRET_ACCESS_KEY client_secret clientSecret PRIVATE_KEY ssh_key
    SSH_PASSPHRASE CREDENTIALS service.credential secret-key SIGNING_KEY PASSWORDS SECRETS HF_TOKENS apiTokens
    DB_PASSWORD_PROD PASSWORD_ALICE TOKEN_PROD TOKEN_V2 token_2_old SECRET_KEY_STAGING_2 LDAP_BIND_PW bindPw WANDB_KEY
    wandbKey OPENAI_KEY HF_KEY HTTP_AUTHORIZATION Authorization proxy-authorization DOCKER_AUTH GITHUB_PAT_NEW MY_PWD_
    API_JWT PASSCODE AZURE_SAS BEARER
""".split()  # noqa: SIM905 (a list of words)
HARMLESS_NAMES = """
    TOKENIZERS_PARALLELISM MAX_TOKENS PASSTHROUGH BYPASS COMPASS tokenizer tokens_per_sample pad_token eos_token
    bos_token image_token im_start_token class_token_length additional_special_tokens PWD OLDPWD PATH PYTHONPATH
    key keys author NCCL_IB_HCA NCCL_NET_GDR_LEVEL KEYBOARD HF_TOKEN_PATH SSH_AUTH_SOCK secretName
    imagePullSecretName public_key monkey SECRETARIAT num_query_groups hf_home OMPI_MCA_pml
    CUDA_DEVICE_MAX_CONNECTIONS PATTERN format sort_keys hotkey NUM_TOKEN MAX_TOKEN TOKEN_COUNT TOKENS_PER_SAMPLE
    hidden_token pad_token_id eos_token_2 MAX_TOKENS tokens moe_token_dispatcher_type PASSWORD_FILE password_length
    cross_key KEY_PROD GPG_KEY S3_KEY secretProviderClass PREPROD AUTHOR_TEST COMPASS_2
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
    "Basic dXNlcjpwYXNz",
    "bob:hunter2@proxy:3128",
    "bob:hunter@proxy:3128",
    "bob:hun,t=er@10.0.0.1:3128",
    "bob:hunter2@proxy.example.com",
    "a, bob:hunter2@proxy",
    "http://bob:$hunter@proxy",
    '{"auths":{"nvcr.io":{"auth":"JG9hdXRodG9rZW46eA=="}}}',
    '{"auths": {"nvcr.io": {"username": "x"}}}',
    '{"nvcr.io": {"auth": "JG9hdXRodG9rZW46eA=="}}',
    '{"password": "hunter2"}',
    '{\\"db_password\\": \\"hunter2\\"}',
    "{'api_key': 'hunter2'}",
    '{"token": "hunter2"}',
    "user: bob\npassword: hunter2\n",
    "[db]\npassword = hunter2",
    "--user bob --password hunter2",
    "HF_TOKEN=hunter2 python",
    "MYSQL_PASSWORD=hunter2",
    "password=hunter2",
    "machine api.wandb.ai login user password hunter2",
    "machine api.wandb.ai\n  login user\n  password hunter2\n",
    "https://x.blob.core.windows.net/c?sv=2022-11-02&sig=abcdEFGH%2F",
    "https://x.blob.core.windows.net/c?sig=abcdEFGH%2F",
    "https://b.s3.amazonaws.com/k?X-Amz-Signature=0123456789abcdef",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abcdEFGH",
    f"hvs.CAESI{LETTERS}",
    f"sk_live_{LETTERS}",
    f"rk_test_{LETTERS}",
    f"dckr_pat_{LETTERS}",
    f"xapp-1-A01-{LETTERS}",
    f"xoxb-1234-{LETTERS}",
    f"glrt-{LETTERS}",
    f"glpat-{LETTERS}",
    f"sk-ant-api03-{LETTERS}",
    f"npm_{LETTERS}",
    f"pypi-AgEI{LETTERS}",
    f"gsk_{LETTERS}",
    f"r8_{LETTERS}",
    f"api_org_{LETTERS}",
    "dapi" + "0a" * 16,
    "dapi" + "0a" * 16 + "-2",
    "local-" + "0a" * 20,
    f"SG.{LETTERS}.{LETTERS}",
    f"AIza{LETTERS}01234567890",
    f"GOCSPX-{LETTERS}",
    f"ya29.{LETTERS}",
    f"123456789:AA{LETTERS}0123456789",
    f"abc8Q~{LETTERS}0123456789",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk",
    "-----BEGIN PRIVATE KEY----- MIIEvQIBADANBgkq",
    "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQ==",
    "wandb login --relogin " + "0a" * 20,
    "Bearer: abcdef",
    "secret_key: hunter2",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG",
    "X-Api-Key: hunter2",
    "https://discord.com/api/webhooks/123/abc-DEF",
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
    "basic training of the projector",
    "basic MultiModal run, 2 nodes",
    "basic Llama2Chat",
    "ubuntu:22.04@sha256:" + "0" * 64,
    "mailto:team@example.com",
    "git@github.com:team/neva.git",
    "http://$(USER):$(PASSWORD)@proxy:3128",
    "--password=$(DB_PASSWORD)",
    "python train.py --eos-token </s> --max-tokens 4096",
    '{"eos_token": "</s>", "pad_token": "[PAD]", "tokens": 4096}',
    "PWD=/workspace",
    "PASSWORD_FILE=/var/run/secrets/password",
    "https://hub.example.com/?page=12345678&sort=key",
    "a key of 40 digits",
    "machine learning with a password prompt",
    "NCCL_DEBUG=INFO",
]
HEX = "5d41402abc4b2a76b9719d911017c592aabbccdd"
BY_BOTH = [
    ("WANDB", HEX, False),
    ("MY_KEY", HEX, True),
    ("key", HEX, True),
    ("KEY_PROD", "123e4567-e89b-12d3-a456-426614174000", True),
    ("MY_KEY", "dGhpcyBpcyBhIHNlY3JldCBvZiBzb21lYm9keQ==", True),
    ("PUBLIC_KEY", HEX, False),
    ("GPG_KEY", HEX, False),
    ("SORT_KEY", "name_of_a_column_that_is_rather_long", False),
    ("S3_KEY", "datasets/llava/images/train/of/2024/images.zip", False),
    ("HF_TOKEN", "4096", False),
    ("SOME_TOKEN", "1.5e12", False),
    ("SOME_TOKEN", "300B", False),
    ("SOME_TOKEN", "4_096", False),
    ("SOME_TOKEN", "<|h|>", False),
    ("SOME_TOKEN", "<a>, <b>", False),
    ("SOME_TOKEN", "[PAD]", False),
    ("SOME_TOKEN", "<a>b", True),
    ("SOME_TOKEN", f"<hf_{LETTERS}>", True),
    ("SOME_TOKEN", "4096abcd", True),
    ("PASSWORD", "4096", True),
    ("PASSWORD", "<a>", True),
    ("hidden_token", "abcd", False),
    ("API_KEY", "${oc.env:API_KEY}", False),
    ("API_KEY", "${oc.env:API_KEY,hunter2}", True),
    ("PASSWORD", "$(DB_PASSWORD)", False),
    ("PASSWORD", "$hunter", True),
    ("pa\u00dfword", "abcd", False),  # upper case is SS in Python
    ("pa\u017f\u017fword", "abcd", True),
    ("x", "pa\u017f\u017fword=hunter2", True),
    ("x", "api_\u212aey=hunter2", True),
    ("x", "one\npassword=hunter2", True),
    ("a\nTOKEN_2", "abcd", True),
    ("TOKEN_2\nb", "abcd", False),
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


@pytest.mark.helm
def test_k18_chart_and_generator_judge_alike() -> None:
    """Names and values, each alone and all at once: the chart looks at all of them together first."""
    pairs = [*BY_BOTH]
    pairs += [(name, "dXNlcg", True) for name in NAMES] + [(name, "dXNlcg", False) for name in HARMLESS_NAMES]
    pairs += [("x", value, True) for value in SECRETS] + [("x", value, False) for value in HARMLESS]
    assert [pair for pair in pairs if is_secret(*pair[:2]) is not pair[2]] == []
    together: dict[str, Any] = {"config": {f"a{at}": {name: value} for at, (name, value, _) in enumerate(pairs)}}
    alone: list[dict[str, Any]] = [{"podAnnotations": {name: value}} for name, value, _ in BY_BOTH]
    cases = [values.complete(partial) for partial in (together, *alone)]
    found = batch.violations(cases)
    assert found == [[str(v) for v in rules.violations(Facts(case))] for case in cases]
    refused = {line.split(": got ")[0].split(".")[1] for line in found[0] if "must not hold a secret" in line}
    assert refused == {f"a{at}" for at, (_, _, secret) in enumerate(pairs) if secret}


def test_k18_expressions_are_such_that_both_engines_read_alike() -> None:
    """Of (?i:...) only the words are given Go's folding; classes in there would stay those of Python."""
    found = chart.rules()["secrets"]
    for pattern in [*found["values"], *(p for kind in found["names"] for p in kind.values())]:
        for group in pattern.split("(?i:")[1:]:
            assert not re.search(r"\[[^]]*[a-zA-Z]|\(", group.partition(")")[0]), pattern


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
    tried = [(*places(secret)[at % 14], secret) for at, secret in enumerate(SECRETS)]
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


HIDDEN = "hunter2xyz"
MISPLACED: list[dict[str, Any]] = [
    {"secrets": HIDDEN},
    {"secrets": {"env": HIDDEN}},
    {"secrets": {"env": [HIDDEN]}},
    {"secrets": {"env": {"HF": HIDDEN}}},
    {"secrets": {"env": {"HF": 70281934}}},
    {"secrets": {"env": {"HF": {"value": HIDDEN}}}},
    {"secrets": {"env": {"HF": {"name": HIDDEN.upper(), "key": "k"}}}},
    {"secrets": {"env": {"HF": {"name": "a", "key": f"{HIDDEN}/+="}}}},
    {"secrets": {"env": {"HF": {"name": {"value": HIDDEN}, "key": "k"}}}},
    {"secrets": {"huggingface": HIDDEN}},
    {"secrets": {"huggingface": {"token": HIDDEN}}},
    {"secrets": {"wandb": {"name": "a", "key": f"{HIDDEN}\u0001"}}},
    {"secrets": {"wandb": {"name": f"{HIDDEN}_{HIDDEN}"}}},
    {"secrets": {"openai": HIDDEN}},
    {"env": {"A": {"value": f"bob:{HIDDEN}@proxy:1"}}},
    {"image": {"repository": "x" * 60 + f" bob:{HIDDEN}{'y' * 40}@proxy:1"}},
    {"image": {"repository": f"machine a\nlogin b\npassword {HIDDEN}"}},
    {"training": {"my_key": HEX}},
]


@pytest.mark.helm
@pytest.mark.parametrize("partial", MISPLACED, ids=range(len(MISPLACED)))
def test_k18_a_secret_in_place_of_its_reference_is_not_shown(partial: dict[str, Any], tmp_path: Path) -> None:
    """By check, in its text and its JSON, nor by the chart."""
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(partial))
    for form in ("text", "json"):
        result = run("check", str(file), "-o", form)
        assert result.exit_code == 1
        assert "must " in result.stdout
        assert not shown(result)
    said = str(helm.template(batch.written(partial)).stderr)
    assert said
    assert not any(word in said.lower() for word in (HIDDEN, "70281934", HEX))


@pytest.mark.helm
def test_k18_formats_hide_what_lies_below_secrets_by_both() -> None:
    cases = [values.complete(partial) for partial in MISPLACED]
    cases = [
        case for case in cases if not any("of type" in str(v) or "known" in str(v) for v in schema.violations(case))
    ]
    assert len(cases) >= 6
    found = batch.violations(cases)
    assert found == [[str(v) for v in rules.violations(Facts(case))] for case in cases]
    assert all("got a value; must be" in " ".join(lines) for lines in found)


def run(*arguments: str) -> Result:
    with mock.patch.object(sys, "argv", ["neva-values", *arguments]):
        return CliRunner().invoke(main, arguments)


def shown(result: Result) -> bool:
    """Whether a secret is in what was printed."""
    said = (result.stdout + result.stderr).lower()
    return any(word in said for word in (HIDDEN, "70281934", HEX, LETTERS.lower()))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--image", f"bob:{HIDDEN}@nvcr.io/x/y:1"),
        ("--image", f"https://bob:{HIDDEN}@nvcr.io/x/y:1"),
        ("--model", f"hf_{LETTERS}"),
        ("--run-id", f"bob:{HIDDEN}@proxy:1"),
        (f"--hf_{LETTERS}",),
        ("--learning-rate", f"sk-proj-{LETTERS}"),
    ],
)
def test_k18_refused_arguments_are_printed_without_them(arguments: tuple[str, ...]) -> None:
    """On stderr and in what stands for the values."""
    result = run("--gpus", "8", *arguments)
    assert result.exit_code in (1, 2)
    assert "***" in result.stderr or "a value" in result.stderr
    assert "ERROR: " in result.stdout
    assert not shown(result)


@pytest.mark.parametrize(
    "axis",
    [
        f"env.PROXY=http://bob:{HIDDEN}@p:1,b",
        f"env.PROXY=b,http://bob:,{HIDDEN}@p:1",
        f"env.MY_PASSWORD={HIDDEN},b",
        f"config.model.api_key={HIDDEN},b",
        f"podAnnotations.x=hf_{LETTERS},b",
        f"run.id=hf_{LETTERS},b",
        f"env.a\\.b=hf_{LETTERS},b",
        f"hf_{LETTERS}=a,b",
        f"secrets.env.HF={HIDDEN},b",
        f"secrets.huggingface={HIDDEN},b",
    ],
)
def test_k18_no_sweep_over_secrets(axis: str, tmp_path: Path) -> None:
    """They would be in ids, names of files and commands."""
    folder = tmp_path / "sweep"
    result = run("--gpus", "8", "--sweep", axis, "--output", str(folder))
    assert result.exit_code == 1
    assert "must " in result.stderr
    assert not shown(result)
    assert not folder.exists()


@pytest.mark.parametrize(
    "text",
    [
        f"hf_{LETTERS}: 1\nhf_{LETTERS}: 2\n",
        f"env: *hf_{LETTERS}\n",
        f"env: &hf_{LETTERS} {{a: *hf_{LETTERS}}}\n",
        f"env: {{a: !!int hf_{LETTERS}}}\n",
        f"env: {{hf_{LETTERS}: 0777}}\n? hf_{LETTERS}\n: 1\n",
    ],
)
def test_k18_words_of_a_file_that_is_no_yaml(text: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(text)
    for arguments in (("check", str(file)), ("check", str(file), "-o", "json"), ("--gpus", "8", "--site", str(file))):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "***" in result.stdout + result.stderr
        assert not shown(result)


HOSTILE = ["a:", ",a:1", "//:a", "-eyJ", " login a", "basic a", "api_", "a-", '\\"auth":', "<a>", "1", "_2"]


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize(
    "judge", [looks_secret, scrubbed, lambda said: is_secret("TOKEN", said), is_secret_name], ids=range(4)
)
def test_k18_four_times_the_text_takes_four_times_as_long(judge: Callable[[str], object], part: str) -> None:
    """A minute for a file of 640 KB, as the square of a text's length, was once the case; then it would be 16 times."""

    def seconds(length: int) -> float:
        taken = []
        for turn in range(5):
            said = (part * length)[:length] + f"\u00e9{turn}"  # none that was judged before
            before = thread_time()
            judge(said)
            taken.append(thread_time() - before)
        return min(taken)

    assert seconds(32_000) < 9 * seconds(8_000)
