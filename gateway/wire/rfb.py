"""What every part of RFB (VNC) needs: security types, records, the response to a challenge, scripts.

:mod:`gateway.wire.rfb_handshake` talks with a hypervisor, :mod:`gateway.wire.rfb_browser` with a
browser; :mod:`gateway.wire.rfb_messages` reads what users send. Where several viewers share a
console, :mod:`gateway.wire.rfb_server` draws what the hypervisor sends into the one of
:mod:`gateway.wire.rfb_framebuffer`, from which :mod:`gateway.wire.rfb_viewer` serves each of them.

Source: RFC 6143, and the community's "The RFB Protocol" (rfbproto) for VeNCrypt and the
pseudo-encodings. All integers are big-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import IntEnum
from struct import Struct
from typing import Final, NoReturn

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from gateway import errors

NUMBER: Final = Struct(">I")
SHORT: Final = Struct(">H")
#: Width, height, pixel format, length of the name. Source: RFC 6143, section 7.3.2.
_SERVER_INIT: Final = Struct(">HH16sI")
_PIXEL_FORMAT: Final = Struct(">BBBBHHHBBBxxx")

#: Bytes of a desktop's name that are passed on, and that are read at all.
MAX_NAME: Final = 256
_MAX_NAME_READ: Final = 64 * 1024
#: Bytes that a peer may send ahead of its turn.
MAX_EARLY: Final = 64 * 1024

CHALLENGE: Final = 16


class Security(IntEnum):
    """How a server makes sure of its client; from 256 on they are subtypes of VeNCrypt, inside TLS.

    The members are all that is spoken here: those with anonymous TLS are left out, for whoever
    stands in the way could answer in the server's place.
    """

    NONE = 1
    VNC = 2
    X509_NONE = 260
    X509_VNC = 261
    X509_PLAIN = 262

    @property
    def encrypted(self) -> bool:
        """Whether a server certificate is part of it."""
        return self >= Security.X509_NONE


def failed(text: str, reason: str = "malformed") -> errors.UpstreamFailed:
    """What a VNC server did wrong."""
    return errors.UpstreamFailed(f"The VNC server failed: {text}", reason=reason)


def bad(text: str) -> errors.BadRequest:
    """What a VNC client did wrong."""
    return errors.BadRequest(f"The VNC client failed: {text}")


def vnc_response(password: bytes, challenge: bytes) -> bytes:
    """What answers the *challenge* of 16 bytes; only 8 bytes of the *password* matter.

    Source: RFC 6143, section 7.2.2, and its erratum 4951: the bits of each byte of the key are mirrored.

    :raises gateway.errors.UpstreamFailed: this system has no DES any more.
    """
    key = password[:8].ljust(8, b"\0").translate(_MIRRORED)
    try:
        # Three times the same key is single DES.
        cipher = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305 (the protocol's own)
    except UnsupportedAlgorithm as error:
        raise failed("it wants DES, which this system forbids", "des") from error
    return cipher.update(challenge) + cipher.finalize()


_MIRRORED: Final = bytes(int(f"{it:08b}"[::-1], 2) for it in range(256))


@frozen
class PixelFormat:
    """How a pixel is laid out. Source: RFC 6143, section 7.4.

    :ivar bits: of a pixel: 8, 16 or 32.
    :ivar maxima: of red, green and blue.
    :ivar shifts: likewise.
    """

    bits: int
    depth: int
    big_endian: bool
    true_color: bool
    maxima: tuple[int, int, int]
    shifts: tuple[int, int, int]

    @classmethod
    def parse(cls, data: bytes) -> PixelFormat:
        """Read the 16 bytes of *data*."""
        bits, depth, big, true, *rest = _PIXEL_FORMAT.unpack(data)
        red, green, blue, *shifts = rest
        return cls(bits, depth, big != 0, true != 0, (red, green, blue), (shifts[0], shifts[1], shifts[2]))

    def encode(self) -> bytes:
        """The 16 bytes of it."""
        return _PIXEL_FORMAT.pack(
            self.bits, self.depth, self.big_endian, self.true_color, *self.maxima, *self.shifts
        )

    @property
    def order(self) -> tuple[int, int, int] | None:
        """Which byte of a pixel has the red, the green, the blue; None unless each has a whole one."""
        if self.bits != 32 or not self.true_color or self.maxima != (255, 255, 255):
            return None
        if any(it % 8 or it > 24 for it in self.shifts) or len(set(self.shifts)) != 3:
            return None
        red, green, blue = (3 - it // 8 if self.big_endian else it // 8 for it in self.shifts)
        return red, green, blue


#: Red, green, blue and nothing, byte by byte: what noVNC asks for, so that its pixels are never converted.
RGBX: Final = PixelFormat(32, 24, False, True, (255, 255, 255), (0, 8, 16))


@frozen
class ServerInit:
    """What a server says of its desktop.

    :ivar name: in UTF-8 mostly; nobody checks.
    """

    width: int
    height: int
    format: PixelFormat
    name: bytes

    def encode(self) -> bytes:
        """The message, with a name of bounded length."""
        name = self.name[:MAX_NAME]
        return _SERVER_INIT.pack(self.width, self.height, self.format.encode(), len(name)) + name


def read_server_init() -> Generator[int, bytes, ServerInit]:
    """A script that reads the message.

    :raises gateway.errors.UpstreamFailed: the name has no end.
    """
    width, height, pixels, length = _SERVER_INIT.unpack((yield _SERVER_INIT.size))
    if length > _MAX_NAME_READ:
        raise failed("the name of its desktop is too long")
    name = (yield length) if length else b""
    return ServerInit(width, height, PixelFormat.parse(pixels), name[:MAX_NAME])


def in_turn(true: bool) -> None:
    """Our own code calls a method when it may.

    :raises RuntimeError: it does not.
    """
    if not true:
        raise RuntimeError("out of turn")


#: Yielded instead of a length: the script goes on only when its owner says so.
PAUSE: Final = 0

Script = Generator[int, bytes, None]


class Reader:
    """Feeds a script, which takes bytes in whole pieces of the sizes that it yields.

    :param script: yields the size of the next piece, or :data:`PAUSE`.
    :param complaint: makes the error for a peer that says too much ahead of its turn.
    :ivar done: the script has ended.
    """

    def __init__(self, script: Script, complaint: Callable[[str], errors.GatewayError]) -> None:
        self.done = False
        self._complaint = complaint
        self._failure: errors.GatewayError | None = None
        self._held = bytearray()
        self._script = script
        self._needed = PAUSE

    @property
    def rest(self) -> bytes:
        """What was received after the end of the script."""
        return bytes(self._held) if self.done else b""

    def _feed(self, data: bytes) -> None:
        """Consume *data*, in pieces of any size.

        :raises gateway.errors.GatewayError: the peer spoke nonsense, now or before.
        """
        if self._failure is not None:
            raise self._failure
        if self._held:
            self._held += data
            if 0 < self._needed <= len(self._held):
                data = bytes(self._held)
                self._held.clear()
            else:
                data = b""
        at, end = 0, len(data)
        while 0 < self._needed <= end - at:
            piece = data[at : at + self._needed]
            at += len(piece)
            self._step(piece)
        self._held += data[at:]
        if self._needed == PAUSE and not self.done and len(self._held) > MAX_EARLY:
            self._fail(self._complaint("it says too much ahead of its turn"))

    def _begin(self) -> None:
        """Run the script to its first piece."""
        self._step(None)

    def _step(self, piece: bytes | None) -> None:
        try:
            # The first step of a generator takes None, which is no piece.
            self._needed = next(self._script) if piece is None else self._script.send(piece)
        except StopIteration:
            self.done, self._needed = True, PAUSE
        except errors.GatewayError as error:
            self._fail(error)

    def _fail(self, error: errors.GatewayError) -> NoReturn:
        """Nothing that the peer says counts from now on."""
        self._failure, self._needed = error, PAUSE
        raise error


class Talk(Reader):
    """A reader that answers."""

    def __init__(self, script: Script, complaint: Callable[[str], errors.GatewayError]) -> None:
        super().__init__(script, complaint)
        self._out = bytearray()

    def receive(self, data: bytes) -> bytes:
        """Consume *data*, in pieces of any size; return what is to be sent.

        :raises gateway.errors.GatewayError: the peer spoke nonsense, now or before.
        """
        self._feed(data)
        out = bytes(self._out)
        self._out.clear()
        return out

    def _resume(self) -> bytes:
        """End a pause; return what is to be sent."""
        if self._failure is not None:
            raise self._failure
        self._step(b"")
        return self.receive(b"")
