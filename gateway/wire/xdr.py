"""External data representation: values and the bytes that libvirt makes of them.

A codec writes a value to the end of a buffer and reads one from a place in one. Reading is strict: lengths
within their bounds, padding of zeroes, unions of 0 or 1, no NUL in a text, so that nobody behind us reads
something else. Neighbours of fixed size are read and written at once, for most values are of that kind.
Source: RFC 4506; ``char``, ``unsigned char`` and ``short`` take four bytes each (xdr_char and its like).
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from struct import Struct as Layout
from struct import error as struct_error
from typing import Any, Protocol

#: Bytes of the longest text. Source: libvirt, REMOTE_STRING_MAX.
STRING = 4_194_304
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_LENGTH = Layout(">I")
pack_length, length_at = _LENGTH.pack, _LENGTH.unpack_from
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
#: What :mod:`struct` raises for a value that does not fit, and caches for one that they cannot keep.
_UNFIT = (struct_error, TypeError)


class XdrError(ValueError):
    """A value that has no such bytes, or bytes that are no such value.

    :ivar path: which value, such as ``params.3.value``; empty for the whole, and for bytes.
    """

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(f"{path}: {text}" if path else text)
        self.text = text
        self.path = path

    def within(self, name: object) -> XdrError:
        """The same, seen from what holds the value as *name*."""
        return XdrError(self.text, f"{name}.{self.path}" if self.path else str(name))


class Codec(Protocol):
    """Values of one type."""

    def encode(self, value: Any, out: bytearray) -> None:
        """Append *value* to *out*.

        :raises XdrError: it is not of this type.
        """

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        """Read the value at *at*; return it and where it ends.

        :raises XdrError, struct.error: there is none.
        """


def _more(length: int, most: int) -> XdrError:
    return XdrError(f"{length} is more than the {most} that there may be")


def count_at(data: bytes, at: int, most: int) -> tuple[int, int]:
    """The number at *at*, *most* at most, and where it ends."""
    (count,) = length_at(data, at)
    if count > most:
        raise _more(count, most)
    return count, at + 4


def _part(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """Bytes with their length before them, and their padding after them."""
    (length,) = length_at(data, at)
    at += 4
    end = at + length
    after = (end + 3) & ~3
    if length > most:
        raise _more(length, most)
    if after > len(data):
        raise XdrError("it is cut short")
    if after != end and data[end:after] != _PADDING[length & 3]:
        raise XdrError("the padding is not zero")
    return data[at:end], after


def _put(data: bytes, most: int, out: bytearray) -> None:
    """The reverse of :func:`_part`."""
    length = len(data)
    if length > most:
        raise _more(length, most)
    out += pack_length(length)
    out += data
    out += _PADDING[length & 3]


def octets(value: Any) -> bytes:
    """*value* as bytes; a text is base64.

    :raises XdrError:
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        return b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise XdrError("base64 is expected") from None


@lru_cache(16384)
def _uuid_text(data: bytes) -> str:
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@lru_cache(16384)
def _uuid_bytes(text: str) -> bytes:
    if not isinstance(text, str) or _UUID.fullmatch(text) is None:
        raise XdrError("a uuid of 36 characters is expected")
    return bytes.fromhex(text.replace("-", ""))


class Fixed:
    """A value of fixed size.

    :param letter: of its layout, as :mod:`struct` has them.
    :param load: makes a value of what is read; *dump* the reverse. Both may raise XdrError.
    """

    def __init__(
        self,
        letter: str,
        load: Callable[[Any], Any] | None = None,
        dump: Callable[[Any], Any] | None = None,
    ) -> None:
        self.letter = letter
        self.layout = Layout(">" + letter)
        self.load = load
        self.dump = dump

    def encode(self, value: Any, out: bytearray) -> None:
        try:
            out += self.layout.pack(self.dump(value) if self.dump else value)
        except _UNFIT:
            raise XdrError("a value of this type and size is expected") from None

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        (value,) = self.layout.unpack_from(data, at)
        return (self.load(value) if self.load else value), at + self.layout.size


def between(layout: str, low: int, high: int) -> Fixed:
    """A number that *layout* has more room for than it may have."""

    def check(value: Any) -> Any:
        if low <= value <= high:
            return value
        raise XdrError(f"{low} to {high} is expected")

    return Fixed(layout, check, check)


#: Sixteen bytes, and the text with hyphens that people know them by.
UUID = Fixed("16s", _uuid_text, _uuid_bytes)


class Text:
    """UTF-8; bytes that are none survive as lone surrogates."""

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, str):
            raise XdrError("a text is expected")
        try:
            data = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise XdrError("a text of Unicode characters is expected") from None
        if 0 in data:
            raise XdrError("a text holds no NUL")
        if (length := len(data)) > STRING:
            raise _more(length, STRING)
        out += pack_length(length)
        out += data
        out += _PADDING[length & 3]

    def decode(self, data: bytes, at: int) -> tuple[str, int]:
        part, at = _part(data, at, STRING)
        if 0 in part:
            raise XdrError("a text holds no NUL")
        return part.decode("utf-8", "surrogateescape"), at


class Opaque:
    """Bytes; in JSON, and therefore when encoding a text, they are base64."""

    def __init__(self, most: int) -> None:
        self._most = most

    def encode(self, value: Any, out: bytearray) -> None:
        _put(octets(value), self._most, out)

    def decode(self, data: bytes, at: int) -> tuple[bytes, int]:
        return _part(data, at, self._most)


