"""The embedded store: an image that is a file of this very machine.

Every call into the file system runs in a thread; one piece per transfer is in memory.
Source: ovirt-imageio 2.5, images API and block checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway import errors
from gateway.core import relay
from gateway.images.target import ALGORITHMS, FEATURES, Capabilities, Document, Reading
from gateway.wire.byte_range import Range

#: Bytes read or written by one call into the file system.
_PIECE = 1024 * 1024
#: Bytes zeroed by one call.
_STEP = 128 * 1024 * 1024
#: Zeroes written where the file system cannot make a hole.
_ZEROES = bytes(_PIECE)

_T = TypeVar("_T")
#: Runs a blocking function elsewhere than on the reactor's thread.
InThread = Callable[..., Deferred[Any]]


@define
class FileTarget:
    """One regular file.

    :ivar path: already judged to lie under a root that tickets may name.
    :ivar limit: bytes that the ticket lets anybody see, None for all.
    :ivar sparse: zeroing makes holes.
    """

    _path: Path = field(repr=False)
    _limit: int | None
    _sparse: bool
    _in_thread: InThread = field(repr=False)

    name = "file"

    async def options(self) -> Capabilities:
        return Capabilities(FEATURES, 8, 1)

    async def size(self) -> int:
        opened = await self._open(os.O_RDONLY)
        opened.close()
        return opened.size

    async def read(self, wanted: Range | None, if_range: bytes | None) -> Reading:
        opened = await self._open(os.O_RDONLY)
        # Without validators no If-Range can match: the whole is sent (RFC 9110, section 13.1.5).
        partial = wanted is not None and if_range is None
        try:
            start, stop = wanted.resolve(opened.size) if wanted is not None and partial else (0, opened.size)
        except errors.RangeNotSatisfiable:
            opened.close()
            raise
        return Reading(_FileSource(opened, start, stop), start, stop - start, partial)

    async def resume(self, reading: Reading, moved: int) -> Reading:
        """What a file did not give once, it will not give at a second try."""
        raise errors.UpstreamFailed(reason="read")

    async def write(self, offset: int, length: int, body: relay.Source, *, flush: bool) -> None:
        with await self._open(os.O_WRONLY) as opened:
            async for piece in relay.Segments(body, _PIECE):
                await opened.call(_write, piece, offset)
                offset += len(piece)
            if flush:
                await opened.call(os.fsync)

    async def write_segment(self, offset: int, data: bytes, *, flush: bool) -> None:
        with await self._open(os.O_WRONLY) as opened:
            await opened.call(_write, data, offset)
            if flush:
                await opened.call(os.fsync)

    async def zero(self, offset: int, size: int, *, flush: bool) -> None:
        with await self._open(os.O_RDWR) as opened:
            end = offset + size
            while offset < end:
                # In steps, so that a revoked ticket stops it soon.
                step = min(end - offset, _STEP)
                await opened.call(_zero, offset, step, self._sparse)
                offset += step
            if flush:
                await opened.call(os.fsync)

    async def flush(self) -> None:
        with await self._open(os.O_WRONLY) as opened:
            await opened.call(os.fsync)

    async def extents(self, context: str) -> Document:
        """One extent of data, as imageio's file backend reports it."""
        if context == "dirty":
            raise errors.NotFound("Backend does not support dirty extents")
        if context != "zero":
            raise errors.BadRequest("Unsupported value for 'context', expecting 'zero' or 'dirty'")
        extent = {"start": 0, "length": await self.size(), "zero": False, "hole": False}
        return _document([extent])

    async def checksum(self, algorithm: str, block_size: int) -> Document:
        digest = _hash(algorithm)
        with await self._open(os.O_RDONLY) as opened:
            for start in range(0, opened.size, block_size):
                stop = min(start + block_size, opened.size)
                digest.update(await opened.call(_block_digest, start, stop, algorithm))
        return _document({"algorithm": algorithm, "block_size": block_size, "checksum": digest.hexdigest()})

    def _open(self, flags: int) -> Deferred[_Opened]:
        """Open the file; a cancelled open leaves nothing open."""
        opening: Deferred[tuple[int, int]] = self._in_thread(_open, self._path, flags)
        return _shielded(opening, lambda it: os.close(it[0])).addCallback(self._opened)

    def _opened(self, result: tuple[int, int]) -> _Opened:
        descriptor, size = result
        return _Opened(self._in_thread, descriptor, size if self._limit is None else min(size, self._limit))


def _told(failure: Failure) -> Failure:
    """Say what a client may know of a file that cannot be used."""
    if not failure.check(OSError):
        return failure
    text = f"The image cannot be used: {getattr(failure.value, 'strerror', None) or 'I/O error'}"
    return Failure(errors.UpstreamFailed(text, reason="file"))


