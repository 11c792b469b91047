"""The connections of one kind, and who gets a place on them."""

from __future__ import annotations

import gc
import os
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from gateway import errors
from gateway.rpc.job import Waiter
from gateway.rpc.pool import Limits
from tests.rpc.fake_libvirt import DOM, Asked
from tests.rpc.target_case import TargetCase
from tests.rpc.wire_case import turn


class PoolCase(TargetCase):
    """Calls that are all different, to one pool: none of them is served by priority workers."""

    count = 0

    def read(self, principal: str = "", **options: Any) -> Deferred[Any]:
        """Begin a read."""
        self.count += 1
        dom = {**DOM, "id": self.count}
        return self.call("DOMAIN_GET_INFO", {"dom": dom}, principal=principal, **options)

    def write(self, principal: str = "", **options: Any) -> Deferred[Any]:
        """Begin a write."""
        self.count += 1
        return self.call("DOMAIN_RESUME", {"dom": {**DOM, "id": self.count}}, principal=principal, **options)

    def answer(self, asked: Asked) -> None:
        values = {"state": 1, "maxMem": 1, "memory": 1, "nrVirtCpu": 1, "cpuTime": 1}
        asked.answer(**(values if asked.name == "DOMAIN_GET_INFO" else {}))

    def answer_all(self) -> None:
        for asked in self.daemon.asked:
            self.answer(asked)

    def describe(self, key: str) -> Any:
        return self.target.describe()[key]


