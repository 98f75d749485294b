"""Lines that say something about the run's health."""

from collections.abc import Iterator

from neva_pod.monitor.patterns import ANSI, HEADER, NEEDLES, PREFIX, RAISED, RANK, RULES
from neva_pod.monitor.records import Kind, Notice

MAX_EVIDENCE = 300
"""Characters of a log line that are kept as evidence."""
MAX_TRACEBACKS = 4096
"""Tracebacks, one a rank, that may be open at a time."""
MAX_TRACEBACK_LINES = 2000
"""Lines after which an exception that does not come is no longer waited for."""


def _line_of(raw: bytes) -> tuple[str, str, int | None]:
    """Return a line as text, what follows the prefixes of it, and the rank that it names."""
    line = ANSI.sub(b"", raw).decode("utf-8", "replace").rstrip()
    prefix = PREFIX.match(line)
    named = RANK.search(line)
    return line, line[prefix.end() :] if prefix else line, int(next(filter(None, named.groups()))) if named else None


class Notices:
    """Finds the lines that say something; remembers the tracebacks that are open, by rank."""

    def __init__(self) -> None:
        self._open: dict[int | None, int] = {}
        self._unfinished: Notice | None = None
        self._consequences = False

    def of(self, lines: list[bytes]) -> Iterator[Notice]:
        """Return the notices of these lines, in order."""
        if not self._open and self._unfinished is None:
            text = b"\n".join(lines)
            if not any(needle in text for needle in NEEDLES):
                return
        for raw in lines:
            if self._unfinished is not None and raw.strip():
                if longer := self._continued(raw):
                    yield longer
                self._unfinished = None
            if self._open or any(needle in raw for needle in NEEDLES):
                notice = self._notice(raw)
                if notice is not None:
                    yield notice
                    if notice.kind is Kind.TRACEBACK and notice.line.endswith(":") and HEADER not in notice.line:
                        self._unfinished = notice

    def _continued(self, raw: bytes) -> Notice | None:
        """Return an exception again, with the line below that says what its own only announces."""
        notice = self._unfinished
        line, body, rank = _line_of(raw)
        body = body.strip()
        if notice is None or rank != notice.rank or HEADER in line or not any(map(str.isalnum, body)):
            return None
        return notice._replace(line=f"{notice.line} {body}"[:MAX_EVIDENCE])

    def _notice(self, raw: bytes) -> Notice | None:
        line, body, rank = _line_of(raw)
        raised = self._is_raised(body, rank)
        for kind, pattern in RULES:
            match = pattern.search(body if pattern.pattern.startswith("^") else line)
            if match is None:
                continue
            if kind is Kind.FAILED_RANK and self._consequences:
                return None
            groups = match.groupdict()
            named = rank if groups.get("rank") is None else int(groups["rank"])
            value = groups.get("value")
            if kind is Kind.TRACEBACK and HEADER in line:
                self._begin(rank)
            start = max(0, match.start() - MAX_EVIDENCE // 2) if len(line) > MAX_EVIDENCE else 0
            evidence = line[start : start + MAX_EVIDENCE].strip()
            return Notice(kind, evidence, named, None if value is None else int(value), raised)
        if body.startswith(("Failures:", "Root Cause")):  # torchrun lists the ranks that it saw fail later first
            self._consequences = body.startswith("F")
        return Notice(Kind.TRACEBACK, line[:MAX_EVIDENCE].strip(), rank, raised=True) if raised else None

    def _begin(self, rank: int | None) -> None:
        if len(self._open) < MAX_TRACEBACKS:
            self._open[rank] = MAX_TRACEBACK_LINES

    def _is_raised(self, body: str, rank: int | None) -> bool:
        """Tell whether the line is the exception that an open traceback ends with, by whatever name."""
        left = self._open.get(rank)
        if left is None:
            return False
        self._open[rank] = left - 1
        raised = bool(RAISED.match(body))
        if raised or left <= 1:
            del self._open[rank]
        return raised
