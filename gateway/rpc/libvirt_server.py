"""libvirt's protocol in the part of the server: messages, the order of things, signs of life.

What a message means is for a :class:`Session`. Source: libvirt 9.0.0, virnetserverclient.c and
virnetserverprogram.c.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.core.batch import BATCH
from gateway.rpc.outbox import Outbox
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_message import (
    CHUNK,
    KEEPALIVE,
    LARGEST,
    PING,
    PONG,
    Message,
    MessageReader,
    ProtocolError,
    Status,
    Type,
    pack_error,
)
from gateway.wire.xdr import XdrError

#: Bytes of a message before the login: the longest is that of a token.
STRANGERS = 512 * 1024
#: Calls that may be in work before reading stops.
WINDOW = 32
#: Bytes of such calls, before reading stops.
HEAVY = 8 * 1024 * 1024
#: Seconds between signs of life, and how many may be missing. Source: libvirtd.conf, keepalive_*.
INTERVAL, COUNT = 5.0, 5
#: Pings that are answered in one interval.
PINGS = 100
#: Seconds that a closed connection has for what was written to it.
LINGER = 5.0
#: Seconds for the login; somebody may have to type it.
LOGIN = 120.0
_CONFIRMED = b"\1"
_PING = Message(KEEPALIVE, 1, PING, Type.EVENT, 0, Status.OK).pack()
_PONG = Message(KEEPALIVE, 1, PONG, Type.EVENT, 0, Status.OK).pack()


class Session(Protocol):
    """What the messages of one client mean."""

    @property
    def known(self) -> bool:
        """Somebody has logged in."""

    def call(self, message: Message) -> None:
        """A call; sooner or later it is answered."""

    def stream(self, message: Message) -> None:
        """A message of a stream."""

    def flow(self, on: bool) -> None:
        """The client takes what is sent, or does not."""

    def gone(self, reason: str) -> None:
        """The connection is lost."""


@implementer(IPushProducer)
class LibvirtServer(protocol.Protocol):
    """One client.

    :param begin: makes the session of this connection.
    :param tls: the transport encrypts: the client waits for a byte first.
    :ivar busy: calls without an answer; the session counts them.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, begin: Callable[[LibvirtServer], Session], *, tls: bool) -> None:
        self.busy = 0
        self.peer = ""
        self._clock = clock
        self._begin = begin
        self._tls = tls
        self._reader = MessageReader(STRANGERS)
        self._inbox: deque[Message] = deque()
        self._held: set[object] = set()
        self._reading = True
        self._working = False
        self._reason = ""
        self._weight = 0
        self._silent = self._pings = 0
        self._counted = clock.seconds()
        self._beat = LoopingCall(self._look)
        self._beat.clock = clock
        self._late: IDelayedCall | None = None

    # -- of the session --------------------------------------------------------------------

    @property
    def reason(self) -> str:
        """The word for why it ended; empty as long as it did not."""
        return self._reason

    def reply(self, call: Message, payload: bytes) -> None:
        """Answer *call*."""
        self._send(call, Type.REPLY, Status.OK, payload)

    def refuse(self, call: Message, error: LibvirtError) -> None:
        """Answer *call* with an error."""
        self._send(call, Type.REPLY, Status.ERROR, pack_error(error))

    def data(self, call: Message, data: bytes) -> None:
        """Send what comes out of the stream that *call* has opened; nothing at its end."""
        for at in range(0, max(1, len(data)), CHUNK):
            self._send(call, Type.STREAM, Status.CONTINUE, data[at : at + CHUNK])

    def stream_message(self, call: Message, kind: Type, status: Status, payload: bytes = b"") -> None:
        """Send another message of the stream that *call* has opened."""
        self._send(call, kind, status, payload)

    def event(self, program: int, number: int, payload: bytes) -> None:
        """Tell an event."""
        self._write(Message(program, 1, number, Type.EVENT, 0, Status.OK, payload).pack())

    def logged_in(self) -> None:
        """Longer messages may come, and for as long as it takes."""
        self._reader.limit = LARGEST
        if not self._reason:
            self._cut_in(None)

    def watch(self) -> None:
        """Look whether the client lives, as it has asked."""
        if not self._beat.running:
            self._beat.start(INTERVAL, now=False)

    def hold(self, reason: object, on: bool) -> None:
        """Read no more as long as anybody has a *reason*."""
        if on:
            self._held.add(reason)
        else:
            self._held.discard(reason)
        self._work()

    def done(self, call: Message) -> None:
        """*call* was answered."""
        self.busy -= 1
        self._weight -= len(call.payload)
        self._work()

    def close(self, reason: str) -> None:
        """Send what waits, and hang up; who does not take it is cut off."""
        if not self._reason:
            self._reason = reason
            self.outbox.finish()
            transport: Any = self.transport
            self._cut_in(LINGER)
            transport.resumeProducing()
            transport.loseConnection()

    def part(self, reason: str, seconds: float) -> None:
        """Send what waits, hear nothing more, and cut the connection after *seconds*.

        A client that writes reads what was sent only as long as the connection is whole.
        """
        if not self._reason:
            self._reason = reason
            self.outbox.finish()
            self._cut_in(seconds)
            transport: Any = self.transport
            transport.resumeProducing()

    def abort(self, reason: str) -> None:
        """Cut the connection."""
        self._reason = self._reason or reason
        transport: Any = self.transport
        transport.abortConnection()

    # -- of the transport ------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.peer = str(getattr(transport.getPeer(), "host", "") or "")
        if self._tls:
            # Who we are was shown in the handshake; who the client is, its login says.
            transport.write(_CONFIRMED)
        self.outbox = Outbox(transport, self._clock, single=self._tls)
        self.outbox.registerProducer(self)
        self._cut_in(LOGIN)
        self._session = self._begin(self)

    def dataReceived(self, data: bytes) -> None:
        if self._reason:
            return
        self._silent = 0
        try:
            self._inbox.extend(self._reader.feed(data))
        except ProtocolError as error:
            self.log.info("{peer} spoke nonsense: {problem}", peer=self.peer, problem=str(error))
            self.abort("malformed")
            return
        with BATCH:
            self._work()

    @property
    def _ready(self) -> bool:
        return not self._held and self.busy < WINDOW and self._weight < HEAVY

    def _work(self) -> None:
        """Deal with what has arrived, as far as it may be; read on when all is dealt with."""
        if self._working:
            return
        self._working = True
        try:
            while self._inbox and self._ready and not self._reason:
                self._message(self._inbox.popleft())
        except (ProtocolError, XdrError) as error:
            self.log.info("{peer} spoke nonsense: {problem}", peer=self.peer, problem=str(error))
            self.abort("malformed")
        finally:
            self._working = False
        reading = not self._inbox and self._ready
        if reading != self._reading and not self._reason:
            self._reading = reading
            transport: Any = self.transport
            if reading:
                transport.resumeProducing()
            else:
                transport.pauseProducing()

    def _message(self, message: Message) -> None:
        if message.program == KEEPALIVE and message.type == Type.EVENT:
            if message.procedure == PING:
                if self._clock.seconds() - self._counted >= INTERVAL:
                    self._counted, self._pings = self._clock.seconds(), 0
                self._pings += 1
                if self._pings > PINGS:
                    raise ProtocolError("pings without end")
                self._write(_PONG)
        elif message.type == Type.CALL and message.status == Status.OK:
            self.busy += 1
            self._weight += len(message.payload)
            self._session.call(message)
        elif message.type in (Type.STREAM, Type.HOLE) and self._session.known:
            self._session.stream(message)
        else:
            raise ProtocolError(f"a message of type {message.type} and status {message.status}")

    def _cut_in(self, seconds: float | None) -> None:
        """Cut the connection after a while, and at no other time."""
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._late = None if seconds is None else self._clock.callLater(seconds, self.abort, "login")

    def _look(self) -> None:
        """Ask for a sign of life; what we do not read cannot be one."""
        if not self._reading:
            return
        self._silent += 1
        if self._silent > COUNT + 1:
            self.abort("silent")
        elif self._silent > 1:
            self._write(_PING)

    def _send(self, call: Message, kind: int, status: int, payload: bytes) -> None:
        message = Message(call.program, call.version, call.procedure, kind, call.serial, status, payload)
        self._write(message.pack())

    def _write(self, data: bytes) -> None:
        if not self._reason:
            self.outbox.send(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._beat.running:
            self._beat.stop()
        self._cut_in(None)
        self._reason = self._reason or "left"
        self._session.gone(self._reason)

    # -- of the transport's producer -------------------------------------------------------

    def pauseProducing(self) -> None:
        self._session.flow(False)
        self.hold("full", True)

    def resumeProducing(self) -> None:
        self._session.flow(True)
        self.hold("full", False)

    def stopProducing(self) -> None:
        """The connection is lost, which is told in another way."""
