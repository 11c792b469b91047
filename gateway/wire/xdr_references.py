"""References to objects, each a name and what is of fixed size, and lists of them, which may have thousands.

The same ones come and go again and again, so what short ones mean is kept. What is read and written, and what
is refused, is the same as of :mod:`gateway.wire.xdr`, whose work it is when one is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from gateway.wire.xdr import Array, Codec, Struct, Text, count_at, length_at

#: References of one kind that are kept, some 10 MB of them, and the length of a name that is not too long.
KEPT, SHORT = 16384, 64


class Reference(Struct):
    """A reference to a domain, or to what else begins with a text; short ones are written from memory."""

    def __init__(self, fields: Mapping[str, str], codecs: Mapping[str, Codec]) -> None:
        super().__init__(fields, codecs)
        self._first = self.names[0]
        self._take = itemgetter(*self.names)
        # By type as well: 1, 1.0 and True are equal, and not all of them are good.
        self._bytes = lru_cache(KEPT, typed=True)(self._write)

    @property
    def kept(self) -> int:
        """How many are remembered."""
        return self._bytes.cache_info().currsize

    def _write(self, *values: Any) -> bytes:
        out = bytearray()
        super().encode(dict(zip(self.names, values, strict=True)), out)
        return bytes(out)

    def encode(self, value: Any, out: bytearray) -> None:
        if type(value) is dict and len(value) == len(self.names):
            first = value.get(self._first)
            if type(first) is str and len(first) <= SHORT:
                try:
                    out += self._bytes(*self._take(value))
                except (KeyError, TypeError):
                    pass  # it says below what is missing, or no value
                else:
                    return
        super().encode(value, out)


class References(Array):
    """A number of domains, or of what else has a text first and values of fixed size after it."""

    def __init__(self, inner: Struct, size: int, most: int) -> None:
        """:param size: bytes of all that is of fixed size."""
        super().__init__(inner, most)
        self._size = size
        self._known = lru_cache(KEPT)(self._read)

    @classmethod
    def of(cls, inner: Codec, most: int) -> References | None:
        """The codec of a list of *inner*; None when those are no references."""
        if not isinstance(inner, Struct) or len(inner.steps) != 2:
            return None
        name, fixed = inner.steps
        if fixed.layout is None or not isinstance(name.codec, Text):
            return None
        return cls(inner, fixed.layout.size, most)

    @property
    def kept(self) -> int:
        """How many are known."""
        return self._known.cache_info().currsize

    def _read(self, data: bytes) -> dict[str, Any]:
        value: dict[str, Any] = self.inner.decode(data, 0)[0]
        return value

    def decode(self, data: bytes, at: int) -> tuple[list[Any], int]:
        count, at = count_at(data, at, self.most)
        return self.some(data, at, count)

    def some(self, data: bytes, at: int, count: int) -> tuple[list[dict[str, Any]], int]:
        """Read *count* of them at *at*; return them and where they end. Raises as :meth:`decode`."""
        known, beside, items = self._known, self._size + 4, list[dict[str, Any]]()
        for _ in range(count):
            (length,) = length_at(data, at)
            if length > SHORT:
                item, at = self.inner.decode(data, at)
            else:
                end = at + beside + (length + 3 & ~3)
                # A copy, for it is the caller's.
                item, at = known(data[at:end]).copy(), end
            items.append(item)
        return items, at
