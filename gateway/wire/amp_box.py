"""Boxes of AMP as bytes: pairs of a key and a value, bounded while they arrive.

A pair is judged as soon as its lengths are known, before its value is waited for: what is too large is
never kept. Source: the AMP protocol; a key has 1 to 255 bytes, a value at most 65,535, and a key of no bytes
ends a box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any

from attrs import define, field

#: Bytes of one key, and of one value.
LONGEST_KEY = 255
LONGEST_VALUE = 65535
#: Bytes and pairs that a box may have.
Room = tuple[int, int]

#: Comes after the last pair of a box.
END = b"\0\0"

_length = Struct("!H").pack


class BoxError(ValueError):
    """This is no box; nothing that follows can be understood."""


class BoxTooLarge(BoxError):
    """A box has more bytes or more pairs than it may.

    :ivar limit: bytes.
    :ivar tag: the number of the call that it belongs to, if that was read already.
    """

    def __init__(self, limit: int, tag: bytes | None) -> None:
        super().__init__("a box is too large")
        self.limit = limit
        self.tag = tag


@lru_cache(4096)
def head(key: bytes) -> bytes:
    """A key with its length before it; there are few of them.

    :raises ValueError: it has no possible length.
    """
    if not 0 < len(key) <= LONGEST_KEY:
        raise ValueError(f"{key[:64]!r} does not fit into a box")
    return _length(len(key)) + key


def put(parts: list[bytes], head: bytes, value: bytes) -> None:
    """Add a pair to the *parts* of a box, which :data:`END` closes.

    :param head: the key, as :func:`head` gives it.
    :raises ValueError: *value* is too long.
    """
    if len(value) > LONGEST_VALUE:
        raise ValueError(f"{head[2:66]!r} does not fit into a box")
    parts += (head, _length(len(value)), value)


def pack(box: Mapping[bytes, bytes]) -> bytes:
    """*box* as it is sent, the keys in order.

    :raises ValueError: it has no pair, or a key or value of no possible length.
    """
    parts: list[bytes] = []
    for key in sorted(box):
        value = box[key]
        if len(value) > LONGEST_VALUE:
            raise ValueError(f"{key[:64]!r} does not fit into a box")
        parts += (head(key), _length(len(value)), value)
    if not parts:
        raise ValueError("a box has to hold something")
    parts.append(END)
    return b"".join(parts)


def pack_list(values: Iterable[bytes]) -> bytes:
    """Values one after the other, each with its length before it.

    :raises ValueError: one is too long.
    """
    parts: list[bytes] = []
    for value in values:
        if len(value) > LONGEST_VALUE:
            raise ValueError("an element is too long")
        parts += (_length(len(value)), value)
    return b"".join(parts)


def unpack_list(data: bytes, most: int) -> list[bytes]:
    """The values that :func:`pack_list` made *data* of.

    :raises ValueError: there are more than *most*, or the end is cut off.
    """
    values: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        begin = at + 2
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin > end or at > end:
            raise ValueError("a list is cut off")
        if len(values) == most:
            raise ValueError("a list has too many elements")
        values.append(data[begin:at])
    return values


def unpack_boxes(
    data: bytes, members: Mapping[bytes, tuple[str, Callable[[bytes], Any]]]
) -> list[dict[str, Any]]:
    """What the boxes in *data* hold of *members*: by key, the name and what makes a value of the bytes.

    :raises ValueError: these are no whole boxes, or something in them is no good.
    """
    found: list[dict[str, Any]] = []
    at, end = 0, len(data)
    try:
        while at < end:
            values: dict[str, Any] = {}
            while length := data[at] << 8 | data[at + 1]:
                colon = at + 2 + length
                value = colon + 2
                known = members.get(data[at + 2 : colon])
                at = value + (data[colon] << 8 | data[colon + 1])
                if known is not None:
                    name, make = known
                    if name in values:
                        raise ValueError("a key is given twice")
                    values[name] = make(data[value:at])
            at += 2
            found.append(values)
    except IndexError:
        raise ValueError("a box is cut off") from None
    return found


@define
class BoxReader:
    """Finds boxes in what arrives, however it is cut.

    :ivar room: what a box may have as long as nobody knows which command it holds.
    :ivar of: what a box with this command may have.
    :ivar size: bytes of the box that was read last.
    """

    room: Room
    of: Callable[[bytes], Room] | None = None
    size: int = field(default=0, init=False)
    _data: bytes = field(default=b"", init=False, repr=False)
    _at: int = field(default=0, init=False)
    _tail: bytearray = field(factory=bytearray, init=False, repr=False)
    _need: int = field(default=2, init=False)
    _box: dict[bytes, bytes] = field(factory=dict, init=False, repr=False)
    _sum: int = field(default=2, init=False)
    _now: Room | None = field(default=None, init=False)

    def feed(self, data: bytes) -> None:
        """Take *data*, in pieces of any size; then ask :meth:`next` until it knows no more."""
        if self._at == len(self._data) and not self._tail:
            self._data, self._at = data, 0
        else:
            self._tail += data

    @property
    def held(self) -> int:
        """Bytes that are kept: the box that is not complete, and what was not looked at."""
        return self._sum + len(self._data) - self._at + len(self._tail)

    def next(self) -> dict[bytes, bytes] | None:
        """The next whole box, if there is one.

        :raises BoxError: what arrives is no box, or too large for one; then there is no next one.
        """
        if len(self._data) - self._at + len(self._tail) < self._need:
            return None
        if self._tail:
            self._data, self._at = self._data[self._at :] + self._tail, 0
            self._tail.clear()
        data, at, end, box = self._data, self._at, len(self._data), self._box
        limit, most = self._now or self.room
        # Where a box that is as large as may be would end, but for the two bytes that close it.
        edge = at + limit - self._sum
        while True:
            begin = at + 2
            if end < begin:
                break
            if data[at]:
                raise BoxError("a key is too long")
            if not data[at + 1]:
                return self._whole(at, edge - limit)
            colon = begin + data[at + 1]
            value = colon + 2
            if end < value:
                begin = value
                break
            begin = value + (data[colon] << 8 | data[colon + 1])
            if begin > edge or len(box) >= most:
                raise BoxTooLarge(limit, box.get(b"_ask"))
            if end < begin:
                break
            key = data[at + 2 : colon]
            if key in box:
                raise BoxError("a key is given twice")
            box[key] = data[value:begin]
            at = begin
            if key == b"_command" and self.of is not None:
                self._now = room = self.of(box[key])
                limit, edge, most = room[0], edge - limit + room[0], room[1]
                if at > edge or len(box) > most:
                    raise BoxTooLarge(limit, box.get(b"_ask"))
        # Nothing of what was read is kept along with what is missing its end.
        self._sum = at - (edge - limit)
        self._data, self._at, self._need = data[at:], 0, begin - at
        return None

    def _whole(self, at: int, begin: int) -> dict[bytes, bytes]:
        """The box whose end is *at* this place of the data; it began at another, maybe before it."""
        box, self.size = self._box, at - begin
        if not box:
            raise BoxError("a box is empty")
        self._box, self._sum, self._now = {}, 2, None
        self._at, self._need = at + 2, 2
        return box
