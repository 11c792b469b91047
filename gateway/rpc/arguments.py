"""Types of arguments: what AMP has, read strictly, and :class:`Big` for what one value cannot hold.

Every type says how much of a box it may take, so that a box can be bounded while it arrives. Reading raises
ValueError with a text that repeats nothing of what was sent; :mod:`gateway.rpc.command` adds the name.
``Path`` and ``Descriptor`` do not exist here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from twisted.protocols import amp

from gateway import errors
from gateway.wire.amp_box import END, LONGEST_VALUE, Room, head, pack_list, put, unpack_boxes, unpack_list

#: Bytes of a :class:`Big` unless it says otherwise, and at most.
CAP = 4 * 1024 * 1024
HARD_CAP = 32 * 1024 * 1024

_DIGITS = 20
_INTEGER = re.compile(rb"-?[0-9]{1,%d}" % _DIGITS)
_FLOAT = re.compile(rb"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}[+-][0-9]{2}:[0-9]{2}")


class Argument(amp.Argument):
    """What all types have in common.

    :ivar most: bytes of one value.
    """

    def __init__(self, *, optional: bool = False, most: int = LONGEST_VALUE) -> None:
        super().__init__(optional)
        self.most = most

    def room(self, key: bytes) -> Room:
        """Bytes and pairs that this takes of a box at most, as *key*."""
        return 4 + len(key) + self.most, 1

    def read(self, key: bytes, box: dict[bytes, bytes]) -> Any:
        """Take the value of *key* out of *box*; None when it is not there, and need not be.

        :raises ValueError: it is not there, or no good.
        """
        value = box.pop(key, None)
        if value is None:
            if not self.optional:
                raise ValueError("is missing")
            return None
        if len(value) > self.most:
            raise _too_long(key, self.most)
        return self.fromString(value)

    def write(self, key: bytes, value: Any, box: dict[bytes, bytes]) -> None:
        """Put *value* into *box* as *key*; None is left out where it may be.

        :raises ValueError: it is None, or not of this type.
        """
        if value is not None:
            box[key] = self.toString(value)
        elif not self.optional:
            raise ValueError("is missing")

    # For those who use these types with Twisted's own commands.

    def fromBox(self, name: bytes, strings: Any, objects: Any, proto: object) -> None:
        objects[name.decode("ascii")] = self.read(name, strings)

    def toBox(self, name: bytes, strings: Any, objects: Any, proto: object) -> None:
        self.write(name, objects.get(name.decode("ascii")), strings)

    def fromString(self, inString: bytes) -> Any:
        raise NotImplementedError

    def toString(self, inObject: Any) -> bytes:
        raise NotImplementedError


class Unicode(Argument):
    """Text as UTF-8. What a hypervisor names in no UTF-8 is sent with marks in those places."""

    def fromString(self, inString: bytes) -> str:
        try:
            return inString.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("not UTF-8") from None

    def toString(self, inObject: str) -> bytes:
        try:
            return inObject.encode("utf-8")
        except UnicodeEncodeError:
            return inObject.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8")


class Integer(Argument):
    """A whole number in decimal digits, between two bounds."""

    def __init__(self, *, optional: bool = False, least: int = -(2**63), greatest: int = 2**64 - 1) -> None:
        super().__init__(optional=optional, most=24)
        self.least, self.greatest = least, greatest

    def fromString(self, inString: bytes) -> int:
        # Most are digits alone.
        if not (inString.isdigit() and len(inString) <= _DIGITS) and _INTEGER.fullmatch(inString) is None:
            raise ValueError("not a whole number")
        number = int(inString)
        if not self.least <= number <= self.greatest:
            raise ValueError(f"not between {self.least} and {self.greatest}")
        return number

    def toString(self, inObject: int) -> bytes:
        return b"%d" % inObject


class Float(Argument):
    """A finite number."""

    def __init__(self, *, optional: bool = False, least: float = float("-inf")) -> None:
        super().__init__(optional=optional, most=48)
        self.least = least

    def fromString(self, inString: bytes) -> float:
        if _FLOAT.fullmatch(inString) is None or not isfinite(number := float(inString)):
            raise ValueError("not a number")
        if number < self.least:
            raise ValueError(f"less than {self.least:g}")
        return number

    def toString(self, inObject: float) -> bytes:
        if not isfinite(inObject):
            raise ValueError("not a number")
        return repr(float(inObject)).encode("ascii")


class Boolean(Argument):
    """``True`` or ``False``."""

    def __init__(self, *, optional: bool = False) -> None:
        super().__init__(optional=optional, most=8)

    def fromString(self, inString: bytes) -> bool:
        if inString not in (b"True", b"False"):
            raise ValueError("neither True nor False")
        return inString == b"True"

    def toString(self, inObject: bool) -> bytes:
        return b"True" if inObject else b"False"


class DateTime(Argument):
    """A moment, in AMP's form of 32 characters; it is sent, and read, in UTC."""

    def __init__(self, *, optional: bool = False) -> None:
        super().__init__(optional=optional, most=32)

    def fromString(self, inString: bytes) -> datetime:
        if _TIME.fullmatch(inString) is None:
            raise ValueError("not a date and time")
        try:
            return datetime.fromisoformat(inString.decode("ascii")).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError("not a date and time") from None

    def toString(self, inObject: datetime) -> bytes:
        if inObject.tzinfo is None:
            raise ValueError("a time without a zone")
        moment = inObject.astimezone(UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}+00:00".zfill(32).encode("ascii")


