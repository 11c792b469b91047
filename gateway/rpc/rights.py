"""What the rights of a ticket let through, and what they let be seen.

A :class:`Scope` judges a call by the words it needs and by the uuids of the domains it names, never by the
names in a request. It answers with a :class:`Plan`: what is to be asked instead, and what to make of the
answer. A domain that may not be seen is absent, in every respect: who asks for it gets the very error that
an absent one gets, and lists are shorter. Networks, pools, volumes and other objects are governed by words
alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate
from typing import Any, Protocol, runtime_checkable

from gateway import errors
from gateway.rpc import objects
from gateway.rpc.domain_tags import PREFIX as TAG
from gateway.rpc.permissions import OUTRIGHT_WORDS, Demands, demands, number, only_reads
from gateway.rpc.plan import LIST, MAKERS, OLD_LISTS, RENAME, Plan, absent
from gateway.rpc.xml_guard import XML, Guard, sets_tags
from gateway.wire.domain_xml import Named, name_of, read_name
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure
from gateway.wire.safe_xml import Node
from gateway.wire.ticket_json import Rights


class Names(Protocol):
    """The name of a domain by its uuid, as the hypervisor has it; None when that is not known."""

    def __call__(self, uuid: str, /) -> str | None: ...


#: A ticket that holds this word may define and attach what it likes: it has the host.
UNCHECKED_XML = "xml:unchecked"

_STATS = "CONNECT_GET_ALL_DOMAIN_STATS"
#: They name no domain by uuid, and are judged by what they bring.
_JUDGED_LATER = {
    "CONNECT_DOMAIN_EVENT_REGISTER",
    "CONNECT_DOMAIN_EVENT_REGISTER_ANY",
    "CONNECT_LIST_ALL_DOMAINS",
    "DOMAIN_LOOKUP_BY_ID",
    "DOMAIN_LOOKUP_BY_NAME",
    "DOMAIN_LOOKUP_BY_UUID",
    *MAKERS,
    *OLD_LISTS,
}
#: Of events, by how their names begin: what one must be permitted to get them.
_EVENT_WORDS = (
    ("DOMAIN_EVENT_", "domain:getattr"),
    ("NETWORK_EVENT_", "network:getattr"),
    ("STORAGE_POOL_EVENT_", "storage_pool:getattr"),
    ("NODE_DEVICE_EVENT_", "node_device:getattr"),
    ("SECRET_EVENT_", "secret:getattr"),
)
_MONITOR_EVENT = "QEMU_DOMAIN_MONITOR_EVENT"
_SET_METADATA = "DOMAIN_SET_METADATA"
#: Types of metadata that are no element: description and title.
_TEXTS = (0, 1)
_MONITOR = "QEMU_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER"
_EMULATOR = re.compile(r"/usr/(bin|libexec)/(qemu-system-[a-z0-9_]+|qemu-kvm|kvm)")
_GLOB = re.compile(r"[*?\[]")


@runtime_checkable
class Tagged(Protocol):
    """Names that know the tags of domains, too."""

    def tags(self, uuid: str) -> frozenset[str]:
        """The tags of a domain."""


class Scope:
    """The rights of one ticket on one target.

    :param rights: None permits nothing.
    :param readonly: calls that libvirt refuses on read-only connections are refused.
    :param guard: judges XML; None for somebody who may name everything of the host in it.
    :ivar restricted: some domains may not be seen.
    """

    def __init__(
        self,
        rights: Rights | None,
        readonly: bool = False,
        guard: Guard | None = Guard(),  # noqa: B008  # it never changes
    ) -> None:
        rights = rights or Rights((), ())
        self._readonly = readonly
        self._literal = frozenset(rights.allow)
        self._reads = "read" in self._literal
        self._words = _one_of([word for word in rights.allow if _GLOB.search(word)])
        self._guard = None if UNCHECKED_XML in self._literal else guard
        self.restricted = "*" not in rights.domains
        self._uuids = {text.lower() for text in rights.domains if objects.is_uuid(text)}
        self._tags = {text.removeprefix(TAG) for text in rights.domains if text.startswith(TAG)}
        named = (text for text in rights.domains if not objects.is_uuid(text) and not text.startswith(TAG))
        self._globs = _one_of(list(named))
        self._passed: set[Procedure] = set()

    @property
    def tagged(self) -> bool:
        """Some domains may be seen for a tag they have."""
        return bool(self._tags)

    def permits(self, word: str) -> bool:
        """Tell whether the ticket holds *word*, such as ``connect:getattr``."""
        return (
            word in self._literal
            or (word not in OUTRIGHT_WORDS and self._words.fullmatch(word) is not None)
            or (self._reads and only_reads(word))
        )

    def sees(self, dom: objects.Dom, names: Names, *, told: bool = False) -> bool:
        """Tell whether *dom* is among the domains of the ticket.

        :param told: its name comes from the hypervisor itself, and is the newest there is.
        """
        if not self.restricted:
            return True
        uuid = objects.uuid_of(dom)
        if uuid in self._uuids or self._has_tag(uuid, names):
            return True
        name = dom["name"] if told else names(uuid)
        return name is not None and self._globs.fullmatch(name) is not None

    def _has_tag(self, uuid: str, names: Names) -> bool:
        return bool(self._tags) and isinstance(names, Tagged) and not self._tags.isdisjoint(names.tags(uuid))

    def check(
        self, call: Procedure, arguments: Mapping[str, Any], names: Names, volumes: Mapping[str, str] = {}
    ) -> Plan:
        """Judge a call.

        :param volumes: ``pool/volume`` by its file, of the files in its XML.
        :raises Denied: the ticket does not permit it, to nobody's domain.
        :raises LibvirtError: 42, it names a domain that may not be seen; 29, the connection only reads.
        :raises BadArguments: what decides is missing, or the XML is none.
        """
        needs = demands(call)
        if call not in self._passed:
            self._check_words(call, needs, arguments)
            self._check_readonly(call, needs, arguments)
            if needs.emulator:
                self._check_emulator(call, arguments.get(needs.emulator))
            if not needs.depends:
                # What does not hang on the arguments is judged once: these rights never change.
                self._passed.add(call)
        if not self.restricted:
            self._check_xml(call, arguments, names, volumes)
            return Plan(call, arguments, None, call, arguments, None)
        return self._restricted_plan(call, needs, arguments, names, volumes)

    def shows(self, event: Procedure, values: Mapping[str, Any], names: Names) -> bool:
        """Tell whether the ticket may get *event*."""
        if event.name == "CONNECT_EVENT_CONNECTION_CLOSED":
            return True
        if event.name == _MONITOR_EVENT:
            permitted = _MONITOR in self._literal and self.permits("domain:getattr")
        else:
            permitted = any(
                event.name.startswith(start) and self.permits(word) for start, word in _EVENT_WORDS
            )
        places = objects.in_arguments(event)
        if not permitted or (self.restricted and not places and "DOMAIN" in event.name):
            return False
        return all(self.sees(dom, names, told=True) for place in places for dom in place.doms(values))

    def _check_words(self, call: Procedure, needs: Demands, arguments: Mapping[str, Any]) -> None:
        named = call.name in self._literal
        if not needs.known:
            raise errors.Denied(call.name)
        for demand in needs.words:
            if demand.applies(arguments) and not self._grants(demand.word, call, named):
                raise errors.Denied(demand.word, _first(call, arguments))
        outright = needs.named or (needs.tells_owners and self.restricted)
        if needs.outright_flags and not outright:
            outright = bool(number(arguments, "flags") & needs.outright_flags)
        if self._guard is not None and call.name == _SET_METADATA and number(arguments, "type") not in _TEXTS:
            # Tags decide who may see a domain.
            outright = outright or sets_tags(arguments.get("uri"), arguments.get("metadata"))
        if outright and not named:
            raise errors.Denied(call.name, _first(call, arguments))

    def _grants(self, word: str, call: Procedure, named: bool) -> bool:
        if word in self._literal or (self._reads and call.writes != "W" and only_reads(word)):
            return True
        return (named or word not in OUTRIGHT_WORDS) and self._words.fullmatch(word) is not None

    def _check_readonly(self, call: Procedure, needs: Demands, arguments: Mapping[str, Any]) -> None:
        if not self._readonly or not call.writes:
            return
        conditions = (demand for demand in needs.words if demand.conditional)
        if call.writes == "W" or any(demand.applies(arguments) for demand in conditions):
            detail = f"read only access prevents {_api(call.name)}"
            strings = ("operation forbidden: %s", detail, None)
            raise LibvirtError(29, 20, f"operation forbidden: {detail}", 2, strings)

    def _check_emulator(self, call: Procedure, path: object) -> None:
        if path is None or call.name in self._literal:
            return
        if not isinstance(path, str) or _EMULATOR.fullmatch(path) is None:
            raise errors.Denied(call.name)

    def _restricted_plan(
        self,
        call: Procedure,
        needs: Demands,
        arguments: Mapping[str, Any],
        names: Names,
        volumes: Mapping[str, str],
    ) -> Plan:
        def visible(dom: objects.Dom, told: bool) -> bool:
            return self.sees(dom, names, told=told)

        asked = arguments
        ready: dict[str, Any] | None = None
        doms = objects.doms(call, arguments)
        if call.name == _STATS and doms:
            # libvirt leaves out those that are absent; an empty list would mean all of them.
            asked = {**arguments, "doms": [dom for dom in doms if self.sees(dom, names)]}
            ready = None if asked["doms"] else {"retStats": []}
        elif not all(self.sees(dom, names) for dom in doms):
            raise absent(call, arguments)
        elif call.name not in _JUDGED_LATER and not objects.in_arguments(call) and _acts_on_domain(needs):
            # Nobody can tell on which.
            raise errors.Denied(call.name)
        if call.name == RENAME:
            self._check_name(str(arguments.get("new_name") or ""))
        self._check_xml(call, arguments, names, volumes)
        if call.name in OLD_LISTS:
            flag = OLD_LISTS[call.name][0]
            return Plan(LIST, {"need_results": 1, "flags": flag}, None, call, arguments, visible)
        if call == LIST:
            asked = {**arguments, "need_results": 1}
        return Plan(call, asked, ready, call, arguments, visible)

    def _check_xml(
        self, call: Procedure, arguments: Mapping[str, Any], names: Names, volumes: Mapping[str, str]
    ) -> None:
        for member, kind in XML.get(call.name, ()):
            value = arguments.get(member)
            texts = value if isinstance(value, list) else [] if value is None else [value]
            for text in texts:
                if not isinstance(text, str):
                    raise errors.BadArguments(member, "a text is expected")
                root = None if self._guard is None else self._guard.check(kind, text, member, volumes)
                if self.restricted and call.name in MAKERS:
                    self._check_made(_named(text, root, member), names)

    def _check_made(self, made: Named, names: Names) -> None:
        """Only what the ticket shall see afterwards may be made, and nothing may be replaced that it does
        not see.
        """
        if made.uuid is not None:
            known = names(made.uuid)
            dom = {"uuid": made.uuid, "name": made.name}
            if known is not None and not self.sees(dom, names):
                raise errors.Denied("domain:write", made.name)
            if made.uuid in self._uuids:
                return
        self._check_name(made.name)

    def _check_name(self, name: str) -> None:
        if self._globs.fullmatch(name) is None:
            raise errors.Denied("domain:write", name)


def _one_of(globs: list[str]) -> re.Pattern[str]:
    """Matches what one of *globs* does; of none of them, nothing."""
    return re.compile("|".join(map(translate, globs)) if globs else r"(?!)")


def _acts_on_domain(needs: Demands) -> bool:
    return any(demand.word.startswith("domain:") for demand in needs.words)


def _first(call: Procedure, arguments: Mapping[str, Any]) -> str:
    return next(iter(objects.uuids(call, arguments)), "")


def _named(text: str, root: Node | None, member: str) -> Named:
    try:
        return read_name(text) if root is None else name_of(root)
    except ValueError as error:
        raise errors.BadArguments(member, str(error)) from None


def _api(name: str) -> str:
    """The function of libvirt's library that makes the call *name*."""
    whole = {"XML", "CPU", "ID", "UUID", "FD", "NMI", "PM"}
    return "vir" + "".join(part if part in whole else part.capitalize() for part in name.split("_"))
