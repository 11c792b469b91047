"""Where the body of an upload goes: written in a thread while the next bytes come in."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gateway.core import relay
from gateway.images.file_io import PIECE, write
from gateway.images.open_file import OpenFile

#: Buffers of :data:`PIECE` bytes each: one is written while the other is filled.
_BUFFERS = 2
#: Bytes; the kernel has to read what a write leaves of one.
_PAGE = 4096
_NOTHING = memoryview(b"")


class FileSink:
    """Takes bytes for consecutive places of a file.

    Who has bytes puts some into :meth:`space` and says so to :meth:`filled`; when there is no space, the
    source is paused, and resumed when there is some again.

    :param length: bytes that are expected, for the size of buffers.
    """

    def __init__(self, opened: OpenFile, offset: int, length: int) -> None:
        self._opened = opened
        self._start = offset
        self._size = max(_PAGE, min(PIECE, length))
        self._free: list[memoryview] = []
        self._unmade = _BUFFERS
        self._current: memoryview | None = None
        self._count = 0
        self._tail = b""
        self._full: deque[tuple[memoryview, int, int]] = deque()
        self._late: deque[memoryview] = deque()
        self._writing = False
        self._source: relay.Source | None = None
        self._ended = False
        self._over: Deferred[None] = Deferred(lambda _: None)

    async def take(self, source: relay.Source) -> None:
        """Write all that *source* delivers.

        :raises gateway.errors.GatewayError: it ended early, or the file cannot be written.
        """
        self._source = source
        source.deliver(self.put).addCallbacks(self._delivered, self._fail)
        try:
            await self._over
        finally:
            self._source = None
            if not self._ended:
                source.stopProducing()

    def space(self) -> memoryview:
        """Where the next bytes go; empty while both buffers wait for the disk."""
        if self._current is None:
            if self._free:
                self._current = self._free.pop()
            elif self._unmade:
                self._unmade -= 1
                self._current = memoryview(bytearray(self._size))
            else:
                return _NOTHING
            self._count = len(self._tail)
            self._current[: self._count] = self._tail
            self._tail = b""
        return self._current[self._count :]

    def filled(self, count: int) -> None:
        """Say that the first *count* bytes of :meth:`space` are there now."""
        self._count += count
        if self._current is not None and self._count == len(self._current):
            self._hand_on(self._count - (self._start + self._count) % _PAGE)

    def put(self, piece: bytes | memoryview) -> None:
        """Take bytes in hand; what a paused source still delivers is kept."""
        self._late.append(memoryview(piece))
        while self._late and (space := self.space()):
            view = self._late.popleft()
            count = min(len(space), len(view))
            space[:count] = view[:count]
            self.filled(count)
            if count < len(view):
                self._late.appendleft(view[count:])
        if self._source is not None and not self.space():
            self._source.pauseProducing()

    def _hand_on(self, count: int) -> None:
        """Let the first *count* bytes of the current buffer be written; the rest goes with the next."""
        if self._current is not None:
            self._full.append((self._current, count, self._start))
            self._start += count
            self._tail = bytes(self._current[count : self._count])
            self._current = None
            self._write()

    def _write(self) -> None:
        if self._full and not self._writing and not self._over.called:
            self._writing = True
            buffer, count, start = self._full[0]
            self._opened.call(write, buffer[:count], start).addCallbacks(self._written, self._fail)

    def _written(self, _: None) -> None:
        self._writing = False
        self._free.append(self._full.popleft()[0])
        if self._over.called:
            return
        self._write()
        self.put(_NOTHING)
        if self._ended:
            self._finish()
        elif self._source is not None and self.space():
            self._source.resumeProducing()

    def _delivered(self, _: None) -> None:
        self._ended = True
        self._finish()

    def _finish(self) -> None:
        """Write the last piece; end when everything is written."""
        if not self._late and self.space() and self._count:
            self._hand_on(self._count)
        if not self._full and not self._over.called:
            self._over.callback(None)

    def _fail(self, failure: Failure) -> None:
        if not self._over.called:
            self._over.errback(failure)
