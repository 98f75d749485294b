"""Values files: read as Helm reads, merged as Helm merges, refused in sentences, written so that Helm reads them."""

import json
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neva_pretrain import chart, generate
from neva_pretrain.chart import values
from neva_pretrain.check import rules, schema
from neva_pretrain.errors import InputError
from neva_pretrain.facts import Facts
from neva_pretrain.plan.plan import Plan
from tests.chart import helm

PLAN = Plan.from_values(chart.defaults())
Seen = Callable[[str | bytes, dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def seen_by_helm(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Values as the real Helm hands them to templates: a file's text over a chart's defaults."""
    folder = tmp_path_factory.mktemp("chart")
    chart, file = folder / "throwaway", folder / "values.yaml"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: throwaway\nversion: 0.1.0\n")
    (chart / "templates" / "seen.yaml").write_text("values: {{ toJson .Values | quote }}\n")

    def see(text: str | bytes, defaults: dict[str, Any]) -> dict[str, Any]:
        (chart / "values.yaml").write_text(json.dumps(defaults))
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        done = subprocess.run(
            [helm.tool("helm"), "template", "x", str(chart), "-f", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = yaml.safe_load(done.stdout)["values"]
        seen: dict[str, Any] = json.loads(said, parse_int=lambda digits: int(float(digits)))  # Go's are floats
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
    @pytest.mark.helm
    def test_plain_words_are_what_helm_takes_them_for(self, tmp_path: Path, seen_by_helm: Seen) -> None:
        text = "\n".join(f"k{at}: {word}" for at, word in enumerate(WORDS))
        ours, theirs = read(tmp_path, text), seen_by_helm(text, {})
        for at, word in enumerate(WORDS):
            got, want = ours[f"k{at}"], theirs.get(f"k{at}")
            assert got == want, word
            assert isinstance(got, bool) == isinstance(want, bool), word
            assert isinstance(got, str) == isinstance(want, str), word

    @pytest.mark.helm
    def test_keys_are_strings_as_in_helm(self, tmp_path: Path, seen_by_helm: Seen) -> None:
        text = "map: {1: a, true: b, 1.5: c, x: d, 2024-01-01: e}\n"
        assert read(tmp_path, text) == seen_by_helm(text, {})

    def test_a_number_in_scientific_notation_is_a_float(self, tmp_path: Path) -> None:
        parsed = read(tmp_path, "training: {learningRate: 1e-3}")
        assert parsed == {"training": {"learningRate": 0.001}}
        assert isinstance(parsed["training"]["learningRate"], float)

    def test_an_empty_map_is_no_values(self, tmp_path: Path) -> None:
        assert read(tmp_path, "{}\n") == {}

    def test_anchors_and_merge_keys_work(self, tmp_path: Path) -> None:
        parsed = read(tmp_path, "a: &a {x: 1, y1: 2}\nb: {<<: *a, x: 3}\n")
        assert parsed["b"] == {"x": 3, "y1": 2}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: 1\nb: 2\na: 3\n", "line 3: the key a is given twice; Helm would use the last one; keep one"),
            ("a:\n  b: 1\n  c: 2\n  b: 1\n", "line 4: the key b is given twice"),
            ("a:\n- {x: 1,\n   x: 2}\n", "line 3: the key x is given twice"),
            ('1: a\n"1": b\n', "line 2: the key 1 is given twice"),
            ("- a\n", "must be a mapping of values, got a list"),
            ("just words\n", "must be a mapping of values, got a str"),
            ("", "is empty, and Helm would install the chart's defaults"),
            ("a: 1\n---\nb: 2\n", "line 3: a second document; Helm 3 would drop it, Helm 4 merge it; keep one"),
            ("---\n---\na: 1\n", "line 3: a second document"),
        ],
    )
    def test_what_helm_takes_and_nobody_means_is_one_sentence(
        self, tmp_path: Path, text: str | bytes, words: str
    ) -> None:
        assert refusal(tmp_path, text).startswith(words)

    @pytest.mark.helm
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: [1, 2\n", "cannot be read as YAML: line 2: did not find expected ',' or ']'"),
            ("a: b: c\n", "cannot be read as YAML: line 1: mapping values are not allowed in this context"),
            ("a:\n\t- b\n", "cannot be read as YAML: line 2: "),
            ("? [a]\n: b\n", "line 1: a key must be a name, got a list"),
            ("~: b\n", "line 1: a key must be a name, got nothing"),
            ("a: !!int x\n", "line 1: cannot be read as YAML: !!int does not stand for x"),
            ("a: !!bool x\n", "line 1: cannot be read as YAML: "),
            ("a: !!null x\n", "line 1: cannot be read as YAML: "),
            ("a: !!binary '@'\n", "line 1: cannot be read as YAML: !!binary is not base64"),
            ("a: .inf\n", "line 1: .inf is not a number that Helm accepts; quote it if it is text"),
            ("a: 1\nb: {x: -.Inf, y: .nan}\n", "line 2: -.Inf is not a number"),
            ("a: &a {b: *a}\n", "line 1: cannot be read as YAML: the anchor a contains itself"),
            ("a: *b\n", "line 1: cannot be read as YAML: unknown anchor b"),
            ("<<: 3\n", "line 1: << must be followed by a map or a list of maps"),
            ("a: &a [1]\nb: {<<: *a}\n", "line 2: << must be followed by"),
            (b"a: \xff\xfe\n", "cannot be read as YAML: invalid leading UTF-8 octet; save it as UTF-8 text"),
            (b"a: \x00\n", "cannot be read as YAML: control characters are not allowed; save it as UTF-8 text"),
            ("a: 1\n".encode("utf-16-le"), "cannot be read as YAML: control characters are not allowed"),
            ("a: 1\n".encode("utf-32"), "cannot be read as YAML: control characters are not allowed"),
            ("a: é\n".encode("latin-1"), "cannot be read as YAML: "),
            ("\ufeffa: 1\n".encode("utf-16")[:-1], "cannot be read as YAML: incomplete UTF-16 character"),
        ],
    )
    def test_n13_what_helm_cannot_read_is_one_sentence_with_the_line(
        self, tmp_path: Path, seen_by_helm: Seen, text: str | bytes, words: str
    ) -> None:
        """The same file is refused by Helm itself."""
        assert refusal(tmp_path, text).startswith(words)
        with pytest.raises(AssertionError):
            seen_by_helm(text, {})

    @pytest.mark.helm
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be with a mark", "utf-8"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", ""])
    def test_n13_encodings_are_helms(self, tmp_path: Path, seen_by_helm: Seen, encoding: str, end: str) -> None:
        """PowerShell's > writes UTF-16 with a mark."""
        text = f"a: \u00e9\U0001f600{end}" + (f"b: [1, x]{end}" if end else "")
        codec, _, mark = encoding.partition(" ")
        data = (("\ufeff" if mark else "") + text).encode(codec)
        assert read(tmp_path, data) == seen_by_helm(data, {})
        assert read(tmp_path, data)["a"] == "\u00e9\U0001f600"
        told = ["encoding: UTF-16, which Helm 4 does not read; save it as UTF-8"] if "16" in encoding else []
        assert values.read_document(tmp_path / "values.yaml")[1] == told

    @pytest.mark.helm
    @pytest.mark.parametrize(
        "text",
        [
            "a: {x: 1, <<: {x: 2, y: 3}}\nb: {<<: {x: 2}, x: 1}\n",
            "a: &a {x: 1}\nb: &b {x: 2, z: {q: 1}}\nc: {<<: [*a, *b], z: {r: 2}}\nd: {<<: *b, <<: *a}\n",
            'a: {"<<": 1}\nb: <<\n',
            "a: !foo x\nb: !!python/object:os.system 12\nc: ! 12\nd: !!str 1\ne: !!int '3'\nf: !!float 3\n",
            "a: !!binary aGk=\nb: !!bool 'yes'\nc: !!set {x: }\nd: !!timestamp 2001-12-14\n",
            "a: &x 1\nb: *x\n*x : 5\n",
            "a: 9007199254740993\nb: 18446744073709551616\nc: -9223372036854775809\nd: 0xFFFFFFFFFFFFFFFFFF\n",
            "a: 1e999\nb: 0B11\nc: 0X1F\nd: 0O17\ne: +18446744073709551615\nf: _1\ng: 1_\n",
            "# first\n---\na: 1\n---\n# end\n",
            "1e6: a\n100000.0: b\n1234567.5: c\n0.00001: d\n-3: e\n~x: f\non: g\n0x10: h\n",
        ],
    )
    def test_p4_merge_keys_tags_and_large_numbers_are_helms(
        self, tmp_path: Path, seen_by_helm: Seen, text: str
    ) -> None:
        ours, theirs = read(tmp_path, text), seen_by_helm(text, {})
        assert without_nulls(ours) == without_nulls(theirs)


def bomb(levels: int, wide: int) -> str:
    """Lines of aliases, each of the line before: wide ** levels values."""
    lines = [f"a0: &a0 [{', '.join('x' * wide)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * wide)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


class TestBounds:
    """K12: what grows is stopped early, for every file that a command reads."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (bomb(10, 9), "line 1: too many aliases for Helm"),
            (bomb(40, 2), "too many aliases for Helm"),
            ("a: &a {x: 1}\n" + "b: {<<: [" + "*a, " * 30_000 + "*a]}\n", "has more than 50,000 values"),
            ("[" * 1_000_000, "line 1: exceeded maximum nesting depth"),
            ("\n".join(f"{' ' * n}a:" for n in range(300)), "must be nested at most 100 levels deep"),
            ("x: " + "{a: " * 300, "line 1: must be nested at most 100 levels deep"),
            ("\n".join(f"k{n}: {n}" for n in range(30_000)), "line 25000: has more than 50,000 values"),
            ("a: " + "x" * (1 << 20), "has more than 1 MiB"),
        ],
    )
    def test_k12_a_sentence_and_not_a_flood(self, tmp_path: Path, text: str, words: str) -> None:
        tracemalloc.start()
        try:
            assert words in refusal(tmp_path, text)
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()

    def test_k12_aliases_that_nest_what_is_flat(self, tmp_path: Path) -> None:
        lines = "\n".join(f"a{n}: &a{n} {{x: *a{n - 1}}}" for n in range(1, 150))
        assert "must be nested at most 100 levels deep" in refusal(tmp_path, f"a0: &a0 x\n{lines}\n")

    @pytest.mark.helm
    def test_k12_the_budget_for_aliases_is_helms(self, tmp_path: Path, seen_by_helm: Seen) -> None:
        """Where Helm stops, on both sides of the line."""
        shared = "a: &a [" + "x, " * 150 + "x]\n"
        taken = shared + "b: [" + "*a, " * 60 + "*a]\n"
        assert read(tmp_path, taken) == seen_by_helm(taken, {})
        refused = shared + "b: &b [" + "*a, " * 20 + "*a]\nc: [" + "*b, " * 8 + "*b]\n"
        assert "too many aliases" in refusal(tmp_path, refused)
        with pytest.raises(AssertionError, match="excessive aliasing"):
            seen_by_helm(refused, {})

    def test_k12_the_deepest_that_is_read_can_be_judged(self, tmp_path: Path) -> None:
        parsed = read(tmp_path, "config: " + "{a: " * 98 + "1" + "}" * 98 + "\n")
        assert schema.violations(values.complete(parsed)) == []


class TestLostMeaning:
    """X11: words that YAML 1.1 takes for something else."""

    def words(self, tmp_path: Path, text: str) -> list[str]:
        file = tmp_path / "values.yaml"
        file.write_text(text)
        return values.read_document(file)[1]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("env: {A: off}", 'env.A: off (line 1) is read as the boolean false; text needs quotes: "off"'),
            ("env:\n  B: 0777", 'env.B: 0777 (line 2) is read as the number 511; text needs quotes: "0777"'),
            ("env: {C: 1_000}", 'env.C: 1_000 (line 1) is read as the number 1000; text needs quotes: "1_000"'),
            ("env: {DB_PASSWORD: 0777}", "env.DB_PASSWORD: line 1 is read as a number; text needs quotes"),
            ("env: {y: x}", "env: the key y (line 1) is read as true; text needs quotes"),
            ("podLabels: {a: 1.10}", 'podLabels.a: 1.10 (line 1) is read as the number 1.1; text needs quotes: "1.10"'),
            ("image: {tag: 24.10}", 'image.tag: 24.10 (line 1) is read as the number 24.1; text needs quotes: "24.10"'),
            ("wandb: {mode: off}", 'wandb.mode: off (line 1) is read as the boolean false; text needs quotes: "off"'),
            ("config: {a: {b: no}}", 'config.a.b: no (line 1) is read as the boolean false; text needs quotes: "no"'),
            (
                "training: {nodes: 010}",
                'training.nodes: 010 (line 1) is read as the number 8; text needs quotes: "010"',
            ),
            (
                "scheduling: {tolerations: [{key: a, value: yes}]}",
                'scheduling.tolerations[0].value: yes (line 1) is read as the boolean true; text needs quotes: "yes"',
            ),
        ],
    )
    def test_x11_a_word_that_is_no_text_is_said(self, tmp_path: Path, text: str, sentence: str) -> None:
        assert self.words(tmp_path, text) == [sentence]

    @pytest.mark.parametrize(
        "text",
        [
            'env: {A: "off", B: 1, C: 0.5, D: x, E: CST-8, F: 1:30}',
            "hf: {online: yes}\ntensorboard: {enabled: on}",
            "training: {learningRate: 1e-3, maxSteps: 1_000, nodes: 2}",
            "config: {a: 1e-3, b: true, c: null, d: 1.50, e: 5}",
            "run: {id: }\nrdma: {enabled: ~}",
        ],
    )
    def test_x11_what_stays_or_is_meant_is_not(self, tmp_path: Path, text: str) -> None:
        assert self.words(tmp_path, text) == []

    @pytest.mark.parametrize("file", sorted((helm.ROOT / "values").rglob("*.yaml")), ids=lambda file: file.name)
    def test_x11_our_own_files_lose_nothing(self, file: Path) -> None:
        assert values.read_document(file)[1] == []

    @pytest.mark.helm
    def test_x11_a_boolean_of_the_environment_is_refused_by_chart_and_check(self) -> None:
        partial = {"env": {"A": False, "B": True, "C": "off", "D": 511}}
        told = [str(violation) for violation in rules.violations(Facts.of(partial))]
        rule = "must be text or a number, since YAML reads words such as on, off, yes and no as booleans"
        assert told == [
            f'env.A: got false; {rule}; quote what is meant, such as "false"',
            f'env.B: got true; {rule}; quote what is meant, such as "true"',
        ]
        assert helm.render_fails(partial) == told


class TestPlaces:
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
    @pytest.mark.helm
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(defaults=MAPS, over=MAPS)
    def test_it_is_helms_merge(self, seen_by_helm: Seen, defaults: dict[str, Any], over: dict[str, Any]) -> None:
        assert without_nulls(values.merge(defaults, over)) == without_nulls(seen_by_helm(json.dumps(over), defaults))

    @pytest.mark.slow
    @settings(max_examples=200)
    @given(defaults=MAPS, over=MAPS)
    def test_it_changes_neither_argument(self, defaults: dict[str, Any], over: dict[str, Any]) -> None:
        before = json.dumps([defaults, over])
        values.merge(defaults, over)
        assert json.dumps([defaults, over]) == before

    def test_null_takes_a_default_away(self) -> None:
        assert values.merge({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"c": 2}}

    def test_completing_leaves_the_charts_defaults_alone(self) -> None:
        before = json.dumps(chart.defaults())
        values.complete({"training": {"nodes": 3}, "scheduling": None})
        assert json.dumps(chart.defaults()) == before


STRINGS = st.one_of(
    st.sampled_from([word for word in WORDS if word not in ("!!str", "'3'")]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
    st.sampled_from(["a\\x1 \"b\" 'c' {{d}} $(e) ; # f", "line\nline\n", " lead", "tail ", "- a", "# c", "*x", "%"]),
)


class TestWriting:
    @pytest.mark.helm
    def test_every_string_stays_a_string_in_helm(self, seen_by_helm: Seen) -> None:
        """A commit's short hash such as 5e10 as an image's tag, an id such as y, a time zone, a device list."""
        env = {f"K{at}": word for at, word in enumerate(WORDS)}
        text = generate.emit({**chart.defaults(), "env": env}, PLAN, "neva-values", [], None)
        assert seen_by_helm(text, {})["env"] == env

    @pytest.mark.slow
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(env=st.dictionaries(st.from_regex(r"\A[A-Z]{1,3}\Z"), STRINGS, max_size=5))
    def test_what_is_written_is_read_back(self, tmp_path: Path, env: dict[str, str]) -> None:
        text = generate.emit({"env": env}, PLAN, "neva-values", [], None)
        assert read(tmp_path, text) == {"env": env}
        assert yaml.safe_load(text) == {"env": env}

    @pytest.mark.helm
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(env=st.dictionaries(st.from_regex(r"\A[A-Z]{1,3}\Z"), STRINGS, max_size=8))
    def test_what_is_written_is_read_by_helm(self, seen_by_helm: Seen, env: dict[str, str]) -> None:
        assert seen_by_helm(generate.emit({"env": env}, PLAN, "neva-values", [], None), {}).get("env", {}) == env

    def test_a_command_of_several_lines_stays_a_comment(self) -> None:
        text = generate.emit({}, PLAN, "neva-values --site 'a\nrun: {id: evil}\n'", [], None)
        assert yaml.safe_load(text) == {}

    def test_the_schemas_path_is_seen_from_the_file(self) -> None:
        def schema(output: Path | None) -> str:
            return generate.emit({}, PLAN, "neva-values", [], output).splitlines()[0].partition("$schema=")[2]

        assert schema(None) == "charts/neva-pretrain/values.schema.json"
        assert schema(Path("values/a.yaml")) == "../charts/neva-pretrain/values.schema.json"


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
            (
                {"storage": {"results": {"gpfs": "/d"}}},
                "storage.results.gpfs: got /d; must be of type object; use a map",
            ),
            (
                {"storage": {"results": {"hostPath": {"path": "/d"}}}},
                "storage.results.hostPath: got a map; must be of type string; use text",
            ),
            ({"rendezvous": {"port": 50000}}, "rendezvous.port: got 50000; must be at most 32766; "),
            ({"data": {"path": "relative"}}, "data.path: got relative; must be an absolute path on one line, "),
            ({"checkpoint": {"resume": True}}, "checkpoint.resume: got true; must be one of auto, require, never; "),
        ],
    )
    def test_a_violation_is_a_sentence_with_what_to_do(self, partial: dict[str, Any], sentence: str) -> None:
        found = [str(v) for v in schema.violations(values.complete(partial))]
        assert len(found) == 1
        assert found[0].startswith(sentence)
        assert len(found[0]) > len(sentence) or sentence.endswith(("training", "gpusPerNode", "datasets", "use a map"))

    def test_what_resembles_nothing_lists_what_there_is(self) -> None:
        (violation,) = schema.violations(values.complete({"checkpoint": {"zzz": 1}}))
        assert violation.fix == "use one of enabled, everyNSteps, saveTopK, resume"

    def test_a_required_value_that_is_null_is_missed(self) -> None:
        (violation,) = schema.violations(values.complete({"training": {"nodes": None}}))
        fix = "leave the default, or set it (with helm upgrade: --reset-then-reuse-values)"
        assert str(violation) == f"training.nodes: got nothing; must be set; {fix}"

    def test_all_come_at_once(self) -> None:
        partial = {"training": {"nodes": "a", "gpuPerNode": 8}, "traning": {}, "image": {"tag": 1}}
        keys = {violation.key for violation in schema.violations(values.complete(partial))}
        assert keys == {"training.nodes", "training.gpuPerNode", "traning", "image.tag"}

    def test_free_maps_take_any_key(self) -> None:
        partial = {"global": {"x": 1}, "scheduling": {"nodeSelector": {"a/b": "c"}}, "podLabels": {"l": "v"}}
        assert schema.violations(values.complete(partial)) == []
