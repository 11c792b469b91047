"""A range of a file as the source of a body: read ahead in a thread while what was read goes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core.fasttls import READ
from gateway.images import direct_io, file_io
from gateway.images.buffers import Buffers
from gateway.images.direct_io import LARGE, PAGE
from gateway.images.open_file import OpenFile

#: Bytes given to the sink at once, and in one turn of the reactor: others have their turn.
_SLICE, _TURN = 4 * READ, 8 * READ


@implementer(IPushProducer)
class FileSource:
    """Delivers a range of a file; owns the file, and closes it in the end.

    The sink gets memoryviews, and copies what it keeps of them: the next bytes come into the same buffer.
    """

    def __init__(self, opened: OpenFile, start: int, stop: int, clock: IReactorTime) -> None:
        self._opened = opened
        self._clock = clock
        self._again: IDelayedCall | None = None
        self._at = start
        self._stop = stop
        self._read_into = direct_io.read_into if stop - start >= LARGE else file_io.read_into
        self._buffers = Buffers(stop - start + start % PAGE)
        self._ready: deque[tuple[memoryview, memoryview]] = deque()
        self._sink: Callable[[Any], None] = lambda data: None
        self._delivered: Deferred[None] | None = None
        self._wanted = False
        self._giving = False
        self._reading = False
        self._error: errors.GatewayError | None = None

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        self._sink = sink
        delivered: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._delivered = delivered
        self._wanted = True
        self._go_on()
        return delivered

    def resumeProducing(self) -> None:
        self._wanted = True
        self._go_on()

    def pauseProducing(self) -> None:
        self._wanted = False

    def stopProducing(self) -> None:
        self._delivered = None
        self._ready.clear()
        self._buffers.close()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._opened.close()

    def _go_on(self) -> None:
        if self._giving or self._delivered is None:
            return
        self._read_ahead()
        self._giving = True
        given = 0
        while self._wanted and self._ready and given < _TURN:
            buffer, rest = self._ready[0]
            piece, rest = rest[:_SLICE], rest[_SLICE:]
            if rest:
                self._ready[0] = buffer, rest
            else:
                self._ready.popleft()
            given += len(piece)
            self._sink(piece)
            if not rest:
                self._buffers.give(buffer)
                self._read_ahead()
        self._giving = False
        if self._wanted and self._ready and self._again is None:
            self._again = self._clock.callLater(0, self._come_back)
        if not self._ready and not self._reading and self._at == self._stop:
            self._end(self._error)

    def _come_back(self) -> None:
        self._again = None
        self._go_on()

    def _read_ahead(self) -> None:
        """Let a thread fill the next buffer, if there is one and something to read."""
        if self._reading or self._at == self._stop or self._delivered is None:
            return
        skip = self._at % PAGE
        size = min(self._buffers.piece, skip + self._stop - self._at)
        buffer = self._buffers.take()
        if buffer is None:
            return
        self._reading = True
        self._opened.call(self._read_into, buffer[: size + -size % PAGE], self._at - skip).addCallbacks(
            self._read, self._broken, callbackArgs=(buffer, skip, size)
        )

    def _read(self, count: int, buffer: memoryview, skip: int, size: int) -> None:
        self._reading = False
        if self._delivered is None:
            return
        data = buffer[skip : min(count, size)]
        self._at += len(data)
        if data:
            self._ready.append((buffer, data))
        if count < size:
            self._stop = self._at
            self._error = errors.UpstreamFailed("The image became shorter", reason="file")
        self._go_on()

    def _broken(self, failure: Failure) -> None:
        self._end(failure.value)

    def _end(self, error: BaseException | None) -> None:
        delivered = self._delivered
        self.stopProducing()
        if delivered is not None:
            delivered.callback(None) if error is None else delivered.errback(error)
