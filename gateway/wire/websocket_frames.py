"""Frames of an open websocket, in one pass: what a client sends, and what we send.

:class:`FrameReader` keeps no message together: what arrived of a payload is given on at once, and at most
the header of a frame or one control frame waits for its end. :func:`frame` and :func:`frames` are the
other direction.
Source: RFC 6455, sections 5 (framing), 7.4 (close codes) and 8.1 (text that is not UTF-8).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import NamedTuple

from attrs import frozen

from gateway import errors
from gateway.wire.websocket_mask import Unmask, unmasker

CONTINUATION, TEXT, BINARY = 0, 1, 2
CLOSE, PING, PONG = 8, 9, 10

#: Close codes of RFC 6455, section 7.4.1.
NORMAL, PROTOCOL_ERROR, UNSUPPORTED, INVALID_PAYLOAD, TOO_BIG = 1000, 1002, 1003, 1007, 1009
#: What stands for the code of a close frame that had none.
NO_CODE = 1005
#: What a close frame may carry below 3000. Source: the registry of section 11.7, less what is never sent.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013})
#: Bytes of the payload of a control frame.
_MAX_CONTROL = 125
#: Bytes of a message that is read at once; their number is one byte.
_SHORT = 125


class FrameError(errors.BadRequest):
    """The client breaks the rules of framing, or exceeds a limit; what follows cannot be read.

    :ivar code: why, as the close frame says it.
    """

    word = "bad_frame"

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def close_code(self) -> int:
        return self.code


class Data(NamedTuple):
    """What arrived of a message's payload.

    :ivar ends: the message ends with it.
    """

    payload: bytes
    text: bool
    ends: bool


class Control(NamedTuple):
    """A ping, a pong, or a close frame, whose payload was checked."""

    opcode: int
    payload: bytes


@frozen
class FrameLimits:
    """What a client may send, and how it is given on.

    :ivar max_frame: bytes of a payload.
    :ivar max_message: bytes of all payloads of a message.
    :ivar text: whether text messages are taken.
    :ivar binary: whether binary messages are taken.
    :ivar boundaries: whether the ends of messages matter. When not, the payloads of all frames that
        arrive together come as one.
    """

    max_frame: int = 1 << 20
    max_message: int = 4 << 20
    text: bool = False
    binary: bool = True
    boundaries: bool = False


class FrameReader:
    """Reads frames from pieces of any size."""

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._boundaries = limits.boundaries
        self._plain = limits.binary and not limits.boundaries
        self._largest = min(limits.max_frame, limits.max_message)
        # The beginning of a header or of a control frame.
        self._rest = b""
        # Of the data frame that is coming in: bytes to come, the key for the next of them, whether it ends
        # its message.
        self._left = 0
        self._key = b""
        self._final = False
        # Of the message that is coming in: its opcode, 0 when there is none, and the bytes announced so far.
        self._kind = 0
        self._total = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def keys(self, data: bytes) -> bytes:
        """The payload when *data* is one short binary message and nothing else; else none, and it is unread.

        Whoever types sends nothing but these, and waits for the answer.
        """
        size = len(data) - 6
        if (
            not 0 < size <= _SHORT
            or data[0] != 0x82
            or data[1] != size + 128
            or self._rest
            or self._left
            or self._kind
            or not self._plain
            or size > self._largest
        ):
            return b""
        key = int.from_bytes((data[2:6] * (size // 4 + 1))[:size], "little")
        return (int.from_bytes(data[6:], "little") ^ key).to_bytes(size, "little")

    def receive(self, data: bytes) -> Iterator[Data | Control]:
        """Read on; the result must be iterated over to its end.

        :raises FrameError: after everything that came before the mistake was given on.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        room = bytearray(data)
        view, unmask = memoryview(room), unmasker(room)
        # What was unmasked and not given on yet; it is all of one kind.
        pieces: list[memoryview] = []
        position, end, left = 0, len(data), self._left
        try:
            while position < end:
                if not left:
                    if self._plain and not self._kind:
                        position = self._whole(data, position, view, unmask, pieces)
                    first, size, start = self._header(data, position, end)
                    stop = start + size
                    if not start or (first & 8 and stop > end):
                        self._rest = data[position:]
                        break
                    self._key = data[start - 4 : start]
                    if first & 8:
                        unmask(self._key, start, size)
                        if pieces:
                            yield self._data(pieces)
                        yield _control(first & 15, view[start:stop].tobytes())
                        position = stop
                        continue
                    if pieces and first & 15 == TEXT:
                        yield self._data(pieces)
                    self._begin(first, size)
                    position, left = start, size
                if left:
                    size = min(left, end - position)
                    unmask(self._key, position, size)
                    pieces.append(view[position : position + size])
                    position += size
                    left -= size
                    if left:
                        turn = size & 3
                        self._key = self._key[turn:] + self._key[:turn]
                        break
                if self._final:
                    if self._boundaries or self._kind == TEXT:
                        yield self._data(pieces, ends=True)
                    self._kind = 0
        except FrameError:
            if pieces:
                yield self._data(pieces)
            raise
        self._left = left
        if pieces:
            yield self._data(pieces)

    def _whole(
        self, data: bytes, position: int, view: memoryview, unmask: Unmask, pieces: list[memoryview]
    ) -> int:
        """Take binary messages of one frame that are all there; return where they end.

        Nearly everything that ever comes in is one of these.
        """
        # Less than this is not even a header with a length of two bytes.
        last, end, largest = len(data) - 8, len(data), self._largest
        while position <= last and data[position] == 0x82:
            size = data[position + 1] - 128
            start = position + 6
            if size > _MAX_CONTROL:
                if size == 127 or (size := data[position + 2] << 8 | data[position + 3]) < 126:
                    break
                start = position + 8
            stop = start + size
            if not 0 <= size <= largest or stop > end:
                break
            unmask(data[start - 4 : start], start, size)
            pieces.append(view[start:stop])
            position = stop
        return position

    def _header(self, data: bytes, position: int, end: int) -> tuple[int, int, int]:
        """Return a header's first byte, the size of the payload, and where it begins; 0 if not whole."""
        if end - position < 2:
            return 0, 0, 0
        first, size = data[position], data[position + 1]
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "A reserved bit is set")
        if size < 128:
            raise FrameError(PROTOCOL_ERROR, "A frame is not masked")
        size &= 127
        opcode = first & 15
        if opcode > BINARY:
            _check_control(opcode, bool(first & 128), size)
        start = position + 6
        if size > _MAX_CONTROL:
            wide = 2 if size == 126 else 8
            start += wide
            if start > end:
                return first, 0, 0
            size = int.from_bytes(data[position + 2 : position + 2 + wide], "big")
            if size < (126 if wide == 2 else 1 << 16):
                raise FrameError(PROTOCOL_ERROR, "The length of a frame is not in its shortest form")
            if size >> 63:
                raise FrameError(PROTOCOL_ERROR, "The length of a frame is negative")
        return first, size, start if start <= end else 0

    def _begin(self, first: int, size: int) -> None:
        """Judge a data frame by its place in the message, and by its size."""
        limits, opcode = self._limits, first & 15
        if opcode == CONTINUATION:
            if not self._kind:
                raise FrameError(PROTOCOL_ERROR, "There is no message to continue")
            self._total += size
        else:
            if self._kind:
                raise FrameError(PROTOCOL_ERROR, "A message begins within another one")
            if not (limits.binary if opcode == BINARY else limits.text):
                raise FrameError(UNSUPPORTED, "Messages of this kind are not taken here")
            self._kind = opcode
            self._total = size
        if size > limits.max_frame:
            raise FrameError(TOO_BIG, "A frame is too large")
        if self._total > limits.max_message:
            raise FrameError(TOO_BIG, "A message is too large")
        self._final = first >= 128

    def _data(self, pieces: list[memoryview], ends: bool = False) -> Data:
        payload = pieces[0].tobytes() if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        text = self._kind == TEXT
        if text:
            try:
                self._utf8.decode(payload, ends)
            except UnicodeDecodeError as error:
                raise FrameError(INVALID_PAYLOAD, "A text is not UTF-8") from error
        return Data(payload, text, ends)


