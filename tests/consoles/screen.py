"""A VNC server's screen in memory, and browsers that look at it: written from the specification alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from struct import pack, unpack_from

from tests.wire.rfb_peers import Client, rectangle, update

RAW, TIGHT, ZRLE, SIZE, CURSOR, KEYS, EXTENDED = 0, 7, 16, -223, -239, -258, -308
ASK = pack(">BBHHHH", 3, 1, 0, 0, 65535, 65535)
_LENGTHS = {0: 20, 3: 10, 4: 8, 5: 6, 250: 4}


def key(symbol: int, down: bool = True) -> bytes:
    return pack(">BBxxI", 4, down, symbol)


def qemu_key(code: int, down: bool = True) -> bytes:
    return pack(">BBHII", 255, 0, down, 0x61, code)


def pointer(buttons: int, x: int = 1, y: int = 2) -> bytes:
    return pack(">BBHH", 5, buttons, x, y)


def paste(text: bytes) -> bytes:
    return pack(">BxxxI", 6, len(text)) + text


def encodings(*kinds: int) -> bytes:
    return pack(f">BxH{len(kinds)}i", 2, len(kinds), *kinds)


class Screen:
    """A server after its handshake, which says something only when it is asked, but for bell and clipboard.

    :ivar heard: the messages that came, but those for updates.
    :ivar asked: how often an update was asked for; ``wanted`` says that one is.
    """

    def __init__(self, send: Callable[[bytes], object], width: int = 203, height: int = 131) -> None:
        self._send = send
        self._random = Random(4)
        self._rest = b""
        self.width, self.height = width, height
        self.rgb = bytearray(width * height * 3)
        self.heard: list[bytes] = []
        self.asked = 0
        self.wanted = False
        self._drawn: list[bytes] = []

    def receive(self, data: bytes) -> None:
        self._rest += data
        for message in self._messages():
            if message[0] == 3:
                assert not self.wanted, "asked twice"
                self.asked += 1
                self.wanted = True
                if not message[1]:
                    self._drawn = [self._pixels(0, 0, self.width, self.height)]
                self._flush()
            else:
                self.heard.append(message)

    @property
    def typed(self) -> list[bytes]:
        """What changes the guest."""
        return [it for it in self.heard if it[0] not in (0, 2)]

    def draw(self, x: int, y: int, width: int, height: int, color: bytes = b"") -> None:
        """Draw noise, or one color of three bytes."""
        for row in range(y, y + height):
            at = (row * self.width + x) * 3
            self.rgb[at : at + width * 3] = color * width or self._random.randbytes(width * 3)
        self._drawn.append(self._pixels(x, y, width, height))
        self._flush()

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rgb = bytearray(self._random.randbytes(width * height * 3))
        self._drawn = [rectangle(0, 0, width, height, SIZE)]
        self._flush()

    def say(self, data: bytes) -> None:
        self._send(data)

    def _pixels(self, x: int, y: int, width: int, height: int) -> bytes:
        out = bytearray(width * height * 4)
        for color in range(3):
            plane = self.rgb[color::3]
            rows = [plane[it * self.width + x : it * self.width + x + width] for it in range(y, y + height)]
            out[color::4] = b"".join(rows)
        return rectangle(x, y, width, height, RAW, bytes(out))

    def _flush(self) -> None:
        if self.wanted and self._drawn:
            drawn, self._drawn, self.wanted = self._drawn, [], False
            self._send(update(*drawn))

    def _messages(self) -> Iterator[bytes]:
        while self._rest:
            kind = self._rest[0]
            size = _LENGTHS.get(kind, 0)
            if kind == 2:
                size = 4 + 4 * unpack_from(">xxH", self._rest)[0]
            elif kind == 6:
                size = 8 + unpack_from(">xxxxI", self._rest)[0]
            elif kind == 255:
                size = 12 if self._rest[1] == 0 else 4
            elif kind == 251:
                size = 8 + 16 * self._rest[6]
            assert size, f"message {kind}"
            if len(self._rest) < size:
                return
            message, self._rest = self._rest[:size], self._rest[size:]
            yield message


class Look:
    """A browser after its handshake: takes messages of a server.

    :ivar client: what it sees.
    :ivar open: the rest of an update has to follow.
    :ivar bells: how often it rang; ``pasted`` are the clipboards.
    """

    def __init__(
        self, width: int, height: int, order: tuple[int, int, int] = (0, 1, 2), depth: int = 24
    ) -> None:
        self.client = Client(width, height, order, depth)
        self.open = False
        self.bells = 0
        self.pasted: list[bytes] = []

    def take(self, message: bytes) -> None:
        """Take one message, or a piece of an update."""
        if self.open or message[0] == 0:
            before = self.client.updates
            self.client.receive(message)
            self.open = self.client.updates == before
        elif message[0] == 2:
            assert message == b"\2"
            self.bells += 1
        else:
            assert message[0] == 3
            self.pasted.append(message[8:])
