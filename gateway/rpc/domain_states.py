"""What is known of every domain of one hypervisor, from lists and from events.

A list is true for the moment it was made; an event changes one domain. Whatever is lost between two
connections shows as a difference between what was known and the next list, and is told as the events that
would have led there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from attrs import evolve, frozen
from twisted.logger import Logger

from gateway.wire.libvirt_words import state_after

#: Domains that are kept, and characters of the longest name; a hypervisor has fewer, and shorter ones.
DOMAINS = 65_536
NAME = 1024

#: The event that leads into a state of an active domain, from another such state.
_INTO = {
    "running": "resumed",
    "paused": "suspended",
    "shutdown": "shutdown",
    "crashed": "crashed",
    "pmsuspended": "pmsuspended",
}


@frozen
class Domain:
    """One domain.

    :ivar id: -1 when it is not active.
    :ivar persistent: it outlives its guest; None when nobody has said so.
    """

    uuid: str
    name: str
    id: int
    state: str
    reason: str
    persistent: bool | None = None

    @property
    def active(self) -> bool:
        """It has a guest."""
        return self.state != "shutoff"

    @property
    def dom(self) -> dict[str, Any]:
        """The reference to it, as libvirt has it."""
        return {"name": self.name, "uuid": self.uuid, "id": self.id}

    @property
    def row(self) -> dict[str, Any]:
        """Its line in a snapshot."""
        return {"dom": self.dom, "state": self.state, "reason": self.reason}


@frozen
class Change:
    """A lifecycle event to be told.

    :ivar fields: event, detail, and what the domain is afterwards: state and reason, both None when it is
        gone (or has another name now); ``synthetic`` when the hypervisor did not say so itself.
    """

    dom: Mapping[str, Any]
    fields: Mapping[str, Any]


def _change(
    dom: Mapping[str, Any], event: str, detail: str, now: Domain | None, *, synthetic: bool = True
) -> Change:
    state, reason = (now.state, now.reason) if now is not None else (None, None)
    fields = {"event": event, "detail": detail, "state": state, "reason": reason}
    return Change(dom, fields | {"synthetic": True} if synthetic else fields)


class DomainStates:
    """Every domain by its uuid.

    :ivar known: a list was seen at least once.
    """

    log = Logger()

    def __init__(self) -> None:
        self.known = False
        self._domains: dict[str, Domain] = {}

    def get(self, uuid: str) -> Domain | None:
        """What is known of a domain."""
        return self._domains.get(uuid)

    def all(self) -> Collection[Domain]:
        """All of them, in no order."""
        return self._domains.values()

    def replace(self, listed: Iterable[Domain]) -> list[Change]:
        """Take over a list; return what must have happened since, unless this is the first one."""
        before, self._domains = self._domains, {}
        for domain in listed:
            self._put(domain)
        first, self.known = not self.known, True
        if first:
            return []
        changes: list[Change] = []
        for uuid in before | self._domains:
            changes += _between(before.get(uuid), self._domains.get(uuid))
        return changes

    def renamed(self, dom: Mapping[str, Any]) -> list[Change]:
        """Note the name in an event; return what tells that it is a new one."""
        was = self._domains.get(dom["uuid"])
        if was is None or was.name == dom["name"]:
            return []
        now = evolve(was, name=dom["name"])
        self._put(now)
        return [_change(was.dom, "undefined", "renamed", None), _change(now.dom, "defined", "renamed", now)]

    def apply(self, dom: Mapping[str, Any], event: str, detail: str) -> list[Change]:
        """Note a lifecycle event; return what is to be told: that event, after what it proves was missed."""
        if (event, detail) == ("undefined", "renamed"):
            # Its new name comes with the next event; who may see only the old one sees it no more.
            return [_change(dom, event, detail, None, synthetic=False)]
        missed = self.renamed(dom) if detail != "renamed" else []
        now = self._after(dom, event, detail)
        if now is None:
            self._domains.pop(dom["uuid"], None)
        else:
            self._put(now)
        return [*missed, _change(dom, event, detail, now, synthetic=False)]

    def _after(self, dom: Mapping[str, Any], event: str, detail: str) -> Domain | None:
        uuid, name, number = dom["uuid"], dom["name"], dom["id"]
        unknown = Domain(uuid, name, number, "running" if number >= 0 else "shutoff", "unknown")
        was = self._domains.get(uuid, unknown)
        now = evolve(was, name=name, id=number)
        if event == "undefined":
            # A guest that runs goes on without its definition.
            return evolve(now, persistent=False) if number >= 0 else None
        if event == "defined":
            return evolve(now, persistent=True)
        after = state_after(event, detail)
        if after is None:
            return now if uuid in self._domains else None
        if after[0] == "shutoff":
            return None if was.persistent is False else evolve(now, id=-1, state="shutoff", reason=after[1])
        return evolve(now, state=after[0], reason=after[1])

    def doubtful(self, uuid: str) -> Domain | None:
        """The domain when it may have ended with its guest, so that somebody has to look."""
        domain = self._domains.get(uuid)
        return domain if domain is not None and not domain.active and domain.persistent is None else None

    def settle(self, domain: Domain, exists: bool) -> list[Change]:
        """Somebody has looked after :meth:`doubtful` gave *domain*; return what is to be told."""
        if self._domains.get(domain.uuid) is not domain:
            return []  # an event was faster
        if exists:
            self._put(evolve(domain, persistent=True))
            return []
        del self._domains[domain.uuid]
        return [_change(domain.dom, "undefined", "removed", None)]

    def _put(self, domain: Domain) -> None:
        if len(domain.name) > NAME or (len(self._domains) >= DOMAINS and domain.uuid not in self._domains):
            self.log.warn("domain {uuid} is not followed: too many, or too long a name", uuid=domain.uuid)
            self._domains.pop(domain.uuid, None)
        else:
            self._domains[domain.uuid] = domain


def _between(was: Domain | None, now: Domain | None) -> list[Change]:
    """The events that lead from *was* to *now*."""
    if was is None:
        return [] if now is None else _appeared(now)
    if now is None:
        ended = _ended(was, "unknown") if was.active else []
        return [*ended, _change(evolve(was, id=-1).dom, "undefined", "removed", None)]
    changes: list[Change] = []
    if was.name != now.name:
        renamed = evolve(was, name=now.name)
        changes += [
            _change(was.dom, "undefined", "renamed", None),
            _change(renamed.dom, "defined", "renamed", renamed),
        ]
    another = was.id != now.id
    if was.active and (another or not now.active):
        changes += _ended(now, "unknown" if now.active else now.reason)
    if now.active and (another or not was.active):
        changes += _started(now)
    elif now.active and was.state != now.state:
        changes += _moved(now)
    return changes


def _appeared(now: Domain) -> list[Change]:
    return _started(now) if now.active else [_change(now.dom, "defined", "added", now)]


def _started(now: Domain) -> list[Change]:
    if now.state == "running":
        return [_change(now.dom, "started", now.reason, now)]
    first = evolve(now, state="running", reason="unknown")
    return [_change(now.dom, "started", "unknown", first), *_moved(now)]


def _moved(now: Domain) -> list[Change]:
    return [_change(now.dom, _INTO[now.state], now.reason, now)] if now.state in _INTO else []


def _ended(domain: Domain, reason: str) -> list[Change]:
    off = evolve(domain, id=-1, state="shutoff", reason=reason)
    return [_change(off.dom, "stopped", reason, off)]
