"""An image behind an NBD server, such as a qcow2 file that ``qemu-nbd`` opens.

Every operation has a connection to itself for as long as it lasts; see :mod:`gateway.images.nbd_pool`.
Source: NBD protocol, section "Request types"; ovirt-imageio 2.5, images API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core import relay
from gateway.images.checksum import BlockHash
from gateway.images.nbd_connection import NbdConnection
from gateway.images.nbd_pool import NbdPool, Place
from gateway.images.nbd_transfer import WRITE, NbdSink, NbdSource
from gateway.images.patience import until_back, watched
from gateway.images.target import FEATURES, Capabilities, Document, Held, Reading
from gateway.wire.byte_range import Range
from gateway.wire.nbd import Command, CommandFlag
from gateway.wire.nbd_extents import Extents, dirty_extents, zero_extents
from gateway.wire.nbd_negotiation import Export, Flags

#: Bytes zeroed, and bytes described, by one request.
_ZERO = 128 * 1024 * 1024
_DESCRIBE = 1024 * 1024 * 1024


@define
class NbdTarget:
    """One export of one server.

    :ivar limit: bytes that the ticket lets anybody see, None for all.
    :ivar sparse: zeroing makes holes.
    :ivar in_thread: runs a function elsewhere than on the reactor's thread.
    :ivar timeout: seconds without progress after which an upload is given up.
    """

    _pool: NbdPool = field(repr=False)
    _place: Place = field(repr=False)
    _limit: int | None
    _sparse: bool
    _in_thread: Callable[..., Deferred[Any]] = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    _timeout: float = 120.0

    @property
    def name(self) -> str:
        return self._place.name

    async def _writable(self, stop: int) -> NbdConnection:
        """Return a connection to an export that may be written up to *stop*."""
        connection = await self._pool.take(self._place)
        size = self._size(connection.export)
        if not connection.export.flags & Flags.READ_ONLY and stop <= size:
            return connection
        connection.release()
        if stop > size:
            raise errors.RangeNotSatisfiable("Requested range out of allowed range", available=size)
        raise errors.Forbidden("The image is read-only", reason="read_only")

    async def _export(self) -> Export:
        """What is known of the export; a server that takes one connection is not made to wait for it."""
        export = self._pool.export(self._place)
        if export is None:
            with await self._pool.take(self._place) as connection:
                export = connection.export
        return export

    def _size(self, export: Export) -> int:
        return export.size if self._limit is None else min(export.size, self._limit)

    async def options(self) -> Capabilities:
        """Connections that see each other's writes can be used at once; others take turns."""
        several = (await self._export()).flags & Flags.MULTI_CONN
        return Capabilities(FEATURES, 8, 8) if several else Capabilities(FEATURES, 1, 1)

    async def size(self) -> int:
        return self._size(await self._export())

    # -- reading ---------------------------------------------------------------------------

    async def read(self, wanted: Range | None, if_range: bytes | None) -> Reading:
        connection = await self._pool.take(self._place)
        size = self._size(connection.export)
        # Without validators no If-Range can match: the whole is sent (RFC 9110, section 13.1.5).
        partial = wanted is not None and if_range is None
        try:
            start, stop = wanted.resolve(size) if wanted is not None and partial else (0, size)
        except errors.RangeNotSatisfiable:
            connection.release()
            raise
        return Reading(NbdSource(connection, start, stop), start, stop - start, partial)

    async def resume(self, reading: Reading, moved: int) -> Reading:
        """Ask for the rest until the server is back."""
        return await until_back(lambda: self.read(reading.after(moved), None), self._clock)

    # -- writing ---------------------------------------------------------------------------

    async def write(self, offset: int, length: int, body: relay.Source, *, flush: bool) -> None:
        with await self._writable(offset + length) as connection:
            await self._upload(NbdSink(connection, offset, length), body)
            if flush:
                await self._flush(connection)

    async def _upload(self, sink: NbdSink, body: relay.Source) -> None:
        """Move *body*; stop when the server fails, or makes no progress although it is its turn."""
        moving = Deferred.fromCoroutine(_moved(body, sink, self._clock))
        sink.broken = moving.cancel
        if sink.error is not None:
            moving.cancel()
        try:
            with watched(moving, sink, self._clock, self._timeout):
                await moving
        except CancelledError:
            if sink.error is not None:
                raise sink.error from None
            raise

    async def write_segment(self, offset: int, data: bytes, *, flush: bool) -> None:
        await self.write(offset, len(data), Held(data), flush=flush)

    async def zero(self, offset: int, size: int, *, flush: bool) -> None:
        with await self._writable(offset + size) as connection:
            end = offset + size
            while offset < end:
                # In steps, so that a revoked ticket stops it soon.
                offset += await self._zero(connection, offset, end - offset)
            if flush:
                await self._flush(connection)

    async def _zero(self, connection: NbdConnection, offset: int, size: int) -> int:
        """Zero up to *size* bytes; return how many."""
        if connection.export.flags & Flags.WRITE_ZEROES:
            size = min(size, _ZERO)
            flags = CommandFlag.NONE if self._sparse else CommandFlag.NO_HOLE
            await connection.request(Command.WRITE_ZEROES, offset, size, flags)
        else:
            size = min(size, WRITE)
            done = connection.request(Command.WRITE, offset, size)
            connection.write(bytes(size))
            await done
        return size

    async def flush(self) -> None:
        with await self._writable(0) as connection:
            await self._flush(connection)

    @staticmethod
    async def _flush(connection: NbdConnection) -> None:
        if connection.export.flags & Flags.FLUSH:
            await connection.request(Command.FLUSH)

    # -- describing ------------------------------------------------------------------------

    async def extents(self, context: str) -> Document:
        if context not in ("zero", "dirty"):
            raise errors.BadRequest("Unsupported value for 'context', expecting 'zero' or 'dirty'")
        with await self._pool.take(self._place) as connection:
            export = connection.export
            if context == "dirty" and export.dirty is None:
                raise errors.NotFound("Backend does not support dirty extents")
            size, told = self._size(export), zero_extents if context == "zero" else dirty_extents
            extents = Extents("zero", "hole") if context == "zero" else Extents("dirty", "zero")
            if context == "zero" and export.allocation is None:
                extents.add(size, (False, False))
            while extents.stop < size:
                length = min(size - extents.stop, _DESCRIBE)
                reply = await connection.request(Command.BLOCK_STATUS, extents.stop, length)
                for piece, values in told(export, reply):
                    extents.add(min(piece, size - extents.stop), values)
        return Document.of(extents.text())

    async def checksum(self, algorithm: str, block_size: int) -> Document:
        digest = BlockHash(algorithm, block_size)
        return await digest.take((await self.read(None, None)).source, self._in_thread)


async def _moved(body: relay.Source, sink: NbdSink, clock: IReactorTime) -> None:
    await relay.body(body, sink, clock)
    await sink.finished()
