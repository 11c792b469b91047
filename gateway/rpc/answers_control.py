"""What the commands for operators and controllers do: tickets, sessions, and orders to the process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from attrs import frozen

from gateway import errors
from gateway.core.sessions import SessionTable
from gateway.core.ticket_state import State
from gateway.core.tickets import Kind, TicketRegistry, fingerprint
from gateway.rpc import commands
from gateway.rpc.command import Command
from gateway.rpc.seat import Answer, Responder, Seat
from gateway.wire.ticket_json import LONGEST, more_urls, parse_ticket

#: Things in a list unless the client says otherwise, and at most.
_PAGE, _MOST = 100, 1000


@frozen
class Orders:
    """What operators may ask of the process.

    :ivar drain: begins to drain; returns the number of live sessions.
    :ivar reload: reads the configuration again; returns warnings.
    :ivar audit: records of the trail, from a number on, so many at most; from None so many at the end.
    """

    registry: TicketRegistry
    sessions: SessionTable
    drain: Callable[[], int]
    reload: Callable[[], Awaitable[list[str]]]
    audit: Callable[[int | None, int], Sequence[Mapping[str, object]]]


async def _add(orders: Orders, seat: Seat, ticket: str) -> Answer:
    await orders.registry.add(parse_ticket(ticket.encode("utf-8", "surrogatepass")))
    return {}


async def _renew(
    orders: Orders,
    seat: Seat,
    id: str,  # noqa: A002  # its name
    timeout: float,
    urls: list[str] | None,
) -> Answer:
    if timeout > LONGEST:
        raise errors.BadArguments("timeout", f"at most {LONGEST} seconds are expected")
    await orders.registry.renew(id, timeout, more_urls(urls or ()))
    return {}


async def _revoke(
    orders: Orders,
    seat: Seat,
    id: str | None,  # noqa: A002  # its name
    principal: str | None,
    kind: str | None,
) -> Answer:
    if id is not None:
        if principal is not None or kind is not None:
            raise errors.BadArguments("id", "a ticket is named by its id, or by what it is, not by both")
        return {"revoked": int(await orders.registry.revoke(id))}
    if principal is None and kind is None:
        raise errors.BadArguments("id", "an id, a principal or a kind is expected")
    found = _kind(kind)
    return {"revoked": await orders.registry.revoke_all(kind=found, principal=principal)}


def _kind(word: str | None) -> Kind | None:
    try:
        return None if word is None else Kind(word)
    except ValueError:
        raise errors.BadArguments("kind", f"one of {', '.join(Kind)} is expected") from None


async def _get(orders: Orders, seat: Seat, id: str) -> Answer:  # noqa: A002  # its name
    return {"ticket": json.dumps(await orders.registry.info(id))}


async def _list(
    orders: Orders,
    seat: Seat,
    cursor: str | None,
    limit: int | None,
    kind: str | None,
    principal: str | None,
    state: str | None,
) -> Answer:
    try:
        wanted = None if state is None else State(state)
    except ValueError:
        raise errors.BadArguments("state", f"one of {', '.join(State)} is expected") from None
    number = min(limit or _PAGE, _MOST)
    found = await orders.registry.list(
        kind=_kind(kind), principal=principal, state=wanted, after=cursor or "", limit=number
    )
    now, wall = seat.desk.clock.seconds(), seat.desk.wall()
    rows = [ticket.summary(now, wall) for ticket in found]
    more = found[-1].fingerprint if len(found) == number else ""
    return {"tickets": json.dumps(rows), "cursor": more}


async def _sessions(
    orders: Orders, seat: Seat, ticket: str | None, kind: str | None, principal: str | None
) -> Answer:
    found = orders.sessions.list(ticket=ticket, kind=kind, principal=principal)
    if ticket is not None and not found:
        found = orders.sessions.list(ticket=fingerprint(ticket), kind=kind, principal=principal)
    return {"sessions": json.dumps([session.as_dict() for session in found])}


async def _end(orders: Orders, seat: Seat, id: str) -> Answer:  # noqa: A002  # its name
    if orders.sessions.get(id) is None:
        raise errors.NotFound("No such session")
    # This may be the session that asks, which shall get its answer.
    seat.soon(lambda: orders.sessions.kill(id))
    return {}


async def _drain(orders: Orders, seat: Seat) -> Answer:
    return {"draining": True, "sessions": orders.drain()}


async def _reload(orders: Orders, seat: Seat) -> Answer:
    try:
        return {"warnings": await orders.reload()}
    except errors.ConfigError as error:
        text = "The new configuration cannot be used; the old one stays"
        raise errors.Conflict("\n".join((text, *error.problems)), reason="config") from error


async def _audit(orders: Orders, seat: Seat, from_: int | None, limit: int | None) -> Answer:
    return {"records": json.dumps(orders.audit(from_, min(limit or _PAGE, _MOST)))}


def responders(orders: Orders) -> Mapping[type[Command], Responder]:
    """The commands, which give *orders*."""
    table: Mapping[type[Command], Responder] = {
        commands.AddTicket: _add,
        commands.RenewTicket: _renew,
        commands.RevokeTicket: _revoke,
        commands.GetTicket: _get,
        commands.ListTickets: _list,
        commands.Sessions: _sessions,
        commands.EndSession: _end,
        commands.Drain: _drain,
        commands.Reload: _reload,
        commands.Audit: _audit,
    }
    return {command: partial(act, orders) for command, act in table.items()}
