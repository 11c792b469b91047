"""What a page may know about the console of its ticket, before it connects and while it is connected.

=============  =========================================================================
``kind``       ``vnc``, ``spice``, ``serial`` or ``raw``
``op``         ``control``, or ``view``
``ends_in``    seconds until the ticket ends the console; null when time does not end it
``shared``     whether others may look at the same console
``record``     whether what it shows is kept
=============  =========================================================================
"""

from __future__ import annotations

import json

from gateway import errors
from gateway.consoles.access import Access
from gateway.consoles.credential import OWN, Credential, bearer
from gateway.consoles.targets import choose, targets_of
from gateway.core.exchange import Exchange, Field
from gateway.core.ticket import AtExpiry
from gateway.core.ticket_state import State
from gateway.core.tickets import Ticket
from gateway.wire.http_head import RequestHead
from gateway.wire.ticket_json import Kind

_FIELDS: list[Field] = [
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]


def is_about(head: RequestHead) -> bool:
    """Whether *head* asks about a console, instead of for one."""
    return head.method == b"GET" and head.target == OWN.encode("ascii") and not head.count(b"upgrade")


async def answer(access: Access, exchange: Exchange) -> None:
    """Say what the ticket of *exchange* opens. Nothing is used up by it, and nothing dialed.

    :raises gateway.errors.GatewayError: as :meth:`gateway.consoles.access.Access.admit`.
    """
    ticket = await _ticket(access, bearer(exchange.head), exchange)
    exchange.prove()
    left = ticket.deadline - access.clock.seconds()
    document = {
        "kind": str(choose(targets_of(ticket), b"").kind),
        "op": "control" if ticket.may("control") else "view",
        "ends_in": None if ticket.at_expiry is AtExpiry.RUN else max(0.0, round(left, 1)),
        "shared": ticket.grant.shared,
        "record": ticket.grant.record,
    }
    exchange.respond(200, _FIELDS, json.dumps(document).encode("ascii") + b"\n")


async def _ticket(access: Access, credential: Credential, exchange: Exchange) -> Ticket:
    """The ticket that is shown: one that opens a console, or had its last use for one that is up."""
    try:
        admission = await access.judge(credential, exchange.head, exchange.peer)
        ticket = await access.registry.get(admission.ticket_id)
    except errors.NoTicket:
        ticket = await access.registry.get(credential.text) if credential.is_id else None
        if ticket is None or ticket.kind is not Kind.CONSOLE or ticket.state is not State.ACTIVE:
            raise
        if not ticket.admits(exchange.peer):
            raise
    if ticket is None:
        raise errors.NoTicket(reason="unknown")
    return ticket
