"""Volumes as the chart renders them: one source each, read-only where nothing writes, kept when the release goes."""

import json
import re
from typing import Any

import pytest

from neva_pretrain.chart import values
from neva_pretrain.check import rules, schema, storage
from neva_pretrain.facts import Facts
from tests.chart import helm
from tests.chart.test_pods import RELEASES

HANDLES = [
    "0;0;7118073361626808055;0A0B0C0D:5D36FE8D;;;/gpfs/fs1/a dir",
    "0;0;7118073361626808055;0A0B0C0D:5D36FE8D;;fileset;/gpfs/fs1/fileset/dir",
    "0;1;7118073361626808055;0A0B0C0D:5D36FE8D;;dependent-1;/gpfs/fs1/d",
    "0;2;13009550825755318848;9A7B0B0A:5EDAA32C;;independent_2;/ibm/gpfs0/i",
]
BAD_HANDLES = [
    "",
    "7118073361626808055;0A0B0C0D:5D36FE8D;path=/gpfs/fs1",
    "1;2;7118073361626808055;0A0B0C0D:5D36FE8D;cg;fileset;/gpfs/fs1/a",
    "0;3;7118073361626808055;0A0B0C0D:5D36FE8D;;fileset;/gpfs/fs1/a",
    "0;2;7118073361626808055;0A0B0C0D:5D36FE8D;;;/gpfs/fs1/a",
    "0;0;cluster;0A0B0C0D:5D36FE8D;;;/gpfs/fs1/a",
    "0;0;7118073361626808055;fs1;;;/gpfs/fs1/a",
    "0;0;7118073361626808055;0A0B0C0D:5D36FE8D;;;gpfs/fs1/a",
    "0;0;7118073361626808055;0A0B0C0D:5D36FE8D;;;/gpfs/fs1/../a",
    "0;0;7118073361626808055;0A0B0C0D:5D36FE8D;;;/gpfs/fs1/a\n",
]
PREPARE = RELEASES["prepare"]["prepare"]
SOURCES: dict[str, dict[str, Any]] = {
    "existingClaim": {"existingClaim": "c"},
    "gpfs.nodePath": {"gpfs": {"nodePath": "/gpfs/x"}},
    "gpfs.csi": {"gpfs": {"csi": {"volumeHandle": HANDLES[0]}}},
    "storageClassName": {"storageClassName": "fast"},
    "hostPath": {"hostPath": "/nvme"},
}


def only(**sources: dict[str, Any]) -> dict[str, Any]:
    """Values whose volumes have these sources."""
    return {"storage": sources}


def csi(**more: Any) -> dict[str, Any]:
    return {"gpfs": {"csi": {"volumeHandle": HANDLES[0], **more}}}


def named(manifests: list[helm.Manifest], kind: str, volume: str) -> helm.Manifest:
    """The manifest of a volume; names end in the volume's."""
    (found,) = [m for m in helm.of_kind(manifests, kind) if re.search(rf"[.-]{volume}$", m["metadata"]["name"])]
    return found


def volume(manifests: list[helm.Manifest], name: str) -> helm.Manifest:
    """A volume of the pod."""
    (found,) = [v for v in helm.pod(manifests)["volumes"] if v["name"] == name]
    return dict(found)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["datasets", "models", "results", "scratch"])
def test_each_volume_takes_each_source(name: str, source: str) -> None:
    manifests = helm.render(only(**{name: SOURCES[source]}))
    found = volume(manifests, name)
    if source == "hostPath":
        assert found["hostPath"] == {"path": "/nvme", "type": "Directory"}, "G02"
        assert not [m for m in helm.of_kind(manifests, "PersistentVolumeClaim") if m["metadata"]["name"].endswith(name)]
        return
    claim = "c" if source == "existingClaim" else f"neva-{name}"
    read_only = {"readOnly": True} if name in ("datasets", "models") else {}
    assert found == {"name": name, "persistentVolumeClaim": {"claimName": claim, **read_only}}
    static = [m["metadata"]["name"] for m in helm.of_kind(manifests, "PersistentVolume")]
    assert (f"default.neva.{name}" in static) == source.startswith("gpfs.")


