"""Values files: read as Helm reads, merged as Helm merges, refused in sentences, written so that Helm reads them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neva_pretrain import chartdata, values
from neva_pretrain.errors import InputError
from tests.chart import helm

Seen = Callable[[str, dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def seen_by_helm(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Values as the real Helm hands them to templates: a file's text over a chart's defaults."""
    folder = tmp_path_factory.mktemp("chart")
    chart, file = folder / "throwaway", folder / "values.yaml"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: throwaway\nversion: 0.1.0\n")
    (chart / "templates" / "seen.yaml").write_text("values: {{ toJson .Values | quote }}\n")

    def see(text: str, defaults: dict[str, Any]) -> dict[str, Any]:
        (chart / "values.yaml").write_text(json.dumps(defaults))
        file.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [helm.tool("helm"), "template", "x", str(chart), "-f", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(yaml.safe_load(done.stdout)["values"])
        return seen

    return see


def read(folder: Path, text: str | bytes) -> dict[str, Any]:
    file = folder / "values.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return values.read(file)


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'values.yaml'}: ")
    assert "\n" not in message
    return message.removeprefix(f"{folder / 'values.yaml'}: ")


# One plain word each; go-yaml, YAML 1.1 and YAML 1.2 disagree about most of them.
_PLAIN = """
1e-3 1e3 1.e3 1E+3 .5 1. 010 0o10 0x1F 0b11 1_000 1__0 1.5_0 -1e-3 0.0 +1 -0 08 09.5 +.5 12e03 1.0e3 5e10 24.10
1:30 1:30.5 12:30:45 2024-01-01 2024-01-01T00:00:00Z = <<x 0o8 0x 1e 1e+ e3 1e3x ._ 0_ mlx5_0:1,mlx5_3:1
y n Y N yes no on off Yes TRUE false True ~ null Null NULL CST-8 !!str '3'
"""
WORDS = _PLAIN.split()


class TestReading:
    def test_plain_words_are_what_helm_takes_them_for(self, tmp_path: Path, seen_by_helm: Seen) -> None:
        text = "\n".join(f"k{at}: {word}" for at, word in enumerate(WORDS))
        ours, theirs = read(tmp_path, text), seen_by_helm(text, {})
        for at, word in enumerate(WORDS):
            got, want = ours[f"k{at}"], theirs.get(f"k{at}")
            assert got == want, word
            assert isinstance(got, bool) == isinstance(want, bool), word
            assert isinstance(got, str) == isinstance(want, str), word

    def test_keys_are_strings_as_in_helm(self, tmp_path: Path, seen_by_helm: Seen) -> None:
        text = "map: {1: a, true: b, 1.5: c, x: d, 2024-01-01: e}\n"
        assert read(tmp_path, text) == seen_by_helm(text, {})

    def test_a_number_in_scientific_notation_is_a_float(self, tmp_path: Path) -> None:
        parsed = read(tmp_path, "training: {learningRate: 1e-3}")
        assert parsed == {"training": {"learningRate": 0.001}}
        assert isinstance(parsed["training"]["learningRate"], float)

    @pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "{}\n"])
    def test_an_empty_file_is_no_values(self, tmp_path: Path, text: str) -> None:
        assert read(tmp_path, text) == {}

    def test_anchors_and_merge_keys_work(self, tmp_path: Path) -> None:
        parsed = read(tmp_path, "a: &a {x: 1, y1: 2}\nb: {<<: *a, x: 3}\n")
        assert parsed["b"] == {"x": 3, "y1": 2}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: 1\nb: 2\na: 3\n", "line 3: the key a is there twice; Helm would use the last one; keep one"),
            ("a:\n  b: 1\n  c: 2\n  b: 1\n", "line 4: the key b is there twice"),
            ("a:\n- {x: 1,\n   x: 2}\n", "line 3: the key x is there twice"),
            ('1: a\n"1": b\n', "line 2: the key 1 is there twice"),
            ("- a\n", "must be a mapping of values, got a list"),
            ("just words\n", "must be a mapping of values, got a str"),
            ("a: [1, 2\n", "cannot be read as YAML: line 2: did not find expected ',' or ']'"),
            ("a: b: c\n", "cannot be read as YAML: line 1: mapping values are not allowed in this context"),
            ("a:\n\t- b\n", "cannot be read as YAML: line 2: "),
            ("? [a]\n: b\n", "line 1: a key must be a name, got a list"),
            ("a: !!python/object:os.system x\n", "cannot be read as YAML: line 1: could not determine a constructor"),
            ("a: !!int x\n", "cannot be read as YAML: "),
            ("a: !!bool x\n", "cannot be read as YAML: "),
            ("a: &a {b: *a}\n", "cannot be read as YAML: Circular reference detected"),
            ("a: 1\n---\nb: 2\n", "cannot be read as YAML: "),
            (b"a: \xff\xfe\n", "cannot be read as YAML: 'utf-8' codec can't decode byte 0xff in position 3"),
            (b"a: \x00\n", "cannot be read as YAML: "),
        ],
    )
    def test_what_cannot_be_read_is_one_sentence_with_the_line(
        self, tmp_path: Path, text: str | bytes, words: str
    ) -> None:
        assert refusal(tmp_path, text).startswith(words)

    def test_a_folder_or_nothing_in_its_place_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r": cannot be read: Is a directory$"):
            values.read(tmp_path)
        with pytest.raises(InputError, match=r": cannot be read: No such file or directory$"):
            values.read(tmp_path / "none.yaml")


