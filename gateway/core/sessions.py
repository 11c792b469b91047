"""What is alive: every transfer, console, tunnel and connection, who has it, and how to end it.

A session holds its ticket from :meth:`SessionTable.open` to :meth:`Session.close`; when the ticket is
revoked, or an operator kills the session, its owner's ``ended`` is called and the session is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gateway import errors
from gateway.core.logs import rfc3339
from gateway.core.ticket import Hold, TicketRegistry
from gateway.core.ticket_news import Trail
from gateway.wire.ticket_json import Kind


@define(eq=False)
class Session:
    """Something alive; its owner adds to the counters and closes it.

    :ivar id: a public number, no secret.
    :ivar fingerprint: of the ticket, empty for a session without.
    :ivar peer: address of the client, None for one without.
    :ivar readonly: nothing can be changed with it.
    :ivar console: the first session of all that one viewer has, by its id; empty where that is not known.
    :ivar since: seconds since the epoch.
    :ivar bytes_in: from the client.
    :ivar bytes_out: to the client.
    """

    _table: SessionTable = field(repr=False)
    _ended: Callable[[str], None] = field(repr=False)
    kind: str
    op: str
    peer: str | None
    target: str
    listener: str
    since: float
    started: float
    id: str = field(factory=lambda: token_hex(6))
    fingerprint: str = ""
    principal: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    readonly: bool = False
    console: str = ""
    closed: bool = field(default=False, init=False)
    hold: Hold | None = field(default=None, init=False, repr=False)
    _rate: float = field(default=0.0, init=False, repr=False)
    _mark: tuple[float, int] = field(default=(0.0, 0), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._mark = (self.started, 0)

    @property
    def rate(self) -> float:
        """Bytes a second both ways, since somebody last asked and at least over one second."""
        now, total = self._table.clock.seconds(), self.bytes_in + self.bytes_out
        then, before = self._mark
        if now - then >= 1:
            self._rate = (total - before) / (now - then)
            self._mark = (now, total)
        return self._rate

    def end(self, reason: str) -> None:
        """Have the owner end it; it is closed afterwards, even if the owner fails to do so."""
        if self.closed:
            return
        with self._table.log.failuresHandled("session {session} failed to end", session=self.id):
            self._ended(reason)
        self.close(reason, touch=False)

    def become(self, op: str) -> None:
        """Do *op* from now on, instead of what it did: the audit trail says so."""
        if op != self.op and not self.closed:
            self.op = op
            self._table.changed(self)

    def close(self, reason: str, *, touch: bool = True) -> None:
        """Release the ticket and leave the table; only the first call counts.

        :param touch: the end of this session is activity that may renew the ticket.
        """
        if not self.closed:
            self.closed = True
            self._table.remove(self, reason, touch)

    def as_dict(self) -> dict[str, object]:
        """What ``GET /sessions/`` shows."""
        return {
            "id": self.id,
            "kind": self.kind,
            "ticket": self.fingerprint,
            "op": self.op,
            "principal": self.principal,
            "peer": self.peer,
            "target": self.target,
            "readonly": self.readonly,
            "console": self.console,
            "listener": self.listener,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "since": rfc3339(self.since),
            "rate": round(self.rate),
        }


class SessionTable:
    """All live sessions of this process.

    :param wall: seconds since the epoch, for people.
    :param audit: gets ``session.open``, ``session.op`` and ``session.close``.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        wall: Callable[[], float],
        registry: TicketRegistry,
        audit: Trail | None = None,
    ) -> None:
        self.clock = clock
        self._wall = wall
        self._registry = registry
        self._audit = audit
        self._sessions: dict[str, Session] = {}

    async def open(
        self,
        uuid: str,
        op: str,
        *,
        kind: Kind,
        peer: str | None,
        target: str,
        ended: Callable[[str], None],
        listener: str = "",
        joins: Session | None = None,
    ) -> Session:
        """Begin *op* under a ticket.

        :param joins: what this is a part of: it shares the use of the ticket.
        :param target: what it reaches, for people; never with an id or a secret in it.
        :param ended: called once with a word, when the session must end for a reason of ours.
        :raises NoTicket, Forbidden, Unavailable: as :meth:`TicketRegistry.hold`.
        """
        session = self._new(ended, str(kind), op, peer, target, listener)
        shared = None if joins is None else joins.hold
        hold = await self._registry.hold(uuid, op, kind=kind, peer=peer, ended=session.end, joins=shared)
        if session.closed:
            # A shared registry may have revoked the ticket while its answer was on the way.
            self._registry.release(hold, touch=False)
            raise errors.NoTicket(reason="revoked")
        hold.session = session.id
        session.hold = hold
        session.fingerprint = hold.ticket.fingerprint
        session.principal = hold.ticket.grant.principal
        self._enter(session)
        return session

    def open_free(
        self,
        kind: str,
        op: str,
        *,
        peer: str | None,
        target: str,
        ended: Callable[[str], None],
        principal: str = "",
        listener: str = "",
    ) -> Session:
        """Begin something that needs no ticket, such as a request to the portal."""
        session = self._new(ended, kind, op, peer, target, listener)
        session.principal = principal
        self._enter(session)
        return session

    async def undo(self, session: Session, reason: str) -> None:
        """Close a session whose target was out of reach, and give the use of its ticket back."""
        if not session.closed and session.hold is not None:
            await self._registry.undo(session.hold)
        session.close(reason, touch=False)

    def get(self, number: str) -> Session | None:
        """Return the live session with this public id."""
        return self._sessions.get(number)

    def list(
        self, *, ticket: str | None = None, kind: str | None = None, principal: str | None = None
    ) -> tuple[Session, ...]:
        """Return the live sessions that match, oldest first; *ticket* is a fingerprint."""
        return tuple(
            session
            for session in self._sessions.values()
            if ticket in (None, session.fingerprint)
            and kind in (None, session.kind)
            and principal in (None, session.principal)
        )

    def __len__(self) -> int:
        return len(self._sessions)

    def kill(self, number: str, reason: str = "killed") -> bool:
        """End a session from outside; return whether there was one."""
        session = self._sessions.get(number)
        if session is None:
            return False
        session.end(reason)
        return True

    def changed(self, session: Session) -> None:
        """Only for :meth:`Session.become`."""
        self._record("session.op", session, op=session.op)

    def remove(self, session: Session, reason: str, touch: bool) -> None:
        """Only for :meth:`Session.close`."""
        if self._sessions.pop(session.id, None) is None:
            return
        hold, session.hold = session.hold, None
        if hold is not None:
            self._registry.release(hold, touch=touch)
        self._record(
            "session.close",
            session,
            reason=reason,
            bytes_in=session.bytes_in,
            bytes_out=session.bytes_out,
            duration_ms=round((self.clock.seconds() - session.started) * 1000),
        )

    def _new(
        self,
        ended: Callable[[str], None],
        kind: str,
        op: str,
        peer: str | None,
        target: str,
        listener: str,
    ) -> Session:
        return Session(self, ended, kind, op, peer, target, listener, self._wall(), self.clock.seconds())

    def _enter(self, session: Session) -> None:
        self._sessions[session.id] = session
        self._record("session.open", session)

    def _record(self, event: str, session: Session, **fields: object) -> None:
        if self._audit is not None:
            self._audit(
                event,
                kind=session.kind,
                session=session.id,
                ticket=session.fingerprint or None,
                principal=session.principal or None,
                peer=session.peer,
                listener=session.listener or None,
                target=session.target,
                console=session.console or None,
                **fields,
            )
