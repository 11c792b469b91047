"""One HTTP/1.1 connection from a client: strict heads, deadlines, one request at a time.

The head alone decides what happens: the site names an application (a coroutine function that
takes an :class:`~gateway.core.exchange.Exchange`) before a byte of the body is read and before
``100 Continue``. Time limits are deadlines or progress checks, never restarted by a trickle.
Source: RFC 9112 (framing, persistence, section 9.6 on closing), RFC 9110, section 10.1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IProtocol, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from gateway import errors
from gateway.core.exchange import PLAIN_TEXT, Exchange, answer_head
from gateway.core.fasttls import FastTLS
from gateway.core.pace import READ_AHEAD, Deadline, Gate, HttpLimits, unsent
from gateway.core.request_body import BodyCutShort, RequestBody
from gateway.wire.http_head import HeadReader, parse_request

if TYPE_CHECKING:
    from gateway.core.web import GatewaySite


class HttpChannel(Protocol):
    """A connection; see the module.

    :ivar idle_timeout: seconds this connection may be silent between requests.
    :ivar proven: whether a request on it was authorised.
    :ivar when_lost: called when the connection goes.
    """

    def __init__(self, site: GatewaySite, peer: str) -> None:
        self.site = site
        self.limits: HttpLimits = site.limits
        self.peer = peer
        self.idle_timeout = site.limits.keepalive_timeout
        self.secure = False
        self.proven = False
        self.when_lost: dict[Hashable, Callable[[], None]] = {}
        self._clock = site.clock
        self._reader = HeadReader(self.limits.max_request_line, self.limits.max_head)
        self._exchange: Exchange | None = None
        self._running: Deferred[None] | None = None
        self._pipelined = b""
        self._paused = False
        self._closing = False
        self._lost = False
        self._successor: IProtocol | None = None
        self._wire: Any = None
        self._gate: Gate | None = None
        self._began = 0.0
        self._observed = False
        self._resume: IDelayedCall | None = None
        self._skip_limit = 0
        self._discarded = 0
        self._written = 0
        self._deadline = Deadline(self._clock, self._late)
        self._mark: tuple[int, int, int] | None = None

    # -- connection ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._wire = self.transport
        self.secure = ISSLTransport.providedBy(self.transport)
        self.site.connected(self)
        self._deadline.set(self.limits.header_timeout)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._successor is not None:
            del self.dataReceived
            vars(self).pop("readConnectionLost", None)
            vars(self).pop("writeConnectionLost", None)
            self._successor.connectionLost(reason)
        self._deadline.close()
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self.site.disconnected(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.finished = True
            exchange.body.fail(BodyCutShort())
        if self._running is not None:
            self._running.cancel()
        if exchange is not None:
            self._observe(exchange)
        for lost in self.when_lost.values():
            lost()

    def prove(self) -> None:
        """Take note that a request was authorised; the site hears of the first one."""
        if not self.proven:
            self.proven = True
            self.site.proven(self)

    def abort(self) -> None:
        """Cut the connection, dropping what was not sent yet."""
        if not self._lost:
            self._wire.abortConnection()

    def drain(self) -> None:
        """Close as soon as no request is in work."""
        if self._exchange is None:
            self._close()
        else:
            self._exchange.keep_alive = False

    def upgrade(self, exchange: Exchange, successor: IProtocol) -> None:
        """Give the bytes of the connection to *successor*; its life stays our business."""
        self._deadline.close()
        self._observe(exchange)
        self._successor = successor
        early, self._pipelined = self._pipelined, b""
        self._flow()
        # In the place of our own method: no hop for a byte.
        self.dataReceived = successor.dataReceived  # type: ignore[method-assign]  # it speaks from now on
        if IHalfCloseableProtocol.providedBy(successor):
            self.readConnectionLost = successor.readConnectionLost
            self.writeConnectionLost = successor.writeConnectionLost
            directlyProvides(self, IHalfCloseableProtocol)
        successor.makeConnection(self._wire)
        if early:
            successor.dataReceived(early)

    def _observe(self, exchange: Exchange) -> None:
        if not self._observed:
            self._observed = True
            self.site.observe(exchange, self._clock.seconds() - self._began)

    def _close(self, *, linger: bool = False) -> None:
        """Close once everything is sent.

        :param linger: the peer may still send, and a reset would take the answer; TLS reads on anyway.
        """
        self._closing = True
        self._flow()
        self._mark = None
        self._deadline.set(self.limits.discard_time)
        if linger and not self.secure and hasattr(self._wire, "loseWriteConnection"):
            self._wire.loseWriteConnection()
        else:
            self._wire.loseConnection()

    # -- bytes in --------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            self._discarded += len(data)
            if self._discarded > self.limits.discard_bytes:
                self.abort()
            return
        if self._exchange is not None and not self._exchange.body.arrived:
            self._receive_body(self._exchange, data)
        elif self._exchange is not None or self._pipelined:
            self._pipelined += data
            self._flow()
        else:
            self._receive_head(data)

    def _receive_head(self, data: bytes) -> None:
        begun = bool(self._reader)
        try:
            block = self._reader.receive(data)
            if block is None:
                if not begun:
                    # The deadline counts from the first byte and is not moved by later ones.
                    self._deadline.set(self.limits.header_timeout)
                return
            head = parse_request(block, self.limits.max_fields, proxy=self.site.proxy)
        except errors.GatewayError as error:
            self._refuse_head(error)
            return
        rest, self._reader.rest = self._reader.rest, b""
        body = RequestBody(head, self._continue, self._flow, self._wire)
        self._exchange = exchange = Exchange(head, body, self, self.peer)
        self._began = self._clock.seconds()
        self._observed = False
        self._tick_from_now()
        if rest:
            self._receive_body(exchange, rest)
        if self._exchange is exchange and not exchange.finished and not self._closing:
            self._run(exchange)

    def _refuse_head(self, error: errors.GatewayError) -> None:
        """Answer a head that cannot be trusted, and close: nothing after it can be either."""
        self.site.refused(self.peer, error)
        body = error.text.encode("ascii", "replace") + b"\n"
        self.write(answer_head(error.status, [*PLAIN_TEXT, *error.headers], len(body), False) + body)
        self._close(linger=True)

    def _receive_body(self, exchange: Exchange, data: bytes) -> None:
        try:
            exchange.body.receive(data)
        except errors.BadRequest as error:
            exchange.keep_alive = False
            if exchange.finished:
                self._close()
            elif exchange.body.started:
                exchange.body.fail(error)
            else:
                self._cancel_and_refuse(exchange, error)
            return
        if exchange.body.arrived:
            self._pipelined += exchange.body.rest
            exchange.body.rest = b""
            if self._exchange is None:
                # The last byte of the body was answered at once.
                self._go_on()
        if exchange.finished and self._exchange is exchange:
            self._skip(exchange)
        else:
            self._flow()

    def _continue(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        # From now on the body has to arrive.
        self._mark = (exchange.body.received, self._written, -1)
        self._deadline.set(self._period)
        if exchange.status:
            exchange.flush()
        elif exchange.head.expects_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _flow(self) -> None:
        """Read from the network exactly while somebody wants the bytes."""
        exchange = self._exchange
        if self._lost:
            return
        if exchange is None or self._closing:
            wanted = True
        elif not exchange.body.arrived:
            wanted = exchange.body.flowing or exchange.finished
        else:
            wanted = len(self._pipelined) < READ_AHEAD
        if wanted and self._paused:
            self._paused = False
            self._wire.resumeProducing()
        elif not wanted and not self._paused:
            self._paused = True
            if self._mark is not None:
                # While nobody wants the body it need not arrive.
                self._mark = (-1, *self._mark[1:])
            self._wire.pauseProducing()

    # -- one request -----------------------------------------------------------------------

    def _run(self, exchange: Exchange) -> None:
        self._running = running = Deferred.fromCoroutine(self._answer(exchange))
        running.addErrback(self._failed, exchange).addBoth(self._ran, running)
        self._flow()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            application = self.site.application(exchange)
        except errors.GatewayError as error:
            # What is refused at the door is counted there.
            exchange.refuse(error)
            return
        await application
        if not exchange.finished:
            raise RuntimeError("the application ended before its answer")

    def _ran(self, _: object, running: Deferred[None]) -> None:
        if self._running is running:
            self._running = None

    def _failed(self, failure: Failure, exchange: Exchange) -> None:
        """Answer with the failure of an application; what is not meant as an answer is a bug."""
        error = failure.value
        # Or nobody is left to be told.
        if not exchange.finished or not isinstance(error, CancelledError | errors.GatewayError):
            if not isinstance(error, errors.GatewayError):
                error = self.site.incident(failure)
            self.site.refused(self.peer, error)
            exchange.refuse(error)
        if self._successor is not None:
            self.abort()

    def _cancel_and_refuse(self, exchange: Exchange, error: errors.GatewayError) -> None:
        running, self._running = self._running, None
        exchange.refuse(error)
        if running is not None:
            running.cancel()

    # -- bytes out -------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes as they are; of a memoryview only :class:`FastTLS` keeps nothing by itself."""
        self._written += len(data)
        if not self._lost:
            self._wire.write(data if isinstance(self._wire, FastTLS) else bytes(data))

    def passed_by(self, size: int) -> None:
        """Take note of bytes that were sent past this channel."""
        self._written += size

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._lost:
            producer.stopProducing()
        else:
            self._gate = Gate(producer, streaming)
            self._wire.registerProducer(self._gate, streaming)

    def unregisterProducer(self) -> None:
        self._gate = None
        if not self._lost:
            self._wire.unregisterProducer()

    def answered(self, exchange: Exchange) -> None:
        """The answer is complete: read away what is left of the request, then go on."""
        if exchange is not self._exchange:
            return
        self._observe(exchange)
        if exchange.body.arrived:
            self._next(exchange)
            return
        # RFC 9112, section 9.6: closing while the client still sends would reset the
        # connection and take the answer with it.
        exchange.body.fail(BodyCutShort())
        self._skip_limit = exchange.body.received + self.limits.discard_bytes
        self._deadline.set(self.limits.discard_time if exchange.linger is None else exchange.linger)
        self._flow()
        self._skip(exchange)

    def _skip(self, exchange: Exchange) -> None:
        if exchange.body.arrived:
            self._next(exchange)
        elif exchange.body.received > self._skip_limit:
            self._give_up(exchange)

    def _give_up(self, exchange: Exchange) -> None:
        """The client still sends what nobody wants."""
        if exchange.linger is None:
            self._close()
        else:
            self.abort()

    def _next(self, exchange: Exchange) -> None:
        self._exchange = None
        if not exchange.keep_alive or self._closing:
            self._close(linger=bool(self._pipelined))
            return
        self._deadline.set(self.idle_timeout)
        self._flow()
        self._go_on()

    def _go_on(self) -> None:
        if self._pipelined and self._resume is None and not self._closing:
            # Not from here: a thousand pipelined requests must not become a thousand frames.
            self._resume = self._clock.callLater(0, self._resume_pipeline)

    def _resume_pipeline(self) -> None:
        self._resume = None
        if self._exchange is None and not self._lost and not self._closing:
            data, self._pipelined = self._pipelined, b""
            self.dataReceived(data)

    # -- time ------------------------------------------------------------------------------

    def _tick_from_now(self) -> None:
        self._mark = None
        self._deadline.set(self._period)

    @property
    def _least_progress(self) -> float:
        """Bytes that a body must have brought when it is looked at."""
        return self.limits.body_rate * min(self._period, self.limits.body_idle_timeout)

    @property
    def _period(self) -> float:
        longest = max(self.idle_timeout - self.limits.keepalive_timeout, 0)
        return min(self.limits.body_idle_timeout, self.limits.write_idle_timeout) + longest

    def _late(self) -> None:
        if self._closing:
            self._check_writing(-1)
        elif self._exchange is None:
            if self._reader:
                self._refuse_head(errors.RequestTimeout())
            else:
                self._close()
        elif self._exchange.finished:
            self._give_up(self._exchange)
        else:
            self._check_progress(self._exchange)

    def _check_progress(self, exchange: Exchange) -> None:
        body = exchange.body
        received = body.received if body.flowing and not body.arrived else -1
        before = self._mark[0] if self._mark is not None else -1
        if received >= 0 and before >= 0 and received - before < self._least_progress:
            exchange.keep_alive = False
            self._deadline.set(self._period)
            body.fail(errors.RequestTimeout("The request body stopped arriving"))
        else:
            self._check_writing(received)

    def _check_writing(self, received: int) -> None:
        blocked = self._closing or (self._gate is not None and self._gate.blocked)
        mark = (received, self._written, unsent(self._wire) if blocked else -1)
        stuck = self._mark is not None and self._mark[1:] == mark[1:]
        if blocked and (stuck or (self._closing and mark[2] == 0)):
            self.abort()
        else:
            self._mark = mark
            self._deadline.set(self._period)