class ListOf(Argument):
    """Values of one other type.

    :ivar longest: how many at most.
    """

    def __init__(
        self, element: Argument, *, optional: bool = False, most: int = LONGEST_VALUE, longest: int = 1024
    ) -> None:
        super().__init__(optional=optional, most=most)
        self.element, self.longest = element, longest

    def fromString(self, inString: bytes) -> list[Any]:
        return [self.element.fromString(it) for it in unpack_list(inString, self.longest)]

    def toString(self, inObject: Sequence[Any]) -> bytes:
        return pack_list(self.element.toString(it) for it in inObject)


class Rows(list[Mapping[str, Any]]):
    """Records for an :class:`AmpList`, and what they are as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.packed: list[bytes] = []


class AmpList(Argument):
    """Records: boxes in one value. All of them together have 65,535 bytes, so lists come in pages."""

    #: Records whose bytes are kept, and bytes of the longest: clients ask for the same lists again and again.
    KEPT, SHORT = 4096, 512

    def __init__(self, *, optional: bool = False, most: int = LONGEST_VALUE, **fields: Argument) -> None:
        super().__init__(optional=optional, most=most)
        self.fields = fields
        self._members = {name.encode("ascii"): (name, it.fromString) for name, it in fields.items()}
        self._names = sorted(fields)
        self._heads = [(head(name.encode("ascii")), fields[name]) for name in self._names]
        self._keeps = not any(isinstance(it, ListOf) for it in fields.values())
        self._kept: dict[tuple[Any, ...], bytes] = {}

    def fromString(self, inString: bytes) -> list[dict[str, Any]]:
        records = unpack_boxes(inString, self._members)
        for record in records:
            if len(record) < len(self.fields):
                for name, it in self.fields.items():
                    if record.setdefault(name) is None and not it.optional:
                        raise ValueError("a member is missing")
        return records

    def toString(self, inObject: Sequence[Mapping[str, Any]]) -> bytes:
        data = b"".join(inObject.packed if isinstance(inObject, Rows) else map(self._record, inObject))
        if len(data) > LONGEST_VALUE:
            raise errors.TooLarge("There are too many for one answer", limit=LONGEST_VALUE)
        return data

    def _record(self, record: Mapping[str, Any]) -> bytes:
        values = tuple([record[name] for name in self._names])
        if not self._keeps:
            return self._packed(values)
        packed = self._kept.get(values)
        if packed is None:
            packed = self._packed(values)
            if len(self._kept) >= self.KEPT:
                self._kept.clear()
            if len(packed) <= self.SHORT:
                self._kept[values] = packed
        return packed

    def _packed(self, values: Sequence[Any]) -> bytes:
        parts: list[bytes] = []
        for (key, it), value in zip(self._heads, values, strict=True):
            if value is not None:
                put(parts, key, it.toString(value))
            elif not it.optional:
                raise ValueError("is missing")
        parts.append(END)
        return b"".join(parts)

    def fit(self, records: Sequence[Mapping[str, Any]], limit: int | None = None) -> int:
        """How many of *records*, from the first, make a page: at most *limit*, and what a value can hold.

        At least one, if there are any.
        """
        return len(self.page(records, limit))

    def page(self, records: Sequence[Mapping[str, Any]], limit: int | None = None) -> Rows:
        """As many of *records* as :meth:`fit` says."""
        page, size = Rows(), 0
        for record in records[:limit]:
            packed = self._record(record)
            size += len(packed)
            if size > LONGEST_VALUE and page:
                break
            page.append(record)
            page.packed.append(packed)
        return page


class Big(Argument):
    """Text, or bytes, in parts: ``xml``, ``xml.1``, ``xml.2`` and so on in the same box.

    Text that is no UTF-8 is read as libvirt's is: what does not fit becomes half a character each.

    :ivar most: bytes in all, :data:`HARD_CAP` at most.
    :param text: whether it is str, or bytes.
    """

    def __init__(self, *, optional: bool = False, cap: int = CAP, text: bool = True) -> None:
        if not 0 < cap <= HARD_CAP:
            raise ValueError(f"at most {HARD_CAP} bytes")
        super().__init__(optional=optional, most=cap)
        self.text = text

    def room(self, key: bytes) -> Room:
        # Whoever cuts it may take parts half as long.
        pairs = 2 * -(-self.most // LONGEST_VALUE)
        digits = sum(1 + len(str(number)) for number in range(1, pairs))
        return self.most + pairs * (4 + len(key)) + digits, pairs

    def read(self, key: bytes, box: dict[bytes, bytes]) -> str | bytes | None:
        parts: list[bytes] = []
        name = key
        while (part := box.pop(name, None)) is not None:
            parts.append(part)
            name = b"%s.%d" % (key, len(parts))
        if any(it.startswith(key + b".") for it in box):
            raise ValueError("its parts do not follow each other")
        if not parts:
            if not self.optional:
                raise ValueError("is missing")
            return None
        size = sum(map(len, parts))
        if size > self.most:
            raise _too_long(key, self.most)
        data = b"".join(parts)
        return data.decode("utf-8", "surrogateescape") if self.text else data

    def write(self, key: bytes, value: str | bytes | None, box: dict[bytes, bytes]) -> None:
        if value is None:
            if not self.optional:
                raise ValueError("is missing")
            return
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        if len(data) > self.most:
            raise _too_long(key, self.most)
        box[key] = data[:LONGEST_VALUE]
        for number, at in enumerate(range(LONGEST_VALUE, len(data), LONGEST_VALUE), 1):
            box[b"%s.%d" % (key, number)] = data[at : at + LONGEST_VALUE]


def _too_long(key: bytes, limit: int) -> errors.TooLarge:
    return errors.TooLarge(f"{key.decode('ascii')}: too long", limit=limit)


# What many commands have.

#: Something's name, or a handle or cookie.
WORD = Unicode(most=4096)
WORD_OR_NONE = Unicode(most=4096, optional=True)
#: Flags of libvirt's.
FLAGS = Integer(optional=True, least=0, greatest=2**32 - 1)
#: How many things a page may have.
LIMIT = Integer(optional=True, least=1, greatest=10_000)
#: What is told once of a write that may be asked for twice.
REQUEST = Unicode(most=256, optional=True)
SIZE = Integer(least=0)
COUNT = Integer()
TEXT = Unicode()
TIME = DateTime()
#: JSON, and XML, in an answer.
JSON = Big(cap=HARD_CAP)
XML = Big(cap=HARD_CAP)
