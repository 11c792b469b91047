"""The other end of a connection to a hypervisor, in memory: a test plays it message by message."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gateway.rpc.connection import LibvirtConnection
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import Message, MessageReader, Status, Type, pack_error
from gateway.wire.libvirt_schema import PROCEDURES, procedure

DOM = {"name": "test", "uuid": "6695eb01-f6a4-8304-79aa-97f2502e193f", "id": 1}


class Wire(StringTransport):
    """A transport that notes how it is ended, and each write by itself.

    :ivar writes: what was written, write by write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False

    @property
    def feeds(self) -> Any:
        """Its producer, which there is."""
        assert self.producer is not None
        return self.producer

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class WireCase(SynchronousTestCase):
    """A connection and its other end.

    :ivar events: what was told of events; *lost* why the connection ended.
    """

    tls = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.lost: list[str] = []
        self._reader = MessageReader()
        self.connection = LibvirtConnection(self.clock, tls=self.tls)
        self.connection.event = lambda known, values: self.events.append((known.name, values))
        self.connection.lost = self.lost.append
        self.connection.makeConnection(self.wire)

    def tearDown(self) -> None:
        self.gone()
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    # -- what the other end does -----------------------------------------------------------

    def heard(self) -> list[Message]:
        """What our side said since the last time; a turn of the reactor or two for each message."""
        messages: list[Message] = []
        while True:
            data = self.wire.value()
            self.wire.clear()
            messages += self._reader.feed(data)
            if not data:
                return messages
            self.clock.advance(0)
            self.clock.advance(0)

    def say(self, *messages: Message) -> None:
        """Have all of *messages* arrive in one read, with the bytes of their descriptors."""
        self.connection.dataReceived(b"".join(each.pack() + bytes(each.descriptors) for each in messages))

    def answer(self, call: Message, **values: object) -> Message:
        """The answer to *call*."""
        known = PROCEDURES[call.program, call.procedure]
        return call._replace(type=Type.REPLY, payload=known.results.pack(values))

    def refusal(self, call: Message, code: int, kind: int = Type.REPLY) -> Message:
        """A refusal of *call*, or the end of its stream."""
        return call._replace(type=kind, status=Status.ERROR, payload=pack_error(LibvirtError(code, 7, "no")))

    def told(self, name: str, **values: object) -> Message:
        """An event."""
        known = procedure(name)
        return Message(known.program, 1, known.number, Type.EVENT, 0, Status.OK, known.arguments.pack(values))

    def gone(self, clean: bool = False) -> None:
        """End the connection, as a transport tells it."""
        if not self.lost:
            if self.wire.producer is not None:
                self.wire.feeds.stopProducing()
                self.wire.producer = None
            self.connection.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))

    # -- what our side does ----------------------------------------------------------------

    def call(self, name: str, **arguments: object) -> tuple[Deferred[dict[str, Any]], Message]:
        """Call; return what will come of it, and what was said."""
        answer = self.connection.call(procedure(name), arguments)
        (message,) = self.heard()
        self.assertEqual((message.type, message.status), (Type.CALL, Status.OK))
        self.assertEqual(PROCEDURES[message.program, message.procedure].name, name)
        self.assertEqual(procedure(name).arguments.unpack(message.payload), arguments)
        return answer, message

    def pipe(self) -> tuple[int, int]:
        """Two ends of a pipe, closed afterwards in any case."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(self._close, end)
        return ends

    def _close(self, descriptor: int) -> None:
        if is_open(descriptor):
            os.close(descriptor)


def turn(clock: Clock) -> None:
    """One turn of the reactor: what is due, and not what that begins, as ``advance(0)`` would."""
    for call in [call for call in clock.getDelayedCalls() if call.getTime() <= clock.seconds()]:
        clock.calls.remove(call)  # type: ignore[arg-type]  # a Clock's own
        call.func(*call.args, **call.kw)  # type: ignore[attr-defined]  # a Clock's own


def is_open(descriptor: int) -> bool:
    """Whether *descriptor* is one."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def opening(answers: Mapping[str, Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """What a daemon says when it is greeted, changed by *answers*."""
    return {
        "AUTH_LIST": {"types": [0]},
        "AUTH_POLKIT": {"complete": 1},
        "CONNECT_SUPPORTS_FEATURE": {"supported": 1},
        "CONNECT_OPEN": {},
        "CONNECT_REGISTER_CLOSE_CALLBACK": {},
        **answers,
    }
