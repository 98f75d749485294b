"""What leaves this package: text for terminals, and files.

Much of the text is not ours (logs, kubectl's words, names of files, values), so all of it goes through :func:`say`.
"""

import errno
import io
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import click

from neva_pretrain.errors import InputError, NevaError

# C0 except tab and line feed, DEL, C1 (ECMA-48); lone surrogates, which no encoding takes; controls of direction
# (Unicode UAX #9) and separators of lines, which show text in another order or place than it has.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb]"
)


def printable(text: str) -> str:
    """Return text that a terminal only shows: whatever would steer it becomes U+FFFD, character by character."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str, err: bool = False, nl: bool = True) -> None:
    """Print text to stdout, or to stderr."""
    click.echo(printable(text), err=err, nl=nl)


def _in_utf_8() -> None:
    """Let what is redirected be UTF-8, as values files are, also where the system's encoding is another (Windows)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors=stream.errors)


class Boundary(click.Command):
    """A command whose refusals end as ``ERROR: ...`` lines and an exit code, also when it is wrongly used."""

    refused: ClassVar[int] = 1
    """Exit code of what this package refuses on purpose."""

    @staticmethod
    def clean(sentence: str) -> str:
        """Return what may be printed of a refusal, which repeats what was given."""
        return sentence

    def failed(self, sentences: list[str]) -> None:
        """Do what else a failure calls for; the sentences say what is wrong."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run and exit, as click does."""
        run: Any = super().main  # its overloads leave no room for a bool
        _in_utf_8()
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        try:
            code = self._run(lambda: run(*args, standalone_mode=False, **extra))
        except OSError as error:
            if error.filename is not None:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the rest of the text goes
            say(f"ERROR: stdout: cannot be written: {error.strerror}", err=True)
            code = self.refused
        sys.exit(code)

    def _run(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except NevaError as error:
            lines = [self.clean(line) for line in error.lines()]
            for line in lines:
                say(f"ERROR: {line}", err=True)
            self.failed(lines)
            return self.refused
        except click.ClickException as error:
            if isinstance(error, click.NoSuchOption):
                error = _suggesting(error)
            error.show(words := io.StringIO())
            say(self.clean(words.getvalue()), err=True, nl=False)
            self.failed([self.clean(error.format_message())])
            return error.exit_code
        except click.Abort:
            self.failed(["interrupted"])
            return 130
        except OSError:
            raise
        except Exception as error:
            self.failed([f"internal error: {type(error).__name__}"])
            raise


_MEANT = {"-o": "--output", "--output": "--format", "--write": "--output", "--copy": "--output"}
"""What an option of another command, another tool or an earlier version stands for."""


def _suggesting(error: click.NoSuchOption) -> click.UsageError:
    """Name the option that was meant, where the command has it."""
    meant = _MEANT.get(error.option_name)
    if meant and error.ctx and any(meant in parameter.opts for parameter in error.ctx.command.params):
        return click.UsageError(f"{error.message} Did you mean '{meant}'?", error.ctx)
    return error


def table(rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """Return rows as lines with columns of one width, set to the right where the first row has such a name."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(rows[0], row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def write(path: Path, content: str | bytes, option: str = "") -> None:
    """Write a file: atomically, with the mode and owner of the one that it replaces, where a link leads to.

    What is no regular file (a pipe, a terminal, ``/dev/stdout``) is written to and stays what it is.

    Args:
        path: the file; its folder must be there.
        content: all of it; text is written as UTF-8.
        option: the option that names the file, for the refusal.

    Raises:
        InputError: it cannot be written; a regular file is then what it was.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    try:
        _write(path, data)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written: {error.strerror}".lstrip()) from None


def write_all(files: Mapping[Path, str], option: str) -> None:
    """Write files of new names, all or none; folders are made.

    Raises:
        InputError: one cannot be written; what was made is gone.
    """
    made: list[Path] = []
    try:
        for path, content in files.items():
            for folder in reversed(path.parents):
                if at(folder) is None:
                    _make(folder, option)
                    made.append(folder)
            if not path.exists():
                write(path, content, option)
                made.append(path)
    except BaseException:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        raise


def _make(folder: Path, option: str) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot be written: {error.strerror}") from None


def at(path: Path) -> os.stat_result | None:
    """Return what is at a path, None where nothing is, or can be: below a file, of too long a name."""
    with suppress(OSError):
        return path.stat()
    return None


def holds_another(path: Path, data: bytes) -> bool:
    """Return whether something else is where a file would be written."""
    old = at(path)
    if old is None or not stat.S_ISREG(old.st_mode):  # a folder, a pipe, a link to nothing
        return os.path.lexists(path)
    try:
        return path.read_bytes() != data
    except OSError:
        return True


def _write(path: Path, data: bytes) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if old is not None and (stream := _standard_stream(old)) is not None:
        _write_all(stream, data)
    elif old is not None and not stat.S_ISREG(old.st_mode):
        with path.open("wb", buffering=0) as file:
            _write_all(file.fileno(), data)
    else:
        _replace(Path(os.path.realpath(path)), data, old)


def _standard_stream(file: os.stat_result) -> int | None:
    """Return the descriptor if the file is what stdout or stderr writes to: its place in there is to be kept."""
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            if os.path.samestat(os.fstat(descriptor), file):
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()
                return descriptor
    return None


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _replace(target: Path, data: bytes, old: os.stat_result | None) -> None:
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".neva-")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=0):  # closed before it is moved: Windows moves no open file
            _write_all(descriptor, data)
            os.fsync(descriptor)
        if old is None:
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
        else:
            if hasattr(os, "chown"):
                with suppress(OSError):  # only root gives files away
                    os.chown(temporary, old.st_uid, old.st_gid)
            temporary.chmod(stat.S_IMODE(old.st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
