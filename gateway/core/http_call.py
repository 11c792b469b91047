"""One request to an upstream and its answer, both streamed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from zope.interface import implementer

from gateway import errors
from gateway.core.pace import unsent
from gateway.core.pump import Outlet, Tap, Vessel, able
from gateway.wire.chunked import ChunkedReader
from gateway.wire.http_head import ResponseHead

if TYPE_CHECKING:
    from gateway.core.http_client import HttpConnection


class StaleConnection(errors.UpstreamFailed):
    """A pooled connection turned out dead before anything of the answer came."""

    word = "stale"


@implementer(IConsumer, IPushProducer)
class Call:
    """One request to an upstream and the answer to it.

    :ivar head: fires with the final :class:`ResponseHead`; may be early, while the body is sent.
    """

    def __init__(self, connection: HttpConnection, method: bytes, length: int) -> None:
        self.method = method
        self.head: Deferred[ResponseHead] = Deferred()
        self.answer: ResponseHead | None = None
        self._connection = connection
        self._unsent = length
        self._left: int | None = 0
        self._chunks: ChunkedReader | None = None
        self._queue: deque[bytes] = deque()
        self._sink: Callable[[bytes], None] | None = None
        self._delivered: Deferred[None] | None = None
        self._failure: errors.GatewayError | None = None
        self._paused = False
        self.complete = False

    # -- request body ----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes of the request body.

        :raises gateway.errors.GatewayError: there are more than was announced.
        """
        self._count(len(data))
        self._connection.write(data)

    def _count(self, size: int) -> None:
        self._unsent -= size
        if self._unsent < 0:
            self.abort()
            raise errors.GatewayError

    def vessel(self, took: Callable[[int], None]) -> Vessel | None:
        """What takes the request's body past the protocol, if the connection can.

        :param took: told how many bytes went there.
        """

        def noted(size: int) -> None:
            took(size)
            self._count(size)

        wire = self._connection.transport
        return Outlet(wire, noted) if able(wire) else None

    @property
    def fresh(self) -> bool:
        """Whether the connection was made for this call, and so cannot be stale."""
        return self._connection.uses == 1

    @property
    def unsent(self) -> int:
        """Bytes of the request that the kernel holds and the upstream has not taken."""
        return unsent(self._connection.transport)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        self._connection.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        self._connection.unregisterProducer()

    @property
    def sent(self) -> bool:
        """Whether the whole request went out."""
        return self._unsent == 0

    # -- answer ----------------------------------------------------------------------------

    def begin(self, head: ResponseHead, data: bytes) -> None:
        """Take the head of the answer, and what came with it; called by the connection.

        :raises gateway.errors.BadRequest: more came than the answer.
        """
        self.answer = head
        self._left = head.length
        self._chunks = ChunkedReader() if head.chunked else None
        self.complete = not head.chunked and head.length == 0
        # Before anybody is told, so that head and body can go on together.
        if data:
            self.receive(data)
        self.head.callback(head)

    def receive(self, data: bytes) -> None:
        """Take bytes of the answer's body.

        :raises gateway.errors.BadRequest: more came than the answer.
        """
        rest = b""
        if self._chunks is not None:
            self._queue.extend(self._chunks.receive(data))
            if self._chunks.done:
                rest, self.complete = self._chunks.rest, True
        elif self._left is None:
            self._queue.append(data)
        else:
            rest = data[self._left :]
            if self._left:
                self._queue.append(data[: self._left])
            self._left -= len(data) - len(rest)
            self.complete = self._left == 0
        if rest:
            raise errors.BadRequest("Bytes follow the answer")

    def tap(self) -> Tap | None:
        """Where the rest of the answer's body can be taken from the connection itself, if it can."""
        wire = self._connection.transport
        if not self._left or self._chunks is not None or self._queue or not able(wire):
            return None
        return Tap(wire, lambda: self._left or 0, self._took, lambda: self.flowing)

    def _took(self, size: int) -> None:
        if self._left is not None:
            self._left -= size

    def drain(self) -> None:
        """Hand on what is queued, as far as the sink wants it."""
        while self._queue and self._sink is not None and not self._paused:
            self._sink(self._queue.popleft())
        if self._delivered is not None and not self._queue:
            if self.complete:
                delivered, self._delivered = self._delivered, None
                delivered.callback(None)
            elif self._failure is not None:
                delivered, self._delivered = self._delivered, None
                delivered.errback(self._failure)

    @property
    def flowing(self) -> bool:
        """Whether bytes from the upstream are wanted now."""
        return self.answer is None or (self._sink is not None and not self._paused)

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        """Hand every byte of the answer's body to *sink*; the result fires after the last.

        :raises gateway.errors.UpstreamFailed: (by the result) the upstream broke off.
        """
        self._sink = sink
        delivered: Deferred[None] = Deferred(self._cancel)
        self._delivered = delivered
        self.drain()
        self._connection.flow()
        return delivered

    def _cancel(self, _: Deferred[None]) -> None:
        self._delivered = None
        self.abort()

    async def read(self, limit: int) -> bytes:
        """Collect the answer's body.

        :raises gateway.errors.UpstreamFailed: it is longer than *limit* bytes.
        """
        pieces: list[bytes] = []
        total = 0

        def collect(piece: bytes) -> None:
            nonlocal total
            total += len(piece)
            if total > limit:
                self.abort()
            else:
                pieces.append(piece)

        try:
            await self.deliver(collect)
        except errors.UpstreamFailed:
            if total <= limit:
                raise
        if total > limit:
            raise errors.UpstreamFailed(reason="too_long")
        return b"".join(pieces)

    def pauseProducing(self) -> None:
        self._paused = True
        self._connection.flow()

    def resumeProducing(self) -> None:
        self._paused = False
        self.drain()
        self._connection.flow()

    def stopProducing(self) -> None:
        self.abort()

    def lost(self, error: errors.GatewayError) -> None:
        """The connection is gone; called by the connection."""
        # A chunked body has its own end; one that goes without is cut short.
        ends_so = self.answer is not None and self._left is None and self._chunks is None
        if ends_so and isinstance(error, CleanEnd):
            self.complete = True
        self._failure = error
        if not self.head.called:
            self.head.errback(error)
        self.drain()

    @property
    def addresses(self) -> tuple[str | None, str | None]:
        """Address of the upstream and our own towards it; None for a unix socket."""
        return self._connection.addresses

    def abort(self) -> None:
        """Give up; the connection is not used again, unless this call had given it back already."""
        self._queue.clear()
        self._connection.drop(self)
        if not self.head.called:
            self.head.cancel()
        # Whoever waits was told; nobody else has to hear of it.
        self.head.addErrback(lambda _: None)

    def release(self) -> None:
        """Done with this call: the connection goes back to the pool if it can be used again."""
        self._connection.finish(self)
        self._sink = None


class CleanEnd(errors.UpstreamFailed):
    """The upstream closed in good order."""

    default = "The host behind the gateway broke off"
