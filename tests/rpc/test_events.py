"""The ring of events: numbers that rise, subscribers that may be slow, and no memory that grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import Busy
from gateway.rpc.domain_states import DOMAINS, NAME, Domain, DomainStates
from gateway.rpc.events import EVENT, PAGE, RING, Event, EventLog, Subscription
from tests.rpc.event_world import NOW, everything, uuid_of

DOM = {"name": "a1", "uuid": uuid_of(1), "id": 1}
OTHER = {"name": "b1", "uuid": uuid_of(2), "id": 2}
NET = {"name": "default", "uuid": uuid_of(9)}


class LogCase(SynchronousTestCase):
    """A log of five events."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.domains = [
            Domain(uuid_of(number), f"a{number}", number, "running", "booted") for number in (1, 2)
        ]
        self.log = self.make()
        self.told: list[Event] = []

    def make(self, *, kept: int = 5, subscribers: int = 4096) -> EventLog:
        log = EventLog(
            lambda: NOW + self.clock.seconds(), lambda: self.domains, kept=kept, subscribers=subscribers
        )
        log.ready = True
        return log

    def tell(self, count: int = 1, dom: Mapping[str, Any] = DOM, kind: str = "lifecycle") -> None:
        for number in range(count):
            self.log.publish(kind, "dom", dom, {"event": "started", "number": number})

    def listen(
        self,
        *kinds: str,
        from_seq: int | None = None,
        uuid: str | None = None,
        window: int = 256,
        room: bool = True,
    ) -> Subscription:
        def take(event: Event) -> bool:
            self.told.append(event)
            return room

        subscription = self.log.subscribe(kinds or ("*",), uuid, from_seq, everything, take, window=window)
        subscription.resume()
        return subscription

    def take(self, event: Event) -> bool:
        self.told.append(event)
        return True

    def seqs(self) -> list[int]:
        return [event["seq"] for event in self.told]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.told]


class NumbersTest(LogCase):
    """Sequence numbers."""

    def test_rise_over_restarts(self) -> None:
        """A gateway that starts later has higher numbers, of at most 63 bits."""
        self.tell(100_000)
        self.clock.advance(0.1)
        self.assertGreater(self.make().seq, self.log.seq)
        self.assertLess(self.log.seq, 2**63)

    def test_time(self) -> None:
        """An event has its time of day, and says what it is about."""
        self.listen()
        self.clock.advance(1.5)
        self.tell()
        expected = {"seq": self.log.seq, "time": NOW + 1.5, "kind": "lifecycle", "dom": DOM}
        self.assertEqual(self.told, [expected | {"event": "started", "number": 0}])


class ReplayTest(LogCase):
    """From which number on."""

    def test_replay(self) -> None:
        """Whoever comes back is told what it missed, and nothing twice."""
        self.tell(2)
        known = self.log.seq
        self.tell(3)
        subscription = self.listen(from_seq=known)
        self.assertTrue(subscription.complete)
        self.assertEqual(subscription.seq, known)
        self.assertEqual(self.seqs(), [known + 1, known + 2, known + 3])
        self.tell()
        self.assertEqual(self.seqs()[-1], known + 4)

    def test_from_now(self) -> None:
        """Without a number it is what happens from now on."""
        self.tell(3)
        subscription = self.listen()
        self.assertEqual((self.told, subscription.complete, subscription.seq), ([], True, self.log.seq))

    def test_edge(self) -> None:
        """The ring gives all it has; one event further back is a resync."""
        first = self.log.seq
        self.tell(6)
        self.assertTrue(self.listen(from_seq=first + 1).complete)
        self.assertEqual(len(self.told), 5)
        self.told.clear()
        self.assertFalse(self.listen(from_seq=first).complete)
        self.assertEqual(self.kinds(), ["resync"])

    def test_other_epochs(self) -> None:
        """A number of before our start, or of a future that never was, is a resync."""
        start = self.log.seq
        for seq in (0, 1, -5, start - 1, None, 2**80):
            self.told.clear()
            seq = self.log.seq + 1 if seq is None else seq
            subscription = self.listen(from_seq=seq)
            self.assertFalse(subscription.complete)
            self.assertEqual(self.kinds(), ["resync"])
            self.tell()
            self.assertEqual(self.kinds(), ["resync", "lifecycle"])
            self.assertLess(*self.seqs())
            subscription.close()

    def test_nothing_before_resume(self) -> None:
        """Nothing is told before the subscriber has its subscription."""
        subscription = self.log.subscribe(("*",), None, 0, everything, self.take)
        self.tell()
        self.assertEqual(self.told, [])
        subscription.resume()
        self.assertEqual(self.kinds(), ["resync"])

    def test_resync_waits(self) -> None:
        """While the state is not known, nobody is told one; who knew it is told what happens all the same."""
        self.log.ready = False
        late, _ = self.listen(from_seq=0), self.listen()
        self.tell()
        self.assertEqual(self.kinds(), ["lifecycle"])
        self.log.ready = True
        self.log.lost()
        self.assertEqual(self.kinds().count("resync"), 2)
        self.assertEqual(late.position, 0)


