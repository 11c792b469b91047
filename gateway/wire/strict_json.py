"""JSON from peers, with one reading only.

Source: RFC 8259, section 4 (member names SHOULD be unique) and section 9 (a parser may set limits).
What :mod:`json` would let pass and two programs might read in two ways is refused: repeated members,
``NaN`` and ``Infinity``, numbers beyond a double or beyond 64 bits, lone surrogates, a byte order mark.
"""

from __future__ import annotations

import json
from math import isinf
from typing import NoReturn

#: What one text may cost: bytes, and levels of arrays and objects.
LIMIT = 64 * 1024
DEPTH = 16

_INT_DIGITS = 20  # and a sign: what fits in 64 bits, roughly
_FLOAT_CHARACTERS = 64


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _INT_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _real(digits: str) -> float:
    if len(digits) > _FLOAT_CHARACTERS:
        raise ValueError("a number is too long")
    number = float(digits)
    if isinf(number):
        raise ValueError("a number is too large")
    return number


def _constant(_word: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_real, parse_constant=_constant
)


def loads(text: str | bytes, *, limit: int = LIMIT, depth: int = DEPTH) -> object:
    """The value *text* stands for.

    :param limit: bytes of UTF-8 at most, looked at before anything else.
    :param depth: arrays and objects within each other at most; a bare string has depth 0.
    :raises ValueError: with a short text that repeats nothing of the input.
    """
    if len(text) > limit:
        raise ValueError("the JSON text is too long")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        elif len(text.encode("utf-8")) > limit:
            raise ValueError("the JSON text is too long")
    except UnicodeError:
        raise ValueError("the JSON text is not UTF-8") from None
    try:
        value: object = _decoder.decode(text)
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("the JSON text is nested too deeply") from None
    _walk(value, depth)
    return value


def load_object(text: str | bytes, *, limit: int = LIMIT, depth: int = DEPTH) -> dict[str, object]:
    """Like :func:`loads`, for a text that must be an object.

    :raises ValueError: as :func:`loads` does, and for any other value.
    """
    value = loads(text, limit=limit, depth=depth)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _walk(value: object, depth: int) -> None:
    """Refuse deep nesting and lone surrogates (``"\\ud800"`` is JSON, and no text)."""
    level: list[object] = [value]
    while level:
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                    raise ValueError("a string holds half a character")
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item.keys()
                below += item.values()
            else:
                continue
            if depth <= 0 and not isinstance(item, str):
                raise ValueError("the JSON text is nested too deeply")
        level, depth = below, depth - 1
