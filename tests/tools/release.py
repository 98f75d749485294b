"""Make a release: ``python -m tests.tools.release [--key NAME --keyring FILE] [--push oci://REGISTRY/PATH]``.

Wheel, chart package, its signature and checksums, of one version. Without ``--push`` nothing leaves this machine.
"""

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from neva_pretrain import chart
from tests.tools.build import ensure
from tests.tools.made import ROOT

SUMS = "SHA256SUMS"


def make(folder: Path, key: str | None = None, keyring: Path | None = None) -> list[Path]:
    """Make the files of a release and return them: the wheel, the chart, its signature if there is a key, checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    version = yaml.safe_load((ROOT / chart.CHART / "Chart.yaml").read_text("utf-8"))["version"]
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    ring = ["--keyring", str(keyring)] if keyring else []
    _helm("package", chart.CHART, "-d", str(folder), *(["--sign", "--key", key, *ring] if key else []))
    package = folder / f"neva-pretrain-{version}.tgz"
    files = [folder / f"neva_pretrain-{version}-py3-none-any.whl", package]
    if key:
        _helm("verify", str(package), *ring)
        files.append(package.with_name(f"{package.name}.prov"))
    sums = folder / SUMS
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    sums.write_text("".join(lines), "utf-8")
    return [*files, sums]


def push(package: Path, registry: str, *, plain_http: bool = False) -> None:
    """Push a chart, with the signature that lies beside it."""
    _helm("push", str(package), registry, *(["--plain-http"] if plain_http else []))


def _helm(*arguments: str) -> None:
    _run(str(ensure("helm")[0]), *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ERROR: {Path(command[0]).name} {command[1]}: {done.stderr.strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Make a release, and push its chart where a registry is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.release", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "dist", help="where the files go (dist)")
    parser.add_argument("--key", help="name of the key that signs the chart")
    parser.add_argument("--keyring", type=Path, help="file with that key, as gpg --export-secret-keys writes it")
    parser.add_argument("--push", metavar="oci://REGISTRY/PATH", help="push the chart there")
    parser.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    arguments = parser.parse_args(argv)
    files = make(arguments.folder.absolute(), arguments.key, arguments.keyring and arguments.keyring.absolute())
    print(*files, sep="\n")
    if arguments.push:
        push(files[1], arguments.push, plain_http=arguments.plain_http)
        print(f"pushed {files[1].name} to {arguments.push}")
    else:
        print("dry run: nothing was published")
    return 0


if __name__ == "__main__":
    sys.exit(main())
