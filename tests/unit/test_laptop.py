"""What a laptop does (generate, check, plan, report) runs on macOS and Windows, too.

Here is Linux, so each command runs once as it is, once without what Windows lacks: modules, functions, signals,
``select`` of pipes, moves of open files; paths are shown with backslashes, and stdout has a code page; and once without
what macOS lacks: /proc, and some functions.
"""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import neva_pretrain
from tests.unit.monitor.nemo_logs import bar

WINDOWS = r"""
import os, pathlib, select, signal, sys, warnings
import click, jsonschema, rich.console, rich.live, subprocess, tempfile, yaml  # theirs is what their authors test

for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("O_NONBLOCK", "chown", "fchmod", "fchown", "fork", "getegid", "geteuid", "getgid", "getuid", "killpg",
             "mkfifo", "set_blocking", "setsid", "sysconf", "uname"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)

def no_socket(*_):
    raise OSError(10038, "An operation was attempted on something that is not a socket")

select.select = no_socket
replace = os.replace

def replace_closed(source, target, **more):
    for file in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{file}") and os.path.samefile(f"/proc/self/fd/{file}", source):
            raise PermissionError(13, "The process cannot access the file because it is being used", source)
    replace(source, target, **more)

os.replace = replace_closed

class WindowsPath(pathlib.PosixPath):
    # opened by its real name, shown as Windows does
    def __str__(self): return super().__str__().replace("/", "\\")
    def __fspath__(self): return super().__str__()
    def as_posix(self): return super().__str__()

pathlib.Path = pathlib.WindowsPath = WindowsPath
os.name, sys.platform = "nt", "win32"
warnings.filterwarnings("error", category=EncodingWarning, module="neva_")
"""

MACOS = r"""
import builtins, io, os, pathlib, sys
import click, jsonschema, rich.console, rich.live, subprocess, tempfile, yaml  # theirs is what their authors test

for name in ("copy_file_range", "eventfd", "getrandom", "memfd_create", "pipe2", "posix_fadvise", "posix_fallocate",
             "sched_getaffinity", "sched_setaffinity", "sendfile", "setresuid", "splice"):
    delattr(os, name)

def only_macos(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(("/proc", "/sys", "/dev/shm")):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

sys.addaudithook(only_macos)
sys.platform = "darwin"
"""

CALL = "from neva_pretrain.cli.{} import main; main()"


def call(module: str, arguments: list[str], folder: Path, before: str = "", stdin: str = "") -> tuple[int, str]:
    """Run a command in a folder; return its exit code and output."""
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", before + CALL.format(module), *arguments],
        cwd=folder,
        env=os.environ | ({"PYTHONIOENCODING": "cp1252"} if before else {"PYTHONIOENCODING": "utf-8"}),
        input=stdin.encode(),
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.yaml").write_text("env: {NOTE: 视觉 é}\n", encoding="utf-8")
    (tmp_path / "values.yaml").write_text("training: {nodes: 2}\n", encoding="utf-8")
    (tmp_path / "bad.yaml").write_text("training: {nodes: 16, globalBatchSize: 300}\n", encoding="utf-8")
    (tmp_path / "train.log").write_text("".join(bar(n, loss=2.0) for n in range(40)), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "code"),
    [
        ("main", ["--gpus", "128"], 0),
        ("main", ["--gpus", "16", "--model", "llama2_13b_chat", "--site", "site.yaml", "--optimize"], 0),
        ("main", ["--gpus", "12"], 1),
        ("main", ["check", "values.yaml", "bad.yaml"], 1),
        ("main", ["check", "-o", "json", "values.yaml"], 0),
        ("main", ["plan", "--gpus", "64"], 0),
        ("main", ["plan", "--gpus", "64", "-o", "json"], 0),
        ("main", ["models"], 0),
        ("main", ["preflight", "--help"], 0),
        ("monitor", ["train.log", "--once", "-f", "values.yaml"], 0),
        ("monitor", ["-", "--once"], 0),
        ("monitor", ["-"], 3),
    ],
    ids=str,
)
def test_the_same_words_as_here(folder: Path, module: str, arguments: list[str], code: int) -> None:
    log = (folder / "train.log").read_text(encoding="utf-8") if module == "monitor" else ""
    here = call(module, arguments, folder, stdin=log)
    assert here[0] == code
    assert here[1]
    assert call(module, arguments, folder, WINDOWS, stdin=log) == here
    assert call(module, arguments, folder, MACOS, stdin=log) == here


@pytest.mark.slow
@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["Windows", "macOS"])
def test_all_of_the_package_is_imported(folder: Path, system: str) -> None:
    names = sorted(module.name for module in pkgutil.walk_packages(neva_pretrain.__path__, "neva_pretrain."))
    assert len(names) > 60
    code = f"{system}\nimport importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_files_are_written_and_replaced(folder: Path) -> None:
    """Values below a folder, twice, and the monitor's page."""
    (folder / "made").mkdir()
    copy = ["chart", "--output", "here"]
    code, said = call("main", copy, folder, WINDOWS)
    assert (code, said.replace("\\", "/")) == call("main", copy, folder)
    arguments = ["--gpus", "8", "--site", "site.yaml", "--output", "made/values.yaml"]
    for _ in range(2):
        assert call("main", arguments, folder, WINDOWS) == (0, "")
    there = (folder / "made" / "values.yaml").read_bytes()
    assert call("main", arguments, folder) == (0, "")
    assert (folder / "made" / "values.yaml").read_bytes() == there
    assert "视觉".encode() in there
    assert there.startswith(b"# yaml-language-server: $schema=file:///")
    assert call("monitor", ["train.log", "--once", "--html", "report.html"], folder, WINDOWS)[0] == 0
    assert (folder / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    sweep = ["--gpus", "8", "--sweep", "lr=1e-3,2e-3", "--output", "made/sweep"]
    assert call("main", sweep, folder, WINDOWS) == (0, "")
    assert call("main", sweep, folder) == (0, "")
    assert sorted(path.name for path in (folder / "made").rglob("*.yaml")) == [
        "neva-lr-1e-3.yaml",
        "neva-lr-2e-3.yaml",
        "values.yaml",
    ]
