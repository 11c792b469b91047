"""The way of one call: who may make it, what is asked instead, the journal, the trail; and events."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from gateway import errors
from gateway.core.tickets import Rights
from gateway.rpc import answers_base, answers_events, commands
from gateway.rpc.desk import Opened
from gateway.rpc.seat import Seat
from gateway.wire.libvirt_error import LibvirtError
from tests.rpc.desk_case import EVERYTHING, DeskCase, FakeLink, domain

ONE, TWO = domain(1), domain(2)


class Case(DeskCase):
    def open(self, seat: Seat, target: str = "lab", **more: Any) -> str:
        """Open a target as the command does; the handle."""
        given = {"name": None, "readonly": None, "ttl": None, "uri": None}
        answer = self.do(answers_base.RESPONDERS[commands.Open](seat, target=target, **(given | more)))
        handle: str = answer["handle"]
        return handle

    def opened(self, seat: Seat, **more: Any) -> Opened:
        return seat.opened(self.open(seat, **more))

    def call(
        self, seat: Seat, opened: Opened, name: str, arguments: Any = None, **more: Any
    ) -> Deferred[Any]:
        return self.begin(seat.call(opened, name, arguments or {}, **more))

    def asked(self) -> list[str]:
        """What the hypervisor was asked and has not answered."""
        return [it.name for it in self.daemon.asked]


class OpenTests(Case):
    def test_whose(self) -> None:
        """A target that is not in the ticket, for others or only for operators is absent."""
        self.sites.adopt(
            {"lab": self.section(), "bobs": self.section(match="bob, b?b"), "far": self.section()}
        )
        caller = self.caller(targets=("lab", "bobs"))
        self.assertEqual(self.desk.site(caller, "lab").name, "lab")
        self.sites.opening("lab", "test:///other")
        for name in ("bobs", "far", "none", "", "test:///default", "lab opens test:///other"):
            self.assertRaises(errors.NoTarget, self.desk.site, caller, name)
        bob = self.caller(self.ticket("b" * 24, principal="bob", targets=("*",)))
        self.assertEqual(self.desk.site(bob, "bobs").name, "bobs")
        self.assertRaises(errors.NoTarget, self.desk.site, bob, "lab opens test:///other")

    def test_nothing_made(self) -> None:
        """A name that somebody sends makes no hypervisor, but for operators."""
        seat = self.seat()
        for number in range(100):
            self.assertRaises(
                errors.NoTarget, self.desk.site, seat.caller, f"test+unix:///default?socket=/{number}"
            )
        operator = self.logins.certificate("CN=op-1", None, self.ends.append)
        self.assertTrue(self.desk.site(operator, "test+unix:///default?socket=/run/x").private)
        self.assertRaises(errors.NoTarget, self.desk.site, operator, "none")
        operator.session.close("left")

    def test_open_fails(self) -> None:
        """Where the hypervisor cannot be opened there is no handle."""
        self.daemon.failure = errors.TargetDown(reason="refused")
        seat = self.seat()
        given = {"target": "lab", "name": None, "readonly": None, "ttl": None, "uri": None}
        begun = self.begin(answers_base.RESPONDERS[commands.Open](seat, **given))
        while not begun.called:
            self.turn(1)
        self.assertLess(self.clock.seconds(), 16)
        self.failureResultOf(begun, errors.GatewayError)
        self.assertEqual(len(self.desk.handles), 0)

    def test_uri(self) -> None:
        """Who may not know where a hypervisor is can open it all the same."""
        for allow, uri in (("domain:start", ""), ("connect:getattr", "test:///default")):
            seat = self.seat(self.caller(self.ticket(allow[:1] * 24, rights=Rights((allow,)))))
            given = {"target": "lab", "name": None, "readonly": None, "ttl": None, "uri": None}
            self.assertEqual(self.do(answers_base.RESPONDERS[commands.Open](seat, **given))["uri"], uri)

    def test_handles(self) -> None:
        """A handle and its cookies are for their principal, and end when they are closed, everywhere."""
        one, two = self.seat(), self.seat()
        handle = self.open(one)
        opened = two.opened(handle)
        cookie = two.cookie(opened, "dom", ONE["uuid"])
        self.assertEqual(one.domain(cookie)[1], ONE | {"id": -1})
        self.assertRaises(errors.NoHandle, self.desk.found, one.caller, "net", cookie)
        eve = self.seat(self.caller(self.ticket("e" * 24, principal="eve")))
        self.assertRaises(errors.NoHandle, eve.opened, handle)
        self.assertRaises(errors.NoHandle, eve.domain, cookie)
        self.assertEqual(self.desk.in_use, {opened.handle.hash})
        self.do(answers_base.RESPONDERS[commands.Close](one, handle=handle))
        self.assertEqual((self.desk.in_use, one.handles, two.handles), (set(), set(), set()))
        self.assertRaises(errors.NoHandle, two.opened, handle)
        self.assertRaises(errors.NoHandle, two.domain, cookie)


class CallTests(Case):
    def test_rights(self) -> None:
        """What counts is what the ticket says now, and what it said when the handle was opened."""
        uuid = self.ticket(rights=Rights(("domain:*",)))
        seat = self.seat(self.caller(uuid))
        opened = self.opened(seat)
        handle = next(iter(self.desk.handles.list("alice")))
        begun = self.call(seat, opened, "DOMAIN_SUSPEND", {"dom": ONE})
        self.answer("DOMAIN_SUSPEND")
        self.assertEqual(self.successResultOf(begun), {})
        self.assertTrue(opened.permits("domain:suspend"))
        for rights, permitted in ((Rights(("read",)), False), (EVERYTHING, True), (Rights(()), False)):
            self.ticket(uuid, rights=rights)
            now = self.desk._opened(seat.caller, handle)
            self.assertEqual(now.permits("domain:suspend"), permitted)
            # More than it was opened with is never permitted.
            self.assertFalse(now.permits("network:start"))
        failure = self.failureResultOf(self.call(seat, now, "DOMAIN_SUSPEND", {"dom": ONE}), errors.Denied)
        self.assertEqual(failure.value.permission, "domain:suspend")
        self.assertEqual(self.asked(), [])

    def test_hidden(self) -> None:
        """A domain that may not be seen is absent; nothing is asked about it."""
        seat = self.seat(self.caller(rights=Rights(("*",), ("vm-1",))))
        opened = self.opened(seat)
        listed = self.do(seat.call(opened, "CONNECT_LIST_ALL_DOMAINS", {"need_results": 1, "flags": 0}))
        self.assertEqual(listed, {"domains": [ONE], "ret": 1})
        for dom in (TWO, TWO | {"name": "vm-1"}, domain(3)):
            self.absent(self.fails(LibvirtError, seat.call(opened, "DOMAIN_GET_INFO", {"dom": dom})))
        self.assertEqual(self.asked(), [])
        begun = self.call(seat, opened, "DOMAIN_LOOKUP_BY_ID", {"id": 2})
        self.answer("DOMAIN_LOOKUP_BY_ID", dom=TWO)
        self.absent(self.failureResultOf(begun, LibvirtError).value)

    def test_unknown_names(self) -> None:
        """Who may see only some waits until the names are known, and is told when they are not."""
        seat = self.seat(self.caller(rights=Rights(("*",), ("vm-1",))))
        self.daemon.answers.pop("CONNECT_GET_ALL_DOMAIN_STATS")
        opened = self.opened(seat)
        begun = self.call(seat, opened, "DOMAIN_GET_INFO", {"dom": ONE})
        self.assertNotIn("DOMAIN_GET_INFO", self.asked())
        self.turn(6)
        self.failureResultOf(begun, errors.TargetDown)

    def test_shared_connection(self) -> None:
        """What would change a connection that others use, too, is refused whoever asks."""
        operator = self.logins.certificate("CN=op-1", None, self.ends.append)
        seat = self.seat(operator)
        opened = self.opened(seat)
        for name in (
            "CONNECT_CLOSE",
            "CONNECT_OPEN",
            "CONNECT_SET_IDENTITY",
            "CONNECT_DOMAIN_EVENT_DEREGISTER_ANY",
        ):
            self.assertEqual(self.fails(errors.Denied, seat.call(opened, name)).permission, name)

    def test_trail(self) -> None:
        """Each change stands in the trail with its end, and so does what was denied; reading does not."""
        seat = self.seat(self.caller(rights=Rights(("domain:read", "domain:suspend"))))
        opened = self.opened(seat)
        begun = [
            self.call(seat, opened, name, {"dom": ONE}) for name in ("DOMAIN_SUSPEND", "DOMAIN_GET_INFO")
        ]
        self.turn(1.5)
        self.answer("DOMAIN_SUSPEND")
        self.answer("DOMAIN_GET_INFO", state=1, maxMem=1, memory=1, nrVirtCpu=1, cpuTime=1)
        begun.append(self.call(seat, opened, "DOMAIN_SUSPEND", {"dom": ONE}))
        self.daemon.asked[0].refuse(55)
        self.failureResultOf(begun.pop(), LibvirtError)
        begun.append(self.call(seat, opened, "DOMAIN_SUSPEND", {"dom": ONE}))
        begun[-1].cancel()
        self.failureResultOf(begun.pop(), CancelledError)
        self.fails(errors.Denied, seat.call(opened, "DOMAIN_RESET", {"dom": ONE, "flags": 0}))
        ends = [(it["kind"], it["result"], it["reason"], it["duration_ms"]) for it in self.trail]
        self.assertEqual(
            ends,
            [
                ("DOMAIN_SUSPEND", "ok", None, 1500),
                ("DOMAIN_SUSPEND", "failed", "libvirt-55", 0),
                ("DOMAIN_SUSPEND", "failed", "cancelled", 0),
                ("DOMAIN_RESET", "failed", "denied", 0),
            ],
        )
        who = {(it["principal"], it["peer"], it["target"], it["session"]) for it in self.trail}
        self.assertEqual(who, {("alice", "192.0.2.1", "lab", seat.caller.session.id)})
        self.assertIn(("DOMAIN_GET_INFO", "ok"), self.seen)
        for each in begun:
            self.successResultOf(each)

    def test_journal(self) -> None:
        """The same by its request id is done once; for somebody else it is another request."""
        seat, two = self.seat(), self.seat(self.caller(self.ticket("b" * 24, principal="bob")))
        opened = self.opened(seat)
        once = [self.call(seat, opened, "DOMAIN_SUSPEND", {"dom": ONE}, request_id="r") for _ in range(2)]
        self.assertEqual(self.asked(), ["DOMAIN_SUSPEND"])
        self.answer("DOMAIN_SUSPEND")
        self.assertEqual([self.successResultOf(it) for it in once], [{}, {}])
        self.do(seat.call(opened, "DOMAIN_SUSPEND", {"dom": ONE}, request_id="r"))
        self.assertEqual(self.asked(), [])
        self.fails(errors.BadArguments, seat.call(opened, "DOMAIN_RESUME", {"dom": ONE}, request_id="r"))
        begun = self.call(two, self.opened(two), "DOMAIN_SUSPEND", {"dom": ONE}, request_id="r")
        self.answer("DOMAIN_SUSPEND")
        self.successResultOf(begun)

    def test_deadline(self) -> None:
        """A caller waits as long as it says."""
        seat = self.seat()
        begun = self.call(seat, self.opened(seat), "DOMAIN_SUSPEND", {"dom": ONE}, deadline=3.0)
        self.turn(2.9)
        self.assertNoResult(begun)
        self.turn(0.2)
        self.assertTrue(self.failureResultOf(begun, errors.DeadlinePassed).value.maybe_executed)

    def test_names(self) -> None:
        """The name that an answer tells is known at once, and that of a domain just renamed."""
        seat = self.seat()
        opened = self.opened(seat)
        begun = self.call(
            seat,
            opened,
            "DOMAIN_DEFINE_XML_FLAGS",
            {"xml": "<domain type='test'><name>new</name></domain>", "flags": 0},
        )
        new = domain(9, "new")
        self.answer("DOMAIN_DEFINE_XML_FLAGS", dom=new)
        self.successResultOf(begun)
        self.assertEqual(opened.site.hub.names(new["uuid"]), "new")


class EventTests(Case):
    def subscribe(self, seat: Seat, handle: str, **more: Any) -> str:
        given = {"kinds": ["lifecycle"], "dom": None, "from_seq": None}
        sub: str = self.do(
            answers_events.RESPONDERS[commands.Subscribe](seat, handle=handle, **(given | more))
        )["sub"]
        self.turn()
        return sub

    def happen(self, dom: dict[str, Any], event: int = 2) -> None:
        """A domain is started."""
        (watching,) = [
            it for it in self.daemon.live if it.opened and "events" in str(it)
        ] or self.daemon.live[-1:]
        del watching
        for peer in self.daemon.live:
            peer.tell("DOMAIN_EVENT_CALLBACK_LIFECYCLE", callbackID=1, dom=dom, event=event, detail=0)
        self.turn()

    def told(self, number: int) -> list[str]:
        """The domains that a connection was told of."""
        rows = [json.loads(it["payload"]) for it in self.links[number].told]
        self.links[number].told.clear()
        return [it["dom"]["name"] for it in rows if "dom" in it]

    def test_rights(self) -> None:
        """One hears of what the ticket lets one see at that moment, as long as handle and ticket last."""
        uuid = self.ticket()
        seat = self.seat(self.caller(uuid))
        handle = self.open(seat)
        self.subscribe(seat, handle)
        for rights, told in (
            (EVERYTHING, ["vm-1", "vm-2"]),
            (Rights(("*",), ("vm-2",)), ["vm-2"]),
            (Rights(("domain:start",)), []),
            (EVERYTHING, ["vm-1", "vm-2"]),
        ):
            self.ticket(uuid, rights=rights)
            self.happen(ONE)
            self.happen(TWO)
            self.assertEqual(self.told(0), told)
        self.do(answers_base.RESPONDERS[commands.Close](seat, handle=handle))
        self.happen(ONE)
        self.assertEqual(self.told(0), [])

    def test_closed_elsewhere(self) -> None:
        """A handle that is closed on one connection, or is over, is silent on all."""
        one, two = self.seat(), self.seat()
        handle, brief = self.open(one), self.open(two, ttl=30)
        self.subscribe(two, handle)
        self.subscribe(two, brief, kinds=["*"])
        self.happen(ONE)
        self.assertEqual(self.told(1), ["vm-1", "vm-1"])
        self.do(answers_base.RESPONDERS[commands.Close](one, handle=handle))
        self.happen(ONE)
        self.assertEqual(self.told(1), ["vm-1"])
        self.now += 31
        self.desk.left(self.desk.handles.purge())
        self.happen(ONE)
        self.assertEqual(self.told(1), [])
        self.assertEqual(len(self.sites.find("lab").hub._log._subscriptions), 0)  # type: ignore[union-attr]  # it is known

    def test_taken_up(self) -> None:
        """A subscription whose connection is gone is taken up again; one that lives is left alone."""
        one, two = self.seat(), self.seat()
        handle = self.open(one)
        first, second = self.subscribe(one, handle), self.subscribe(two, handle)
        subs = self.desk.handles.list("alice")[0].subscriptions
        self.assertEqual(set(subs), {first, second})
        self.do(answers_events.RESPONDERS[commands.Ack](one, sub=first, seq=1))
        two.events.stop()
        self.desk.seats.discard(two)
        third = self.subscribe(one, handle)
        self.assertEqual(set(subs), {first, third})

    def test_left_meanwhile(self) -> None:
        """Who leaves before its subscription begins leaves nothing behind."""
        seat = self.seat()
        handle = self.open(seat)
        given = {"kinds": ["lifecycle"], "dom": None, "from_seq": None}
        begun = Deferred.fromCoroutine(
            answers_events.RESPONDERS[commands.Subscribe](seat, handle=handle, **given)
        )
        self.successResultOf(begun)
        seat.events.stop()
        self.turn()
        self.assertEqual(len(self.sites.find("lab").hub._log._subscriptions), 0)  # type: ignore[union-attr]  # it is known

    def test_slow(self) -> None:
        """A connection that takes no more is told nothing more, and goes on when it does."""
        seat = self.seat(link=FakeLink(2))
        self.subscribe(seat, self.open(seat))
        for number in range(5):
            self.happen(domain(number + 1))
        self.assertEqual(self.told(0), ["vm-1", "vm-2"])
        self.links[0].more(2)
        self.assertEqual(self.told(0), ["vm-3", "vm-4"])
        self.links[0].more(9)
        self.assertEqual(self.told(0), ["vm-5"])

    def test_configured_anew(self) -> None:
        """Who waits for events of a hypervisor that is configured anew is hung up on; others stay."""
        one, two = self.seat(), self.seat()
        self.subscribe(one, self.open(one))
        self.open(two)
        (stale,) = self.sites.adopt({"lab": self.section(window=2)})
        for seat in (one, two):
            seat.events.leave(stale)
        self.assertEqual([[type(it) for it in link.ended] for link in self.links], [[errors.Interrupted], []])
        stopping = Deferred.fromCoroutine(stale.stop())
        self.turn()
        self.successResultOf(stopping)
