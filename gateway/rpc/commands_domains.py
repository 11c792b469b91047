"""Commands about domains; see :mod:`gateway.rpc.commands`."""

from __future__ import annotations

from gateway.rpc.arguments import (
    COUNT,
    FLAGS,
    JSON,
    LIMIT,
    REQUEST,
    SIZE,
    TEXT,
    TIME,
    WORD,
    WORD_OR_NONE,
    XML,
    AmpList,
    Big,
    Boolean,
    Float,
    Integer,
    ListOf,
)
from gateway.rpc.command import Command, fields

# Domains.


class ListDomains(Command):
    """A page of domains; ``id`` is -1 for one that is off, ``state`` a word such as ``running``.

    Who may not read a domain is told no state.
    """

    arguments = fields(handle=WORD, flags=FLAGS, cursor=WORD_OR_NONE, limit=LIMIT)
    response = fields(domains=AmpList(name=TEXT, uuid=TEXT, id=COUNT, state=TEXT, dom=TEXT), cursor=TEXT)


class Lookup(Command):
    """A domain by exactly one of ``name``, ``uuid`` and ``id``."""

    arguments = fields(
        handle=WORD,
        name=WORD_OR_NONE,
        uuid=WORD_OR_NONE,
        id=Integer(optional=True, least=0, greatest=2**31 - 1),
    )
    response = fields(dom=TEXT, name=TEXT, uuid=TEXT, id=COUNT, state=TEXT)


class Define(Command):
    """Make a domain that stays, or change it, without starting it."""

    arguments = fields(handle=WORD, xml=Big(), flags=FLAGS, request_id=REQUEST)
    response = fields(dom=TEXT, name=TEXT, uuid=TEXT)
    writes = True


class Create(Define):
    """Make a domain and start it; it is gone when it stops."""


class _Write(Command):
    """Does something to a domain."""

    arguments = fields(dom=WORD, flags=FLAGS, request_id=REQUEST)
    writes = True


class Undefine(_Write):
    """Forget a domain that is off; of one that runs, what would stay of it."""


class Start(_Write):
    """Start a domain that is off."""

    response = fields(id=COUNT)


class Shutdown(_Write):
    """Ask the guest to shut down; the answer means that it was asked."""


class Reboot(_Write):
    """Ask the guest to reboot."""


class Reset(_Write):
    """Reset the domain, as by its button."""


class Destroy(_Write):
    """Stop the domain at once, as by pulling its plug."""


class Suspend(_Write):
    """Stop its processors; everything stays in memory."""


class Resume(_Write):
    """Let its processors go on."""


class SetAutostart(Command):
    """Say whether the domain starts with its host."""

    arguments = fields(dom=WORD, on=Boolean(), flags=FLAGS, request_id=REQUEST)
    writes = True


class _Read(Command):
    """Tells something about a domain."""

    arguments = fields(dom=WORD, flags=FLAGS)


class GetAutostart(_Read):
    """Whether the domain starts with its host."""

    response = fields(on=Boolean())


class GetInfo(_Read):
    """State, memory now and at most, processors, and the time they were used, in seconds."""

    response = fields(state=TEXT, max_memory=SIZE, memory=SIZE, cpus=COUNT, cpu_time=Float())


class GetState(_Read):
    """State and its reason, as words."""

    response = fields(state=TEXT, reason=TEXT)


class GetXml(_Read):
    """The domain as libvirt's XML."""

    response = fields(xml=XML)


class GetStats(_Read):
    """What libvirt counts, as a JSON object such as ``{"cpu.time": 1}``; ``groups`` is its mask, or all."""

    arguments = fields(dom=WORD, groups=FLAGS, flags=FLAGS)
    response = fields(stats=JSON)


class GetInterfaces(_Read):
    """Network interfaces of the guest, addresses as ``192.0.2.1/24``.

    ``source`` is ``lease`` (unless said otherwise), ``agent`` or ``arp``.
    """

    arguments = fields(dom=WORD, source=WORD_OR_NONE, flags=FLAGS)
    response = fields(interfaces=AmpList(name=TEXT, mac=TEXT, addresses=ListOf(TEXT)))


# Consoles and pictures: answered with a ticket, and where to go with it.


class Console(Command):
    """A ticket for a serial console over websocket. ``options`` is a JSON object."""

    arguments = fields(dom=WORD, options=Big(optional=True, cap=16 * 1024))
    response = fields(ticket=TEXT, url=TEXT, expires=TIME)
    writes = True


class Graphics(Console):
    """A ticket for the screen over websocket."""


class Screenshot(Console):
    """A ticket for a picture of the screen over HTTPS."""
