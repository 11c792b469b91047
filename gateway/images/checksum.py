"""The checksum of an image that comes in pieces: a digest over the digests of its blocks.

Source: ovirt-imageio 2.5, blkhash.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from gateway.core import relay
from gateway.images.file_io import new_hash
from gateway.images.target import Document

#: Bytes hashed by one call.
_PIECE = 1024 * 1024


class BlockHash:
    """The checksum in the making.

    :param block_size: bytes.
    :raises gateway.errors.BadRequest: there is no such algorithm.
    """

    def __init__(self, algorithm: str, block_size: int) -> None:
        self._algorithm = algorithm
        self._block_size = block_size
        self._whole = new_hash(algorithm)
        self._block = new_hash(algorithm)
        self._left = block_size

    async def take(self, source: relay.Source, in_thread: Callable[..., Deferred[Any]]) -> Document:
        """Take all of an image; return what the images API says of it.

        :param in_thread: runs a function elsewhere than on the reactor's thread.
        """
        try:
            async for piece in relay.Segments(source, _PIECE):
                await in_thread(self.update, piece)
        finally:
            # One that went by whole is closed or given back, and this changes nothing.
            source.stopProducing()
        return Document.of(self.answer())

    def update(self, data: bytes) -> None:
        """Take the next bytes of the image; takes its time, so call it in a thread."""
        view = memoryview(data)
        while view:
            piece = view[: self._left]
            self._block.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
            if not self._left:
                self._next()

    def _next(self) -> None:
        self._whole.update(self._block.digest())
        self._block, self._left = new_hash(self._algorithm), self._block_size

    def answer(self) -> bytes:
        """What the images API says of it, as JSON."""
        if self._left < self._block_size:
            self._next()
        told = {
            "algorithm": self._algorithm,
            "block_size": self._block_size,
            "checksum": self._whole.hexdigest(),
        }
        return json.dumps(told).encode("ascii") + b"\n"