class ResyncTest(LogCase):
    """Pages of states."""

    def test_pages(self) -> None:
        """A resync is in pages of 256 domains: the first begins anew, the last says that it is the last."""
        self.domains = [Domain(uuid_of(n), f"a{n}", n, "paused", "user") for n in range(2 * PAGE + 1)]
        self.listen(from_seq=0)
        self.assertEqual([event["page"] for event in self.told], [0, 1, 2])
        self.assertEqual([event["end"] for event in self.told], [False, False, True])
        self.assertEqual([len(event["domains"]) for event in self.told], [PAGE, PAGE, 1])
        self.assertEqual(
            self.told[2]["domains"],
            [{"dom": {"name": "a512", "uuid": uuid_of(512), "id": 512}, "state": "paused", "reason": "user"}],
        )
        self.tell()
        self.assertEqual(self.seqs(), sorted(set(self.seqs())))

    def test_nothing_to_see(self) -> None:
        """A resync of nothing has one page: it says that something was missed."""
        self.domains = []
        self.listen(from_seq=0)
        self.listen("network", from_seq=0)
        self.assertEqual([(event["domains"], event["end"]) for event in self.told], [([], True)] * 2)

    def test_stopped_midway(self) -> None:
        """Whoever comes back from the middle of a resync gets it again, not half of it."""
        self.domains = [Domain(uuid_of(n), f"a{n}", n, "running", "booted") for n in range(3 * PAGE)]
        first = self.listen(from_seq=0, window=2)
        half = self.told[-1]["seq"]
        self.assertEqual(len(self.told), 2)
        first.ack(half)
        self.assertEqual(len(self.told), 3)
        self.assertFalse(self.listen(from_seq=half).complete)
        self.assertFalse(self.listen(from_seq=first.position).complete)
        first.ack(self.told[2]["seq"])
        self.assertTrue(self.listen(from_seq=first.position).complete)
        self.assertTrue(self.listen(from_seq=self.told[2]["seq"]).complete)

    def test_many_stopped_midway(self) -> None:
        """However many resyncs there were, none of their middles is taken for the whole."""
        self.domains = [Domain(uuid_of(n), f"a{n}", n, "running", "booted") for n in range(2 * PAGE)]
        halves = []
        for _ in range(20):
            self.told.clear()
            self.listen(from_seq=0, window=1).close()
            halves.append(self.told[0]["seq"])
        self.assertLessEqual(len(self.log._partial), 5)
        for half in halves:
            self.assertFalse(self.listen(from_seq=half).complete)

    def test_state_of_the_moment(self) -> None:
        """A resync is one moment's state: what comes after it follows it."""
        self.domains = [Domain(uuid_of(n), f"a{n}", n, "running", "booted") for n in range(2 * PAGE)]
        slow = self.listen(from_seq=0, window=1)
        self.tell()
        self.domains = []
        slow.ack(self.log.seq)
        slow.ack(self.log.seq)
        self.assertEqual(self.kinds(), ["resync", "resync", "lifecycle"])
        self.assertEqual(len(self.told[1]["domains"]), PAGE)


