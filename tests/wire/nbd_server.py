"""A small NBD server in memory, without network, that can be told to be awkward.

Source: NBD protocol (NetworkBlockDevice/nbd, doc/proto.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from struct import pack, unpack

from attrs import define, field

READ_ONLY, FLUSH, ZEROES, MULTI = 2, 4, 64, 256
READ, WRITE, DISC, FLUSHED, ZERO, STATUS = 0, 1, 2, 3, 6, 7
DONE = 1
NO_HOLE = 2
_BLOCK = 4096


@define
class Image:
    """What is served: bytes, and what happened to them.

    :ivar refuse: number of an error by command.
    :ivar dirty: blocks that a bitmap has marked, None without a bitmap.
    :ivar log: (command, offset, length, flags) of every request.
    """

    data: bytearray
    flags: int = FLUSH | ZEROES | MULTI
    name: str = ""
    structured: bool = True
    allocation: bool = True
    depth: set[int] | None = None
    dirty: set[int] | None = None
    refuse: dict[int, int] = field(factory=dict)
    log: list[tuple[int, int, int, int]] = field(factory=list)
    chunk: int = 1 << 30

    @property
    def contexts(self) -> dict[str, int]:
        """Metadata contexts by name; the ids are any."""
        names = {"base:allocation": 7} if self.allocation else {}
        if self.depth is not None:
            names["qemu:allocation-depth"] = 8
        if self.dirty is not None:
            names |= {"qemu:dirty-bitmap:b0": 9, "qemu:dirty-bitmap:b1": 10}
        return names

    def state(self, context: int, block: int) -> int:
        """Flags of one block."""
        if context == 7:
            return 0 if any(self.data[block * _BLOCK : (block + 1) * _BLOCK]) else 3
        if context == 8:
            return 0 if self.depth is not None and block in self.depth else 1
        return int(self.dirty is not None and block in self.dirty)

    def extents(self, context: int, offset: int, length: int) -> list[tuple[int, int]]:
        """What BLOCK_STATUS tells; equal neighbors are sometimes one."""
        found: list[tuple[int, int]] = []
        end = offset + length
        while offset < end:
            stop = min(end, (offset // _BLOCK + 1) * _BLOCK)
            state = self.state(context, offset // _BLOCK)
            if found and found[-1][1] == state and offset // _BLOCK % 3:
                found[-1] = found[-1][0] + stop - offset, state
            else:
                found.append((stop - offset, state))
            offset = stop
        return found


class Server:
    """One connection to an image.

    :param random: makes replies come in pieces, out of order and among each other.
    """

    def __init__(self, image: Image, random: Random | None = None) -> None:
        self.image = image
        self.closed = False
        self._random = random
        self._rest = b""
        self._selected: list[int] = []
        self._structured = False
        self._step: Callable[[], bytes | None] = self._client_flags

    def greeting(self) -> bytes:
        return b"NBDMAGICIHAVEOPT" + pack(">H", 3)

    def receive(self, data: bytes) -> bytes:
        """What the server sends after it got *data*."""
        self._rest += data
        out = b""
        while not self.closed and (answer := self._step()) is not None:
            out += answer
        return out

    def _take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    # -- handshake -------------------------------------------------------------------------

    def _client_flags(self) -> bytes | None:
        if len(self._rest) < 4:
            return None
        assert self._take(4) == b"\0\0\0\3"
        self._step = self._option
        return b""

    def _option(self) -> bytes | None:
        if len(self._rest) < 16:
            return None
        magic, option, length = unpack(">8sII", self._rest[:16])
        assert magic == b"IHAVEOPT"
        if len(self._rest) < 16 + length:
            return None
        self._take(16)
        return b"".join(
            pack(">QIII", 0x3E889045565A9, option, kind, len(answer)) + answer
            for kind, answer in self._answers(option, self._take(length))
        )

    def _answers(self, option: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        image = self.image
        if option == 8 and image.structured:
            self._structured = True
            yield 1, b""
        elif option in (7, 9, 10) and (name := self._name(data)) != image.name:
            yield (1 << 31) + 6, f"no export {name}".encode()
        elif option in (9, 10):
            queries = self._queries(data)
            found = {
                n: i for n, i in image.contexts.items() if n in queries or (option == 9 and n[:18] in queries)
            }
            if option == 10:
                self._selected = list(found.values())
            for context, number in found.items():
                yield 4, pack(">I", number) + context.encode()
            yield 1, b""
        elif option == 7:
            yield 3, pack(">HQH", 0, len(image.data), image.flags | 1)
            yield 3, pack(">HIII", 3, 1, 4096, 1 << 25)
            yield 1, b""
            self._step = self._request
        else:
            yield (1 << 31) + 1, b"unknown"

    @staticmethod
    def _name(data: bytes) -> str:
        return data[4 : 4 + unpack(">I", data[:4])[0]].decode()

    def _queries(self, data: bytes) -> list[str]:
        at = 8 + len(self._name(data).encode())
        found = []
        while at < len(data):
            (length,) = unpack(">I", data[at : at + 4])
            found.append(data[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return found

    # -- transmission ----------------------------------------------------------------------

    def _request(self) -> bytes | None:
        """Answer all requests that are here, in whatever order."""
        replies: list[list[bytes]] = []
        while len(self._rest) >= 28:
            magic, flags, command, handle, offset, length = unpack(">IHHQQI", self._rest[:28])
            assert magic == 0x25609513
            payload = length if command == WRITE else 0
            if len(self._rest) < 28 + payload:
                break
            self._take(28)
            data = self._take(payload)
            self.image.log.append((command, offset, length, flags))
            if command == DISC:
                self.closed = True
                break
            replies.append(self._reply(command, handle, offset, length, data))
        return b"".join(self._mixed(replies)) or None

    def _mixed(self, replies: list[list[bytes]]) -> Iterator[bytes]:
        while any(replies):
            waiting = [it for it in replies if it]
            yield (waiting[0] if self._random is None else self._random.choice(waiting)).pop(0)

    def _reply(self, command: int, handle: int, offset: int, length: int, data: bytes) -> list[bytes]:
        image = self.image
        error = image.refuse.get(command, 0)
        if command in (WRITE, ZERO) and not error:
            error = 28 if offset + length > len(image.data) else 0
        if error and self._structured:
            message = pack(">IH", error, 4) + b"/sad"
            return [self._chunk(DONE, (1 << 15) + 1, handle, message)]
        if command == WRITE and not error:
            image.data[offset : offset + length] = data
        elif command == ZERO and not error:
            image.data[offset : offset + length] = bytes(length)
        elif command == STATUS:
            return self._done(
                handle,
                [
                    (5, pack(">I", it) + b"".join(pack(">II", *e) for e in image.extents(it, offset, length)))
                    for it in self._selected
                ],
            )
        elif command == READ and self._structured:
            return self._done(handle, self._pieces(offset, length))
        read = bytes(image.data[offset : offset + length]) if command == READ and not error else b""
        return [pack(">IIQ", 0x67446698, error, handle) + read]

    def _pieces(self, offset: int, length: int) -> list[tuple[int, bytes]]:
        pieces: list[tuple[int, bytes]] = []
        end = offset + length
        while offset < end:
            size = min(end - offset, self.image.chunk)
            if self._random is not None:
                size = self._random.randint(1, size)
            data = bytes(self.image.data[offset : offset + size])
            if any(data):
                pieces.append((1, pack(">Q", offset) + data))
            else:
                pieces.append((2, pack(">QI", offset, size)))
            offset += size
        if self._random is not None:
            self._random.shuffle(pieces)
        return pieces

    def _done(self, handle: int, pieces: list[tuple[int, bytes]]) -> list[bytes]:
        if self._random is not None and self._random.random() < 0.3:
            return [
                *(self._chunk(0, *self._with(handle, it)) for it in pieces),
                self._chunk(DONE, 0, handle, b""),
            ]
        last = len(pieces) - 1
        return [self._chunk(DONE * (n == last), *self._with(handle, it)) for n, it in enumerate(pieces)]

    @staticmethod
    def _with(handle: int, piece: tuple[int, bytes]) -> tuple[int, int, bytes]:
        return piece[0], handle, piece[1]

    @staticmethod
    def _chunk(flags: int, kind: int, handle: int, payload: bytes) -> bytes:
        return pack(">IHHQI", 0x668E33EF, flags, kind, handle, len(payload)) + payload
