"""Reads long lists a few items at a time, so that whoever waits for something else has a turn in between.

What is read, and what is refused, is the same as of :mod:`gateway.wire.xdr`.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from functools import cache
from struct import error as struct_error
from typing import Any, cast

from gateway.wire.xdr import Array, Codec, Maybe, Struct, XdrError, count_at
from gateway.wire.xdr_parameter import Parameter
from gateway.wire.xdr_references import References

#: Items between two pauses: a tenth of a millisecond or three.
SLICE = 64
#: Parameters that one payload may have; each takes ten times the memory that it has on the wire.
MOST = 250_000


class TooManyError(ValueError):
    """This may well be right, and is more than anybody can use."""


Steps = Generator[None, None, Any]


def unpack_slowly(struct: Struct, data: bytes) -> Steps:
    """Read the whole of a payload; the generator pauses, and returns the values in the end.

    :raises XdrError: as of :meth:`Struct.unpack`.
    :raises TooManyError: there are more than :data:`MOST` parameters.
    """
    try:
        value, at = yield from _struct(struct, data, 0, [0])
    except struct_error:
        raise XdrError("it is cut short") from None
    if at != len(data):
        raise XdrError(f"{len(data) - at} bytes are left over")
    return value


@cache
def _is_long(codec: object) -> bool:
    """Whether there are lists in it."""
    if isinstance(codec, Maybe):
        return False
    if isinstance(codec, Struct):
        return any(step.layout is None and _is_long(cast(Hashable, step.codec)) for step in codec.steps)
    return isinstance(codec, Array)


def _read(codec: Codec, data: bytes, at: int, seen: list[int]) -> Steps:
    if isinstance(codec, Array):
        return (yield from _array(codec, data, at, seen))
    if isinstance(codec, Struct) and _is_long(cast(Hashable, codec)):
        return (yield from _struct(codec, data, at, seen))
    return codec.decode(data, at)


def _array(array: Array, data: bytes, at: int, seen: list[int]) -> Steps:
    count, at = count_at(data, at, array.most)
    inner, items = array.inner, list[Any]()
    if isinstance(array, References):
        for number in range(0, count, SLICE):
            part, at = array.some(data, at, min(SLICE, count - number))
            items += part
            yield
        return items, at
    long, decode, parameters = _is_long(cast(Hashable, inner)), inner.decode, isinstance(inner, Parameter)
    for number in range(count):
        if long:
            item, at = yield from _read(inner, data, at, seen)
        else:
            item, at = decode(data, at)
        items.append(item)
        if not number % SLICE:
            yield
        if parameters:
            seen[0] += 1
            if seen[0] > MOST:
                raise TooManyError(f"there are more than {MOST} values")
    return items, at


def _struct(struct: Struct, data: bytes, at: int, seen: list[int]) -> Steps:
    values: list[Any] = []
    for step in struct.steps:
        if (layout := step.layout) is not None:
            values += layout.unpack_from(data, at)
            at += layout.size
        else:
            value, at = yield from _read(step.codec, data, at, seen)
            values.append(value)
    for index, load in struct.loads:
        values[index] = load(values[index])
    return dict(zip(struct.names, values, strict=True)), at