class Characters:
    """Bytes of which each takes four on the wire.

    :param fixed: there are always that many, and no length is sent.
    """

    def __init__(self, most: int, *, fixed: bool) -> None:
        self._most = most
        self._fixed = fixed

    def encode(self, value: Any, out: bytearray) -> None:
        data = octets(value)
        if len(data) > self._most or (self._fixed and len(data) != self._most):
            raise XdrError(f"{self._most} bytes are expected, not {len(data)}")
        if not self._fixed:
            out += pack_length(len(data))
        wide = bytearray(4 * len(data))
        wide[3::4] = data
        if not data.isascii():
            # Characters are signed.
            wide[0::4] = wide[1::4] = wide[2::4] = bytes(255 if octet > 127 else 0 for octet in data)
        out += wide

    def decode(self, data: bytes, at: int) -> tuple[bytes, int]:
        length = self._most
        if not self._fixed:
            length, at = count_at(data, at, self._most)
        end = at + 4 * length
        if end > len(data):
            raise XdrError("it is cut short")
        return data[at + 3 : end : 4], end


class Maybe:
    """A value or none."""

    def __init__(self, inner: Codec) -> None:
        self.inner = inner

    def encode(self, value: Any, out: bytearray) -> None:
        out += pack_length(value is not None)
        if value is not None:
            self.inner.encode(value, out)

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        there, at = count_at(data, at, 1)
        return self.inner.decode(data, at) if there else (None, at)


class Array:
    """A number of values: *inner* has each of them, and *most* says how many there may be."""

    def __init__(self, inner: Codec, most: int) -> None:
        self.inner = inner
        self.most = most

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, list | tuple):
            raise XdrError("a list is expected")
        if len(value) > self.most:
            raise _more(len(value), self.most)
        out += pack_length(len(value))
        encode = self.inner.encode
        for index, item in enumerate(value):
            try:
                encode(item, out)
            except XdrError as error:
                raise error.within(index) from None

    def decode(self, data: bytes, at: int) -> tuple[list[Any], int]:
        count, at = count_at(data, at, self.most)
        decode, items = self.inner.decode, []
        for _ in range(count):
            item, at = decode(data, at)
            items.append(item)
        return items, at


class _Step:
    """Members of a struct that are read and written together.

    :ivar layout: of several of fixed size, or None for one of another kind.
    """

    def __init__(self, members: Mapping[str, Codec]) -> None:
        self._members = members
        self.name, self.codec = next(iter(members.items()))
        self._names = itemgetter(*members)
        self._one = len(members) == 1
        fixed = {name: codec for name, codec in members.items() if isinstance(codec, Fixed)}
        self.layout = Layout(">" + "".join(codec.letter for codec in fixed.values())) if fixed else None
        self._dumps = [(at, codec.dump) for at, codec in enumerate(fixed.values()) if codec.dump]

    def encode(self, layout: Layout, value: Any, out: bytearray) -> None:
        """Append those of fixed size."""
        try:
            values = [value[self.name]] if self._one else [*self._names(value)]
            for at, dump in self._dumps:
                values[at] = dump(values[at])
            out += layout.pack(*values)
        except (*_UNFIT, KeyError, XdrError):
            # One by one, to tell which it is.
            for name, codec in self._members.items():
                member(name, codec, value, out)


def member(name: str, codec: Codec, struct: Any, out: bytearray) -> None:
    """Append the member *name* of *struct*."""
    try:
        codec.encode(struct[name], out)
    except XdrError as error:
        raise error.within(name) from None
    except KeyError:
        raise XdrError("it is missing", name) from None


class Struct:
    """Named values in order, as a dict.

    :ivar fields: the type of each, as the table of procedures writes it.
    """

    def __init__(self, fields: Mapping[str, str], codecs: Mapping[str, Codec]) -> None:
        self.fields = fields
        self.names = tuple(codecs)
        self.loads = [
            (at, codec.load)
            for at, codec in enumerate(codecs.values())
            if isinstance(codec, Fixed) and codec.load is not None
        ]
        # Neighbours of fixed size together, all others each by itself.
        groups = groupby(codecs.items(), lambda item: isinstance(item[1], Fixed) or item[0])
        self.steps = [_Step(dict(group)) for _, group in groups]
        self._writers = [(it.name, it.codec.encode, it.layout, it) for it in self.steps]

    def encode(self, value: Any, out: bytearray) -> None:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise XdrError("an object is expected")
        for name, encode, layout, step in self._writers:
            if layout is not None:
                step.encode(layout, value, out)
            elif name not in value:
                raise XdrError("it is missing", name)
            else:
                try:
                    encode(value[name], out)
                except XdrError as error:
                    raise error.within(name) from None
        if len(value) != len(self.names):
            unknown = next((str(name) for name in value if name not in self.fields), "")
            raise XdrError("there is no such member", unknown[:80])

    def decode(self, data: bytes, at: int) -> tuple[dict[str, Any], int]:
        values: list[Any] = []
        for step in self.steps:
            if (layout := step.layout) is not None:
                values += layout.unpack_from(data, at)
                at += layout.size
            else:
                value, at = step.codec.decode(data, at)
                values.append(value)
        for index, load in self.loads:
            values[index] = load(values[index])
        # They are as many, and to ask zip() for it takes longer than all of its work.
        return dict(zip(self.names, values)), at  # noqa: B905  # as many, by construction

    def pack(self, value: Mapping[str, Any]) -> bytes:
        """*value* as the whole of a message's payload.

        :raises XdrError:
        """
        out = bytearray()
        self.encode(value, out)
        return bytes(out)

    def unpack(self, data: bytes) -> dict[str, Any]:
        """Read the whole of a payload.

        :raises XdrError:
        """
        try:
            value, at = self.decode(data, 0)
        except struct_error:
            raise XdrError("it is cut short") from None
        if at != len(data):
            raise XdrError(f"{len(data) - at} bytes are left over")
        return value