def _check_control(opcode: int, final: bool, size: int) -> None:
    if not CLOSE <= opcode <= PONG:
        raise FrameError(PROTOCOL_ERROR, "An opcode is reserved")
    if not final:
        raise FrameError(PROTOCOL_ERROR, "A control frame is fragmented")
    if size > _MAX_CONTROL:
        raise FrameError(PROTOCOL_ERROR, "A control frame is too large")
    if opcode == CLOSE and size == 1:
        raise FrameError(PROTOCOL_ERROR, "A close code is cut off")


def _control(opcode: int, payload: bytes) -> Control:
    if opcode == CLOSE and payload:
        check_close(int.from_bytes(payload[:2], "big"), payload[2:])
    return Control(opcode, payload)


def check_close(code: int, reason: bytes) -> None:
    """Judge what a close frame holds.

    :raises FrameError: no such code may be sent, or the reason is no text.
    """
    if code not in _CLOSE_CODES and not 3000 <= code < 5000:
        raise FrameError(PROTOCOL_ERROR, "A close code is not one")
    try:
        reason.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(INVALID_PAYLOAD, "The reason of a close is not UTF-8") from error


def frame(opcode: int, payload: bytes | memoryview, final: bool = True) -> bytes:
    """Return a frame as a server sends it; the payload is copied once."""
    return b"".join((_head(opcode | 128 if final else opcode, len(payload)), payload))


def frames(opcode: int, payload: memoryview, largest: int) -> bytes:
    """Return messages of one frame each, with *largest* bytes at most; the payload is copied once."""
    pieces: list[bytes | memoryview] = []
    for start in range(0, len(payload), largest):
        part = payload[start : start + largest]
        pieces += (_head(opcode | 128, len(part)), part)
    return b"".join(pieces)


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126, size >> 8, size & 255))
    return bytes((first, 127)) + size.to_bytes(8, "big")
