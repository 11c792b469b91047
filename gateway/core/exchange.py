"""One request and its answer, as a streaming application sees them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IConsumer, IProducer, IProtocol, ITransport
from zope.interface import implementer

from gateway import errors
from gateway.core.clock import wall
from gateway.core.pace import READ_AHEAD
from gateway.core.pump import Outlet, Vessel, able
from gateway.core.request_body import RequestBody
from gateway.wire.http_head import RequestHead, serialize_response

if TYPE_CHECKING:
    from gateway.core.channel import HttpChannel

Field = tuple[bytes, bytes]

#: What a refusal is, whatever a browser may think of its text.
PLAIN_TEXT: list[Field] = [
    (b"content-type", b"text/plain; charset=UTF-8"),
    (b"x-content-type-options", b"nosniff"),
    # The address of what was refused may hold a ticket.
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


def answer_head(status: int, fields: Iterable[Field], length: int | None, keep_alive: bool) -> bytes:
    """Return the head of an answer, with what every answer has."""
    common: list[Field] = [
        (b"server", b"gateway"),
        (b"date", _date(int(wall()))),
    ]
    if length is not None:
        common.append((b"content-length", b"%d" % length))
    if not keep_alive:
        common.append((b"connection", b"close"))
    return serialize_response(status, [*common, *fields])


@implementer(IConsumer)
class Exchange:
    """One request whose head is in, and the answer to it.

    The body is in :attr:`body`; the answer is either one :meth:`respond`, or :meth:`start`, then
    writes as an ``IConsumer``, then :meth:`finish`. What was announced in ``start`` is held: too
    few or too many bytes cut the connection, so that nobody takes a part for the whole.

    :ivar peer: address of the client.
    :ivar status: of the answer, 0 until it is started.
    :ivar sent: bytes of the answer's body.
    :ivar note: fields that the application adds to every answer, refusals included.
    :ivar linger: seconds that the rest of an unwanted body is read before the connection is cut; None
        for what the channel's limits say.
    """

    def __init__(self, head: RequestHead, body: RequestBody, channel: HttpChannel, peer: str) -> None:
        self.head = head
        self.body = body
        self.peer = peer
        self.status = 0
        self.sent = 0
        self.note: list[Field] = []
        self.keep_alive = head.keep_alive
        self.finished = False
        self.linger: float | None = None
        self._channel = channel
        self._length: int | None = None
        self._held = b""

    @property
    def started(self) -> bool:
        """Whether the answer is on its way, so that an error can only cut the connection."""
        return self.status != 0 and not self._held

    @property
    def secure(self) -> bool:
        return self._channel.secure

    @property
    def transport(self) -> ITransport | None:
        """The connection, for its addresses only."""
        return self._channel.transport

    def allow_idle(self, seconds: float) -> None:
        """Let this connection stay silent this long, between requests and within bodies."""
        self._channel.idle_timeout = max(self._channel.limits.keepalive_timeout, seconds)
        self.prove()

    @property
    def proven(self) -> bool:
        """Whether a request on this connection was authorised before."""
        return self._channel.proven

    def prove(self) -> None:
        """Say that this request is authorised: its connection is a stranger's no more."""
        self._channel.prove()

    def while_connected(self, key: Hashable, made: Callable[[], None], lost: Callable[[], None]) -> None:
        """Call *made* now and *lost* when the connection goes; once for each *key* on it."""
        if key not in self._channel.when_lost:
            self._channel.when_lost[key] = lost
            made()

    def respond(self, status: int, fields: Iterable[Field] = (), body: bytes = b"") -> None:
        """Send the whole answer."""
        self.start(status, fields, len(body))
        if self.head.method != b"HEAD":
            self.write(body)
        self.finish()

    def refuse(self, error: errors.GatewayError) -> None:
        """Answer with *error* as plain text, or cut the connection when it is too late for that."""
        if self.finished:
            return
        if self.started:
            self.abort()
            return
        self.status, self._held = 0, b""
        body = error.text.encode("utf-8") + b"\n"
        fields = [*PLAIN_TEXT, *error.headers]
        self.respond(error.status, fields, body)

    def start(self, status: int, fields: Iterable[Field], length: int | None) -> None:
        """Begin the answer. Its head goes out with the first bytes of the body, or on :meth:`flush`.

        :param length: bytes of its body; None when *fields* say how it is framed.
        """
        if self.status:
            raise RuntimeError("this exchange was answered before")
        self.status = status
        self._length = 0 if self.head.method == b"HEAD" else length
        if not self.body.arrived and not self._can_skip():
            self.keep_alive = False
        self.keep_alive = self.keep_alive and not self._channel.site.draining
        if status == 304 or (status == 204 and self.head.method != b"DELETE"):
            # RFC 9110, section 8.6. But vdsm fails without it when it removes a ticket.
            length = None
        self._held = answer_head(status, [*fields, *self.note], length, self.keep_alive)

    def _can_skip(self) -> bool:
        """Whether the rest of a body nobody wants is small enough to keep the connection."""
        waiting = self.head.expects_continue and not self.body.started
        length = self.body.length
        return length is not None and length - self.body.received <= READ_AHEAD and not waiting

    def write(self, data: bytes | memoryview) -> None:
        self._count(len(data))
        if data and not self.finished:
            # One packet, and one record of TLS, for head and body if that is possible.
            held, self._held = self._held, b""
            self._channel.write(held + data if held else data)

    def flush(self) -> None:
        """Let the head of the answer not wait for its body."""
        if self._held and not self.finished:
            held, self._held = self._held, b""
            self._channel.write(held)

    def vessel(self) -> Vessel | None:
        """What takes the body past the protocol, if the connection can."""

        def took(size: int) -> None:
            self._channel.passed_by(size)
            self._count(size)

        wire = self._channel.transport
        if self.finished or not able(wire):
            return None
        self.flush()
        return Outlet(wire, took)

    def _count(self, size: int) -> None:
        self.sent += size
        if self._length is not None and self.sent > self._length:
            self.abort()

    def finish(self) -> None:
        """End the answer; a body that is short of what was announced cuts the connection."""
        if self.finished:
            return
        if self._length is not None and self.sent != self._length:
            self.abort()
            return
        self.flush()
        self.finished = True
        self._channel.answered(self)

    def upgrade(self, successor: IProtocol, status: int = 101) -> None:
        """Let another protocol have the connection, for good; it says *status* itself.

        What the client sent early goes to it as well. When the connection goes it hears of that first;
        then the application, should it still run, is cancelled. One that fails cuts the connection.
        """
        if self.status:
            raise RuntimeError("this exchange was answered before")
        self.status = status
        self.finished = True
        self._channel.upgrade(self, successor)

    def abort(self) -> None:
        """Cut the connection."""
        self.finished = True
        self._channel.abort()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._channel.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._channel.unregisterProducer()
