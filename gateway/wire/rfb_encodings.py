"""Pixels as viewers want them: Raw, ZRLE and Tight.

Every rectangle is compressed by itself, without looking back at others, so that the same bytes serve
all viewers of a screen: Tight says so in each rectangle, and in ZRLE a viewer's stream is made of
pieces that hold together because each ends at a byte and points to nothing before its beginning.

Source: RFC 6143, sections 7.7.1 and 7.7.6; rfbproto, section "Tight Encoding"; RFC 1950 and 1951.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import Final

from attrs import frozen

from gateway import errors
from gateway.wire.rfb import NUMBER, PixelFormat
from gateway.wire.rfb_framebuffer import PIXEL, Framebuffer, Rectangle
from gateway.wire.rfb_server import HEAD, Encoding

#: Begins every stream of zlib. Source: RFC 1950, section 2.2: deflate, a window of 32 KiB, fast.
ZLIB_HEADER: Final = b"\x78\x01"
_LEVEL: Final = 1
_TILE: Final = 64
_SOLID: Final = b"\x01"
_FILL: Final = b"\x80"
#: No filter, the first of the streams, which begins anew.
_BASIC: Final = b"\x01"
#: Less than this is not worth a stream. Source: rfbproto, "Tight Encoding".
_TIGHT_MINIMUM: Final = 12
#: Source: as above.
MAX_TIGHT_WIDTH: Final = 2048
_SHELF: Final = 8 * 1024 * 1024
_SHORT: Final = Struct(">H")


@frozen
class Layout:
    """A pixel format that can be served.

    :ivar order: for each byte of a pixel, which one of ours it is.
    :ivar compact: likewise for the pixels of ZRLE, which may have three bytes.
    :ivar tight: Tight sends three bytes, red, green and blue.
    """

    order: tuple[int, ...]
    compact: tuple[int, ...]
    tight: bool

    @classmethod
    def of(cls, form: PixelFormat) -> Layout:
        """The layout of *form*.

        :raises gateway.errors.BadRequest: a pixel has not 32 bits with a byte for each colour.
        """
        where = form.order
        if where is None:
            raise errors.BadRequest("A shared console is shown in 32-bit true color only")
        (unused,) = {0, 1, 2, 3} - set(where)
        order = [3] * PIXEL
        for ours, its in enumerate(where):
            order[its] = ours
        three = unused in (0, 3) and form.depth <= 24
        compact = order[1:] if unused == 0 else order[:3]
        return cls(tuple(order), tuple(compact if three else order), form.depth == 24)


def convert(pixels: bytes, order: tuple[int, ...]) -> bytes | bytearray:
    """Put the bytes of each pixel into another order, or only three of them."""
    if order == (0, 1, 2, 3):
        return pixels
    size = len(order)
    out = bytearray(len(pixels) // PIXEL * size)
    for its, ours in enumerate(order):
        out[its::size] = pixels[ours::PIXEL]
    return out


def _deflate(data: bytes | bytearray, *, bare: bool) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS if bare else zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)


def _is_solid(pixels: bytes) -> bool:
    return pixels == pixels[:PIXEL] * (len(pixels) // PIXEL)


def raw(screen: Framebuffer, part: Rectangle, layout: Layout) -> bytes:
    """All pixels, row by row."""
    return bytes(convert(screen.get(part), layout.order))


def tight(screen: Framebuffer, part: Rectangle) -> bytes:
    """One colour, or a stream of zlib."""
    pixels = screen.get(part)
    if _is_solid(pixels):
        return _FILL + pixels[:3]
    data = convert(pixels, (0, 1, 2))
    if len(data) < _TIGHT_MINIMUM:
        return _BASIC + data
    packed = _deflate(data, bare=False)
    return _BASIC + _compact_length(len(packed)) + packed


def _compact_length(size: int) -> bytes:
    out = bytearray()
    for _ in range(2):
        if size < 0x80:
            break
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def zrle(screen: Framebuffer, part: Rectangle, layout: Layout) -> bytes:
    """Tiles, each of one colour or as it is: a piece of a viewer's stream, to be counted and sent."""
    out = bytearray()
    right, bottom = part.x + part.width, part.y + part.height
    for y in range(part.y, bottom, _TILE):
        height = min(_TILE, bottom - y)
        for x in range(part.x, right, _TILE):
            pixels = screen.get(Rectangle(x, y, min(_TILE, right - x), height))
            if _is_solid(pixels):
                out += _SOLID
                out += convert(pixels[:PIXEL], layout.compact)
            else:
                out.append(0)
                out += convert(pixels, layout.compact)
    return _deflate(out, bare=True)


class Shelf:
    """Encoded rectangles of one screen, kept until it changes: all its viewers share them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Encoding, Layout, Rectangle], bytes] = {}
        self._size = 0
        self._screen: Framebuffer | None = None
        self._generation = -1

    def encode(self, screen: Framebuffer, part: Rectangle, encoding: Encoding, layout: Layout) -> bytes:
        """The pixels of *part*, without its head."""
        if screen is not self._screen or screen.generation != self._generation or self._size > _SHELF:
            self._kept.clear()
            self._size = 0
            self._screen, self._generation = screen, screen.generation
        if encoding == Encoding.RAW:
            # As fast as looking it up, and large.
            return raw(screen, part, layout)
        key = encoding, layout, part
        found = self._kept.get(key)
        if found is None:
            is_tight = encoding == Encoding.TIGHT
            found = tight(screen, part) if is_tight else zrle(screen, part, layout)
            self._kept[key] = found
            self._size += len(found)
        return found


def head(part: Rectangle, encoding: Encoding) -> bytes:
    """What stands before a rectangle."""
    return HEAD.pack(part.x, part.y, part.width, part.height, encoding)


def counted(data: bytes) -> bytes:
    """*data* with its length before it."""
    return NUMBER.pack(len(data)) + data
