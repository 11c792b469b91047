"""The client library: everything the AMP endpoint offers, for Twisted.

.. code-block:: python

    from pathlib import Path

    from twisted.internet.task import react

    from gateway.rpc.client import connect


    async def main(reactor):
        gateway = await connect(
            reactor, "gateway.example.org", ca=[Path("ca.pem")], token="4444…", reconnect=True
        )
        host = await gateway.open("lab")
        for domain in await host.list_domains():
            print(domain.name, domain.state)
        await host.subscribe(["lifecycle"], print)
        web = await host.lookup(name="web")
        await web.start(request_id="start web, 17 March")
        gateway.close()


    react(main)

All that can go wrong is a :class:`gateway.errors.GatewayError`; see :mod:`gateway.rpc.client_objects`. Units
are bytes and seconds, times are in UTC. An answer is given up by cancelling the Deferred that waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from gateway import errors
from gateway.rpc import client_records as records
from gateway.rpc import commands
from gateway.rpc.client_events import Event, Events, Subscription
from gateway.rpc.client_host import Host
from gateway.rpc.client_link import FIRST, FURTHEST, PORT, Address, Link, Session
from gateway.rpc.client_objects import Domain, Network, Pool, as_json, read_json
from gateway.rpc.command import Command

__all__ = ["Domain", "Event", "Gateway", "Host", "Network", "Pool", "Session", "Subscription", "connect"]


async def connect(
    reactor: Any,
    host: str,
    port: int = PORT,
    *,
    ca: Sequence[x509.Certificate | Path],
    token: str | Callable[[], str] = "",
    certificate: Path | None = None,
    key: Path | None = None,
    reconnect: bool = False,
    timeout: float = 10.0,
    pause: float = FIRST,
    longest: float = FURTHEST,
) -> Gateway:
    """Connect to a gateway over TLS, and log in.

    :param ca: certificates of the CAs that may have signed the gateway's, or PEM files with them. The
        gateway's has to carry exactly *host*, a name or an address.
    :param token: a signed token, or the id of a ticket; something callable is asked for a fresh one before
        each login. Empty to log in by *certificate* alone.
    :param certificate: a PEM file with our own, and its *key*.
    :param reconnect: whether a lost connection is made again, with growing pauses. Meanwhile calls wait,
        subscriptions go on afterwards, and what only reads or has a ``request_id`` is asked again.
    :param timeout: seconds for TCP and TLS, and for the login.
    :param pause: seconds until a connection is made again, more or less, for the first time; each one takes
        twice as long, up to *longest*, and half of that.
    :raises gateway.errors.UpstreamFailed: the gateway is out of reach, or cannot prove itself.
    :raises gateway.errors.UpstreamTimeout: it does not answer.
    :raises gateway.errors.Unauthenticated: the token is no good.
    """
    events = Events()
    address = Address(host, port, tuple(ca), certificate, key, timeout)
    link = Link(
        reactor,
        address,
        token if callable(token) else lambda: token,
        [(commands.Event, events.event)],
        again=reconnect,
        pause=pause,
        longest=longest,
    )
    events.link = link
    link.renewed = events.renew
    gateway = Gateway(link, events)
    await link.open()
    return gateway


class Gateway:
    """A gateway that one has logged in to.

    :ivar ended: told once when the connection is lost for good, or the ticket is at its end.
    """

    def __init__(self, link: Link, events: Events) -> None:
        self.ended: Callable[[errors.GatewayError], object] = lambda reason: None
        self._link = link
        self._events = events
        link.ended = self._over

    def _over(self, reason: errors.GatewayError) -> None:
        self._events.end_all(reason)
        self.ended(reason)

    @property
    def session(self) -> Session:
        """Who one is, as of the last login."""
        return self._link.session

    @property
    def up(self) -> bool:
        """Whether there is a connection right now."""
        return self._link.up

    def close(self) -> None:
        """Hang up. Handles stay, until they expire."""
        self._link.close()

    async def ask(self, command: type[Command], **arguments: Any) -> dict[str, Any]:
        """Any command of :mod:`gateway.rpc.commands`, as it stands there."""
        return await self._link.ask(command, **arguments)

    # For everybody.

    async def version(self) -> tuple[str, int]:
        """The version of the gateway, and of the protocol."""
        answer = await self.ask(commands.Version)
        return answer["gateway"], answer["protocol"]

    async def targets(self) -> list[records.Target]:
        """The hypervisors one may open."""
        return [records.Target(**it) for it in (await self.ask(commands.Targets))["targets"]]

    async def open(
        self,
        target: str,
        *,
        name: str | None = None,
        readonly: bool = False,
        ttl: int | None = None,
        uri: str | None = None,
    ) -> Host:
        """Open a hypervisor; its handle lasts *ttl* seconds. *uri* is for operators only."""
        answer = await self.ask(
            commands.Open, target=target, name=name, readonly=readonly or None, ttl=ttl, uri=uri
        )
        return Host(self._link, self._events, **answer)

    def host(self, handle: str) -> Host:
        """Go on with a handle that was kept."""
        return Host(self._link, self._events, handle)

    async def handles(self) -> list[records.HandleInfo]:
        """The handles one has."""
        return [records.HandleInfo(**it) for it in (await self.ask(commands.Handles))["handles"]]

    async def cancel(self, request_id: str) -> records.Given:
        """Give up what was asked with this *request_id*."""
        return records.Given(**await self.ask(commands.Cancel, request_id=request_id))

    # For controllers and operators.

    async def add_ticket(self, ticket: Mapping[str, object]) -> None:
        """Install a ticket, or replace it."""
        await self.ask(commands.AddTicket, ticket=as_json(ticket))

    async def renew_ticket(self, ticket_id: str, timeout: float, urls: Sequence[str] = ()) -> None:
        """Let a ticket last *timeout* seconds from now, and a tunnel lead to *urls*, too."""
        await self.ask(commands.RenewTicket, id=ticket_id, timeout=timeout, urls=list(urls) or None)

    async def revoke_ticket(
        self, ticket_id: str | None = None, *, principal: str | None = None, kind: str | None = None
    ) -> int:
        """End one ticket, or all of a *principal* or *kind*; returns how many there were."""
        answer = await self.ask(commands.RevokeTicket, id=ticket_id, principal=principal, kind=kind)
        return int(answer["revoked"])

    async def get_ticket(self, ticket_id: str) -> dict[str, Any]:
        """A ticket, and what became of it."""
        return dict(read_json((await self.ask(commands.GetTicket, id=ticket_id))["ticket"]))

    async def list_tickets(
        self,
        *,
        kind: str | None = None,
        principal: str | None = None,
        state: str | None = None,
    ) -> list[dict[str, Any]]:
        """All tickets that match, by fingerprint."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            answer = await self.ask(
                commands.ListTickets, cursor=cursor or None, kind=kind, principal=principal, state=state
            )
            found += read_json(answer["tickets"])
            cursor = answer["cursor"]
            if not cursor:
                return found

    async def sessions(
        self, *, ticket: str | None = None, kind: str | None = None, principal: str | None = None
    ) -> list[dict[str, Any]]:
        """What is alive."""
        answer = await self.ask(commands.Sessions, ticket=ticket, kind=kind, principal=principal)
        return list(read_json(answer["sessions"]))

    async def end_session(self, session_id: str) -> None:
        """End a session."""
        await self.ask(commands.EndSession, id=session_id)

    async def drain(self) -> int:
        """Let the gateway take nothing new; returns how many sessions are alive."""
        return int((await self.ask(commands.Drain))["sessions"])

    async def reload(self) -> list[str]:
        """Let the gateway read its configuration again; returns its warnings."""
        return list((await self.ask(commands.Reload))["warnings"])

    async def audit(self, first: int | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Records of the audit trail, from number *first*, or the last *limit* of them."""
        answer = await self.ask(commands.Audit, from_=first, limit=limit)
        return list(read_json(answer["records"]))
