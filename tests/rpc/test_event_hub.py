"""Whoever applies events and resyncs knows the true state of what it may see, whatever is lost or late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.errors import BadArguments
from gateway.rpc.event_hub import EventHub
from gateway.wire.libvirt_schema import procedure
from tests.rpc.event_world import Listener, World, everything, hub_of, uuid_of

DOMAINS = "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY"
ONE, TWO = uuid_of(1), uuid_of(2)
OLDER, REBOOT = procedure("DOMAIN_EVENT_LIFECYCLE"), procedure("DOMAIN_EVENT_CALLBACK_REBOOT")


class HubCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.world = World()
        self.hub = hub_of(self.world, self.clock)

    def up(self) -> None:
        self.world.connect()
        self.world.settle()

    def check(self, listener: Listener) -> None:
        self.world.settle()
        self.assertEqual(listener.table, self.world.truth(listener.allowed))


class RegistrationTest(HubCase):
    """What the hypervisor is asked for."""

    def test_all(self) -> None:
        """After each connect all kinds are asked for; what the driver does not have stops nothing."""
        self.world.without = {(DOMAINS, 27), ("CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY", 0)}
        for _ in range(2):
            link = self.world.connect()
            self.world.settle()
            self.assertEqual({number for name, number in link.asked if name == DOMAINS}, set(range(28)))
            self.assertIn(("CONNECT_NETWORK_EVENT_REGISTER_ANY", 0), link.registered)
            self.assertNotIn(("CONNECT_SECRET_EVENT_REGISTER_ANY", 0), link.asked)
            self.assertTrue(self.hub.synced)
            self.world.lose()
            self.assertFalse(self.hub.synced)

    def test_few_at_a_time(self) -> None:
        """Never are more calls on their way than a daemon takes from one client."""
        link, most = self.world.connect(), 0
        while link.calls:
            most = max(most, len(link.calls))
            link.reply(link.calls[-1])
        self.assertEqual(most, 4)

    def test_on_demand(self) -> None:
        """Node devices and secrets are asked for when somebody wants them, at once and ever after."""
        self.up()
        listener = Listener(self.hub, kinds=("secret",))
        listener.listen(None)
        self.world.settle()
        secret = {"uuid": ONE, "usageType": 2, "usageID": "ceph"}
        self.world.say(383, "CONNECT_SECRET_EVENT_REGISTER_ANY", 1, secret=secret)
        self.world.settle()
        self.assertEqual(listener.story(), ["secret value_changed"])
        self.world.lose()
        self.up()
        self.assertIsNotNone(self.world.link)
        assert self.world.link is not None
        self.assertIn(("CONNECT_SECRET_EVENT_REGISTER_ANY", 0), self.world.link.registered)

    def test_strange_kind(self) -> None:
        """A kind that there is not, and none at all, are refused."""
        for kinds in (("lifecycle", "nonsense"), ()):
            with self.assertRaises(BadArguments):
                self.hub.subscribe(kinds, None, None, everything, lambda _: True)

    def test_older_events(self) -> None:
        """An event without a callback id, or of another program, is nobody's."""
        self.up()
        listener = Listener(self.hub)
        listener.listen(None)
        told = len(listener.told)
        older = {"dom": {"name": "a", "uuid": ONE, "id": 1}, "event": 2, "detail": 0}
        self.world.events(OLDER, older)
        self.assertEqual(len(listener.told), told)

    def test_stop(self) -> None:
        """After the end nothing runs, and nothing is called."""
        link = self.world.connect()
        self.hub.stop()
        self.assertTrue(all(call.cancelled for call in link.calls))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ResyncTest(HubCase):
    """From connect to connect."""

    def test_life(self) -> None:
        """A guest's life is told in libvirt's words, with the state that each event leads to."""
        self.up()
        listener = Listener(self.hub)
        listener.listen(None)
        self.world.define(ONE, "a1")
        self.world.start(ONE)
        self.world.suspend(ONE)
        self.world.reboot(ONE)
        self.world.resume(ONE)
        self.world.destroy(ONE)
        self.check(listener)
        self.assertEqual(
            listener.story(),
            [
                *("lifecycle defined added", "lifecycle resumed unpaused", "lifecycle started booted"),
                *("lifecycle suspended paused", "reboot", "lifecycle resumed unpaused"),
                *("lifecycle shutdown host", "lifecycle stopped destroyed"),
            ],
        )
        states = [event["state"] for event in listener.told if event["kind"] == "lifecycle"]
        self.assertEqual(
            states, ["shutoff", "running", "running", "paused", "running", "shutdown", "shutoff"]
        )
        self.assertEqual(listener.told[-1]["dom"], {"name": "a1", "uuid": ONE, "id": -1})

    def test_first_list(self) -> None:
        """What was there before us is no news, and whoever listens already gets it as a resync."""
        self.world.define(ONE, "a1")
        listener = Listener(self.hub)
        listener.listen(None)
        self.up()
        self.assertEqual(listener.story(), ["resync"])
        self.check(listener)

    def test_no_resync_of_nothing(self) -> None:
        """Nobody is told a state that we do not know: a resync waits until there is a connection."""
        self.world.define(ONE, "a1")
        listener = Listener(self.hub)
        listener.listen(0)
        self.assertEqual(listener.told, [])
        self.up()
        self.assertEqual(len([event for event in listener.told if event["kind"] == "resync"]), 2 - 1)
        self.check(listener)

    def test_differences(self) -> None:
        """What happened during a loss is told as events that lead there, marked, and then a resync."""
        for number, name in enumerate(("start", "stop", "pause", "gone", "rename", "restart"), 1):
            self.world.define(uuid_of(number), name)
        for number in (2, 3, 4, 6):
            self.world.start(uuid_of(number))
        self.up()
        listener = Listener(self.hub)
        listener.listen(None)
        self.world.lose()
        self.world.start(uuid_of(1))
        self.world.destroy(uuid_of(2))
        self.world.suspend(uuid_of(3))
        self.world.destroy(uuid_of(4))
        self.world.undefine(uuid_of(4))
        self.world.rename(uuid_of(5), "renamed")
        self.world.destroy(uuid_of(6))
        self.world.start(uuid_of(6))
        self.world.create(uuid_of(7), "new")
        self.world.suspend(uuid_of(7))
        self.world.define(uuid_of(8), "newer")
        self.up()
        told: dict[str, list[tuple[str, str, str | None]]] = {}
        for event in listener.told[:-1]:
            self.assertTrue(event["synthetic"])
            told.setdefault(event["dom"]["uuid"], []).append(
                (event["event"], event["detail"], event["state"])
            )
        self.assertEqual(
            told,
            {
                uuid_of(1): [("started", "booted", "running")],
                uuid_of(2): [("stopped", "destroyed", "shutoff")],
                uuid_of(3): [("suspended", "user", "paused")],
                uuid_of(4): [("stopped", "unknown", "shutoff"), ("undefined", "removed", None)],
                uuid_of(5): [("undefined", "renamed", None), ("defined", "renamed", "shutoff")],
                uuid_of(6): [("stopped", "unknown", "shutoff"), ("started", "booted", "running")],
                uuid_of(7): [("started", "unknown", "running"), ("suspended", "user", "paused")],
                uuid_of(8): [("defined", "added", "shutoff")],
            },
        )
        self.assertEqual(listener.told[-1]["kind"], "resync")
        self.check(listener)

    def test_during_the_list(self) -> None:
        """What happens while the list is made, or is on its way, is neither lost nor undone by it."""
        self.world.define(ONE, "a1")
        self.world.define(TWO, "a2")
        self.world.start(TWO)
        listener = Listener(self.hub)
        listener.listen(None)
        link = self.world.connect()
        while link.calls[0].procedure.name == DOMAINS:
            for call in list(link.calls):
                link.reply(call)
        while link.calls[0].procedure.name != "CONNECT_GET_ALL_DOMAIN_STATS":
            for call in list(link.calls):
                link.reply(call)
        self.world.start(ONE)
        link.do(link.calls[0])
        self.world.destroy(TWO)
        while link.events:
            link.bring()
        self.assertEqual(listener.told, [])
        link.reply(link.calls[0])
        self.check(listener)
        self.assertEqual(self.world.truth(everything)[TWO], ("a2", "shutoff"))

    def test_before_the_registration_is_answered(self) -> None:
        """An event may overtake the reply to its registration."""
        link = self.world.connect()
        listener = Listener(self.hub)
        listener.listen(None)
        link.do(link.calls[0])
        self.world.define(ONE, "a1")
        link.bring()
        self.check(listener)
        self.assertIn("lifecycle defined added", listener.story())

    def test_storm_during_the_list(self) -> None:
        """More events than we keep during a list do not take memory: the list is made again."""
        self.hub.stop()
        self.hub = hub_of(self.world, self.clock, kept=10)
        link = self.world.connect()
        while link.calls[0].procedure.name != "CONNECT_GET_ALL_DOMAIN_STATS":
            link.reply(link.calls[0])
        link.do(link.calls[0])
        self.world.define(ONE, "a1")
        for _ in range(10):
            self.world.start(ONE)
            self.world.destroy(ONE)
        while link.events:
            link.bring()
        link.reply(link.calls[0])
        self.assertFalse(self.hub.synced)
        self.assertEqual(self.hub.states([ONE]), {})
        self.clock.advance(1)
        listener = Listener(self.hub)
        listener.listen(0)
        self.check(listener)
        self.assertTrue(self.hub.synced)
        self.assertEqual(self.hub.states([ONE, "nobody"]), {ONE: "shutoff"})
        self.hub.stop()

    def test_large_events_during_the_list(self) -> None:
        """Nor do a few events that are very large."""
        link = self.world.connect()
        link.reply(link.calls[1])
        for _ in range(8):
            self.assertIsNotNone(self.hub._buffer)
            self.world.events(REBOOT, {"callbackID": 1, "dom": {"name": "x" * 2**20, "uuid": ONE, "id": 1}})
        self.assertIsNone(self.hub._buffer)

    def test_list_fails(self) -> None:
        """A list that is refused, or not answered, is asked for again; events go on meanwhile."""
        listener = Listener(self.hub)
        listener.listen(None)
        self.world.lacks = {"CONNECT_GET_ALL_DOMAIN_STATS", "CONNECT_LIST_ALL_DOMAINS"}
        self.up()
        self.assertFalse(self.hub.synced)
        self.world.define(ONE, "a1")
        self.world.settle()
        self.assertEqual(listener.story(), ["lifecycle defined added"])
        self.world.lacks.clear()
        self.world.mute = True
        self.clock.advance(1)
        self.world.settle()
        self.clock.advance(60)
        self.world.mute = False
        self.clock.advance(2)
        self.check(listener)
        self.assertTrue(self.hub.synced)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_stats(self) -> None:
        """A driver without statistics is asked for one domain after the other."""
        self.world.lacks = {"CONNECT_GET_ALL_DOMAIN_STATS"}
        for number in range(10):
            self.world.define(uuid_of(number), f"a{number}")
        self.world.start(ONE)
        self.up()
        listener = Listener(self.hub)
        listener.listen(0)
        self.check(listener)
        self.assertEqual(len(listener.table), 10)

    def test_without_lifecycle(self) -> None:
        """A driver that does not tell of its domains is asked every ten seconds."""
        self.world.without = {(DOMAINS, 0)}
        self.world.define(ONE, "a1")
        self.up()
        listener = Listener(self.hub)
        listener.listen(0)
        self.world.start(ONE)
        self.clock.advance(10)
        self.check(listener)
        self.assertEqual(listener.story()[-1], "lifecycle started booted *")
        self.hub.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_transient(self) -> None:
        """A domain without a definition is gone with its guest; one with a definition is not."""
        self.world.define(ONE, "a1")
        self.world.start(ONE)
        self.world.create(TWO, "a2")
        self.up()
        listener = Listener(self.hub)
        listener.listen(0)
        for uuid in (ONE, TWO):
            self.world.destroy(uuid)
        self.check(listener)
        self.assertEqual(list(listener.table), [ONE])
        self.assertEqual(listener.story()[-1], "lifecycle undefined removed *")
        self.world.start(ONE)
        self.world.undefine(ONE)
        self.world.settle()
        self.assertEqual(listener.table, {ONE: ("a1", "running")})
        self.world.destroy(ONE)
        self.check(listener)
        self.assertEqual((listener.table, listener.story()[-1]), ({}, "lifecycle stopped destroyed"))

    def test_look_is_late(self) -> None:
        """Whether a domain is gone is not believed when something happened to it since."""
        self.world.create(ONE, "a1")
        self.up()
        listener = Listener(self.hub)
        listener.listen(0)
        self.world.destroy(ONE)
        link = self.world.link
        assert link is not None
        while link.events:
            link.bring()
        (look,) = link.calls
        link.do(look)
        self.world.create(ONE, "a1")
        while link.events:
            link.bring()
        link.reply(look)
        self.check(listener)
        self.assertEqual(listener.table, {ONE: ("a1", "running")})


