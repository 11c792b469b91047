"""One HTTP/1.1 connection to an upstream, and the pool that keeps idle ones.

A :class:`Call` is one request and its answer, both streamed: it is the consumer of the request
body and the producer of the answer's. A connection is used again only when both went by whole,
nothing was left over, and the upstream agreed. Source: RFC 9112, sections 6 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from attrs import define, field
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IProducer, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.http_call import Call, CleanEnd, StaleConnection
from gateway.wire.http_head import HeadReader, parse_response, serialize_request

_MAX_HEAD = 32 * 1024
_MAX_INFORMATIONAL = 8
_BODILESS = (b"GET", b"HEAD", b"OPTIONS", b"DELETE")


@implementer(IPushProducer)
class _Shield:
    """Pauses a producer whose connection is lost, where a transport would stop it for good.

    The loss is reported by the call; the producer may go on with another one.
    """

    def __init__(self, producer: Any) -> None:
        self.pauseProducing = producer.pauseProducing
        self.resumeProducing = producer.resumeProducing
        self.stopProducing = producer.pauseProducing


class HttpConnection(Protocol):
    """A connection to an upstream.

    :ivar idle: called with the connection when it can be used again.
    :ivar gone: called with the connection when it can not be used any more.
    :ivar uses: calls made on it so far.
    """

    def __init__(self) -> None:
        self.idle: Callable[[HttpConnection], None] = lambda connection: None
        self.gone: Callable[[HttpConnection], None] = lambda connection: None
        self.uses = 0
        self._call: Call | None = None
        self._reader = HeadReader(_MAX_HEAD, _MAX_HEAD, blank=False)
        self._informational = 0
        self._paused = False
        self._lost = False
        self._aborted = False
        self._wire: Any = None

    @property
    def alive(self) -> bool:
        return not self._lost and not self._aborted

    @property
    def addresses(self) -> tuple[str | None, str | None]:
        """Address of the peer and our own; None for a unix socket."""
        return getattr(self._wire.getPeer(), "host", None), getattr(self._wire.getHost(), "host", None)

    def connectionMade(self) -> None:
        self._wire = self.transport

    def call(self, method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]], length: int) -> Call:
        """Send a request head; a body of *length* bytes is written to the result.

        :raises ValueError: *fields* frame another body, or *method* has none: some daemons take such
            a body for the next request.
        """
        fields = list(fields)
        framing = [it for it in fields if it[0].lower() in (b"content-length", b"transfer-encoding")]
        told = [(b"content-length", b"%d" % length)]
        if framing != told and (framing or length):
            raise ValueError("the fields of this request frame another body")
        if length and method in _BODILESS:
            raise ValueError("this method has no body")
        self._call = call = Call(self, method, length)
        self.uses += 1
        self._informational = 0
        self._wire.write(serialize_request(method, target, fields))
        self.flow()
        return call

    def dataReceived(self, data: bytes) -> None:
        call = self._call
        if call is None:
            # Nobody asked: RFC 9112, section 9.2, do not take it for the next answer.
            self.abort()
            return
        try:
            self._receive(call, data)
        except errors.GatewayError as error:
            self._fail(errors.UpstreamFailed(reason="malformed"), error)

    def _receive(self, call: Call, data: bytes) -> None:
        while call.answer is None:
            block = self._reader.receive(data)
            if block is None:
                return
            head = parse_response(block, call.method)
            data, self._reader.rest = self._reader.rest, b""
            if head.status >= 200:
                call.begin(head, data)
                data = b""
            else:
                self._informational += 1
                if head.status == 101 or self._informational > _MAX_INFORMATIONAL:
                    raise errors.BadRequest("Unexpected informational answers")
        if data:
            call.receive(data)
        call.drain()
        self.flow()

    def _fail(self, error: errors.GatewayError, cause: BaseException | None = None) -> None:
        error.__cause__ = cause
        call, self._call = self._call, None
        self.abort()
        if call is not None:
            call.lost(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self.gone(self)
        call, self._call = self._call, None
        if call is None:
            return
        if self.uses > 1 and call.answer is None and not self._reader and not self._informational:
            call.lost(StaleConnection())
        elif reason.check(ConnectionDone):
            call.lost(CleanEnd(reason="closed"))
        else:
            call.lost(errors.UpstreamFailed("The host behind the gateway broke off", reason="lost"))

    def finish(self, call: Call) -> None:
        """*call* is over; keep the connection if nothing of it is left in the pipe."""
        if self._call is not call:
            return
        self._call = None
        answer = call.answer
        if answer is not None and answer.keep_alive and call.complete and call.sent and self.alive:
            self.flow()
            self.idle(self)
        else:
            self.abort()

    def flow(self) -> None:
        """Read exactly while somebody wants the bytes."""
        if self._lost:
            return
        wanted = self._call is None or self._call.flowing
        if wanted == self._paused:
            self._paused = not wanted
            if wanted:
                self._wire.resumeProducing()
            else:
                self._wire.pauseProducing()

    def write(self, data: bytes) -> None:
        if not self._lost:
            self._wire.write(data)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        shield = _Shield(producer)
        if self._lost:
            shield.stopProducing()
        else:
            self._wire.registerProducer(shield, streaming)

    def unregisterProducer(self) -> None:
        if not self._lost:
            self._wire.unregisterProducer()

    def drop(self, call: Call) -> None:
        """Cut the connection for *call*, unless it is used for another one by now."""
        if self._call is call:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        if not self._lost and not self._aborted:
            self._aborted = True
            # Not only when the transport says so: nobody may be given it until then.
            self.gone(self)
            self._wire.abortConnection()


@define
class _Idle:
    connection: HttpConnection
    timer: IDelayedCall = field(repr=False)


class UpstreamPool:
    """Idle connections, by where they lead and what they trust."""

    def __init__(self, clock: IReactorTime, *, keep: int = 8, idle_time: float = 30.0) -> None:
        self._clock = clock
        self._keep = keep
        self._idle_time = idle_time
        self._idle: dict[Hashable, list[_Idle]] = {}

    def take(self, key: Hashable) -> HttpConnection | None:
        """Return an idle connection, the most recently used first."""
        waiting = self._idle.get(key)
        if not waiting:
            return None
        idle = waiting.pop()
        if not waiting:
            del self._idle[key]
        idle.timer.cancel()
        idle.connection.gone = lambda connection: None
        return idle.connection

    def adopt(self, key: Hashable, connection: HttpConnection) -> None:
        """From now on, keep *connection* whenever it falls idle."""
        connection.idle = lambda connection: self._put(key, connection)

    def _put(self, key: Hashable, connection: HttpConnection) -> None:
        waiting = self._idle.setdefault(key, [])
        if len(waiting) >= self._keep:
            self._drop(key, waiting[0])
            waiting = self._idle.setdefault(key, [])
        idle = _Idle(connection, self._clock.callLater(self._idle_time, lambda: self._drop(key, idle)))
        connection.gone = lambda connection: self._drop(key, idle)
        waiting.append(idle)

    def _drop(self, key: Hashable, idle: _Idle) -> None:
        waiting = self._idle.get(key, [])
        if idle in waiting:
            waiting.remove(idle)
        if not waiting:
            self._idle.pop(key, None)
        if idle.timer.active():
            idle.timer.cancel()
        idle.connection.gone = lambda connection: None
        idle.connection.abort()

    def close(self) -> None:
        """Drop every idle connection."""
        for key, waiting in list(self._idle.items()):
            for idle in list(waiting):
                self._drop(key, idle)


__all__ = ["Call", "HttpConnection", "StaleConnection", "UpstreamPool"]
