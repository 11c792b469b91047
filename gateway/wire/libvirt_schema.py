"""Every procedure of libvirt's remote programs: its number, what it takes and gives, what it demands.

The table is data, ``libvirt_procedures.tsv`` beside this module; here it becomes codecs.
Source: libvirt 9.0.0, remote_protocol.x, qemu_protocol.x and lxc_protocol.x.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from attrs import field, frozen

from gateway.wire import xdr
from gateway.wire.xdr import Codec, Struct
from gateway.wire.xdr_parameter import Parameter
from gateway.wire.xdr_references import Reference, References

#: Program numbers by the name that the table has for them.
PROGRAMS = {"remote": 0x20008086, "qemu": 0x20008087, "lxc": 0x20008088}

_RECORDS = {
    "Dom": "name:str, uuid:uuid, id:i32",
    "Net": "name:str, uuid:uuid",
    "Pool": "name:str, uuid:uuid",
    "Vol": "pool:str, name:str, key:str",
    "Iface": "name:str, mac:str",
    "NodeDev": "name:str",
    "Secret": "uuid:uuid, usageType:i32, usageID:str",
    "NWFilter": "name:str, uuid:uuid",
    "NWBinding": "portdev:str, filtername:str",
    "Snap": "name:str, dom:Dom",
    "Ckpt": "name:str, dom:Dom",
    "NetPort": "net:Net, uuid:uuid",
    "{vcpu_info}": "number:u32, state:i32, cpu_time:u64, cpu:i32",
    "{domain_stats_record}": "dom:Dom, params:TP<=262144",
    "{domain_ip_addr}": "type:i32, addr:str, prefix:u32",
    "{domain_interface}": "name:str, hwaddr:str?, addrs:{domain_ip_addr}<=2048",
    "{domain_fsinfo}": "mountpoint:str, name:str, fstype:str, dev_aliases:str<=256",
    "{domain_iothread_info}": "iothread_id:u32, cpumap:opaque<=2048",
    "{domain_memory_stat}": "tag:i32, val:u64",
    "{domain_disk_error}": "disk:str, error:i32",
    "{domain_get_security_label_ret}": "label:char<=4097, enforcing:i32",
    "{network_dhcp_lease}": "iface:str, expirytime:i64, type:i32, mac:str?, iaid:str?, ipaddr:str, "
    "prefix:u32, hostname:str?, clientid:str?",
    "{node_get_cpu_stats}": "field:str, value:u64",
    "{node_get_memory_stats}": "field:str, value:u64",
    "{domain_event_graphics_address}": "family:i32, node:str, service:str",
    "{domain_event_graphics_identity}": "type:str, name:str",
    "{error}": "code:i32, domain:i32, message:str?, level:i32, dom:Dom?, str1:str?, str2:str?, str3:str?, "
    "int1:i32, int2:i32, net:Net?",
    "{hole}": "length:i64, flags:u32",
}
#: Those that callers name again and again.
_REFERENCES = frozenset({"Dom", "Net", "Pool"})
_SIMPLE: dict[str, Codec] = {
    "i32": xdr.Fixed("i"),
    "u32": xdr.Fixed("I"),
    "i64": xdr.Fixed("q"),
    "u64": xdr.Fixed("Q"),
    "char": xdr.between("i", -128, 127),
    "uchar": xdr.between("I", 0, 255),
    "ushort": xdr.between("I", 0, 65535),
    "AuthType": xdr.Fixed("i"),
    "str": xdr.Text(),
    "uuid": xdr.UUID,
    "TP": Parameter(),
}
_TYPE = re.compile(r"(?P<base>[A-Za-z0-9]+|\{\w+\})(?:(?P<maybe>\?)|<=(?P<most>\d+)|\[(?P<exact>\d+)\])?")


@cache
def record(name: str) -> Struct:
    """The codec of an object reference such as ``Dom``, or of a record such as ``{error}``."""
    return _struct(_RECORDS[name], Reference if name in _REFERENCES else Struct)


@cache
def _codec(text: str) -> Codec:
    parts = _TYPE.fullmatch(text)
    if parts is None:
        raise ValueError(f"no type of the table: {text}")
    base, most, exact = parts["base"], parts["most"], parts["exact"]
    if base == "opaque":
        return xdr.Opaque(int(most))
    if base == "char" and (most or exact):
        return xdr.Characters(int(most or exact), fixed=bool(exact))
    inner = _SIMPLE.get(base) or record(base)
    if most:
        return References.of(inner, int(most)) or xdr.Array(inner, int(most))
    return xdr.Maybe(inner) if parts["maybe"] else inner


def _struct(text: str, made: type[Struct] = Struct) -> Struct:
    fields = {} if text == "-" else dict(part.split(":", 1) for part in text.split(", "))
    return made(fields, {name: _codec(kind) for name, kind in fields.items()})


@frozen(eq=False)
class Procedure:
    """One procedure, or one event; there is one of each.

    :ivar name: as libvirt has it; those of the other programs begin with ``QEMU_`` and ``LXC_``.
    :ivar permissions: as libvirt's access control writes them: ``domain:start``, ``domain:write:FLAG`` when
        that flag is set, ``filter(domain:getattr)`` for what a list shows; empty where they are not known.
    :ivar priority: libvirtd has workers of its own for it.
    :ivar writes: ``W`` it is refused on read-only connections, ``w`` with some flags.
    :ivar stream: ``r`` or ``w``: a stream follows that is read or written.
    :ivar sparse: the stream may have holes.
    :ivar event: the daemon sends it, with its *arguments*.
    """

    program: int
    number: int
    name: str
    permissions: tuple[str, ...]
    priority: bool
    writes: str
    stream: str
    sparse: bool
    event: bool
    arguments: Struct = field(repr=False, eq=False)
    results: Struct = field(repr=False, eq=False)


def _table() -> Iterator[Procedure]:
    text = files("gateway.wire").joinpath("libvirt_procedures.tsv").read_text("utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        program, number, name, arguments, results, permissions, flag_text = line.split("\t")
        flags = set(flag_text.split())
        yield Procedure(
            PROGRAMS[program],
            int(number),
            name if program == "remote" else f"{program.upper()}_{name}",
            tuple(permissions.split()),
            "H" in flags,
            "W" if "W" in flags else "w" if "w" in flags else "",
            "r" if "rs" in flags else "w" if "ws" in flags else "",
            "sparse" in flags,
            "E" in flags,
            _struct(arguments),
            _struct(results),
        )


#: All of them, by program and number.
PROCEDURES = {(each.program, each.number): each for each in _table()}
_NAMES = {each.name: each for each in PROCEDURES.values()}


def procedure(name: str) -> Procedure:
    """The procedure called *name*, such as ``DOMAIN_GET_INFO``.

    :raises KeyError:
    """
    return _NAMES[name]


def names() -> tuple[str, ...]:
    """The names of all procedures, in the order of their numbers."""
    return tuple(_NAMES)
