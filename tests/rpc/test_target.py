"""Calls to one hypervisor: what comes back, when, and what happens when it does not."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from gateway import errors
from gateway.rpc.connection import LibvirtConnection
from gateway.wire.libvirt_error import LibvirtError
from gateway.wire.libvirt_schema import Procedure
from gateway.wire.libvirt_url import parse_url
from tests.rpc.fake_libvirt import DOM, URL, FakePeer
from tests.rpc.target_case import TargetCase

_STATE = {"dom": DOM, "flags": 0}
_LIST = {"need_results": 1, "flags": 0}
_SHOT = {"dom": DOM, "screen": 0, "flags": 0}


class CallTest(TargetCase):
    """One call."""

    def test_answer(self) -> None:
        """A call connects, opens the hypervisor by the name of its URL, and brings the result."""
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        (peer,) = self.daemon.live
        self.assertEqual(peer.opened, ("test:///default", 0))
        self.daemon.asked[0].answer(state=1, reason=2)
        self.assertEqual(self.successResultOf(called), {"state": 1, "reason": 2})

    def test_refusal(self) -> None:
        """What libvirt refuses comes back with its numbers."""
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.daemon.asked[0].refuse(42, "Domain not found")
        error = self.failureResultOf(called, LibvirtError).value
        self.assertEqual((error.code, error.text), (42, "Domain not found"))

    def test_arguments(self) -> None:
        """Wrong arguments and unknown procedures are refused with what is wrong; nothing is connected."""
        for name, arguments, path in (
            ("DOMAIN_GET_STATE", {"dom": DOM}, "flags"),
            ("DOMAIN_GET_STATE", {"dom": {**DOM, "uuid": "x"}, "flags": 0}, "dom.uuid"),
            ("DOMAIN_CREATE", {}, "dom"),
            ("DOMAIN_FLY", {}, "procedure"),
        ):
            error = self.failureResultOf(self.call(name, arguments), errors.BadArguments).value
            self.assertEqual(error.path, path)
        self.turn()
        self.assertEqual(self.daemon.peers, [])

    def test_not_for_callers(self) -> None:
        """Nobody gets at the connection itself: no second open, no identity, no registration, no event."""
        for name in (
            "CONNECT_OPEN",
            "CONNECT_CLOSE",
            "AUTH_LIST",
            "AUTH_SASL_START",
            "CONNECT_SET_IDENTITY",
            "CONNECT_REGISTER_CLOSE_CALLBACK",
            "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY",
            "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY",
            "CONNECT_DOMAIN_EVENT_REGISTER",
            "CONNECT_NETWORK_EVENT_REGISTER_ANY",
            "QEMU_CONNECT_DOMAIN_MONITOR_EVENT_REGISTER",
            "DOMAIN_EVENT_LIFECYCLE",
            "DOMAIN_OPEN_CONSOLE",
            "STORAGE_VOL_UPLOAD",
            "DOMAIN_OPEN_GRAPHICS_FD",
            "DOMAIN_CREATE_WITH_FILES",
        ):
            refusal = self.failureResultOf(self.call(name), errors.BadArguments).value
            self.assertEqual(refusal.path, "procedure")
        self.turn()
        self.assertEqual(self.daemon.peers, [])

    def test_priority(self) -> None:
        """What libvirtd's priority workers serve has a connection of its own, which the rest cannot fill."""
        for _ in range(20):
            self.call("DOMAIN_GET_XML_DESC", {"dom": {**DOM, "id": len(self.waiting)}, "flags": 0})
        destroyed = self.call("DOMAIN_DESTROY", {"dom": DOM})
        self.turn()
        peers = {asked.peer for asked in self.daemon.asked if asked.name == "DOMAIN_GET_XML_DESC"}
        (destroy,) = [asked for asked in self.daemon.asked if asked.name == "DOMAIN_DESTROY"]
        self.assertNotIn(destroy.peer, peers)
        destroy.answer()
        self.assertEqual(self.successResultOf(destroyed), {})

    def test_readonly(self) -> None:
        """Calls that shall only read go where the daemon refuses writes: the open flag is set."""
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.assertEqual([(peer.readonly, peer.opened[1]) for peer in self._opened()], [(False, 0)])
        self.call("DOMAIN_GET_STATE", _STATE, readonly=True)
        self.call("DOMAIN_DESTROY", {"dom": DOM}, readonly=True)
        self.turn()
        asked = [(it.name, it.peer.readonly, it.peer.opened) for it in self.daemon.asked]
        url = "test:///default"
        self.assertEqual(
            asked,
            [
                ("DOMAIN_GET_STATE", False, (url, 0)),
                ("DOMAIN_GET_STATE", True, (url, 1)),
                ("DOMAIN_DESTROY", True, (url, 1)),
            ],
        )

    def test_readonly_target(self) -> None:
        """A target that is read-only has no other connections: not for calls, streams or events."""
        self.target = self.make(readonly=True)
        self.call("DOMAIN_GET_STATE", _STATE)
        self.call("DOMAIN_CREATE", {"dom": DOM})
        self.waiting.append(Deferred.fromCoroutine(self.target.stream("DOMAIN_SCREENSHOT", _SHOT)))
        self.target.watch(lambda *_: None, lambda _: None, lambda _: None)
        self.turn()
        self.assertEqual([peer.opened[1] for peer in self._opened()], [1, 1, 1, 1])

    def _opened(self) -> list[Any]:
        return [peer for peer in self.daemon.live if peer.opened is not None]


