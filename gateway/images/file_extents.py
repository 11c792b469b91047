"""Where a file has data and where it reads as zeroes, as a JSON document of any length."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.images.open_file import OpenFile
from gateway.images.target import Document

#: Extents found by one call, and in memory at once: a quarter of a megabyte of text.
_BATCH = 4096

#: ``lseek`` of one file.
Seek = Callable[[int, int], int]


class Extent(NamedTuple):
    """Bytes of one kind."""

    start: int
    length: int
    zero: bool

    def __str__(self) -> str:
        """The extent as a client reads it.

        ``hole`` would mean that a backing file shows through, and a file has none: a client that leaves holes
        out of a layer would uncover there what lies below. Source: ovirt-imageio 2.5, extents of raw images.
        """
        zero = "true" if self.zero else "false"
        return f'{{"start": {self.start}, "length": {self.length}, "zero": {zero}, "hole": false}}'


def extents(seek: Seek, start: int, stop: int) -> Iterator[Extent]:
    """Yield what lies from *start* to *stop*, without gap or overlap; one extent even of nothing.

    Where a file changes meanwhile, or its file system cannot tell, it is data: that is always true enough.
    """
    if start == stop:
        yield Extent(start, 0, False)
    while start < stop:
        data = _find(seek, start, os.SEEK_DATA, stop)
        if data > start:
            yield Extent(start, data - start, True)
        if data < stop:
            hole = _find(seek, data, os.SEEK_HOLE, stop)
            if hole <= data:
                hole = stop
            yield Extent(data, hole - data, False)
            data = hole
        start = data


def _find(seek: Seek, start: int, what: int, stop: int) -> int:
    try:
        return min(seek(start, what), stop)
    except OSError as error:
        if error.errno == errno.ENXIO:
            # Nothing but a hole up to the end, or the file became shorter.
            return stop
        if error.errno != errno.EINVAL:
            raise
        return start if what == os.SEEK_DATA else stop


def describe(descriptor: int, start: int, stop: int) -> tuple[str, int]:
    """Describe the next extents; return them and where they end. Runs in a thread."""
    batch = list(islice(extents(lambda *args: os.lseek(descriptor, *args), start, stop), _BATCH))
    return ", ".join(map(str, batch)), batch[-1].start + batch[-1].length


async def document(opened: OpenFile) -> Document:
    """Describe a whole file: at once if it has few extents, else while the client takes it."""
    text, end = await opened.call(describe, 0, opened.size)
    if end < opened.size:
        return Document(_Listing(opened, text, end), None)
    opened.close()
    return Document.of(f"[{text}]\n".encode("ascii"))


@implementer(IPushProducer)
class _Listing:
    """A long list of extents, looked for while it is wanted."""

    def __init__(self, opened: OpenFile, text: str, end: int) -> None:
        self._opened = opened
        self._text = f"[{text}"
        self._end = end
        self._sink: Callable[[bytes], None] = lambda data: None
        self._delivered: Deferred[None] | None = None
        self._wanted = False
        self._looking = False

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        self._sink = sink
        delivered: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._delivered = delivered
        self._found((self._text, self._end))
        return delivered

    def pauseProducing(self) -> None:
        self._wanted = False

    def resumeProducing(self) -> None:
        self._wanted = True
        if self._delivered is not None and not self._looking:
            self._looking = True
            self._opened.call(describe, self._end, self._opened.size).addCallbacks(self._next, self._over)

    def stopProducing(self) -> None:
        self._delivered = None
        self._opened.close()

    def _next(self, found: tuple[str, int]) -> None:
        text, end = found
        self._found((f", {text}" + ("]\n" if end == self._opened.size else ""), end))

    def _found(self, found: tuple[str, int]) -> None:
        if self._delivered is None:
            return
        text, self._end = found
        self._looking, self._wanted = True, True
        self._sink(text.encode("ascii"))
        self._looking = False
        if self._end == self._opened.size:
            self._over(None)
        elif self._wanted:
            self.resumeProducing()

    def _over(self, failure: Failure | None) -> None:
        self._opened.close()
        delivered, self._delivered = self._delivered, None
        if delivered is not None:
            delivered.callback(None) if failure is None else delivered.errback(failure)
