"""What every websocket of a console does, whoever reads its frames.

The bytes of a console go both ways through a :class:`ConsoleSocket`, with back-pressure on both: it
is the producer of what the browser sends and a consumer of what the browser gets. The handshake's
answer, the closing handshake, pings and timeouts are autobahn's, and so are the frames of this one;
:mod:`gateway.consoles.websocket` has the one that reads them faster.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from attrs import frozen
from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProducer, IPushProducer, ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.pace import unsent
from gateway.wire.websocket_base64 import Base64Reader
from gateway.wire.websocket_frames import (
    NO_CODE,
    NORMAL,
    PROTOCOL_ERROR,
    UNSUPPORTED,
    FrameError,
    FrameLimits,
    check_close,
)
from gateway.wire.websocket_handshake import Handshake

if TYPE_CHECKING:
    from gateway.consoles.websocket import SocketFactory

#: Bytes of the largest frame that a browser gets.
FRAGMENT = 64 * 1024
#: Pings that came together and are all answered; of more than these only the last is.
_PONGS = 16
OPEN: int = WebSocketServerProtocol.STATE_OPEN
CLOSED: int = WebSocketServerProtocol.STATE_CLOSED

Sink = Callable[[bytes], object]


@frozen
class SocketLimits:
    """What one websocket may cost: bytes and seconds.

    :ivar max_frame: of what a browser sends, as is *max_message*.
    :ivar pong_timeout: after a ping, until a browser that reads must have said something.
    :ivar close_timeout: that a browser has for its part of the goodbye.
    :ivar flush_timeout: that a browser has at most to take the last bytes of a console that ended.
    """

    max_frame: int = 1 << 20
    max_message: int = 4 << 20
    ping_interval: float = 30.0
    pong_timeout: float = 10.0
    close_timeout: float = 1.0
    flush_timeout: float = 10.0


@frozen
class Ending:
    """How a websocket ended.

    :ivar code: of the close frame; 1006 when there was none.
    :ivar reason: in the words of whoever closed it.
    :ivar ours: whether we did.
    :ivar clean: whether both sides said goodbye.
    """

    code: int
    reason: str
    ours: bool
    clean: bool


class _Silence:
    """The log of autobahn: its lines hold what peers sent, and an :class:`Ending` says enough."""

    def _ignore(self, *args: object, **fields: object) -> None:
        pass

    trace = debug = info = warn = error = failure = _ignore


def choose(offered: Iterable[str]) -> str | None:
    """The subprotocol to answer with, of those *offered*."""
    names = set(offered)
    return next((name for name in ("binary", "base64") if name in names), None)


@implementer(IPushProducer)
class _Outflow:
    """What the transport pauses when the browser does not keep up."""

    def __init__(self, socket: ConsoleSocket) -> None:
        self._socket = socket

    def pauseProducing(self) -> None:
        self._socket.blocked(True)

    def resumeProducing(self) -> None:
        self._socket.blocked(False)

    def stopProducing(self) -> None:
        """The end of the connection is told in another way."""


@implementer(IConsumer, IPushProducer)
class ConsoleSocket(WebSocketServerProtocol):  # type: ignore[misc, unused-ignore]  # untyped base
    """A websocket that carries a stream of bytes; this one reads and writes frames as autobahn does.

    :param handshake: as judged; its answer is sent as soon as there is a transport.
    :param sink: takes what the browser sends. What it raises as a
        :class:`~gateway.errors.GatewayError` ends the websocket.
    :ivar subprotocol: what was agreed on, if anything.
    :ivar closed: fires with an :class:`Ending` when the connection is gone.
    """

    log = _Silence()
    transport: Any
    state: int
    autoPingTimeoutCall: Any
    closeHandshakeTimeoutCall: Any

    def __init__(self, factory: SocketFactory, handshake: Handshake, sink: Sink) -> None:
        super().__init__()
        self.factory = factory
        self.subprotocol = choose(handshake.protocols)
        self.closed: Deferred[Ending] = Deferred()
        self.takes = self.frames_taken()
        self._sink = sink
        self._base64 = Base64Reader() if self.subprotocol == "base64" else None
        self._request = handshake.request(self.subprotocol)
        self._producer: IPushProducer | None = None
        self._blocked = False
        self._paused = False
        self._was_paused = False
        self._pings = 0
        self._owed: bytes | None = None
        self._sent = 0
        self._backlog: tuple[int, int] | None = None
        self._flush_until = 0.0
        self._cut: IDelayedCall | None = None

    def frames_taken(self) -> FrameLimits:
        """What is taken from the browser."""
        limits, text = self.factory.limits, self.subprotocol == "base64"
        return FrameLimits(limits.max_frame, limits.max_message, text=text, binary=not text, boundaries=text)

    # -- the connection --------------------------------------------------------------------

    def connectionMade(self) -> None:
        # Not autobahn's own, which asks the transport for all that can be known of its encryption.
        self._connectionMade()
        self._dataReceived(self._request)

    def onConnect(self, request: object) -> str | None:
        return self.subprotocol

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: object = None) -> None:
        """There are two opinions about what a handshake is, which is a bug."""
        raise RuntimeError(f"a handshake that was judged good is refused: {reason}")

    def onOpen(self) -> None:
        self.transport.registerProducer(_Outflow(self), True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for timer in (self.closeHandshakeTimeoutCall, self._cut):
            if timer is not None and timer.active():
                timer.cancel()
        super().connectionLost(reason)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if ours := self.closedByMe:
            code, reason = self.localCloseCode, (self.localCloseReason or b"").decode("utf-8")
        self._producer = None
        self.closed.callback(Ending(NO_CODE if code is None else code, reason or "", ours, wasClean))

    # -- from the browser ------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self.failedByMe or self.state == CLOSED:
            # What follows a mistake means nothing.
            return
        self._pings = 0
        try:
            self.read(data)
        except errors.GatewayError as error:
            self.end(error)
        self._pay()

    def read(self, data: bytes) -> None:
        """Read frames."""
        self._dataReceived(data)

    def received(self, payload: bytes, text: bool, ends: bool) -> None:
        """Take a piece of a message."""
        if self._base64 is not None:
            payload = self._base64.receive(payload, ends)
        if payload:
            self._sink(payload)

    def processData(self) -> bool:
        more: bool = not self.failedByMe and super().processData()
        return more

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> bool | None:
        # autobahn goes on with what it has refused; so it is not left to find anything.
        if self.failedByMe:
            return True
        if code is not None:
            check_close(code, reasonRaw or b"")
        done: bool | None = super().onCloseFrame(code, reasonRaw)
        return done

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        if not (self.takes.binary if isBinary else self.takes.text):
            raise FrameError(UNSUPPORTED, "Messages of this kind are not taken here")

    def onMessageFrameData(self, payload: bytes) -> None:
        if self.state == OPEN:
            self.received(payload, not self.message_is_binary, False)

    def onMessageFrameEnd(self) -> None:
        """Nothing was kept."""

    def onMessageEnd(self) -> None:
        if self.state == OPEN:
            self.received(b"", not self.message_is_binary, True)

    def onPing(self, payload: bytes) -> None:
        self._pings += 1
        if self._blocked or self._pings > _PONGS:
            # RFC 6455, section 5.5.3: the last one may be answered for all.
            self._owed = payload
        else:
            self.sendPong(payload)

    def _pay(self) -> None:
        if self._owed is not None and not self._blocked:
            owed, self._owed = self._owed, None
            self.sendPong(owed)

    def pauseProducing(self) -> None:
        self._paused = self._was_paused = True
        if self.state == OPEN:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self.state == OPEN:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Nobody takes what the browser sends; how it ends is for the owner to say."""
        self.pauseProducing()

    # -- to the browser --------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes of the console; when the websocket is closing they are dropped."""
        if self.state != OPEN:
            return
        size = FRAGMENT if self._base64 is None else FRAGMENT // 4 * 3
        if len(data) <= size:
            self._send_part(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), size):
                self._send_part(view[start : start + size])

    def _send_part(self, data: bytes | memoryview) -> None:
        if self._base64 is None:
            self.send(data, False)
        else:
            self.send(b64encode(data), True)

    def send(self, payload: bytes | memoryview, text: bool) -> None:
        """Send one message of one frame."""
        self._sent += len(payload)
        self.sendMessage(bytes(payload), not text)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if not streaming:
            raise RuntimeError("only push producers fit a console")
        self._producer = cast(IPushProducer, producer)
        if self._blocked:
            self._producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def blocked(self, blocked: bool) -> None:
        """Take note of whether the transport has all it can hold."""
        self._blocked = blocked
        if not blocked:
            self._pay()
        if self._producer is not None:
            if blocked:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    # -- the end ---------------------------------------------------------------------------

    def finish(self, reason: str = "") -> None:
        """Say goodbye because the console ended, when everything that was written is sent."""
        self._flush_until = self.factory.clock.seconds() + self.factory.limits.flush_timeout
        self._goodbye(NORMAL, reason)

    def end(self, error: errors.GatewayError) -> None:
        """Say goodbye because of *error*, whose text the browser gets."""
        if isinstance(error, FrameError):
            self._fail_connection(error.close_code, error.text)
        else:
            self._goodbye(error.close_code, error.text)

    def cut(self, error: errors.GatewayError) -> None:
        """End it at once; only a browser that keeps up is told of *error*."""
        if self._blocked or self.state != OPEN:
            self.abort()
        else:
            self.end(error)

    def abort(self) -> None:
        """Cut the connection without a word."""
        self.transport.abortConnection()

    def _goodbye(self, code: int, reason: str) -> None:
        if self.state == OPEN:
            self._backlog = self._look()
            self.sendClose(code, reason)
            # Or the answer would never be seen.
            self.transport.resumeProducing()

    def _fail_connection(self, code: int = PROTOCOL_ERROR, reason: str = "") -> None:
        if self.failedByMe:
            # The first mistake counts; autobahn goes on and finds more.
            return
        was_open, self._flush_until = self.state == OPEN, 0.0
        super()._fail_connection(code, reason)
        if was_open:
            # Nothing that comes is read any more, not even the peer's goodbye. Closing now would reset
            # the connection, and take ours with it; TLS reads on anyway.
            self.transport.unregisterProducer()
            self.transport.resumeProducing()
            if ISSLTransport.providedBy(self.transport) or not hasattr(self.transport, "loseWriteConnection"):
                self.transport.loseConnection()
            else:
                self.transport.loseWriteConnection()

    def dropConnection(self, abort: bool = False) -> None:
        dropped = self.state != CLOSED
        self.transport.unregisterProducer()
        # After a good goodbye nothing is urgent, and ours may still be on its way.
        abort = abort and not self.wasClean
        super().dropConnection(abort)
        if dropped and not abort:
            self._cut = self._later(self.factory.limits.close_timeout, self.abort)

    # -- time ------------------------------------------------------------------------------

    def sendPing(self, payload: bytes | None = None) -> None:
        self._was_paused, self._backlog = self._paused, self._look()
        super().sendPing(payload)

    def onAutoPingTimeout(self) -> None:
        # While we do not read, or the ping is still on its way, silence means nothing.
        excused = self._was_paused or self._moves()
        self._was_paused = self._paused
        if excused:
            again = self._later(self.factory.limits.pong_timeout, self.onAutoPingTimeout)
            self.autoPingTimeoutCall = again
        else:
            super().onAutoPingTimeout()

    def onCloseHandshakeTimeout(self) -> None:
        if self.factory.clock.seconds() < self._flush_until and self._moves():
            again = self._later(self.factory.limits.close_timeout, self.onCloseHandshakeTimeout)
            self.closeHandshakeTimeoutCall = again
        else:
            super().onCloseHandshakeTimeout()

    def _later(self, seconds: float, call: Callable[[], None]) -> IDelayedCall:
        timer: IDelayedCall = self.factory.clock.callLater(seconds, call)
        return timer

    def _look(self) -> tuple[int, int] | None:
        """What the browser has not taken yet; None when there is nothing."""
        waiting = unsent(self.transport)
        return (self._sent, waiting) if waiting or self._blocked else None

    def _moves(self) -> bool:
        """Whether the browser took something since the last look, of what it had not then."""
        before, self._backlog = self._backlog, self._look()
        return before is not None and before != self._backlog
