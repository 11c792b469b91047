"""What is read from a file and not sent yet, or received and not written: two buffers for each transfer."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

from gateway.core.fasttls import READ, SLACK
from gateway.core.pump import WORTH
from gateway.images import direct_io
from gateway.images.direct_io import PAGE

#: Bytes of one read or write: for fewer, turns of threads cost more than what they do.
PIECE = 256 * PAGE
#: The same for a long transfer, where that costs a third of the interpreter's work more.
LONG_PIECE = 4 * PIECE
#: Bytes from which on a transfer is long.
LONG = 16 * LONG_PIECE
#: Bytes that may lack of a received piece, for TLS never gives a whole one, and that fit in behind it. With
#: them there is room for one more read.
LACK = READ // 2
BEHIND = 2 * SLACK


class Buffers:
    """The two buffers of one transfer: one is emptied while the other is filled.

    Their memory is taken when they are first filled. Of long ones there are only two, for one transfer at a
    time, and they are there from the start: no transfer makes a process grow by as much.

    :param length: bytes of the transfer.
    :ivar piece: bytes that are read at once, at least a page.
    :ivar enough: bytes that are written when as many were received.
    """

    #: The long ones that nobody has.
    long: ClassVar[list[list[memoryview]]] = []

    def __init__(self, length: int) -> None:
        self._is_long = length >= LONG and bool(self.long)
        if self._is_long:
            self.piece, self._free = LONG_PIECE, self.long.pop()
        else:
            self.piece = max(PAGE, min(PIECE, length))
            self._free = _pair(self.piece + (BEHIND if length >= WORTH else 0))
        self.enough = self.piece - (LACK if length >= WORTH else 0)

    def take(self) -> memoryview | None:
        """One to be filled, if there is one."""
        return self._free.pop() if self._free else None

    def give(self, buffer: memoryview) -> None:
        """Have back one that is empty."""
        self._free.append(buffer)

    def close(self) -> None:
        """Leave the long ones to others. What was not given back lives as long as somebody uses it."""
        if self._is_long:
            self._is_long = False
            self.long.append(self._free if len(self._free) == 2 else _pair(LONG_PIECE + BEHIND))
        self._free = []


@cache
def prepare() -> None:
    """Make the long ones, once in a process."""
    pair = _pair(LONG_PIECE + BEHIND)
    for buffer in pair:
        buffer[::PAGE] = bytes(-(-len(buffer) // PAGE))
    Buffers.long.append(pair)


def _pair(each: int) -> list[memoryview]:
    """Two buffers of *each* bytes at least."""
    each += -each % PAGE
    both = direct_io.new_buffer(2 * each)
    return [both[:each], both[each:]]
