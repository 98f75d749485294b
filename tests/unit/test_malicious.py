"""Hostile text in every string of the schema: refused with a sentence, or delivered byte for byte and never executed.

The schema is walked, so a new value is tested as soon as it has a property. For each text, every place that takes it is
set at once; the render must be that of harmless text, apart from the text itself. What reaches a shell's environment is
run through the real launch.sh, what reaches a script through the real script.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from neva_pretrain import chart
from neva_pretrain.chart import values
from neva_pretrain.chart.access import VOLUMES
from neva_pretrain.chart.secrecy import compiled
from neva_pretrain.check import rules, schema
from neva_pretrain.errors import Violation
from neva_pretrain.facts import Facts
from tests.chart import batch, helm
from tests.unit.test_launch import World
from tests.waiting import PATIENCE

pytestmark = pytest.mark.helm

Values = dict[str, Any]
Path_ = tuple[str | int, ...]

SCHEMA = chart.schema()
MARK = "pwned"
LONG = 4096
HOSTILE = [
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    f"; touch {MARK} #",
    f"'; touch {MARK}; '",
    f"\"; touch {MARK}; \"",
    f"' \"$(touch {MARK})\" '",
    f"&& touch {MARK} | tee {MARK}2 > {MARK}3",
    "\"quoted' \\",
    "a\nb: injected",
    "a\r\nb",
    "tab\there",
    "{{ .Values }}",
    '{{ fail "no" }}{{/*',
    "${HOME}",
    "$HOME $$ $(HOME) %s",
    "${oc.env:HOME}",
    "ünïcödé 数据 \U0001f600",
    "\u202ereversed",
    "\u2028\u0085\ufeff",
    "key: value # comment",
    "!!python/object/apply:os.system [touch pwned]",
    "- item",
    "*alias &anchor <<: x",
    "-n --option=1",
    "| > % @ ` , [ ] { }",
    "../../etc/passwd",
    "null",
    "1e3",
    " space ",
    "x" * LONG,
]  # fmt: skip
TREE = {"$ref": "#/definitions/tree"}
FREE = "a free key"  # of an object that is Kubernetes' or Hydra's to check
KEY = "the key itself"

# What must stand before a text so that a place takes it at all.
BEFORE = [
    ("model.llmPath", "/models/preset/"),
    ("model.visionEncoderPath", "/models/preset/"),
    ("data.path", "/datasets/preset/"),
    ("prepare.*.source", "/models/preset/"),
    ("hf.endpoint", "https://"),
    ("storage.*.gpfs.csi.volumeHandle", "0;0;1;0A0B0C0D:5D36FE8D;;;/"),
    ("storage.*.gpfs.nodeLabel", "q="),
    ("storage.*.gpfs.nodePath", "/"),
    ("storage.*.hostPath", "/"),
    ("storage.*.mountPath", "/"),
    ("image.entrypoint", "/"),
    ("preflight.filesystems.*", "/"),
    ("extraVolumes.*.nfs.path", "/"),
]
LOCAL: Values = {
    "appArmorProfile": {"type": "Localhost", "localhostProfile": "a"},
    "seccompProfile": {"type": "Localhost", "localhostProfile": "a"},
}
# The source of an extra volume and the peer of a network rule, of which each has one.
EXTRA: list[Values] = [
    {"csi": {"driver": "d"}},
    {"projected": {}},
    {"secret": {"secretName": "s"}},
    {"nfs": {"server": "s", "path": "/p"}},
    {"cephfs": {}},
]
SELECTOR: Values = {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
PEERS: list[Values] = [{"podSelector": SELECTOR, "namespaceSelector": SELECTOR}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
# What stands beside a text where the schema demands it.
BASE: Values = {
    "secrets": {"env": {"QA": {"name": "s", "key": "k"}}, "wandb": {"name": "s"}},
    "podSecurityContext": {**LOCAL, "sysctls": [{"name": "a", "value": "b"}]},
    "securityContext": LOCAL,
    "extraVolumes": [{"name": "qv"}, {"name": "qw", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "qw", "mountPath": "/qv"}],
    "networkPolicy": {
        "enabled": True,
        "egress": {"qa": {"ports": [{"port": 443}]}},
        "ingress": {"qa": {"from": [{"namespaceSelector": {}}]}},
    },
    "preflight": {"filesystems": {"/qm": {"type": "gpfs"}}},
    "scheduling": {
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}],
        "tolerations": [{"key": "a"}],
        "nodeExpressions": [{"key": "a", "operator": "In", "values": ["v"]}],
    },
    "hf": {"online": True},
    "training": {"nodes": 2, "globalBatchSize": 512},
    "monitoring": {
        "exporter": {"enabled": True},
        **{key: {"enabled": True} for key in ("podMonitor", "prometheusRule", "dashboard")},
    },
    "tensorboard": {"enabled": True},
    "wandb": {"enabled": True},
}
# The paths of data and models lie below them; storage.results.mountPath has the same schema.
ANCHORS = {"storage.datasets.mountPath", "storage.models.mountPath"}
SOURCES = ("gpfs.nodePath", "gpfs.csi", "storageClassName", "hostPath", "existingClaim")
NOWHERE: set[str] = set()


@dataclass(frozen=True)
class Place:
    """One string of the schema: its path, and the part of the schema that it must meet."""

    path: Path_
    schema: str  # JSON, for hashing

    @property
    def name(self) -> str:
        return ".".join("*" if part in (FREE, KEY) or isinstance(part, int) else str(part) for part in self.path)

    @property
    def before(self) -> str:
        for pattern, text in BEFORE:
            if re.fullmatch(re.escape(pattern).replace(r"\*", "[^.]+"), self.name):
                return text
        return ""

    def takes(self, text: str) -> bool:
        """Return whether schema and formats take the text here, whatever the rules between values say."""
        formats = [*self.formats, {"never": chart.rules()["unprintable"]}]
        return valid(self.schema, text) and all(fits(form, text) for form in formats)

    @property
    def formats(self) -> list[Values]:
        """The formats that look at this place."""
        end = "@" if self.path[-1] == KEY else "*"
        mine = [*("*" if part in (FREE, KEY) or isinstance(part, int) else str(part) for part in self.path[:-1]), end]
        if self.path[-1] not in (FREE, KEY) and not isinstance(self.path[-1], int):
            mine[-1] = str(self.path[-1])
        return [
            form
            for form in chart.rules()["formats"]
            for keys in (path.replace("[]", "*").split(".") for path in form["keys"].split())
            if len(keys) == len(mine)
            and all(k in ("*", m) and (m != "@" or k == "@") for k, m in zip(keys, mine, strict=True))
        ]


def fits(form: Values, text: str) -> bool:
    if "pattern" in form and not compiled(form["pattern"]).search(text):
        return False
    return "never" not in form or not compiled(form["never"]).search(text)


@cache
def validator(part: str) -> Any:
    return schema.Validator({**json.loads(part), "definitions": SCHEMA["definitions"]})


@cache
def valid(part: str, text: str) -> bool:
    return bool(validator(part).is_valid(text))


def resolved(node: Values) -> Values:
    """The node with what it refers to."""
    parts = [node, *node.get("allOf", []), *node.get("anyOf", [])]
    found: Values = {}
    for part in parts:
        if "$ref" in part:
            part = {**part, **resolved(SCHEMA["definitions"][part["$ref"].rpartition("/")[2]])}
        kinds = part.get("type", [])
        found.setdefault("types", []).extend([kinds] if isinstance(kinds, str) else kinds)
        for key in ("properties", "items", "additionalProperties", "propertyNames"):
            if key in part and key not in found:
                found[key] = part[key]
    return {**node, **found}


def places(node: Values = SCHEMA, path: Path_ = ()) -> Iterator[Place]:
    """Every place of the schema that takes a string: values, keys of maps, items of lists, parts of free objects."""
    if node == TREE:
        yield Place((*path, FREE), json.dumps(node))
        return
    whole = resolved(node)
    kinds = whole["types"]
    if ("string" in kinds and whole.get("maxLength") != 0) or (not kinds and not {"enum", "const"} & set(node)):
        yield Place(path, json.dumps(node))
    if "object" in kinds:
        for name, part in whole.get("properties", {}).items():
            yield from places(part, (*path, name))
        more = whole.get("additionalProperties", True)
        assert more is not True or path == ("global",), f"{path}: an open object takes unprintable text; use tree"
        if more == TREE:
            yield Place((*path, FREE), json.dumps(more))
        elif isinstance(more, dict):
            names = {"type": "string", **whole.get("propertyNames", {})}
            yield Place((*path, KEY), json.dumps(names))
            inner = known_key(path)
            yield from places(more, (*path, inner))
    if "array" in kinds:
        yield from places(whole["items"], (*path, 0))


def known_key(path: Path_) -> str:
    """The key of BASE in a map whose values are objects; else one of our own."""
    node: Any = BASE
    for part in path:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return next(iter(node), FREE) if isinstance(node, dict) else FREE


PLACES = list(places())


def tagged(index: int, place: Place, text: str) -> str:
    """The text as it is set at a place: findable, and as long as it says."""
    tag = f"{place.before}q{index}q"
    limit = 1000 if place.path[-1] == KEY else LONG  # a longer key is no YAML
    return tag + text if len(text) < LONG else (tag + text)[:limit]


def with_text(target: Values, place: Place, text: str) -> None:
    """Set the text at the place, making what lies around it."""
    node: Any = target
    parts = list(place.path)
    for at, part in enumerate(parts[:-1]):
        below: Any = [] if isinstance(parts[at + 1], int) else {}
        if isinstance(node, list):
            node.extend([below] if len(node) <= int(part) else [])
            node = node[int(part)]
        else:
            node = node.setdefault("qf" if part == FREE else str(part), below)
    last = parts[-1]
    if isinstance(node, list):
        node[:] = [text]
    elif last == KEY:
        node[text] = example(place.path)
    else:
        node["qf" if last == FREE else str(last)] = text


def example(path: Path_) -> Any:
    """A value for a map's key."""
    return {
        "secrets.env": {"name": "s", "key": "k"},
        "networkPolicy.egress": {"ports": []},
        "networkPolicy.ingress": {"ports": []},
        "preflight.filesystems": {"type": "gpfs"},
        "rdma.resources": 1,
    }.get(".".join(map(str, path[:-1])), "v")


