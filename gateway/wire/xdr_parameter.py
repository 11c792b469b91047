"""Typed parameters, which statistics come as. Source: libvirt, remote_typed_param."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.wire.xdr import Codec, Fixed, Text, XdrError, length_at, member, pack_length


def _boolean(value: Any) -> bool:
    if value in (0, 1):
        return bool(value)
    raise XdrError("true or false is expected")


class Parameter:
    """A typed parameter: ``{"field", "type", "value"}``."""

    TYPES = ("int", "uint", "llong", "ullong", "double", "boolean", "string")

    def __init__(self) -> None:
        text = Text()
        self._text = text
        numbers = [Fixed(layout) for layout in "iIqQd"]
        values: tuple[Codec, ...] = (*numbers, Fixed("i", _boolean, _boolean), text)
        self._kinds = {name: (values[at], pack_length(at + 1)) for at, name in enumerate(self.TYPES)}
        self._codecs = dict(enumerate(zip(self.TYPES, values, strict=True), 1))

    def encode(self, value: Any, out: bytearray) -> None:
        if not isinstance(value, dict | Mapping) or value.keys() != {"field", "type", "value"}:
            raise XdrError("an object of field, type and value is expected")
        kind = value["type"]
        if not isinstance(kind, str) or kind not in self._kinds:
            raise XdrError(f"one of {', '.join(self.TYPES)} is expected", "type")
        codec, number = self._kinds[kind]
        member("field", self._text, value, out)
        out += number
        member("value", codec, value, out)

    def decode(self, data: bytes, at: int) -> tuple[dict[str, Any], int]:
        field, at = self._text.decode(data, at)
        (number,) = length_at(data, at)
        if number not in self._codecs:
            raise XdrError("a parameter has one of the types")
        kind, codec = self._codecs[number]
        value, at = codec.decode(data, at + 4)
        return {"field": field, "type": kind, "value": value}, at
