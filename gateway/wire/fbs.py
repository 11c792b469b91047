"""FBS 001.000: what a VNC server sent, cut into blocks that know when they came.

A file begins with :data:`HEADER`. A block is its length, the data, zeroes up to a multiple of four bytes, and
the milliseconds since the recording began; blocks may cut a message anywhere. The data of all blocks together
is what a viewer of a server without security hears: see :func:`greeting`. A recording that was broken off
is good up to its last whole block.

Source: rfbproxy, "FBS file format", as read by the players of rfbproxy and TightVNC. All integers are
big-endian.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from attrs import define, field, frozen

HEADER: Final = b"FBS 001.000\n"
#: Bytes of data that a block has at most.
MAX_BLOCK: Final = 1 << 20
_NUMBER: Final = Struct(">I")
#: Milliseconds; 49 days, after which time stands still.
_LATEST: Final = 0xFFFF_FFFF


@frozen
class Block:
    """A piece of what the server sent.

    :ivar milliseconds: since the recording began.
    """

    milliseconds: int
    data: bytes


def greeting(init: bytes) -> bytes:
    """What a server that demands no password says before its first message.

    Source: RFC 6143, section 7.1: version, one security type (None), its result, and *init*.
    """
    return b"RFB 003.008\n" + b"\x01\x01" + bytes(4) + init


@define
class FbsWriter:
    """Makes the bytes of a file.

    :cvar suffix: of the file's name.
    """

    suffix = "fbs"
    _latest: int = field(default=0, init=False)

    def begin(self) -> bytes:
        """What the file begins with."""
        return HEADER

    def write(self, seconds: float, data: bytes) -> list[bytes]:
        """The blocks that hold *data*, which came *seconds* after the beginning."""
        self._latest = latest = max(self._latest, min(int(seconds * 1000), _LATEST))
        pieces = (data[at : at + MAX_BLOCK] for at in range(0, len(data), MAX_BLOCK))
        return [
            _NUMBER.pack(len(piece)) + piece + bytes(-len(piece) % 4) + _NUMBER.pack(latest)
            for piece in pieces
        ]

    def end(self) -> list[bytes]:
        """What is left to be written."""
        return []


@define
class FbsReader:
    """Reads a file of ours.

    :ivar whole: nothing is held: the file may end here.
    """

    _held: bytearray = field(factory=bytearray, init=False)
    _begun: bool = field(default=False, init=False)
    _latest: int = field(default=0, init=False)

    @property
    def whole(self) -> bool:
        return self._begun and not self._held

    def receive(self, data: bytes) -> list[Block]:
        """Consume *data*, in pieces of any size.

        :raises ValueError: it is no such file; nothing that follows counts.
        """
        self._held += data
        blocks: list[Block] = []
        at = 0
        if not self._begun:
            if not HEADER.startswith(self._held[: len(HEADER)]):
                raise ValueError("it does not begin as a recording does")
            if len(self._held) < len(HEADER):
                return blocks
            self._begun, at = True, len(HEADER)
        held = self._held
        while len(held) - at >= 4:
            (length,) = _NUMBER.unpack_from(held, at)
            if not 0 < length <= MAX_BLOCK:
                raise ValueError("the length of a block makes no sense")
            padded = length + -length % 4
            end = at + 4 + padded + 4
            if len(held) < end:
                break
            if any(held[at + 4 + length : end - 4]):
                raise ValueError("a block is filled up with something else than zeroes")
            (milliseconds,) = _NUMBER.unpack_from(held, end - 4)
            if milliseconds < self._latest:
                raise ValueError("time runs backwards")
            self._latest = milliseconds
            blocks.append(Block(milliseconds, bytes(held[at + 4 : at + 4 + length])))
            at = end
        del held[:at]
        return blocks
