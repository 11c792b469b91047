"""A screen kept in memory, and which parts of it somebody has not seen yet.

Coordinates and sizes are pixels, from the upper left corner.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen

#: Bytes of a pixel: red, green, blue and nothing.
PIXEL: Final = 4
MAX_SIDE: Final = 16384
MAX_PIXELS: Final = 16 * 1024 * 1024
#: Side of the squares in which changes are noted.
TILE: Final = 32
#: Side of the largest cursor.
MAX_CURSOR: Final = 256


@frozen
class Rectangle:
    """A part of a screen."""

    x: int
    y: int
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


@frozen
class Cursor:
    """The shape of the pointer; empty when it is hidden.

    :ivar pixels: of the framebuffer's format.
    :ivar mask: one bit for each pixel, the first in the highest; rows end with whole bytes.
    """

    x: int
    y: int
    width: int
    height: int
    pixels: bytes
    mask: bytes


class Damage:
    """The parts that were changed, as squares of a grid: it takes the same memory however many there are."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        # A bit for each column, the leftmost in the lowest.
        self._rows = [0] * -(-height // TILE)
        self._full = (1 << -(-width // TILE)) - 1
        # Where to look first, so that what changes all the time does not hide the rest.
        self._next = 0

    def __bool__(self) -> bool:
        return any(self._rows)

    def add(self, x: int, y: int, width: int, height: int) -> None:
        """Note a rectangle; what lies outside counts for nothing."""
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        if x < right and y < bottom:
            bits = (1 << -(-right // TILE)) - (1 << x // TILE)
            for row in range(y // TILE, -(-bottom // TILE)):
                self._rows[row] |= bits

    def add_all(self) -> None:
        """Note the whole screen."""
        self._rows = [self._full] * len(self._rows)

    def merge(self, other: Damage) -> None:
        """Note what *other*, of the same size, has noted."""
        self._rows = [mine | its for mine, its in zip(self._rows, other._rows, strict=True)]

    def clear(self) -> None:
        """Forget everything."""
        self._rows = [0] * len(self._rows)

    def take(self, pixels: int) -> Iterator[Rectangle]:
        """Forget rectangles that do not overlap, with *pixels* in all or a little more, and yield them."""
        while pixels > 0:
            rows = self._rows
            row = next((it for it in range(self._next, len(rows)) if rows[it]), -1)
            if row < 0:
                row = next((it for it in range(self._next) if rows[it]), -1)
            if row < 0:
                return
            bits = rows[row]
            left = (bits & -bits).bit_length() - 1
            # The ones from there on.
            run = (~(bits >> left) & ((bits >> left) + 1)).bit_length() - 1
            span = ((1 << run) - 1) << left
            last = row + 1
            limit = max(1, pixels // (run * TILE * TILE))
            while last < len(rows) and last - row < limit and rows[last] & span == span:
                last += 1
            for it in range(row, last):
                rows[it] &= ~span
            self._next = row if rows[row] else last
            x, y = left * TILE, row * TILE
            rectangle = Rectangle(
                x, y, min((left + run) * TILE, self.width) - x, min(last * TILE, self.height) - y
            )
            pixels -= rectangle.pixels
            yield rectangle


def is_possible(width: int, height: int) -> bool:
    """Whether a screen may have this size."""
    return 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS


class Framebuffer:
    """The pixels of a screen, row by row, in the format :data:`gateway.wire.rfb.RGBX`.

    Whoever uses it sees to it that its size is possible, and that rectangles lie within.

    :ivar generation: counts the changes.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.generation = 0
        self._changed = Damage(width, height)
        self._watched: list[Damage] = []
        self._stride = width * PIXEL
        self._view = memoryview(bytearray(self._stride * height))

    def put(self, x: int, y: int, width: int, data: memoryview) -> None:
        """Put whole rows of pixels, *width* each."""
        row = width * PIXEL
        height = len(data) // row
        at = y * self._stride + x * PIXEL
        if width == self.width:
            self._view[at : at + len(data)] = data
        else:
            view, stride = self._view, self._stride
            for begin in range(0, len(data), row):
                view[at : at + row] = data[begin : begin + row]
                at += stride
        self.generation += 1
        self._changed.add(x, y, width, height)

    def get(self, part: Rectangle) -> bytes:
        """The pixels of *part*."""
        at = part.y * self._stride + part.x * PIXEL
        if part.width == self.width:
            return bytes(self._view[at : at + part.height * self._stride])
        row, stride, view = part.width * PIXEL, self._stride, self._view
        return b"".join([view[begin : begin + row] for begin in range(at, at + part.height * stride, stride)])

    def watch(self) -> Damage:
        """What a new viewer has not seen: everything now, and what :meth:`spread` adds."""
        unseen = Damage(self.width, self.height)
        unseen.add_all()
        self._watched.append(unseen)
        return unseen

    def forget(self, unseen: Damage) -> None:
        """End what :meth:`watch` began."""
        self._watched = [it for it in self._watched if it is not unseen]

    def spread(self) -> None:
        """Tell all who watch what was changed."""
        for unseen in self._watched:
            unseen.merge(self._changed)
        self._changed.clear()