@dataclass(frozen=True)
class Scene:
    """A release: what is on, and which source each volume has."""

    name: str
    turn: int
    prepares: bool = False

    def base(self) -> Values:
        made: Values = json.loads(json.dumps(BASE))
        made["extraVolumes"][0] |= json.loads(json.dumps(EXTRA[self.turn]))
        for direction, side in (("egress", "to"), ("ingress", "from")):
            made["networkPolicy"][direction]["qa"][side] = [json.loads(json.dumps(PEERS[self.turn % 2]))]
        made["storage"] = {}
        for place, volume in enumerate(VOLUMES):
            source = SOURCES[(place + self.turn) % len(SOURCES)]
            made["storage"][volume] = {}
            for key, text in self.source(source).items():
                made["storage"][volume].setdefault(key, {})
                if isinstance(text, dict):
                    made["storage"][volume][key] |= text
                else:
                    made["storage"][volume][key] = text
        if self.prepares:
            steps = ("tokenizer", "vision", "llm", "dataset")
            made["prepare"] = {"enabled": True, **{s: {"source": "/models/preset/s"} for s in steps}}
        if self.turn % 2:
            made["hostNetwork"], made["networkPolicy"]["enabled"] = True, False
            made["rendezvous"] = {"port": 24000}
            made["monitoring"]["exporter"]["port"] = 24002
        made["job"] = {"kind": "TrainJob" if self.turn > 1 else "PyTorchJob"}
        return made

    @staticmethod
    def source(name: str) -> Values:
        csi = {"volumeHandle": "0;0;1;0A0B0C0D:5D36FE8D;;;/h"}
        sources: dict[str, Values] = {
            "gpfs.nodePath": {"gpfs": {"nodePath": "/n"}},
            "gpfs.csi": {"gpfs": {"csi": csi}},
            "storageClassName": {"storageClassName": "c"},
            "hostPath": {"hostPath": "/h"},
            "existingClaim": {"existingClaim": "e"},
        }
        return sources[name]

    def has(self, place: Place) -> bool:
        """Whether the place is one of this release's: one source for a volume, one name for each map."""
        if place.path[0] == "extraVolumes" and place.path[2] != "name":
            return place.path[2] in EXTRA[self.turn]
        if place.path[0] == "extraVolumeMounts" and str(place.path[2]).startswith("subPath"):
            return place.path[2] == ("subPath", "subPathExpr")[self.turn % 2]
        if place.path[0] == "networkPolicy" and (kinds := {"ipBlock", *PEERS[0]} & set(place.path)):
            return kinds <= set(PEERS[self.turn % 2])
        if place.path[0] != "storage" or len(place.path) < 3:
            return True
        volume, rest = str(place.path[1]), ".".join(map(str, place.path[2:]))
        source = SOURCES[(VOLUMES.index(volume) + self.turn) % len(SOURCES)]
        if rest.startswith(SOURCES):
            return rest.startswith(source)
        return True


