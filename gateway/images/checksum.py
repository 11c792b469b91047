"""The checksum of an image that comes in pieces: a digest over the digests of its blocks.

Source: ovirt-imageio 2.5, blkhash.
"""

from __future__ import annotations

import json

from gateway.images.file_io import new_hash


class BlockHash:
    """The checksum in the making; its methods take their time, so call them in a thread.

    :param block_size: bytes.
    :raises gateway.errors.BadRequest: there is no such algorithm.
    """

    def __init__(self, algorithm: str, block_size: int) -> None:
        self._algorithm = algorithm
        self._block_size = block_size
        self._whole = new_hash(algorithm)
        self._block = new_hash(algorithm)
        self._left = block_size

    def update(self, data: bytes) -> None:
        """Take the next bytes of the image."""
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
