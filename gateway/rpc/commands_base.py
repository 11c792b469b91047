"""Commands about the connection, handles, the hypervisor, and events; see :mod:`gateway.rpc.commands`."""

from __future__ import annotations

from gateway.rpc.arguments import (
    COUNT,
    JSON,
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
    Unicode,
)
from gateway.rpc.command import Command, fields

_SECONDS = Integer(optional=True, least=1, greatest=2**31 - 1)


# The connection.


class Login(Command):
    """Say who one is, by a signed token or the id of a ticket; first of all."""

    arguments = fields(token=Unicode(most=16000))
    response = fields(session=TEXT, principal=TEXT, expires=TIME, features=ListOf(TEXT))


class Version(Command):
    """Whom one talks to; before the login, too."""

    response = fields(gateway=TEXT, protocol=COUNT)


class Targets(Command):
    """The hypervisors one may open. ``latency`` is in seconds, and absent where none is known."""

    response = fields(
        targets=AmpList(name=TEXT, driver=TEXT, state=TEXT, latency=Float(optional=True), version=TEXT)
    )


# Handles.


class Open(Command):
    """Open a target. ``name`` is what libvirt calls the driver's URI; ``uri`` is for operators.

    The answer's ``uri`` is empty for whoever may not know it. The handle lasts ``ttl`` seconds unless it is
    renewed, whatever becomes of the connection.
    """

    arguments = fields(
        target=WORD, name=WORD_OR_NONE, readonly=Boolean(optional=True), ttl=_SECONDS, uri=WORD_OR_NONE
    )
    response = fields(handle=TEXT, uri=TEXT, expires=TIME, generation=COUNT)


class Renew(Command):
    """Let a handle last ``ttl`` seconds from now, as long as the ticket does at most."""

    arguments = fields(handle=WORD, ttl=_SECONDS)
    response = fields(expires=TIME)


class Close(Command):
    """Forget a handle, and all its subscriptions."""

    arguments = fields(handle=WORD)


class Handles(Command):
    """The handles one has: ``handle`` is only what logs call it, for nobody but its client has the handle."""

    response = fields(handles=AmpList(handle=TEXT, target=TEXT, expires=TIME, in_use=Boolean()))


# The hypervisor.


class _OfHandle(Command):
    """About the hypervisor behind a handle."""

    arguments = fields(handle=WORD)


class GetVersion(_OfHandle):
    """Versions of the hypervisor and of libvirt, as 1,000,000 major + 1,000 minor + release."""

    response = fields(version=COUNT, library=COUNT)


class GetType(_OfHandle):
    """The name of the driver, such as ``QEMU``."""

    response = fields(type=TEXT)


class GetHostname(_OfHandle):
    """What the host calls itself."""

    response = fields(hostname=TEXT)


class GetUri(_OfHandle):
    """The URI as libvirt has it."""

    response = fields(uri=TEXT)


class GetNodeInfo(_OfHandle):
    """The machine: ``memory`` in bytes, ``mhz`` of a processor, the others counted."""

    response = fields(
        model=TEXT, memory=SIZE, cpus=COUNT, mhz=COUNT, nodes=COUNT, sockets=COUNT, cores=COUNT, threads=COUNT
    )


class GetCapabilities(_OfHandle):
    """What guests may have here, as libvirt's XML."""

    response = fields(capabilities=XML)


# Everything else.


class Call(Command):
    """Any procedure of libvirt's by name, such as ``DOMAIN_GET_VCPUS``.

    Its arguments are a JSON object in ``args``, or XDR in ``xdr``, and the result has the same form.
    ``deadline`` is in seconds from now.
    """

    arguments = fields(
        handle=WORD,
        proc=Unicode(most=128),
        args=Big(optional=True, cap=16 * 1024 * 1024),
        xdr=Big(optional=True, cap=16 * 1024 * 1024, text=False),
        deadline=Float(optional=True, least=0.0),
        request_id=REQUEST,
    )
    response = fields(
        result=Big(optional=True, cap=32 * 1024 * 1024),
        xdr=Big(optional=True, cap=32 * 1024 * 1024, text=False),
    )
    writes = True


class Cancel(Command):
    """Give up what has this ``request_id``: whether it was stopped, and executed: no, unknown or yes."""

    arguments = fields(request_id=Unicode(most=256))
    response = fields(stopped=Boolean(), executed=TEXT)


# Events.


class Subscribe(Command):
    """Have events sent, of one domain or all; with ``from_seq``, the last one known, those after it, too.

    ``seq`` is the one before the first that comes, ``complete`` whether nothing was missed since then; if
    something was, a resync comes first. With a ``from_seq`` of 0 there always is one.
    """

    arguments = fields(
        handle=WORD,
        kinds=ListOf(Unicode(most=64), most=4096, longest=64),
        dom=WORD_OR_NONE,
        from_seq=Integer(optional=True, least=0),
    )
    response = fields(sub=TEXT, seq=COUNT, complete=Boolean())


class Unsubscribe(Command):
    """Have no more events sent."""

    arguments = fields(sub=WORD)


class Ack(Command):
    """All events up to this one are dealt with. Who never says so is sent a few only."""

    arguments = fields(sub=WORD, seq=Integer(least=0))


class Event(Command):
    """Sent by the gateway: something happened. ``dom`` is empty where no domain is meant."""

    arguments = fields(sub=TEXT, seq=COUNT, time=TIME, kind=TEXT, dom=TEXT, payload=JSON)
    requiresAnswer = False