@pytest.mark.parametrize("first", SOURCES)
@pytest.mark.parametrize("second", SOURCES)
def test_two_sources_are_refused_by_name(first: str, second: str) -> None:
    """The generator's words, which the agreement tests hold equal to the chart's."""
    if first == second:
        return
    merged = values.merge(SOURCES[first], SOURCES[second])
    partial = {"storage": {"scratch": merged}}
    complete = values.complete(partial)
    (error,) = [str(v) for v in rules.violations(Facts(complete))]
    assert re.match(r"storage.scratch: got \S+ and \S+; must have exactly one source; ", error)
    assert first in error
    assert second in error


def test_a_csi_volume_is_static_kept_and_reserved_for_its_claim() -> None:
    manifests = helm.render({"storage": {"results": csi(volumeAttributes={"a": 1}), "datasets": {"size": "9Ti"}}})
    found = named(manifests, "PersistentVolume", "results")
    assert found["spec"] == {
        "capacity": {"storage": "1Ti"},
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "claimRef": {"namespace": "default", "name": "neva-results"},
        "csi": {
            "driver": "spectrumscale.csi.ibm.com",
            "fsType": "gpfs",
            "volumeHandle": HANDLES[0],
            "volumeAttributes": {"a": "1"},
        },
    }
    claim = named(manifests, "PersistentVolumeClaim", "results")
    assert claim["spec"]["volumeName"] == found["metadata"]["name"]
    for manifest in (found, claim):
        assert manifest["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    other = helm.render({"storage": {"results": csi(driver="csi.example.com", fsType="xfs")}})
    spec = named(other, "PersistentVolume", "results")["spec"]["csi"]
    assert (spec["driver"], spec["fsType"], "volumeAttributes" in spec) == ("csi.example.com", "xfs", False)


@pytest.mark.parametrize("handle", HANDLES)
def test_handles_of_ibms_form_arrive_as_they_are(handle: str) -> None:
    manifests = helm.render({"storage": {"models": {"gpfs": {"csi": {"volumeHandle": handle}}}}})
    assert named(manifests, "PersistentVolume", "models")["spec"]["csi"]["volumeHandle"] == handle


@pytest.mark.parametrize("handle", BAD_HANDLES)
def test_other_handles_are_refused_by_both(handle: str) -> None:
    partial = {"storage": {"models": {"gpfs": {"csi": {"volumeHandle": handle}}}}}
    assert any("volumeHandle" in line for line in helm.render_fails(partial))
    assert schema.violations(values.complete(partial))


@pytest.mark.parametrize("source", [{"nodePath": "/g"}, {"csi": {"volumeHandle": HANDLES[0]}}])
def test_a_static_volume_can_be_for_some_nodes_only(source: dict[str, Any]) -> None:
    manifests = helm.render({"storage": {"results": {"gpfs": {**source, "nodeLabel": "scale=true"}}}})
    (term,) = named(manifests, "PersistentVolume", "results")["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term == {"matchExpressions": [{"key": "scale", "operator": "In", "values": ["true"]}]}


def test_a_dynamic_claim_names_class_and_size_and_is_kept() -> None:
    manifests = helm.render(only(results={"storageClassName": "scale", "size": "5Ti"}))
    claim = named(manifests, "PersistentVolumeClaim", "results")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", "G03"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "scale",
        "resources": {"requests": {"storage": "5Ti"}},
    }


def test_nothing_is_written_below_a_read_only_mount() -> None:
    """By mount and by claim; file systems mounted below it too, where the node can."""
    manifests = helm.render({"storage": {"models": {"readOnly": False}}})
    mounts = {m["name"]: m for m in helm.container(manifests)["volumeMounts"]}
    assert mounts["datasets"]["readOnly"] is True
    assert mounts["datasets"]["recursiveReadOnly"] == "IfPossible"
    for name in ("models", "results", "scratch"):
        assert not {"readOnly", "recursiveReadOnly"} & set(mounts[name])
    assert volume(manifests, "datasets")["persistentVolumeClaim"]["readOnly"] is True
    assert "readOnly" not in volume(manifests, "models")["persistentVolumeClaim"]


@pytest.mark.parametrize("path", ["..", "../x", "a/../b", "a/..", "/abs", "a\nb"])
def test_a_sub_path_stays_in_its_volume(path: str) -> None:
    assert any("subPath" in line for line in helm.render_fails({"storage": {"results": {"subPath": path}}}))


def test_a_sub_path_may_hold_dots_and_spaces() -> None:
    manifests = helm.render({"storage": {"results": {"subPath": "a..b/.c d"}}})
    (mount,) = [m for m in helm.container(manifests)["volumeMounts"] if m["name"] == "results"]
    assert mount["subPath"] == "a..b/.c d"


def test_releases_and_namespaces_never_share_a_volume() -> None:
    """a-b/c and a/b-c would be the same name between dashes."""
    names = [
        m["metadata"]["name"]
        for namespace, release in (("a-b", "c"), ("a", "b-c"), ("a", "c"), ("a", "b"), ("b", "a"))
        for m in helm.of_kind(helm.render(release=release, namespace=namespace), "PersistentVolume")
    ]
    assert len(names) == len(set(names)) == 15
    longest = helm.render({"fullnameOverride": "n" * 41}, namespace="x" * 63)
    for manifest in helm.of_kind(longest, "PersistentVolume"):
        assert len(manifest["metadata"]["name"]) <= 253
        assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", p) for p in manifest["metadata"]["name"].split("."))


def test_g01_selinux_labels_reach_pods_and_containers() -> None:
    options = {"level": "s0:c123,c456"}
    manifests = helm.render({"podSecurityContext": {"seLinuxOptions": options}})
    assert helm.pod(manifests)["securityContext"] == {"seLinuxOptions": options}
    manifests = helm.render({"securityContext": {"seLinuxOptions": options}})
    assert helm.container(manifests)["securityContext"]["seLinuxOptions"] == options


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_u11_a_source_that_is_named_is_the_only_one(nothing: object) -> None:
    """Nothing has to be taken away first; null, "" and {} name no source, and where none is, it is the document's."""
    unnamed = {key: nothing for key in ("existingClaim", "storageClassName", "hostPath") if nothing != {}}
    unnamed["gpfs"] = {"nodePath": nothing, "csi": nothing} if nothing != {} else {"csi": {}}
    for one in (unnamed, {"gpfs": nothing}):
        unset = dict.fromkeys(("datasets", "models", "results"), one)
        assert helm.render_text({"storage": unset}) == helm.render_text()
    named = {name: {**unnamed, "existingClaim": f"my-{name}"} for name in unset}
    manifests = helm.render({"storage": named})
    assert not helm.of_kind(manifests, "PersistentVolume") + helm.of_kind(manifests, "PersistentVolumeClaim")
    assert volume(manifests, "results")["persistentVolumeClaim"] == {"claimName": "my-results"}


def test_u11_part_of_a_csi_volume_is_no_source() -> None:
    partial = {"storage": {"results": {"gpfs": {"csi": {"driver": "csi.example.com"}}}}}
    (error,) = helm.render_fails(partial)
    assert error.startswith("storage.results.gpfs.csi.volumeHandle: got nothing; must be set")
    assert [str(v) for v in rules.violations(Facts.of(partial))] == [error]


def test_u11_the_site_says_the_default_folders_in_full() -> None:
    """A change of the chart's default is no change of the site."""
    site = values.read(helm.ROOT / "values" / "scitix-cks.yaml")["storage"]
    defaults = values.complete({})
    assert {name: part["gpfs"]["nodePath"] for name, part in site.items()} == {
        name: storage.node_path(defaults, name) for name in site
    }


# One volume, several mounts (N04): the kubelet mounts a CSI handle and a claim once in a pod, and waits for a second
# volume of either for ever.


def everywhere(manifests: list[helm.Manifest]) -> list[helm.Manifest]:
    """The spec of every pod, each once by its name."""
    return [template["spec"] for template in helm.pod_templates(manifests)]


def assert_mounted_once(manifests: list[helm.Manifest]) -> None:
    """No claim and no handle twice in a pod, and every mount is of a volume that is there."""
    handles = [
        m["spec"]["csi"]["volumeHandle"] for m in helm.of_kind(manifests, "PersistentVolume") if "csi" in m["spec"]
    ]
    assert len(handles) == len(set(handles))
    made = {m["metadata"]["name"] for m in helm.of_kind(manifests, "PersistentVolumeClaim")}
    for claim in helm.of_kind(manifests, "PersistentVolumeClaim"):
        static = claim["spec"].get("volumeName")
        assert static is None or static in {m["metadata"]["name"] for m in helm.of_kind(manifests, "PersistentVolume")}
    for spec in everywhere(manifests):
        names = [v["name"] for v in spec["volumes"]]
        claims = [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v]
        assert len(names) == len(set(names))
        assert len(claims) == len(set(claims))
        assert not {c for c in claims if c.startswith("neva-")} - made
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert {m["name"] for m in container["volumeMounts"]} <= set(names)


SHARED: dict[str, dict[str, dict[str, Any]]] = {
    "a handle": {"datasets": {**csi(), "subPath": "d"}, "models": {**csi(), "subPath": "m"}},
    "a handle, four": {name: {**csi(), "subPath": name} for name in ("datasets", "models", "results", "scratch")},
    "a claim": {"datasets": {"existingClaim": "c"}, "results": {"existingClaim": "c", "subPath": "r"}},
    "a claim of the chart": {"datasets": {"existingClaim": "neva-results", "subPath": "d"}},
    "a handle and its claim": {"datasets": csi(), "models": csi(), "scratch": {"existingClaim": "neva-datasets"}},
    "other drivers": {"datasets": csi(), "models": csi(driver="other.csi.example.com")},
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("more", [{}, {"job": {"kind": "TrainJob"}}, {"prepare": PREPARE}], ids=json.dumps)
def test_n04_what_is_one_volume_is_mounted_once(name: str, more: dict[str, Any]) -> None:
    values = {"tensorboard": {"enabled": True}, "monitoring": {"exporter": {"enabled": True}}, **more}
    if name == "other drivers":  # two handles to the kubelet, whatever they say
        assert len(helm.of_kind(helm.render({"storage": SHARED[name], **values}), "PersistentVolume")) == 3
        return
    mine = [{"name": "models", "mountPath": "/mine", "subPath": "x"}]
    assert_mounted_once(helm.render({"storage": SHARED[name], **values, "extraVolumeMounts": mine}))


def test_n04_each_volume_keeps_its_path_its_folder_and_who_writes() -> None:
    manifests = helm.render({"storage": SHARED["a handle, four"]})
    mounts = {m["mountPath"]: m for m in helm.container(manifests)["volumeMounts"]}
    paths = {"datasets": "/datasets/preset", "models": "/models/preset", "results": "/results", "scratch": "/scratch"}
    for name, path in paths.items():
        assert (mounts[path]["name"], mounts[path]["subPath"]) == ("datasets", name)
        assert mounts[path].get("readOnly", False) == (name in ("datasets", "models"))
    assert "readOnly" not in volume(manifests, "datasets")["persistentVolumeClaim"], "results are written through it"
    two = helm.render({"storage": SHARED["a handle"]})
    assert volume(two, "datasets")["persistentVolumeClaim"]["readOnly"] is True, "both only read"


@pytest.mark.parametrize(
    "second", [{"fsType": "xfs"}, {"volumeAttributes": {"a": 1}}, {"nodeLabel": "a=b"}, {"size": "2Ti"}], ids=json.dumps
)
def test_n04_one_handle_is_said_alike(second: dict[str, Any]) -> None:
    more = {key: second[key] for key in ("fsType", "volumeAttributes") if key in second}
    other = {"gpfs": {**csi(**more)["gpfs"], **{k: v for k, v in second.items() if k == "nodeLabel"}}}
    other |= {key: value for key, value in second.items() if key == "size"}
    partial = {"storage": {"datasets": csi(), "results": other}}
    (line,) = helm.render_fails(partial)
    assert line.startswith("storage.results: got the volumeHandle of storage.datasets, and a different ")
    assert [str(v) for v in rules.violations(Facts.of(partial))] == [line]


@pytest.mark.parametrize(
    ("partial", "words"),
    [
        (
            {"storage": {"results": {"existingClaim": "c"}}, "extraVolumes": ["c"]},
            "the claim c; must not be that of st",
        ),
        ({"extraVolumes": ["neva-results"]}, "the claim neva-results; must not be that of storage.results"),
        ({"extraVolumes": ["c", "d", "c"]}, "the claim c; must not be that of extraVolumes[0]"),
    ],
    ids=json.dumps,
)
def test_n04_a_claim_is_no_extra_volume_of_a_pod_that_has_it(partial: dict[str, Any], words: str) -> None:
    claims = [
        {"name": f"v{i}", "persistentVolumeClaim": {"claimName": c}} for i, c in enumerate(partial["extraVolumes"])
    ]
    partial = {**partial, "extraVolumes": claims, "fullnameOverride": "neva"}
    (line,) = helm.render_fails(partial)
    assert f"got {words}" in line
    assert [str(v) for v in rules.violations(Facts.of(partial))] == [line]


def test_n04_a_mount_is_of_a_volume_that_is_there() -> None:
    """The API would refuse the pods once the job is made."""
    empty = [{"name": "a", "emptyDir": {}}]
    for volumes, mount, key in (
        ([], "a", "extraVolumeMounts[0].name: got a;"),
        (empty, "b", "extraVolumeMounts[0].name: got b;"),
        (empty * 2, "a", "extraVolumes[1].name: got a;"),
    ):
        values = {"extraVolumes": volumes, "extraVolumeMounts": [{"name": mount, "mountPath": "/a"}]}
        (line,) = helm.render_fails(values)
        assert line.startswith(key)
    assert helm.render({"extraVolumeMounts": [{"name": "shm", "mountPath": "/a"}]})


EXTRA_SOURCES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["extraVolumes[0]: got nothing; must have exactly one source; use one such as persistentVolumeClaim"]),
    ({"emptyDir": None}, ["extraVolumes[0]: got nothing; must have exactly one source; use one such as persistent"]),
    ({"emptyDir": {}, "hostPath": {"path": "/x"}}, ["extraVolumes[0]: got emptyDir and hostPath; must have exactly"]),
    (
        {"secret": {}},
        ["extraVolumes[0].secret.secretName: got nothing; must be set with its source; name its secretName"],
    ),
    ({"nfs": {"server": "s"}}, ["extraVolumes[0].nfs.path: got nothing; must be set"]),
    ({"emptyDir": {"medium": "memory"}}, ["extraVolumes[0].emptyDir.medium: got memory; must be Memory, HugePages"]),
    ({"emptyDir": {"medium": "HugePages-2Mi"}, "secret": None}, []),
    ({"hostPath": {"path": "/x", "type": ""}}, []),
    ({"projected": {"sources": [{"secret": {"name": "s"}}]}}, []),
    ({"csi": {"driver": "d", "volumeAttributes": {"a": "b"}}}, []),
    ({"cephfs": {"monitors": ["a"]}}, []),
]


