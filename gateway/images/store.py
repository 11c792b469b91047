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
from gateway.images.target import FEATURES, Capabilities, Document, Reading
from gateway.wire.byte_range import Range

#: Bytes read or written by one call into the file system.
_PIECE = 1024 * 1024
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
        descriptor, size = await self._open(os.O_RDONLY)
        await self._in_thread(os.close, descriptor)
        return size

    async def read(self, wanted: Range | None, if_range: bytes | None) -> Reading:
        descriptor, size = await self._open(os.O_RDONLY)
        try:
            # Without validators no If-Range can match: the whole is sent (RFC 9110, section 13.1.5).
            start, stop = wanted.resolve(size) if wanted is not None and if_range is None else (0, size)
        except errors.RangeNotSatisfiable:
            await self._in_thread(os.close, descriptor)
            raise
        source = _FileSource(self._in_thread, descriptor, start, stop)
        return Reading(source, start, stop - start, wanted is not None and if_range is None)

    async def resume(self, reading: Reading, moved: int) -> Reading:
        """What a file did not give once, it will not give at a second try."""
        raise errors.UpstreamFailed(reason="read")

    async def write(self, offset: int, length: int, body: relay.Source, *, flush: bool) -> None:
        descriptor, _ = await self._open(os.O_WRONLY)
        try:
            async for piece in relay.Segments(body, _PIECE):
                await self._call(_write, descriptor, piece, offset)
                offset += len(piece)
            if flush:
                await self._call(os.fsync, descriptor)
        finally:
            await self._in_thread(os.close, descriptor)

    async def write_segment(self, offset: int, data: bytes, *, flush: bool) -> None:
        descriptor, _ = await self._open(os.O_WRONLY)
        try:
            await self._call(_write, descriptor, data, offset)
            if flush:
                await self._call(os.fsync, descriptor)
        finally:
            await self._in_thread(os.close, descriptor)

    async def zero(self, offset: int, size: int, *, flush: bool) -> None:
        descriptor, _ = await self._open(os.O_RDWR)
        try:
            end = offset + size
            while offset < end:
                # In steps, so that a revoked ticket stops it soon.
                step = min(end - offset, 128 * 1024 * 1024)
                await self._call(_zero, descriptor, offset, step, self._sparse)
                offset += step
            if flush:
                await self._call(os.fsync, descriptor)
        finally:
            await self._in_thread(os.close, descriptor)

    async def flush(self) -> None:
        descriptor, _ = await self._open(os.O_WRONLY)
        try:
            await self._call(os.fsync, descriptor)
        finally:
            await self._in_thread(os.close, descriptor)

    async def extents(self, context: str) -> Document:
        """One extent of data, as imageio's file backend reports it."""
        if context == "dirty":
            raise errors.NotFound("Backend does not support dirty extents")
        if context != "zero":
            raise errors.BadRequest("Unsupported value for 'context', expecting 'zero' or 'dirty'")
        extent = {"start": 0, "length": await self.size(), "zero": False, "hole": False}
        return _document([extent])

    async def checksum(self, algorithm: str, block_size: int) -> Document:
        descriptor, size = await self._open(os.O_RDONLY)
        try:
            digest = _hash(algorithm)
            for start in range(0, size, block_size):
                digest.update(await self._call(_block_digest, descriptor, start, block_size, size, algorithm))
        finally:
            await self._in_thread(os.close, descriptor)
        return _document({"algorithm": algorithm, "block_size": block_size, "checksum": digest.hexdigest()})

    async def _open(self, flags: int) -> tuple[int, int]:
        """Open the file; return the descriptor and the size that may be seen."""
        descriptor, size = await self._call(_open, self._path, flags)
        return descriptor, size if self._limit is None else min(size, self._limit)

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        try:
            result: _T = await self._in_thread(function, *args)
        except OSError as error:
            raise errors.UpstreamFailed(
                f"The image cannot be used: {error.strerror}", reason="file"
            ) from error
        return result


@implementer(IPushProducer)
class _FileSource:
    """Reads a range of a file, one piece at a time, while it is wanted."""

    def __init__(self, in_thread: InThread, descriptor: int, start: int, stop: int) -> None:
        self._in_thread = in_thread
        self._descriptor: int | None = descriptor
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
        if self._delivered is None or self._reading or self._descriptor is None:
            return
        if self._at == self._stop:
            self._end(None)
            return
        self._reading = True
        size = min(_PIECE, self._stop - self._at)
        reading: Deferred[bytes] = self._in_thread(os.pread, self._descriptor, size, self._at)
        reading.addCallbacks(self._got, self._failed)

    def pauseProducing(self) -> None:
        self._wanted = False

    def stopProducing(self) -> None:
        self._delivered = None
        if not self._reading:
            self._close()

    def _got(self, data: bytes) -> None:
        self._reading = False
        if self._delivered is None:
            self._close()
        elif not data:
            self._end(errors.UpstreamFailed("The image became shorter", reason="file"))
        else:
            self._at += len(data)
            self._sink(data)
            if self._wanted or self._at == self._stop:
                self.resumeProducing()

    def _failed(self, failure: Failure) -> None:
        self._reading = False
        failure.trap(OSError)
        self._end(errors.UpstreamFailed("The image cannot be read", reason="file"))

    def _end(self, error: errors.GatewayError | None) -> None:
        self._close()
        delivered, self._delivered = self._delivered, None
        if delivered is None:
            return
        if error is not None:
            delivered.errback(error)
        else:
            delivered.callback(None)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._in_thread(os.close, descriptor)


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
    """Return a hash; blake2b has 32 bytes here. Source: ovirt-imageio 2.5, blkhash."""
    if algorithm not in hashlib.algorithms_available:
        names = ", ".join(repr(name) for name in sorted(hashlib.algorithms_available))
        raise errors.BadRequest(
            f"Unsupported value '{algorithm}' for 'algorithm', expecting one of [{names}]"
        )
    return hashlib.blake2b(digest_size=32) if algorithm == "blake2b" else hashlib.new(algorithm)


def _block_digest(descriptor: int, start: int, block_size: int, size: int, algorithm: str) -> bytes:
    digest = _hash(algorithm)
    end = min(start + block_size, size)
    while start < end:
        data = os.pread(descriptor, min(_PIECE, end - start), start)
        if not data:
            raise OSError(0, "the file became shorter")
        digest.update(data)
        start += len(data)
    result: bytes = digest.digest()
    return result
