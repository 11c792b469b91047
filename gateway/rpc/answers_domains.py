"""What the commands about domains do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.command import Command
from gateway.rpc.desk import Opened
from gateway.rpc.seat import Answer, Responder, Seat, as_json, one_of
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import procedure
from gateway.wire.libvirt_words import ADDRESS_SOURCES, STATES, state_words, word

_KIB = 1024
_NS = 1e9


async def _list_domains(
    seat: Seat, handle: str, flags: int | None, cursor: str | None, limit: int | None
) -> Answer:
    opened = seat.opened(handle)
    ask = partial(seat.call, opened, "CONNECT_LIST_ALL_DOMAINS", {"need_results": 1, "flags": flags or 0})
    page = await seat.page(("domains", opened.handle.hash, flags), ask, "domains", cursor, limit)
    states = await _states(seat, opened, page.items)
    cookie = partial(seat.desk.cookies.make, opened.handle.hash)
    rows = [dom | {"state": states[dom["uuid"]], "dom": cookie(dom["uuid"])} for dom in page.items]
    return page.answer(commands.ListDomains, "domains", rows)


async def _states(seat: Seat, opened: Opened, doms: list[dict[str, Any]]) -> dict[str, str]:
    """The state of each of *doms* as a word: as events tell, or asked for; empty where it must not be."""
    if not opened.permits("domain:read"):
        return dict.fromkeys([dom["uuid"] for dom in doms], "")
    known = opened.site.hub.states([dom["uuid"] for dom in doms])
    for dom in doms if len(known) < len(doms) else ():
        if dom["uuid"] not in known:
            known[dom["uuid"]] = await _state(seat, opened, dom)
    return known


async def _state(seat: Seat, opened: Opened, dom: Mapping[str, Any]) -> str:
    try:
        told = await seat.call(opened, "DOMAIN_GET_STATE", {"dom": dom, "flags": 0})
    except LibvirtError as error:
        if error.status != 404:
            raise
        return "nostate"  # it went away meanwhile
    return word(STATES, told["state"])


async def _lookup(seat: Seat, handle: str, name: str | None, uuid: str | None, id: int | None) -> Answer:  # noqa: A002  # its name
    opened = seat.opened(handle)
    member, value = one_of(name=name, uuid=uuid, id=id)
    dom = (await seat.call(opened, f"DOMAIN_LOOKUP_BY_{member.upper()}", {member: value}))["dom"]
    state = (await _states(seat, opened, [dom]))[dom["uuid"]]
    return _domain(seat, opened, dom) | {"id": dom["id"], "state": state}


def _domain(seat: Seat, opened: Opened, dom: Mapping[str, Any]) -> Answer:
    return {"dom": seat.cookie(opened, "dom", dom["uuid"]), "name": dom["name"], "uuid": dom["uuid"]}


async def _make(
    name: str, member: str, seat: Seat, handle: str, xml: str, flags: int | None, request_id: str | None
) -> Answer:
    opened = seat.opened(handle)
    arguments = {member: xml, "flags": flags or 0}
    made = await seat.call(opened, name, arguments, request_id=request_id)
    return _domain(seat, opened, made["dom"])


async def _write(
    name: str, seat: Seat, dom: str, flags: int | None = None, request_id: str | None = None, **more: Any
) -> Answer:
    """Call the procedure *name* on a domain; one without flags takes none."""
    opened, subject = seat.domain(dom)
    arguments = {"dom": subject, **more}
    if "flags" in procedure(name).arguments.fields:
        arguments["flags"] = flags or 0
    elif flags:
        raise errors.BadArguments("flags", "there are none for this")
    return await seat.call(opened, name, arguments, request_id=request_id)


async def _do(name: str, seat: Seat, **arguments: Any) -> Answer:
    await _write(name, seat, **arguments)
    return {}


async def _start(seat: Seat, **arguments: Any) -> Answer:
    return {"id": (await _write("DOMAIN_CREATE_WITH_FLAGS", seat, **arguments))["dom"]["id"]}


async def _set_autostart(seat: Seat, on: bool, **arguments: Any) -> Answer:
    return await _do("DOMAIN_SET_AUTOSTART", seat, autostart=int(on), **arguments)


async def _get_autostart(seat: Seat, **arguments: Any) -> Answer:
    return {"on": bool((await _write("DOMAIN_GET_AUTOSTART", seat, **arguments))["autostart"])}


async def _get_info(seat: Seat, **arguments: Any) -> Answer:
    told = await _write("DOMAIN_GET_INFO", seat, **arguments)
    return {
        "state": word(STATES, told["state"]),
        "max_memory": told["maxMem"] * _KIB,
        "memory": told["memory"] * _KIB,
        "cpus": told["nrVirtCpu"],
        "cpu_time": told["cpuTime"] / _NS,
    }


async def _get_state(seat: Seat, **arguments: Any) -> Answer:
    told = await _write("DOMAIN_GET_STATE", seat, **arguments)
    state, reason = state_words(told["state"], told["reason"])
    return {"state": state, "reason": reason}


async def _get_xml(seat: Seat, **arguments: Any) -> Answer:
    return {"xml": (await _write("DOMAIN_GET_XML_DESC", seat, **arguments))["xml"]}


async def _get_stats(seat: Seat, dom: str, groups: int | None, flags: int | None) -> Answer:
    opened, subject = seat.domain(dom)
    asked = {"doms": [subject], "stats": groups or 0, "flags": flags or 0}
    found = (await seat.call(opened, "CONNECT_GET_ALL_DOMAIN_STATS", asked))["retStats"]
    if not found:
        # libvirt leaves out what is not there; say that it is not.
        await seat.call(opened, "DOMAIN_GET_INFO", {"dom": subject})
    params = found[0]["params"] if found else []
    return {"stats": as_json({each["field"]: each["value"] for each in params})}


async def _get_interfaces(seat: Seat, dom: str, source: str | None, flags: int | None) -> Answer:
    if (source or "lease") not in ADDRESS_SOURCES:
        raise errors.BadArguments("source", f"one of {', '.join(ADDRESS_SOURCES)} is expected")
    opened, subject = seat.domain(dom)
    number = ADDRESS_SOURCES.index(source or "lease")
    asked = {"dom": subject, "source": number, "flags": flags or 0}
    found = (await seat.call(opened, "DOMAIN_INTERFACE_ADDRESSES", asked))["ifaces"]
    rows = [
        {
            "name": each["name"],
            "mac": each["hwaddr"] or "",
            "addresses": [f"{it['addr']}/{it['prefix']}" for it in each["addrs"]],
        }
        for each in found
    ]
    return {"interfaces": rows}


RESPONDERS: Mapping[type[Command], Responder] = {
    commands.ListDomains: _list_domains,
    commands.Lookup: _lookup,
    commands.Define: partial(_make, "DOMAIN_DEFINE_XML_FLAGS", "xml"),
    commands.Create: partial(_make, "DOMAIN_CREATE_XML", "xml_desc"),
    commands.Undefine: partial(_do, "DOMAIN_UNDEFINE_FLAGS"),
    commands.Start: _start,
    commands.Shutdown: partial(_do, "DOMAIN_SHUTDOWN_FLAGS"),
    commands.Reboot: partial(_do, "DOMAIN_REBOOT"),
    commands.Reset: partial(_do, "DOMAIN_RESET"),
    commands.Destroy: partial(_do, "DOMAIN_DESTROY_FLAGS"),
    commands.Suspend: partial(_do, "DOMAIN_SUSPEND"),
    commands.Resume: partial(_do, "DOMAIN_RESUME"),
    commands.SetAutostart: _set_autostart,
    commands.GetAutostart: _get_autostart,
    commands.GetInfo: _get_info,
    commands.GetState: _get_state,
    commands.GetXml: _get_xml,
    commands.GetStats: _get_stats,
    commands.GetInterfaces: _get_interfaces,
}