@pytest.mark.parametrize(("source", "said"), EXTRA_SOURCES, ids=str)
def test_an_extra_volume_has_one_source_and_what_it_needs(source: dict[str, Any], said: list[str]) -> None:
    """The API makes an emptyDir of a volume whose source it does not know, and a job trains on nothing."""
    assert_said({"extraVolumes": [{"name": "a", **source}]}, said)


MOUNTS: list[tuple[list[dict[str, Any]], list[str]]] = [
    (
        [{"mountPath": "/x"}, {"mountPath": "/x"}],
        ["extraVolumeMounts[1].mountPath: got /x; must differ from that of ext"],
    ),
    ([{"mountPath": "/x"}, {"mountPath": "/x/y", "subPath": "a", "subPathExpr": ""}], []),
    (
        [{"mountPath": "/x", "subPath": "a", "subPathExpr": "b"}],
        ["extraVolumeMounts[0].subPathExpr: got b; must not be"],
    ),
    ([{"mountPath": "/x", "mountPropagation": "HostToContainer", "readOnly": True}], []),
    ([{"mountPath": "/x", "mountPropagation": "Bidirectional"}], ["extraVolumeMounts[0].mountPropagation: got Bidir"]),
    (
        [{"mountPath": "/x", "recursiveReadOnly": "Enabled"}],
        ["extraVolumeMounts[0].recursiveReadOnly: got Enabled; mus"],
    ),
    ([{"mountPath": "/x", "recursiveReadOnly": "Enabled", "readOnly": True}], []),
    *(
        ([{"mountPath": path}], [f"extraVolumeMounts[0].mountPath: got {path}; must not hide what the container needs"])
        for path in ("/usr", "/usr/lib", "/usr/local/bin", "/bin", "/lib64", "/etc", "/dev", "/var/run", "/opt")
    ),
    *(
        ([{"mountPath": path}], [])
        for path in (
            "/etc/nccl.conf",
            "/dev/infiniband",
            "/usr/local/nvidia",
            "/opt/NeMo",
            "/var/lib/x",
            "/root",
            "/tmp",
        )
    ),
]


