"""One of several viewers of a console: served from the framebuffer, whatever the server does meanwhile.

Source: RFC 6143, sections 7.5.1 to 7.5.3 and 7.6 to 7.8; rfbproto, section "Pseudo-encodings".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

from gateway.wire.rfb import NUMBER, RGBX, PixelFormat
from gateway.wire.rfb_encodings import (
    MAX_TIGHT_WIDTH,
    ZLIB_HEADER,
    Layout,
    Shelf,
    convert,
    counted,
    head,
)
from gateway.wire.rfb_framebuffer import Cursor, Framebuffer, Rectangle
from gateway.wire.rfb_messages import Message
from gateway.wire.rfb_server import CutText, Encoding, ServerMessages

_UPDATE: Final = Struct(">BxH")
_REQUEST: Final = Struct(">xBHHHH")
_CUT_TEXT: Final = Struct(">BxxxI")
_SCREEN: Final = Struct(">IHHHHI")
#: Pixels of one update, which bound its size, and of one rectangle in it, which bound the time that it takes.
UPDATE_PIXELS: Final = 256 * 1024
BLOCK_PIXELS: Final = 32 * 1024


class ViewerEncoder:
    """What one viewer gets to see.

    :param server: whose screen it is.
    :param shelf: shared by the viewers of this screen.
    :ivar wants: an update was asked for and not sent yet.
    """

    def __init__(self, server: ServerMessages, shelf: Shelf) -> None:
        self._server = server
        self._shelf = shelf
        self._screen = server.framebuffer
        self._unseen = self._screen.watch()
        self._size = self._screen.width, self._screen.height
        self._layout = Layout.of(RGBX)
        self._encoding = Encoding.RAW
        self._knows: frozenset[int] = frozenset()
        # What is to be told with the next update.
        self._tell_size = False
        self._tell_keys = False
        self._cursor: Cursor | None = None
        self._zlib_begun = False
        self.wants = False

    def leave(self) -> None:
        """The viewer is gone."""
        self._screen.forget(self._unseen)

    def receive(self, message: bytes) -> None:
        """Take one message about its picture, whole; others are ignored.

        :raises gateway.errors.BadRequest: it wants pixels that nobody makes here.
        """
        kind = message[0]
        if kind == Message.UPDATE_REQUEST:
            changes, x, y, width, height = _REQUEST.unpack(message)
            if not changes:
                self._unseen.add(x, y, width, height)
            self.wants = True
        elif kind == Message.SET_PIXEL_FORMAT:
            self._layout = Layout.of(PixelFormat.parse(message[4:]))
            # A pointer's shape has pixels, too.
            self._cursor = None
            self._choose()
        elif kind == Message.SET_ENCODINGS:
            known = {it - (1 << 32) if it >> 31 else it for (it,) in NUMBER.iter_unpack(message[4:])}
            self._tell_size |= Encoding.EXTENDED_SIZE in known - self._knows
            self._tell_keys |= Encoding.QEMU_KEYS in known - self._knows
            self._knows = frozenset(known)
            self._choose()

    def follow(self) -> None:
        """Look at the framebuffer that the server has now; the one before is let go."""
        if self._screen is not self._server.framebuffer:
            self._screen.forget(self._unseen)
            self._screen = self._server.framebuffer
            self._unseen = self._screen.watch()

    def update(self) -> bytes:
        """All :meth:`pieces` of an update at once."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """An update, if one was asked for and there is something new; nothing otherwise.

        It shows :data:`UPDATE_PIXELS` at most, and the rest when it is asked again. A piece, of
        :data:`BLOCK_PIXELS` at most, is made when it is taken, which is where the time goes; nothing else may
        be sent before the last one.
        """
        if not self.wants or not self._server.ready:
            return
        self.follow()
        rectangles, parts = self._sizes(), []
        if not rectangles:
            rectangles = [*self._news()]
            parts = [*self._blocks(self._unseen.take(UPDATE_PIXELS))]
        if not rectangles and not parts:
            return
        self.wants = False
        # What the viewer says meanwhile is about the next one.
        encoding, layout, screen = self._encoding, self._layout, self._screen
        said = _UPDATE.pack(0, len(rectangles) + len(parts)) + b"".join(rectangles)
        for part in parts:
            yield said + self._pixels(screen, part, encoding, layout)
            said = b""
        if said:
            yield said

    def _choose(self) -> None:
        if Encoding.TIGHT in self._knows and self._layout.tight:
            self._encoding = Encoding.TIGHT
        elif Encoding.ZRLE in self._knows:
            self._encoding = Encoding.ZRLE
        else:
            self._encoding = Encoding.RAW

    def _sizes(self) -> list[bytes]:
        """A new size is an update of its own."""
        size = self._screen.width, self._screen.height
        part = Rectangle(0, 0, *size)
        screens = self._server.screens
        if Encoding.EXTENDED_SIZE in self._knows and (size != self._size or (self._tell_size and screens)):
            self._tell_size = False
            self._size = size
            screens = screens or _SCREEN.pack(0, 0, 0, *size, 0)
            count = len(screens) // _SCREEN.size
            return [head(part, Encoding.EXTENDED_SIZE) + bytes([count, 0, 0, 0]) + screens]
        if Encoding.SIZE in self._knows and size != self._size:
            self._size = size
            return [head(part, Encoding.SIZE)]
        return []

    def _news(self) -> Iterator[bytes]:
        if self._tell_keys and self._server.qemu_keys:
            self._tell_keys = False
            yield head(Rectangle(0, 0, 0, 0), Encoding.QEMU_KEYS)
        cursor = self._server.cursor
        if cursor is not None and cursor is not self._cursor and Encoding.CURSOR in self._knows:
            self._cursor = cursor
            part = Rectangle(cursor.x, cursor.y, cursor.width, cursor.height)
            pixels = convert(cursor.pixels, self._layout.order)
            yield head(part, Encoding.CURSOR) + pixels + cursor.mask

    def _pixels(self, screen: Framebuffer, part: Rectangle, encoding: Encoding, layout: Layout) -> bytes:
        data = self._shelf.encode(screen, part, encoding, layout)
        if encoding == Encoding.ZRLE:
            if not self._zlib_begun:
                self._zlib_begun = True
                data = ZLIB_HEADER + data
            data = counted(data)
        return head(part, encoding) + data

    def _blocks(self, parts: Iterable[Rectangle]) -> Iterator[Rectangle]:
        """Cut *parts* to what fits into a rectangle, and to the screen that the viewer knows."""
        width, height = self._size
        for part in parts:
            right, bottom = min(part.x + part.width, width), min(part.y + part.height, height)
            for x in range(part.x, right, MAX_TIGHT_WIDTH):
                columns = min(MAX_TIGHT_WIDTH, right - x)
                rows = max(1, BLOCK_PIXELS // columns)
                for y in range(part.y, bottom, rows):
                    yield Rectangle(x, y, columns, min(rows, bottom - y))


def bell() -> bytes:
    """What rings at a viewer."""
    return b"\x02"


def cut_text(event: CutText) -> bytes:
    """A clipboard for a viewer."""
    return _CUT_TEXT.pack(3, len(event.text)) + event.text
