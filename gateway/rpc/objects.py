"""Where the values of a call, of its answer or of an event name domains.

Which members do is read from their types; so a procedure that is added to the table is judged as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from attrs import frozen

from gateway import errors
from gateway.wire.libvirt_schema import Procedure, record
from gateway.wire.xdr import Struct

#: A domain by reference: ``name``, ``uuid``, ``id``.
Dom = Mapping[str, Any]

_BASE = re.compile(r"([A-Za-z0-9]+|\{\w+\})(.*)")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@frozen
class Place:
    """A member that names one domain or several.

    :ivar path: names of members on the way from its value to the domain: ``("dom",)`` for a snapshot.
    :ivar many: its value is a list.
    """

    name: str
    path: tuple[str, ...]
    many: bool

    def doms(self, values: Mapping[str, Any]) -> list[Dom]:
        """The domains that *values* have here, in their order.

        :raises BadArguments: something else is there.
        """
        value = values.get(self.name)
        if value is None:
            return []
        if not self.many:
            return [self.dom(value)]
        if not isinstance(value, list):
            raise errors.BadArguments(self.name, "a list of domains is expected")
        return [self.dom(item) for item in value]

    def dom(self, item: Any) -> Dom:
        """The domain that one *item* names.

        :raises BadArguments: it has none.
        """
        for step in self.path:
            item = item.get(step) if isinstance(item, Mapping) else None
        # To look at the type first takes a fifth of the time.
        if type(item) is not dict and not isinstance(item, Mapping):
            raise errors.BadArguments(self.name, "a domain is expected")
        return item


def _split(kind: str) -> tuple[str, str]:
    parts = _BASE.fullmatch(kind)
    if parts is None:
        raise ValueError(f"no type of the table: {kind}")
    return parts[1], parts[2]


@cache
def _way(base: str) -> tuple[str, ...] | None:
    """The way from a value of type *base* to the domain in it."""
    if base == "Dom":
        return ()
    try:
        fields = record(base).fields
    except KeyError:
        return None
    ways = [(name, _way(_split(kind)[0]), _split(kind)[1]) for name, kind in fields.items()]
    found = [((name, *way), rest) for name, way, rest in ways if way is not None]
    if not found:
        return None
    if len(found) > 1 or found[0][1]:
        raise ValueError(f"{base} holds domains in a way that we do not know")
    return found[0][0]


def _find(struct: Struct) -> Iterator[Place]:
    for name, kind in struct.fields.items():
        base, rest = _split(kind)
        way = _way(base)
        if way is not None:
            yield Place(name, way, rest.startswith("<="))


@cache
def in_arguments(procedure: Procedure) -> tuple[Place, ...]:
    """Where the arguments of a call, or an event, name domains."""
    return tuple(_find(procedure.arguments))


@cache
def in_results(procedure: Procedure) -> tuple[Place, ...]:
    """Where the answer names domains."""
    return tuple(_find(procedure.results))


def uuid_of(dom: Dom) -> str:
    """The uuid of *dom*, in lower case; it is what libvirt finds a domain by.

    :raises BadArguments: it has none.
    """
    uuid = dom.get("uuid")
    if isinstance(uuid, str) and (lower := _lower(uuid)):
        return lower
    raise errors.BadArguments("dom.uuid", "a uuid of 36 characters is expected")


def is_uuid(text: str) -> bool:
    """Tell whether *text* is a uuid of 36 characters, in whatever case."""
    return bool(_lower(text))


@lru_cache(maxsize=4096)
def _lower(text: str) -> str:
    """A uuid in lower case; empty for what is none."""
    lower = text.lower()
    return lower if _UUID.fullmatch(lower) is not None else ""


def uuids(procedure: Procedure, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The domains that a call is about, for those who write down who did what.

    :raises BadArguments: one of them has no uuid.
    """
    return tuple([uuid_of(dom) for dom in doms(procedure, arguments)])


def doms(procedure: Procedure, arguments: Mapping[str, Any]) -> list[Dom]:
    """The domains that a call, or an event, names."""
    return [dom for place in in_arguments(procedure) for dom in place.doms(arguments)]


def nameless(procedure: Procedure, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """*arguments* with nothing of the domains but their uuids: what stays the same when one is renamed.

    :raises BadArguments: one of them has no uuid.
    """
    same = dict(arguments)
    for place in in_arguments(procedure):
        value = same.get(place.name)
        if value is not None:
            items = [_nameless(item, place.path) for item in (value if place.many else [value])]
            same[place.name] = items if place.many else items[0]
    return same


def _nameless(item: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    if path:
        return {**item, path[0]: _nameless(item[path[0]], path[1:])}
    return {"name": "", "uuid": uuid_of(item), "id": -1}


def pruned(place: Place, values: Mapping[str, Any], keep: Callable[[Dom], bool]) -> tuple[list[Any], int]:
    """What *keep* leaves of the list at *place*, and how many it took away."""
    items = values.get(place.name) or []
    kept = [item for item in items if keep(place.dom(item))]
    return kept, len(items) - len(kept)


def doms_told(procedure: Procedure, values: Mapping[str, Any]) -> list[Dom]:
    """Domains whose names the hypervisor itself told: in an event, or in the answer to *procedure*.

    An answer to a call that named a domain repeats the name it was given; such are not believed.
    """
    return [dom for place in _telling(procedure) for dom in place.doms(values)]


@cache
def _telling(procedure: Procedure) -> tuple[Place, ...]:
    if procedure.event:
        return in_arguments(procedure)
    return () if in_arguments(procedure) else in_results(procedure)
