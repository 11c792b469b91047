"""asciicast v2: what a terminal showed, line by line, each of which knows when it came.

The first line is an object; the others are arrays of seconds since the beginning, a code and a text. Here the
code is always ``o``, output: what was typed may be a password, and is not recorded. Files are plain ASCII,
so that nobody's terminal obeys one that is looked at. A recording that was broken off is good up to its
last whole line.

Source: asciinema, "asciicast file format (version 2)".
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen

from gateway.wire.strict_json import load_object, loads

WIDTH: Final = 80
HEIGHT: Final = 24
#: Bytes that one event holds; each may become six characters.
MAX_PIECE: Final = 16 * 1024
#: Bytes of a line.
MAX_LINE: Final = 128 * 1024
#: Codes of events: output, input, marker, resize.
CODES: Final = frozenset("oimr")
#: Characters of a terminal's side, and seconds since the epoch.
_LARGEST: Final = 65535
_LATEST: Final = 2**53
_UTF8: Final = codecs.getincrementaldecoder("utf-8")


@frozen
class Header:
    """The first line.

    :ivar width: of the terminal, in characters, as is *height*.
    :ivar timestamp: seconds since the epoch, None when nobody has said.
    """

    width: int
    height: int
    timestamp: int | None = None


@frozen
class Event:
    """One of the other lines.

    :ivar seconds: since the beginning.
    """

    seconds: float
    code: str
    text: str


@define
class AsciicastWriter:
    """Makes the bytes of a file, out of bytes that are UTF-8 or nearly so.

    :cvar suffix: of the file's name.
    :param timestamp: seconds since the epoch at which it begins.
    """

    suffix = "cast"
    timestamp: int
    _latest: float = field(default=0.0, init=False)
    _decoder: codecs.IncrementalDecoder = field(factory=lambda: _UTF8("replace"), init=False)

    def begin(self) -> bytes:
        """What the file begins with."""
        return _line({"version": 2, "width": WIDTH, "height": HEIGHT, "timestamp": self.timestamp})

    def write(self, seconds: float, data: bytes) -> list[bytes]:
        """The lines that hold *data*, which came *seconds* after the beginning.

        A character of which only the beginning is there is part of the next.
        """
        self._latest = max(self._latest, round(seconds, 6))
        pieces = (data[at : at + MAX_PIECE] for at in range(0, len(data), MAX_PIECE))
        return self._lines([self._decoder.decode(piece) for piece in pieces])

    def end(self) -> list[bytes]:
        """What is left to be written."""
        return self._lines([self._decoder.decode(b"", True)])

    def _lines(self, texts: list[str]) -> list[bytes]:
        return [_line([self._latest, "o", text]) for text in texts if text]


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(", ", ": ")).encode("ascii") + b"\n"


@define
class AsciicastReader:
    """Reads a file.

    :ivar header: None until it was read.
    :ivar whole: nothing is held: the file may end here.
    """

    header: Header | None = field(default=None, init=False)
    _held: bytearray = field(factory=bytearray, init=False)
    _latest: float = field(default=0.0, init=False)

    @property
    def whole(self) -> bool:
        return self.header is not None and not self._held

    def receive(self, data: bytes) -> list[Event]:
        """Consume *data*, in pieces of any size.

        :raises ValueError: it is no such file; nothing that follows counts.
        """
        self._held += data
        events: list[Event] = []
        at = 0
        while (end := self._held.find(b"\n", at, at + MAX_LINE)) >= 0:
            line = bytes(self._held[at:end])
            at = end + 1
            if self.header is None:
                self.header = _header(line)
            else:
                events.append(self._event(line))
        del self._held[:at]
        if len(self._held) >= MAX_LINE:
            raise ValueError("a line is too long")
        return events

    def _event(self, line: bytes) -> Event:
        found = loads(line, limit=MAX_LINE, depth=1)
        if not isinstance(found, list) or len(found) != 3:
            raise ValueError("a line is no event")
        seconds, code, text = found
        if not isinstance(code, str) or not isinstance(text, str):
            raise ValueError("a line is no event")
        if code not in CODES:
            raise ValueError("nobody knows such an event")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < self._latest:
            raise ValueError("time runs backwards")
        self._latest = float(seconds)
        return Event(self._latest, code, text)


def _header(line: bytes) -> Header:
    members = load_object(line, limit=MAX_LINE)
    if _whole(members, "version", 2) != 2:
        raise ValueError("it is no asciicast of version 2")
    return Header(
        _whole(members, "width", _LARGEST),
        _whole(members, "height", _LARGEST),
        _whole(members, "timestamp", _LATEST) if "timestamp" in members else None,
    )


def _whole(members: Mapping[str, object], name: str, most: int) -> int:
    value = members.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise ValueError(f"its {name} makes no sense")
    return value
