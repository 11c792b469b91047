"""External data representation: values and the bytes that libvirt makes of them.

A codec writes a value to the end of a buffer and reads one from a place in one. Reading is strict: lengths
within their bounds, padding of zeroes, unions of 0 or 1, no NUL in a text, so that nobody behind us reads
something else. Source: RFC 4506; libvirt's ``char``, ``unsigned char`` and ``short`` take four bytes each
(xdr_char and its like).
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from struct import Struct as Layout
from struct import error as struct_error
from typing import Any, Protocol

#: Bytes of the longest text. Source: libvirt, REMOTE_STRING_MAX.
STRING = 4_194_304
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_LENGTH = Layout(">I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class XdrError(ValueError):
    """A value that has no such bytes, or bytes that are no such value.

    :ivar path: which one, such as ``params.3.value``; empty for the whole.
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


def _length(data: bytes, at: int, most: int) -> tuple[int, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    if length > most:
        raise XdrError(f"{length} is more than the {most} that there may be")
    return length, at + 4


def _part(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    """*length* bytes and their padding."""
    end = at + length
    padding = _PADDING[length & 3]
    after = end + len(padding)
    if after > len(data):
        raise XdrError("it is cut short")
    if padding and data[end:after] != padding:
        raise XdrError("the padding is not zero")
    return data[at:end], after


class Scalar:
    """A number of fixed size.

    :param layout: as :mod:`struct` has it.
    :param low: the least value; *high* the greatest. Without them what *layout* holds.
    """

    def __init__(self, layout: str, low: int | None = None, high: int | None = None) -> None:
        self._layout = Layout(layout)
        self._low = low
        self._high = high

    def encode(self, value: Any, out: bytearray) -> None:
        try:
            out += self._layout.pack(value)
        except struct_error:
            raise XdrError("a number of this size is expected") from None
        self._check(value)

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        (value,) = self._layout.unpack_from(data, at)
        self._check(value)
        return value, at + self._layout.size

    def _check(self, value: Any) -> None:
        if self._low is not None and self._high is not None and not self._low <= value <= self._high:
            raise XdrError(f"{self._low} to {self._high} is expected")


class Text:
    """UTF-8; bytes that are none survive as lone surrogates."""

    def __init__(self, most: int = STRING) -> None:
        self._most = most

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, str):
            raise XdrError("a text is expected")
        try:
            data = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise XdrError("a text of Unicode characters is expected") from None
        if len(data) > self._most:
            raise XdrError(f"{len(data)} bytes are more than the {self._most} that there may be")
        if 0 in data:
            raise XdrError("a text holds no NUL")
        out += _LENGTH.pack(len(data))
        out += data
        out += _PADDING[len(data) & 3]

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        length, at = _length(data, at, self._most)
        part, at = _part(data, at, length)
        if 0 in part:
            raise XdrError("a text holds no NUL")
        return str(part, "utf-8", "surrogateescape"), at


class Opaque:
    """Bytes; in JSON, and therefore when encoding a text, they are base64."""

    def __init__(self, most: int) -> None:
        self._most = most

    def encode(self, value: Any, out: bytearray) -> None:
        data = octets(value)
        if len(data) > self._most:
            raise XdrError(f"{len(data)} bytes are more than the {self._most} that there may be")
        out += _LENGTH.pack(len(data))
        out += data
        out += _PADDING[len(data) & 3]

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        length, at = _length(data, at, self._most)
        return _part(data, at, length)


class Uuid:
    """Sixteen bytes, and the text with hyphens that people know them by."""

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, str) or _UUID.fullmatch(value) is None:
            raise XdrError("a uuid of 36 characters is expected")
        out += bytes.fromhex(value.replace("-", ""))

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        text = data[at : at + 16].hex()
        if len(text) != 32:
            raise XdrError("it is cut short")
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}", at + 16


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
            out += _LENGTH.pack(len(data))
        wide = bytearray(4 * len(data))
        wide[3::4] = data
        if not data.isascii():
            for place in (0, 1, 2):  # characters are signed
                wide[place::4] = bytes(255 if octet > 127 else 0 for octet in data)
        out += wide

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        length = self._most
        if not self._fixed:
            length, at = _length(data, at, self._most)
        end = at + 4 * length
        if end > len(data):
            raise XdrError("it is cut short")
        return data[at + 3 : end : 4], end


