"""Messages of libvirt's protocol: a length, a header of six words, a payload.

Source: libvirt 9.0.0, virnetprotocol.x and virnetmessage.c.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from enum import IntEnum
from struct import Struct as Layout
from typing import NamedTuple

from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import record

#: Program of keepalive messages, and its procedures.
KEEPALIVE = 0x6B656570
PING, PONG = 1, 2
#: Bytes of the largest message with its length. Source: VIR_NET_MESSAGE_MAX and VIR_NET_MESSAGE_LEN_MAX.
LARGEST = 33_554_432 + 4
#: Bytes of stream data that one message has. Source: VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX.
CHUNK = 262_120
#: Descriptors that one message may bring. Source: VIR_NET_MESSAGE_NUM_FDS_MAX.
DESCRIPTORS = 32

_HEAD = Layout(">7I")
_LENGTH = Layout(">I")


class Type(IntEnum):
    """What a message is."""

    CALL = 0
    REPLY = 1
    EVENT = 2
    STREAM = 3
    CALL_WITH_FDS = 4
    REPLY_WITH_FDS = 5
    HOLE = 6


class Status(IntEnum):
    """How a call or a stream stands."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


_tuple = tuple.__new__
_WITH_FDS = (int(Type.CALL_WITH_FDS), int(Type.REPLY_WITH_FDS))
_LAST_TYPE, _LAST_STATUS = int(Type.HOLE), int(Status.CONTINUE)


class ProtocolError(ValueError):
    """Bytes that are no message of this protocol; the connection can only be closed."""


class Message(NamedTuple):
    """One message.

    :ivar serial: of the call that it belongs to.
    :ivar descriptors: how many come with it, each as one byte after it.
    """

    program: int
    version: int
    procedure: int
    type: int
    serial: int
    status: int
    payload: bytes = b""
    descriptors: int = 0

    def pack(self) -> bytes:
        """The bytes of this message, those of its descriptors left out."""
        payload = self.payload
        if self.type in _WITH_FDS:
            payload = _LENGTH.pack(self.descriptors) + payload
        return _HEAD.pack(_HEAD.size + len(payload), *self[:6]) + payload


def pack_call(program: int, procedure: int, serial: int, payload: bytes) -> bytes:
    """The bytes of a call, as of :meth:`Message.pack`, which takes longer."""
    return _HEAD.pack(_HEAD.size + len(payload), program, 1, procedure, 0, serial, 0) + payload


class MessageReader:
    """Cuts a stream of bytes into messages.

    :ivar limit: bytes that one message may have; a longer one is refused before it is kept.
    """

    def __init__(self, limit: int = LARGEST) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._wanted = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take *data* in; yield the messages that are whole.

        One with descriptors is whole when the byte of each has arrived, and so has the descriptor then.

        :raises ProtocolError: nothing after this makes sense.
        """
        buffer = self._buffer
        if not buffer:
            at = yield from self._messages(data)
            if at != len(data):
                buffer += memoryview(data)[at:]
            return
        buffer += data
        if len(buffer) >= self._wanted:
            at = yield from self._messages(buffer)
            del buffer[:at]

    def _messages(self, data: bytes | bytearray) -> Generator[Message, None, int]:
        """Yield what is whole in *data*; return where the rest begins."""
        at, size = 0, len(data)
        while True:
            if size - at < _HEAD.size:
                self._wanted = self._length(data, at) if size - at >= _LENGTH.size else _LENGTH.size
                return at
            length, program, version, procedure, kind, serial, status = _HEAD.unpack_from(data, at)
            if not _HEAD.size <= length <= self.limit:
                raise ProtocolError(f"a message of {length} bytes")
            if size - at < length:
                self._wanted = length
                return at
            if kind > _LAST_TYPE or status > _LAST_STATUS:
                raise ProtocolError(f"a message of type {kind} and status {status}")
            begin, end, count = at + _HEAD.size, at + length, 0
            if kind in _WITH_FDS:
                if length < _HEAD.size + _LENGTH.size:
                    raise ProtocolError("a message without its number of descriptors")
                (count,) = _LENGTH.unpack_from(data, begin)
                if count > DESCRIPTORS:
                    raise ProtocolError(f"a message with {count} descriptors")
                begin += _LENGTH.size
                # One byte for each, which the length does not count.
                if size - at < length + count:
                    self._wanted = length + count
                    return at
            payload = data[begin:end] if isinstance(data, bytes) else bytes(memoryview(data)[begin:end])
            at = end + count
            # As Message() does, in a third of the time.
            yield _tuple(Message, (program, version, procedure, kind, serial, status, payload, count))

    def _length(self, data: bytes | bytearray, at: int) -> int:
        """What the message at *at* says of itself."""
        length: int = _LENGTH.unpack_from(data, at)[0]
        if not _HEAD.size <= length <= self.limit:
            raise ProtocolError(f"a message of {length} bytes")
        return length

    @property
    def held(self) -> int:
        """Bytes of a message that is not whole."""
        return len(self._buffer)


def read_error(payload: bytes) -> LibvirtError:
    """The error in a message.

    :raises gateway.wire.xdr.XdrError:
    """
    told = record("{error}").unpack(payload)
    return LibvirtError(
        told["code"],
        told["domain"],
        told["message"] or "",
        told["level"],
        (told["str1"], told["str2"], told["str3"]),
        (told["int1"], told["int2"]),
    )


def pack_error(error: LibvirtError) -> bytes:
    """The payload that says *error*."""
    first, second, third = error.strings
    low, high = error.numbers
    told = {"code": error.code, "domain": error.domain, "message": error.text, "level": error.level}
    rest = {"dom": None, "str1": first, "str2": second, "str3": third, "int1": low, "int2": high, "net": None}
    return record("{error}").pack(told | rest)