SCENES = [Scene("one", 0), Scene("two", 1), Scene("three", 2), Scene("prepare", 3, prepares=True), Scene("five", 4)]
HARMLESS = "harmless"


@dataclass
class Case:
    """A text in all places of a scene that take it, and what refuses it in the others."""

    scene: Scene
    text: str
    set_at: dict[int, str]
    refused: dict[int, str]

    def values(self) -> Values:
        made = self.scene.base()
        for index, text in self.set_at.items():
            with_text(made, PLACES[index], text)
        return made

    def harmless(self) -> Values:
        made = self.scene.base()
        for index in self.set_at:
            with_text(made, PLACES[index], tagged(index, PLACES[index], HARMLESS))
        return made


def case(scene: Scene, text: str) -> Case:
    """Set the text wherever schema and rules take it, place by place where a rule has something against one."""
    mine = {i: tagged(i, p, text) for i, p in enumerate(PLACES) if scene.has(p) and p.name not in ANCHORS}
    refused = {i: t for i, t in mine.items() if not PLACES[i].takes(t)}
    taken = {i: t for i, t in mine.items() if i not in refused and PLACES[i].takes(tagged(i, PLACES[i], HARMLESS))}
    # A place that takes this text but not a harmless one is a list of choices; none is hostile.
    made = Case(scene, text, taken, refused)
    for _ in range(5):
        said = rules.violations(Facts.of(made.values()))
        against = {i for i in made.set_at for violation in said if concerns(violation.key, PLACES[i], made.set_at[i])}
        if not against:
            assert not said, said
            return made
        for index in against:
            made.refused[index] = made.set_at.pop(index)
    raise AssertionError(said)


