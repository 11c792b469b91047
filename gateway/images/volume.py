"""An image that is a volume of a hypervisor's pool, moved by streams of the hypervisor's own protocol.

Bytes are those of the volume's file or device, whatever its format: nobody here looks into a qcow2. Each
operation has a stream to itself, and a stream that was finished is stored: there is nothing to flush.
Source: libvirt 9.0, virStorageVolUpload and virStorageVolDownload; ovirt-imageio 2.5, images API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime
from zope.interface import implementer

from gateway import errors
from gateway.core import relay
from gateway.images.checksum import BlockHash
from gateway.images.patience import until_back, watched
from gateway.images.target import Capabilities, Document, Held, Reading
from gateway.wire.byte_range import Range
from gateway.wire.hypervisor_url import VolumePlace
from gateway.wire.nbd_extents import Extents
from gateway.wire.volume_xml import VolumeInfo

#: What passes by itself.
_PASSING = (errors.UpstreamFailed, errors.UpstreamTimeout, errors.TargetDown, errors.Busy)


class Upload(relay.Sink, Protocol):
    """Where the bytes of an upload go."""

    def finish(self) -> Deferred[None]:
        """Say that these were all; the result fires when they are stored, or fails with a GatewayError."""

    def when_over(self, told: Callable[[str], object]) -> None:
        """Call *told* with a word when nothing more is taken; :meth:`finish` knows why."""

    def close(self) -> None:
        """Give up what was not finished."""


class Volumes(Protocol):
    """The volumes of all hypervisors of the configuration.

    All methods raise :class:`~gateway.errors.GatewayError`. Offsets and lengths are bytes; no length is 0.
    Principals take turns.
    """

    async def info(self, place: VolumePlace, *, principal: str) -> VolumeInfo:
        """Describe a volume as it is now."""

    async def download(self, place: VolumePlace, offset: int, length: int, *, principal: str) -> relay.Source:
        """Begin to read; the source delivers exactly *length* bytes, or fails with an UpstreamFailed."""

    async def upload(self, place: VolumePlace, offset: int, length: int, *, principal: str) -> Upload:
        """Begin to write."""


@define
class VolumeTarget:
    """One volume.

    :ivar principal: whose ticket this is.
    :ivar limit: bytes that the ticket lets anybody see, None for all.
    :ivar in_thread: runs a function elsewhere than on the reactor's thread.
    :ivar timeout: seconds without progress after which an upload is given up.
    """

    _volumes: Volumes = field(repr=False)
    _place: VolumePlace = field(repr=False)
    _principal: str
    _limit: int | None
    _in_thread: Callable[..., Deferred[Any]] = field(repr=False)
    _clock: IReactorTime = field(repr=False)
    _timeout: float = 120.0

    @property
    def name(self) -> str:
        return f"libvirt://{self._place.target}"

    async def _info(self) -> VolumeInfo:
        return await self._volumes.info(self._place, principal=self._principal)

    async def options(self) -> Capabilities:
        return Capabilities(("checksum", "extents", "flush"), 8, 8)

    async def size(self) -> int:
        size = (await self._info()).size
        return size if self._limit is None else min(size, self._limit)

    # -- reading ---------------------------------------------------------------------------

    async def read(self, wanted: Range | None, if_range: bytes | None) -> Reading:
        size = await self.size()
        # Without validators no If-Range can match: the whole is sent (RFC 9110, section 13.1.5).
        partial = wanted is not None and if_range is None
        start, stop = wanted.resolve(size) if wanted is not None and partial else (0, size)
        source: relay.Source = Held(b"")
        if stop > start:
            length, who = stop - start, self._principal
            source = await self._volumes.download(self._place, start, length, principal=who)
        return Reading(source, start, stop - start, partial)

    async def resume(self, reading: Reading, moved: int) -> Reading:
        """Ask for the rest until the hypervisor is back."""

        async def again() -> Reading:
            rest = await self.read(reading.after(moved), None)
            if rest.length != reading.length - moved:
                rest.source.stopProducing()
                raise errors.UpstreamFailed(reason="malformed")
            return rest

        return await until_back(again, self._clock, _PASSING)

    # -- writing ---------------------------------------------------------------------------

    async def write(self, offset: int, length: int, body: relay.Source, *, flush: bool) -> None:
        bound = (await self._info()).bound
        if bound is not None and offset + length > bound:
            raise errors.RangeNotSatisfiable("Requested range out of allowed range", available=bound)
        if not length:
            return
        upload = await self._volumes.upload(self._place, offset, length, principal=self._principal)
        try:
            await self._move(body, _Noting(upload))
        finally:
            # One that was finished is stored, and this changes nothing.
            upload.close()

    async def _move(self, body: relay.Source, sink: _Noting) -> None:
        """Move *body* and finish; stop when the hypervisor fails, or does nothing when it is its turn."""
        moving = Deferred.fromCoroutine(self._moved(body, sink))
        broken = False

        def over(_: str) -> None:
            nonlocal broken
            broken = True
            moving.cancel()

        sink.upload.when_over(over)
        try:
            with watched(moving, sink, self._clock, self._timeout):
                await moving
        except CancelledError:
            if broken:
                await sink.upload.finish()
                raise errors.UpstreamFailed(reason="closed") from None
            raise

    async def _moved(self, body: relay.Source, sink: _Noting) -> None:
        await relay.body(body, sink, self._clock)
        sink.held = True
        await sink.upload.finish()

    async def write_segment(self, offset: int, data: bytes, *, flush: bool) -> None:
        await self.write(offset, len(data), Held(data), flush=flush)

    async def zero(self, offset: int, size: int, *, flush: bool) -> None:
        raise errors.NotImplementedHere("A volume of a hypervisor cannot be zeroed: write zeroes")

    async def flush(self) -> None:
        """What was finished is stored."""

    # -- describing ------------------------------------------------------------------------

    async def extents(self, context: str) -> Document:
        if context == "dirty":
            raise errors.NotFound("Backend does not support dirty extents")
        if context != "zero":
            raise errors.BadRequest("Unsupported value for 'context', expecting 'zero' or 'dirty'")
        extents = Extents("zero", "hole")
        extents.add(await self.size(), (False, False))
        return Document.of(extents.text())

    async def checksum(self, algorithm: str, block_size: int) -> Document:
        digest = BlockHash(algorithm, block_size)
        return await digest.take((await self.read(None, None)).source, self._in_thread)


@implementer(IConsumer, IPushProducer)
class _Noting:
    """Stands between a body and an upload, and knows how it goes.

    :ivar progress: bytes that went by.
    :ivar held: it is the hypervisor's turn.
    """

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.progress = 0
        self.held = False
        self._producer: Any = None

    def write(self, data: bytes) -> None:
        self.progress += len(data)
        self.upload.write(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        self.upload.registerProducer(self, streaming)

    def unregisterProducer(self) -> None:
        self.upload.unregisterProducer()

    def pauseProducing(self) -> None:
        self.held = True
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self.held = False
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self._producer.stopProducing()