class Optional:
    """A value or none."""

    def __init__(self, inner: Codec) -> None:
        self._inner = inner

    def encode(self, value: Any, out: bytearray) -> None:
        out += _LENGTH.pack(value is not None)
        if value is not None:
            self._inner.encode(value, out)

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        there, at = _length(data, at, 1)
        return self._inner.decode(data, at) if there else (None, at)


class Array:
    """A number of values."""

    def __init__(self, inner: Codec, most: int) -> None:
        self._inner = inner
        self._most = most

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, list | tuple):
            raise XdrError("a list is expected")
        if len(value) > self._most:
            raise XdrError(f"{len(value)} are more than the {self._most} that there may be")
        out += _LENGTH.pack(len(value))
        for index, item in enumerate(value):
            try:
                self._inner.encode(item, out)
            except XdrError as error:
                raise error.within(index) from None

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        count, at = _length(data, at, self._most)
        decode, items = self._inner.decode, []
        for _ in range(count):
            item, at = decode(data, at)
            items.append(item)
        return items, at


class Struct:
    """Named values in order, as a dict.

    :ivar fields: the type of each, as the table of procedures writes it.
    """

    def __init__(self, fields: Mapping[str, str], codecs: Mapping[str, Codec]) -> None:
        self.fields = fields
        self._codecs = tuple(codecs.items())

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, Mapping):
            raise XdrError("an object is expected")
        for name, codec in self._codecs:
            try:
                codec.encode(value[name], out)
            except XdrError as error:
                raise error.within(name) from None
            except KeyError:
                raise XdrError("it is missing", name) from None
        if len(value) != len(self._codecs):
            unknown = next(str(name) for name in value if name not in self.fields)
            raise XdrError("there is no such member", unknown[:80])

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        values = {}
        for name, codec in self._codecs:
            values[name], at = codec.decode(data, at)
        return values, at

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
        return dict(value)


class Parameter:
    """A typed parameter: ``{"field", "type", "value"}``. Source: libvirt, remote_typed_param."""

    TYPES = ("int", "uint", "llong", "ullong", "double", "boolean", "string")

    def __init__(self) -> None:
        self._text = Text()
        numbers = [Scalar(layout) for layout in (">i", ">I", ">q", ">Q", ">d", ">i")]
        self._values: tuple[Codec, ...] = (*numbers, self._text)

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, Mapping) or value.keys() != {"field", "type", "value"}:
            raise XdrError("an object of field, type and value is expected")
        if value["type"] not in self.TYPES:
            raise XdrError(f"one of {', '.join(self.TYPES)} is expected", "type")
        kind = self.TYPES.index(value["type"])
        for name, codec in (("field", self._text), ("value", self._values[kind])):
            try:
                codec.encode(value[name], out)
            except XdrError as error:
                raise error.within(name) from None
            if name == "field":
                out += _LENGTH.pack(kind + 1)

    def decode(self, data: bytes, at: int) -> tuple[Any, int]:
        name, at = self._text.decode(data, at)
        kind, at = _length(data, at, len(self._values))
        if not kind:
            raise XdrError("a parameter has a type")
        value, at = self._values[kind - 1].decode(data, at)
        kind_name = self.TYPES[kind - 1]
        return {"field": name, "type": kind_name, "value": bool(value) if kind == 6 else value}, at


def octets(value: Any) -> bytes:
    """*value* as bytes; a text is base64.

    :raises XdrError:
    """
    if isinstance(value, bytes):
        return value
    try:
        return b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise XdrError("base64 is expected") from None
