"""The port of tunnels: CONNECT and nothing else.

A client shows its user no more of a refusal than the number, so each cause has its own: 407 no good ticket
(a dialog opens), 403 not there, 502 refused or unknown, 504 no answer, 503 full or draining.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from attrs import define, field
from OpenSSL import crypto
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, ISSLTransport

from gateway import errors
from gateway.core.dial import Dialer
from gateway.core.exchange import Exchange
from gateway.core.sessions import Session, SessionTable
from gateway.core.tickets import Kind
from gateway.core.web import Application, GatewaySite, Refusal
from gateway.tunnel.access import OP, Access, Admission
from gateway.tunnel.console import Console, Consoles
from gateway.tunnel.tunnel import SideFactory, Tunnel, Watch

#: Seconds to reach a target: clients give up after ten, and say nothing then.
DIAL = 5.0


@define(eq=False)
class TunnelService:
    """Answers every CONNECT.

    :ivar guarded: tunnels are cut that carry neither SPICE nor TLS.
    :ivar opened: told what each tunnel carries, as soon as that is known.
    :ivar dialed: told how each attempt to reach a target ended, and the seconds it took.
    """

    access: Access = field(repr=False)
    consoles: Consoles
    sessions: SessionTable = field(repr=False)
    dialer: Dialer = field(repr=False)
    clock: IReactorTime = field(repr=False)
    guarded: bool = True
    opened: Callable[[str], object] = field(default=lambda name: None, repr=False)
    dialed: Callable[[str, float], object] = field(default=lambda result, seconds: None, repr=False)

    def serve(self, site: GatewaySite) -> None:
        """Let *site* have tunnels, too; where it has nothing else, it knows no other method."""
        site.proxy = True
        if not site.routes and site.resource is site.root:
            site.resource = Refusal(errors.MethodNotAllowed(["CONNECT"]))
        site.routes.append(self.route)

    def route(self, exchange: Exchange) -> Application | None:
        """Name what answers *exchange*, if it is ours; see :class:`gateway.core.web.GatewaySite`."""
        if exchange.head.method == b"CONNECT":
            return self._answer
        # Whoever asks for a whole URL takes us for another kind of proxy.
        return None if exchange.head.target.startswith(b"/") else _refuse

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.head.chunked or exchange.head.length:
            raise errors.BadRequest("A CONNECT has no body", reason="body")
        admission = await self.access.admit(exchange.head, exchange.peer, _subject(exchange.transport))
        exchange.prove()
        console = self.consoles.place(admission.key)
        try:
            tunnel = _Opening(self, admission, console)
            await tunnel.open()
        finally:
            self.consoles.given(admission.key, console)
        await tunnel.run(exchange)


class _Opening:
    """One tunnel, from the use of its ticket to the end of its session."""

    def __init__(self, service: TunnelService, admission: Admission, console: Console) -> None:
        guarded = service.guarded and admission.scheme == "spice"
        self._service = service
        self._admission = admission
        self._console = console
        self._session: Session
        self._tunnel = Tunnel(service.clock, Watch(self._moved, self._named, self._grouped), guarded=guarded)
        self._dialing: Deferred[Any] | None = None
        self._word = ""

    async def open(self) -> None:
        """Use the ticket, and reach the target; the use is given back where that fails.

        :raises gateway.errors.GatewayError: there is no tunnel.
        """
        service, admission = self._service, self._admission
        self._session = session = await self._begin()
        self._console.enter(session)
        self._dialing = dialing = Deferred.fromCoroutine(
            service.dialer.connect(
                admission.scheme,
                admission.target.host,
                admission.target.port,
                SideFactory(self._tunnel.server),
            )
        )
        began, result = service.clock.seconds(), "left"
        try:
            await dialing.addTimeout(DIAL, service.clock)
            result = "ok"
        except defer.TimeoutError:
            result = "connect"
            await self._undo(result)
            raise errors.UpstreamTimeout(reason="connect") from None
        except errors.GatewayError as error:
            result = error.reason
            await self._undo(result)
            raise
        except CancelledError:
            if self._word:
                self._closed(self._word)
                raise errors.ProxyUnauthorized(reason=self._word) from None
            await self._undo("left")
            raise
        finally:
            self._dialing = None
            service.dialed(result, service.clock.seconds() - began)

    async def run(self, exchange: Exchange) -> None:
        """Let the bytes pass, as long as the client is there; the session may last a little longer."""
        self._tunnel.over.addCallback(self._closed)
        exchange.upgrade(self._tunnel.client, 200)
        gone: Deferred[None] = Deferred()
        with suppress(CancelledError):
            await gone

    def _closed(self, word: str) -> None:
        self._console.leave(self._session)
        self._session.close(word)

    async def _begin(self) -> Session:
        service, admission = self._service, self._admission
        if admission.ticket_id is None:
            return service.sessions.open_free(
                str(Kind.TUNNEL),
                OP,
                peer=admission.peer,
                target=admission.name,
                ended=self._ended,
                principal=admission.principal,
                listener="tunnel",
            )
        return await service.sessions.open(
            admission.ticket_id,
            OP,
            kind=Kind.TUNNEL,
            peer=admission.peer,
            target=admission.name,
            ended=self._ended,
            listener="tunnel",
            joins=service.consoles.session(admission.key, admission.peer),
        )

    async def _undo(self, reason: str) -> None:
        self._console.leave(self._session)
        await self._service.sessions.undo(self._session, reason)

    def _ended(self, word: str) -> None:
        """The session must end now."""
        self._word = word
        if self._dialing is not None:
            self._dialing.cancel()
        self._tunnel.end(word)

    def _moved(self, sent: int, received: int) -> None:
        self._session.bytes_in += sent
        self._session.bytes_out += received
        self._console.moved()

    def _named(self, name: str) -> None:
        self._session.target = f"{self._admission.name} {name}"
        self._service.opened(name)

    def _grouped(self, number: int) -> None:
        # Numbers of two machines have nothing to do with each other.
        self._console.group(self._session, (self._admission.target.host, number))


def _subject(transport: Any) -> str | None:
    """The subject of the certificate that was shown on a connection, and verified."""
    if not ISSLTransport.providedBy(transport):
        return None
    certificate = cast(crypto.X509 | None, transport.getPeerCertificate())
    return None if certificate is None else certificate.to_cryptography().subject.rfc4514_string()


async def _refuse(exchange: Exchange) -> None:
    raise errors.MethodNotAllowed(["CONNECT"])
