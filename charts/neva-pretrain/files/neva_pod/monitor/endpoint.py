"""A small HTTP endpoint that no client can block: one thread, a deadline for each connection, and a bound on them.

Anyone in the cluster may connect, and half-open connections must not cost threads or keep Prometheus waiting.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

DEADLINE_SECONDS = 5.0
"""Time for a request and its answer; Prometheus gives up after 10 s by default."""

MAX_CONNECTIONS = 512
"""Connections that may wait for their request; beyond that the oldest is closed."""

SPARED_SECONDS = 1.0
"""A connection younger than this is never the one to be closed."""

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""

MAX_LINE = 8192
MAX_HEADERS = 100

Answer = Callable[[], tuple[str, str]]
"""Returns content type and text."""


class Endpoint:
    """Serves GET and HEAD of a few paths until :meth:`stop`."""

    def __init__(self, listen: tuple[str, int], answers: Mapping[str, Answer]) -> None:
        """Bind the address; an empty host means all addresses.

        Raises:
            OSError: the address is in use or not this machine's.

        """
        both = not listen[0] and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both or ":" in listen[0] else socket.AF_INET
        self._socket = socket.create_server(listen, family=family, backlog=BACKLOG, dualstack_ipv6=both)
        self._answers = answers
        self._waiting: dict[asyncio.StreamWriter, float] = {}
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def port(self) -> int:
        """The port that is served, also where 0 was asked for."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Serve from a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and wait for the thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.set_exception_handler(lambda *_: None)  # a client that leaves early is no news
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._socket, limit=MAX_LINE, backlog=BACKLOG)
        await self._stopped.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._make_room()
        self._waiting[writer] = time.monotonic()
        try:
            await asyncio.wait_for(self._exchange(reader, writer), DEADLINE_SECONDS)
            writer.close()
        except (OSError, ValueError, EOFError, asyncio.TimeoutError):
            writer.transport.abort()
        finally:
            self._waiting.pop(writer, None)

    def _make_room(self) -> None:
        """Close the connections that have waited longest, where there are too many."""
        latest = time.monotonic() - SPARED_SECONDS
        while len(self._waiting) >= MAX_CONNECTIONS:
            writer, since = next(iter(self._waiting.items()))
            if since > latest:
                return
            del self._waiting[writer]
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, *_ = *(await reader.readline()).split(), b"", b""
        for _ in range(MAX_HEADERS):
            line = await reader.readline()
            if not line.strip():
                break
        else:
            raise ValueError("too many headers")
        if not line:
            raise EOFError("the client left")
        answer = self._answers.get(target.split(b"?")[0].decode("latin-1"))
        if method not in (b"GET", b"HEAD"):
            status, (kind, text) = HTTPStatus.METHOD_NOT_ALLOWED, ("text/plain", "GET only\n")
        elif answer is None:
            status, (kind, text) = HTTPStatus.NOT_FOUND, ("text/plain", f"see {' '.join(self._answers)}\n")
        else:
            status, (kind, text) = HTTPStatus.OK, answer()
        body = text.encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + (b"" if method == b"HEAD" else body))
        await writer.drain()
