"""Signed tokens as tickets: what somebody shows becomes an entry of the registry, under its rules."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve, field, frozen
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core.tickets import Kind, TicketRegistry
from gateway.core.tokens import TokenVerifier
from gateway.wire.ticket_json import grant_from


@frozen
class Proofs:
    """Takes tokens in.

    :ivar wall: seconds since the epoch, to which signed times refer.
    """

    registry: TicketRegistry = field(repr=False)
    tokens: TokenVerifier = field(repr=False)
    clock: IReactorTime = field(repr=False)
    wall: Callable[[], float] = field(repr=False)

    async def install(self, text: str, kind: Kind) -> str:
        """Verify a token; return the id of its ticket, which is in the registry then.

        :raises gateway.errors.NoTicket: it is no good.
        """
        try:
            claims = self.tokens.verify(text, kind)
            ends = self.clock.seconds() + claims.expires + self.tokens.skew - self.wall()
            left = max(1, int(ends - self.clock.seconds()))
            grant = grant_from({"timeout": left, "principal": claims.principal, **claims.grant})
            if grant.uuid == claims.mark:
                # An engine's token has no id. No request can name this one, for ids hold no colon.
                grant = evolve(grant, uuid=f"signed:{claims.mark}")
            if claims.one_time and await self.registry.get(grant.uuid) is None:
                self.tokens.redeem(claims)
        except (errors.Unauthorized, errors.BadRequest) as error:
            reason = "shape" if isinstance(error, errors.BadRequest) else error.reason
            raise errors.NoTicket(reason=reason) from error
        await self.registry.add(grant, issuer=claims.issuer, proof_end=ends, trusted=False)
        return grant.uuid
