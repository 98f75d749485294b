"""The language server that editors show values files with, as npm has it."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tools.build import cache_root
from tests.waiting import ended

HERE = Path(__file__).parent / "yaml-language-server"
SETTINGS = {"yaml": {"schemaStore": {"enable": False}, "validate": True}}  # nothing is fetched


def _program() -> Path:
    """Return the server's program, installed once; skip the test where npm is not installed."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    version = json.loads((HERE / "package.json").read_text("utf-8"))["dependencies"][HERE.name]
    folder = cache_root() / "npm" / f"{HERE.name}-{version}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            shutil.copytree(HERE, made)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=made, check=True, capture_output=True)
            made.replace(folder)
    return folder / "node_modules" / HERE.name / "bin" / HERE.name


class Editor:
    """A client that opens files and reads what the server says of them."""

    def __init__(self, server: "subprocess.Popen[bytes]") -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._to, self._from = server.stdin, server.stdout
        self._opened = 0

    def complaints(self, file: Path, text: str | None = None) -> list[str]:
        """Open a file, or a text in its place, and return the messages that an editor would show."""
        self._opened += 1
        address = file.with_name(f"{self._opened}-{file.name}").as_uri()  # what is said of others comes late, and twice
        said = text if text is not None else file.read_text("utf-8")
        document = {"uri": address, "languageId": "yaml", "version": 1, "text": said}
        self.send(method="textDocument/didOpen", params={"textDocument": document})
        while True:
            message = self.receive()
            if message.get("method") == "workspace/configuration":
                settings = [SETTINGS.get(item["section"], {}) for item in message["params"]["items"]]
                self.send(id=message["id"], result=settings)
            elif message.get("method") == "textDocument/publishDiagnostics" and message["params"]["uri"] == address:
                return [diagnostic["message"] for diagnostic in message["params"]["diagnostics"]]

    def send(self, **message: Any) -> None:
        """Send a message."""
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._to.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._to.flush()

    def receive(self) -> dict[str, Any]:
        """Return the server's next message."""
        length = 0
        while (line := self._from.readline().strip()) or not length:
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return dict(json.loads(self._from.read(length)))


@contextmanager
def opened() -> Iterator[Editor]:
    """Run a server and greet it."""
    command = ["node", str(_program()), "--stdio"]
    with ended(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as server:
        editor = Editor(server)
        editor.send(id=1, method="initialize", params={"processId": None, "rootUri": None, "capabilities": {}})
        while editor.receive().get("id") != 1:
            pass
        editor.send(method="initialized", params={})
        editor.send(method="workspace/didChangeConfiguration", params={"settings": SETTINGS})
        yield editor
