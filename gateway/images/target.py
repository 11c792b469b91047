"""What an image is to the operations on it, wherever its bytes are.

A *target* is made from the ``url`` of a ticket: :class:`~gateway.images.remote.RemoteTarget`
relays to an image daemon, :class:`~gateway.images.store.FileTarget` is the embedded store,
:class:`~gateway.images.nbd.NbdTarget` asks an NBD server, and
:class:`~gateway.images.volume.VolumeTarget` a hypervisor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred, succeed

from gateway import errors
from gateway.core.relay import Source
from gateway.wire.byte_range import Range

#: What we can do for a client; a target may do less.
FEATURES = ("checksum", "extents", "flush", "zero")


def _works(name: str) -> bool:
    """Whether this machine has a hash of that name, and the hash a length of its own."""
    try:
        return hashlib.new(name).digest_size > 0
    except ValueError:
        return False


#: Hashes for checksums.
ALGORITHMS = tuple(name for name in sorted(hashlib.algorithms_available) if _works(name))


class Relayed(errors.GatewayError):
    """What the image host answered instead of doing it; its status and text go to the client."""

    word = "refused_by_host"

    def __init__(self, status: int, text: str, available: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.available = available

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        if self.available is None:
            return ()
        return [(b"content-range", b"bytes */%d" % self.available)]


@frozen
class Capabilities:
    """What OPTIONS says of a target.

    :ivar readers: connections that may read at once; writers likewise.
    """

    features: tuple[str, ...] = FEATURES
    readers: int = 8
    writers: int = 8


@frozen
class Reading:
    """Bytes of an image on their way out.

    :ivar start: position of the first byte.
    :ivar length: bytes.
    :ivar partial: the answer to a Range.
    :ivar filename: a name the host suggests.
    :ivar validators: fields such as ``etag`` that the client may use in ``If-Range``.
    """

    source: Source = field(repr=False)
    start: int
    length: int
    partial: bool
    filename: str | None = None
    validators: tuple[tuple[bytes, bytes], ...] = ()

    def after(self, moved: int) -> Range:
        """What is left when *moved* bytes are out."""
        return Range(self.start + moved, self.start + self.length - 1)


@frozen
class Document:
    """A JSON answer of unknown size.

    :ivar length: bytes, None when it comes in chunks.
    """

    source: Source = field(repr=False)
    length: int | None

    @classmethod
    def of(cls, text: bytes) -> Document:
        """One in hand."""
        return cls(Held(text), len(text))


class Held:
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


class Target(Protocol):
    """One image. Every method raises :class:`~gateway.errors.GatewayError`; all offsets are bytes."""

    @property
    def name(self) -> str:
        """Where it is, for the list of sessions: no path, no secret."""

    async def options(self) -> Capabilities:
        """What the host can do with this image."""

    async def size(self) -> int:
        """How many bytes may be read."""

    async def read(self, wanted: Range | None, if_range: bytes | None) -> Reading:
        """Begin to read the whole image or one range of it."""

    async def resume(self, reading: Reading, moved: int) -> Reading:
        """Begin again where *reading* broke off after *moved* bytes."""

    async def write(self, offset: int, length: int, body: Source, *, flush: bool) -> None:
        """Write a body of known length."""

    async def write_segment(self, offset: int, data: bytes, *, flush: bool) -> None:
        """Write bytes in hand."""

    async def zero(self, offset: int, size: int, *, flush: bool) -> None:
        """Make a range read as zeroes."""

    async def flush(self) -> None:
        """Make what was written durable."""

    async def extents(self, context: str) -> Document:
        """Describe what is data, zero, hole or dirty."""

    async def checksum(self, algorithm: str, block_size: int) -> Document:
        """Digest the whole image."""
