"""The embedded store: an image that is a file of this very machine.

Every call that may wait for a disk runs in a thread; a transfer has two buffers.
Source: ovirt-imageio 2.5, images API and block checksums.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core import relay
from gateway.images import file_extents, file_io
from gateway.images.file_sink import FileSink
from gateway.images.file_source import FileSource
from gateway.images.open_file import InThread, OpenFile, open_in_thread
from gateway.images.target import FEATURES, Capabilities, Document, Reading
from gateway.wire.byte_range import Range

__all__ = ["FileTarget", "InThread"]

#: Bytes zeroed by one call.
_STEP = 128 * 1024 * 1024


@define
class FileTarget:
    """One regular file or block device.

    :ivar path: already judged to lie under a root that tickets may name.
    :ivar limit: bytes that the ticket lets anybody see, None for all.
    :ivar sparse: zeroing makes holes.
    :ivar read_only: nobody may write to it, whatever the ticket grants.
    """

    _path: Path = field(repr=False)
    _limit: int | None
    _sparse: bool
    _in_thread: InThread = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    _read_only: bool = False

    name = "file"

    async def options(self) -> Capabilities:
        return Capabilities(FEATURES, 8, 1)

    async def size(self) -> int:
        with await self._open(os.O_RDONLY) as opened:
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
        return Reading(FileSource(opened, start, stop, self._clock), start, stop - start, partial)

    async def resume(self, reading: Reading, moved: int) -> Reading:
        """What a file did not give once, it will not give at a second try."""
        raise errors.UpstreamFailed(reason="read")

    async def write(self, offset: int, length: int, body: relay.Source, *, flush: bool) -> None:
        with await self._open(os.O_WRONLY) as opened:
            await FileSink(opened, offset, length).take(body, self._clock)
            if flush:
                await opened.call(os.fsync)

    async def write_segment(self, offset: int, data: bytes, *, flush: bool) -> None:
        with await self._open(os.O_WRONLY) as opened:
            await opened.call(file_io.write, data, offset)
            if flush:
                await opened.call(os.fsync)

    async def zero(self, offset: int, size: int, *, flush: bool) -> None:
        with await self._open(os.O_RDWR) as opened:
            end = offset + size
            while offset < end:
                # In steps, so that a revoked ticket stops it soon.
                step = min(end - offset, _STEP)
                await opened.call(file_io.zero, offset, step, self._sparse)
                offset += step
            if flush:
                await opened.call(os.fsync)

    async def flush(self) -> None:
        with await self._open(os.O_WRONLY) as opened:
            await opened.call(os.fsync)

    async def extents(self, context: str) -> Document:
        if context == "dirty":
            raise errors.NotFound("Backend does not support dirty extents")
        if context != "zero":
            raise errors.BadRequest("Unsupported value for 'context', expecting 'zero' or 'dirty'")
        return await file_extents.document(await self._open(os.O_RDONLY))

    async def checksum(self, algorithm: str, block_size: int) -> Document:
        digest = file_io.new_hash(algorithm)
        with await self._open(os.O_RDONLY) as opened:
            for start in range(0, opened.size, block_size):
                stop = min(start + block_size, opened.size)
                digest.update(await opened.call(file_io.block_digest, start, stop, algorithm))
        answer = {"algorithm": algorithm, "block_size": block_size, "checksum": digest.hexdigest()}
        return Document.of(json.dumps(answer).encode("ascii") + b"\n")

    def _open(self, flags: int) -> Deferred[OpenFile]:
        if self._read_only and flags & (os.O_WRONLY | os.O_RDWR):
            raise errors.Forbidden("This file may only be read", reason="read_only")
        return open_in_thread(self._in_thread, self._path, flags, self._limit)
