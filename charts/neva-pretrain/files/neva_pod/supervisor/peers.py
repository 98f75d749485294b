"""The nodes' agents, as the coordinator sees them."""

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from neva_pod.findings import show
from neva_pod.supervisor.control import BEAT_SECONDS, SILENCE_SECONDS, Channel, Message, readable
from neva_pod.supervisor.node import WRONG, Node


@dataclass
class Peer:
    """A node's agent, by its last messages."""

    channel: Channel
    heard: float
    rank: int = -1
    pod: str = ""
    where: str = ""
    identity: tuple[str, int] = ("", 0)
    told: int = 0
    """The attempt that it was last told to start."""
    attempt: int = 0
    """The attempt that its last message is of."""
    running: bool = False
    stacked: int = 0
    """The attempt whose stacks it has written."""
    code: int | None = None
    leaving: bool = False
    parted: bool = False
    """It was told the end."""

    @property
    def ended(self) -> bool:
        """Whether it has started what it was told, and no torchrun runs there any more."""
        return self.attempt == self.told and not self.running

    @property
    def name(self) -> str:
        """Name the node for a person."""
        return f"node {self.rank} ({self.pod or 'no pod name'}{f' on {self.where}' if self.where else ''})"


class Lost(NamedTuple):
    """A node is gone, or came again."""

    peer: Peer
    why: str


class Wrong(NamedTuple):
    """A node cannot work, and no other start would change that."""

    peer: Peer
    why: str


class Trouble(NamedTuple):
    """A node sees that its ranks do not move."""

    peer: Peer
    why: str


class Peers:
    """All nodes of the job that are connected, each once."""

    def __init__(self, node: Node, server: socket.socket) -> None:
        self._node, self._server = node, server
        self._strangers: list[Peer] = []
        self._pinged = 0.0
        self.all: list[Peer] = []

    def hear(self, seconds: float) -> Iterator[Lost | Wrong | Trouble]:
        """Wait for messages, take them, and yield what must be acted upon."""
        known = [p.channel for p in [*self.all, *self._strangers] if not p.channel.closed]
        ready = readable([self._server, *known], seconds)
        now = time.monotonic()
        if self._server in ready:
            with contextlib.suppress(OSError):  # gone again already
                connection, _ = self._server.accept()
                self._strangers.append(Peer(Channel(connection), now))
        for peer in [*self.all, *self._strangers]:
            if peer.channel in ready:
                for message in peer.channel.receive():
                    peer.heard = now
                    try:
                        yield from self._take(peer, message)
                    except (KeyError, TypeError, ValueError):  # not one of ours
                        peer.channel.close()
        if now - self._pinged > BEAT_SECONDS:
            self._pinged = now
            self.send("ping")
        for peer in self.all:
            peer.channel.flush()
        yield from self._drop_silent(now)

    def send(self, kind: str, **fields: Any) -> None:
        """Tell all nodes."""
        for peer in self.all:
            peer.channel.send(kind, **fields)

    def drop(self, peer: Peer) -> None:
        """Give a node up; it may come again."""
        peer.channel.close()
        self.all.remove(peer)

    def close(self) -> None:
        """Close the port and all connections."""
        for peer in [*self.all, *self._strangers]:
            peer.channel.close()
        self._server.close()

    def _take(self, peer: Peer, message: Message) -> Iterator[Lost | Wrong | Trouble]:
        kind = message["kind"]
        if peer.rank < 0:
            if kind != "hello":
                raise ValueError(kind)
            yield from self._greet(peer, message)
        elif kind == "beat":
            peer.attempt, peer.running = int(message["attempt"]), bool(message["running"])
            peer.code, peer.leaving = message["code"], bool(message["leaving"])
        elif kind == "stacks":
            peer.stacked = peer.told
        elif kind == "wrong":
            yield Wrong(peer, str(message["why"]))
        elif kind == "trouble":
            yield Trouble(peer, str(message["why"]))

    def _greet(self, peer: Peer, message: Message) -> Iterator[Lost]:
        """Let a node in. A node that comes again has the place of its former self: the newest is the living one."""
        rank, digest = message["rank"], message["digest"]
        if digest != self._node.digest or not isinstance(rank, int) or not 0 <= rank < self._node.nodes:
            why = f"ERROR: the master runs another job: got rank {rank} of {digest}; must be of {self._node.digest}"
            peer.channel.send("foreign", code=WRONG, why=f"{why}; check rendezvous.port and hostNetwork")
            peer.channel.close()
            return
        peer.rank, peer.pod, peer.where = rank, show(str(message["pod"])), show(str(message["name"]))
        peer.told = peer.attempt = int(message["attempt"])
        peer.identity = (str(message["uid"]), int(message["pid"]))
        self._strangers.remove(peer)
        for other in [p for p in self.all if p.rank == rank]:
            if other.identity != peer.identity:
                why = f"ERROR: rank {rank}: also claimed by {peer.name}; must be one node's; check the job's replicas"
                other.channel.send("end", code=WRONG, why=why)
            self.drop(other)
            yield Lost(other, f"{other.name} came again as {peer.name}")
        self.all.append(peer)

    def _drop_silent(self, now: float) -> Iterator[Lost]:
        for peer in list(self._strangers):
            if peer.channel.closed or now - peer.heard > SILENCE_SECONDS:
                peer.channel.close()
                self._strangers.remove(peer)
        for peer in list(self.all):
            silent = now - peer.heard
            if peer.channel.closed or silent > SILENCE_SECONDS:
                self.drop(peer)
                gone = "is gone" if peer.channel.closed and silent < SILENCE_SECONDS else "has said nothing"
                yield Lost(peer, f"{peer.name} {gone}" + (f" for {silent:.0f} s" if gone != "is gone" else ""))
