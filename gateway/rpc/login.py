"""Who is on the other end: a ticket, a signed token or a certificate becomes a caller with a session.

A caller's rights are those of its ticket. Operators (*admins*) are holders of a certificate that the
configuration names, and of tickets of the control listener that have the op ``admin``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Any

from attrs import define, field

from gateway import errors
from gateway.core.proofs import Proofs
from gateway.core.sessions import Session, SessionTable
from gateway.core.tickets import Grant, Hold, Kind, Rights, Ticket, TicketRegistry

#: What a ticket has to permit, and what makes its holder an operator.
OP, ADMIN = "call", "admin"
_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
#: Whoever needs no ticket may do everything.
_EVERYTHING = Rights(("*",), ("*",))


@define(eq=False)
class Caller:
    """Somebody who has logged in.

    :ivar hold: on its ticket; None for a certificate.
    :ivar known: what was made for it by those who know whether that is still good.
    """

    principal: str
    session: Session = field(repr=False)
    hold: Hold | None = field(repr=False, default=None)
    known: dict[bytes, Any] = field(factory=dict, init=False, repr=False)

    @property
    def admin(self) -> bool:
        """Whether this is an operator."""
        return self.ticket is None or (self.ticket.trusted and ADMIN in self.ticket.grant.ops)

    @property
    def ticket(self) -> Ticket | None:
        """The ticket as it is now: whoever installs it again changes what it says."""
        return None if self.hold is None else self.hold.ticket

    @property
    def grant(self) -> Grant | None:
        """What the ticket says now."""
        return None if self.hold is None else self.hold.ticket.grant

    @property
    def rights(self) -> Rights:
        """What may be done, and with which domains; a ticket that does not say permits nothing."""
        return _EVERYTHING if self.grant is None else self.grant.rights or Rights()

    @property
    def ticket_hash(self) -> bytes:
        """What the ticket is known by; empty without one."""
        return b"" if self.ticket is None else self.ticket.id_hash

    def may_use(self, target: str) -> bool:
        """Whether the ticket names *target*; a glob may."""
        return self.grant is None or any(fnmatchcase(target, each) for each in self.grant.targets)


@define(eq=False)
class Logins:
    """Turns what is shown into callers.

    :ivar subjects: globs on the distinguished names of certificates that make operators; empty for none.
    :ivar admit: raises when an address has shown too many bad credentials to show another one now.
    """

    registry: TicketRegistry = field(repr=False)
    proofs: Proofs = field(repr=False)
    sessions: SessionTable = field(repr=False)
    kind: str
    listener: str
    subjects: Collection[str] = ()
    admit: Callable[[str], object] = lambda peer: None

    async def token(self, text: str, peer: str | None, ended: Callable[[str], None]) -> Caller:
        """Log in with a signed token, or the id of a ticket.

        :param ended: told with a word when the ticket ends, in that very moment.
        :raises gateway.errors.Unauthenticated: it opens nothing; ``reason`` says why, and only the log.
        :raises gateway.errors.Busy: it is in use as often as it may be.
        :raises gateway.errors.TooManyRequests: *peer* has to wait.
        """
        self.admit(peer or "")
        try:
            ticket_id = text if _ID.fullmatch(text) else await self.proofs.install(text, Kind.RPC)
            session = await self.sessions.open(
                ticket_id, OP, kind=Kind.RPC, peer=peer, target=self.kind, ended=ended, listener=self.listener
            )
        except errors.Forbidden as error:
            raise errors.Unauthenticated(
                "The ticket is unknown, or it has expired", reason=error.reason
            ) from error
        except errors.Unavailable as error:
            raise errors.Busy("The ticket is in use as often as it may be", reason=error.reason) from error
        hold = session.hold
        if hold is None:
            raise errors.Unauthenticated(reason="revoked")
        return Caller(session.principal, session, hold)

    async def check(self, text: str, peer: str | None) -> None:
        """Look whether :meth:`token` would let somebody in.

        :raises gateway.errors.Unauthenticated: it would not.
        """
        try:
            ticket_id = text if _ID.fullmatch(text) else await self.proofs.install(text, Kind.RPC)
            await self.registry.authorize(ticket_id, OP, kind=Kind.RPC, peer=peer)
        except errors.Forbidden as error:
            raise errors.Unauthenticated(
                "The ticket is unknown, or it has expired", reason=error.reason
            ) from error

    def certificate(self, subject: str, peer: str | None, ended: Callable[[str], None]) -> Caller:
        """Log in with a certificate that was verified.

        :param subject: its distinguished name, as :func:`subject_of` writes it.
        :raises gateway.errors.Unauthenticated: it is none of ours.
        """
        if not any(fnmatchcase(subject, each) for each in self.subjects):
            raise errors.Unauthenticated("This certificate is not accepted here", reason="subject")
        return self._operator(subject, peer, ended)

    def local(self, name: str, ended: Callable[[str], None]) -> Caller:
        """Log in a user of this machine, whom the kernel vouches for."""
        return self._operator(name, None, ended)

    def _operator(self, name: str, peer: str | None, ended: Callable[[str], None]) -> Caller:
        session = self.sessions.open_free(
            str(Kind.RPC),
            ADMIN,
            peer=peer,
            target=self.kind,
            ended=ended,
            principal=name,
            listener=self.listener,
        )
        return Caller(name, session)


def subject_of(transport: Any) -> str | None:
    """The subject of the certificate that was shown on a connection, and verified.

    As libvirt writes it: in the order of the certificate, without spaces.
    Source: libvirt's virnettlscontext.c, tls_allowed_dn_list.
    """
    certificate = transport.getPeerCertificate() if hasattr(transport, "getPeerCertificate") else None
    if certificate is None:
        return None
    names = certificate.to_cryptography().subject.rdns
    return ",".join(name.rfc4514_string() for name in names)
