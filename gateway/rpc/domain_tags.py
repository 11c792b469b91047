"""Tags of domains, which rights may go by: words in the domain's own metadata, that operators set.

``virsh metadata DOMAIN --uri urn:gateway:tags --key gateway --set '<tags>web production</tags>'``. They are
read when somebody's rights name a tag, and again when the hypervisor tells of a change. Nobody whose XML is
judged can set them.
Source: libvirt 9.0, virDomainGetMetadata; the namespace is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from gateway.errors import GatewayError
from gateway.rpc.domain_list import Connection, together
from gateway.wire.libvirt_schema import procedure
from gateway.wire.safe_xml import XmlError, parse

#: What a word in the rights of a ticket begins with that is a tag.
PREFIX = "tag:"
#: The namespace of the element.
URI = "urn:gateway:tags"
#: VIR_DOMAIN_METADATA_ELEMENT; characters of the element, and words in it.
_ELEMENT, _LONGEST, _MOST = 2, 4096, 64
_GET = procedure("DOMAIN_GET_METADATA")


@define(eq=False)
class DomainTags:
    """The tags of all domains of one hypervisor.

    :ivar wanted: somebody's rights go by them.
    """

    clock: IReactorTime
    wanted: bool = False
    _tags: dict[str, frozenset[str]] = field(factory=dict, init=False)

    def get(self, uuid: str) -> frozenset[str]:
        """The tags of a domain; none of one that is not known."""
        return self._tags.get(uuid, frozenset())

    async def load(self, connection: Connection, uuids: Iterable[str]) -> None:
        """Read the tags of all domains there are."""
        kept = list(uuids)
        self._tags = {uuid: tags for uuid, tags in self._tags.items() if uuid in set(kept)}

        async def read(uuid: str) -> None:
            await self.read(connection, uuid)

        await together(kept, read)

    async def read(self, connection: Connection, uuid: str) -> None:
        """Read the tags of one domain; where they cannot be had there are none."""
        dom = {"name": "", "uuid": uuid, "id": -1}
        try:
            told = await connection.call(_GET, {"dom": dom, "type": _ELEMENT, "uri": URI, "flags": 0})
            words = parse(told["metadata"], limit=_LONGEST).text.split()
        except (GatewayError, XmlError):
            self._tags.pop(uuid, None)
        else:
            self._tags[uuid] = frozenset(words[:_MOST])


@define(eq=False)
class DomainNames:
    """What rights go by: the name of a domain, and its tags, by its uuid."""

    _name: Callable[[str], str | None]
    _tags: DomainTags

    def __call__(self, uuid: str) -> str | None:
        return self._name(uuid)

    def tags(self, uuid: str) -> frozenset[str]:
        """The tags of a domain."""
        return self._tags.get(uuid)
