"""What stops a step, in words; and what a step says."""

import contextlib
import errno
import re
from collections.abc import Iterable, Iterator

from neva_pod.findings import Finding, Outcome, ProblemError, UsageError, show
from neva_pod.inputs.files import denied


def say(message: str) -> None:
    """Print a line that a log shows at once."""
    print(f"prepare: {show(message)}", flush=True)


def words(error: BaseException) -> str:
    """Return an error's kind and first line, without the query of an address: it may be signed."""
    text = re.sub(r"\?[^\s'\")]*", "", str(error).strip().split("\n")[0])
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def stop_at(findings: Iterable[Finding]) -> None:
    """Stop the step at the first failed finding."""
    for finding in findings:
        if finding.outcome is Outcome.FAILED:
            raise ProblemError.of(finding)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Name the input that could not be read, whatever its reader stumbles over."""
    try:
        yield
    except (ProblemError, UsageError):
        raise
    except OSError as error:
        raise ProblemError.of(denied(str(error.filename or path), error)) from None
    except Exception as error:
        raise ProblemError(
            f"{show(path)}: damaged, or not of the expected kind: {words(error)}", "copy or download it again"
        ) from None


def unwritten(path: str, error: OSError) -> ProblemError:
    """Say why a file could not be written."""
    again = "and run prepare again: it continues where it stopped"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what, fix = "no space left on its volume, or in its quota", f"make room, {again}"
    elif error.errno == errno.EFBIG:
        what, fix = (
            "larger than the maximum file size here",
            f"raise the limit (ulimit -f) or use another file system, {again}",
        )
    elif error.errno == errno.EROFS:
        what, fix = "its file system is read-only", f"mount it writable, {again}"
    else:
        return ProblemError.of(denied(path, error))
    return ProblemError(f"{show(path)}: cannot be written: {what}", fix)
