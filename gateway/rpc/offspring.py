"""Tickets that the endpoint gives out for a console or a volume: each ends with the ticket of who asked."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_urlsafe

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway import errors
from gateway.core.tickets import Grant, Ticket, TicketRegistry
from gateway.rpc.login import Caller

#: Seconds that one is good for, unless somebody says otherwise and the ticket of who asked ends later.
LIFE = 300.0
#: Words for what ended, of :meth:`TicketRegistry.watch`.
_ENDED = frozenset({"expired", "revoked", "used_up", "purged"})


@define(eq=False)
class Offspring:
    """Knows which tickets come from which.

    :ivar over: told the hash of a ticket that has ended.
    :ivar renewed: told the hash of a ticket that was renewed, and the seconds until it ends.
    """

    registry: TicketRegistry
    clock: IReactorTime
    over: Callable[[bytes], object]
    renewed: Callable[[bytes, float], object]
    log = Logger()
    #: Ids of tickets by their hashes, by the hash of the ticket that each came from; and the way back.
    _children: dict[bytes, dict[bytes, str]] = field(factory=dict, init=False, repr=False)
    _parents: dict[bytes, bytes] = field(factory=dict, init=False)

    def watch(self) -> None:
        """Follow what becomes of all tickets."""
        self.registry.watch(self._told)

    async def add(self, caller: Caller, grant: Grant, life: float | None) -> tuple[str, float]:
        """Install a ticket for *caller*; return its id, and seconds until it ends.

        :param grant: without an id, a principal and an end.
        :param life: seconds.
        :raises gateway.errors.Expired: the session of *caller* is over.
        :raises gateway.errors.Unavailable: there are too many tickets.
        """
        uuid, parent = token_urlsafe(24), caller.ticket
        seconds = LIFE if life is None else life
        if parent is not None:
            seconds = min(seconds, parent.deadline - self.clock.seconds())
        made = evolve(grant, uuid=uuid, principal=caller.principal, timeout=max(1, round(seconds)))
        ticket = await self.registry.add(made, issuer="rpc")
        if parent is not None:
            self._children.setdefault(parent.id_hash, {})[ticket.id_hash] = uuid
            self._parents[ticket.id_hash] = parent.id_hash
        if caller.session.closed:
            self._revoke(uuid)
            raise errors.Expired
        return uuid, made.timeout

    def _told(self, word: str, ticket: Ticket) -> None:
        if word == "renewed":
            self.renewed(ticket.id_hash, ticket.deadline - self.clock.seconds())
        if word not in _ENDED:
            return
        if word != "purged":
            self.over(ticket.id_hash)
        for child, uuid in self._children.pop(ticket.id_hash, {}).items():
            self._parents.pop(child, None)
            self._revoke(uuid)
        if word == "purged":
            parent = self._parents.pop(ticket.id_hash, b"")
            siblings = self._children.get(parent, {})
            siblings.pop(ticket.id_hash, None)
            if not siblings:
                self._children.pop(parent, None)

    def _revoke(self, uuid: str) -> None:
        work = Deferred.fromCoroutine(self.registry.revoke(uuid, reason="revoked", tombstone=False))
        work.addErrback(lambda failure: self.log.failure("a ticket outlives its parent", failure))
