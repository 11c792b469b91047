"""Values of any type of libvirt's table, made by hypothesis from the text of the type."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from hypothesis import strategies as st

from gateway.wire.libvirt_schema import record
from gateway.wire.xdr import Struct
from gateway.wire.xdr_parameter import Parameter

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9) | st.binary(
    max_size=9
).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
_NUMBERS = {
    "i32": st.integers(-(2**31), 2**31 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "u64": st.integers(0, 2**64 - 1),
}
_DOUBLE = st.floats(allow_nan=False)
_KINDS = dict(zip(Parameter.TYPES, [*_NUMBERS.values(), _DOUBLE, st.booleans(), _TEXT], strict=True))
_PARAMETER: st.SearchStrategy[dict[str, Any]] = st.one_of(
    *(
        st.fixed_dictionaries({"field": _TEXT, "type": st.just(kind), "value": value})
        for kind, value in _KINDS.items()
    )
)
_SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    **_NUMBERS,
    "char": st.integers(-128, 127),
    "uchar": st.integers(0, 255),
    "ushort": st.integers(0, 65535),
    "AuthType": _NUMBERS["i32"],
    "str": _TEXT,
    "uuid": st.uuids().map(str),
    "TP": _PARAMETER,
}


@cache
def values(text: str) -> st.SearchStrategy[Any]:
    """Values of the type called *text*."""
    parts = re.fullmatch(r"(\{?\w+\}?)(\?|<=(\d+)|\[(\d+)\])?", text)
    assert parts is not None, text
    base, suffix, most, exact = parts.groups()
    if base == "opaque":
        return st.binary(max_size=min(int(most), 9))
    if base == "char" and suffix:
        return st.binary(min_size=int(exact or 0), max_size=int(exact or min(int(most), 9)))
    inner = _SIMPLE[base] if base in _SIMPLE else structs(record(base))
    if suffix == "?":
        return st.none() | inner
    return st.lists(inner, max_size=min(int(most), 3)) if most else inner


def structs(struct: Struct) -> st.SearchStrategy[dict[str, Any]]:
    """Values of a whole struct."""
    return st.fixed_dictionaries({name: values(text) for name, text in struct.fields.items()})
