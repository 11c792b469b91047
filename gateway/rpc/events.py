"""What happens on one hypervisor, in order, and who is told.

Events have numbers that rise, also over restarts of the gateway. The last of them are kept in a ring, where
a subscriber finds those that it missed. Who falls behind the ring gets a *resync* instead: pages with the
state of every domain it may see. A subscriber is told no more than it acknowledges, so nobody's slowness
takes memory.

A resync is a row of events of kind ``resync``: ``{"page": 0, "domains": [{"dom", "state", "reason"}, …]}``,
the last with ``"end": true``. Page 0 means: forget what you know. Then each lifecycle event says what the
domain is afterwards (``state`` and ``reason``, null when it is gone).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen
from twisted.logger import Logger

from gateway.errors import Busy
from gateway.rpc.domain_states import Domain

#: Domains on one page of a resync.
PAGE = 256
#: Characters, about, that one event and the whole ring may have.
EVENT, RING = 64 * 1024, 8 * 1024 * 1024
#: Milliseconds are moved by this to become the first number after a start.
_EPOCH_BITS = 20

#: An event, ready for JSON: ``seq``, ``time`` (seconds since the epoch), ``kind``, what it is about (``dom``,
#: ``net``, ``pool``, ``dev`` or ``secret``), and its own fields. Shared: not to be changed.
Event = Mapping[str, Any]
#: May the subscriber see this? The field that holds it (``dom``, ``net``, …), and its reference.
Allowed = Callable[[str, Mapping[str, Any]], bool]
#: Takes an event; returns whether there is room for another (else ``resume`` tells when).
Deliver = Callable[[Event], bool]


@frozen
class _Entry:
    """A place in the ring; one without a subject tells that events were lost before it."""

    seq: int
    kind: str
    subject: str
    event: Event
    weight: int


def weigh(value: object) -> int:
    """About as many characters as *value* has in JSON."""
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, Mapping):
        return 2 + sum(len(name) + 4 + weigh(inner) for name, inner in value.items())
    if isinstance(value, Sequence):
        return 2 + sum(1 + weigh(inner) for inner in value)
    return 8


class EventLog:
    """The events of one hypervisor.

    :param wall: seconds since the epoch.
    :param domains: all domains as they are known now.
    :param kept: how many events the ring has.
    :param subscribers: how many subscriptions there may be at a time.
    :ivar ready: what *domains* gives is true; until then every resync waits.
    """

    def __init__(
        self,
        wall: Callable[[], float],
        domains: Callable[[], Iterable[Domain]],
        *,
        kept: int = 1000,
        subscribers: int = 4096,
    ) -> None:
        self.ready = False
        self.domains = domains
        self._wall = wall
        self._kept = kept
        self._limit = subscribers
        #: Whoever knows nothing after this number has missed nothing; rises as events leave the ring.
        self._floor = self.seq = int(wall() * 1000) << _EPOCH_BITS
        self._ring: deque[_Entry] = deque()
        self._gone = 0
        self._weight = 0
        #: Numbers in the midst of a resync: whoever stopped there does not know all.
        self._partial: deque[tuple[int, int]] = deque()
        self._subscriptions: dict[Subscription, None] = {}

    def publish(self, kind: str, subject: str, what: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """Tell an event about *what*, which stands in the field *subject*."""
        weight = weigh(fields) + weigh(what)
        if weight > EVENT:
            fields = {name: value for name, value in fields.items() if weigh(value) <= PAGE} | {"cut": True}
            weight = weigh(fields) + weigh(what)
        event = {"seq": self._take(1), "time": self._wall(), "kind": kind, subject: what, **fields}
        self._append(_Entry(self.seq, kind, subject, event, weight))

    def lost(self) -> None:
        """Events may have been lost up to now: everybody gets a resync, after those that are there."""
        self._append(_Entry(self._take(1), "resync", "", {}, 0))

    def subscribe(
        self,
        kinds: Iterable[str],
        uuid: str | None,
        from_seq: int | None,
        allowed: Allowed,
        deliver: Deliver,
        *,
        window: int = 256,
    ) -> Subscription:
        """Add a subscriber, which is told nothing before its first ``resume``.

        :param kinds: words of events; ``*`` is all.
        :param uuid: of the only domain it wants to hear of; None for all, and for networks, pools and so on.
        :param from_seq: the last number it knows; 0 for a resync at once; None for what happens from now on.
        :param window: events it may leave unacknowledged.
        :raises gateway.errors.Busy: there are too many.
        """
        if len(self._subscriptions) >= self._limit:
            raise Busy("There are too many subscriptions")
        complete = from_seq is None or self._complete(from_seq)
        seq = from_seq if from_seq is not None and complete else self.seq
        at = self._gone + bisect_right(self._ring, seq, key=lambda entry: entry.seq)
        added = Subscription(self, frozenset(kinds), uuid, allowed, deliver, window, seq, complete, at)
        self._subscriptions[added] = None
        return added

    def go(self) -> None:
        """Tell everybody what there is for them."""
        for subscription in list(self._subscriptions):
            subscription.go()

    # -- of the subscriptions --------------------------------------------------------------

    def remove(self, subscription: Subscription) -> None:
        """Tell *subscription* nothing any more."""
        self._subscriptions.pop(subscription, None)

    def gone(self, place: int) -> bool:
        """A place has left the ring."""
        return place < self._gone

    def entry(self, place: int) -> _Entry | None:
        """What is at a place of the ring; None when nothing has come there yet."""
        place -= self._gone
        return self._ring[place] if place < len(self._ring) else None

    @property
    def end(self) -> int:
        """The place of the next event."""
        return self._gone + len(self._ring)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._wall()

    def pages(self, count: int) -> Iterator[int]:
        """Numbers for the pages of a resync."""
        last = self._take(count)
        if count > 1:
            self._partial.append((last - count + 1, last))
            if len(self._partial) > self._kept:
                self._floor = max(self._floor, self._partial.popleft()[1])
        return iter(range(last - count + 1, last + 1))

    def _complete(self, seq: int) -> bool:
        if not self._floor <= seq <= self.seq:
            return False
        return not any(first <= seq < last for first, last in self._partial)

    def _take(self, count: int) -> int:
        self.seq += count
        return self.seq

    def _append(self, entry: _Entry) -> None:
        self._ring.append(entry)
        self._weight += entry.weight
        while len(self._ring) > self._kept or self._weight > RING:
            gone = self._ring.popleft()
            self._gone += 1
            self._weight -= gone.weight
            self._floor = max(self._floor, gone.seq)
        while self._partial and self._partial[0][1] <= self._floor:
            self._partial.popleft()
        self.go()


@define(eq=False)
class Subscription:
    """One who is told.

    :ivar seq: it begins after this number.
    :ivar complete: it misses nothing since the number it asked for; else a resync comes first.
    """

    log = Logger()

    _log: EventLog
    kinds: frozenset[str]
    uuid: str | None
    _allowed: Allowed
    _deliver: Deliver
    _window: int
    seq: int
    complete: bool
    _place: int
    _room: bool = field(default=False, init=False)
    _busy: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    #: It missed something, and is told nothing else before a resync; or it gets one when it has caught up.
    _behind: bool = field(init=False)
    _owed: bool = field(default=False, init=False)
    _pages: deque[Sequence[Domain]] = field(factory=deque, init=False)
    _numbers: Iterator[int] = field(factory=lambda: iter(()), init=False)
    _page: int = field(default=0, init=False)
    _unacknowledged: deque[int] = field(factory=deque, init=False)
    _position: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._behind = not self.complete
        # Who asked for something that is gone may not begin there again.
        self._position = self.seq if self.complete else 0

    @property
    def position(self) -> int:
        """The number to go on from, should this subscription be made anew."""
        return self._position

    def resume(self) -> None:
        """There is room for events."""
        self._room = True
        self.go()

    def ack(self, seq: int) -> None:
        """Everything up to *seq* was seen; a number that was never told is taken for the last before it."""
        waiting = self._unacknowledged
        while waiting and waiting[0] <= seq:
            self._position = waiting.popleft()
        self.go()

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._pages.clear()
        self._log.remove(self)

    def go(self) -> None:
        """Tell what there is, as long as there is room."""
        if self._busy:
            return  # the loop below goes on
        self._busy = True
        try:
            with self.log.failuresHandled("a subscriber failed, and is told nothing any more") as told:
                while self._room and not self._closed and len(self._unacknowledged) < self._window:
                    if not self._step():
                        break
            if told.failed:
                self.close()
        finally:
            self._busy = False

    def _step(self) -> bool:
        """Go on by one place or page; tell whether there was one."""
        if self._pages:
            self._tell_page()
            return True
        self._behind = self._behind or self._log.gone(self._place)
        entry = None if self._behind else self._log.entry(self._place)
        if entry is None and (self._behind or self._owed):
            if self._log.ready:
                self._resync()
            return self._log.ready
        if entry is None:
            if not self._unacknowledged:
                # Nothing of what was passed over is wanted again.
                self._position = max(self._position, self._log.seq)
            return False
        self._place += 1
        if not entry.subject:
            self._owed = True
        elif self._wants(entry):
            self._tell(entry.event)
        return True

    def _wants(self, entry: _Entry) -> bool:
        what = entry.event[entry.subject]
        if not self.kinds & {entry.kind, "*"}:
            return False
        if self.uuid is not None and (entry.subject != "dom" or what["uuid"] != self.uuid):
            return False
        return self._allowed(entry.subject, what)

    def _resync(self) -> None:
        seen: list[Domain] = []
        if self.kinds & {"lifecycle", "*"}:
            every = self._log.domains()
            seen = [one for one in every if self.uuid in (None, one.uuid) and self._allowed("dom", one.dom)]
        self._pages.extend(seen[at : at + PAGE] for at in range(0, max(1, len(seen)), PAGE))
        self._numbers = self._log.pages(len(self._pages))
        self._page = 0
        self._place = self._log.end
        self._behind = self._owed = False

    def _tell_page(self) -> None:
        rows = [domain.row for domain in self._pages.popleft()]
        fields = {"page": self._page, "domains": rows, "end": not self._pages}
        self._page += 1
        self._tell({"seq": next(self._numbers), "time": self._log.now(), "kind": "resync", **fields})

    def _tell(self, event: Event) -> None:
        self._unacknowledged.append(event["seq"])
        self._room = self._deliver(event)