class WindowTest(LogCase):
    """Slow subscribers."""

    def test_window(self) -> None:
        """No more is told than may be unacknowledged; an ack of one makes room for one."""
        subscription = self.listen(window=2)
        self.tell(4)
        self.assertEqual(len(self.told), 2)
        subscription.ack(self.told[0]["seq"])
        self.assertEqual(len(self.told), 3)
        self.assertEqual(subscription.position, self.told[0]["seq"])
        subscription.ack(self.log.seq)
        self.assertEqual(len(self.told), 4)

    def test_fallen_out(self) -> None:
        """Whoever waits until its place has left the ring gets a resync in place of what it missed."""
        subscription = self.listen(window=2)
        self.tell(10)
        self.assertEqual(len(self.told), 2)
        subscription.ack(self.log.seq)
        self.assertEqual(self.kinds(), ["lifecycle", "lifecycle", "resync"])
        self.tell()
        self.assertEqual(self.kinds()[3:], ["lifecycle"])
        self.assertEqual(self.seqs(), sorted(set(self.seqs())))

    def test_room(self) -> None:
        """Whoever has no room is told no more until it has."""
        subscription = self.listen(room=False)
        self.tell(3)
        self.assertEqual(len(self.told), 1)
        subscription.resume()
        self.assertEqual(len(self.told), 2)

    def test_strange_acks(self) -> None:
        """Acks of what was never told, twice or out of order, harm nothing."""
        subscription = self.listen(window=3)
        self.tell(3)
        for seq in (0, -1, self.log.seq - 1, self.log.seq - 2, 2**70, self.log.seq):
            subscription.ack(seq)
        self.assertEqual(subscription.position, self.log.seq)

    def test_position_of_the_quiet(self) -> None:
        """Whoever is told little need not fear for its place: what it does not want counts as seen."""
        subscription = self.listen(uuid=uuid_of(5))
        self.tell(20)
        self.assertTrue(self.listen(from_seq=subscription.position).complete)

    def test_closed(self) -> None:
        """After the end nothing is told, also when it ends in the midst of being told."""
        subscription = self.listen()
        self.tell()
        subscription.close()
        self.tell()
        self.assertEqual(len(self.told), 1)
        self.assertEqual(len(self.log._subscriptions), 0)

    def test_acks_while_told(self) -> None:
        """An ack, an end or a subscription from within a delivery is as good as any other."""
        order: list[int] = []

        def take(event: Event) -> bool:
            order.append(event["seq"])
            mine.ack(event["seq"])
            if len(order) == 3:
                self.tell()
            if len(order) == 4:
                mine.close()
            return True

        mine = self.log.subscribe(("*",), None, None, everything, take, window=1)
        mine.resume()
        self.tell(5)
        self.assertEqual(order, sorted(set(order)))
        self.assertEqual(len(order), 4)

    def test_acks_of_many(self) -> None:
        """Who acknowledges each event at once may be told any number of them."""
        self.log = self.make(kept=3000)
        start = self.log.seq
        self.tell(3000)

        def take(event: Event) -> bool:
            self.told.append(event)
            mine.ack(event["seq"])
            return True

        mine = self.log.subscribe(("*",), None, start, everything, take, window=1)
        mine.resume()
        self.assertEqual(len(self.told), 3000)

    def test_one_that_fails(self) -> None:
        """A subscriber that fails is told nothing any more; the others do not notice."""

        def fail(event: Event) -> bool:
            raise RuntimeError("a bug")

        self.log.subscribe(("*",), None, None, everything, fail).resume()
        self.listen()
        self.tell(2)
        self.assertEqual(len(self.told), 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class ChoiceTest(LogCase):
    """What is told to whom."""

    def test_kinds(self) -> None:
        """Only the kinds that were named are told."""
        self.listen("reboot", "network")
        self.tell()
        self.tell(kind="reboot")
        self.log.publish("network", "net", NET, {"event": "started"})
        self.assertEqual(self.kinds(), ["reboot", "network"])
        self.assertEqual(self.told[1]["net"], NET)

    def test_one_domain(self) -> None:
        """Whoever named a domain hears of no other, nor of networks."""
        self.listen(uuid=uuid_of(1), from_seq=0)
        self.tell()
        self.tell(dom=OTHER)
        self.log.publish("network", "net", NET, {"event": "started"})
        self.assertEqual(self.kinds(), ["resync", "lifecycle"])
        self.assertEqual([row["dom"]["uuid"] for row in self.told[0]["domains"]], [uuid_of(1)])

    def test_rights(self) -> None:
        """What one may not see is in no event, no replay and no resync."""
        asked = []

        def allowed(subject: str, what: Mapping[str, Any]) -> bool:
            asked.append(subject)
            return bool(what["name"] == "a1")

        start = self.log.seq
        self.tell(2, OTHER)
        for from_seq in (start, 0):
            self.log.subscribe(("*",), None, from_seq, allowed, self.take).resume()
        self.tell(2, OTHER)
        self.log.publish("network", "net", NET, {"event": "started"})
        self.tell()
        self.assertNotIn("b1", repr(self.told))
        self.assertNotIn("a2", repr(self.told))
        self.assertNotIn("default", repr(self.told))
        self.assertEqual(self.kinds(), ["resync", "lifecycle", "lifecycle"])
        self.assertIn("net", asked)


class BoundsTest(LogCase):
    """Memory."""

    def test_ring(self) -> None:
        """The ring has no more events than it should, whatever waits for them."""
        self.listen(room=False)
        self.tell(1000)
        self.assertEqual(len(self.log._ring), 5)

    def test_large_events(self) -> None:
        """A large field is left out of an event, which says so; large events shorten the ring."""
        self.listen()
        self.log.publish(
            "tunable", "dom", DOM, {"params": [{"field": "x" * 99} for _ in range(999)], "reason": "y"}
        )
        self.assertEqual((self.told[0]["cut"], self.told[0]["reason"]), (True, "y"))
        self.assertNotIn("params", self.told[0])
        log = self.log = self.make(kept=10_000)
        for _ in range(2 * RING // EVENT):
            log.publish("tunable", "dom", DOM, {"params": "x" * (EVENT - 1000)})
        self.assertLessEqual(sum(len(repr(entry.event)) for entry in log._ring), RING + EVENT)
        self.assertGreater(len(log._ring), RING // EVENT // 2)

    def test_subscribers(self) -> None:
        """There are no more subscriptions than there may be; one that ends makes room."""
        self.log = self.make(subscribers=2)
        first, _ = self.listen(), self.listen()
        with self.assertRaises(Busy):
            self.listen()
        first.close()
        self.listen()

    def test_domains(self) -> None:
        """A hypervisor cannot make us remember domains without end, nor names without end."""
        states = DomainStates()
        states.replace([])
        for number in range(DOMAINS + 10):
            states.apply({"name": "x", "uuid": uuid_of(number), "id": -1}, "defined", "added")
        self.assertEqual(len(states.all()), DOMAINS)
        states = DomainStates()
        states.apply({"name": "x" * (NAME + 1), "uuid": uuid_of(1), "id": -1}, "defined", "added")
        self.assertIsNone(states.get(uuid_of(1)))
