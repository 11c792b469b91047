"""Many deadlines, one timer: a heap in which later deadlines cost nothing until the earlier one falls due.

A deadline that moves away leaves its entry alone; when the entry comes up the deadline is read again.
So a renewal is a mere assignment, and no turn of the reactor looks at more than what is due.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

Item = TypeVar("Item", bound=Hashable)

#: Items handled in one turn of the reactor; the rest waits for the next.
BATCH = 1000
#: Seconds a timer may be set ahead; some pollers take no more than weeks.
FURTHEST = 3600.0


class Deadlines(Generic[Item]):
    """Calls *act* for each item once its deadline is there.

    :param due: reads the deadline of an item, seconds of *clock*; None when it has none now.
    :param act: may change the deadline; it is read again afterwards.
    :param resolution: seconds between two looks at least.
    """

    def __init__(
        self,
        clock: IReactorTime,
        due: Callable[[Item], float | None],
        act: Callable[[Item], None],
        *,
        resolution: float,
    ) -> None:
        self._clock = clock
        self._due = due
        self._act = act
        self._resolution = resolution
        self._heap: list[tuple[float, int, Item]] = []
        self._queued: dict[Item, float] = {}
        self._count = 0
        self._looked = -inf
        self._call: IDelayedCall | None = None
        self._planned = inf

    def arm(self, item: Item) -> None:
        """Note that the deadline of *item* may have become earlier, or that it has one now."""
        due = self._due(item)
        if due is None or due >= self._queued.get(item, inf):
            return
        self._push(item, due)
        if self._call is None or due < self._planned:
            self._plan()

    def forget(self, item: Item) -> None:
        """Never call for *item* again, unless it is armed again."""
        self._queued.pop(item, None)

    def stop(self) -> None:
        """Forget all items and the timer."""
        self._heap.clear()
        self._queued.clear()
        self._plan()

    def _push(self, item: Item, due: float) -> None:
        if len(self._heap) > 2 * len(self._queued) + 1024:
            self._heap = [entry for entry in self._heap if self._queued.get(entry[2]) == entry[0]]
            heapify(self._heap)
        self._count += 1
        self._queued[item] = due
        heappush(self._heap, (due, self._count, item))

    def _plan(self) -> None:
        """Set the timer for the earliest entry, or none."""
        when = max(self._heap[0][0], self._looked + self._resolution) if self._heap else inf
        if self._call is not None:
            if self._planned <= when < inf:
                return
            self._call.cancel()
            self._call = None
        if when < inf:
            now = self._clock.seconds()
            self._planned = min(when, now + FURTHEST)
            self._call = self._clock.callLater(max(0.0, self._planned - now), self._look)

    def _look(self) -> None:
        self._call = None
        now = self._clock.seconds()
        left = BATCH
        while left and self._heap and self._heap[0][0] <= now:
            when, _, item = heappop(self._heap)
            if self._queued.get(item) != when:
                continue
            left -= 1
            del self._queued[item]
            due = self._due(item)
            if due is not None and due <= now:
                self._act(item)
                due = self._due(item)
            if due is not None and due < self._queued.get(item, inf):
                self._push(item, due)
        # After a full batch the next turn goes on at once.
        self._looked = now if left and left < BATCH else -inf
        self._plan()
