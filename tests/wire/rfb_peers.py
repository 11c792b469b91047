"""A VNC server and a VNC client for the tests, in memory, written from the specification alone."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable
from struct import iter_unpack, pack, unpack

from gateway.wire.rfb import Reader, Talk, failed

Script = Generator[int, bytes, None]


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    """*data* in pieces of *sizes*, and the rest at once."""
    for size in sizes:
        if not data:
            return
        yield data[:size]
        data = data[size:]
    if data:
        yield data


class Server(Talk):
    """A VNC server up to its ServerInit.

    :param types: the security types that it offers.
    :param subtypes: those of VeNCrypt.
    :param answers: what it takes: 16 bytes, or user and password.
    :ivar in_tls: everything from now on is.
    """

    CHALLENGE = bytes(range(16))
    NAME = b"QEMU (test)"

    def __init__(
        self,
        version: bytes = b"003.008",
        types: tuple[int, ...] = (1,),
        subtypes: tuple[int, ...] = (),
        answers: tuple[bytes, ...] = (),
        vencrypt: bytes = b"\0\2",
        reason: bytes = b"Authentication failed\0",
        result: int = 1,
        accept: bytes = b"\1",
    ) -> None:
        super().__init__(self._talk(version, types), failed)
        self.subtypes, self.answers, self.vencrypt = subtypes, answers, vencrypt
        self.reason, self.result, self.accept = reason, result, accept
        self.in_tls = False
        self.shared: bool | None = None
        self.hung_up = False
        self._begin()

    def secured(self) -> bytes:
        self.in_tls = True
        return self._resume()

    def _talk(self, version: bytes, types: tuple[int, ...]) -> Script:
        self._out += b"RFB " + version + b"\n"
        chosen = yield 12
        minor = int(chosen[8:11])
        reason = pack(">I", len(self.reason)) + self.reason
        if minor == 3:
            kind = types[0] if types else 0
            self._out += pack(">I", kind)
        else:
            self._out += bytes([len(types), *types])
            if types:
                (kind,) = yield 1
        if not types:
            self._out += reason
            self.hung_up = True
            return
        good = True
        if kind == 19:
            self._out += self.vencrypt
            assert (yield 2) == b"\0\2"
            self._out += bytes([0, len(self.subtypes)]) + pack(f">{len(self.subtypes)}I", *self.subtypes)
            (subtype,) = unpack(">I", (yield 4))
            self._out += self.accept
            yield 0
            if subtype == 261:
                good = yield from self._ask()
            elif subtype == 262:
                user, password = unpack(">II", (yield 8))
                good = (yield user + password) in self.answers
        elif kind == 2:
            good = yield from self._ask()
        if minor == 8 or kind != 1:
            self._out += pack(">I", 0 if good else self.result)
            if not good:
                self._out += reason if minor == 8 else b""
                self.hung_up = True
                return
        self.shared = (yield 1) != b"\0"
        self._out += pack(">HH", 640, 480) + FORMAT + pack(">I", len(self.NAME)) + self.NAME

    def _ask(self) -> Generator[int, bytes, bool]:
        self._out += self.CHALLENGE
        return (yield 16) in self.answers


FORMAT = pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class Client(Reader):
    """A viewer after its handshake: decodes what it is sent.

    :param order: which byte of a pixel has red, green and blue.
    :ivar screen: three bytes for each pixel, red, green and blue.
    :ivar updates: how many there were; ``kinds`` are the encodings seen.
    """

    def __init__(
        self, width: int, height: int, order: tuple[int, int, int] = (0, 1, 2), depth: int = 24
    ) -> None:
        super().__init__(self._read(), failed)
        self.order = order
        self.depth = depth
        self.size(width, height)
        self.updates = 0
        self.kinds: set[int] = set()
        self.cursor: tuple[int, int, int, int, bytes, bytes] | None = None
        self.screens: list[tuple[int, ...]] = []
        self.largest = 0
        self._inflate = zlib.decompressobj()
        self._begin()

    def size(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.screen = bytearray(width * height * 3)

    def receive(self, data: bytes) -> None:
        self._feed(data)

    def _read(self) -> Script:
        while True:
            kind, count = unpack(">BxH", (yield 4))
            assert kind == 0
            pixels = 0
            for _ in range(count):
                x, y, width, height, encoding = unpack(">HHHHi", (yield 12))
                self.kinds.add(encoding)
                if encoding in (0, 7, 16):
                    pixels += width * height
                    self.largest = max(self.largest, pixels)
                    assert x + width <= self.width and y + height <= self.height
                yield from self._rectangle(x, y, width, height, encoding)
            self.updates += 1

    def _rectangle(self, x: int, y: int, width: int, height: int, encoding: int) -> Script:
        if encoding == 0:
            self._put(x, y, width, self._rgb((yield width * height * 4)))
        elif encoding == 16:
            (length,) = unpack(">I", (yield 4))
            self._zrle(x, y, width, height, self._inflate.decompress((yield length)))
        elif encoding == 7:
            yield from self._tight(x, y, width, height)
        elif encoding == -223:
            self.size(width, height)
        elif encoding == -308:
            (count,) = unpack(">Bxxx", (yield 4))
            self.screens = list(iter_unpack(">IHHHHI", (yield 16 * count)))
            if (width, height) != (self.width, self.height):
                self.size(width, height)
        elif encoding == -239:
            pixels = (yield width * height * 4) if width * height else b""
            mask = (yield -(-width // 8) * height) if width * height else b""
            self.cursor = (x, y, width, height, self._rgb(pixels), mask)
        else:
            assert encoding == -258

    def _rgb(self, pixels: bytes, order: tuple[int, ...] = (), size: int = 4) -> bytes:
        out = bytearray(len(pixels) // size * 3)
        for color, at in enumerate(order or self.order):
            out[color::3] = pixels[at::size]
        return bytes(out)

    def _put(self, x: int, y: int, width: int, rgb: bytes) -> None:
        for row in range(len(rgb) // (width * 3)):
            at = ((y + row) * self.width + x) * 3
            self.screen[at : at + width * 3] = rgb[row * width * 3 : (row + 1) * width * 3]

    def _zrle(self, x: int, y: int, width: int, height: int, data: bytes) -> None:
        unused = ({0, 1, 2, 3} - set(self.order)).pop()
        size = 3 if unused in (0, 3) and self.depth == 24 else 4
        order = tuple(it - 1 for it in self.order) if size == 3 and unused == 0 else self.order
        at = 0
        for top in range(0, height, 64):
            for left in range(0, width, 64):
                columns, rows = min(64, width - left), min(64, height - top)
                kind = data[at]
                assert kind in (0, 1)
                many = 1 if kind else columns * rows
                rgb = self._rgb(data[at + 1 : at + 1 + many * size], order, size)
                at += 1 + many * size
                self._put(x + left, y + top, columns, rgb * (columns * rows if kind else 1))
        assert at == len(data)

    def _tight(self, x: int, y: int, width: int, height: int) -> Script:
        assert width <= 2048
        (control,) = yield 1
        if control == 0x80:
            rgb = (yield 3) * (width * height)
        else:
            assert control == 1, "stream 0, reset, no filter"
            size = width * height * 3
            if size < 12:
                rgb = yield size
            else:
                length = shift = 0
                for number in range(3):
                    (byte,) = yield 1
                    length |= (byte & (255 if number == 2 else 127)) << shift
                    shift += 7
                    if not byte & 128:
                        break
                rgb = zlib.decompressobj().decompress((yield length))
                assert len(rgb) == size
        self._put(x, y, width, rgb)


def update(*rectangles: bytes, count: int | None = None) -> bytes:
    """A FramebufferUpdate."""
    return pack(">BxH", 0, len(rectangles) if count is None else count) + b"".join(rectangles)


def rectangle(x: int, y: int, width: int, height: int, encoding: int, data: bytes = b"") -> bytes:
    return pack(">HHHHi", x, y, width, height, encoding) + data
