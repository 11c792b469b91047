"""Rights that go by tags in the metadata of domains."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway import errors
from gateway.rpc.domain_tags import URI
from gateway.rpc.rights import Scope
from gateway.rpc.xml_guard import Guard
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import procedure
from gateway.wire.ticket_json import Rights
from tests.rpc.event_world import World, hub_of, uuid_of

ONE, TWO = uuid_of(1), uuid_of(2)
CHANGED = 379


def dom(uuid: str, name: str = "") -> dict[str, Any]:
    """A reference to a domain."""
    return {"name": name, "uuid": uuid, "id": -1}


class TagsTests(SynchronousTestCase):
    """What a ticket with a tag sees."""

    def setUp(self) -> None:
        self.world = World()
        self.hub = hub_of(self.world, Clock())
        self.world.define(ONE, "a1")
        self.world.define(TWO, "a2")
        self.world.tags = {ONE: " web\nproduction ", TWO: "db"}
        self.scope = Scope(Rights(("*",), ("tag:web",)))

    def sees(self) -> list[str]:
        """The domains of the ticket."""
        return [uuid for uuid in (ONE, TWO) if self.scope.sees(dom(uuid), self.hub.names)]

    def settled(self) -> Deferred[None]:
        """Wait for tags."""
        waiting = Deferred.fromCoroutine(self.hub.settled(tagged=True))
        self.world.settle()
        return waiting

    def test_seen(self) -> None:
        """A domain is seen for a tag that it has, and for none that it has not."""
        self.world.connect()
        self.successResultOf(self.settled())
        self.assertEqual(self.sees(), [ONE])
        self.assertTrue(self.scope.tagged)
        with self.assertRaises(LibvirtError):
            self.scope.check(procedure("DOMAIN_DESTROY"), {"dom": dom(TWO, "web")}, self.hub.names)
        self.assertFalse(Scope(Rights(("*",), ("web",))).tagged)

    def test_before_connect(self) -> None:
        """Tags that are wanted before there is a connection are there when it is ready, and after a loss."""
        waiting = Deferred.fromCoroutine(self.hub.settled(tagged=True))
        self.assertNoResult(waiting)
        self.assertEqual(self.sees(), [])
        for _ in range(2):
            self.world.connect()
            self.world.settle()
            self.assertEqual(self.sees(), [ONE])
            self.world.lose()
        self.successResultOf(waiting)

    def test_not_asked(self) -> None:
        """As long as nobody's rights go by tags no domain is asked for them."""
        link = self.world.connect()
        while link.calls:
            self.assertNotEqual(link.calls[0].procedure.name, "DOMAIN_GET_METADATA")
            link.reply(link.calls[0])

    def test_changed(self) -> None:
        """A tag that is given, or taken away, counts when the hypervisor tells of it."""
        self.world.connect()
        self.settled()
        self.world.tags = {TWO: "web"}
        for uuid in (ONE, TWO):
            change = {"dom": dom(uuid, "a"), "type": 2, "nsuri": URI}
            self.world.say(CHANGED, "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", 23, **change)
        self.world.settle()
        self.assertEqual(self.sees(), [TWO])

    def test_undefined(self) -> None:
        """A domain that is gone leaves no tags to the next one with its uuid."""
        self.world.connect()
        self.settled()
        self.world.tags = {}
        self.world.undefine(ONE)
        self.world.settle()
        self.assertEqual(self.sees(), [])

    def test_nonsense(self) -> None:
        """Metadata that is no XML of ours holds no tags, and stops nothing."""
        self.world.tags = {ONE: "<a>web</a>", TWO: "web" * 5000}
        self.world.connect()
        self.successResultOf(self.settled())
        self.assertEqual(self.sees(), [])

    def test_not_by_tenants(self) -> None:
        """Whose XML is judged can set no tags, neither by metadata nor by a definition."""
        scope = Scope(Rights(("*",), ("*",)))
        given = {
            "dom": dom(ONE),
            "type": 2,
            "metadata": "<tags>web</tags>",
            "key": "g",
            "uri": URI,
            "flags": 0,
        }
        call = procedure("DOMAIN_SET_METADATA")
        with self.assertRaises(errors.Denied):
            scope.check(call, given, self.hub.names)
        scope.check(call, given | {"uri": "urn:other"}, self.hub.names)
        scope.check(call, given | {"uri": "urn:other", "metadata": None}, self.hub.names)
        scope.check(call, given | {"type": 1, "uri": None, "metadata": "no <xml"}, self.hub.names)
        # libvirt leaves an element the namespace that it brings.
        for metadata in (
            f"<tags xmlns='{URI}'>web</tags>",
            f"<g:tags xmlns:g='{URI.replace('t', '&#116;')}'>web</g:tags>",
            f"<!DOCTYPE t [<!ENTITY u '{URI}'>]><tags xmlns='&u;'>web</tags>",
        ):
            with self.assertRaises(errors.Denied):
                scope.check(call, given | {"uri": "urn:other", "metadata": metadata}, self.hub.names)
        Scope(Rights(("*",), ("*",)), guard=None).check(call, given, self.hub.names)
        whole = "<domain type='test'><name>a</name><metadata>{}</metadata><memory>1</memory></domain>"
        with self.assertRaises(errors.Denied):
            Guard().check("domain", whole.format(f"<x xmlns:g='{URI}'><g:tags>web</g:tags></x>"))
        Guard().check("domain", whole.format("<x xmlns='urn:other'>web</x>"))
