"""What an NBD server tells of an image, as the images API lists it.

Source: NBD protocol, section "Metadata querying"; QEMU, docs/interop/nbd.txt; ovirt-imageio 2.5, extents:
a range is a hole only when no image of the chain has it, which ``base:allocation`` does not tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.wire.nbd import Reply
from gateway.wire.nbd_negotiation import Export, failed

#: Bytes of a list; a longer one is nobody's image.
MAX_LIST = 128 * 1024 * 1024
_ZERO = 2
_DIRTY = 1


class Extents:
    """A list of extents in the making: equal neighbors are one, and the text is made on the way.

    :param names: of the two truths told of an extent.
    :ivar stop: bytes of the image described so far.
    """

    def __init__(self, *names: str) -> None:
        self.stop = 0
        self._start = 0
        self._current: tuple[bool, ...] | None = None
        self._text = bytearray()
        self._none = (False,) * len(names)
        self._form = ", ".join(f'"{name}": %s' for name in names)

    def add(self, length: int, values: tuple[bool, ...]) -> None:
        """Let the next *length* bytes be *values*."""
        if length and values != self._current:
            self._end()
            self._current = values
        self.stop += length

    def _end(self) -> None:
        if self._current is not None:
            told = self._form % tuple("true" if it else "false" for it in self._current)
            extent = f'{{"start": {self._start}, "length": {self.stop - self._start}, {told}}}'
            self._text += (b", " if self._text else b"") + extent.encode("ascii")
            if len(self._text) > MAX_LIST:
                raise failed("the image has too many extents")
        self._start = self.stop

    def text(self) -> bytes:
        """The whole list as JSON; one extent even of nothing."""
        if self._current is None:
            self._current = self._none
        self._end()
        self._current = None
        return b"[%s]\n" % self._text


def zero_extents(export: Export, reply: Reply) -> Iterator[tuple[int, tuple[bool, ...]]]:
    """Lengths, and whether what lies there is (zero, hole), as far as *reply* goes."""
    for length, (allocation, depth) in _together([export.allocation, export.depth], [0, 1], reply):
        yield length, (bool(allocation & _ZERO), depth == 0)


def dirty_extents(export: Export, reply: Reply) -> Iterator[tuple[int, tuple[bool, ...]]]:
    """Lengths, and whether what lies there is (dirty, zero), as far as *reply* goes."""
    for length, (dirty, allocation) in _together([export.dirty, export.allocation], [0, 0], reply):
        yield length, (bool(dirty & _DIRTY), bool(allocation & _ZERO))


def _together(
    contexts: Sequence[int | None], default: Sequence[int], reply: Reply
) -> Iterator[tuple[int, list[int]]]:
    """Go along several descriptions of one range at once, to the end of the shortest.

    :param contexts: their ids, None for one that is not offered and has *default* everywhere.
    """
    told: list[tuple[int, Iterator[tuple[int, int]]]] = []
    for number, context in enumerate(contexts):
        if context is not None:
            if context not in reply.extents:
                raise failed("it does not tell all it was asked for")
            told.append((number, iter(reply.extents[context])))
    values, left = list(default), [0] * len(told)
    while True:
        for position, (number, extents) in enumerate(told):
            if left[position] == 0:
                following = next(extents, None)
                if following is None:
                    return
                left[position], values[number] = following
        length = min(left)
        left = [it - length for it in left]
        yield length, values
