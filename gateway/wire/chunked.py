"""The chunked transfer coding, read strictly.

Extensions and trailers are checked, skipped within a limit and never passed on. Source:
RFC 9112, section 7.1.
"""

from __future__ import annotations

import re
from enum import Enum

from gateway import errors

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_MAX_LINE = 4096
_MAX_TRAILERS = 16 * 1024


class _Part(Enum):
    SIZE = 0
    DATA = 1
    DATA_END = 2
    TRAILERS = 3
    DONE = 4


class ChunkedReader:
    """Takes a chunked body in pieces of any size and gives its bytes.

    :ivar done: the last chunk and its trailers were read.
    :ivar rest: bytes that follow the body.
    """

    def __init__(self) -> None:
        self.rest = b""
        self._part = _Part.SIZE
        self._left = 0
        self._trailers = 0

    @property
    def done(self) -> bool:
        return self._part is _Part.DONE

    def receive(self, data: bytes) -> list[bytes]:
        """Return pieces of the body.

        :raises gateway.errors.BadRequest: when the framing is broken.
        """
        buffer = self.rest + data
        self.rest = b""
        out: list[bytes] = []
        at = 0
        while not self.done:
            if self._part is _Part.DATA:
                piece = buffer[at : at + self._left]
                if not piece:
                    break
                out.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._part = _Part.DATA_END
                continue
            end = buffer.find(b"\n", at, at + _MAX_LINE)
            if end < 0:
                if len(buffer) - at >= _MAX_LINE:
                    raise errors.BadRequest("A line between chunks is too long")
                break
            if end == at or buffer[end - 1 : end] != b"\r":
                raise errors.BadRequest("A line between chunks does not end in CR LF")
            self._line(buffer[at : end - 1])
            at = end + 1
        self.rest = buffer[at:]
        return out

    def _line(self, line: bytes) -> None:
        if self._part is _Part.DATA_END:
            if line:
                raise errors.BadRequest("A chunk is longer than it says")
            self._part = _Part.SIZE
        elif self._part is _Part.SIZE:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise errors.BadRequest("The size of a chunk is malformed")
            self._left = int(match[1], 16)
            self._part = _Part.DATA if self._left else _Part.TRAILERS
        elif not line:
            self._part = _Part.DONE
        else:
            if not _TRAILER.fullmatch(line):
                raise errors.BadRequest("A trailer is malformed")
            self._trailers += len(line)
            if self._trailers > _MAX_TRAILERS:
                raise errors.BadRequest("The trailers are too long")
