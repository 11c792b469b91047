"""The records of the memory registry: their states, counts and deadlines, changed in one place only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway.core.deadlines import Deadlines
from gateway.core.ticket import AtExpiry, Hold, Ticket, hash_id
from gateway.core.ticket_news import News
from gateway.core.ticket_state import LIVE, Event, State, step
from gateway.wire.ticket_json import Kind


class TicketBook:
    """All records, and what follows from a change of one.

    :ivar tickets: by the hash of their ids.
    :ivar issuers: how many records each issuer caused.
    :ivar gauges: how many records there are of each kind in each state.
    :ivar deadlines: calls back when a ticket expires, or is to be forgotten.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        news: News,
        *,
        sweep: float,
        purge: float,
        revoked: Callable[[Kind, float], None] | None,
    ) -> None:
        self._clock = clock
        self._purge = purge
        self.news = news
        self.tickets: dict[bytes, Ticket] = {}
        self.issuers = Counter[str]()
        self.gauges = Counter[tuple[Kind, State]]()
        self._revoked = revoked
        self.deadlines = Deadlines(clock, self._due, self._fall_due, resolution=sweep)

    def has(self, ticket: Ticket) -> bool:
        """Tell whether *ticket* is still the record of its id."""
        return self.tickets.get(ticket.id_hash) is ticket

    def find(self, uuid: str) -> Ticket | None:
        """Return the record of an id as it is now, expiring it first when its time has come."""
        ticket = self.tickets.get(hash_id(uuid))
        if ticket is not None:
            self.expire_if_due(ticket)
        return ticket

    def next(self, ticket: Ticket, event: Event) -> State | None:
        """Return the state of *ticket* after *event*.

        :raises Refused:
        """
        return step(
            ticket.state, event, busy=bool(ticket.holds), used=ticket.uses == 0, revivable=ticket.revivable
        )

    def enter(self, ticket: Ticket) -> None:
        """Take in a new record."""
        self.tickets[ticket.id_hash] = ticket
        self.issuers[ticket.issuer] += 1
        self.gauges[ticket.kind, ticket.state] += 1
        self.deadlines.arm(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Drop a record at once."""
        del self.tickets[ticket.id_hash]
        self.issuers[ticket.issuer] -= 1
        if not self.issuers[ticket.issuer]:
            del self.issuers[ticket.issuer]
        self.gauges[ticket.kind, ticket.state] -= 1
        self.deadlines.forget(ticket)

    def move(self, ticket: Ticket, state: State | None) -> None:
        """Set the state of *ticket*; None drops it."""
        if state is ticket.state:
            return
        if state is None:
            self.remove(ticket)
            return
        self.gauges[ticket.kind, ticket.state] -= 1
        self.gauges[ticket.kind, state] += 1
        ticket.state = state
        if state not in LIVE:
            # Kept until no proof of this id can come any more.
            ticket.purge_at = max(self._clock.seconds() + self._purge, ticket.hard_end or 0)

    def cut(self, ticket: Ticket, word: str, holds: Iterable[Hold] | None = None) -> None:
        """Tell every session of *ticket* to end, in this turn; one that fails stops no other.

        :param holds: those of them that are to end, if not all.
        """
        for hold in list(ticket.holds if holds is None else holds):
            if hold.open and not hold.told:
                hold.told = True
                with self.log.failuresHandled(
                    "a holder of ticket {ticket} failed", ticket=ticket.fingerprint
                ):
                    hold.ended(word)

    def revoke(self, ticket: Ticket, reason: str, ordered: float) -> None:
        """End *ticket* and all its sessions in this turn, as was *ordered* at that second."""
        ticket.reason = reason
        if (told := self._revoked) is not None:
            ticket.gone = lambda: told(ticket.kind, self._clock.seconds() - ordered)
        self.move(ticket, State.REVOKED)
        self.cut(ticket, reason)
        self.news.tell("revoked", ticket, reason=reason)

    def expire_if_due(self, ticket: Ticket) -> None:
        """End *ticket* when its deadline is there, whether the timer or somebody asking came first."""
        if ticket.state in LIVE and ticket.deadline <= self._clock.seconds():
            self.move(ticket, State.EXPIRED)
            self.deadlines.arm(ticket)
            if ticket.at_expiry is AtExpiry.CUT:
                self.cut(ticket, "expired")
            self.news.tell("expired", ticket)

    def _fall_due(self, ticket: Ticket) -> None:
        if ticket.state in LIVE:
            self.expire_if_due(ticket)
        else:
            self.move(ticket, self.next(ticket, Event.PURGE))
            self.news.tell("purged", ticket)

    def _due(self, ticket: Ticket) -> float | None:
        """When something must happen to *ticket*; an ended one waits for its sessions."""
        if not self.has(ticket):
            return None
        if ticket.state in LIVE:
            return ticket.deadline
        return None if ticket.holds else ticket.purge_at
