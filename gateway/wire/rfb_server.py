"""What a VNC server sends once the handshake is over, drawn into a framebuffer for all who look at it.

Pixels are asked for as they are: the server is near, they are as fast as memory is copied, and what a
server may cost us is in proportion to what it sends. (Twenty bytes that copy a screen are not.)

Source: RFC 6143, sections 7.6 and 7.7; rfbproto, section "Pseudo-encodings" (sizes, QEMU's keys).
All integers are big-endian.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from enum import IntEnum
from struct import Struct
from typing import Final

from attrs import evolve, frozen

from gateway.wire.rfb import NUMBER, RGBX, SHORT, Reader, Script, ServerInit, failed
from gateway.wire.rfb_framebuffer import (
    MAX_CURSOR,
    PIXEL,
    Cursor,
    Framebuffer,
    Rectangle,
    is_possible,
)
from gateway.wire.rfb_messages import MAX_CLIPBOARD, Message

HEAD: Final = Struct(">HHHHi")
_REQUEST: Final = Struct(">BBHHHH")
_ENCODINGS: Final = Struct(">BxH")
_SCREENS: Final = 16
#: Bytes that are read at once.
_PIECE: Final = 256 * 1024
#: As many rectangles as there are until the one that says it is the last.
UNCOUNTED: Final = 0xFFFF


class Encoding(IntEnum):
    """How a rectangle is sent, or what it means instead."""

    RAW = 0
    TIGHT = 7
    ZRLE = 16
    SIZE = -223
    LAST = -224
    CURSOR = -239
    QEMU_KEYS = -258
    EXTENDED_SIZE = -308


_WANTED: Final = (
    Encoding.RAW,
    Encoding.EXTENDED_SIZE,
    Encoding.SIZE,
    Encoding.LAST,
    Encoding.CURSOR,
    Encoding.QEMU_KEYS,
)


@frozen
class Updated:
    """The framebuffer, its size or the cursor is another."""


@frozen
class Bell:
    """The bell rings."""


@frozen
class CutText:
    """The clipboard of the guest.

    :ivar text: in Latin-1.
    """

    text: bytes


Event = Updated | Bell | CutText


class ServerMessages(Reader):
    """A server's screen, kept up to date.

    :param init: what the server has said of it.
    :ivar framebuffer: another one whenever the size changes.
    :ivar ready: it has been drawn once.
    :ivar asked: an update was asked for and has not come.
    :ivar cursor: its shape; None as long as nobody has said.
    :ivar qemu_keys: the server takes QEMU's messages about keys.
    :ivar screens: the layout, 16 bytes for each screen; empty unless it may be changed.
    """

    def __init__(self, init: ServerInit) -> None:
        super().__init__(self._read(), failed)
        self._init = init
        self.framebuffer = self._sized(init.width, init.height)
        self.ready = False
        self.cursor: Cursor | None = None
        self.qemu_keys = False
        self.screens = b""
        self._events: list[Event] = []
        self._updated = False
        self.asked = False
        # The next update has to be of everything.
        self._whole = True
        self._begin()

    def describe(self) -> ServerInit:
        """What a viewer that joins now has to know."""
        screen = self.framebuffer
        return evolve(self._init, width=screen.width, height=screen.height, format=RGBX)

    def start(self) -> bytes:
        """What is to be sent first: how the pixels should come."""
        encodings = b"".join(NUMBER.pack(it & 0xFFFFFFFF) for it in _WANTED)
        return (
            bytes([Message.SET_PIXEL_FORMAT, 0, 0, 0])
            + RGBX.encode()
            + _ENCODINGS.pack(Message.SET_ENCODINGS, len(_WANTED))
            + encodings
        )

    def request(self) -> bytes:
        """Ask for an update; empty as long as one is under way."""
        if self.asked:
            return b""
        self.asked = True
        changes, self._whole = not self._whole, False
        screen = self.framebuffer
        return _REQUEST.pack(Message.UPDATE_REQUEST, changes, 0, 0, screen.width, screen.height)

    def receive(self, data: bytes) -> Sequence[Event]:
        """Consume *data*, in pieces of any size; return what has happened, the update last.

        :raises gateway.errors.UpstreamFailed: the server sent what nobody asked for.
        """
        self._feed(data)
        events, self._events = self._events, []
        if self._updated:
            # Once, however many updates there were: it takes a while when many watch.
            self._updated = False
            self.framebuffer.spread()
            events.append(Updated())
        return events

    def _read(self) -> Script:
        while True:
            (kind,) = yield 1
            if kind == 0:
                yield from self._update()
            elif kind == 1:
                (count,) = SHORT.unpack((yield 5)[3:])
                if count:
                    # Colours have no numbers here.
                    yield 6 * count
            elif kind == 2:
                self._events.append(Bell())
            elif kind == 3:
                yield from self._cut_text()
            else:
                raise failed("it sends a message that nobody asked for")

    def _cut_text(self) -> Script:
        (length,) = NUMBER.unpack((yield 7)[3:])
        if length >= 1 << 31:
            raise failed("it sends a clipboard that nobody asked for")
        if length <= MAX_CLIPBOARD:
            text = (yield length) if length else b""
            self._events.append(CutText(text))
            return
        while length:
            length -= len((yield min(length, _PIECE)))

    def _update(self) -> Script:
        (count,) = SHORT.unpack((yield 3)[1:])
        left = count
        while left:
            x, y, width, height, kind = HEAD.unpack((yield HEAD.size))
            if kind == Encoding.RAW:
                yield from self._raw(self._within(x, y, width, height))
            elif kind == Encoding.CURSOR:
                yield from self._cursor(x, y, width, height)
            elif kind == Encoding.LAST:
                break
            elif kind == Encoding.SIZE:
                self._resize(width, height)
            elif kind == Encoding.EXTENDED_SIZE:
                screens = yield from self._screens()
                # Where y is not 0, somebody's wish for another size was not granted.
                if x != 1 or y == 0:
                    self.screens = screens
                    self._resize(width, height)
            elif kind == Encoding.QEMU_KEYS:
                self.qemu_keys = True
            else:
                raise failed("it sends an encoding that nobody asked for")
            if count != UNCOUNTED:
                left -= 1
        self.asked = False
        self.ready = self.ready or not self._whole
        self._updated = True

    def _within(self, x: int, y: int, width: int, height: int) -> Rectangle:
        if x + width > self.framebuffer.width or y + height > self.framebuffer.height:
            raise failed("it draws beside its screen")
        return Rectangle(x, y, width, height)

    def _raw(self, where: Rectangle) -> Script:
        row = where.width * PIXEL
        if not row:
            return
        rows = max(1, _PIECE // row)
        for y in range(where.y, where.y + where.height, rows):
            data = yield row * min(rows, where.y + where.height - y)
            self.framebuffer.put(where.x, y, where.width, memoryview(data))

    def _cursor(self, x: int, y: int, width: int, height: int) -> Script:
        if width > MAX_CURSOR or height > MAX_CURSOR:
            raise failed("its cursor is too large")
        pixels = width * height * PIXEL
        mask = -(-width // 8) * height
        data = (yield pixels + mask) if pixels else b""
        self.cursor = Cursor(x, y, width, height, data[:pixels], data[pixels:])

    def _screens(self) -> Generator[int, bytes, bytes]:
        count = (yield 4)[0]
        return (yield count * _SCREENS) if count else b""

    def _resize(self, width: int, height: int) -> None:
        if (width, height) != (self.framebuffer.width, self.framebuffer.height):
            self.framebuffer = self._sized(width, height)
            self._whole = True
            self.ready = False

    def _sized(self, width: int, height: int) -> Framebuffer:
        if not is_possible(width, height):
            raise failed("its screen has an impossible size")
        return Framebuffer(width, height)
