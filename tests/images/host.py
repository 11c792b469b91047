"""An image host in memory that records every byte, and the wires that lead to it.

:class:`Network` is the only thing that moves bytes: two ends of a wire have bounded buffers and tell
producers to pause, as sockets do, and everything that happens is in the test's hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

_WINDOW = 64 * 1024


class End:
    """One end of a wire: the transport of a protocol."""

    disconnecting = False

    def __init__(self, network: Network, own: IAddress, peer: IAddress) -> None:
        self.protocol: Any = None
        self.other: End
        self.out = bytearray()
        self.paused = False
        self.closing = False
        self.lost = False
        self.network = network
        self._own, self._peer = own, peer
        self._producer: Any = None
        self._streaming = False
        self._held = False

    def write(self, data: bytes) -> None:
        if self.lost or self.closing:
            return
        self.out += data
        if self._streaming and len(self.out) > _WINDOW and not self._held:
            self._held = True
            self._producer.pauseProducing()

    def writeSequence(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        if not self.lost:
            self.out.clear()
            self.network.cut(self, ConnectionAborted(), ConnectionLost())

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        self._producer, self._streaming = producer, streaming
        if not streaming:
            producer.resumeProducing()
        elif len(self.out) > _WINDOW:
            self._held = True
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer, self._streaming, self._held = None, False, False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def getPeer(self) -> IAddress:
        return self._peer

    def getHost(self) -> IAddress:
        return self._own

    def move(self) -> bool:
        """Hand on some bytes, or the end; return whether anything happened."""
        if self.lost:
            return False
        if self.out and not self.other.paused:
            data = bytes(self.out[:_WINDOW])
            del self.out[:_WINDOW]
            self.other.protocol.dataReceived(data)
            if not self.out and self._producer is not None and (self._held or not self._streaming):
                self._held = False
                self._producer.resumeProducing()
            return True
        if self.closing and not self.out and self._producer is None:
            self.network.cut(self, ConnectionDone(), ConnectionDone())
            return True
        return False


class Network:
    """All wires of a test, and who answers at which address."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ends: list[End] = []
        self.servers: dict[object, Any] = {}
        self._cuts: list[tuple[End, Exception]] = []

    def wire(
        self, client: Any, server: Any, client_at: IAddress | None = None, server_at: IAddress | None = None
    ) -> None:
        """Connect two protocols."""
        here = client_at or IPv4Address("TCP", "192.0.2.1", 40000)
        there = server_at or IPv4Address("TCP", "192.0.2.2", 443)
        near, far = End(self, here, there), End(self, there, here)
        near.other, far.other = far, near
        near.protocol, far.protocol = client, server
        self.ends += [near, far]
        server.makeConnection(far)
        client.makeConnection(near)

    def cut(self, end: End, here: Exception, there: Exception) -> None:
        """End a wire; both protocols hear of it in the next turn."""
        for side, why in ((end, here), (end.other, there)):
            if not side.lost:
                side.lost = True
                self._cuts.append((side, why))

    def pump(self) -> None:
        """Let everything happen that needs no time to pass."""
        for _ in range(100_000):
            cuts, self._cuts = self._cuts, []
            for end, why in cuts:
                self.ends.remove(end)
                end.protocol.connectionLost(Failure(why))
            moved = bool(cuts)
            for end in list(self.ends):
                moved = end.move() or moved
            due = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]
            if due:
                self.clock.advance(0)
            if not moved and not due:
                return
        raise AssertionError("the network does not come to rest")


