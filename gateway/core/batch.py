"""What is written while something that arrived is dealt with leaves together, when that is done.

A read from one connection often brings several messages, and each of them has something written to another
connection. One system call for all of that costs as much as for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Batch:
    """Where those who write leave word that they have something to send.

    Enter it around all that comes of one read. Only the outermost counts.

    :ivar open: whether somebody is in it, so that what is written may wait.
    """

    __slots__ = ("_depth", "_first", "_flushes", "open")

    def __init__(self) -> None:
        self.open = False
        self._depth = 0
        self._first: deque[Callable[[], object]] = deque()
        self._flushes: deque[Callable[[], object]] = deque()

    def later(self, flush: Callable[[], object]) -> None:
        """Call *flush* when the batch is over."""
        self._flushes.append(flush)

    def first(self, flush: Callable[[], object]) -> None:
        """Call *flush* when the batch is over, before anything that is for later."""
        self._first.append(flush)

    def settle(self) -> None:
        """Have done what comes first: for those who cannot wait for the end with what is for later."""
        while self._first:
            self._first.popleft()()

    def __enter__(self) -> None:
        self._depth += 1
        self.open = True

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        self.open = False
        self.settle()
        while self._flushes:
            # When one fails the others stay for the next batch.
            self._flushes.popleft()()


#: That of the reactor's thread: all that is read there is dealt with one after the other.
BATCH = Batch()