class NamesTest(HubCase):
    """Names of domains, which rights are about."""

    def test_follow(self) -> None:
        """They follow definitions, renames and ends."""
        self.world.define(ONE, "a1")
        self.up()
        self.assertEqual(self.hub.names(ONE), "a1")
        self.world.define(TWO, "a2")
        self.world.rename(ONE, "b1")
        self.world.settle()
        self.assertEqual((self.hub.names(ONE), self.hub.names(TWO)), ("b1", "a2"))
        self.world.undefine(ONE)
        self.world.settle()
        self.assertIsNone(self.hub.names(ONE))
        self.world.lose()
        self.world.rename(TWO, "b2")
        self.up()
        self.assertEqual(self.hub.names(TWO), "b2")

    def test_learn(self) -> None:
        """A reply may be faster than the event; an event has the last word, and no late reply undoes it."""
        self.up()
        self.world.define(ONE, "a1")
        self.hub.learn({"name": "a1", "uuid": ONE, "id": -1})
        self.assertEqual(self.hub.names(ONE), "a1")
        self.world.settle()
        self.world.rename(ONE, "b1")
        self.hub.learn({"name": "b1", "uuid": ONE, "id": -1}, was="a1")
        self.assertEqual(self.hub.names(ONE), "b1")
        self.world.settle()
        self.world.rename(ONE, "c1")
        self.world.settle()
        self.hub.learn({"name": "b1", "uuid": ONE, "id": -1}, was="a1")
        self.hub.learn({"name": "a1", "uuid": ONE, "id": -1})
        self.assertEqual(self.hub.names(ONE), "c1")

    def test_bounded(self) -> None:
        """What replies said is kept within bounds."""
        for number in range(5000):
            self.hub.learn({"name": "x", "uuid": uuid_of(number), "id": -1})
        self.assertIsNone(self.hub.names(uuid_of(0)))
        self.assertEqual(self.hub.names(uuid_of(4999)), "x")

    def test_leaves_sight(self) -> None:
        """Who may see names with an `a` is told that a domain left, and hears no more of it."""
        self.world.define(ONE, "a1")
        self.up()
        listener = Listener(self.hub, allowed=_only_a)
        listener.listen(0)
        self.world.rename(ONE, "b1")
        self.world.start(ONE)
        self.check(listener)
        self.assertEqual((listener.table, listener.story()[-1]), ({}, "lifecycle undefined renamed"))
        self.world.destroy(ONE)
        self.world.rename(ONE, "a2")
        self.check(listener)
        self.assertEqual(listener.table, {ONE: ("a2", "shutoff")})

    def test_half_renamed(self) -> None:
        """A domain that gets another name is not gone in between, nor is what is known of it afterwards."""
        self.world.define(ONE, "a1")
        self.world.start(ONE)
        self.world.destroy(ONE)
        self.up()
        self.world.rename(ONE, "b1")
        link = self.world.link
        assert link is not None
        link.bring()
        self.assertEqual(self.hub.names(ONE), "a1")
        self.world.settle()
        listener = Listener(self.hub)
        listener.listen(0)
        self.assertEqual(
            listener.told[0]["domains"],
            [{"dom": {"name": "b1", "uuid": ONE, "id": -1}, "state": "shutoff", "reason": "destroyed"}],
        )

    def test_another_name(self) -> None:
        """An event that comes under another name than the known one proves a rename, and tells it."""
        self.world.define(ONE, "a1")
        self.world.start(ONE)
        self.up()
        listener = Listener(self.hub, allowed=_only_a)
        guest = self.world.guests[ONE]
        for name, tell in (("b1", self.world.reboot), ("b2", self.world.suspend)):
            guest.name = "a1"
            self.world.suspend(ONE)
            self.world.resume(ONE)
            self.world.settle()
            listener.listen(0)
            self.assertIn(ONE, listener.table)
            guest.name = name
            tell(ONE)
            self.check(listener)
            self.assertEqual((listener.table, listener.story()[-1]), ({}, "lifecycle undefined renamed *"))
            self.assertEqual(self.hub.names(ONE), name)


