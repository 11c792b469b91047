"""A libvirtd in memory: it greets as the real one does, and answers when the test says so.

What it sends and takes are real messages; the connection under test is the genuine one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateway import errors
from gateway.rpc.connection import LibvirtConnection
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message, MessageReader, Status, Type, pack_error
from gateway.wire.libvirt_schema import PROCEDURES, PROGRAMS, procedure
from gateway.wire.libvirt_url import parse_url

URL = parse_url("test+unix:///default?socket=/run/fake")
DOM = {"name": "test", "uuid": "6695eb01-f6a4-8304-79aa-97f2502e193f", "id": 1}

#: What is answered at once, by procedure.
GREETING: Mapping[str, Mapping[str, object]] = {
    "AUTH_LIST": {"types": [0]},
    "CONNECT_SUPPORTS_FEATURE": {"supported": 0},
    "CONNECT_OPEN": {},
    "CONNECT_GET_LIB_VERSION": {"lib_ver": 9_000_000},
}


@define(eq=False)
class Asked:
    """A call that has arrived."""

    peer: FakePeer
    message: Message
    name: str
    arguments: dict[str, Any]

    def answer(self, **values: object) -> None:
        """Send the result."""
        known = procedure(self.name)
        self._send(Status.OK, known.results.pack(values))

    def refuse(self, code: int, text: str = "no") -> None:
        """Send an error."""
        self.fail(LibvirtError(code, 12, text))

    def fail(self, error: LibvirtError) -> None:
        """Send *error*."""
        self._send(Status.ERROR, pack_error(error))

    def hand_over(self, descriptor: int) -> None:
        """Answer with a descriptor and nothing else."""
        self.peer.client.fileDescriptorReceived(descriptor)
        self._send(Status.OK, b"", descriptors=1)

    def _send(self, status: int, payload: bytes, descriptors: int = 0) -> None:
        if self in self.peer.asked:
            self.peer.asked.remove(self)
        kind = Type.REPLY_WITH_FDS if descriptors else Type.REPLY
        reply = self.message._replace(type=kind, status=status, payload=payload, descriptors=descriptors)
        self.peer.client.dataReceived(reply.pack() + bytes(descriptors))


@define(eq=False)
class FakePeer:
    """The daemon's end of one connection, and the transport of ours.

    :ivar asked: calls without an answer, in order; *came* all of them.
    :ivar opened: the name and the flags of the open call.
    :ivar streamed: what arrived of streams.
    :ivar reading: what it says is taken.
    :ivar producer: who is told when the daemon takes nothing.
    :ivar chokes: whatever is written is the last that it takes.
    """

    daemon: FakeLibvirtd
    client: LibvirtConnection
    readonly: bool
    asked: list[Asked] = field(factory=list)
    came: list[Asked] = field(factory=list)
    opened: tuple[str | None, int] | None = None
    streamed: list[Message] = field(factory=list)
    lost: bool = False
    reading: bool = True
    producer: Any = None
    chokes: bool = False
    _reader: MessageReader = field(factory=MessageReader)

    def lose(self, reason: type[Exception] = ConnectionLost) -> None:
        """End the connection."""
        if not self.lost:
            self.lost = True
            self.client.connectionLost(Failure(reason()))

    def tell(self, name: str, **values: object) -> None:
        """Send an event."""
        event = procedure(name)
        payload = event.arguments.pack(values)
        message = Message(PROGRAMS["remote"], 1, event.number, Type.EVENT, 0, Status.OK, payload)
        self.client.dataReceived(message.pack())

    # -- the transport -----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if not self.lost:
                self._take(message)
        if self.chokes and self.producer is not None:
            self.producer.pauseProducing()

    def loseConnection(self) -> None:
        self.daemon.clock.callLater(0, self.lose, ConnectionDone)

    def abortConnection(self) -> None:
        self.lose()

    def pauseProducing(self) -> None:
        """The daemon never says more than is read."""
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def _take(self, message: Message) -> None:
        if message.type != Type.CALL:
            self.streamed.append(message)
            return
        known = PROCEDURES[message.program, message.procedure]
        asked = Asked(self, message, known.name, known.arguments.unpack(message.payload))
        self.came.append(asked)
        if known.name == "CONNECT_OPEN":
            self.opened = (asked.arguments["name"], asked.arguments["flags"])
        values = self.daemon.answers.get(known.name)
        if self.daemon.frozen or values is None:
            self.asked.append(asked)
            self.daemon.arrived.append(asked)
        else:
            try:
                results = values(asked.arguments) if callable(values) else values
            except LibvirtError as error:
                asked.fail(error)
            else:
                asked.answer(**results)


@define(eq=False)
class FakeLibvirtd:
    """Makes connections by :meth:`dial`.

    :ivar answers: by procedure, what is answered at once; all else waits in :attr:`asked`.
    :ivar failure: why nobody can connect.
    :ivar frozen: it takes connections, and says nothing.
    :ivar dialed: when somebody tried to connect.
    """

    clock: Clock
    answers: dict[str, Mapping[str, object] | Callable[[dict[str, Any]], Mapping[str, object]]] = field(
        factory=lambda: dict(GREETING)
    )
    failure: errors.GatewayError | None = None
    frozen: bool = False
    dialed: list[float] = field(factory=list)
    peers: list[FakePeer] = field(factory=list)
    arrived: list[Asked] = field(factory=list)

    @property
    def live(self) -> list[FakePeer]:
        """Connections that are not lost."""
        return [peer for peer in self.peers if not peer.lost]

    @property
    def asked(self) -> list[Asked]:
        """Calls without an answer on live connections, in the order they came in."""
        return [it for it in self.arrived if it in it.peer.asked and not it.peer.lost]

    def take(self, client: LibvirtConnection, readonly: bool) -> FakePeer:
        """Be the other end of a connection."""
        peer = FakePeer(self, client, readonly)
        self.peers.append(peer)
        client.makeConnection(peer)
        return peer

    async def dial(self, readonly: bool) -> LibvirtConnection:
        """Connect, after one turn of the clock."""
        turn: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self.clock.callLater(0, turn.callback, None)
        await turn
        self.dialed.append(self.clock.seconds())
        if self.failure is not None:
            raise self.failure
        client = LibvirtConnection(self.clock)
        self.take(client, readonly)
        return client

    def die(self) -> None:
        """Lose all connections."""
        for peer in self.live:
            peer.lose()
