"""The body of one request on its way in: framed, counted, and never ahead of its reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.pump import Tap, able
from gateway.wire.chunked import ChunkedReader
from gateway.wire.http_head import RequestHead


class BodyCutShort(errors.BadRequest):
    """The peer left, or fell silent, before the body was whole."""

    word = "body_cut_short"
    default = "The request body ended early"


@implementer(IPushProducer)
class RequestBody:
    """A request body, delivered piece by piece to one reader that may pause it.

    Until :meth:`deliver` is called nothing is read from the network beyond what came with the
    head, and no ``100 Continue`` is sent.

    :ivar length: bytes, None for a chunked body.
    :ivar received: bytes of it that arrived so far.
    :ivar flowing: somebody wants more of it now.
    """

    def __init__(
        self,
        head: RequestHead,
        begin: Callable[[], None],
        flow: Callable[[], None],
        wire: Any = None,
    ) -> None:
        self.length = None if head.chunked else (head.length or 0)
        self.received = 0
        self.flowing = False
        self.rest = b""
        self._begin = begin
        self._flow = flow
        self._wire = wire
        self._chunks = ChunkedReader() if head.chunked else None
        self._queue: deque[bytes] = deque()
        self._sink: Callable[[bytes], None] | None = None
        self._started = False
        self._finished: Deferred[None] | None = None
        self._failure: Failure | None = None
        self._unwanted = False

    @property
    def arrived(self) -> bool:
        """Whether the last byte came in from the network."""
        return self._chunks.done if self._chunks is not None else self.received == self.length

    @property
    def started(self) -> bool:
        """Whether somebody asked for it."""
        return self._started

    def receive(self, data: bytes) -> None:
        """Take bytes from the network; what follows the body is left in :attr:`rest`.

        :raises gateway.errors.BadRequest: when chunks are malformed.
        """
        if self._chunks is not None:
            pieces = self._chunks.receive(data)
            if self._chunks.done:
                self.rest += self._chunks.rest
                self._chunks.rest = b""
        else:
            assert self.length is not None  # noqa: S101 (for the type checker: not chunked)
            left = self.length - self.received
            pieces = [data[:left]] if left else []
            self.rest += data[left:]
        for piece in pieces:
            self.received += len(piece)
            if not self._unwanted:
                self._queue.append(piece)
        self._drain()

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        """Hand every byte to *sink*; the result fires after the last.

        Cancelling it stops the delivery for good.

        :raises BodyCutShort: (by the result) the peer left before the last byte.
        """
        self._started = True
        finished: Deferred[None] = Deferred(lambda _: self.stopProducing())
        if self._failure is not None:
            finished.errback(self._failure)
            return finished
        self._sink, self._finished = sink, finished
        if not self.arrived:
            self._begin()
        self.resumeProducing()
        return finished

    def tap(self) -> Tap | None:
        """Where the rest can be taken from the connection itself, if it can."""
        length = self.length
        if length is None or self.arrived or self._queue or not able(self._wire):
            return None
        return Tap(self._wire, lambda: length - self.received, self._took, lambda: self.flowing)

    def _took(self, size: int) -> None:
        self.received += size

    def read(self, limit: int) -> Deferred[bytes]:
        """Collect the whole body.

        :raises gateway.errors.TooLarge: it is longer than *limit* bytes.
        """
        if self.length is not None and self.length > limit:
            raise errors.TooLarge
        pieces: list[bytes] = []
        if self.arrived and not self._queue:
            return succeed(b"")

        def collect(piece: bytes) -> None:
            pieces.append(piece)
            if self.received > limit:
                self.fail(errors.TooLarge())

        return self.deliver(collect).addCallback(lambda _: b"".join(pieces))

    def fail(self, error: errors.GatewayError) -> None:
        """End the delivery with *error*, now or when it is asked for."""
        self.discard()
        if self._finished is not None:
            self._end().errback(error)
        elif self._failure is None:
            self._failure = Failure(error)

    def discard(self) -> None:
        """Keep nothing of what still arrives."""
        self._unwanted = True
        self.flowing = False
        self._queue.clear()

    def _drain(self) -> None:
        while self._queue and self.flowing and self._sink is not None:
            self._sink(self._queue.popleft())
        if self.arrived and not self._queue and self._finished is not None:
            self.flowing = False
            self._end().callback(None)

    def _end(self) -> Deferred[None]:
        """Let go of the sink: a request and its body know each other, and what they hold is freed late."""
        assert self._finished is not None  # noqa: S101 (for the type checker)
        finished, self._finished, self._sink = self._finished, None, None
        return finished

    def resumeProducing(self) -> None:
        if self._finished is not None and not self.flowing:
            self.flowing = True
            self._drain()
            self._flow()

    def pauseProducing(self) -> None:
        if self.flowing:
            self.flowing = False
            self._flow()

    def stopProducing(self) -> None:
        self._finished = self._sink = None
        self.discard()
        self._flow()