class WindowTest(PoolCase):
    """How much is asked at a time."""

    def test_window(self) -> None:
        """No connection has more than four calls in work, and there are five connections at most."""
        calls = [self.read(str(it % 3)) for it in range(100)]
        done = 0
        while done < 100:
            self.turn()
            asked = self.daemon.asked
            for peer in self.daemon.live:
                self.assertLessEqual(len(peer.asked), 4)
            self.assertLessEqual(len(self.daemon.live), 5)
            self.assertEqual(len(asked), min(20, 100 - done))
            self.answer(asked[len(asked) // 2])
            done += 1
        for call in calls:
            self.successResultOf(call)
        self.assertEqual((self.describe("queued"), self.describe("in_flight")), (0, 0))

    def test_window_of_the_target(self) -> None:
        """The window is that of the configuration."""
        self.target = self.make(window=2)
        for _ in range(20):
            self.read(str(self.count % 2))
        self.turn()
        self.assertEqual([len(peer.asked) for peer in self.daemon.live], [2, 2, 2, 2, 2])

    def test_as_few_as_possible(self) -> None:
        """Four calls at a time need one connection; more are opened when they are needed."""
        for _ in range(4):
            self.read()
        self.turn()
        self.assertEqual(len(self.daemon.live), 1)
        self.read()
        self.turn()
        self.assertEqual(len(self.daemon.live), 2)

    def test_idle(self) -> None:
        """Connections that nobody needs are closed after a minute; one stays for ever."""
        for _ in range(16):
            self.read(str(self.count % 2))
        self.turn()
        first = self.daemon.live[0]
        self.answer_all()
        self.turn(59)
        self.assertEqual(len(self.daemon.live), 4)
        self.turn(2)
        self.assertEqual(self.daemon.live, [first])
        self.turn(1000)
        self.assertEqual(self.daemon.live, [first])
        self.assertEqual(self.target.generation, 1)
        self.read()
        self.turn()
        self.assertEqual(self.daemon.asked[0].peer, first)

    def test_idle_but_used(self) -> None:
        """A connection that is used now and then stays."""
        for _ in range(8):
            self.read(str(self.count % 2))
        self.turn()
        self.answer_all()
        for _ in range(4):
            self.turn(40)
            for _ in range(5):
                self.read(str(self.count % 2))
            self.turn()
            self.answer_all()
        self.assertEqual((len(self.daemon.live), len(self.daemon.peers)), (2, 2))

    def test_no_more_to_be_had(self) -> None:
        """When the daemon allows no second connection, the first one serves all."""
        self.read()
        self.turn()
        self.daemon.failure = errors.UpstreamFailed(reason="refused")
        calls = [self.read() for _ in range(20)]
        for _ in range(200):
            self.turn(0.25)
            for asked in self.daemon.asked[:1]:
                self.answer(asked)
        for call in calls:
            self.successResultOf(call)
        self.assertEqual(self.target.state, "up")


class FairnessTest(PoolCase):
    """Nobody keeps others waiting."""

    def test_thousand(self) -> None:
        """Who queues a thousand calls makes nobody wait for more than a window."""
        self.target = self.make(Limits(each=1000))
        greedy = [self.read("greedy") for _ in range(1000)]
        self.turn()
        modest = self.read("modest")
        answered = 0
        while not modest.called:
            self.answer(self.daemon.asked[0])
            self.turn()
            answered += 1
            self.assertLessEqual(answered, 20)
        self.assertLessEqual(sum(call.called for call in greedy), 20)

    def test_place_left(self) -> None:
        """Who fills all the places that he may fill with calls that hang leaves some to others."""
        for _ in range(100):
            self.write("greedy")
        self.turn()
        self.assertEqual(len(self.daemon.asked), 16)
        modest = self.read("modest")
        self.turn()
        self.answer(self.daemon.asked[-1])
        self.successResultOf(modest)

    def test_full(self) -> None:
        """Who has 256 calls waiting gets no more in, and hears when to come again; others do."""
        for _ in range(16):
            self.write("greedy")
        self.turn()
        for _ in range(256):
            self.write("greedy")
        refusal = self.failureResultOf(self.write("greedy"), errors.Busy).value
        self.assertGreaterEqual(refusal.retry_after, 1)
        self.assertNoResult(self.write("modest"))
        self.turn()
        self.assertEqual(self.describe("queued"), 256)

    def test_all_full(self) -> None:
        """There is a bound for all together."""
        self.target = self.make(Limits(total=10))
        for number in range(10):
            self.write(str(number))
        self.failureResultOf(self.write("last"), errors.Busy)


class StuckTest(PoolCase):
    """Calls that are never answered."""

    def test_keeps_its_place(self) -> None:
        """A call that nobody waits for any more keeps its place on the connection until it is answered."""
        self.target = self.make(Limits(connections=1))
        stuck = [self.write(str(it), deadline=1) for it in range(4)]
        self.turn()
        stuck[0].cancel()
        self.failureResultOf(stuck[0], CancelledError)
        self.turn(1.2)
        for call in stuck[1:]:
            self.failureResultOf(call, errors.DeadlinePassed)
        self.read()
        self.turn()
        self.assertEqual(len(self.daemon.asked), 4)
        self.answer(self.daemon.asked[0])
        self.assertEqual([it.name for it in self.daemon.asked].count("DOMAIN_GET_INFO"), 1)

    def test_given_up(self) -> None:
        """60 s after the last one left, the connection of a call without an answer is cut; reads move on."""
        stuck = self.write(deadline=1)
        self.turn(1.2)
        self.failureResultOf(stuck, errors.DeadlinePassed)
        self.turn(50)
        other = self.read()
        self.turn()
        (peer,) = self.daemon.live
        self.turn(9)
        self.assertFalse(peer.lost)
        self.turn(2)
        self.assertTrue(peer.lost)
        (asked,) = self.daemon.asked
        self.answer(asked)
        self.successResultOf(other)
        self.assertEqual(self.target.generation, 1)

    def test_answered_in_time(self) -> None:
        """A connection whose late call was answered after all stays."""
        stuck = self.write(deadline=1)
        self.turn(40)
        self.failureResultOf(stuck, errors.DeadlinePassed)
        self.answer_all()
        self.turn(100)
        self.assertEqual(len(self.daemon.live), 1)

    def test_writes_end_first(self) -> None:
        """A connection that is given up gets no more calls, and is cut when no write is waited for on it."""
        stuck = self.read(deadline=1)
        self.turn(50)
        self.failureResultOf(stuck, errors.DeadlinePassed)
        written = self.write()
        self.turn(20)
        (peer,) = self.daemon.live
        other = self.read()
        self.turn()
        asked = self.daemon.asked[-1]
        self.assertIsNot(asked.peer, peer)
        self.answer(asked)
        self.successResultOf(other)
        self.assertFalse(peer.lost)
        self.answer(next(it for it in peer.asked if it.name == "DOMAIN_RESUME"))
        self.successResultOf(written)
        self.turn()
        self.assertTrue(peer.lost)

    def test_hangs_for_ever(self) -> None:
        """A daemon that answers nothing has a bounded number of connections and of calls."""
        for second in range(200):
            self.write(str(second % 5), deadline=1)
            self.turn(1)
        self.assertLessEqual(len(self.daemon.live), 5)
        self.assertLessEqual(len(self.daemon.asked), 20)
        self.turn(100)

    def test_only_ordinary_hang(self) -> None:
        """While all ordinary calls hang, those of the priority workers are answered."""
        for _ in range(100):
            self.read(str(self.count % 9))
        self.turn()
        calls = []
        for number in range(100):
            dom = {**DOM, "id": number}
            calls.append(self.call("DOMAIN_GET_STATE", {"dom": dom, "flags": 0}, principal=str(number % 2)))
        for _ in range(100):
            self.turn()
            for asked in self.daemon.asked:
                if asked.name == "DOMAIN_GET_STATE":
                    asked.answer(state=1, reason=1)
        for call in calls:
            self.successResultOf(call)


class SharedTest(PoolCase):
    """Many who wait for the same answer."""

    def test_turns(self) -> None:
        """A long one is given to one in each turn of the reactor; who gave up gets none."""
        waiting = [self.call("CONNECT_LIST_ALL_DOMAINS", {"need_results": 1, "flags": 0}) for _ in range(5)]
        self.turn()
        (asked,) = self.daemon.asked
        asked.answer(domains=[DOM] * 900, ret=900)
        turn(self.clock)
        waiting[3].cancel()
        self.failureResultOf(waiting[3], CancelledError)
        done = sum(it.called for it in waiting)
        while done < 5:
            now = sum(it.called for it in waiting)
            self.assertIn(now - done, (0, 1, 2))
            done = now
            turn(self.clock)
        del waiting[3]
        self.assertEqual({len(self.successResultOf(it)["domains"]) for it in waiting}, {900})


class MemoryTest(PoolCase):
    """What a call leaves behind."""

    def test_answered(self) -> None:
        """Of calls that were answered nothing is held until their deadline."""
        gc.collect()
        before = self.held()
        self.daemon.answers["DOMAIN_RESUME"] = {}
        for _ in range(20):
            for _ in range(200):
                self.write()
            self.turn()
        for call in self.waiting:
            self.successResultOf(call)
        self.waiting.clear()
        self.assertEqual(self.held() - before, 0)

    def held(self) -> int:
        return sum(type(it) is Waiter for it in gc.get_objects())


class DescriptorTest(PoolCase):
    """Answers that are descriptors."""

    def open(self) -> Deferred[Any]:
        asked = {"dom": DOM, "idx": 0, "flags": 0}
        opened = Deferred.fromCoroutine(self.target.descriptor("DOMAIN_OPEN_GRAPHICS_FD", asked, deadline=5))
        self.waiting.append(opened)
        self.turn()
        return opened

    def test_passed(self) -> None:
        """The descriptor is the caller's."""
        opened = self.open()
        self.pass_on(os.open("/dev/null", os.O_RDONLY))
        descriptor = self.successResultOf(opened)
        os.fstat(descriptor)
        os.close(descriptor)

    def test_too_late(self) -> None:
        """A descriptor that comes when nobody wants it any more is closed."""
        opened = self.open()
        self.turn(6)
        self.assertTrue(self.failureResultOf(opened, errors.DeadlinePassed).value.maybe_executed)
        descriptor = os.open("/dev/null", os.O_RDONLY)
        self.pass_on(descriptor)
        self.assertRaises(OSError, os.fstat, descriptor)

    def pass_on(self, descriptor: int) -> None:
        """Let the daemon pass *descriptor*."""
        self.daemon.asked[-1].hand_over(descriptor)