def _only_a(subject: str, what: Mapping[str, Any]) -> bool:
    return str(what["name"]).startswith("a")


ACTIONS = st.lists(
    st.tuples(st.integers(0, 19), st.integers(0, 3), st.integers(0, 7)), min_size=20, max_size=120
)


class HistoryTest(SynchronousTestCase):
    """Random histories: changes, losses, answers out of order, slow and forgetful listeners."""

    @given(ACTIONS, st.integers(2, 12), st.integers(1, 5))
    @settings(max_examples=120, deadline=None)
    def test_true_in_the_end(self, actions: list[tuple[int, int, int]], kept: int, window: int) -> None:
        """However it went, everybody ends with the truth about what it may see, and nothing grows."""
        clock, world = Clock(), World()
        hub = hub_of(world, clock, kept=kept)
        listeners = [
            Listener(hub, window=window),
            Listener(hub, window=window, auto=False, allowed=_only_a),
            Listener(hub, window=256, room=2, kinds=("lifecycle",)),
            Listener(hub, window=1, auto=False, uuid=uuid_of(1)),
        ]
        for listener in listeners:
            listener.listen()
        for action, which, extra in actions:
            _act(world, hub, clock, listeners, action, which, extra)
            for listener in listeners:
                self.assertLessEqual(listener.most, listener.window)
            self.assertLessEqual(len(hub._log._ring), kept)
            self.assertLessEqual(len(hub._buffer or ()), kept)
            self.assertLessEqual(len(hub._log._partial), kept)
        if world.link is None:
            world.connect()
        for _ in range(30):
            world.settle()
            clock.advance(1)
            if hub.synced and world.link is not None and not world.link.calls:
                break
        self.assertTrue(hub.synced)
        for listener in listeners:
            listener.auto = True
            listener.more(1_000_000)
            listener.ack()
        world.settle()
        for listener in listeners:
            truth = world.truth(listener.allowed)
            if listener.uuid is not None:
                truth = {uuid: what for uuid, what in truth.items() if uuid == listener.uuid}
            self.assertEqual(listener.table, truth)
        for number in range(4):
            guest = world.guests.get(uuid_of(number))
            self.assertEqual(hub.names(uuid_of(number)), guest.name if guest else None)
        hub.stop()
        self.assertEqual(clock.getDelayedCalls(), [])


