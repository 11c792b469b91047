"""JSON of large results, written a little at a time so that others have their turn in between."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

#: Items of a list that are written at once, and how often that is done in one turn of the reactor.
_SLICE, _TURN = 64, 16


async def dump(value: Any, clock: IReactorTime) -> str:
    """*value* as JSON, bytes as base64."""
    parts: list[str] = []
    for piece in _pieces(value):
        parts.append(piece)
        if not len(parts) % _TURN:
            await deferLater(clock, 0)
    return "".join(parts)


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and any(map(_is_long, value.values())):
        for number, (name, part) in enumerate(value.items()):
            yield f"{', ' if number else '{'}{json.dumps(name)}: "
            yield from _pieces(part)
        yield "}"
    elif (
        _is_long(value)
        and isinstance(value[0], dict)
        and any(isinstance(it, list) for it in value[0].values())
    ):
        for number, part in enumerate(value):
            yield ", " if number else "["
            yield from _pieces(part)
        yield "]"
    elif _is_long(value) and len(value) > _SLICE:
        for at in range(0, len(value), _SLICE):
            yield (", " if at else "[") + json.dumps(value[at : at + _SLICE], default=_base64)[1:-1]
        yield "]"
    else:
        yield json.dumps(value, default=_base64)


def _is_long(value: Any) -> bool:
    """Whether it is a list that may be worth the trouble."""
    return isinstance(value, list) and bool(value)


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")
