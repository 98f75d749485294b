"""Keys that sign for a test."""

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

SIGNER = "neva-pretrain test"


class Rings(NamedTuple):
    """Two files, as Helm reads them, and the key's name for others."""

    secret: Path
    public: Path
    fingerprint: str


def make(home: Path) -> Rings:
    """Make a key without a passphrase in a new folder; skip the test where gpg is not installed."""
    home.mkdir(mode=0o700)
    try:
        _gpg(home, "--quick-generate-key", SIGNER, "rsa3072", "sign", "1d")
        (fingerprint,) = (file.stem for file in (home / "openpgp-revocs.d").iterdir())
        rings = Rings(home / "secret.gpg", home / "public.gpg", fingerprint)
        rings.secret.write_bytes(_gpg(home, "--export-secret-keys"))
        rings.public.write_bytes(_gpg(home, "--export"))
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not installed")
    return rings


def _gpg(home: Path, *arguments: str) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout
