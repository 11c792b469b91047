"""Decides when a hypervisor that cannot be reached is tried again."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IReactorTime

from gateway import errors

#: Attempts that failed one after the other until nobody waits for the next any more.
FAILURES = 5
#: Seconds: until the second attempt, the factor from one to the next, and the most. A daemon's restart takes
#: two or three seconds, which those who wait survive.
FIRST, FACTOR, LONGEST = 0.2, 2.5, 30.0
#: How far a wait is drawn from what it should be, so that many do not come at once.
_JITTER = 0.25


class Breaker:
    """What is known of the attempts to connect.

    Attempts that run at the same time and fail count once. After a failure there is one at a time.

    :param chance: gives numbers from 0 to 1.
    :ivar failures: attempts that failed since one succeeded.
    :ivar reason: why the last one failed, as a word.
    :ivar changed: called after each attempt.
    """

    def __init__(self, clock: IReactorTime, chance: Callable[[], float]) -> None:
        self.failures = 0
        self.reason = ""
        self.changed: Callable[[], object] = lambda: None
        self._clock = clock
        self._chance = chance
        self._epoch = 0
        self._probes = 0
        self._next = -inf

    @property
    def open(self) -> bool:
        """Nobody should wait: it failed too often."""
        return self.failures >= FAILURES

    def wait(self) -> float:
        """Seconds until the next attempt may begin: 0 now, infinity when it has begun."""
        if not self.failures:
            return 0.0
        return inf if self._probes else max(0.0, self._next - self._clock.seconds())

    def check(self) -> None:
        """Do nothing when it makes sense to wait for a connection.

        :raises gateway.errors.TargetDown: it does not.
        """
        wait = self.wait()
        if self.open and 0 < wait < inf:
            raise errors.TargetDown(reason=self.reason, retry_after=wait)

    def begin(self) -> int:
        """An attempt begins; give the result to what tells how it ended."""
        self._probes += 1
        return self._epoch

    def succeeded(self) -> None:
        """It is connected."""
        self._probes -= 1
        self.failures = 0
        self.changed()

    def failed(self, begun: int, reason: str) -> None:
        """It did not go well."""
        self._probes -= 1
        self.reason = reason
        if begun == self._epoch:
            self._epoch += 1
            self.failures += 1
            wait = min(LONGEST, FIRST * FACTOR ** (self.failures - 1))
            spread = 1 - _JITTER + 2 * _JITTER * self._chance()
            self._next = self._clock.seconds() + wait * spread
        self.changed()

    def dropped(self) -> None:
        """Whoever wanted it does not want it any more."""
        self._probes -= 1
        self.changed()
