"""What became of writes whose answers were lost, as far as the hypervisor's state tells.

Who starts, destroys, makes or undefines a domain brings about a state that was not there before. When it is
there now, it was done; the journal sees to it that only one request is told so. What is not there may still
come, for the hypervisor may have the call yet, or it came and has passed; so nothing is ever said not to
have been done.

Other writes are not settled. A guest that was asked to shut down or to reboot does so later or not at all,
and may do so by itself; processors stop and go on for many reasons; and a domain that is defined again looks
as the hypervisor completes it, not as it was given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from gateway.rpc import objects
from gateway.rpc.domain_states import Domain
from gateway.rpc.journal_rows import Entry, Result
from gateway.rpc.plan import MAKERS
from gateway.wire.domain_xml import read_name
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure
from gateway.wire.libvirt_words import state_words

#: What a domain was before: not there, or without a guest; else the number of its guest.
ABSENT, OFF = -2, -1
_NO_DOMAIN = 42
_MAKES = ("xml", "xml_desc")

#: Calls a procedure of the hypervisor.
Call = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Known(Protocol):
    """What is known of the domains of a hypervisor; :class:`~gateway.rpc.event_hub.EventHub` is one."""

    @property
    def synced(self) -> bool:
        """It is true."""

    def domain(self, uuid: str) -> Domain | None:
        """One of them."""


def subject(procedure: Procedure, arguments: Mapping[str, Any]) -> str:
    """The uuid of the domain that a call is about, or makes; empty when it is about none, or does not say."""
    named = objects.uuids(procedure, arguments)
    if named:
        return named[0]
    if procedure.name in MAKERS:
        for member in _MAKES:
            if isinstance(xml := arguments.get(member), str):
                try:
                    return read_name(xml).uuid or ""
                except ValueError:
                    break  # the hypervisor will say what is wrong with it
    return ""


def before(known: Known, uuid: str) -> int | None:
    """What the domain is now: :data:`ABSENT`, :data:`OFF`, or the number of its guest; None if unknown."""
    if not uuid or not known.synced:
        return None
    domain = known.domain(uuid)
    if domain is None:
        return ABSENT
    return domain.id if domain.active else OFF


async def settle(entry: Entry, call: Call) -> Result | None:
    """What the write gave; None when that cannot be told.

    :raises gateway.errors.GatewayError: the hypervisor does not say.
    """
    look = _LOOKS.get(entry.procedure)
    if look is None or not entry.subject or entry.before is None:
        return None
    try:
        dom = (await call("DOMAIN_LOOKUP_BY_UUID", {"uuid": entry.subject}))["dom"]
        told = await call("DOMAIN_GET_STATE", {"dom": dom, "flags": 0})
    except LibvirtError as error:
        if error.code != _NO_DOMAIN:
            raise
        return look(entry.before, None, "", "")
    return look(entry.before, dom, *state_words(told["state"], told["reason"]))


def _runs(state: str, reason: str) -> bool:
    # One that is starting up may fail yet.
    return state not in ("nostate", "shutoff") and reason != "starting_up"


def _started(was: int, dom: Mapping[str, Any] | None, state: str, reason: str) -> Result | None:
    return {"dom": dom} if was == OFF and dom is not None and _runs(state, reason) else None


def _started_plainly(was: int, dom: Mapping[str, Any] | None, state: str, reason: str) -> Result | None:
    return {} if _started(was, dom, state, reason) is not None else None


def _created(was: int, dom: Mapping[str, Any] | None, state: str, reason: str) -> Result | None:
    return {"dom": dom} if was == ABSENT and dom is not None and _runs(state, reason) else None


def _defined(was: int, dom: Mapping[str, Any] | None, _: str, __: str) -> Result | None:
    return {"dom": dom} if was == ABSENT and dom is not None else None


def _undefined(was: int, dom: Mapping[str, Any] | None, _: str, __: str) -> Result | None:
    # A guest without a definition is gone by itself when it ends.
    return {} if was == OFF and dom is None else None


def _destroyed(was: int, dom: Mapping[str, Any] | None, state: str, reason: str) -> Result | None:
    # It may also have ended by itself; after a restart of the hypervisor nobody knows how.
    return {} if was >= 0 and dom is not None and (state, reason) == ("shutoff", "destroyed") else None


_LOOKS: Mapping[str, Callable[[int, Mapping[str, Any] | None, str, str], Result | None]] = {
    "DOMAIN_CREATE": _started_plainly,
    "DOMAIN_CREATE_WITH_FLAGS": _started,
    "DOMAIN_CREATE_XML": _created,
    "DOMAIN_DEFINE_XML": _defined,
    "DOMAIN_DEFINE_XML_FLAGS": _defined,
    "DOMAIN_DESTROY": _destroyed,
    "DOMAIN_DESTROY_FLAGS": _destroyed,
    "DOMAIN_UNDEFINE": _undefined,
    "DOMAIN_UNDEFINE_FLAGS": _undefined,
}
