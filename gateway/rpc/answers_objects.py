"""What the commands about snapshots, networks, storage pools and volumes do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from gateway import errors
from gateway.rpc import commands
from gateway.rpc.command import Command
from gateway.rpc.desk import Opened
from gateway.rpc.seat import Answer, Responder, Seat, one_of
from gateway.wire.libvirt_schema import procedure
from gateway.wire.libvirt_words import POOL_STATES, VOLUME_TYPES, word

#: VIR_CONNECT_LIST_NETWORKS_ACTIVE, and that of pools.
_ACTIVE = 2
#: What a snapshot is when nobody says: libvirt chooses its name.
_SNAPSHOT = "<domainsnapshot/>"


# -- snapshots -----------------------------------------------------------------------------


async def _list_snapshots(
    seat: Seat, dom: str, flags: int | None, cursor: str | None, limit: int | None
) -> Answer:
    opened, subject = seat.domain(dom)
    asked = {"dom": subject, "need_results": 1, "flags": flags or 0}
    ask = partial(seat.call, opened, "DOMAIN_LIST_ALL_SNAPSHOTS", asked)
    page = await seat.page(("snapshots", dom, flags), ask, "snapshots", cursor, limit, key="name")
    return page.answer(commands.ListSnapshots, "snapshots", [{"name": each["name"]} for each in page.items])


async def _create_snapshot(
    seat: Seat, dom: str, xml: str | None, flags: int | None, request_id: str | None
) -> Answer:
    opened, subject = seat.domain(dom)
    asked = {"dom": subject, "xml_desc": xml or _SNAPSHOT, "flags": flags or 0}
    made = await seat.call(opened, "DOMAIN_SNAPSHOT_CREATE_XML", asked, request_id=request_id)
    return {"name": made["snap"]["name"]}


async def _snapshot(
    name_of_call: str,
    seat: Seat,
    dom: str,
    name: str,
    flags: int | None,
    request_id: str | None = None,
) -> Answer:
    opened, subject = seat.domain(dom)
    asked = {"snap": {"name": name, "dom": subject}, "flags": flags or 0}
    told = await seat.call(opened, name_of_call, asked, request_id=request_id)
    return {"xml": told["xml"]} if "xml" in told else {}


# -- networks and pools --------------------------------------------------------------------


async def _list(
    what: tuple[str, str, str, str],
    command: type[Command],
    seat: Seat,
    handle: str,
    flags: int | None,
    cursor: str | None,
    limit: int | None,
) -> Answer:
    """A page of networks or pools.

    :param what: the kind of cookie, the member of the answer, the procedure and the member of its result.
    """
    kind, member, name, found = what
    opened = seat.opened(handle)
    ask = partial(seat.call, opened, name, {"need_results": 1, "flags": flags or 0})
    page = await seat.page((member, handle, flags), ask, found, cursor, limit)
    running = (await seat.call(opened, name, {"need_results": 1, "flags": _ACTIVE}))[found]
    active = {each["uuid"] for each in running}
    rows = [_object(seat, opened, kind, each) | {"active": each["uuid"] in active} for each in page.items]
    return page.answer(command, member, rows)


def _object(seat: Seat, opened: Opened, kind: str, found: Mapping[str, Any]) -> Answer:
    return {kind: seat.cookie(opened, kind, found["uuid"]), "name": found["name"], "uuid": found["uuid"]}


async def _lookup(
    kind: str, prefix: str, seat: Seat, handle: str, name: str | None, uuid: str | None
) -> Answer:
    opened = seat.opened(handle)
    member, value = one_of(name=name, uuid=uuid)
    found = (await seat.call(opened, f"{prefix}_LOOKUP_BY_{member.upper()}", {member: value}))[kind]
    active = (await seat.call(opened, f"{prefix}_IS_ACTIVE", {kind: found}))["active"]
    return _object(seat, opened, kind, found) | {"active": bool(active)}


async def _define(
    kind: str, name: str, seat: Seat, handle: str, xml: str, flags: int | None, request_id: str | None
) -> Answer:
    opened = seat.opened(handle)
    arguments = {"xml": xml, "flags": flags or 0}
    made = (await seat.call(opened, name, arguments, request_id=request_id))[kind]
    return _object(seat, opened, kind, made)


async def _about(kind: str, name: str, seat: Seat, **arguments: Any) -> Answer:
    """Call the procedure *name* about the network or pool of a command."""
    flags, request_id = arguments.pop("flags", None), arguments.pop("request_id", None)
    opened, subject = await seat.object(kind, arguments.pop(kind))
    asked = {kind: subject, **arguments}
    if "flags" in procedure(name).arguments.fields:
        asked["flags"] = flags or 0
    elif flags:
        raise errors.BadArguments("flags", "there are none for this")
    return await seat.call(opened, name, asked, request_id=request_id)


async def _do(kind: str, name: str, seat: Seat, **arguments: Any) -> Answer:
    await _about(kind, name, seat, **arguments)
    return {}


async def _xml(kind: str, name: str, seat: Seat, **arguments: Any) -> Answer:
    return {"xml": (await _about(kind, name, seat, **arguments))["xml"]}


async def _get_leases(seat: Seat, **arguments: Any) -> Answer:
    found = await _about("net", "NETWORK_GET_DHCP_LEASES", seat, need_results=1, **arguments)
    rows = [
        {
            "interface": each["iface"],
            "mac": each["mac"] or "",
            "address": f"{each['ipaddr']}/{each['prefix']}",
            "hostname": each["hostname"] or "",
            "expires": datetime.fromtimestamp(each["expirytime"], UTC) if each["expirytime"] else None,
        }
        for each in found["leases"]
    ]
    return {"leases": rows}


async def _get_pool_info(seat: Seat, **arguments: Any) -> Answer:
    told = await _about("pool", "STORAGE_POOL_GET_INFO", seat, **arguments)
    return told | {"state": word(POOL_STATES, told["state"])}


# -- volumes -------------------------------------------------------------------------------


async def _list_volumes(
    seat: Seat, pool: str, flags: int | None, cursor: str | None, limit: int | None
) -> Answer:
    ask = partial(
        _about, "pool", "STORAGE_POOL_LIST_ALL_VOLUMES", seat, pool=pool, need_results=1, flags=flags
    )
    page = await seat.page(("volumes", pool, flags), ask, "vols", cursor, limit, key="name")
    rows = [{"volume": each["name"], "key": each["key"]} for each in page.items]
    return page.answer(commands.ListVolumes, "volumes", rows)


async def _volume(seat: Seat, pool: str, name: str) -> tuple[Opened, dict[str, Any]]:
    opened, subject = await seat.object("pool", pool)
    found = await seat.call(opened, "STORAGE_VOL_LOOKUP_BY_NAME", {"pool": subject, "name": name})
    return opened, found["vol"]


async def _get_volume_info(seat: Seat, pool: str, volume: str, flags: int | None) -> Answer:
    opened, vol = await _volume(seat, pool, volume)
    if flags:
        told = await seat.call(opened, "STORAGE_VOL_GET_INFO_FLAGS", {"vol": vol, "flags": flags})
    else:
        told = await seat.call(opened, "STORAGE_VOL_GET_INFO", {"vol": vol})
    path = (await seat.call(opened, "STORAGE_VOL_GET_PATH", {"vol": vol}))["name"]
    return told | {"type": word(VOLUME_TYPES, told["type"]), "path": path}


async def _get_volume_xml(seat: Seat, pool: str, volume: str, flags: int | None) -> Answer:
    opened, vol = await _volume(seat, pool, volume)
    return {
        "xml": (await seat.call(opened, "STORAGE_VOL_GET_XML_DESC", {"vol": vol, "flags": flags or 0}))["xml"]
    }


async def _create_volume(
    seat: Seat, pool: str, xml: str, flags: int | None, request_id: str | None
) -> Answer:
    opened, subject = await seat.object("pool", pool)
    asked = {"pool": subject, "xml": xml, "flags": flags or 0}
    made = (await seat.call(opened, "STORAGE_VOL_CREATE_XML", asked, request_id=request_id))["vol"]
    return {"volume": made["name"], "key": made["key"]}


async def _delete_volume(
    seat: Seat, pool: str, volume: str, flags: int | None, request_id: str | None
) -> Answer:
    opened, vol = await _volume(seat, pool, volume)
    await seat.call(opened, "STORAGE_VOL_DELETE", {"vol": vol, "flags": flags or 0}, request_id=request_id)
    return {}


async def _resize_volume(
    seat: Seat, pool: str, volume: str, capacity: int, flags: int | None, request_id: str | None
) -> Answer:
    opened, vol = await _volume(seat, pool, volume)
    asked = {"vol": vol, "capacity": capacity, "flags": flags or 0}
    await seat.call(opened, "STORAGE_VOL_RESIZE", asked, request_id=request_id)
    return {}


_NETWORKS = ("net", "networks", "CONNECT_LIST_ALL_NETWORKS", "nets")
_POOLS = ("pool", "pools", "CONNECT_LIST_ALL_STORAGE_POOLS", "pools")

RESPONDERS: Mapping[type[Command], Responder] = {
    commands.ListSnapshots: _list_snapshots,
    commands.GetSnapshotXml: partial(_snapshot, "DOMAIN_SNAPSHOT_GET_XML_DESC"),
    commands.CreateSnapshot: _create_snapshot,
    commands.DeleteSnapshot: partial(_snapshot, "DOMAIN_SNAPSHOT_DELETE"),
    commands.RevertSnapshot: partial(_snapshot, "DOMAIN_REVERT_TO_SNAPSHOT"),
    commands.ListNetworks: partial(_list, _NETWORKS, commands.ListNetworks),
    commands.LookupNetwork: partial(_lookup, "net", "NETWORK"),
    commands.GetNetworkXml: partial(_xml, "net", "NETWORK_GET_XML_DESC"),
    commands.GetLeases: _get_leases,
    commands.DefineNetwork: partial(_define, "net", "NETWORK_DEFINE_XML_FLAGS"),
    commands.UndefineNetwork: partial(_do, "net", "NETWORK_UNDEFINE"),
    commands.NetworkStart: partial(_do, "net", "NETWORK_CREATE"),
    commands.NetworkStop: partial(_do, "net", "NETWORK_DESTROY"),
    commands.ListPools: partial(_list, _POOLS, commands.ListPools),
    commands.LookupPool: partial(_lookup, "pool", "STORAGE_POOL"),
    commands.GetPoolInfo: _get_pool_info,
    commands.GetPoolXml: partial(_xml, "pool", "STORAGE_POOL_GET_XML_DESC"),
    commands.DefinePool: partial(_define, "pool", "STORAGE_POOL_DEFINE_XML"),
    commands.UndefinePool: partial(_do, "pool", "STORAGE_POOL_UNDEFINE"),
    commands.PoolStart: partial(_do, "pool", "STORAGE_POOL_CREATE"),
    commands.PoolStop: partial(_do, "pool", "STORAGE_POOL_DESTROY"),
    commands.PoolRefresh: partial(_do, "pool", "STORAGE_POOL_REFRESH"),
    commands.ListVolumes: _list_volumes,
    commands.GetVolumeInfo: _get_volume_info,
    commands.GetVolumeXml: _get_volume_xml,
    commands.CreateVolume: _create_volume,
    commands.DeleteVolume: _delete_volume,
    commands.ResizeVolume: _resize_volume,
}