def concerns(key: str, place: Place, text: str) -> bool:
    """Whether a sentence is about a place."""
    key = re.sub(r"\[(\d+)\]", r".\1", key)
    if place.path[-1] == KEY:
        return key == ".".join([*map(str, place.path[:-1]), text])
    dotted = ".".join("qf" if part == FREE else str(part) for part in place.path)
    return key == dotted or dotted.startswith(f"{key}.")


def parsed(manifests: list[helm.Manifest]) -> Any:
    """A render as data: configuration parsed, environment as the process sees it, names of jobs without their hash."""
    for config in configs(manifests):
        data = config["data"]
        data["settings.json"] = json.loads(data["settings.json"])
        if "neva_pretrain.yaml" in data:
            data["neva_pretrain.yaml"] = yaml.safe_load(data["neva_pretrain.yaml"])
    name = next(m["metadata"]["name"] for m in manifests if m["kind"] in ("PyTorchJob", "TrainJob", "Job"))
    return renamed(manifests, {name: "JOB"})


def configs(manifests: list[helm.Manifest]) -> list[helm.Manifest]:
    """The ConfigMap of the job."""
    return [m for m in helm.of_kind(manifests, "ConfigMap") if "settings.json" in m["data"]]


def renamed(node: Any, changes: dict[str, str]) -> Any:
    """A copy with texts replaced, in keys too."""
    if isinstance(node, dict):
        return {renamed(k, changes): renamed(v, changes) for k, v in node.items()}
    if isinstance(node, list):
        return [renamed(one, changes) for one in node]
    if isinstance(node, str):
        for old, new in changes.items():
            if old in node:
                node = node.replace(old, new)
    return node


def in_order(node: Any) -> Any:
    """A copy with lists of named things in the order of their names, which a text may be."""
    if isinstance(node, dict):
        return {k: in_order(v) for k, v in node.items()}
    if isinstance(node, list):
        copies = [in_order(one) for one in node]
        return sorted(copies, key=lambda one: str(one["name"])) if _named(copies) else copies
    return node


def _named(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in items)


def as_processes_see_it(node: Any, key: str = "") -> Any:
    """Values of environment after the kubelet's expansion, with every name known: none of them is ever a reference."""
    if isinstance(node, dict):
        done = {k: as_processes_see_it(v, k) for k, v in node.items()}
        if key == "env" and "value" in node:
            done["value"] = helm.expand(node["value"], EVERY_NAME)
        return done
    return [as_processes_see_it(one, key) for one in node] if isinstance(node, list) else node