class _Opened:
    """An open file, used by one thread at a time.

    A call that nobody waits for any more still ends before the descriptor is closed: its number may
    belong to another file in the next moment.

    :ivar size: bytes that may be seen.
    """

    def __init__(self, in_thread: InThread, descriptor: int, size: int) -> None:
        self.size = size
        self._in_thread = in_thread
        self._descriptor = descriptor
        self._last: Deferred[Any] = succeed(None)
        self._closed = False

    def call(self, function: Callable[..., _T], *args: object) -> Deferred[_T]:
        """Run *function* with the descriptor and *args* in a thread."""
        running: Deferred[_T] = self._in_thread(function, self._descriptor, *args)
        self._last = Deferred()
        last = self._last

        def over(result: Any) -> Any:
            last.callback(None)
            return result

        return _shielded(running.addBoth(over))

    def close(self) -> None:
        """Close it, once and after the last call."""
        if not self._closed:
            self._closed = True
            self._last.addCallback(lambda _: self._in_thread(os.close, self._descriptor))

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shielded(running: Deferred[_T], unwanted: Callable[[_T], object] = lambda _: None) -> Deferred[_T]:
    """Return what may be cancelled without touching *running*, which a thread works on.

    :param unwanted: gets a result that nobody waits for any more.
    """
    waiting: Deferred[_T] = Deferred(lambda _: None)

    def pass_on(result: _T) -> None:
        if waiting.called:
            unwanted(result)
        else:
            waiting.callback(result)

    def pass_failure(failure: Failure) -> None:
        if not waiting.called:
            waiting.errback(_told(failure))

    running.addCallbacks(pass_on, pass_failure)
    return waiting


@implementer(IPushProducer)
class _FileSource:
    """Reads a range of a file, one piece at a time, while it is wanted."""

    def __init__(self, opened: _Opened, start: int, stop: int) -> None:
        self._opened = opened
        self._at = start
        self._stop = stop
        self._sink: Callable[[bytes], None] = lambda data: None
        self._delivered: Deferred[None] | None = None
        self._wanted = False
        self._reading = False

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        self._sink = sink
        delivered: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._delivered = delivered
        self.resumeProducing()
        return delivered

    def resumeProducing(self) -> None:
        self._wanted = True
        if self._delivered is None or self._reading:
            return
        if self._at == self._stop:
            self._end(None)
            return
        self._reading = True
        size = min(_PIECE, self._stop - self._at)
        self._opened.call(os.pread, size, self._at).addCallbacks(self._got, self._broken)

    def pauseProducing(self) -> None:
        self._wanted = False

    def stopProducing(self) -> None:
        self._delivered = None
        self._opened.close()

    def _got(self, data: bytes) -> None:
        self._reading = False
        if self._delivered is None:
            return
        if not data:
            self._end(errors.UpstreamFailed("The image became shorter", reason="file"))
            return
        self._at += len(data)
        self._sink(data)
        if self._wanted or self._at == self._stop:
            self.resumeProducing()

    def _broken(self, failure: Failure) -> None:
        self._end(failure.value)

    def _end(self, error: BaseException | None) -> None:
        self._opened.close()
        delivered, self._delivered = self._delivered, None
        if delivered is not None:
            delivered.callback(None) if error is None else delivered.errback(error)


class _Bytes:
    """Bytes in hand as a source."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def deliver(self, sink: Callable[[bytes], None]) -> Deferred[None]:
        sink(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """They are all given at once."""

    def resumeProducing(self) -> None:
        """See :meth:`pauseProducing`."""

    def stopProducing(self) -> None:
        """See :meth:`pauseProducing`."""


def _document(content: object) -> Document:
    data = json.dumps(content).encode("ascii") + b"\n"
    return Document(_Bytes(data), len(data))


def _open(path: Path, flags: int) -> tuple[int, int]:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        return descriptor, status.st_size
    os.close(descriptor)
    raise OSError(0, "not a regular file")


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


def _zero(descriptor: int, offset: int, size: int, sparse: bool) -> None:
    """Make a range read as zeroes; when *sparse*, what lies beyond the end becomes a hole."""
    end = offset + size
    stop = min(end, max(offset, os.fstat(descriptor).st_size)) if sparse else end
    while offset < stop:
        step = min(stop - offset, _PIECE)
        _write(descriptor, _ZEROES[:step], offset)
        offset += step
    if os.fstat(descriptor).st_size < end:
        os.ftruncate(descriptor, end)


def _hash(algorithm: str) -> Any:
    """Return a hash; blake2b has 32 bytes here. Source: ovirt-imageio 2.5, blkhash.

    :raises gateway.errors.BadRequest: it is none of :data:`ALGORITHMS`.
    """
    if algorithm not in ALGORITHMS:
        names = ", ".join(repr(name) for name in ALGORITHMS)
        raise errors.BadRequest(
            f"Unsupported value '{algorithm}' for 'algorithm', expecting one of [{names}]"
        )
    return hashlib.blake2b(digest_size=32) if algorithm == "blake2b" else hashlib.new(algorithm)


def _block_digest(descriptor: int, start: int, stop: int, algorithm: str) -> bytes:
    digest = _hash(algorithm)
    while start < stop:
        data = os.pread(descriptor, min(_PIECE, stop - start), start)
        if not data:
            raise OSError(0, "the file became shorter")
        digest.update(data)
        start += len(data)
    result: bytes = digest.digest()
    return result
