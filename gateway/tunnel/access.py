"""Who may go where: from what a CONNECT shows to one target that a ticket, or a rule, allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

from attrs import define, field, frozen

from gateway import errors
from gateway.core.proofs import Proofs
from gateway.core.ticket import hash_id
from gateway.core.tickets import Kind, Ticket, TicketRegistry
from gateway.tunnel.console import Consoles
from gateway.tunnel.credential import Credential, find
from gateway.wire.authority import Authority, parse_authority
from gateway.wire.http_head import RequestHead
from gateway.wire.ticket_json import Grant

#: Ports of consoles, where no ticket says which. Source: libvirt and oVirt.
PORTS = frozenset(range(5900, 6924))
OP = "connect"


@frozen
class Admission:
    """A client that may have a tunnel.

    :ivar ticket_id: what the registry knows its ticket by; None where a rule lets it in.
    :ivar key: of the console that this tunnel belongs to.
    :ivar scheme: what the policy calls the target.
    :ivar principal: who it is, where no ticket says that.
    """

    ticket_id: str | None = field(repr=False)
    key: object = field(repr=False)
    peer: str | None
    scheme: str
    target: Authority
    principal: str = ""

    @property
    def name(self) -> str:
        """Of the target, for people."""
        return f"{self.scheme}://{self.target}"


@define(eq=False)
class Access:
    """Judges requests.

    :ivar consoles: that are up.
    :ivar ports: that may be named; None for those of the ticket.
    :ivar free: whether an address needs no ticket.
    :ivar subjects: of certificates that are as good as a ticket; empty for all that were verified.
    """

    registry: TicketRegistry = field(repr=False)
    proofs: Proofs = field(repr=False)
    consoles: Consoles = field(repr=False)
    ports: Collection[int] | None = None
    free: Callable[[str], bool] = field(default=lambda peer: False, repr=False)
    subjects: Collection[str] = ()

    async def admit(self, head: RequestHead, peer: str, subject: str | None = None) -> Admission:
        """Judge a request; nothing is used up by it, and nothing was dialed.

        :param subject: of the client's certificate, if it showed one.
        :raises gateway.errors.BadRequest: it makes no sense.
        :raises gateway.errors.ProxyUnauthorized: it shows no ticket, or none that opens a tunnel now.
        :raises gateway.errors.Forbidden: its ticket is for something else.
        """
        authority = parse_authority(head.target)
        credential = find(head, authority)
        if credential is None:
            return self._without(authority, peer, subject)
        try:
            ticket_id = (
                credential.text
                if credential.is_id
                else await self.proofs.install(credential.text, Kind.TUNNEL)
            )
            key = hash_id(ticket_id)
            ticket = await self.registry.authorize(
                ticket_id, OP, kind=Kind.TUNNEL, peer=peer, joins=self.consoles.hold(key, peer)
            )
        except errors.NoTicket as error:
            raise self._refusal(credential, error.reason) from error
        scheme, target = self._target(ticket, authority)
        return Admission(ticket_id, key, peer, scheme, target)

    def _without(self, authority: Authority, peer: str, subject: str | None) -> Admission:
        """Where no ticket is shown a rule has to let the client in."""
        known = subject is not None and (not self.subjects or subject in self.subjects)
        if not known and not self.free(peer):
            raise errors.ProxyUnauthorized("A ticket is needed", reason="missing")
        if authority.port not in (PORTS if self.ports is None else self.ports):
            raise errors.Forbidden("This port may not be reached", reason="port")
        principal = subject if known and subject is not None else ""
        return Admission(None, (principal or peer, authority.host), peer, "spice", authority, principal)

    @staticmethod
    def _refusal(credential: Credential, reason: str) -> errors.GatewayError:
        if credential.of_host:
            return errors.NoTicket(reason=reason)
        return errors.ProxyUnauthorized("The ticket is unknown, or it has expired", reason=reason)

    def _target(self, ticket: Ticket, wanted: Authority) -> tuple[str, Authority]:
        """What *ticket* allows of what is *wanted*; a host of words is any host of the ticket."""
        if self.ports is None or wanted.port in self.ports:
            for scheme, target in targets_of(ticket.grant):
                if target.port == wanted.port and (target.host == wanted.host or wanted.words):
                    return scheme, target
        raise errors.Forbidden("This ticket does not lead there", reason="target")


def places(grant: Grant) -> Iterator[tuple[str, str, int]]:
    """Where *grant* leads to: scheme, host and port, as the policy is asked."""
    return ((scheme, target.host, target.port) for scheme, target in targets_of(grant))


def targets_of(grant: Grant) -> Iterator[tuple[str, Authority]]:
    """Every place that *grant* names: a SPICE server has two ports."""
    for url in grant.urls:
        parts = urlsplit(url)
        ports = [parts.port, *(port for name, port in parse_qsl(parts.query) if name == "tls-port")]
        for port in ports if parts.hostname is not None else ():
            # There are such as tls-port=-1, which means that there is none.
            with suppress(ValueError, errors.BadRequest):
                yield parts.scheme, parse_authority(f"{parts.hostname}:{port}".encode("ascii"))
