"""A bounded number of turns, given in the order they were asked for."""

from __future__ import annotations

from collections import deque

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from gateway import errors


@define
class Slots:
    """How many operations of one kind may run at once under one ticket.

    :ivar limit: may change at any time; those who have a turn keep it.
    """

    limit: int
    _clock: IReactorTime = field(repr=False)
    _taken: int = 0
    _waiting: deque[Deferred[None]] = field(factory=deque, repr=False)

    async def take(self, patience: float) -> None:
        """Wait for a turn.

        :param patience: seconds.
        :raises gateway.errors.Unavailable: none came free in time.
        """
        if self._taken < self.limit and not self._waiting:
            self._taken += 1
            return
        turn: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(turn)
        timer = self._clock.callLater(patience, turn.cancel)
        try:
            await turn
        except CancelledError:
            if timer.active():
                raise
            text = "Too many operations run under this ticket, try again later"
            raise errors.Unavailable(text, reason="limit") from None
        finally:
            if timer.active():
                timer.cancel()

    def give(self) -> None:
        """Give a turn back."""
        self._taken -= 1
        while self._waiting and self._taken < self.limit:
            self._taken += 1
            self._waiting.popleft().callback(None)
