"""The registry of one gateway: every ticket, who holds it, when it ends, and who wants to know.

:mod:`~gateway.core.ticket_state` says what may happen, :mod:`~gateway.core.deadlines` when,
:mod:`~gateway.core.ticket_book` keeps the records. The coroutines never wait, so each is one step
of the reactor. Deadlines follow the monotonic clock; wall time is only shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import nsmallest

from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core.ticket import (
    AT_EXPIRY,
    BEGUN_IN_TIME,
    MOST_URLS,
    REVIVABLE,
    AtExpiry,
    Hold,
    Ticket,
    TicketRegistry,
    fingerprint,
    hash_id,
)
from gateway.core.ticket_book import TicketBook
from gateway.core.ticket_news import News, Trail
from gateway.core.ticket_state import LIVE, Event, Refused, State, step
from gateway.wire.ticket_json import Grant, Kind, Rights

__all__ = [
    "AtExpiry",
    "Grant",
    "Hold",
    "Kind",
    "MemoryRegistry",
    "Rights",
    "State",
    "Ticket",
    "TicketRegistry",
    "fingerprint",
]

#: Live sessions under one ticket, by kind; None is any number.
SESSIONS: dict[Kind, int | None] = {
    **dict.fromkeys(Kind, 8),
    # A class that looks at one console.
    Kind.CONSOLE: 64,
    Kind.TUNNEL: 32,
    Kind.RPC: 16,
}
#: Stands for what a tombstone without a ticket would have granted.
_NOTHING = Grant(Kind.IMAGE, "")


class MemoryRegistry:
    """A :class:`TicketRegistry` in this process.

    :param clock: its ``seconds`` must not jump (the process sets it to the monotonic clock).
    :param wall: seconds since the epoch.
    :param maximum: records in all, ended ones until they are purged included.
    :param per_issuer: records one issuer of signed proofs may cause; half of all unless given.
    :param sweep: seconds between two looks at the deadlines; uses are judged exactly all the same.
    :param purge: seconds an ended ticket is remembered.
    :param at_expiry: what differs from the defaults of a kind.
    :param audit: called with ``ticket.`` and a word, and the fields of the trail.
    :param revoked: told how long a revocation took to end all that was in use: the kind, and seconds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wall: Callable[[], float],
        *,
        maximum: int = 100_000,
        per_issuer: int | None = None,
        sessions_per_ticket: Mapping[Kind, int | None] = SESSIONS,
        sweep: float = 1.0,
        purge: float = 60.0,
        at_expiry: Mapping[Kind, AtExpiry] | None = None,
        audit: Trail | None = None,
        revoked: Callable[[Kind, float], None] | None = None,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._maximum = maximum
        self._per_issuer = max(1, maximum // 2) if per_issuer is None else per_issuer
        self._sessions = SESSIONS | dict(sessions_per_ticket)
        self._at_expiry = AT_EXPIRY | dict(at_expiry or {})
        self._news = News(audit)
        self._book = TicketBook(clock, self._news, sweep=sweep, purge=purge, revoked=revoked)

    # Installing and ending

    async def add(
        self, grant: Grant, *, issuer: str = "control", proof_end: float | None = None, trusted: bool = True
    ) -> Ticket:
        now = self._clock.seconds()
        ticket = self._book.find(grant.uuid)
        if not trusted and proof_end is not None and proof_end <= now:
            raise self._refusal("expired", grant.uuid, ticket)
        if ticket is None:
            self._make_room(grant.uuid, issuer, trusted)
            ticket = self._record(hash_id(grant.uuid), grant, issuer, trusted, proof_end)
            self._book.enter(ticket)
            self._news.tell("issued", ticket)
        elif trusted:
            ticket = self._replace(ticket, self._record(ticket.id_hash, grant, issuer, trusted, proof_end))
        else:
            self._prove(ticket, grant, now + grant.timeout if proof_end is None else proof_end)
        return ticket

    async def renew(self, uuid: str, timeout: float, urls: Sequence[str] = ()) -> None:
        now = self._clock.seconds()
        ticket = self._book.find(uuid)
        try:
            if ticket is None:
                raise Refused("unknown")
            state = self._book.next(ticket, Event.RENEW)
            if ticket.hard_end is not None and ticket.hard_end <= now:
                raise Refused("expired")
        except Refused as refused:
            raise errors.NotFound(f"No such ticket: {uuid}", reason=refused.reason) from None
        if urls:
            self._extend(ticket, urls)
        ticket.deadline = ticket.until(now + timeout)
        ticket.generation += 1
        if ticket.deadline > now:
            self._book.move(ticket, state)
        self._book.deadlines.arm(ticket)
        self._news.tell("renewed", ticket)
        self._book.expire_if_due(ticket)

    async def revoke(self, uuid: str, *, reason: str = "revoked", tombstone: bool = True) -> bool:
        ticket = self._book.find(uuid)
        if ticket is not None:
            self._revoke(ticket, reason, tombstone=tombstone)
        elif tombstone and len(self._book.tickets) < self._maximum:
            ticket = self._record(hash_id(uuid), _NOTHING, "control", True, None)
            self._book.enter(ticket)
            self._revoke(ticket, reason, tombstone=True)
            return False
        return ticket is not None

    async def revoke_all(
        self,
        *,
        kind: Kind | None = None,
        principal: str | None = None,
        mark: str | None = None,
        reason: str = "revoked",
    ) -> int:
        ordered = self._clock.seconds()
        found = [
            ticket
            for ticket in self._book.tickets.values()
            if ticket.state is not State.REVOKED
            and ticket.fits(kind, principal)
            and mark in (None, ticket.fingerprint)
        ]
        for ticket in found:
            self._revoke(ticket, reason, tombstone=True, ordered=ordered)
        return len(found)

    # Using

    async def authorize(
        self, uuid: str, op: str, *, kind: Kind, peer: str | None, joins: Hold | None = None
    ) -> Ticket:
        return self._authorize(uuid, op, kind, peer, joins)

    async def hold(
        self,
        uuid: str,
        op: str,
        *,
        kind: Kind,
        peer: str | None,
        ended: Callable[[str], None],
        joins: Hold | None = None,
    ) -> Hold:
        ticket = self._authorize(uuid, op, kind, peer, joins)
        self._check_limits(ticket, op, peer)
        joined = joins is not None and joins.open and joins.ticket is ticket
        if ticket.uses is not None and not joined:
            ticket.uses -= 1
        hold = Hold(ticket, op, ended, ticket.grant, joined=joined)
        ticket.holds[hold] = None
        self._book.move(ticket, State.ACTIVE)
        self._news.tell("redeemed", ticket, peer=peer)
        return hold

    def release(self, hold: Hold, *, touch: bool = True) -> None:
        if not hold.open:
            return
        hold.open = False
        ticket = hold.ticket
        del ticket.holds[hold]
        ticket.settle()
        if not self._book.has(ticket):
            return
        self._book.move(ticket, self._book.next(ticket, Event.RELEASE))
        if touch:
            self.touch(ticket)
        self._book.deadlines.arm(ticket)
        self._news.tell("released", ticket)
        if ticket.state is State.USED_UP:
            self._news.tell("used_up", ticket)

    def touch(self, ticket: Ticket) -> None:
        now = self._clock.seconds()
        ticket.last_used = now
        if ticket.rearm is None or not self._book.has(ticket):
            return
        # Whether the timer or the activity comes first must not matter.
        self._book.expire_if_due(ticket)
        deadline = ticket.until(now + ticket.rearm)
        before, state = ticket.state, self._book.next(ticket, Event.TOUCH)
        if state in LIVE and deadline > now:
            ticket.deadline = deadline
            self._book.move(ticket, state)
            self._book.deadlines.arm(ticket)
            if before is State.EXPIRED:
                self._news.tell("renewed", ticket)

    async def undo(self, hold: Hold) -> None:
        ticket = hold.ticket
        # A grant replaced meanwhile has uses of its own.
        if hold.open and not hold.joined and hold.grant is ticket.grant and ticket.uses is not None:
            heir = next((it for it in ticket.holds if it.joined), None)
            if heir is None:
                ticket.uses += 1
            else:
                # Whoever shares the use still has it.
                heir.joined = False
        self.release(hold, touch=False)

    # Looking

    async def get(self, uuid: str) -> Ticket | None:
        return self._book.find(uuid)

    async def info(self, uuid: str) -> dict[str, object]:
        ticket = self._book.find(uuid)
        if ticket is None or ticket.state is State.REVOKED:
            raise errors.NotFound(f"No such ticket {uuid!r}")
        return ticket.info(uuid, self._clock.seconds(), self._wall())

    async def list(
        self,
        *,
        kind: Kind | None = None,
        principal: str | None = None,
        state: State | None = None,
        after: str = "",
        limit: int = 100,
    ) -> Sequence[Ticket]:
        found = (
            ticket
            for ticket in self._book.tickets.values()
            if ticket.fits(kind, principal) and state in (None, ticket.state) and ticket.fingerprint > after
        )
        return nsmallest(limit, found, key=lambda ticket: ticket.id_hash)

    def gauges(self) -> Mapping[tuple[Kind, State], int]:
        return +self._book.gauges

    def watch(self, callback: Callable[[str, Ticket], None]) -> Callable[[], None]:
        return self._news.watch(callback)

    def stop(self) -> None:
        self._book.deadlines.stop()

    # Inside

    def _authorize(self, uuid: str, op: str, kind: Kind, peer: str | None, joins: Hold | None) -> Ticket:
        ticket = self._book.find(uuid)
        if ticket is None:
            raise self._refusal("unknown", uuid, None, peer)
        try:
            self._book.next(ticket, Event.REDEEM)
        except Refused as refused:
            joined = joins is not None and joins.open and joins.ticket is ticket
            if not joined or refused.reason != "used":
                raise self._refusal(refused.reason, uuid, ticket, peer) from None
        if ticket.kind is not kind:
            raise self._refusal("kind", uuid, ticket, peer)
        if not ticket.admits(peer):
            raise self._refusal("peer", uuid, ticket, peer)
        if not ticket.may(op):
            self._news.tell("refused", ticket, peer=peer, reason="forbidden")
            raise errors.Forbidden(f"Transfer={ticket.grant.transfer_id} forbids {op}")
        return ticket

    def _refusal(
        self, reason: str, uuid: str, ticket: Ticket | None, peer: str | None = None
    ) -> errors.NoTicket:
        if ticket is None:
            self._news.refuse(fingerprint(uuid), reason, peer)
        else:
            self._news.tell("refused", ticket, peer=peer, reason=reason)
        return errors.NoTicket(reason=reason)

    def _check_limits(self, ticket: Ticket, op: str, peer: str | None) -> None:
        same = sum(hold.op == op for hold in ticket.holds)
        of_op = {"read": ticket.max_readers, "write": ticket.max_writers}.get(op)
        limit = self._sessions[ticket.kind]
        if (limit is not None and len(ticket.holds) >= limit) or (of_op is not None and same >= of_op):
            self._news.tell("refused", ticket, peer=peer, reason="limit")
            raise errors.Unavailable("This ticket has as many sessions as it may have", reason="limit")

    def _make_room(self, uuid: str, issuer: str, trusted: bool) -> None:
        if len(self._book.tickets) < self._maximum and (
            trusted or self._book.issuers[issuer] < self._per_issuer
        ):
            return
        self._news.refuse(fingerprint(uuid), "full")
        raise errors.Unavailable("There are too many tickets", reason="full")

    def _record(
        self, id_hash: bytes, grant: Grant, issuer: str, trusted: bool, proof_end: float | None
    ) -> Ticket:
        now = self._clock.seconds()
        deadline = now + grant.timeout
        begun_in_time = grant.kind in BEGUN_IN_TIME and (proof_end is not None or not trusted)
        if proof_end is not None:
            # A proof says itself how long it is good; the engine may say less.
            deadline = min(deadline, proof_end) if trusted else proof_end
        return Ticket(
            id_hash,
            evolve(grant, uuid=""),
            issuer=issuer,
            trusted=trusted,
            created=self._wall(),
            deadline=deadline,
            hard_end=deadline if proof_end is None and not trusted else proof_end,
            last_used=now,
            at_expiry=AtExpiry.RUN if begun_in_time else self._at_expiry[grant.kind],
            uses=grant.uses,
        )

    def _replace(self, old: Ticket, new: Ticket) -> Ticket:
        """Put *new* where *old* was; sessions go on, bound to the new record, as far as it grants them."""
        word = "renewed" if old.state in LIVE else "issued"
        state = step(old.state, Event.ISSUE, busy=bool(old.holds), used=new.uses == 0, trusted=True)
        new.generation = old.generation + 1
        new.holds = old.holds
        for hold in new.holds:
            hold.ticket = new
        self._book.remove(old)
        self._book.enter(new)
        self._book.move(new, state)
        self._news.tell(word, new)
        self._book.expire_if_due(new)
        lost = [hold for hold in new.holds if hold.grant.kind is not new.kind or not new.may(hold.op)]
        self._book.cut(new, "revoked", lost)
        return new

    @staticmethod
    def _extend(ticket: Ticket, urls: Sequence[str]) -> None:
        """Let the ticket of a tunnel lead to *urls*, too."""
        old = ticket.grant
        known = dict.fromkeys((*old.urls, *urls))
        if ticket.kind is not Kind.TUNNEL:
            raise errors.BadRequest("Only the ticket of a tunnel can be given more urls")
        if len(known) > MOST_URLS:
            raise errors.BadRequest(f"Invalid value for 'urls': {MOST_URLS} in all are expected at most")
        ticket.grant = evolve(old, urls=tuple(known))
        for hold in ticket.holds:
            # It is the same grant still, with the same uses.
            if hold.grant is old:
                hold.grant = ticket.grant

    def _prove(self, ticket: Ticket, grant: Grant, end: float) -> None:
        """Renew *ticket* by a signed proof that is good until *end*."""
        known = ticket.grant
        fresher = not ticket.trusted and end > (ticket.hard_end or 0)
        try:
            state = step(
                ticket.state,
                Event.ISSUE,
                busy=bool(ticket.holds),
                used=ticket.uses == 0,
                revivable=fresher and ticket.kind in REVIVABLE,
            )
            if (known.kind, known.principal) != (grant.kind, grant.principal):
                raise Refused("mismatch")
        except Refused as refused:
            # This proof may be shown again until its end.
            ticket.purge_at = max(ticket.purge_at, end)
            raise self._refusal(refused.reason, grant.uuid, ticket) from None
        if not fresher:
            return
        uses = [number for number in (ticket.uses, grant.uses) if number is not None]
        ticket.grant = evolve(grant, uuid="")
        ticket.uses = min(uses, default=None)
        ticket.deadline = ticket.hard_end = end
        ticket.generation += 1
        self._book.move(ticket, state)
        self._book.deadlines.arm(ticket)
        self._news.tell("renewed", ticket)

    def _revoke(self, ticket: Ticket, reason: str, *, tombstone: bool, ordered: float | None = None) -> None:
        if ticket.state is not State.REVOKED:
            self._book.revoke(ticket, reason, self._clock.seconds() if ordered is None else ordered)
        if tombstone:
            self._book.deadlines.arm(ticket)
        elif self._book.has(ticket):
            self._book.remove(ticket)
