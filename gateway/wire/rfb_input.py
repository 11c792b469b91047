"""What the user in control of a shared console does to the guest, and how it is undone when somebody else
takes over: a key that was pressed by one and is let go by nobody would spoil whatever the next one types.

Source: RFC 6143, sections 7.5.4 to 7.5.6; rfbproto, section "QEMU Extended Key Event Message".
All integers are big-endian.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from gateway.wire.rfb_messages import Message, apart
from gateway.wire.rfb_server import ServerMessages

_KEY: Final = Struct(">BBxxI")
_POINTER: Final = Struct(">BBHH")
_QEMU_KEY: Final = Struct(">BBHII")
#: Keys that may be down at once; more are let go by nobody.
_MAX_KEYS: Final = 64


class Hands:
    """The hands of one user, on a server that has to understand each message.

    :param server: whose guest it is. What it has not offered it takes for the end of our good behavior, and
        that would be the end of the console for all.
    """

    def __init__(self, server: ServerMessages) -> None:
        self._server = server
        # What lets go of each key that is down, by what tells it from others.
        self._keys: dict[tuple[int, int], bytes] = {}
        self._pointer: bytes = b""

    def act(self, data: bytes) -> bytes:
        """Return what may be sent of *data*: messages as :class:`~gateway.wire.rfb_messages.ClientFilter`
        passes them on, whole."""
        return b"".join([message for message in apart(data) if self._acts(message)])

    def let_go(self) -> bytes:
        """Return what lets go of everything that is held down."""
        said = b"".join(self._keys.values()) + self._pointer
        self._keys.clear()
        self._pointer = b""
        return said

    def _acts(self, message: bytes) -> bool:
        kind = message[0]
        if kind == Message.KEY:
            _, down, symbol = _KEY.unpack(message)
            self._key((kind, symbol), bool(down), _KEY.pack(kind, 0, symbol))
        elif kind == Message.POINTER:
            _, buttons, x, y = _POINTER.unpack(message)
            self._pointer = _POINTER.pack(kind, 0, x, y) if buttons else b""
        elif kind == Message.QEMU:
            # Sound is for one listener.
            if message[1] != 0 or not self._server.qemu_keys:
                return False
            _, sub, down, symbol, code = _QEMU_KEY.unpack(message)
            self._key((kind, code), bool(down), _QEMU_KEY.pack(kind, sub, 0, symbol, code))
        elif kind == Message.SET_DESKTOP_SIZE:
            return self._server.screens != b""
        else:
            return kind == Message.CUT_TEXT
        return True

    def _key(self, key: tuple[int, int], down: bool, up: bytes) -> None:
        if not down:
            self._keys.pop(key, None)
        elif len(self._keys) < _MAX_KEYS:
            self._keys[key] = up
