"""What was asked a moment ago, and what is being asked now."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import inf
from typing import Any, Generic, TypeVar

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from gateway.core.deadlines import Deadlines

Flight = TypeVar("Flight")

#: Values in all results that are kept: lists of thousands of domains, and no more than some 15 MB.
MOST = 100_000
_PLAIN = frozenset({str, int, bytes, float, bool, type(None)})


def weight(value: Any, most: float = inf) -> int:
    """How many values there are in a result; some number above *most* if there are more."""
    if type(value) is dict:
        parts: Iterable[Any] = value.values()
    elif type(value) is list:
        parts = value
    else:
        return 1
    total = 1
    for part in parts:
        total += 1 if type(part) in _PLAIN else weight(part, most - total)
        if total > most:
            break
    return total


@frozen
class _Kept:
    values: dict[str, Any]
    weight: int
    passing: bool
    expires: float


class Cache(Generic[Flight]):
    """Results by what was asked, each kept for its time; and the calls that others may wait for as well.

    What began before a change is not kept after it, and nobody who comes after the change waits for it.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._kept: dict[Hashable, _Kept] = {}
        self._flights: dict[Hashable, Flight] = {}
        self._weight = 0
        self._deadlines: Deadlines[Hashable] = Deadlines(clock, self._due, self._drop, resolution=1.0)

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> dict[str, Any] | None:
        """The result for *key*, if it is still good; what is in it is shared."""
        kept = self._kept.get(key)
        if kept is None or kept.expires <= self._clock.seconds():
            return None
        return dict(kept.values)

    def flight(self, key: Hashable) -> Flight | None:
        """The call for *key* that is under way."""
        return self._flights.get(key)

    def begin(self, key: Hashable, flight: Flight) -> None:
        """*flight* is the call for *key* from now on."""
        self._flights[key] = flight

    def forget(self, key: Hashable, flight: Flight) -> bool:
        """Nobody else shall wait for *flight*; return whether somebody could have."""
        mine = self._flights.get(key) is flight
        if mine:
            del self._flights[key]
        return mine

    def end(self, key: Hashable, flight: Flight, values: dict[str, Any], keep: float, passing: bool) -> None:
        """*flight* brought *values*, which are good for *keep* seconds if nothing changed meanwhile."""
        if not self.forget(key, flight) or not keep:
            return
        self._drop(key)
        size = weight(values, MOST)
        if self._weight + size > MOST:
            self._empty(all_of_it=False)
        if self._weight + size <= MOST:
            self._kept[key] = _Kept(dict(values), size, passing, self._clock.seconds() + keep)
            self._weight += size
            self._deadlines.arm(key)

    def clear(self) -> None:
        """Something changed, and it is not known what."""
        self._flights.clear()
        self._empty(all_of_it=True)

    def clear_passing(self) -> None:
        """Something changed that is no matter of the host itself."""
        self._flights.clear()
        self._empty(all_of_it=False)

    def stop(self) -> None:
        """Forget everything, and the timer."""
        self.clear()
        self._deadlines.stop()

    def _empty(self, *, all_of_it: bool) -> None:
        for key in [key for key, kept in self._kept.items() if all_of_it or kept.passing]:
            self._drop(key)

    def _due(self, key: Hashable) -> float | None:
        kept = self._kept.get(key)
        return None if kept is None else kept.expires

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._weight -= kept.weight
            self._deadlines.forget(key)
