"""A queue in which everybody has the same share, however much he puts in."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from gateway import errors

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """One queue for each principal; they take turns.

    :param share: items of one principal that may be taken and not done: who comes later finds a place.
    :param each: items of one principal that may wait.
    :param total: items that may wait.
    :ivar waiting: items that do.
    """

    def __init__(self, *, share: int, each: int, total: int) -> None:
        self._share = share
        self._each = each
        self._total = total
        self._queues: dict[str, deque[Item]] = {}
        self._turns: deque[str] = deque()
        self._taken: dict[str, int] = {}
        self.waiting = 0

    def __len__(self) -> int:
        return self.waiting

    @property
    def ready(self) -> bool:
        """There is something to take."""
        taken = self._taken.get
        return bool(self.waiting) and any(taken(principal, 0) < self._share for principal in self._turns)

    def put(self, principal: str, item: Item) -> None:
        """Let *item* wait for its turn.

        :raises gateway.errors.Busy: too many wait; ``retry_after`` is for the caller to judge.
        """
        if self.waiting >= self._total or len(self._queues.get(principal, ())) >= self._each:
            raise errors.Busy
        self._queue(principal).append(item)
        self.waiting += 1

    def put_back(self, principal: str, item: Item) -> None:
        """Let *item*, which was taken and is not done, be the next of its principal."""
        self.done(principal)
        self._queue(principal).appendleft(item)
        self.waiting += 1

    def take(self) -> tuple[str, Item] | None:
        """Take the next item and tell whose it is; None when whoever waits has his share already."""
        for _ in range(len(self._turns)):
            principal = self._turns[0]
            self._turns.rotate(-1)
            taken = self._taken.get(principal, 0)
            if taken < self._share:
                item = self._queues[principal].popleft()
                self._taken[principal] = taken + 1
                self._shrink(principal)
                return principal, item
        return None

    def pass_by(self, principal: str) -> bool:
        """Count an item of *principal* as taken that was never put here.

        :return: whether it may be: nothing waits, and his share is not used up.
        """
        taken = self._taken.get(principal, 0)
        if self.waiting or taken >= self._share:
            return False
        self._taken[principal] = taken + 1
        return True

    def done(self, principal: str) -> None:
        """An item of *principal* that was taken is done."""
        left = self._taken.pop(principal, 0) - 1
        if left > 0:
            self._taken[principal] = left

    def discard(self, principal: str, item: Item) -> None:
        """Forget *item*, which waits."""
        self._queues[principal].remove(item)
        self._shrink(principal)

    def drain(self) -> list[Item]:
        """Take all that waits out, as if it had never been there."""
        items = [item for queue in self._queues.values() for item in queue]
        self._queues.clear()
        self._turns.clear()
        self.waiting = 0
        return items

    def _queue(self, principal: str) -> deque[Item]:
        queue = self._queues.get(principal)
        if queue is None:
            queue = self._queues[principal] = deque()
            self._turns.append(principal)
        return queue

    def _shrink(self, principal: str) -> None:
        self.waiting -= 1
        if not self._queues[principal]:
            del self._queues[principal]
            self._turns.remove(principal)
