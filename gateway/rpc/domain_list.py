"""Asks a hypervisor for the state of its domains: of all at once, or of one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from gateway.errors import DeadlinePassed
from gateway.rpc.domain_states import Domain
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure, procedure
from gateway.wire.libvirt_words import state_words

#: Calls at a time on one connection: a daemon takes five, and a ping must have room.
TOGETHER = 4
#: Seconds that an answer may take.
PATIENCE = 60.0
#: Domains that are looked at in one turn of the reactor.
PART = 2048

_STATS = procedure("CONNECT_GET_ALL_DOMAIN_STATS")
_LIST = procedure("CONNECT_LIST_ALL_DOMAINS")
_STATE = procedure("DOMAIN_GET_STATE")
_STATE_GROUP = 1
_NO_DOMAIN = 42
#: A driver that does not have the call, or not these arguments.
_UNSUPPORTED = frozenset({3, 8, 74, 84})
_T = TypeVar("_T")


class Connection(Protocol):
    """What can be called; :class:`~gateway.rpc.connection.LibvirtConnection` is one."""

    def call(self, procedure: Procedure, arguments: Mapping[str, object] = ...) -> Deferred[dict[str, Any]]:
        """Call *procedure*; the Deferred may be cancelled."""


async def list_domains(connection: Connection, clock: IReactorTime) -> list[Domain]:
    """All domains.

    :raises LibvirtError: the hypervisor does not tell.
    :raises gateway.errors.DeadlinePassed: nor does it answer.
    """
    try:
        answer = await _call(connection, clock, _STATS, {"doms": [], "stats": _STATE_GROUP, "flags": 0})
    except LibvirtError as error:
        if error.code not in _UNSUPPORTED:
            raise
        return await _one_by_one(connection, clock)
    found: list[Domain] = []
    records = answer["retStats"]
    for at in range(0, len(records), PART):
        if at:
            await deferLater(clock, 0)  # others have a turn
        found += map(_of_stats, records[at : at + PART])
    return found


async def look_at(connection: Connection, clock: IReactorTime, dom: Mapping[str, Any]) -> Domain | None:
    """One domain; None when there is none. Raises as :func:`list_domains`."""
    try:
        told = await _call(connection, clock, _STATE, {"dom": dom, "flags": 0})
    except LibvirtError as error:
        if error.code != _NO_DOMAIN:
            raise
        return None
    return _domain(dom, told["state"], told["reason"])


async def together(items: Sequence[_T], work: Callable[[_T], Any]) -> None:
    """Do *work*, a coroutine, on all *items*, some at a time; the first failure is that of all."""
    for at in range(0, len(items), TOGETHER):
        part = [Deferred.fromCoroutine(work(item)) for item in items[at : at + TOGETHER]]
        try:
            await gatherResults(part, consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()


async def _one_by_one(connection: Connection, clock: IReactorTime) -> list[Domain]:
    answer = await _call(connection, clock, _LIST, {"need_results": 1, "flags": 0})
    found: list[Domain] = []

    async def look(dom: Mapping[str, Any]) -> None:
        domain = await look_at(connection, clock, dom)
        if domain is not None:
            found.append(domain)

    await together(answer["domains"], look)
    return found


def _call(
    connection: Connection, clock: IReactorTime, procedure: Procedure, arguments: Mapping[str, object]
) -> Deferred[dict[str, Any]]:
    return connection.call(procedure, arguments).addTimeout(PATIENCE, clock, _late)


def _late(_: object, __: float) -> Any:
    raise DeadlinePassed(maybe_executed=False)


def _of_stats(record: Mapping[str, Any]) -> Domain:
    params = {param["field"]: param["value"] for param in record["params"]}
    return _domain(record["dom"], params.get("state.state", 0), params.get("state.reason", 0))


def _domain(dom: Mapping[str, Any], state: int, reason: int) -> Domain:
    words = state_words(state, reason)
    # What is there without a guest has a definition.
    persistent = True if words[0] == "shutoff" else None
    return Domain(dom["uuid"], dom["name"], dom["id"], *words, persistent)
