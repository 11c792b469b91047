"""Who may have a console: from what a request shows to a ticket, a session, and for SPICE its channels.

1. :meth:`Access.admit` judges a request's head: where its page is from, where the ticket stands, the ticket
   itself. Nothing is used up by it, and nothing was dialed.
2. :meth:`Access.open` uses the ticket, in one step that only one of many concurrent requests passes. For
   SPICE, where a console is several websockets, :meth:`Access.channel` does, once the link message is in.
3. The owner closes the session, or has it undone when the target was out of reach.

An engine's token is good for one session. It becomes a ticket of the registry whose id nobody can show, so
that the registry's own rules (uses, limits, revocation, replay) hold for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.consoles.credential import PREFIXES, Credential, find
from gateway.consoles.origin import Origins
from gateway.consoles.spice_console import SpiceChannel, SpiceConsoles
from gateway.consoles.targets import Target, targets_of
from gateway.core.proofs import Proofs
from gateway.core.sessions import Session, SessionTable
from gateway.core.tickets import Ticket, TicketRegistry
from gateway.core.tokens import TokenVerifier
from gateway.wire.http_head import RequestHead
from gateway.wire.spice_link import LinkMessage
from gateway.wire.ticket_json import Kind

#: Live consoles of one principal.
PER_PRINCIPAL = 32


@frozen
class Admission:
    """A client that may have a console, unless its ticket is used up meanwhile.

    :ivar ticket_id: what the registry knows the ticket by.
    :ivar key: SHA-256 of what was shown.
    :ivar op: ``control``, or ``view``.
    :ivar targets: where the console is, see :func:`gateway.consoles.targets.choose`.
    :ivar secret: what to show to the target on the client's behalf.
    :ivar user: in whose name.
    :ivar joins: it showed a ticket under which a SPICE console is up: it may become a channel of that.
    :ivar shared: it gets what others see who look at the same console.
    :ivar record: what it sees is kept.
    :ivar takeover: it controls the console even if somebody else did before.
    """

    ticket_id: str = field(repr=False)
    key: bytes = field(repr=False)
    op: str
    peer: str | None
    principal: str
    targets: tuple[Target, ...]
    secret: str | None = field(repr=False)
    user: str = field(repr=False)
    joins: bool = False
    shared: bool = False
    record: bool = False
    takeover: bool = False


@define(eq=False)
class Access:
    """Turns what requests show into sessions.

    :ivar wall: seconds since the epoch, to which signed times refer.
    :ivar prefixes: of paths that hold the id of a ticket.
    :ivar per_principal: live consoles of one principal, None for any number.
    """

    registry: TicketRegistry = field(repr=False)
    tokens: TokenVerifier = field(repr=False)
    sessions: SessionTable = field(repr=False)
    origins: Origins
    clock: IReactorTime = field(repr=False)
    wall: Callable[[], float] = field(repr=False)
    prefixes: Sequence[str] = PREFIXES
    per_principal: int | None = PER_PRINCIPAL
    _proofs: Proofs = field(init=False, repr=False)
    _spice: SpiceConsoles = field(init=False, repr=False)
    _opening: Counter[str] = field(factory=Counter, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._proofs = Proofs(self.registry, self.tokens, self.clock, self.wall)
        self._spice = SpiceConsoles(self.sessions)

    async def admit(self, head: RequestHead, peer: str | None) -> Admission:
        """Judge a request.

        :raises gateway.errors.NoTicket: it shows no ticket, or none that opens a console now.
        :raises gateway.errors.Forbidden: its page, or what the ticket grants, says no.
        :raises gateway.errors.BadRequest: it shows two tickets.
        """
        return await self.judge(find(head, self.prefixes), head, peer)

    async def judge(self, credential: Credential, head: RequestHead, peer: str | None) -> Admission:
        """Judge a request that shows *credential*; see :meth:`admit`."""
        self.origins.check(head, ambient=credential.ambient)
        key = sha256(credential.text.encode("utf-8")).digest()
        for console in self._spice.under(key):
            # The ticket may be used up or at its end; it is still good for a channel of this session.
            if (ticket := console.ticket) is not None and ticket.admits(peer):
                return self._admission(console.ticket_id, key, ticket, peer, joins=True)
        ticket_id = (
            credential.text if credential.is_id else await self._proofs.install(credential.text, Kind.CONSOLE)
        )
        try:
            ticket = await self.registry.authorize(ticket_id, "view", kind=Kind.CONSOLE, peer=peer)
        except errors.NoTicket:
            raise
        except errors.Forbidden as error:
            raise errors.Forbidden("This ticket opens no console", reason=error.reason) from error
        return self._admission(ticket_id, key, ticket, peer, joins=False)

    async def open(self, admission: Admission, *, target: str, ended: Callable[[str], None]) -> Session:
        """Use the ticket.

        :param target: what will be reached, for people.
        :param ended: called once with a word, when the console must end for a reason of ours.
        :raises gateway.errors.NoTicket: somebody was faster, or the ticket has ended.
        :raises gateway.errors.Unavailable: ticket or principal have as many consoles as they may have.
        """
        with self._place(admission.principal):
            return await self.sessions.open(
                admission.ticket_id,
                admission.op,
                kind=Kind.CONSOLE,
                peer=admission.peer,
                target=target,
                ended=ended,
                listener="consoles",
            )

    async def channel(
        self,
        admission: Admission,
        link: LinkMessage,
        *,
        target: str,
        ended: Callable[[str], None],
        session: Session | None = None,
    ) -> SpiceChannel:
        """Use the ticket for a SPICE console, or let a channel into one that is up.

        :param session: what was opened before it was known that this is SPICE; its owner passes the word
            that ends it on to the console.
        :raises gateway.errors.GatewayError: as :meth:`open`.
        :raises gateway.errors.Forbidden: the channel is of another session, reason ``connection_id``, or of a
            type that is not for those who only look.
        """
        if link.begins_session:
            return await self._begin(admission, link, target, ended, session)
        for console in self._spice.under(admission.key):
            if console.connection_id is not None and console.connection_id == link.connection_id != 0:
                return console.join(link, admission.op, ended)
        raise errors.Forbidden("This channel belongs to no console of this ticket", reason="connection_id")

    async def unreached(self, channel: SpiceChannel, reason: str) -> None:
        """The server was out of reach: give the use of the ticket back. For others, undo the session."""
        await self._spice.unreached(channel, reason)

    # -- parts -----------------------------------------------------------------------------

    async def _begin(
        self,
        admission: Admission,
        link: LinkMessage,
        target: str,
        ended: Callable[[str], None],
        session: Session | None,
    ) -> SpiceChannel:
        console = self._spice.enter(admission.key, admission.ticket_id)
        try:
            channel = console.main = console.join(link, admission.op, ended)
            if session is None:
                session = await self.open(admission, target=target, ended=console.end)
            console.session = session
            return channel
        finally:
            if console.session is None:
                console.abandon()

    def _admission(
        self, ticket_id: str, key: bytes, ticket: Ticket, peer: str | None, *, joins: bool
    ) -> Admission:
        targets = targets_of(ticket)
        # A hypervisor lets us in by itself, and asks for no password.
        secret = None if targets[0].place is not None else ticket.grant.secret
        return Admission(
            ticket_id,
            key,
            "control" if ticket.may("control") else "view",
            peer,
            ticket.grant.principal,
            targets,
            secret,
            ticket.grant.principal if ticket.grant.user is None else ticket.grant.user,
            joins,
            ticket.grant.shared,
            ticket.grant.record,
            ticket.may("takeover"),
        )

    @contextmanager
    def _place(self, principal: str) -> Iterator[None]:
        """One console more of *principal*, while it is being opened."""
        if principal and self.per_principal is not None:
            live = len(self.sessions.list(kind=Kind.CONSOLE, principal=principal))
            if live + self._opening[principal] >= self.per_principal:
                raise errors.Unavailable("You have as many consoles as you may have", reason="limit")
        self._opening[principal] += 1
        try:
            yield
        finally:
            self._opening[principal] -= 1
            self._opening += Counter()  # drops what is zero