def _act(
    world: World,
    hub: EventHub,
    clock: Clock,
    listeners: list[Listener],
    action: int,
    which: int,
    extra: int,
) -> None:
    uuid, listener, link = uuid_of(which), listeners[which], world.link
    name = ("a" if extra % 2 else "b") + str(extra)
    changes: list[Callable[[], None]] = [
        lambda: world.define(uuid, name),
        lambda: world.create(uuid, name),
        lambda: world.start(uuid),
        lambda: world.destroy(uuid),
        lambda: world.suspend(uuid),
        lambda: world.resume(uuid),
        lambda: world.undefine(uuid),
        lambda: world.rename(uuid, name),
        lambda: world.reboot(uuid),
    ]
    if action < len(changes):
        changes[action]()
    elif action == 9:
        listener.listen(listener.last)
    elif action == 10 and listener.subscription is not None:
        # It has lost what it knew after its position, and is told that again.
        position = listener.subscription.position
        listener.last = 0
        listener.listen(position)
    elif action == 11:
        listener.ack()
    elif action == 12:
        listener.more(extra)
    elif action == 13:
        world.lose()
    elif link is None:
        world.connect()
    elif action == 14:
        world.settle()
    elif action in (15, 16) and link.events:
        link.bring()
    elif action == 17 and link.calls:
        link.do(link.calls[extra % len(link.calls)])
    elif link.calls:
        for _ in range(extra + 1):
            if link.calls:
                link.reply(link.calls[extra % len(link.calls)])
    clock.advance(0.1)
