"""Byte ranges: the ``Range`` and ``Content-Range`` fields, and sets of what was transferred.

One range in each field, ``bytes`` in lower case, no blanks: what could be read in two ways would
put data at the wrong place of an image. :class:`RangeSet` counts the bytes of a transfer once,
however often and in whatever order they came.
Source: RFC 9110, sections 14.1.2, 14.2 and 14.4, as narrowed by ovirt-imageio 2.5.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

from attrs import define, field, frozen

from gateway import errors

#: 2**64 has 20 digits; a longer number is nonsense.
_RANGE = re.compile(r"bytes=(?:([0-9]{1,20})-([0-9]{1,20})?|-([0-9]{1,20}))")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,20})-([0-9]{1,20}|\*)/([0-9]{1,20}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,20})")


@frozen
class Range:
    """What a client asks for: from *start* to *last*, from *start* on, or the last *suffix* bytes.

    :ivar last: position of the last byte, inclusive.
    :ivar suffix: set when and only when *start* is None.
    """

    start: int | None
    last: int | None = None
    suffix: int | None = None

    def __str__(self) -> str:
        if self.suffix is not None:
            return f"bytes=-{self.suffix}"
        return f"bytes={self.start}-{'' if self.last is None else self.last}"

    def resolve(self, size: int) -> tuple[int, int]:
        """Return the half-open interval this means in *size* bytes; it is never empty.

        A last byte beyond the end is refused rather than cut, as imageio does: a client that asks
        for more than there is has the wrong idea of the image. A suffix may exceed the size.

        :raises RangeNotSatisfiable:
        """
        if self.suffix is not None:
            start, stop = max(0, size - self.suffix), size
        else:
            start = self.start or 0
            stop = size if self.last is None else self.last + 1
        if not start < stop <= size:
            raise errors.RangeNotSatisfiable(available=size)
        return start, stop


def parse_range(value: str) -> Range:
    """Read the value of ``Range``.

    :raises RangeNotSatisfiable: for several ranges, reversed ones, other units and syntax; never
        ignored, for the whole image instead of a part of it corrupts the client's copy.
    """
    match = _RANGE.fullmatch(value)
    if match is None:
        raise errors.RangeNotSatisfiable("Cannot satisfy range, invalid range or multiple ranges")
    start, last, suffix = (None if text is None else int(text) for text in match.groups())
    if start is not None and last is not None and last < start:
        raise errors.RangeNotSatisfiable("Cannot satisfy range, first > last")
    return Range(start, last, suffix)


@frozen
class ContentRange:
    """Where the bytes of a message belong.

    :ivar last: position of the last byte, inclusive; None when the sender wrote ``*``.
    :ivar total: size of the whole, bytes; None when the sender wrote ``*``.
    """

    first: int
    last: int | None
    total: int | None

    def __str__(self) -> str:
        last, total = ("*" if number is None else number for number in (self.last, self.total))
        return f"bytes {self.first}-{last}/{total}"


def parse_content_range(value: str) -> ContentRange:
    """Read the ``Content-Range`` of a request that writes.

    :raises BadRequest:
    """
    found = _content_range(value)
    if isinstance(found, str):
        raise errors.BadRequest(f"Invalid Content-Range, {found}")
    return found


def parse_content_range_answer(value: str) -> ContentRange:
    """Read the ``Content-Range`` of an upstream's 206 answer, which must name its last byte.

    :raises UpstreamFailed:
    """
    found = _content_range(value)
    if isinstance(found, str) or found.last is None:
        raise errors.UpstreamFailed("The host behind the gateway sent an invalid Content-Range")
    return found


def parse_unsatisfied_range(value: str) -> int:
    """Read the ``Content-Range`` of an upstream's 416 answer and return the size it has, bytes.

    :raises UpstreamFailed:
    """
    match = _UNSATISFIED.fullmatch(value)
    if match is None:
        raise errors.UpstreamFailed("The host behind the gateway sent an invalid Content-Range")
    return int(match[1])


def _content_range(value: str) -> ContentRange | str:
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        return "bad syntax"
    last, total = (None if text == "*" else int(text) for text in match.group(2, 3))
    found = ContentRange(int(match[1]), last, total)
    if last is not None and last < found.first:
        return "first > last"
    if last is not None and total is not None and last >= total:
        return "last >= complete"
    return found


@define
class RangeSet:
    """The union of half-open intervals, in bounded memory.

    Beyond *limit* intervals the smallest are forgotten, so that :attr:`total` may be too small
    and never too large.

    :ivar total: bytes in the union.
    """

    limit: int = 65_536
    total: int = field(default=0, init=False)
    _starts: list[int] = field(factory=list, init=False, repr=False)
    _stops: list[int] = field(factory=list, init=False, repr=False)

    def add(self, start: int, stop: int) -> None:
        """Add the bytes from *start* up to, not including, *stop*."""
        if stop <= start:
            return
        # Intervals i up to j overlap or touch the new one.
        i = bisect_left(self._stops, start)
        j = bisect_right(self._starts, stop)
        if i < j:
            start = min(start, self._starts[i])
            stop = max(stop, self._stops[j - 1])
            self.total -= sum(self._stops[i:j]) - sum(self._starts[i:j])
        self._starts[i:j] = [start]
        self._stops[i:j] = [stop]
        self.total += stop - start
        if len(self._starts) > self.limit:
            self._forget(max(1, self.limit // 64))

    def __iter__(self) -> zip[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def _forget(self, count: int) -> None:
        """Drop the *count* smallest at once, so that the search for them is not paid at each call."""
        sizes = [stop - start for start, stop in self]
        smallest = set(sorted(range(len(sizes)), key=sizes.__getitem__)[:count])
        kept = [pair for index, pair in enumerate(self) if index not in smallest]
        self._starts = [start for start, _ in kept]
        self._stops = [stop for _, stop in kept]
        self.total -= sum(sizes[index] for index in smallest)
