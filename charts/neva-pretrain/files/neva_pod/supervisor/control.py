"""The line between the supervisors of a job: JSON objects, one a line, over TCP."""

import json
import select
import socket
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 2**16
"""Bytes of a message; a peer that sends a longer line is not one of ours."""
BEAT_SECONDS = 2.0
"""Seconds between two signs of life, in both directions."""
SILENCE_SECONDS = 60.0
"""Seconds without a sign of life after which a peer counts as lost: its node may be gone without a word."""
TICK_SECONDS = 0.1
"""Seconds that the loops of both sides sleep at most."""
TELL_SECONDS = 30.0
"""Seconds between two lines about what is waited for."""

Message = Mapping[str, Any]


class Channel:
    """One connection, read and written without waiting."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._in = b""
        self._out = b""
        self.closed = False

    def fileno(self) -> int:
        """Return what a selector waits for."""
        return self._socket.fileno()

    def send(self, kind: str, **fields: Any) -> None:
        """Queue a message; what a lost peer does not take is dropped with it."""
        self._out += json.dumps({"kind": kind, **fields}).encode() + b"\n"
        if len(self._out) > 2**20:
            self.closed = True
        self.flush()

    def flush(self) -> None:
        """Write what the peer takes now."""
        try:
            while self._out and not self.closed:
                self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def receive(self) -> list[Message]:
        """Return the messages that have come; sets ``closed`` at the end, and on anything that is not a message."""
        while not self.closed:
            try:
                data = self._socket.recv(LONGEST)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.closed = not data
            self._in += data
            if len(self._in) > 2 * LONGEST:
                break
        *lines, self._in = self._in.split(b"\n")
        messages: list[Message] = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
                self.closed = True
                break
            messages.append(message)
        if len(self._in) > LONGEST:
            self.closed = True
        return messages

    def close(self) -> None:
        """Give the connection up."""
        self.closed = True
        self._socket.close()


def listen(port: int, everywhere: bool) -> socket.socket:
    """Open the master's port: on all addresses of both families, or for this node alone on a free port.

    Raises:
        OSError: the port is in use.
    """
    if not everywhere:
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def readable(waiting: Sequence[Any], seconds: float) -> list[Any]:
    """Return those of the sockets and channels that have something to read; any number of them."""
    poll = select.poll()
    by_number = {item.fileno(): item for item in waiting}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(seconds * 1000)]