class DeadlineTest(TargetCase):
    """Nobody waits longer than he wanted to."""

    def test_read(self) -> None:
        """A read takes 30 s at most, or what the caller says; it was not done."""
        called = self.call("DOMAIN_GET_STATE", _STATE)
        short = self.call("DOMAIN_GET_STATE", {"dom": DOM, "flags": 1}, deadline=2)
        self.turn(1.9)
        self.assertNoResult(short)
        self.turn(0.2)
        self.assertFalse(self.failureResultOf(short, errors.DeadlinePassed).value.maybe_executed)
        self.turn(27.8)
        self.assertNoResult(called)
        self.turn(0.2)
        self.assertFalse(self.failureResultOf(called, errors.DeadlinePassed).value.maybe_executed)

    def test_write(self) -> None:
        """A write takes 120 s, one that moves much half an hour; it may have been done."""
        called = self.call("DOMAIN_CREATE", {"dom": DOM})
        saving = self.call("DOMAIN_MANAGED_SAVE", {"dom": DOM, "flags": 0})
        self.turn(119)
        self.assertNoResult(called)
        self.turn(1.2)
        self.assertTrue(self.failureResultOf(called, errors.DeadlinePassed).value.maybe_executed)
        self.assertNoResult(saving)

    def test_write_not_sent(self) -> None:
        """A write that still waited for its turn was not done, and is never sent."""
        self.target = self.make(window=1)
        for number in range(4):
            self.call("DOMAIN_RESET", {"dom": {**DOM, "id": number}, "flags": 0})
        late = self.call("DOMAIN_CREATE", {"dom": DOM}, deadline=5)
        self.turn(5.2)
        self.assertFalse(self.failureResultOf(late, errors.DeadlinePassed).value.maybe_executed)
        for asked in self.daemon.asked:
            asked.answer()
        self.turn()
        self.assertNotIn("DOMAIN_CREATE", [it.name for it in self.daemon.arrived])

    def test_over_already(self) -> None:
        """Who has no time left gets no call made."""
        called = self.call("DOMAIN_CREATE", {"dom": DOM}, deadline=0)
        self.assertFalse(self.failureResultOf(called, errors.DeadlinePassed).value.maybe_executed)
        self.turn()
        self.assertEqual(self.daemon.arrived, [])

    def test_cancelled(self) -> None:
        """A caller that leaves hears so at once, and nothing else ends."""
        called = self.call("DOMAIN_CREATE", {"dom": DOM})
        other = self.call("DOMAIN_RESET", {"dom": DOM, "flags": 0})
        self.turn()
        called.cancel()
        self.failureResultOf(called, CancelledError)
        for asked in self.daemon.asked:
            asked.answer()
        self.successResultOf(other)

    def test_cancelled_before_sent(self) -> None:
        """What was cancelled before it was sent is not sent."""
        called = self.call("DOMAIN_CREATE", {"dom": DOM})
        called.cancel()
        self.failureResultOf(called, CancelledError)
        self.turn()
        self.assertEqual(self.daemon.asked, [])

    def late(self, *, sent: bool = True, **options: Any) -> tuple[Deferred[Any], list[Any]]:
        """A write, and what is told of it when nobody waits any more."""
        told: list[Any] = []
        called = self.call("DOMAIN_CREATE_WITH_FLAGS", {"dom": DOM, "flags": 0}, late=told.append, **options)
        if sent:
            self.turn()
        return called, told

    def test_late(self) -> None:
        """What a write gave is told all the same, when its caller has left or could not wait."""
        cancelled, first = self.late()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        overdue, second = self.late(deadline=1)
        self.turn(1.2)
        self.failureResultOf(overdue, errors.DeadlinePassed)
        self.assertEqual((first, second), ([], []))
        for asked in self.daemon.asked:
            asked.answer(dom=DOM)
        self.assertEqual((first, second), ([{"dom": DOM}], [{"dom": DOM}]))

    def test_late_failures(self) -> None:
        """An error is told, too; what never was sent was not done; who waited is told nothing in this way."""
        unsent, told = self.late(sent=False)
        unsent.cancel()
        self.failureResultOf(unsent, CancelledError)
        self.assertEqual([(type(it), it.maybe_executed) for it in told], [(errors.Interrupted, False)])
        answered, nothing = self.late()
        self.daemon.asked[0].answer(dom=DOM)
        self.successResultOf(answered)
        lost, told = self.late()
        lost.cancel()
        self.failureResultOf(lost, CancelledError)
        self.daemon.die()
        self.turn()
        self.assertEqual([(type(it), it.maybe_executed) for it in told], [(errors.Interrupted, True)])
        self.assertEqual(nothing, [])


