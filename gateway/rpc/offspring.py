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
    """

    registry: TicketRegistry
    clock: IReactorTime
    over: Callable[[bytes], object]
    log = Logger()
    _children: dict[bytes, dict[str, Ticket]] = field(factory=dict, init=False)

    def watch(self) -> None:
        """Follow what becomes of all tickets."""
        self.registry.watch(self._told)

    async def add(self, caller: Caller, grant: Grant, life: float | None) -> tuple[str, float]:
        """Install a ticket for *caller*; return its id, and seconds until it ends.

        :param grant: without an id, a principal and an end.
        :param life: seconds.
        :raises gateway.errors.Unavailable: there are too many tickets.
        """
        uuid, parent = token_urlsafe(24), caller.ticket
        seconds = LIFE if life is None else life
        if parent is not None:
            if caller.session.closed:
                raise errors.Expired
            seconds = min(seconds, parent.deadline - self.clock.seconds())
        made = evolve(grant, uuid=uuid, principal=caller.principal, timeout=max(1, round(seconds)))
        ticket = await self.registry.add(made, issuer="rpc")
        if parent is not None:
            self._children.setdefault(parent.id_hash, {})[uuid] = ticket
        return uuid, made.timeout

    def _told(self, word: str, ticket: Ticket) -> None:
        if word not in _ENDED:
            return
        if word != "purged":
            self.over(ticket.id_hash)
        for uuid in self._children.pop(ticket.id_hash, {}):
            work = Deferred.fromCoroutine(self.registry.revoke(uuid, reason="revoked", tombstone=False))
            work.addErrback(lambda failure: self.log.failure("a ticket outlives its parent", failure))
        if word == "purged":
            for children in list(self._children.values()):
                for uuid in [each for each, child in children.items() if child is ticket]:
                    del children[uuid]
