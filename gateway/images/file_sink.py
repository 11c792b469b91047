"""Where the body of an upload goes: written in a thread while the next bytes come in."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.python.failure import Failure

from gateway.core import relay
from gateway.core.pump import WORTH
from gateway.images import direct_io, file_io
from gateway.images.buffers import Buffers
from gateway.images.direct_io import LARGE, PAGE
from gateway.images.open_file import OpenFile


class FileSink:
    """Takes bytes for consecutive places of a file.

    It is filled as a :class:`~gateway.core.pump.Vessel`, or takes pieces. While no buffer is free its
    producer is paused.

    :param length: bytes that are expected, for the size of buffers.
    """

    def __init__(self, opened: OpenFile, offset: int, length: int) -> None:
        self._opened = opened
        self._start = offset
        self._worth = length >= WORTH
        self._buffers = Buffers(length)
        self._write_out = direct_io.write if length >= LARGE else file_io.write
        self._current: memoryview | None = None
        self._count = 0
        self._tail = b""
        self._full: deque[tuple[memoryview, int, int]] = deque()
        self._late: deque[memoryview] = deque()
        self._writing = False
        self._paused = False
        self._producer: IPushProducer | None = None
        self._moving: Deferred[None] | None = None
        self._ended = False
        self._over: Deferred[None] = Deferred(lambda _: None)
        self._failure: Failure | None = None

    async def take(self, source: relay.Source, clock: IReactorTime) -> None:
        """Write all that *source* delivers.

        :raises gateway.errors.GatewayError: it ended early, or the file cannot be written.
        """
        self._moving = Deferred.fromCoroutine(relay.body(source, self, clock))
        if self._failure is not None:
            self._moving.cancel()
        try:
            await self._moving
            self._ended = True
            self._finish()
            await self._over
        except CancelledError:
            source.stopProducing()
            if self._failure is not None:
                self._failure.raiseException()
            raise
        finally:
            self._ended = True
            self._full.clear()
            if self._current is not None:
                self._buffers.give(self._current)
                self._current = None
            self._buffers.close()

    # -- IConsumer ---------------------------------------------------------------------------

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes | memoryview) -> None:
        """Take bytes in hand; what a paused producer still delivers is kept."""
        self._late.append(memoryview(data))
        self._fill()

    # -- Vessel --------------------------------------------------------------------------------

    def vessel(self) -> FileSink | None:
        return self if self._worth and not self._late else None

    def room(self) -> memoryview:
        if not self._ready() or self._current is None:
            raise RuntimeError("the producer is paused")
        return self._current[self._count :]

    def filled(self, size: int) -> None:
        self._count += size
        if self._count >= self._buffers.enough:
            self._hand_on(self._count - (self._start + self._count) % PAGE)
            if not self._ready():
                self._pause()

    def took(self, size: int) -> None:
        """Nothing is announced here that could be exceeded."""

    # -- buffers -------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Whether there is a buffer to fill."""
        if self._current is None:
            self._current = self._buffers.take()
            if self._current is None:
                return False
            self._count = len(self._tail)
            self._current[: self._count] = self._tail
            self._tail = b""
        return True

    def _fill(self) -> None:
        while self._late and self._ready():
            view, space = self._late.popleft(), self.room()
            count = min(len(space), len(view))
            space[:count] = view[:count]
            if count < len(view):
                self._late.appendleft(view[count:])
            self.filled(count)

    def _pause(self) -> None:
        if self._producer is not None and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def _hand_on(self, count: int) -> None:
        """Let the first *count* bytes of the current buffer be written; the rest goes with the next."""
        if self._current is not None:
            self._full.append((self._current, count, self._start))
            self._start += count
            self._tail = bytes(self._current[count : self._count])
            self._current = None
            self._write()

    def _write(self) -> None:
        if self._full and not self._writing and self._failure is None:
            self._writing = True
            buffer, count, start = self._full[0]
            self._opened.call(self._write_out, buffer[:count], start).addCallbacks(self._written, self._fail)

    def _written(self, _: None) -> None:
        self._writing = False
        if not self._full:
            # Nobody waits for it any more.
            return
        self._buffers.give(self._full.popleft()[0])
        self._write()
        self._fill()
        if self._ended:
            self._finish()
        elif self._paused and self._ready() and self._producer is not None:
            self._paused = False
            self._producer.resumeProducing()

    def _finish(self) -> None:
        """Write the last piece; end when everything is written."""
        if not self._late and self._ready() and self._count:
            self._hand_on(self._count)
        if not self._full and not self._over.called:
            self._over.callback(None)

    def _fail(self, failure: Failure) -> None:
        self._failure = failure
        if self._ended:
            if not self._over.called:
                self._over.errback(failure)
        elif self._moving is not None:
            self._moving.cancel()
