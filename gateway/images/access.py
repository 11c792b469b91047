"""Who may do what to an image: the four dialects of image proxies, told apart and reduced to tickets.

===========  =============================================  ================================
dialect      how a client shows its right                   renewal
===========  =============================================  ================================
0.x - 1.0    ``Authorization`` on every request             a fresher ``Authorization``
1.1 - 1.2    ``POST /sessions/``, then ``Session-Id``       ``POST`` again with both
1.2.1 - 1.6  ``PUT /tickets/`` of a signed ticket           ``PUT`` again
2.x          the ticket id in the path, nothing else        ``PATCH`` on the control listener
===========  =============================================  ================================

Source: ovirt-imageio-proxy 1.0 to 1.6; ovirt-imageio 2.5.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from urllib.parse import parse_qs

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from gateway import errors
from gateway.core.exchange import Exchange
from gateway.core.tickets import Ticket, TicketRegistry
from gateway.core.tokens import Claims, TokenVerifier
from gateway.wire.http_head import RequestHead
from gateway.wire.ticket_json import LARGEST, Kind, grant_from

_MAX_SESSIONS = 10_000


@frozen
class _Session:
    """A handle of the 1.1 dialect on a ticket.

    :ivar ends: monotonic seconds.
    """

    ticket_id: str = field(repr=False)
    token: str = field(repr=False)
    ends: float


@define
class Access:
    """Turns what a request carries into an entry of the registry.

    :ivar wall: seconds since the epoch, to which signed times refer.
    """

    registry: TicketRegistry = field(repr=False)
    tokens: TokenVerifier = field(repr=False)
    clock: IReactorTime = field(repr=False)
    wall: Callable[[], float] = field(repr=False)
    _sessions: dict[str, _Session] = field(factory=dict, repr=False)
    _by_token: dict[str, str] = field(factory=dict, repr=False)

    # -- images ----------------------------------------------------------------------------

    async def admit(self, exchange: Exchange, ticket_id: str) -> bool:
        """Take in what *exchange* carries beside *ticket_id*.

        :return: whether it carried a credential of the 1.x dialects, so that a refusal is a 401.
        :raises gateway.errors.Unauthorized: the credential is no good.
        """
        session_id = self._session_id(exchange.head)
        authorization = exchange.head.get(b"authorization")
        if authorization is not None:
            await self._authorization(exchange, ticket_id, authorization, session_id)
        elif session_id is not None:
            session = self._live(session_id)
            if session is None:
                raise errors.Unauthorized("Invalid session id or session expired", reason="session")
            if session.ticket_id != ticket_id:
                raise errors.BadRequest("Requested resource must match transfer ticket")
        return authorization is not None or session_id is not None

    async def _authorization(
        self, exchange: Exchange, ticket_id: str, authorization: bytes, session_id: str | None
    ) -> None:
        known = await self.registry.get(ticket_id)
        if known is not None and known.trusted:
            # The engine itself installed it: as with the originals the header means nothing.
            return
        try:
            claims = self._verify(authorization.decode("latin-1"))
            if claims.grant["uuid"] != ticket_id:
                raise errors.Unauthorized(reason="purpose")
        except errors.Unauthorized:
            if known is not None and session_id is None:
                # Pieces of one upload carry the first token, while the stored one was renewed.
                return
            raise
        await self._install(claims)
        made = self._open(claims, session_id)
        exchange.note.append((b"session-id", made.encode("ascii")))

    # -- sessions, 1.1 to 1.2 --------------------------------------------------------------

    async def open_session(self, exchange: Exchange) -> str:
        """``POST /sessions/``: return the id of a new session, or of the one that was renewed.

        :raises gateway.errors.Unauthorized: the token is missing or no good.
        """
        authorization = exchange.head.get(b"authorization")
        if authorization is None:
            session_id = self._session_id(exchange.head)
            if session_id is not None and self._live(session_id) is not None:
                return session_id
            raise errors.Unauthorized
        claims = self._verify(authorization.decode("latin-1"))
        await self._install(claims)
        return self._open(claims, self._session_id(exchange.head))

    async def close_session(self, session_id: str) -> None:
        """``DELETE /sessions/ID``: forget the session, and end what its ticket keeps alive.

        :raises gateway.errors.NotFound: there is no such session.
        """
        session = self._live(session_id)
        if session is None:
            raise errors.NotFound(f"No such session '{session_id}'")
        self._forget(session_id)
        if all(other.ticket_id != session.ticket_id for other in self._sessions.values()):
            await self.drop(session.ticket_id)

    def _open(self, claims: Claims, session_id: str | None) -> str:
        """Renew *session_id*, or make a session: one for each token, under an id of our own."""
        if session_id is None or self._live(session_id) is None:
            session_id = self._by_token.get(claims.digest)
        if session_id is None or self._live(session_id) is None:
            if len(self._sessions) >= _MAX_SESSIONS:
                self._purge()
            session_id = secrets.token_urlsafe(24)
        else:
            self._forget(session_id)
        self._sessions[session_id] = _Session(
            str(claims.grant["uuid"]), claims.digest, self._monotonic(claims.expires)
        )
        self._by_token[claims.digest] = session_id
        return session_id

    def _live(self, session_id: str) -> _Session | None:
        session = self._sessions.get(session_id)
        if session is not None and session.ends <= self.clock.seconds():
            self._forget(session_id)
            return None
        return session

    def _forget(self, session_id: str) -> None:
        session = self._sessions.pop(session_id)
        if self._by_token.get(session.token) == session_id:
            del self._by_token[session.token]

    def _purge(self) -> None:
        now = self.clock.seconds()
        for session_id in [key for key, session in self._sessions.items() if session.ends <= now]:
            self._forget(session_id)
        if len(self._sessions) >= _MAX_SESSIONS:
            raise errors.Unavailable(reason="full")

    # -- ticket store, 1.2.1 to 1.6 --------------------------------------------------------

    async def store(self, signed: bytes) -> None:
        """``PUT /tickets/``: install or renew what the ticket *signed* says.

        :raises gateway.errors.Forbidden: it is no good.
        """
        try:
            await self._install(self._verify(signed.decode("latin-1").strip()))
        except errors.Unauthorized as error:
            raise errors.Forbidden(
                f"Error verifying signed ticket: {error.text}", reason=error.reason
            ) from error

    async def drop(self, ticket_id: str) -> None:
        """``DELETE /tickets/ID`` by its holder; a ticket of the engine is not his to drop.

        He may take it up again while its token is good: no tombstone.
        """
        known = await self.registry.get(ticket_id)
        if known is not None and not known.trusted:
            await self.registry.revoke(ticket_id, reason="dropped", tombstone=False)

    # -- parts -----------------------------------------------------------------------------

    def _verify(self, text: str) -> Claims:
        scheme, _, token = text.partition(" ")
        return self.tokens.verify(token if scheme.lower() == "bearer" else text, Kind.IMAGE)

    async def _install(self, claims: Claims) -> Ticket:
        ticket_id = str(claims.grant["uuid"])
        if claims.one_time and await self.registry.get(ticket_id) is None:
            self.tokens.redeem(claims)
        ends = self._monotonic(claims.expires)
        left = max(1, int(ends - self.clock.seconds()))
        # The 1.x payload names neither size nor timeout: the host knows the one, the proof the other.
        grant = grant_from({"size": LARGEST, "timeout": left, "principal": claims.principal, **claims.grant})
        try:
            return await self.registry.add(grant, issuer=claims.issuer, proof_end=ends, trusted=False)
        except errors.NoTicket as error:
            # To whoever shows a token, it is the token that is no good.
            raise errors.Unauthorized(error.text, reason=error.reason) from error

    def _monotonic(self, wall: float) -> float:
        return self.clock.seconds() + wall + self.tokens.skew - self.wall()

    def _session_id(self, head: RequestHead) -> str | None:
        """The session a request names; in one place only.

        :raises gateway.errors.Unauthorized: it names two.
        """
        query = head.target.partition(b"?")[2].decode("ascii")
        try:
            asked = parse_qs(query, max_num_fields=16).get("session_id", [])
        except ValueError as error:
            raise errors.BadRequest("The query has too many parts") from error
        fields = [value for name, value in head.fields if name in (b"session-id", b"x-session-id")]
        found = {*asked, *(value.decode("latin-1") for value in fields)}
        if len(found) > 1:
            raise errors.Unauthorized(reason="session")
        return found.pop() if found else None