class LossTest(TargetCase):
    """Connections are lost, and daemons restarted."""

    def test_read_again(self) -> None:
        """A read whose connection is lost is asked again, on a new one, at once."""
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.daemon.die()
        self.turn()
        self.daemon.asked[0].answer(state=1, reason=1)
        self.assertEqual(self.successResultOf(called)["state"], 1)
        self.assertEqual(self.clock.seconds(), 0)

    def test_read_twice(self) -> None:
        """A read whose connection is lost twice fails; it was not done."""
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.daemon.die()
        self.turn()
        self.daemon.die()
        self.assertFalse(self.failureResultOf(called, errors.Interrupted).value.maybe_executed)

    def test_write_never_again(self) -> None:
        """A write whose connection is lost fails, as one that may have been done; it is never sent twice."""
        writes = [
            ("DOMAIN_CREATE", {"dom": DOM}),
            ("DOMAIN_DESTROY", {"dom": DOM}),
            ("QEMU_DOMAIN_MONITOR_COMMAND", {"dom": DOM, "cmd": "quit", "flags": 0}),
            ("QEMU_DOMAIN_AGENT_COMMAND", {"dom": DOM, "cmd": "x", "timeout": 1, "flags": 0}),
        ]
        calls = [self.call(name, arguments) for name, arguments in writes]
        self.turn()
        self.assertEqual(len(self.daemon.asked), len(writes))
        self.daemon.die()
        for call in calls:
            self.assertTrue(self.failureResultOf(call, errors.Interrupted).value.maybe_executed)
        self.turn(10)
        self.assertEqual(len(self.daemon.arrived), len(writes))

    def test_restart(self) -> None:
        """After a restart that nobody noticed the next call connects at once, and the generation is up."""
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.daemon.asked[0].answer(state=1, reason=1)
        self.assertEqual((self.target.generation, self.target.state), (1, "up"))
        self.daemon.die()
        self.assertEqual(self.target.state, "idle")
        self.turn(100)
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.daemon.asked[0].answer(state=1, reason=1)
        self.successResultOf(called)
        self.assertEqual(self.target.generation, 2)

    def test_slow_restart(self) -> None:
        """Reads wait while the daemon is away for some seconds; writes that were not sent do, too."""
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        self.daemon.die()
        written = self.call("DOMAIN_CREATE", {"dom": DOM})
        self.turn(3)
        self.daemon.failure = None
        self.turn(4)
        for asked in self.daemon.asked:
            asked.answer(**({"state": 1, "reason": 1} if asked.name == "DOMAIN_GET_STATE" else {}))
        self.successResultOf(called)
        self.successResultOf(written)

    def test_out_of_reach(self) -> None:
        """When five attempts failed all who wait are told, and who comes then does not wait.

        Of the first there are two at a time, which count once.
        """
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        called = self.call("DOMAIN_GET_STATE", _STATE)
        other = self.call("DOMAIN_CREATE", {"dom": DOM})
        self.turn(10)
        self.assertEqual(len(self.daemon.dialed), 6)
        self.assertGreater(self.daemon.dialed[-1], 4)
        for each in (called, other, self.call("DOMAIN_GET_STATE", _STATE)):
            refusal = self.failureResultOf(each, errors.TargetDown).value
            self.assertGreater(refusal.retry_after, 0)
            self.assertEqual(refusal.reason, "refused")
        self.assertEqual(self.target.state, "down")

    def test_comes_back(self) -> None:
        """After the wait a call tries again, and all is well when that succeeds."""
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        refusal = self.failureResultOf(self._down(), errors.TargetDown).value
        self.daemon.failure = None
        self.turn(refusal.retry_after + 0.1)
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.daemon.asked[0].answer(state=1, reason=1)
        self.successResultOf(called)
        self.assertEqual(self.target.describe()["failures"], 0)

    def test_probe_fails(self) -> None:
        """After the wait a single attempt is made; when it fails, all who came meanwhile are told."""
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        refusal = self.failureResultOf(self._down(), errors.TargetDown).value
        self.turn(refusal.retry_after + 0.1)
        calls = [
            self.call("DOMAIN_GET_STATE", _STATE),
            self.call("DOMAIN_CREATE", {"dom": DOM}),
            self.call("DOMAIN_GET_STATE", _STATE, readonly=True),
        ]
        self.turn()
        for call in calls:
            self.failureResultOf(call, errors.TargetDown)
        self.assertEqual(len(self.daemon.dialed), 6)

    def test_silent_daemon(self) -> None:
        """A daemon that takes connections and says nothing counts as out of reach after a while."""
        self.daemon.frozen = True
        called = self.call("DOMAIN_GET_STATE", _STATE, deadline=300)
        self.turn(100)
        self.assertEqual(self.failureResultOf(called, errors.TargetDown).value.reason, "silent")
        self.assertEqual(self.daemon.live, [])

    def test_refuses_to_open(self) -> None:
        """A daemon that does not know our driver counts as out of reach."""
        del self.daemon.answers["CONNECT_OPEN"]
        called = self.call("DOMAIN_GET_STATE", _STATE, deadline=300)
        for _ in range(60):
            for asked in self.daemon.asked:
                asked.refuse(5, "no connection driver available")
            self.turn(0.2)
        self.assertEqual(self.failureResultOf(called, errors.TargetDown).value.reason, "libvirt-5")

    def _down(self) -> Deferred[Any]:
        called = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn(10)
        return called