@define
class Seen:
    """One request as the host saw it."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes = b""
    whole: bool = False

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Plan = Callable[["HostConnection", Seen], None]


@define(eq=False)
class ImageHost:
    """Serves images from memory as the image daemon does, unless a plan says what to do instead.

    :ivar plans: each is used up by one request; called once its head is in.
    :ivar late: likewise, called once its body is in.
    :ivar wire: every byte that came, per connection.
    """

    images: dict[str, bytearray] = field(factory=dict)
    features: tuple[str, ...] = ("checksum", "extents", "flush", "zero")
    more: dict[str, Any] = field(factory=lambda: {"max_readers": 8, "max_writers": 8})
    plans: list[Plan | None] = field(factory=list)
    late: list[Plan] = field(factory=list)
    seen: list[Seen] = field(factory=list)
    wire: list[bytearray] = field(factory=list)
    connections: list[HostConnection] = field(factory=list)
    name: str | None = None

    def buildProtocol(self, address: object) -> HostConnection:
        return HostConnection(self)

    @property
    def said(self) -> list[str]:
        """Methods and targets, in order."""
        return [f"{seen.method} {seen.target}" for seen in self.seen]


class HostConnection(Protocol):
    """One connection to the host; reads heads as simply as the daemon does."""

    transport: Any

    def __init__(self, host: ImageHost) -> None:
        self.host = host
        self.gone = False
        self._rest = b""
        self._request: Seen | None = None
        self._left = 0
        self._planned = False
        self._wire = bytearray()
        host.wire.append(self._wire)
        host.connections.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True

    def dataReceived(self, data: bytes) -> None:
        self._wire += data
        self._rest += data
        while self._rest:
            if self._request is None:
                if b"\r\n\r\n" not in self._rest:
                    return
                self._begin()
            request = self._request
            if request is not None:
                piece = self._rest[: self._left]
                self._rest = self._rest[self._left :]
                self._left -= len(piece)
                request.body += piece
                if not self._left:
                    self._end(request)
                elif not self._rest:
                    return

    def _begin(self) -> None:
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        fields = dict(line.split(": ", 1) for line in lines)
        self._request = request = Seen(method, target, fields)
        self.host.seen.append(request)
        self._left = int(fields.get("content-length", 0))
        plan = self.host.plans.pop(0) if self.host.plans else None
        self._planned = plan is not None
        if plan is not None:
            plan(self, request)
        if not self._left and self._request is request:
            self._end(request)

    def _end(self, request: Seen) -> None:
        self._request = None
        request.whole = True
        if not self._planned:
            (self.host.late.pop(0) if self.host.late else HostConnection.serve)(self, request)

    # -- answers ---------------------------------------------------------------------------

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **fields: object) -> None:
        """Send an answer; *length* lies about the body."""
        lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body) if length is None else length}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("utf-8") + body)

    def die(self) -> None:
        """Vanish without a word."""
        self.transport.network.cut(self.transport, ConnectionLost(), ConnectionLost())

    def serve(self, request: Seen) -> None:
        """Answer as the daemon does."""
        image = self.host.images.get(request.path.split("/")[2])
        if image is None:
            self.answer(403, b"You are not allowed to access this resource: No such ticket\n")
        elif "/extents" in request.target:
            self._json([{"start": 0, "length": len(image), "zero": False, "hole": False}])
        elif "/checksum" in request.target:
            self._json({"algorithm": "blake2b", "block_size": 4194304, "checksum": "00"})
        elif request.method == "GET":
            self._get(request, image)
        elif request.method == "OPTIONS":
            self._json(
                {"features": list(self.host.features), **self.host.more}, allow="OPTIONS,GET,PUT,PATCH"
            )
        elif request.method == "PUT":
            start = int((re.findall(r"bytes (\d+)-", request.fields.get("content-range", "")) or ["0"])[0])
            image[start : start + len(request.body)] = request.body
            self.answer(200)
        elif request.method == "PATCH":
            patch = json.loads(request.body)
            if patch["op"] == "zero":
                image[patch["offset"] : patch["offset"] + patch["size"]] = bytes(patch["size"])
            self.answer(200)
        else:
            self.answer(405)

    def _json(self, value: object, **fields: Any) -> None:
        self.answer(200, json.dumps(value).encode() + b"\n", content_type="application/json", **fields)

    def _get(self, request: Seen, image: bytearray) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.fields.get("range", ""))
        disposition: Any = {} if self.host.name is None else {"content_disposition": self.host.name}
        if wanted is None:
            self.answer(200, bytes(image), None, **disposition)
            return
        start, last = int(wanted[1]), int(wanted[2] or len(image) - 1)
        if start >= len(image) or last >= len(image):
            self.answer(416, b"Requested range not satisfiable\n", content_range=f"bytes */{len(image)}")
            return
        body = bytes(image[start : last + 1])
        self.answer(206, body, None, content_range=f"bytes {start}-{last}/{len(image)}", **disposition)


# -- plans -------------------------------------------------------------------------------------


def say(status: int, body: bytes = b"", length: int | None = None, **fields: object) -> Plan:
    """Answer so, at once."""
    return lambda connection, request: connection.answer(status, body, length, **fields)


def raw(data: bytes) -> Plan:
    """Send exactly these bytes, at once."""
    return lambda connection, request: connection.transport.write(data)


def silent(connection: HostConnection, request: Seen) -> None:
    """Never answer."""


def deaf(connection: HostConnection, request: Seen) -> None:
    """Stop reading, and never answer."""
    connection.transport.pauseProducing()


def dies(connection: HostConnection, request: Seen) -> None:
    """Vanish before anything of the answer was sent."""
    connection.die()


def dies_after(amount: int) -> Plan:
    """Answer as usual, but vanish after *amount* bytes of the body, sent and delivered."""

    def plan(connection: HostConnection, request: Seen) -> None:
        end = connection.transport
        start = len(end.out)
        connection.serve(request)
        head = end.out.find(b"\r\n\r\n", start) + 4
        del end.out[head + amount :]
        while end.out:
            end.other.protocol.dataReceived(bytes(end.out[:_WINDOW]))
            del end.out[:_WINDOW]
        connection.die()

    return plan


def unix_address(path: str) -> IAddress:
    return UNIXAddress(path)
