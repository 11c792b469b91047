"""Words of the configuration that mean a number: durations, sizes, counts, and ``off``.

Each ``parse_…`` turns the text of one value into a number in base units (seconds, bytes) and raises
ValueError with a sentence that says what would be right; each ``show_…`` is its inverse. The annotated
types join both for pydantic. Zero never means unlimited: the words ``off`` and ``unlimited`` do, where
a type allows them, and become None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_FLAGS = {
    "yes": True,
    "true": True,
    "on": True,
    "1": True,
    "no": False,
    "false": False,
    "off": False,
    "0": False,
}
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d)?")
_SIZE = re.compile(r"([0-9]{1,19}) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,12}")
_RATIO = re.compile(r"[0-9](?:\.[0-9]{1,9})?")


def parse_seconds(text: str) -> float:
    """Seconds of ``250ms 90s 15m 1h 28d``; a plain number is seconds.

    :raises ValueError: for anything else.
    """
    if (match := _DURATION.fullmatch(text)) is None:
        raise ValueError("a duration such as 250ms, 90s, 15m, 1h or 28d")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def parse_bytes(text: str) -> int:
    """Bytes of ``64K 8M 2G 1T``, powers of 1024; a plain number is bytes.

    :raises ValueError: for anything else.
    """
    if (match := _SIZE.fullmatch(text)) is None:
        raise ValueError("a size such as 512, 64K, 8M, 2G or 1T")
    return int(match[1]) * _BYTES.get(match[2].upper(), 1)


def parse_count(text: str) -> int:
    """A whole number of at least 1.

    :raises ValueError: for anything else.
    """
    if _COUNT.fullmatch(text) is None or int(text) < 1:
        raise ValueError("a whole number of at least 1")
    return int(text)


def parse_flag(text: str) -> bool:
    """The truth of ``yes no true false on off 1 0``.

    :raises ValueError: for anything else.
    """
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise ValueError("yes or no") from None


def parse_ratio(text: str) -> float:
    """A number between 0 and 1.

    :raises ValueError: for anything else.
    """
    if _RATIO.fullmatch(text) is None or float(text) > 1:
        raise ValueError("a number between 0 and 1, such as 0.5")
    return float(text)


def show_seconds(value: float) -> str:
    """The shortest text that :func:`parse_seconds` reads back, to the microsecond."""
    if value and value % 1:
        return f"{value:.6f}".rstrip("0").rstrip(".") + "s" if value * 1000 % 1 else f"{value * 1000:.0f}ms"
    for unit in ("d", "h", "m"):
        if value and value % _SECONDS[unit] == 0:
            return f"{value / _SECONDS[unit]:.0f}{unit}"
    return f"{value:.0f}s"


def show_bytes(value: int) -> str:
    """The shortest text that :func:`parse_bytes` reads back."""
    for unit in "TGMK":
        if value and value % _BYTES[unit] == 0:
            return f"{value // _BYTES[unit]}{unit}"
    return str(value)


def show_flag(value: bool) -> str:
    """``yes`` or ``no``."""
    return "yes" if value else "no"


def _read(parse: Callable[[str], object], *, positive: bool = False, word: str = "") -> BeforeValidator:
    """Let pydantic read text through *parse*; what is no text came from Python and passes.

    :param positive: refuse zero.
    :param word: the one word that stands for None.
    """

    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        if word and value.lower() == word:
            return None
        try:
            result = parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or {word}" if word else str(error)) from None
        if positive and not result:
            raise ValueError("more than zero" + (f"; without a limit it is the word {word}" if word else ""))
        return result

    return BeforeValidator(read)


def _write(show: Callable[[Any], str], word: str = "") -> PlainSerializer:
    def write(value: object) -> str:
        return word if value is None else show(value)

    return PlainSerializer(write, when_used="json")


Seconds = Annotated[float, _read(parse_seconds, positive=True), _write(show_seconds)]
#: Seconds where zero has its own good meaning, such as no tolerance at all.
SecondsOrZero = Annotated[float, _read(parse_seconds), _write(show_seconds)]
SecondsOrOff = Annotated[
    float | None, _read(parse_seconds, positive=True, word="off"), _write(show_seconds, "off")
]
Bytes = Annotated[int, _read(parse_bytes, positive=True), _write(show_bytes)]
BytesOrUnlimited = Annotated[
    int | None, _read(parse_bytes, positive=True, word="unlimited"), _write(show_bytes, "unlimited")
]
Count = Annotated[int, _read(parse_count)]
CountOrUnlimited = Annotated[int | None, _read(parse_count, word="unlimited"), _write(str, "unlimited")]
Flag = Annotated[bool, _read(parse_flag), _write(show_flag)]
Ratio = Annotated[float, _read(parse_ratio)]
