"""What viewers send once the handshake is over: told apart, counted as activity, and kept from a console.

Source: RFC 6143, section 7.5; rfbproto, sections "Client to Server Messages" and "Pseudo-encodings"
(QEMU's messages and the extended clipboard). All integers are big-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

from gateway.wire.rfb import bad

#: Bytes of a clipboard; QEMU hangs up on more.
MAX_CLIPBOARD: Final = 1 << 20
_MAX_ENCODINGS: Final = 1024
_SIGNED: Final = Struct(">xxxxi")
_SHORT: Final = Struct(">xxH")
_LITTLE_SHORT: Final = Struct("<xxH")


class Message(IntEnum):
    """The first byte of a message."""

    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY = 4
    POINTER = 5
    CUT_TEXT = 6
    CONTINUOUS_UPDATES = 150
    FENCE = 248
    XVP = 250
    SET_DESKTOP_SIZE = 251
    GII = 253
    QEMU = 255


#: Messages of one length, bytes.
_FIXED: Final[dict[int, int]] = {
    Message.SET_PIXEL_FORMAT: 20,
    Message.UPDATE_REQUEST: 10,
    Message.KEY: 8,
    Message.POINTER: 6,
    Message.CONTINUOUS_UPDATES: 10,
    Message.XVP: 4,
}
#: Of the others: bytes that tell the length.
_HEADED: Final[dict[int, int]] = {
    Message.SET_ENCODINGS: 4,
    Message.CUT_TEXT: 8,
    Message.FENCE: 9,
    Message.SET_DESKTOP_SIZE: 8,
    Message.GII: 4,
    Message.QEMU: 4,
}
_LENGTHS: Final = [_FIXED.get(it, 0) for it in range(256)]
_HEADS: Final = [_HEADED.get(it, 0) for it in range(256)]

#: They change the guest, so that whoever may only look does not get them through: keys, the pointer, the
#: clipboard, power, the size of the screen, and other input devices.
_INPUT: Final = frozenset(
    {Message.KEY, Message.POINTER, Message.CUT_TEXT, Message.XVP, Message.SET_DESKTOP_SIZE, Message.GII}
)
#: They are about one viewer's picture, not about the guest.
_LOCAL: Final = frozenset(
    {
        Message.SET_PIXEL_FORMAT,
        Message.SET_ENCODINGS,
        Message.UPDATE_REQUEST,
        Message.CONTINUOUS_UPDATES,
        Message.FENCE,
    }
)
#: Somebody is there; requests for updates flow by themselves.
_ACTIVE: Final = frozenset({Message.KEY, Message.POINTER, Message.CUT_TEXT, Message.GII})
_QEMU_KEY, _QEMU_AUDIO = 0, 1
_QEMU_KEY_LENGTH: Final = 12
#: Enable, disable, set the format.
_QEMU_AUDIO_LENGTHS: Final = {0: 4, 1: 4, 2: 10}


class ClientFilter:
    """Passes on a viewer's messages, each in one piece but for clipboards, or only those it may send.

    Of a message that is cut, nothing is passed on until the rest of it arrives. A clipboard flows
    through as it comes, unless *local* is given: then it is passed on whole, so that the messages of
    several viewers can be sent to one server.

    :param view_only: keep back what would change the guest.
    :param local: gets each message about a viewer's own picture, which is then not passed on.
    """

    def __init__(
        self,
        view_only: bool = False,
        *,
        local: Callable[[bytes], None] | None = None,
        clipboard: int = MAX_CLIPBOARD,
    ) -> None:
        self._local = local
        self._clipboard = clipboard
        # The beginning of a message, and how much of it has to be there to go on.
        self._held = bytearray()
        self._needed = 0
        # Bytes of a clipboard that are still to come, and whether they are passed on.
        self._flowing = 0
        self._passes = False
        kept = _INPUT if view_only else frozenset()
        taken = _LOCAL if local is not None else frozenset()
        self._view_only = view_only
        self._plain = [0 if it in kept or it in taken else length for it, length in enumerate(_LENGTHS)]
        self._kept, self._taken = kept, taken

    def receive(self, data: bytes) -> tuple[bytes, bool]:
        """Consume *data*, in pieces of any size.

        :return: what is to be passed on, and whether it shows that somebody is there.
        :raises gateway.errors.BadRequest: nobody knows such a message, or it is too long.
        """
        if self._needed:
            self._held += data
            if len(self._held) < self._needed:
                return b"", False
            data, self._needed = bytes(self._held), 0
            self._held.clear()
        out: list[bytes] = []
        active = False
        end = len(data)
        # Where the messages that are passed on begin, and where we are.
        start = at = min(self._flowing, end)
        if at:
            self._flowing -= at
            if self._passes:
                start = 0
        plain = self._plain
        while at < end:
            kind = data[at]
            length = plain[kind]
            if length:
                if at + length > end:
                    self._needed = length
                    break
                at += length
                if 4 <= kind <= 5:
                    active = True
                continue
            length, known = self._length(kind, data, at, end)
            whole = at + length <= end
            if not known or (not whole and (kind != Message.CUT_TEXT or self._local is not None)):
                self._needed = length
                break
            active = active or self._is_active(kind, data, at)
            passes = self._may_pass(kind, data, at)
            if not passes:
                if start < at:
                    out.append(data[start:at])
                if kind in self._taken and self._local is not None:
                    self._local(data[at : at + length])
            if not whole:
                self._flowing, self._passes = at + length - end, passes
                length = end - at
            at += length
            if not passes:
                start = at
        if self._needed:
            self._held += data[at:]
        if not out:
            # The usual case: all of it, or all but a message that is cut.
            return (data if start == 0 and at == end else data[start:at]), active
        if start < at:
            out.append(data[start:at])
        return b"".join(out), active

    def _may_pass(self, kind: int, data: bytes, at: int) -> bool:
        if kind == Message.QEMU:
            return not (self._view_only and data[at + 1] == _QEMU_KEY)
        if kind == Message.CUT_TEXT and self._local is not None and data[at + 4] & 128:
            # The extended clipboard is an understanding of two, and nobody has offered it.
            return False
        return kind not in self._kept and kind not in self._taken

    def _is_active(self, kind: int, data: bytes, at: int) -> bool:
        return kind in _ACTIVE or (kind == Message.QEMU and data[at + 1] == _QEMU_KEY)

    def _length(self, kind: int, data: bytes, at: int, end: int) -> tuple[int, bool]:
        """Bytes of the message and True, or what it takes to tell and False."""
        length = _LENGTHS[kind]
        if length:
            return length, at + length <= end
        head = _HEADS[kind]
        if not head:
            raise bad("it sends a message that nobody knows")
        if at + head > end:
            return head, False
        return self._counted(kind, data, at), True

    def _counted(self, kind: int, data: bytes, at: int) -> int:
        if kind == Message.QEMU:
            return self._qemu(data, at)
        if kind == Message.CUT_TEXT:
            # A negative length announces the extended clipboard.
            size: int = abs(_SIGNED.unpack_from(data, at)[0])
            if size > self._clipboard:
                raise bad("its clipboard is too long")
            return 8 + size
        if kind == Message.FENCE:
            if data[at + 8] > 64:
                raise bad("its fence is too long")
            return 9 + data[at + 8]
        if kind == Message.SET_DESKTOP_SIZE:
            return 8 + 16 * data[at + 6]
        little = kind == Message.GII and not data[at + 1] & 128
        count: int = (_LITTLE_SHORT if little else _SHORT).unpack_from(data, at)[0]
        if kind == Message.GII:
            return 4 + count
        if count > _MAX_ENCODINGS:
            raise bad("it lists too many encodings")
        return 4 + 4 * count

    def _qemu(self, data: bytes, at: int) -> int:
        if data[at + 1] == _QEMU_KEY:
            return _QEMU_KEY_LENGTH
        length = _QEMU_AUDIO_LENGTHS.get(data[at + 2] << 8 | data[at + 3], 0)
        if data[at + 1] != _QEMU_AUDIO or not length:
            raise bad("it sends a message that nobody knows")
        return length


def apart(data: bytes) -> Iterator[bytes]:
    """The messages of *data*, which came out of a :class:`ClientFilter` that passes them on whole."""
    rules, at, end = ClientFilter(), 0, len(data)
    while at < end:
        length, _ = rules._length(data[at], data, at, end)
        yield data[at : at + length]
        at += length
