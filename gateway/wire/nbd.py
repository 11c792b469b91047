"""The second phase of NBD, as a client: requests, and their replies in whatever order and pieces they come.

Source: NBD protocol (NetworkBlockDevice/nbd, doc/proto.md), sections "Transmission", "Simple reply message",
"Structured reply chunk message", "Request types", "Structured reply types" and "Error values". All
integers are big-endian.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

from attrs import define, field, frozen

from gateway.wire.nbd_negotiation import MAX_STRING, Export, failed

_REQUEST = Struct(">IHHQQI")
_SIMPLE = Struct(">IIQ")
_CHUNK = Struct(">IHHQI")
_OFFSET = Struct(">Q")
_HOLE = Struct(">QI")
_ERROR = Struct(">IH")
_CONTEXT = Struct(">I")
_EXTENT = Struct(">II")

_REQUEST_MAGIC = 0x25609513
_SIMPLE_MAGIC = 0x67446698
_CHUNK_MAGIC = 0x668E33EF
_DONE = 1
#: Payload of data is taken in pieces of at least this many bytes, so that there are few of them.
_PIECE = 16 * 1024
#: Extents that one reply may hold.
_MAX_EXTENTS = 128 * 1024
#: Chunks of one reply, beside one for each sector.
_MAX_CHUNKS = 64
#: Bytes of payload a request may bring in, whatever the server could do.
MAX_READ = 32 * 1024 * 1024

Pieces = list[tuple[int, "bytes | memoryview | int"]]


class Command(IntEnum):
    """What can be asked for."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """How it is to be done."""

    NONE = 0
    NO_HOLE = 2


class _Kind(IntEnum):
    NONE = 0
    DATA = 1
    HOLE = 2
    STATUS = 5
    ERROR = 1 << 15


@frozen
class Reply:
    """The whole reply to one request.

    :ivar error: number of an error, 0 for none; :ivar message: what the server says of it.
    :ivar data: what was read.
    :ivar extents: by the id of a metadata context: (length, flags) of what lies behind each other.
    """

    handle: int
    error: int = 0
    message: str = ""
    data: bytes = field(default=b"", repr=False)
    extents: dict[int, list[tuple[int, int]]] = field(factory=dict, repr=False)


@define
class _Pending:
    """A request on its way, and what of its reply is here.

    :ivar pieces: offset in the image, and bytes or the length of a hole.
    """

    command: Command
    offset: int
    length: int
    error: int = 0
    message: str = ""
    chunks: int = 0
    got: int = 0
    pieces: Pieces = field(factory=list)
    extents: dict[int, list[tuple[int, int]]] = field(factory=dict)

    def claim(self, offset: int, length: int) -> None:
        """Let a piece of what was read be at *offset*."""
        self.got += length
        inside = self.offset <= offset and offset + length <= self.offset + self.length
        if self.command != Command.READ or not length or not inside or self.got > self.length:
            raise failed("it sends what nobody asked for")

    def reply(self, handle: int) -> Reply:
        """Return the whole.

        :raises gateway.errors.UpstreamFailed: it is not whole.
        """
        data = b""
        if not self.error and self.command == Command.READ:
            data = self._joined()
        elif not self.error and self.command == Command.BLOCK_STATUS and not self.extents:
            raise failed("it does not tell what it was asked for")
        return Reply(handle, self.error, self.message, data, self.extents)

    def _joined(self) -> bytes:
        # Pieces may come in any order, and must neither overlap nor leave a gap.
        self.pieces.sort(key=lambda it: it[0])
        parts: list[bytes | memoryview] = []
        at = self.offset
        for start, piece in self.pieces:
            if start != at:
                raise failed("what it sends does not fit together")
            part = bytes(piece) if isinstance(piece, int) else piece
            parts.append(part)
            at += len(part)
        if at != self.offset + self.length:
            raise failed("it sends less than it was asked for")
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)


class Transmission:
    """Requests of a client, any number at once, and their replies.

    What is in memory is what was asked for and not answered yet, and one bounded chunk.
    """

    def __init__(self, export: Export) -> None:
        self.export = export
        self._pending: dict[int, _Pending] = {}
        self._last = 0
        self._rest = bytearray()
        self._needed = _SIMPLE.size
        self._chunk: tuple[int, _Kind, bool, int] | None = None
        self._reading: tuple[_Pending, int, int] | None = None

    @property
    def waiting(self) -> int:
        """Requests that have no whole reply."""
        return len(self._pending)

    def request(
        self, command: Command, offset: int = 0, length: int = 0, flags: CommandFlag = CommandFlag.NONE
    ) -> tuple[int, bytes]:
        """Return the handle of a request and the bytes to send; for WRITE, *length* bytes must follow."""
        if command == Command.READ and not 0 < length <= MAX_READ:
            raise ValueError("a read has 1 byte to 32 MiB")
        self._last += 1
        if command != Command.DISC:
            self._pending[self._last] = _Pending(command, offset, length)
        return self._last, _REQUEST.pack(_REQUEST_MAGIC, flags, command, self._last, offset, length)

    def receive(self, data: bytes) -> list[Reply]:
        """Consume *data*, in pieces of any size; return the replies that are whole by now.

        :raises gateway.errors.UpstreamFailed: the server spoke nonsense; nothing can be received any more.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        view, replies = memoryview(data), list[Reply]()
        while len(view) >= self._needed:
            used, reply = self._step(view)
            view = view[used:]
            if reply is not None:
                replies.append(reply)
        self._rest += view
        return replies

    def _step(self, view: memoryview) -> tuple[int, Reply | None]:
        """Take the next part off *view*; return its length, and a reply that it completes."""
        if self._reading is not None:
            return self._data(view)
        if self._chunk is not None:
            return self._payload(view)
        magic = int.from_bytes(view[:4], "big")
        if magic == _SIMPLE_MAGIC:
            return self._simple(view)
        if magic != _CHUNK_MAGIC or not self.export.structured:
            raise failed("it speaks nonsense")
        if len(view) < _CHUNK.size:
            self._needed = _CHUNK.size
            return 0, None
        return self._head(view)

    def _request_of(self, handle: int) -> _Pending:
        pending = self._pending.get(handle)
        if pending is None:
            raise failed("it answers what nobody asked")
        return pending

    def _finish(self, handle: int) -> Reply:
        self._needed = _SIMPLE.size
        return self._pending.pop(handle).reply(handle)

    # -- simple replies --------------------------------------------------------------------

    def _simple(self, view: memoryview) -> tuple[int, Reply | None]:
        _, error, handle = _SIMPLE.unpack_from(view)
        pending = self._request_of(handle)
        if pending.chunks:
            raise failed("it answers in two ways at once")
        pending.error = error
        if error or pending.command != Command.READ:
            return _SIMPLE.size, self._finish(handle)
        self._chunk = handle, _Kind.DATA, True, pending.length
        self._begin(pending, pending.offset, pending.length)
        return _SIMPLE.size, None

    # -- structured replies ----------------------------------------------------------------

    def _head(self, view: memoryview) -> tuple[int, Reply | None]:
        _, flags, number, handle, length = _CHUNK.unpack_from(view)
        pending = self._request_of(handle)
        pending.chunks += 1
        if pending.chunks > pending.length // 512 + _MAX_CHUNKS:
            raise failed("it answers in too many pieces")
        done = bool(flags & _DONE)
        kind = _Kind.ERROR if number & _Kind.ERROR else _KINDS.get(number)
        low, high = _LENGTHS.get(kind, (0, -1))
        if kind is None or not low <= length <= high:
            raise failed("it answers in an odd way")
        self._chunk = handle, kind, done, length
        # The offset stands before the data, which is not kept until it is whole.
        self._needed = max(1, _OFFSET.size if kind == _Kind.DATA else length)
        if kind == _Kind.NONE:
            self._needed, self._chunk = _SIMPLE.size, None
            if not done:
                raise failed("it answers nothing at all")
            return _CHUNK.size, self._finish(handle)
        return _CHUNK.size, None

    def _payload(self, view: memoryview) -> tuple[int, Reply | None]:
        assert self._chunk is not None  # noqa: S101 (for the type checker)
        handle, kind, done, length = self._chunk
        pending = self._request_of(handle)
        if kind == _Kind.DATA:
            (offset,) = _OFFSET.unpack_from(view)
            self._begin(pending, offset, length - _OFFSET.size)
            return _OFFSET.size, None
        payload = view[:length]
        if kind == _Kind.HOLE:
            offset, size = _HOLE.unpack(payload)
            pending.claim(offset, size)
            pending.pieces.append((offset, size))
        elif kind == _Kind.STATUS:
            self._status(pending, payload)
        else:
            self._error(pending, payload)
        self._chunk, self._needed = None, _SIMPLE.size
        return length, self._finish(handle) if done else None

    def _begin(self, pending: _Pending, offset: int, length: int) -> None:
        pending.claim(offset, length)
        self._reading = pending, offset, length
        self._needed = min(length, _PIECE)

    def _data(self, view: memoryview) -> tuple[int, Reply | None]:
        assert self._reading is not None and self._chunk is not None  # noqa: S101 (for the type checker)
        pending, offset, length = self._reading
        piece = view[:length]
        # A small piece must not keep the large buffer it came in.
        pending.pieces.append((offset, piece if len(piece) >= _PIECE else bytes(piece)))
        left = length - len(piece)
        if left:
            self._reading = pending, offset + len(piece), left
            self._needed = min(left, _PIECE)
            return len(piece), None
        handle, _, done, _ = self._chunk
        self._reading, self._chunk, self._needed = None, None, _SIMPLE.size
        return len(piece), self._finish(handle) if done else None

    def _status(self, pending: _Pending, payload: memoryview) -> None:
        (context,) = _CONTEXT.unpack_from(payload)
        known = (self.export.allocation, self.export.depth, self.export.dirty)
        if pending.command != Command.BLOCK_STATUS or context not in known or context in pending.extents:
            raise failed("it describes what nobody asked for")
        extents = list(_EXTENT.iter_unpack(payload[4 : 4 + (len(payload) - 4) // 8 * 8]))
        if len(payload) % 8 != 4 or any(length == 0 for length, _ in extents):
            raise failed("it describes its export in an odd way")
        pending.extents[context] = extents

    @staticmethod
    def _error(pending: _Pending, payload: memoryview) -> None:
        number, length = _ERROR.unpack_from(payload)
        text = bytes(payload[_ERROR.size : _ERROR.size + length])
        if not number or len(text) != length:
            raise failed("it fails in an odd way")
        if not pending.error:
            pending.error, pending.message = number, text.decode("utf-8", "replace")


_KINDS = {int(kind): kind for kind in _Kind}
#: Shortest and longest payload of a chunk.
_LENGTHS: dict[_Kind | None, tuple[int, int]] = {
    _Kind.NONE: (0, 0),
    _Kind.DATA: (_OFFSET.size + 1, _OFFSET.size + MAX_READ),
    _Kind.HOLE: (_HOLE.size, _HOLE.size),
    _Kind.STATUS: (_CONTEXT.size + _EXTENT.size, _CONTEXT.size + _EXTENT.size * _MAX_EXTENTS),
    _Kind.ERROR: (_ERROR.size, _ERROR.size + MAX_STRING + _OFFSET.size),
}
