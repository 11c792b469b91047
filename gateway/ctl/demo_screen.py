"""A VNC server with a picture to try a console with, where no virtual machine can be had.

Each key paints one square, in a row from the left; the pointer draws while its button is down; a clipboard
comes back in capitals. All who look see the same. ``python -m gateway.ctl.demo_screen PORT`` serves it.
"""

from __future__ import annotations

import sys
from struct import Struct
from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from gateway import errors
from gateway.wire.rfb import RGBX, PixelFormat, ServerInit
from gateway.wire.rfb_browser import BrowserSide
from gateway.wire.rfb_encodings import Layout, head, raw
from gateway.wire.rfb_framebuffer import Damage, Framebuffer
from gateway.wire.rfb_messages import ClientFilter, Message, apart
from gateway.wire.rfb_server import CutText, Encoding
from gateway.wire.rfb_viewer import cut_text

WIDTH, HEIGHT = 640, 400
#: Side of the square that a key paints, and of the pointer's brush.
SQUARE, BRUSH = 32, 4
_NAME = b"Demonstration"
_BARS = ("ffffff", "ffdd00", "00ccdd", "22bb33", "cc33bb", "dd3322", "2244dd", "101418")
_KEY = Struct(">xB2xI")
_POINTER = Struct(">xBHH")


class Picture:
    """What everybody sees.

    :ivar viewers: who looks at it.
    """

    def __init__(self) -> None:
        self.screen = Framebuffer(WIDTH, HEIGHT)
        self.viewers: list[Viewer] = []
        self._at = 0
        width = WIDTH // len(_BARS)
        for number, color in enumerate(_BARS):
            self.paint(number * width, 0, width, HEIGHT * 3 // 4, bytes.fromhex(color))
        for x in range(WIDTH):
            self.paint(x, HEIGHT * 3 // 4, 1, HEIGHT // 4 - SQUARE, bytes([x * 255 // WIDTH] * 3))
        self.screen.spread()

    def paint(self, x: int, y: int, width: int, height: int, color: bytes) -> None:
        """Fill a rectangle, as far as it lies within."""
        width, height = min(width, WIDTH - x), min(height, HEIGHT - y)
        if width > 0 and height > 0:
            self.screen.put(x, y, width, memoryview((color + b"\0") * (width * height)))

    def act(self, message: bytes) -> None:
        """Do what somebody wants."""
        if message[0] == Message.KEY:
            down, key = _KEY.unpack(message)
            if down:
                self.paint(self._at, HEIGHT - SQUARE, SQUARE, SQUARE, _color(key))
                self._at = (self._at + SQUARE) % WIDTH
        elif message[0] == Message.POINTER:
            buttons, x, y = _POINTER.unpack(message)
            if buttons & 1:
                self.paint(x, y, BRUSH, BRUSH, b"\xff\xff\xff")
        elif message[0] == Message.CUT_TEXT:
            for viewer in self.viewers:
                viewer.say(cut_text(CutText(message[8:].upper())))
        self.screen.spread()
        for viewer in self.viewers:
            viewer.show()


def _color(key: int) -> bytes:
    """Another one for each key, and none of them dark."""
    return bytes(96 + key * factor % 160 for factor in (37, 91, 53))


class Viewer(Protocol):
    """One who looks at the picture."""

    transport: Any

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._hand = BrowserSide()
        self._filter = ClientFilter(local=self._local)
        self._layout = Layout.of(RGBX)
        self._wants = False
        self._unseen: Damage = picture.screen.watch()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.write(self._hand.greeting)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._picture.screen.forget(self._unseen)
        if self in self._picture.viewers:
            self._picture.viewers.remove(self)

    def dataReceived(self, data: bytes) -> None:
        try:
            if self in self._picture.viewers:
                self._hear(data)
            else:
                self._greet(data)
        except errors.GatewayError:
            self.transport.abortConnection()

    def _greet(self, data: bytes) -> None:
        hand = self._hand
        self.transport.write(hand.receive(data) + hand.admit())
        if hand.done:
            self.transport.write(ServerInit(WIDTH, HEIGHT, RGBX, _NAME).encode())
            self._picture.viewers.append(self)
            self._hear(hand.rest)

    def _hear(self, data: bytes) -> None:
        passed, _ = self._filter.receive(data)
        for message in apart(passed):
            self._picture.act(message)
        self.show()

    def _local(self, message: bytes) -> None:
        """A message about the viewer's own picture."""
        if message[0] == Message.SET_PIXEL_FORMAT:
            self._layout = Layout.of(PixelFormat.parse(message[4:]))
        elif message[0] == Message.UPDATE_REQUEST:
            self._wants = True
            if not message[1]:
                self._unseen.add_all()

    def say(self, data: bytes) -> None:
        """Send something that nobody has to ask for."""
        self.transport.write(data)

    def show(self) -> None:
        """Send what is new, if that was asked for."""
        if self._wants and self._unseen:
            self._wants = False
            screen = self._picture.screen
            parts = [
                head(part, Encoding.RAW) + raw(screen, part, self._layout)
                for part in self._unseen.take(WIDTH * HEIGHT)
            ]
            self.transport.write(b"\0\0" + len(parts).to_bytes(2) + b"".join(parts))


class Demonstration(Factory):
    """All viewers of one picture."""

    noisy = False

    def __init__(self) -> None:
        self._picture = Picture()

    def buildProtocol(self, addr: object) -> Viewer:
        return Viewer(self._picture)


def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    from twisted.internet import reactor

    port: Any = reactor
    port.listenTCP(int(arguments[0]), Demonstration(), interface="127.0.0.1")
    port.run()


if __name__ == "__main__":
    main(sys.argv[1:])
