"""Takes from what a SPICE client sends all that does more than look.

Every message has its length in its header, so what is not known to be harmless is skipped, unread. Keys,
pointer, clipboard and files (all of these are the agent's) never reach the server; what the client
needs to be shown the screen does.

Source: SPICE protocol, ``spice.proto``, messages of clients. All integers are little-endian.
"""

from __future__ import annotations

from struct import Struct

from gateway.errors import BadRequest
from gateway.wire.spice_link import CURSOR, DISPLAY, INPUTS, MAIN, PLAYBACK

_MINI = Struct("<HI")  # type, size
_FULL = Struct("<QHII")  # serial, type, size, sub-messages
#: Bytes of a message that passes; real ones have a few dozen.
LIMIT = 64 * 1024
#: ACK_SYNC, ACK, PONG, DISCONNECTING.
_COMMON = frozenset({1, 2, 3, 6})
#: Channels that may be opened by who only looks, and what passes on them beside the common messages.
VIEWED: dict[int, frozenset[int]] = {
    MAIN: frozenset({101, 104}),  # CLIENT_INFO, ATTACH_CHANNELS
    DISPLAY: frozenset({101, 102, 103, 104, 105}),  # INIT, reports and preferences
    INPUTS: frozenset(),
    CURSOR: frozenset(),
    PLAYBACK: frozenset(),
}


class SpiceView:
    """The messages of one client on one channel.

    :param mini: messages have the short header.
    """

    def __init__(self, channel_type: int, *, mini: bool) -> None:
        self._passing = _COMMON | VIEWED.get(channel_type, frozenset())
        self._header = _MINI if mini else _FULL
        self._begun = bytearray()
        self._left = 0
        self._passes = False

    def receive(self, data: bytes) -> bytes:
        """Return what of *data* goes to the server.

        :raises BadRequest: what the client sends is not SPICE.
        """
        passed = bytearray()
        view = memoryview(data)
        while view:
            if self._left:
                part = view[: self._left]
                self._left -= len(part)
                if self._passes:
                    passed += part
            else:
                part = view[: self._header.size - len(self._begun)]
                self._begun += part
                if len(self._begun) == self._header.size:
                    self._begin()
                    if self._passes:
                        passed += self._begun
                    self._begun.clear()
            view = view[len(part) :]
        return bytes(passed)

    def _begin(self) -> None:
        if self._header is _MINI:
            kind, self._left = _MINI.unpack(self._begun)
        else:
            _, kind, self._left, more = _FULL.unpack(self._begun)
            if more:
                raise BadRequest("Messages within messages are not for clients", reason="spice")
        self._passes = kind in self._passing
        if self._passes and self._left > LIMIT:
            raise BadRequest("A message of the client is too long", reason="spice")
