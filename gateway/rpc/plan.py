"""A call that was let through: what to ask the hypervisor, and what of its answer is told.

A domain that may not be seen is absent in every respect: who asks for it gets the very error that an absent
one gets, and lists are shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from gateway.rpc import objects
from gateway.rpc.permissions import number
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure, procedure

LIST = procedure("CONNECT_LIST_ALL_DOMAINS")
#: Calls whose answers name domains in another way than by reference: the flag that lists the same by
#: reference (1 active, 2 inactive), the member of the answer, what is taken of each, and the argument
#: that limits how many.
OLD_LISTS = {
    "CONNECT_NUM_OF_DOMAINS": (1, "num", "", ""),
    "CONNECT_LIST_DOMAINS": (1, "ids", "id", "maxids"),
    "CONNECT_NUM_OF_DEFINED_DOMAINS": (2, "num", "", ""),
    "CONNECT_LIST_DEFINED_DOMAINS": (2, "names", "name", "maxnames"),
}
#: They make the domain that their XML names.
MAKERS = {
    "DOMAIN_CREATE_XML",
    "DOMAIN_CREATE_XML_WITH_FILES",
    "DOMAIN_DEFINE_XML",
    "DOMAIN_DEFINE_XML_FLAGS",
}
RENAME = "DOMAIN_RENAME"
#: operation_failed, dom_exist, operation_invalid: what a taken name or uuid answers.
_TAKEN = (9, 28, 55)
_NOT_FOUND = "Domain not found: %s"


#: Tells whether a domain may be seen; with True its name comes from the hypervisor itself.
Visible = Callable[[objects.Dom, bool], bool]


@frozen
class Plan:
    """A call that was let through.

    :ivar procedure: what to ask, with *arguments*; not always what was asked for.
    :ivar ready: the answer, when nothing is to be asked at all.
    """

    procedure: Procedure
    arguments: Mapping[str, Any]
    ready: dict[str, Any] | None
    _asked: Procedure
    _given: Mapping[str, Any]
    _visible: Visible | None

    @property
    def uuids(self) -> tuple[str, ...]:
        """The domains that the call names."""
        return objects.uuids(self.procedure, self.arguments)

    @property
    def literal(self) -> bool:
        """Whether the hypervisor is asked for the very thing that the caller has asked for."""
        return self.procedure is self._asked and self.arguments is self._given

    def answer(self, results: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the caller gets of *results*, which are left as they are.

        :raises LibvirtError: 42, they are about a domain that may not be seen.
        """
        if self.ready is not None:
            return self.ready
        if self._visible is None:
            return results
        named = self.uuids
        answer = dict(results)
        for place in objects.in_results(self.procedure):
            if place.many:
                answer[place.name], taken = objects.pruned(place, results, lambda dom: self._sees(dom, named))
                if "ret" in answer:
                    answer["ret"] = max(0, answer["ret"] - taken)
            elif any(not self._sees(dom, named) for dom in place.doms(results)):
                raise absent(self._asked, self._given)
        return self._in_the_old_way(answer) if self.procedure != self._asked else answer | self._count(answer)

    def failure(self, error: LibvirtError) -> LibvirtError:
        """What the caller learns of *error*: nothing that tells a hidden domain from an absent one."""
        if self._visible is None:
            return error
        if error.code == 42:
            return absent(self._asked, self._given)
        if error.code in _TAKEN and (self._asked.name in MAKERS or self._asked.name == RENAME):
            detail = "the domain exists already, or its name is taken"
            return LibvirtError(
                9, 20, f"operation failed: {detail}", 2, ("operation failed: %s", detail, None)
            )
        return error

    def _sees(self, dom: objects.Dom, named: Sequence[str]) -> bool:
        # A call that names a domain gets back the name that it gave: that one is not believed.
        return objects.uuid_of(dom) in named or self._visible is None or self._visible(dom, not named)

    def _count(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Who wants only the number of domains gets no list."""
        if self._asked == LIST and not number(self._given, "need_results"):
            return {"domains": [], "ret": len(answer["domains"])}
        return {}

    def _in_the_old_way(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        _, member, taken, limit = OLD_LISTS[self._asked.name]
        doms = answer["domains"]
        if not taken:
            return {member: len(doms)}
        return {member: [dom[taken] for dom in doms][: max(0, number(self._given, limit))]}


def absent(call: Procedure, arguments: Mapping[str, Any]) -> LibvirtError:
    """What a domain that is absent answers, and one that may not be seen."""
    detail = "no domain with matching uuid"
    if call.name == "DOMAIN_LOOKUP_BY_ID":
        detail = f"no domain with matching id {arguments.get('id')}"
    elif call.name == "DOMAIN_LOOKUP_BY_NAME":
        detail = f"no domain with matching name '{arguments.get('name')}'"
    elif call.name == "DOMAIN_LOOKUP_BY_UUID":
        detail = f"no domain with matching uuid '{arguments.get('uuid')}'"
    else:
        for place in objects.in_arguments(call):
            for dom in place.doms(arguments):
                detail = f"no domain with matching uuid '{dom.get('uuid')}' ({dom.get('name')})"
    return LibvirtError(42, 10, _NOT_FOUND % detail, 2, (_NOT_FOUND, detail, None))
