"""Make a release: ``python -m tests.tools.release [--key NAME --keyring FILE] [--push oci://REGISTRY/PATH]``.

Wheel, chart package, its signature and checksums, of one version. Without ``--push`` nothing leaves this machine.
What only a release knows is in its files alone: the address that it comes from, and the key that signs it.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from neva_pretrain import chart
from tests.tools.build import ensure
from tests.tools.made import ROOT

SUMS = "SHA256SUMS"

SOURCES = ("pyproject.toml", ".gitignore", "README.md", "LICENSE", "generator", chart.CHART, "values")
"""What wheel and chart are made of."""

_LINK = re.compile(r"(!?)(\[[^]]*\])\((?![a-z]+:|#)([^)]+)\)")
"""A link of Markdown to a file beside it: mark of a picture, text, file."""


def make(
    folder: Path,
    key: str | None = None,
    keyring: Path | None = None,
    *,
    home: str | None = None,
    key_url: str | None = None,
) -> list[Path]:
    """Make the files of a release and return them: the wheel, the chart, its signature if there is a key, checksums.

    Args:
        folder: where they go.
        key: name of the key that signs the chart.
        keyring: file with that key; gpg's own otherwise.
        home: address of the repository that this is a release of.
        key_url: address where the public key will be, for Artifact Hub.
    """
    folder.mkdir(parents=True, exist_ok=True)
    version = yaml.safe_load((ROOT / chart.CHART / "Chart.yaml").read_text("utf-8"))["version"]
    ring = ["--keyring", str(keyring)] if keyring else []
    with tempfile.TemporaryDirectory() as scratch:
        copy = _copied(Path(scratch) / "neva-pretrain")
        sign_key = {"fingerprint": _fingerprint(key, keyring), "url": key_url} if key and key_url else None
        _say_where_from(copy / chart.CHART / "Chart.yaml", home, sign_key)
        if home:
            _link_to(copy, home, version)
        _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=copy)
        signing = ["--sign", "--key", key, *ring] if key else []
        _helm("package", str(copy / chart.CHART), "-d", str(folder), *signing)
    package = folder / f"neva-pretrain-{version}.tgz"
    files = [folder / f"neva_pretrain-{version}-py3-none-any.whl", package]
    if key:
        _helm("verify", str(package), *ring)
        files.append(package.with_name(f"{package.name}.prov"))
    sums = folder / SUMS
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    sums.write_text("".join(lines), "utf-8")
    return [*files, sums]


def _copied(folder: Path) -> Path:
    for source in SOURCES:
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    return folder


def _link_to(copy: Path, home: str, version: str) -> None:
    """Let the README lead to the files of this version from wherever it is shown, as by a package index."""
    readme, project = copy / "README.md", copy / "pyproject.toml"

    def address(found: re.Match[str]) -> str:
        picture, text, file = found.groups()
        return f"{picture}{text}({home}/{'raw' if picture else 'blob'}/v{version}/{file})"

    readme.write_text(_LINK.sub(address, readme.read_text("utf-8")), "utf-8")
    urls = {"Homepage": home, "Changelog": f"{home}/blob/v{version}/CHANGELOG.md"}
    lines = (f'{name} = "{url}"\n' for name, url in urls.items())
    project.write_text(f"{project.read_text('utf-8')}\n[project.urls]\n{''.join(lines)}", "utf-8")


def _say_where_from(file: Path, home: str | None, sign_key: dict[str, str] | None) -> None:
    """Write what only a release knows into a copy of Chart.yaml."""
    about = yaml.safe_load(file.read_text("utf-8"))
    if home:
        about["home"] = home
        about["sources"] = [home, *about["sources"]]
    if sign_key:
        about["annotations"]["artifacthub.io/signKey"] = yaml.safe_dump(sign_key)
    file.write_text(yaml.safe_dump(about, sort_keys=False, allow_unicode=True), "utf-8")


def _fingerprint(key: str, keyring: Path | None) -> str:
    """Return the fingerprint of the key that signs; gpg made its file, so gpg is there."""
    command = ["gpg", "--no-autostart", "--batch", "--with-colons"]
    command += ["--show-keys", str(keyring)] if keyring else ["--list-secret-keys", key]
    told = _run(*command).splitlines()
    for at, line in enumerate(told):
        if line.startswith("uid:") and key in line:
            return next(before.split(":")[9] for before in reversed(told[:at]) if before.startswith("fpr:"))
    raise SystemExit(f"ERROR: --key {key}: no such key in {keyring or 'the keyring'}")


def push(package: Path, registry: str, *, plain_http: bool = False) -> None:
    """Push a chart, with the signature that lies beside it."""
    _helm("push", str(package), registry, *(["--plain-http"] if plain_http else []))


def _helm(*arguments: str) -> None:
    _run(str(ensure("helm")[0]), *arguments)


def _run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ERROR: {Path(command[0]).name} {command[1]}: {done.stderr.strip()}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Make a release, and push its chart where a registry is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.release", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "dist", help="where the files go (dist)")
    parser.add_argument("--key", help="name of the key that signs the chart")
    parser.add_argument("--keyring", type=Path, help="file with that key, as gpg --export-secret-keys writes it")
    parser.add_argument("--key-url", metavar="URL", help="where the public key will be, for Artifact Hub")
    parser.add_argument("--home", metavar="URL", help="address of the repository that this is a release of")
    parser.add_argument("--push", metavar="oci://REGISTRY/PATH", help="push the chart there")
    parser.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    arguments = parser.parse_args(argv)
    keyring = arguments.keyring and arguments.keyring.absolute()
    files = make(arguments.folder.absolute(), arguments.key, keyring, home=arguments.home, key_url=arguments.key_url)
    print(*files, sep="\n")
    if arguments.push:
        push(files[1], arguments.push, plain_http=arguments.plain_http)
        print(f"pushed {files[1].name} to {arguments.push}")
    else:
        print("dry run: nothing was published")
    return 0


if __name__ == "__main__":
    sys.exit(main())