class SharingTest(TargetCase):
    """Equal reads are one."""

    def setUp(self) -> None:
        super().setUp()
        self.number = 0

    def answer(self) -> None:
        """Answer what was asked, each time with other domains."""
        for asked in self.daemon.asked:
            self.number += 1
            if asked.name == "CONNECT_LIST_ALL_DOMAINS":
                asked.answer(domains=[DOM], ret=self.number)
            elif asked.name == "DOMAIN_GET_STATE":
                asked.answer(state=self.number, reason=0)
            elif asked.name == "CONNECT_GET_HOSTNAME":
                asked.answer(hostname=f"h{self.number}")
            else:
                asked.answer()

    def listed(self) -> Deferred[Any]:
        called = self.call("CONNECT_LIST_ALL_DOMAINS", _LIST)
        self.turn()
        return called

    def test_single_flight(self) -> None:
        """Equal reads at the same time are sent once, and each caller may change what he got."""
        calls = [self.call("DOMAIN_GET_STATE", _STATE, principal=str(it % 3)) for it in range(30)]
        self.turn()
        self.assertEqual(len(self.daemon.asked), 1)
        self.answer()
        results = [self.successResultOf(call) for call in calls]
        self.assertEqual(results, [{"state": 1, "reason": 0}] * 30)
        self.assertEqual(len({id(result) for result in results}), 30)

    def test_only_equal(self) -> None:
        """Other arguments, a read-only caller, and writes are not shared."""
        self.call("DOMAIN_GET_STATE", _STATE)
        self.call("DOMAIN_GET_STATE", {"dom": {**DOM, "id": 2}, "flags": 0})
        self.call("DOMAIN_GET_STATE", _STATE, readonly=True)
        self.call("DOMAIN_DESTROY", {"dom": DOM})
        self.call("DOMAIN_DESTROY", {"dom": DOM})
        self.turn()
        self.assertEqual(len(self.daemon.asked), 5)

    def test_one_leaves(self) -> None:
        """One who leaves takes the answer from nobody; when all have left before it was sent, it is not."""
        first, second = self.call("DOMAIN_GET_STATE", _STATE), self.call("DOMAIN_GET_STATE", _STATE)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.turn()
        self.answer()
        self.assertEqual(self.successResultOf(second)["state"], 1)

    def test_each_his_deadline(self) -> None:
        """Callers of one read have each their own deadline; who comes after one passed asks anew."""
        short = self.call("DOMAIN_GET_STATE", _STATE, deadline=1)
        long = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn(1.2)
        self.failureResultOf(short, errors.DeadlinePassed)
        self.assertNoResult(long)
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.assertEqual(len(self.daemon.asked), 2)

    def test_shared_in_turn(self) -> None:
        """A read that others wait for already comes when it is the turn of the first of them."""
        self.target = self.make(window=1)
        for number in range(100, 150):
            self.call("DOMAIN_GET_INFO", {"dom": {**DOM, "id": number}}, principal="greedy")
        self.call("DOMAIN_GET_INFO", {"dom": DOM}, principal="greedy")
        self.call("DOMAIN_GET_INFO", {"dom": DOM}, principal="modest")
        self.turn()
        self.assertIn(DOM, [asked.arguments["dom"] for asked in self.daemon.asked])

    def test_kept(self) -> None:
        """A list is good for a second, the name of the host for a minute."""
        self.listed()
        self.call("CONNECT_GET_HOSTNAME")
        self.turn()
        self.answer()
        self.turn(0.9)
        self.assertEqual(self.successResultOf(self.listed())["ret"], 1)
        self.turn(0.2)
        self.assertNoResult(self.listed())
        self.turn(50)
        self.assertEqual(self.successResultOf(self.call("CONNECT_GET_HOSTNAME"))["hostname"], "h2")
        self.turn(10)
        self.assertNoResult(self.call("CONNECT_GET_HOSTNAME"))

    def test_not_kept(self) -> None:
        """What may change at any time, and refusals, are asked for each time."""
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.answer()
        self.assertNoResult(self.call("DOMAIN_GET_STATE", _STATE))
        self.failureResultOf(self._refused())
        self.assertNoResult(self.listed())

    def _refused(self) -> Deferred[Any]:
        called = self.listed()
        self.daemon.asked[-1].refuse(1)
        return called

    def test_write_empties(self) -> None:
        """A write empties what is kept when it begins, and again when it ends."""
        self.fill()
        self.call("DOMAIN_CREATE", {"dom": DOM})
        self.turn()
        self.fill()
        next(it for it in self.daemon.asked if it.name == "DOMAIN_CREATE").answer()
        self.fill()

    def fill(self) -> None:
        """See that a list must be asked for; let it be kept."""
        called = self.listed()
        self.assertNoResult(called)
        next(it for it in self.daemon.asked if it.name == "CONNECT_LIST_ALL_DOMAINS").answer(
            domains=[], ret=0
        )
        self.successResultOf(called)
        self.successResultOf(self.listed())

    def test_read_your_writes(self) -> None:
        """A read after a write is not answered by one that was sent before."""
        before = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        written = self.call("DOMAIN_DESTROY", {"dom": DOM})
        self.turn()
        next(it for it in self.daemon.asked if it.name == "DOMAIN_DESTROY").answer()
        self.successResultOf(written)
        after = self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.assertEqual(len(self.daemon.asked), 2)
        self.daemon.asked[0].answer(state=1, reason=0)
        self.assertEqual(self.successResultOf(before)["state"], 1)
        self.assertNoResult(after)
        self.daemon.asked[0].answer(state=5, reason=0)
        self.assertEqual(self.successResultOf(after)["state"], 5)

    def test_late_write_empties(self) -> None:
        """A write that nobody waits for any more still empties what is kept when it ends."""
        written = self.call("DOMAIN_CREATE", {"dom": DOM}, deadline=1)
        self.turn(1.2)
        self.failureResultOf(written, errors.DeadlinePassed)
        self.fill()
        next(it for it in self.daemon.asked if it.name == "DOMAIN_CREATE").answer()
        self.assertNoResult(self.listed())

    def test_reconnect_empties(self) -> None:
        """After a restart nothing is taken for known."""
        self.call("CONNECT_GET_HOSTNAME")
        self.turn()
        self.answer()
        self.daemon.die()
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.assertNoResult(self.call("CONNECT_GET_HOSTNAME"))

    def test_event_empties(self) -> None:
        """An event empties the lists, and not what is the host's."""
        seen: list[str] = []
        self.target.watch(lambda told, values: seen.append(told.name), lambda _: None, lambda _: None)
        self.turn()
        (watching,) = self.daemon.live
        self.listed()
        self.call("CONNECT_GET_HOSTNAME")
        self.turn()
        self.answer()
        watching.tell("DOMAIN_EVENT_CALLBACK_LIFECYCLE", callbackID=1, dom=DOM, event=5, detail=1)
        self.assertEqual(seen, ["DOMAIN_EVENT_CALLBACK_LIFECYCLE"])
        self.successResultOf(self.call("CONNECT_GET_HOSTNAME"))
        self.assertNoResult(self.listed())


