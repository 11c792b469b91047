"""What the commands about handles and hypervisors do, and those for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.command import Command
from gateway.rpc.desk import TTL
from gateway.rpc.seat import Answer, Responder, Seat, fit
from gateway.rpc.slow_json import dump
from gateway.wire.libvirt_schema import procedure
from gateway.wire.strict_json import load_object
from gateway.wire.xdr import XdrError

_KIB = 1024
#: Bytes of the arguments of any procedure.
_ARGUMENTS = 16 << 20
#: Commas and brackets in them, which are about as many as values; text seldom has that many.
_VALUES = 100_000


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# -- handles -------------------------------------------------------------------------------


async def _targets(seat: Seat) -> Answer:
    rows = []
    for site in seat.desk.sites:
        if not seat.desk.may_use(seat.caller, site):
            continue
        target = site.target
        version = "" if target.version is None else _dotted(target.version)
        row: Answer = {"name": site.name, "driver": site.url.driver, "state": target.state}
        rows.append(row | {"latency": target.latency or None, "version": version})
    return {"targets": rows}


def _dotted(version: int) -> str:
    """Source: libvirt counts 1,000,000 major + 1,000 minor + release."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


async def _open(
    seat: Seat, target: str, name: str | None, readonly: bool | None, ttl: int | None, uri: str | None
) -> Answer:
    desk, caller = seat.desk, seat.caller
    if (uri or name) and not caller.admin:
        raise errors.Denied("uri" if uri else "name", target)
    if uri and name:
        raise errors.BadArguments("name", "a URI says it already")
    site = desk.sites.free(uri) if uri else desk.site(caller, target)
    if name and name != site.url.name:
        site = desk.sites.opening(site.name, name)
    text, handle = await desk.handles.open(
        caller.principal,
        site.name,
        ticket=caller.ticket_hash,
        rights=caller.rights,
        ttl=ttl or TTL,
        left=seat.left,
        readonly=bool(readonly),
        name=site.url.name,
    )
    try:
        opened = seat.opened(text)
        # Whether it can be opened matters to whoever may not know where it is, too.
        asked = site.target.call("CONNECT_GET_URI", principal=caller.principal, readonly=handle.readonly)
        found = (await asked)["uri"]
    except BaseException:  # raised again, cancelled or not
        await desk.handles.close(handle)
        raise
    site.hub.start()
    generation = desk.handles.reopened(handle)
    shown = found if opened.permits("connect:getattr") else ""
    return {"handle": text, "uri": shown, "expires": _moment(handle.expires), "generation": generation}


async def _renew(seat: Seat, handle: str, ttl: int | None) -> Answer:
    opened = seat.opened(handle)
    return {"expires": _moment(await seat.desk.handles.renew(opened.handle, ttl or TTL, seat.left))}


async def _close(seat: Seat, handle: str) -> Answer:
    opened = seat.opened(handle)
    seat.desk.left([opened.handle])
    await seat.desk.handles.close(opened.handle)
    return {}


async def _handles(seat: Seat) -> Answer:
    in_use = seat.desk.in_use
    rows = [
        {
            "handle": handle.fingerprint,
            "target": handle.target,
            "expires": _moment(handle.expires),
            "in_use": handle.hash in in_use,
        }
        for handle in seat.desk.handles.list(seat.caller.principal)
    ]
    return {"handles": rows[: fit(commands.Handles, "handles", rows)]}


# -- hypervisors ---------------------------------------------------------------------------


async def _version(seat: Seat, handle: str) -> Answer:
    opened = seat.opened(handle)
    version = (await seat.call(opened, "CONNECT_GET_VERSION"))["hv_ver"]
    library = (await seat.call(opened, "CONNECT_GET_LIB_VERSION"))["lib_ver"]
    return {"version": version, "library": library}


async def _plain(name: str, seat: Seat, handle: str) -> Answer:
    return await seat.call(seat.opened(handle), name)


async def _node_info(seat: Seat, handle: str) -> Answer:
    told = await seat.call(seat.opened(handle), "NODE_GET_INFO")
    model = told["model"].rstrip(b"\0").decode("utf-8", "replace")
    return told | {"model": model, "memory": told["memory"] * _KIB}


# -- everything else -----------------------------------------------------------------------


async def _call(
    seat: Seat,
    handle: str,
    proc: str,
    args: str | None,
    xdr: bytes | None,
    deadline: float | None,
    request_id: str | None,
) -> Answer:
    opened = seat.opened(handle)
    try:
        known = procedure(proc)
    except KeyError:
        raise errors.BadArguments("proc", "there is no such procedure") from None
    if args is not None and xdr is not None:
        raise errors.BadArguments("xdr", "args says it already")
    if known.stream:
        raise errors.BadArguments("proc", "it opens a stream; there are commands of their own for these")
    if known.event:
        raise errors.BadArguments("proc", "it is an event; subscribe to it")
    try:
        arguments = known.arguments.unpack(xdr) if xdr is not None else _from_json(args or "{}")
        # What JSON says in another way becomes what the rights are judged by.
        arguments = known.arguments.unpack(known.arguments.pack(arguments))
    except XdrError as error:
        raise errors.BadArguments(error.path, error.text) from None
    results = await seat.call(opened, proc, arguments, request_id=request_id, deadline=deadline)
    if xdr is not None:
        return {"result": None, "xdr": known.results.pack(results)}
    return {"result": await dump(results, seat.desk.clock), "xdr": None}


def _from_json(text: str) -> Mapping[str, Any]:
    # To count takes a hundredth of the time that reading them would, in which nobody else has a turn.
    if sum(map(text.count, ",[{")) > _VALUES:
        raise errors.BadArguments("args", f"more than {_VALUES} values")
    try:
        return load_object(text, limit=_ARGUMENTS)
    except ValueError as error:
        raise errors.BadArguments("args", str(error)) from None


async def _cancel(seat: Seat, request_id: str) -> Answer:
    stopped = seat.cancel(request_id)
    executed = await seat.desk.journal.executed(seat.caller.principal, request_id)
    return {"stopped": stopped, "executed": executed}


RESPONDERS: Mapping[type[Command], Responder] = {
    commands.Targets: _targets,
    commands.Open: _open,
    commands.Renew: _renew,
    commands.Close: _close,
    commands.Handles: _handles,
    commands.GetVersion: _version,
    commands.GetType: partial(_plain, "CONNECT_GET_TYPE"),
    commands.GetHostname: partial(_plain, "CONNECT_GET_HOSTNAME"),
    commands.GetUri: partial(_plain, "CONNECT_GET_URI"),
    commands.GetNodeInfo: _node_info,
    commands.GetCapabilities: partial(_plain, "CONNECT_GET_CAPABILITIES"),
    commands.Call: _call,
    commands.Cancel: _cancel,
}
