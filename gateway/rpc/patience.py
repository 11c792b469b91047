"""How long those who wait for a hypervisor are ready to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.core.deadlines import Deadlines
from gateway.rpc.job import Job, Line, Waiter

#: Seconds between two looks at what is late.
RESOLUTION = 0.05


class Patience(Deadlines[Any]):
    """Deadlines of calls, of connections, and of those who wait.

    Most who wait have their answer before anybody looks at what is late, so who comes is put aside until
    then: to note a deadline and to forget it takes as long as to send the call.
    """

    def __init__(self, clock: IReactorTime, late: Callable[[Waiter | Job | Line], None]) -> None:
        super().__init__(clock, lambda item: item.due, late, resolution=RESOLUTION)
        self._recent: set[Waiter] = set()
        self._sifting: IDelayedCall | None = None
        self._next = 0.0

    def expect(self, waiter: Waiter, due: float) -> None:
        """*waiter* is here from now on, and gives up at *due*."""
        if self._sifting is None:
            self._next = self._clock.seconds() + RESOLUTION
            self._sifting = self._clock.callLater(RESOLUTION, self._sift)
        if due < self._next:
            self.arm(waiter)
        else:
            self._recent.add(waiter)

    def leave(self, waiter: Waiter) -> None:
        """*waiter* does not wait any more."""
        if waiter in self._recent:
            self._recent.discard(waiter)
        else:
            self.forget(waiter)

    def stop(self) -> None:
        super().stop()
        self._recent.clear()
        if self._sifting is not None:
            self._sifting.cancel()
            self._sifting = None

    def _sift(self) -> None:
        self._sifting = None
        recent, self._recent = self._recent, set()
        for waiter in recent:
            self.arm(waiter)