class WatchTest(TargetCase):
    """The connection for events."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[object] = []
        self.connections: list[LibvirtConnection] = []

    def watch(self) -> FakePeer:
        self.target.watch(self._event, self.connections.append, self.told.append)
        self.turn()
        return self.daemon.live[-1]

    def _event(self, told: Procedure, values: dict[str, Any]) -> None:
        self.told.append((told.name, values["dom"]["name"]))

    def test_own(self) -> None:
        """It is a connection of its own, that no call goes by."""
        peer = self.watch()
        self.assertIs(self.connections[0], peer.client)
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.assertIsNot(self.daemon.asked[0].peer, peer)
        peer.tell("DOMAIN_EVENT_CALLBACK_REBOOT", callbackID=1, dom=DOM)
        self.assertEqual(self.told, [("DOMAIN_EVENT_CALLBACK_REBOOT", "test")])

    def test_again(self) -> None:
        """When it is lost, those who watch hear so, and of the next one, which is made at once."""
        peer = self.watch()
        self.turn(20)
        peer.lose()
        self.turn()
        self.assertEqual(self.told, ["lost"])
        self.assertEqual(len(self.connections), 2)
        self.assertEqual(self.target.generation, 2)

    def test_away(self) -> None:
        """While the daemon is away it is tried again and again, ever more seldom, until it is there."""
        peer = self.watch()
        self.turn(20)
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        peer.lose()
        self.turn(300)
        self.assertLess(len(self.daemon.dialed), 25)
        self.assertGreater(len(self.daemon.dialed), 10)
        self.daemon.failure = None
        self.turn(40)
        self.assertEqual((self.told, len(self.connections)), (["lost"], 2))

    def test_crashes(self) -> None:
        """A daemon that always drops the connection is not asked without end."""
        self.watch()
        for _ in range(400):
            for peer in self.daemon.live:
                peer.lose()
            self.turn(0.25)
        self.assertLess(len(self.daemon.dialed), 15)

    def test_unwatch(self) -> None:
        """When nobody watches it is closed, and not made again."""
        peer = self.watch()
        self.target.unwatch()
        self.turn(60)
        self.assertTrue(peer.lost)
        self.assertEqual((self.told, self.daemon.live, len(self.daemon.peers)), ([], [], 1))

    def test_unwatch_while_away(self) -> None:
        """Whoever stops watching while it is away leaves no timer."""
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        self.target.watch(self._event, self.connections.append, self.told.append)
        self.turn(2)
        self.target.unwatch()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StreamTest(TargetCase):
    """Streams."""

    def open(self, name: str, arguments: Any, **options: Any) -> Deferred[Any]:
        opened = Deferred.fromCoroutine(self.target.stream(name, arguments, **options))
        self.waiting.append(opened)
        self.turn()
        return opened

    def test_own_connection(self) -> None:
        """A stream has a connection of its own, which its close closes."""
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        opened = self.open("DOMAIN_SCREENSHOT", _SHOT)
        asked = self.daemon.asked[-1]
        self.assertIsNot(asked.peer, self.daemon.asked[0].peer)
        asked.answer(mime="image/png")
        values, stream = self.successResultOf(opened)
        self.assertEqual(values, {"mime": "image/png"})
        self.assertEqual(self.target.describe()["streams"], 1)
        stream.close()
        self.turn()
        self.assertTrue(asked.peer.lost)
        self.assertEqual(self.target.describe()["streams"], 0)

    def test_refused(self) -> None:
        """A stream that is refused leaves no connection."""
        opened = self.open("DOMAIN_SCREENSHOT", _SHOT)
        self.daemon.asked[-1].refuse(55)
        self.failureResultOf(opened, LibvirtError)
        self.turn()
        self.assertEqual(self.daemon.live, [])

    def test_silent(self) -> None:
        """A stream that the daemon does not open is given up, and leaves no connection."""
        opened = self.open("DOMAIN_SCREENSHOT", _SHOT)
        self.turn(31)
        self.failureResultOf(opened, errors.DeadlinePassed)
        self.assertEqual(self.daemon.live, [])

    def test_cancelled(self) -> None:
        """Who leaves while a stream is opened leaves no connection."""
        opened = self.open("DOMAIN_SCREENSHOT", _SHOT)
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        self.turn()
        self.assertEqual(self.daemon.live, [])

    def test_many(self) -> None:
        """There are 64 streams at most, 48 of one principal; the end of one makes room."""
        for principal, most in (("greedy", 48), ("modest", 16)):
            for _ in range(most):
                self.open("DOMAIN_SCREENSHOT", _SHOT, principal=principal)
            self.failureResultOf(self.open("DOMAIN_SCREENSHOT", _SHOT, principal=principal), errors.Busy)
        self.daemon.live[0].lose()
        self.assertNoResult(self.open("DOMAIN_SCREENSHOT", _SHOT, principal="modest"))

    def test_limit(self) -> None:
        """A stream whose length is above the limit is refused."""
        self.target = self.make(stream_limit=100)
        volume = {"vol": {"pool": "p", "name": "v", "key": "k"}, "offset": 0, "length": 101, "flags": 0}
        refusal = self.failureResultOf(self.open("STORAGE_VOL_UPLOAD", volume), errors.TooLarge)
        self.assertEqual(refusal.value.limit, 100)
        self.assertEqual(self.daemon.peers, [])

    def test_no_stream(self) -> None:
        """What opens no stream is refused."""
        self.failureResultOf(self.open("DOMAIN_GET_STATE", _STATE), errors.BadArguments)

    def test_down(self) -> None:
        """When the daemon is known to be out of reach, a stream is refused at once."""
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        refusal = self.failureResultOf(self.open("DOMAIN_SCREENSHOT", _SHOT), errors.TargetDown)
        self.assertEqual(refusal.value.reason, "refused")
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn(10)
        dialed = len(self.daemon.dialed)
        self.failureResultOf(self.open("DOMAIN_SCREENSHOT", _SHOT), errors.TargetDown)
        self.assertEqual(len(self.daemon.dialed), dialed)


class LifeTest(TargetCase):
    """State, and the end."""

    def test_state(self) -> None:
        """The state tells what there is; nothing is connected before somebody asks."""
        self.target.start()
        self.assertEqual((self.target.state, self.target.generation, self.target.version), ("idle", 0, None))
        self.call("DOMAIN_GET_STATE", _STATE)
        self.assertEqual(self.target.state, "connecting")
        self.turn()
        self.turn(0.5)
        self.daemon.asked[0].answer(state=1, reason=1)
        self.assertEqual(self.target.state, "up")
        self.assertEqual((self.target.generation, self.target.version), (1, 9_000_000))
        self.assertAlmostEqual(self.target.latency, 0.5)
        told = self.target.describe()
        self.assertEqual((told["connections"], told["in_flight"], told["queued"]), (1, 0, 0))

    def test_attempts(self) -> None:
        """Each attempt to connect is told, with how it ended and how long it took."""
        told: list[tuple[str, float]] = []
        self.target = self.make(attempted=lambda reason, seconds: told.append((reason, seconds)))
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        self.call("DOMAIN_GET_STATE", _STATE)
        self.turn()
        self.assertAlmostEqual(self.target.describe()["retry_after"], 0.2)
        self.assertEqual(self.target.describe()["error"], "refused")
        self.daemon.failure = None
        self.turn(1)
        self.assertEqual(told, [("refused", 0.0), ("", 0.0)])
        self.assertEqual(self.target.describe()["retry_after"], 0.0)

    def test_stop(self) -> None:
        """At the stop all callers hear so, and none gets in any more."""
        sent = self.call("DOMAIN_CREATE", {"dom": DOM})
        self.turn()
        read, asked = self.call("DOMAIN_GET_STATE", _STATE), self.call("DOMAIN_GET_INFO", {"dom": DOM})
        self.target.watch(lambda *_: None, lambda _: None, lambda _: None)
        self.target.stop()
        self.turn()
        self.assertTrue(self.failureResultOf(sent, errors.Interrupted).value.maybe_executed)
        self.failureResultOf(read, errors.TargetDown)
        self.failureResultOf(asked, errors.Interrupted)
        self.failureResultOf(self.call("DOMAIN_GET_STATE", _STATE), errors.TargetDown)
        self.assertEqual(self.daemon.live, [])

    def test_descriptor_elsewhere(self) -> None:
        """Only a unix socket brings descriptors."""
        self.target.url = parse_url("test+tcp://127.0.0.1/default")
        called = Deferred.fromCoroutine(
            self.target.descriptor("DOMAIN_OPEN_GRAPHICS_FD", {"dom": DOM, "idx": 0, "flags": 0})
        )
        self.failureResultOf(called, errors.NotImplementedHere)
        self.target.url = URL
