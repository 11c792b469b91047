"""Draining: no new work, time for what runs, and an end to waiting."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gateway.core.drain import Drain
from gateway.core.sessions import Session, SessionTable
from gateway.core.tickets import MemoryRegistry


class DrainTests(SynchronousTestCase):
    """A process with sessions, on its way out."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        registry = MemoryRegistry(self.clock, lambda: 0.0)
        self.addCleanup(registry.stop)
        self.table = SessionTable(self.clock, lambda: 0.0, registry)
        self.begun = 0
        self.ended: list[str] = []
        self.drain = Drain(self.clock, self.table, 60.0, self.begin)

    def begin(self) -> None:
        self.begun += 1

    def session(self) -> Session:
        return self.table.open_free("image", "read", peer=None, target="x", ended=self.ended.append)

    def tick(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds * 10))

    def test_nothing_left(self) -> None:
        """Without sessions it is over at once."""
        self.successResultOf(self.drain.finish())
        self.assertEqual(self.begun, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waits(self) -> None:
        """It waits for the last session, and leaves no timer behind."""
        one, two = self.session(), self.session()
        done = self.drain.finish()
        one.close("done")
        self.tick(30)
        self.assertNoResult(done)
        two.close("done")
        self.tick(1)
        self.successResultOf(done)
        self.assertEqual((self.ended, self.clock.getDelayedCalls()), ([], []))

    def test_timeout(self) -> None:
        """What is left after the timeout is cut, not earlier."""
        self.session()
        done = self.drain.finish()
        self.tick(59.5)
        self.assertEqual(self.ended, [])
        self.tick(1)
        self.assertEqual(self.ended, ["drained"])
        self.successResultOf(done)

    def test_cut(self) -> None:
        """Asked a second time to hurry, it waits no longer."""
        self.session()
        done = self.drain.finish()
        self.tick(1)
        self.drain.cut()
        self.tick(0.1)
        self.successResultOf(done)
        self.assertEqual(self.ended, ["drained"])

    def test_start(self) -> None:
        """Begun once, however often it is asked for; it says how many are alive and cuts none."""
        self.session()
        self.assertEqual((self.drain.start(), self.drain.start()), (1, 1))
        self.assertEqual((self.begun, self.drain.begun, self.ended), (1, True, []))
        self.tick(100)
        self.assertEqual(self.ended, [])

    def test_time_counts_from_the_end(self) -> None:
        """The timeout begins when the process stops, not when it was told to take no more work."""
        session = self.session()
        self.drain.start()
        self.tick(100)
        done = self.drain.finish()
        self.tick(30)
        self.assertNoResult(done)
        session.close("done")
        self.tick(1)
        self.successResultOf(done)

    def test_several_wait(self) -> None:
        """All who wait are told."""
        session = self.session()
        first, second = self.drain.finish(), self.drain.finish()
        session.close("done")
        self.tick(1)
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(self.drain.finish())
        self.assertEqual(self.begun, 1)