class EveryName(dict[str, str]):
    """An environment in which every name is known."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "EXPANDED"


EVERY_NAME = EveryName()


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """The paths at which two trees differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(ours.keys() | theirs.keys(), key=str)
        return [d for k in keys for d in differences(ours.get(k), theirs.get(k), f"{where}.{k}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in differences(a, b, f"{where}[{i}]")
        ]
    return [] if ours == theirs else [f"{where}: {str(ours)[:300]} != {str(theirs)[:300]}"]


@dataclass
class Outcome:
    """What became of one case."""

    case: Case
    wrong: list[str]
    arrived: set[int]


def deliver(one: Case) -> Outcome:
    """Render a case and its harmless twin, and compare."""
    hostile, theirs = (
        parsed(helm.render(batch.written(one.values()))),
        harmless(batch.written(one.harmless())),
    )
    # Only what stands after the place's own beginning: a label's key and value go to two places.
    texts = {t.removeprefix(PLACES[i].before): f"q{i}q{HARMLESS}" for i, t in one.set_at.items()}
    ordered = dict(sorted(texts.items(), key=lambda pair: -len(pair[0])))
    ours = in_order(renamed(as_processes_see_it(hostile), ordered))
    text = json.dumps(theirs, ensure_ascii=False)
    arrived = {i for i in one.set_at if f"q{i}q{HARMLESS}" in text}
    return Outcome(one, differences(ours, theirs), arrived)


@cache
def harmless(text: str) -> Any:
    """The render of harmless texts, which many cases share."""
    return in_order(as_processes_see_it(parsed(helm.render(text))))


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """Every text in a scene, and in every scene a plain one, which most places take."""
    turns = [*enumerate(HOSTILE), *((i, "plain") for i in range(len(SCENES)))]
    cases = [case(SCENES[i % len(SCENES)], text) for i, text in turns]
    with ThreadPoolExecutor(max_workers=3) as pool:
        return list(pool.map(deliver, cases))


def test_the_walk_finds_the_strings_of_the_schema() -> None:
    names = {place.name for place in PLACES}
    assert len(names) > 120
    assert {"model.llmPath", "env.*", "image.pullSecrets.*", "storage.models.subPath", "config.*", "run.id"} <= names
    assert {"podLabels.*", "secrets.huggingface.key", "scheduling.tolerations.*.value", "extraVolumes.*.name"} <= names


def test_what_is_accepted_is_delivered_unchanged(outcomes: list[Outcome]) -> None:
    assert not [(o.case.scene.name, o.case.text[:40], o.wrong) for o in outcomes if o.wrong]


def test_every_text_has_many_ways_in(outcomes: list[Outcome]) -> None:
    """Else the test above compares nothing."""
    for outcome in outcomes:
        if "\u2028" in outcome.case.text:  # YAML would fold or drop it
            assert not outcome.case.set_at
        else:
            assert len(outcome.case.set_at) >= 6, outcome.case.text
    assert max(len(outcome.case.set_at) for outcome in outcomes) > 50


def test_every_place_that_takes_a_text_shows_it_somewhere(outcomes: list[Outcome]) -> None:
    arrived = {PLACES[i].name for outcome in outcomes for i in outcome.arrived}
    taken = {PLACES[i].name for outcome in outcomes for i in outcome.case.set_at}
    assert taken - arrived <= NOWHERE


def with_texts(texts: list[tuple[Place, str]]) -> Values:
    """Values of a scene with all these texts at once."""
    made = SCENES[0].base()
    for place, text in texts:
        with_text(made, place, text)
    return made


def readable(violations: list[Violation]) -> bool:
    """Whether sentences stay on their line, and short."""
    return all(str(violation).isprintable() and len(str(violation)) < 600 for violation in violations)


@pytest.mark.parametrize("text", HOSTILE[::2], ids=range(0, len(HOSTILE), 2))
def test_what_the_schema_refuses_is_said_by_both_at_its_key(text: str) -> None:
    """Every place whose schema refuses a text, all at once."""
    tagged_at = [(p, tagged(i, p, text)) for i, p in enumerate(PLACES) if SCENES[0].has(p)]
    refused = [(place, full) for place, full in tagged_at if not valid(place.schema, full)]
    made = with_texts(refused)
    said = helm.template(batch.written(made)).stderr
    assert "executing" not in said, said
    ours = schema.violations(values.complete(made))
    flat = ["/" + re.sub(r"[\[\]'.]+", "/", violation.key).strip("/") for violation in ours]
    for place, _ in refused:
        parts = [str(p) for p in ("qf" if p == FREE else p for p in place.path)]
        pointer = "/" + "/".join(p.replace("~", "~0").replace("/", "~1") for p in parts)
        assert re.search(rf"at '{re.escape(pointer)}[/']", said), (text[:40], pointer)
        assert pointer.replace("~1", "/") in flat, (text[:40], pointer)
    assert readable(ours)


def test_what_a_format_refuses_is_said_by_both_at_its_key() -> None:
    """Every place that the schema leaves open and a format refuses, all at once, for every text."""
    refusals = []
    for text in HOSTILE:
        taken = [(i, tagged(i, p, text)) for i, p in enumerate(PLACES) if SCENES[0].has(p)]
        refusals.append([(i, t) for i, t in taken if valid(PLACES[i].schema, t) and not PLACES[i].takes(t)])
    made = [values.complete(with_texts([(PLACES[i], full) for i, full in refused])) for refused in refusals]
    for refused, one, lines in zip(refusals, made, batch.violations(made), strict=True):
        ours = schema.violations(one)
        assert lines == [str(violation) for violation in ours]
        for index, full in refused:
            hidden = PLACES[index].path[0] == "secrets" and any(concerns(v.key, PLACES[index], full) for v in ours)
            assert hidden or any(f"q{index}q" in line for line in lines), (full[:40], PLACES[index])
        assert readable(ours)


def run_places(text: str) -> Case:
    """What reaches the environment, arguments and settings of processes."""
    return case(SCENES[0], text)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_shell_ever_runs_a_text(text: str, tmp_path: Path) -> None:
    """The rendered launch.sh, environment and settings between stand-ins: torchrun gets the text, nothing else acts."""
    one = run_places(text)
    manifests = helm.render(batch.written(one.values()))
    world = World(tmp_path)
    (world.config / "neva_pod").unlink()
    for name in ("settings.json", "neva_pretrain.yaml"):
        (world.config / name).unlink()
    helm.mount(helm.pod(manifests), manifests, "config", world.config)
    env = helm.env(manifests)
    mine = world.env(rank=0, nodes=2)
    here = {
        k: mine[k] for k in ("PATH", "HOME", "FAKE_OUT", "TMPDIR", "HF_HOME", "PET_NODE_RANK", "RANK", "PET_NNODES")
    }
    here |= {k: mine[k] for k in ("NEVA_RESULTS_DIR", "NEVA_WORK_DIR", "NEVA_CONFIG_DIR", "NEVA_RDMA")}
    here |= {"NEVA_PREFLIGHT": "", "NEVA_NODES": "1", "PET_NNODES": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = world.run({**env, **here})
    assert done.returncode == 0, done.stderr
    report = world.report()
    assert env["NEVA_ENTRYPOINT"] in report["argv"]
    assert {name: report["env"][name] for name in env if name not in here} == {
        name: value for name, value in env.items() if name not in here
    }
    entry = next(i for i, place in enumerate(PLACES) if place.name == "image.entrypoint")
    if entry in one.set_at:
        assert one.set_at[entry] in report["argv"]
    assert json.loads((world.results / "run.json").read_text())["data"] == settings(manifests)["data"]
    assert not list(tmp_path.rglob(f"{MARK}*"))


def settings(manifests: list[helm.Manifest]) -> Any:
    (found,) = configs(manifests)
    return json.loads(found["data"]["settings.json"])


@pytest.mark.parametrize("script", ["preflight", "prepare"])
def test_no_script_ever_runs_a_text(script: str, tmp_path: Path) -> None:
    """Preflight and prepare on the rendered settings: they name what is missing, and that is all."""
    scene = SCENES[3] if script == "prepare" else SCENES[0]
    for number, text in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        folder.mkdir()
        manifests = helm.render(batch.written(case(scene, text).values()))
        (pod, *_) = [p["spec"] for p in helm.pod_templates(manifests) if p["spec"]["volumes"][0]["name"] == "config"]
        helm.mount(pod, manifests, "config", folder)
        command = [sys.executable, "-m", f"neva_pod.{script}", "--settings", "settings.json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr, (text[:40], done.stderr)
    assert not list(tmp_path.rglob(f"{MARK}*"))