@pytest.mark.parametrize(("mounts", "said"), MOUNTS, ids=str)
def test_an_extra_mount_is_one_that_the_api_takes_and_the_container_survives(
    mounts: list[dict[str, Any]], said: list[str]
) -> None:
    assert_said({"extraVolumeMounts": [{"name": "shm", **mount} for mount in mounts]}, said)


def test_a_privileged_container_may_mount_in_both_directions() -> None:
    mount = {"name": "shm", "mountPath": "/x", "mountPropagation": "Bidirectional"}
    assert_said({"extraVolumeMounts": [mount], "securityContext": {"privileged": True}}, [])


@pytest.mark.parametrize("path", ["/bin", "/lib", "/usr/lib", "/var", "/run", "/opt", "/opt/NeMo", "/etc/x", "/dev/x"])
def test_data_does_not_hide_the_containers_software(path: str) -> None:
    words = (
        f"storage.scratch.mountPath: got {path}; must not hide what the container needs; use a path such as /scratch"
    )
    assert_said({"storage": {"scratch": {"mountPath": path}}}, [words])
    assert_said({"storage": {"scratch": {"mountPath": "/var/lib/neva"}}}, [])


def assert_said(partial: dict[str, Any], said: list[str]) -> None:
    """Both sides say the same, which begins so."""
    complete = values.complete(partial)
    found = [str(v) for v in schema.violations(complete) or rules.violations(Facts(complete))]
    assert len(found) == len(said), found
    assert all(line.startswith(words) for line, words in zip(found, said, strict=True)), found
    assert (helm.render_fails(partial) if said else helm.render(partial) and []) == found
