"""Commands for controllers and operators; see :mod:`gateway.rpc.commands`.

They take and answer the JSON of the control listener.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.core.ticket import MOST_URLS
from gateway.rpc.arguments import (
    COUNT,
    JSON,
    LIMIT,
    TEXT,
    WORD,
    WORD_OR_NONE,
    Big,
    Boolean,
    Float,
    Integer,
    ListOf,
    Unicode,
)
from gateway.rpc.command import Command, Fields, fields


class _Order(Command):
    """What only some may ask."""

    admin: ClassVar[bool] = True


class AddTicket(_Order):
    """Install a ticket, or replace it; the JSON is that of ``PUT /tickets/ID``."""

    arguments = fields(ticket=Big(cap=64 * 1024))
    writes = True


class RenewTicket(_Order):
    """Let a ticket last ``timeout`` seconds from now.

    ``urls`` are where a tunnel may lead, too, such as ``spice://host2:5900``; what it has stays.
    """

    arguments = fields(
        id=WORD,
        timeout=Float(least=0.0),
        urls=ListOf(Unicode(), optional=True, most=32 * 1024, longest=MOST_URLS),
    )
    writes = True


class RevokeTicket(_Order):
    """End a ticket and all that lives under it: one by ``id``, or all of a ``principal`` or ``kind``.

    Answers how many there were.
    """

    arguments = fields(id=WORD_OR_NONE, principal=WORD_OR_NONE, kind=WORD_OR_NONE)
    response = fields(revoked=COUNT)
    writes = True


class GetTicket(_Order):
    """A ticket as ``GET /tickets/ID`` shows it."""

    arguments = fields(id=WORD)
    response = fields(ticket=JSON)


class ListTickets(_Order):
    """A page of tickets, an array in JSON, as ``GET /tickets/`` shows them."""

    arguments = fields(
        cursor=WORD_OR_NONE, limit=LIMIT, kind=WORD_OR_NONE, principal=WORD_OR_NONE, state=WORD_OR_NONE
    )
    response = fields(tickets=JSON, cursor=TEXT)


class Sessions(_Order):
    """What is alive, an array in JSON; ``ticket`` is an id or a fingerprint."""

    arguments = fields(ticket=WORD_OR_NONE, kind=WORD_OR_NONE, principal=WORD_OR_NONE)
    response = fields(sessions=JSON)


class EndSession(_Order):
    """End a session by its public id."""

    arguments = fields(id=WORD)
    writes = True


class Drain(_Order):
    """Take nothing new; answers how many sessions are alive."""

    response = fields(draining=Boolean(), sessions=COUNT)
    writes = True


class Reload(_Order):
    """Read the configuration again; answers warnings."""

    response = fields(warnings=ListOf(Unicode()))
    writes = True


class Audit(_Order):
    """Records of the audit trail, an array in JSON, ``limit`` at most.

    ``from`` is the number of the first one, by default as many before the end as ``limit`` says.
    """

    arguments: ClassVar[Fields] = [
        (b"from", Integer(optional=True, least=0)),
        (b"limit", LIMIT),
    ]
    response = fields(records=JSON)
