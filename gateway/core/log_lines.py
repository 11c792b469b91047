"""What is written of an event: its text, its traceback, its fields as JSON; all of it clean and bounded.

A field may be an object that shows a secret when a format asks it; so formats meet clean stand-ins only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from math import isfinite
from typing import Any

from twisted.logger import formatEvent
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr, safe_str

from gateway.core.masking import FIELD, clean, clean_field, escape, mask

#: Characters of a whole line, and of what another library said in one.
_LINE = 4096
_TRACEBACK = 1 << 16
_DEPTH = 4
_MEMBERS = 32

_TEXT = (str, bytes)
_NUMBERS = (int, float)
_MOST = 1 << 63
_SIMPLE = re.compile(r"(?:[^{}]|\{[a-z]+(?::[^{}]*+)?\})*+", re.ASCII)
_NAME = re.compile(r"\{([a-z]+)", re.ASCII)

clean_name = lru_cache(maxsize=512)(clean)
encode = json.JSONEncoder(ensure_ascii=False).encode


class _Shown:
    """An object inside of a format: whatever the format takes of it comes out clean."""

    def __init__(self, value: object, limit: int) -> None:
        self._value = value
        self._limit = limit

    def __str__(self) -> str:
        return clean(safe_str(self._value), self._limit)

    def __repr__(self) -> str:
        return clean(safe_repr(self._value), self._limit)

    def __format__(self, spec: str) -> str:
        return clean(format(self._value, spec) if spec else safe_str(self._value), self._limit)

    def __getattr__(self, name: str) -> object:
        return _formatted(name, getattr(self._value, name))

    def __getitem__(self, key: Any) -> object:
        return _formatted(str(key), self._value[key])  # type: ignore[index]  # only for mappings

    def __call__(self) -> object:
        return _formatted("", self._value())  # type: ignore[operator]  # only for callables


def _formatted(name: str, value: object) -> object:
    """*value* of the field *name*, for use in a format."""
    if value is None or isinstance(value, _NUMBERS):
        return value
    limit = _LINE if name in ("log_legacy", "log_python") else FIELD
    if isinstance(value, _TEXT):
        return clean_field(name, value, limit)
    if clean_field(name, "") != "":  # the name says secret, whatever it is
        return clean_field(name, safe_repr(value))
    return _Shown(value, limit)


def plain(name: str, value: object, depth: int = _DEPTH) -> object:
    """*value* of the field *name* as JSON can have it, clean."""
    if isinstance(value, _TEXT):
        return clean_field(name, value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return int(value)
    if isinstance(value, float) and isfinite(value):
        return float(value)
    if depth and clean_field(name, "") == "":
        if isinstance(value, Mapping):
            few = [(safe_str(key), member) for key, member in islice(value.items(), _MEMBERS)]
            return {clean_name(key): plain(key, member, depth - 1) for key, member in few}
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(name, member, depth - 1) for member in list(value)[:_MEMBERS]]
    return clean_field(name, hex(value) if isinstance(value, int) else safe_repr(value))


def members(fields: Mapping[str, object]) -> str:
    """*fields* as members of a JSON object, without its braces, clean as of :func:`plain`."""
    return ", ".join([_member(name, value) for name, value in islice(fields.items(), _MEMBERS)])


def _member(name: object, value: object) -> str:
    """One member of a JSON object, as :func:`plain` has it; most were in one before."""
    if (type(value) is int or type(value) is float) and -_MOST < value < _MOST:
        return f"{_key(name)}{value!r}"
    if isinstance(value, str) and len(value) <= FIELD:
        return _usual(name, value)
    return _key(name) + encode(plain(safe_str(name), value, _DEPTH - 1))


@lru_cache(maxsize=64)
def _key(name: object) -> str:
    return f"{encode(clean(safe_str(name)))}: "


@lru_cache(maxsize=1024)
def _usual(name: object, value: str) -> str:
    return _key(name) + encode(clean_field(safe_str(name), value))


def text_of(event: Mapping[str, Any]) -> str:
    """What the event says, on one line."""
    if event.get("log_legacy") is not None and event.get("log_failure") is not None:
        return clean(safe_str(event.get("why") or "Unhandled Error"), _LINE)  # its text is the traceback
    wanted = safe_str(event.get("log_format") or "")
    simple = _simple_names(wanted)
    if simple is not None:
        with suppress(KeyError, ValueError, TypeError):
            return clean(wanted.format_map({key: _formatted(key, event[key]) for key in simple}), _LINE)
    # A name that does not stand in the format is no part of the text.
    names = [key for key in event if key in wanted and not _is_kept(key)]
    fields = {key: _formatted(key, event[key]) for key in names}
    kept = {key: value for key, value in event.items() if key in ("log_format", "log_level")}
    return clean(formatEvent(fields | kept), _LINE)


@lru_cache(maxsize=256)
def _simple_names(wanted: str) -> frozenset[str] | None:
    """The fields of *wanted* if none is a call: Python formats it as Twisted does, at a tenth of the cost."""
    return frozenset(_NAME.findall(wanted)) if _SIMPLE.fullmatch(wanted) else None


def _is_kept(key: str) -> bool:
    """Whether the log itself, not a format, needs the value of *key*."""
    return key in ("log_format", "log_flattened", "log_failure", "log_level", "log_logger")


def traceback_of(event: Mapping[str, Any]) -> str:
    """Frames without local values, masked."""
    failure = event.get("log_failure")
    if not isinstance(failure, Failure):
        return ""
    text = failure.getTraceback(detail="default")
    if len(text) > _TRACEBACK:  # the end says what happened; the word at the cut may be half a secret
        text = "…\n" + text[-_TRACEBACK:].partition("\n")[2]
    return "\n".join(escape(line) for line in mask(text).rstrip().split("\n"))
