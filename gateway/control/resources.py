"""What engines and operators ask: ``/tickets/``, ``/fingerprints/``, ``/sessions/`` and more, see the tree.

Tickets are answered exactly as by ovirt-imageio 2.5, texts and codes included, so that an engine
notices no difference. Whoever reaches this listener is trusted: it is a socket with a mode, or
loopback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.resource import Resource

from gateway import errors
from gateway.core.sessions import SessionTable
from gateway.core.ticket_state import State
from gateway.core.tickets import Ticket, TicketRegistry, fingerprint
from gateway.core.web import Answer, Leaf, Tree
from gateway.wire.ticket_json import Grant, Kind, parse_patch, parse_ticket

#: Ids shorter than this can be guessed.
_SHORT = 20
#: Seconds between two looks at the sessions of a ticket that is being removed.
_POLL = 0.005
_EMPTY = Answer(b"")
_NO_CONTENT = Answer(b"", 204)


@frozen
class Orders:
    """What the control listener may ask of the process.

    :ivar status: returns what ``GET /status`` shows.
    :ivar drain: begins to drain; returns the number of live sessions.
    :ivar reload: reads the configuration again; returns warnings.
    :ivar recordings: returns what is there, behind a name and so many at most.
    :ivar foresee: returns what the policy will say of where a ticket leads to.
    """

    status: Callable[[], Mapping[str, object]]
    drain: Callable[[], int]
    reload: Callable[[], Awaitable[list[str]]]
    recordings: Callable[[str, int], Awaitable[list[dict[str, object]]]]
    foresee: Callable[[Grant], Awaitable[list[dict[str, object]]]]


def control_tree(
    registry: TicketRegistry,
    sessions: SessionTable,
    orders: Orders,
    clock: IReactorTime,
    wall: Callable[[], float],
    remove_timeout: Callable[[], float],
    pages: Resource | None = None,
) -> Resource:
    """Return the root resource of the control listener.

    :param remove_timeout: seconds DELETE waits for the sessions of a ticket.
    :param pages: what is below ``ui``, for administrators with a browser.
    """
    root = Tree()
    if pages is not None:
        root.putChild(b"ui", pages)
    root.putChild(b"tickets", _Tickets(registry, clock, wall, remove_timeout))
    root.putChild(b"fingerprints", _Fingerprints(registry))
    root.putChild(b"sessions", _Sessions(sessions))
    root.putChild(b"recordings", _Recordings(orders))
    root.putChild(b"policy", _Policy(orders))
    root.putChild(b"status", _Status(orders))
    root.putChild(b"drain", _Drain(orders))
    root.putChild(b"reload", _Reload(orders))
    return root


def _name(request: Any) -> str:
    """What stands below the resource, percent-decoded by ``twisted.web`` already."""
    return b"/".join(request.postpath).decode("utf-8", "replace")


def _argument(request: Any, name: str) -> str | None:
    values = request.args.get(name.encode("ascii"))
    return values[-1].decode("utf-8", "replace") if values else None


def _limit(request: Any) -> int:
    """How many items of a list are asked for.

    :raises gateway.errors.BadRequest: it is no number.
    """
    try:
        return max(1, min(int(_argument(request, "limit") or 100), 1000))
    except ValueError as error:
        raise errors.BadRequest("No such kind, state or limit") from error


class _PlainLeaf(Leaf):
    """A leaf that refuses in plain text, as the imageio daemon does."""

    def refuse(self, request: Any, error: errors.GatewayError) -> bytes:
        request.setResponseCode(error.status)
        for name, value in error.headers:
            request.setHeader(name, value)
        body = error.text.encode("utf-8") + b"\n"
        request.setHeader(b"content-type", b"text/plain; charset=UTF-8")
        request.setHeader(b"content-length", b"%d" % len(body))
        return body


class _Tickets(_PlainLeaf):
    """``/tickets/`` and ``/tickets/ID``."""

    _log = Logger()

    def __init__(
        self,
        registry: TicketRegistry,
        clock: IReactorTime,
        wall: Callable[[], float],
        remove_timeout: Callable[[], float],
    ) -> None:
        super().__init__()
        self._registry = registry
        self._clock = clock
        self._wall = wall
        self._remove_timeout = remove_timeout

    async def on_get(self, request: Any) -> Answer:
        ticket_id = _name(request)
        if not ticket_id:
            return await self._list(request)
        try:
            return Answer(await self._registry.info(ticket_id))
        except errors.NotFound as error:
            raise errors.NotFound(f"No such ticket {ticket_id[:128]!r}", reason=error.reason) from error

    async def _list(self, request: Any) -> Answer:
        try:
            kind = Kind(text) if (text := _argument(request, "kind")) else None
            state = State(text) if (text := _argument(request, "state")) else None
            limit = _limit(request)
        except ValueError as error:
            raise errors.BadRequest("No such kind, state or limit") from error
        found = await self._registry.list(
            kind=kind,
            principal=_argument(request, "principal"),
            state=state,
            after=_argument(request, "after") or "",
            limit=limit,
        )
        now, wall = self._clock.seconds(), self._wall()
        more = found[-1].fingerprint if len(found) == limit else None
        return Answer({"tickets": [ticket.summary(now, wall) for ticket in found], "next": more})

    async def on_put(self, request: Any) -> Answer:
        if not _name(request):
            raise errors.BadRequest("Ticket id is required")
        grant = parse_ticket(request.content.read())
        if len(grant.uuid) < _SHORT:
            self._log.warn(
                "ticket {ticket}: an id of {length} characters can be guessed",
                ticket=fingerprint(grant.uuid),
                length=len(grant.uuid),
            )
        await self._registry.add(grant)
        return _EMPTY

    async def on_patch(self, request: Any) -> Answer:
        ticket_id = _name(request)
        if not ticket_id:
            raise errors.BadRequest("Ticket id is required")
        renewal = parse_patch(request.content.read())
        await self._registry.renew(ticket_id, renewal.timeout, renewal.urls)
        return _EMPTY

    async def on_delete(self, request: Any) -> Answer:
        """Revoke; sessions are cut at once, and the answer waits until they are gone."""
        ticket_id = _name(request)
        if not ticket_id:
            await self._registry.revoke_all()
            return _NO_CONTENT
        ticket = await self._registry.get(ticket_id)
        await self._registry.revoke(ticket_id)
        if ticket is not None and not await self._idle(ticket):
            raise errors.Conflict(f"Timeout cancelling transfer {ticket.grant.transfer_id}")
        return _NO_CONTENT

    async def _idle(self, ticket: Ticket) -> bool:
        give_up = self._clock.seconds() + self._remove_timeout()
        while ticket.holds or ticket.pending:
            if self._clock.seconds() >= give_up:
                return False
            await deferLater(self._clock, _POLL, lambda: None)
        return True


class _Fingerprints(Leaf):
    """``/fingerprints/FINGERPRINT``: for who knows no ids, and must not."""

    def __init__(self, registry: TicketRegistry) -> None:
        super().__init__()
        self._registry = registry

    async def on_delete(self, request: Any) -> Answer:
        """Revoke what has this fingerprint; its sessions are cut at once."""
        if not await self._registry.revoke_all(mark=_name(request)):
            raise errors.NotFound("No such ticket, or it was revoked before")
        return _NO_CONTENT


class _Sessions(Leaf):
    """``/sessions/`` and ``/sessions/ID``."""

    def __init__(self, sessions: SessionTable) -> None:
        super().__init__()
        self._sessions = sessions

    async def on_get(self, request: Any) -> Answer:
        if (number := _name(request)) != "":
            session = self._sessions.get(number)
            if session is None:
                raise errors.NotFound("No such session")
            return Answer(session.as_dict())
        kind, principal = _argument(request, "kind"), _argument(request, "principal")
        ticket = _argument(request, "ticket")
        found = self._sessions.list(ticket=ticket, kind=kind, principal=principal)
        if ticket is not None and not found:
            found = self._sessions.list(ticket=fingerprint(ticket), kind=kind, principal=principal)
        return Answer({"sessions": [session.as_dict() for session in found]})

    async def on_delete(self, request: Any) -> Answer:
        if not self._sessions.kill(_name(request)):
            raise errors.NotFound("No such session")
        return _NO_CONTENT


class _Recordings(Leaf):
    """``/recordings/``."""

    def __init__(self, orders: Orders) -> None:
        super().__init__()
        self._orders = orders

    async def on_get(self, request: Any) -> Answer:
        if _name(request):
            raise errors.NotFound("Only the list of recordings is here")
        limit = _limit(request)
        found = await self._orders.recordings(_argument(request, "after") or "", limit)
        more = found[-1]["name"] if len(found) == limit else None
        return Answer({"recordings": found, "next": more})


class _Policy(_PlainLeaf):
    """``/policy``."""

    def __init__(self, orders: Orders) -> None:
        super().__init__()
        self._orders = orders

    async def on_post(self, request: Any) -> Answer:
        """Judge the targets of a ticket, written as for ``PUT /tickets/ID``, which is not installed."""
        return Answer({"targets": await self._orders.foresee(parse_ticket(request.content.read()))})


class _Status(Leaf):
    """``/status``."""

    def __init__(self, orders: Orders) -> None:
        super().__init__()
        self._orders = orders

    async def on_get(self, request: Any) -> Answer:
        return Answer(self._orders.status())


class _Drain(Leaf):
    """``/drain``."""

    def __init__(self, orders: Orders) -> None:
        super().__init__()
        self._orders = orders

    async def on_post(self, request: Any) -> Answer:
        return Answer({"draining": True, "sessions": self._orders.drain()})


class _Reload(Leaf):
    """``/reload``."""

    def __init__(self, orders: Orders) -> None:
        super().__init__()
        self._orders = orders

    async def on_post(self, request: Any) -> Answer:
        try:
            warnings = await self._orders.reload()
        except errors.ConfigError as error:
            problem = {
                "type": "urn:gateway:config",
                "title": "The new configuration cannot be used; the old one stays",
                "status": 400,
                "problems": list(error.problems),
            }
            return Answer(problem, 400, b"application/problem+json")
        return Answer({"reloaded": True, "warnings": warnings})