NAMES = st.sampled_from(["a", "b", "c", "d"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(["", "x", "y", "1e3"]), st.lists(NAMES, max_size=2)
)
TREES = st.recursive(LEAVES, lambda below: st.dictionaries(NAMES, below, max_size=3), max_leaves=8)
MAPS = st.dictionaries(NAMES, TREES, max_size=4)


def without_nulls(node: Any) -> Any:
    """Templates cannot tell a null from an absent key, and Helm's versions differ in which they leave."""
    if isinstance(node, dict):
        return {key: without_nulls(value) for key, value in node.items() if value is not None}
    return node


class TestMerging:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(defaults=MAPS, over=MAPS)
    def test_it_is_helms_merge(self, seen_by_helm: Seen, defaults: dict[str, Any], over: dict[str, Any]) -> None:
        assert without_nulls(values.merge(defaults, over)) == without_nulls(seen_by_helm(json.dumps(over), defaults))

    @settings(max_examples=200)
    @given(defaults=MAPS, over=MAPS)
    def test_it_changes_neither_argument(self, defaults: dict[str, Any], over: dict[str, Any]) -> None:
        before = json.dumps([defaults, over])
        values.merge(defaults, over)
        assert json.dumps([defaults, over]) == before

    def test_null_takes_a_default_away(self) -> None:
        assert values.merge({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"c": 2}}

    def test_completing_leaves_the_charts_defaults_alone(self) -> None:
        before = json.dumps(chartdata.defaults())
        values.complete({"training": {"nodes": 3}, "scheduling": None})
        assert json.dumps(chartdata.defaults()) == before


STRINGS = st.one_of(
    st.sampled_from([word for word in WORDS if word not in ("!!str", "'3'")]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
    st.sampled_from(["a\\x1 \"b\" 'c' {{d}} $(e) ; # f", "line\nline\n", " lead", "tail ", "- a", "# c", "*x", "%"]),
)


class TestWriting:
    def test_every_string_stays_a_string_in_helm(self, seen_by_helm: Seen) -> None:
        """A commit's short hash such as 5e10 as an image's tag, an id such as y, a time zone, a device list."""
        env = {f"K{at}": word for at, word in enumerate(WORDS)}
        text = values.emit({**chartdata.defaults(), "env": env}, "neva-values", [], None)
        assert seen_by_helm(text, {})["env"] == env

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(env=st.dictionaries(st.from_regex(r"\A[A-Z]{1,3}\Z"), STRINGS, max_size=5))
    def test_what_is_written_is_read_back(self, tmp_path: Path, env: dict[str, str]) -> None:
        text = values.emit({"env": env}, "neva-values", [], None)
        assert read(tmp_path, text) == {"env": env}
        assert yaml.safe_load(text) == {"env": env}

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(env=st.dictionaries(st.from_regex(r"\A[A-Z]{1,3}\Z"), STRINGS, max_size=8))
    def test_what_is_written_is_read_by_helm(self, seen_by_helm: Seen, env: dict[str, str]) -> None:
        assert seen_by_helm(values.emit({"env": env}, "neva-values", [], None), {}).get("env", {}) == env

    def test_a_command_of_several_lines_stays_a_comment(self) -> None:
        text = values.emit({}, "neva-values --site 'a\nrun: {id: evil}\n'", [], None)
        assert yaml.safe_load(text) == {}

    def test_the_schemas_path_is_seen_from_the_file(self) -> None:
        def schema(output: Path | None) -> str:
            return values.emit({}, "neva-values", [], output).splitlines()[0].partition("$schema=")[2]

        assert schema(None) == "schemas/values.schema.json"
        assert schema(Path("values/a.yaml")) == "../schemas/values.schema.json"


class TestSchema:
    @pytest.mark.parametrize(
        ("partial", "sentence"),
        [
            ({"traning": 1}, "traning: got 1; must be a known key; use training"),
            ({"training": {"gpuPerNode": 8}}, "training.gpuPerNode: got 8; must be a known key; use gpusPerNode"),
            ({"storage": {"dataset": {}}}, "storage.dataset: got {}; must be a known key; use datasets"),
            ({"training": {"nodes": "4"}}, "training.nodes: got 4; must be of type integer; "),
            ({"training": {"nodes": 0}}, "training.nodes: got 0; must be at least 1; "),
            ({"training": {"precision": "fp8"}}, "training.precision: got fp8; must be one of bf16, bf16-mixed; "),
            ({"image": {"tag": 24.1}}, "image.tag: got 24.1; must be of type string; "),
            ({"rendezvous": {"port": 50000}}, "rendezvous.port: got 50000; must be at most 32767; "),
            ({"data": {"path": "relative"}}, "data.path: got relative; must match "),
            ({"checkpoint": {"resume": True}}, "checkpoint.resume: got true; must be one of auto, require, never; "),
        ],
    )
    def test_a_violation_is_a_sentence_with_what_to_do(self, partial: dict[str, Any], sentence: str) -> None:
        found = [str(v) for v in values.schema_violations(values.complete(partial))]
        assert len(found) == 1
        assert found[0].startswith(sentence)
        assert len(found[0]) > len(sentence) or sentence.endswith(("training", "gpusPerNode", "datasets"))

    def test_what_resembles_nothing_lists_what_there_is(self) -> None:
        (violation,) = values.schema_violations(values.complete({"checkpoint": {"zzz": 1}}))
        assert violation.fix == "use one of enabled, everyNSteps, saveTopK, resume"

    def test_a_required_value_that_is_null_is_missed(self) -> None:
        (violation,) = values.schema_violations(values.complete({"training": {"nodes": None}}))
        assert str(violation) == "training.nodes: got nothing; must be set; leave the default, or set it"

    def test_all_come_at_once(self) -> None:
        partial = {"training": {"nodes": "a", "gpuPerNode": 8}, "traning": {}, "image": {"tag": 1}}
        keys = {violation.key for violation in values.schema_violations(values.complete(partial))}
        assert keys == {"training.nodes", "training.gpuPerNode", "traning", "image.tag"}

    def test_free_maps_take_any_key(self) -> None:
        partial = {"global": {"x": 1}, "scheduling": {"nodeSelector": {"a/b": "c"}}, "podLabels": {"l": "v"}}
        assert values.schema_violations(values.complete(partial)) == []
