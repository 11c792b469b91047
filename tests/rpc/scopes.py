"""What the tests of rights share: two domains, and arguments of every type."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.rpc.permissions import demands
from gateway.rpc.rights import UNCHECKED_XML, Scope
from gateway.wire.libvirt_schema import PROCEDURES, Procedure, procedure, record
from gateway.wire.ticket_json import Rights
from gateway.wire.xdr import Struct

SEEN = {"name": "alice-1", "uuid": "11111111-1111-4111-8111-111111111111", "id": 1}
HIDDEN = {"name": "bob-1", "uuid": "22222222-2222-4222-8222-222222222222", "id": 2}
ABSENT = {"name": "nobody-1", "uuid": "33333333-3333-4333-8333-333333333333", "id": 3}
#: What the hypervisor calls them.
KNOWN = {SEEN["uuid"]: SEEN["name"], HIDDEN["uuid"]: HIDDEN["name"]}
#: Every word of the table, and the name of every procedure: there is no more to have.
WORDS = sorted({demand.word for each in PROCEDURES.values() for demand in demands(each).words})
ALL = (*WORDS, *(each.name for each in PROCEDURES.values()), UNCHECKED_XML)
XML = f"<domain><name>{SEEN['name']}</name></domain>"


def names(uuid: str) -> str | None:
    """What the map of the tests knows."""
    name = KNOWN.get(uuid)
    return None if name is None else str(name)


def scope(*allow: str, domains: tuple[str, ...] = ("alice-*",), readonly: bool = False) -> Scope:
    """A scope of a ticket that allows *allow* on *domains*."""
    return Scope(Rights(allow, domains), readonly)


def named(name: str) -> Procedure:
    """Short for the procedure called *name*."""
    return procedure(name)


def sample(struct: Struct, dom: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Values for *struct*, with *dom* wherever a domain stands."""
    return {name: _value(kind, dom) for name, kind in struct.fields.items()} | more


def _value(kind: str, dom: Mapping[str, Any]) -> Any:
    parts = re.fullmatch(r"([A-Za-z0-9]+|\{\w+\})(.*)", kind)
    assert parts is not None
    base, rest = parts[1], parts[2]
    if base in ("opaque", "char") and rest:
        return bytes(int(rest[1:-1])) if rest.startswith("[") else b""
    if base == "Dom":
        value: Any = dict(dom)
    elif base == "str":
        value = XML
    elif base == "uuid":
        value = dom["uuid"]
    elif base == "TP":
        value = {"field": "f", "type": "int", "value": 1}
    elif base[0] in "iufcu" or base == "AuthType":
        value = 0
    else:
        value = sample(record(base), dom)
    return [value] if rest.startswith("<=") else value


def found(value: Any) -> Iterator[str]:
    """The uuids of all domains anywhere in *value*."""
    if isinstance(value, Mapping):
        if value.keys() == SEEN.keys():
            yield value["uuid"]
        for item in value.values():
            yield from found(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from found(item)


def calls() -> list[Procedure]:
    """All that a client may try to call, which is all that is no event."""
    return [each for each in PROCEDURES.values() if not each.event]


def events() -> list[Procedure]:
    """All events."""
    return [each for each in PROCEDURES.values() if each.event]
